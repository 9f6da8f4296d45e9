"""
What a start imports, and what it costs: modules that only some settings, subcommands or failures need are imported by
those alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[2]
#: The deadline of any process here, in seconds.
PATIENCE = 60

_MAKE_SERVICE = (
    "from relayd.tap import Options, makeService; o = Options(); o.parseOptions(sys.argv[1:]); makeService(o)"
)
#: What a relay stands on: Twisted with twistd, a reactor with TLS, and Conch.
_EMPTY = "import twisted.scripts.twistd, twisted.internet.reactor, twisted.internet.ssl, twisted.conch.ssh.transport"
_RELAYCTL = "from relayd.ctl.main import main; main()"
_SHOW = """
print()
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024)
print(*sys.modules)
"""


class StartTests(SynchronousTestCase):
    """Each in a process of its own."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        key = self.directory / "key"
        key.touch(mode=0o600)
        key.write_text("k" * 40 + "\n")
        self.file = self.directory / "relayd.toml"
        self.settings = {
            "server": "ws://127.0.0.1:9",
            "proxy-id": "p",
            "api-key-file": key,
            "state-dir": self.directory,
        }
        self.file.write_text("".join(f'{name} = "{value}"\n' for name, value in self.settings.items()))

    def run_it(self, code: str, *arguments: str) -> tuple[set[str], int]:
        """Every module that is there after *code*, and the kilobytes of memory that it takes then."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        done = subprocess.run(
            [sys.executable, "-c", f"import os, sys\ntry:\n    {code}\nexcept SystemExit: pass\n{_SHOW}", *arguments],
            env={**environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        *_, size, modules = done.stdout.splitlines()
        return set(modules.split()), int(size)

    def start(self, *options: str) -> tuple[set[str], int]:
        """A relay that does not run yet."""
        usual = [f"--{name}={value}" for name, value in self.settings.items()]
        return self.run_it(_MAKE_SERVICE, *usual, *options)

    def relayctl(self, *words: str) -> set[str]:
        """A subcommand, with the settings of a file."""
        return self.run_it(_RELAYCTL, *words)[0]

    def assert_without(self, modules: set[str], *others: str) -> None:
        """None of *others* is there."""
        self.assertEqual(modules & set(others), set())

    def test_a_relay(self) -> None:
        modules, size = self.start()
        self.assertIn("relayd.journal.durable", modules)
        unused = ("relayd.audit", "relayd.ctl", "relayd.demo", "relayd.hub", "relayd.status", "relayd.ssh.testing")
        self.assert_without(modules, *unused, "prometheus_client", "re2", "tomllib", "twisted.web.http")
        # what autobahn brings with it, and a WebSocket client does not use
        self.assert_without(modules, "autobahn.wamp", "autobahn.twisted.wamp", "autobahn.nvx")
        self.assert_without(modules, "cbor2", "cffi", "click", "hyperlink", "pqcrypto", "pycparser")
        # Resident: a process without relayd takes 47 MB, the libraries that only relayd uses 4 MB, its own code 6 MB.
        self.assertLess(size - self.run_it(_EMPTY)[1], 14 * 1024)

    def test_a_relay_with_other_settings(self) -> None:
        """They import what the one above does not, and do without what they switch off."""
        options = (f"--config={self.file}", "--status=tcp:127.0.0.1:9", f"--audit-log={self.directory}/a")
        modules, _ = self.start(*options, "--deny-commands=x", "--journal=memory")
        self.assertLessEqual({"prometheus_client", "re2", "tomllib", "twisted.web.http", "relayd.audit.log"}, modules)
        self.assert_without(modules, "relayd.journal.durable", "sqlite3")

    def test_the_rest_of_autobahn_can_be_imported(self) -> None:
        """What stands in for it while a relay is imported is gone then; for the demonstration and for plugins."""
        modules, _ = self.run_it(
            "import relayd.uplink.websocket, autobahn.twisted.websocket as theirs, hyperlink;"
            " from autobahn.twisted.wamp import ApplicationSession; from autobahn.wamp.message import Hello;"
            " from autobahn.websocket.protocol import hyperlink as later; assert later.URL is hyperlink.URL;"
            " assert theirs.WampWebSocketClientProtocol.isOpen; assert 'AUTOBAHN_USE_NVX' not in os.environ"
        )
        self.assertLessEqual({"autobahn.wamp", "autobahn.twisted.wamp", "cbor2", "hyperlink"}, modules)

    def test_another_autobahn(self) -> None:
        """One that needs the rest for its WebSocket client is imported as a whole."""
        modules, _ = self.run_it(
            "import importlib.util as util; real = util.find_spec;"
            " util.find_spec = lambda name, *more: None if name == 'autobahn.wamp' else real(name, *more);"
            " from relayd.uplink.websocket import WebSocketClient; util.find_spec = real"
        )
        self.assertLessEqual({"autobahn.wamp.message", "autobahn.twisted.wamp"}, modules)

    def test_the_version(self) -> None:
        modules, _ = self.run_it("from relayd.tap import Options; Options().parseOptions(sys.argv[1:])", "--version")
        self.assert_without(modules, "cryptography", "relayd.service", "tomllib", "re2", "twisted.internet.base")

    def test_relayctl(self) -> None:
        self.assert_without(self.relayctl("--help"), "msgspec", "relayd.config.options", "relayd.ctl.status")
        file = f"--config={self.file}"
        for words in (
            ("config", file),
            ("policy", file, "--host=10.1.2.3"),
            ("journal", file),
            ("audit", "verify", file),
            ("status", file, "--status=tcp:127.0.0.1:9"),
        ):
            modules = self.relayctl(*words)
            others = {f"relayd.ctl.{name}" for name in ("audit", "check", "config", "journal", "policy", "status")}
            self.assertIn(f"relayd.ctl.{words[0]}", modules)
            self.assert_without(modules, "twisted", "cryptography", *others - {f"relayd.ctl.{words[0]}"})
