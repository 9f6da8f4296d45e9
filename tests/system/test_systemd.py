"""
packaging/systemd: what systemd itself says of the units, and a relay that runs as they run it, as far as that goes
where systemd does not run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relayd.config.reading import load
from relayd.config.values import duration
from relayd.errors import MISTAKES
from relayd.hub import Hub
from relayd.process.systemd import CLOSING
from relayd.wire.messages import ExecuteCommand, Secret
from tests.support import confined
from tests.support.certificates import Authority
from tests.support.confined import settings_of, system_calls
from tests.support.relays import Relayd, RelayProcess
from tests.support.sshd import OpenSSHServer

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "packaging" / "systemd"
#: Where the units expect it, and where it is here.
INSTALLED, HERE = "/opt/relayd/bin/", f"{Path(sys.executable).parent}/"


class UnitTests(SynchronousTestCase):
    """The texts."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        for source, name in (("relayd.service", "relayd.service"), ("relayd@.service", "relayd@site-1.service")):
            text = (UNITS / source).read_text()
            self.assertIn(INSTALLED, text)
            (self.directory / name).write_text(text.replace(INSTALLED, HERE))
        self.units = sorted(str(path) for path in self.directory.iterdir())

    def analyze(self, *words: str) -> str:
        done = subprocess.run(
            ["systemd-analyze", *words], capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"}
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_the_variables_bring_no_secret(self) -> None:
        """relayd itself would warn of a proxy's password there."""
        example = (ROOT / "packaging" / "debian" / "default").read_text()
        self.assertIn("HTTP_PROXY_PASSWORD_FILE=/run/credentials/relayd.service/", example)
        self.assertNotRegex(example, "//[^/@ ]+:[^/@ ]+@")

    def test_systemd_has_nothing_to_say_against_them(self) -> None:
        for unit in self.units:
            self.assertEqual(self.analyze("verify", "--man=no", unit), "")

    def test_exposure(self) -> None:
        for unit in self.units:
            report = self.analyze("security", "--offline=true", "--threshold=20", "--no-pager", unit)
            exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
            assert exposure is not None, report
            self.assertLess(float(exposure[1]), 2.0)

    def test_the_template_differs_in_names_alone(self) -> None:
        plain, template = (
            (UNITS / name).read_text().split("[Unit]")[1] for name in ("relayd.service", "relayd@.service")
        )
        template = template.replace("SSH hosts (%i)", "SSH hosts").replace("/%i.api-key", "/api-key")
        template = re.sub(r"(/etc/default/relayd|Directory=relayd)-%i\b", r"\1", template)
        self.assertEqual(template.replace("/%i.toml", "/relayd.toml"), plain)

    def test_no_start_again_after_a_mistake(self) -> None:
        for name in ("relayd.service", "relayd@.service"):
            settings = settings_of(UNITS / name)
            self.assertEqual(settings["Restart"], ["on-failure"])
            self.assertEqual(settings["RestartPreventExitStatus"], [str(MISTAKES)])

    def test_a_reload_reads_what_the_start_reads(self) -> None:
        """And sends the signal only after that."""
        for name in ("relayd.service", "relayd@.service"):
            settings = settings_of(UNITS / name)
            options = settings["ExecStart"][0].partition(" relayd ")[2]
            check = f"{INSTALLED}relayctl config --quiet {options}"
            self.assertEqual(settings["ExecReload"], [check, "/bin/kill -HUP $MAINPID"])

    def test_times(self) -> None:
        """A main server that is away is no reason to start again; a drain has the time that it is promised."""
        settings = settings_of(UNITS / "relayd.service")
        self.assertEqual(settings["TimeoutStartSec"], ["infinity"])
        drain = load({}, {}, complete=False).drain_timeout
        self.assertGreaterEqual(duration(1, 3600)(settings["TimeoutStopSec"][0]), drain + CLOSING)


class ConfinedTests(TestCase):
    """The ExecStart line under the unit's filters."""

    timeout = 60
    unit = UNITS / "relayd.service"

    async def test_a_command_runs(self) -> None:
        sshd = OpenSSHServer()
        await sshd.start()
        self.addCleanup(sshd.stop)
        hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)})
        self.addCleanup(lambda: Deferred.fromCoroutine(hub.close()))
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        authority = Authority(directory)
        own = authority.issue("localhost")
        context = DefaultOpenSSLContextFactory(own.key, own.cert)
        port: Any = await hub.listen(SSL4ServerEndpoint(reactor, 0, context, interface="127.0.0.1"))

        (directory / "api-key").write_text(Relayd.api_key)
        config = directory / "relayd.toml"
        server = f"wss://localhost:{port.getHost().port}"
        config.write_text(f'server = "{server}"\nproxy-id = "{Relayd.proxy_id}"\ntls-ca = "{authority.path}"\n')
        [start] = settings_of(self.unit)["ExecStart"]
        command = start.replace(INSTALLED, HERE).replace("/etc/relayd/relayd.toml", str(config))
        self.assertIn(HERE, command)
        relay = RelayProcess([sys.executable, confined.__file__, str(self.unit), *shlex.split(command)])
        self.addCleanup(relay.stop)
        relay.start(CREDENTIALS_DIRECTORY=str(directory), STATE_DIRECTORY=str(directory / "state"))

        await hub.when_connected(Relayd.proxy_id)
        order = ExecuteCommand(
            command_id="c1",
            server_id=1,
            host=sshd.host,
            port=sshd.port,
            username=sshd.user,
            command="echo done",
            password=Secret(sshd.password),
            timeout=30,
        )
        result = await hub.execute(Relayd.proxy_id, order)
        self.assertEqual((result.stdout, result.stderr, result.exit_code), ("done", "", 0))
        status = dict(
            line.split(":\t") for line in Path(f"/proc/{relay.pid}/status").read_text().splitlines() if ":\t" in line
        )
        self.assertEqual((status["Seccomp"], status["NoNewPrivs"]), ("2", "1"))
        log = "\n".join(relay.output)
        self.assertEqual(await relay.signal(signal.SIGTERM), 0, log)
        for sign in ("Traceback", "not permitted", "would not forbid"):
            self.assertNotIn(sign, log)

    def test_what_is_refused(self) -> None:
        """The filter of these tests does filter."""
        script = "import os, socket\nfor act in (lambda: os.chroot('/'), lambda: socket.socket(socket.AF_NETLINK)):\n"
        script += "    try: act()\n    except PermissionError: print('refused')"
        words = [sys.executable, confined.__file__, str(self.unit), sys.executable, "-c", script]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "refused\nrefused\n", done.stderr)

    def test_sets_of_calls(self) -> None:
        calls = system_calls(settings_of(self.unit)["SystemCallFilter"])
        self.assertIn("connect", calls)
        for name in ("mount", "setpriority", "chroot", "ptrace", "reboot"):
            self.assertNotIn(name, calls)
