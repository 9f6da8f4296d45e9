"""
A hub as it runs: ``relayctl hub init``, ``twistd relayd-hub``, a relay under twistd, a real sshd, and ``relayctl`` for
people.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from relayd.errors import MISTAKES
from tests.support.relays import Relayd, RelayProcess
from tests.support.sshd import OpenSSHServer, free_port

BIN = Path(sys.executable).parent
PASSWORD = "Corner-Lamp-Yesterday-41"


class HubProcess(RelayProcess):
    """``twistd -n relayd-hub``."""

    def __init__(self, *options: str) -> None:
        super().__init__([str(BIN / "twistd"), "-n", "--pidfile=", "relayd-hub", *options])

    @property
    def log(self) -> str:
        """All that it logged so far."""
        return "\n".join(self.output)


class KeyedRelay(Relayd):
    """A relay with a key of its own."""

    def __init__(self, server: str, key: str, *options: str) -> None:
        self.api_key = key
        super().__init__(server, *options)


class HubTests(TestCase):
    """From an empty folder to a run, and what an operator does meanwhile."""

    timeout = 240

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-hub-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.options = ("--state-dir", str(self.folder / "state"), "--listen", f"tcp:127.0.0.1:{self.port}")
        self.write("password", PASSWORD)

    def write(self, name: str, text: str) -> str:
        """The path of a new file, for this user alone."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return str(path)

    async def ctl(self, *words: str, status: int | None = 0) -> str:
        """What ``relayctl`` prints; *status* is the expected exit status, if one is."""
        environ = os.environ | {"XDG_CONFIG_HOME": str(self.folder / "config")}
        out, err, code = await getProcessOutputAndValue(
            str(BIN / "relayctl"), [word.encode() for word in words], env=environ, path=str(self.folder)
        )
        if status is not None:
            self.assertEqual(code, status, (out + err).decode())
        return str((out + err).decode())

    async def log_in(self) -> None:
        """With the administrator's password, on standard input."""
        script = f"exec {BIN / 'relayctl'} login {self.url} --user root < password"
        environ = os.environ | {"XDG_CONFIG_HOME": str(self.folder / "config")}
        out, err, code = await getProcessOutputAndValue(
            "/bin/sh", [b"-c", script.encode()], env=environ, path=str(self.folder)
        )
        self.assertEqual(code, 0, out + err)

    async def until(self, what: str, process: Any) -> None:
        """Wait until a process has logged something."""
        for _ in range(600):
            if what in process.log:
                return
            await deferLater(reactor, 0.1)  # type: ignore[arg-type]
        self.fail(process.log)

    async def start(self) -> HubProcess:
        """A hub that listens."""
        hub = HubProcess(*self.options)
        self.addCleanup(hub.stop)
        hub.start()
        await self.until("listens at", hub)
        return hub

    async def test_from_nothing_to_a_run(self) -> None:
        self.assertIn("is its administrator", await self.ctl(
            "hub", "init", *self.options[:2], "--admin", "root", "--password-file", "password"
        ))  # fmt: skip
        sshd = OpenSSHServer()
        self.addCleanup(sshd.stop)
        await sshd.start()
        hub = await self.start()
        await self.log_in()
        await self.ctl("hub", "relay", "add", "proxy-1", "--no-token")
        key = (await self.ctl("hub", "relay", "rotate", "proxy-1")).strip()
        (login := self.folder / "login").write_text(sshd.key)
        login.chmod(0o600)
        relay_toml = self.write("relayd.toml", f'[[credentials]]\nhosts = ["127.0.0.1"]\nkey-file = "{login}"\n')
        relay = KeyedRelay(f"ws://127.0.0.1:{self.port}", key, "--config", relay_toml)
        self.addCleanup(relay.remove)
        relay.start()
        await self.until("is relayd", hub)
        row = f"web-1,127.0.0.1,{sshd.port},{sshd.user},proxy-1,env=prod"
        self.write("hosts.csv", f"name,address,port,user,relays,labels\n{row}\n")
        self.assertIn("add web-1", await self.ctl("inventory", "import", "hosts.csv", "--dry-run"))
        self.assertIn("done", await self.ctl("inventory", "import", "hosts.csv"))
        self.assertIn("online", await self.ctl("relays"))
        ran = await self.ctl("run", "-l", "env=prod", "--max", "50%", "--", "echo", "it ran; echo oh >&2")
        self.assertIn("web-1: it ran\n", ran)
        self.assertIn("web-1: oh\n", ran)
        self.assertIn(": 1 succeeded, in", ran)
        failed = await self.ctl("run", "--host", "web-1", "--", "exit 3", status=1)
        self.assertIn("web-1: failed: exit status 3", failed)
        self.assertIn("exit 3", await self.ctl("runs"))
        run = json.loads((await self.ctl("runs", "--json", "--last", "1")).splitlines()[0])
        self.assertIn("web-1", await self.ctl("show", run["id"]))
        await self.ctl("hub", "backup", *self.options[:2], "copy.sqlite3")
        self.assertEqual((self.folder / "copy.sqlite3").stat().st_mode & 0o077, 0)
        self.assertIn("a hub runs with", await self.ctl("hub", "check", *self.options))
        self.assertEqual(await hub.signal(signal.SIGTERM), 0)
        self.assertIn("relayd-hub has stopped", hub.log)
        self.assertNotIn("Traceback", hub.log)
        self.assertNotIn(key, hub.log)

    async def test_reload_and_a_second_process(self) -> None:
        self.options += ("--config", self.write("hub.toml", 'keep-runs = "100d"\n'))
        hub = await self.start()
        second = HubProcess(*self.options)
        self.addCleanup(second.stop)
        second.start()
        self.assertEqual(await second.ended(), 1)
        self.assertIn("relayd-hub: --state-dir: ", second.log)
        self.assertIn("is in use by another relayd-hub", second.log)
        self.assertNotIn("Traceback", second.log)
        self.write("hub.toml", 'keep-runs = "50d"\nlog-level = "debug"\n')
        os.kill(hub.pid, signal.SIGHUP)
        await self.until("SIGHUP: settings read again; changed keep-runs (100d -> 50d)", hub)
        await self.until("SIGHUP: these take effect after a restart: log-level (info -> debug)", hub)
        self.write("hub.toml", 'keep-runs = "soon"\n')
        os.kill(hub.pid, signal.SIGHUP)
        await self.until("SIGHUP: nothing was changed, because of keep-runs in", hub)
        self.assertEqual(await hub.signal(signal.SIGTERM), 0)

    async def test_mistakes(self) -> None:
        for words in (["twistd", "-n", "relayd-hub"], ["twist", "relayd-hub"], ["relayd-hub"]):
            out, err, code = await getProcessOutputAndValue(
                str(BIN / words[0]), [*words[1:], "--listen", "tcp:0.0.0.0:1"], env=os.environ, path=str(self.folder)
            )
            self.assertEqual((code, out), (MISTAKES, b""), err)
            self.assertTrue(err.startswith(b"relayd-hub: --listen: tcp:0.0.0.0:1 is reached from other machines"), err)

    async def test_without_its_libraries(self) -> None:
        code = "import sys; sys.modules['sqlalchemy'] = None; from relayd.hub_tap import *; o = Options(); "
        code += "o.parseOptions(sys.argv[1:]); makeService(o)"
        out, err, status = await getProcessOutputAndValue(
            sys.executable, ["-c", code, *self.options], env=os.environ, path=str(self.folder)
        )
        self.assertEqual((status, out), (MISTAKES, b""), err)
        self.assertEqual(err.count(b"\n"), 1)
        self.assertIn(b"pip install relayd[hub]", err)

    def tearDown(self) -> Deferred[None]:
        """Let processes that were told to end do so."""
        return deferLater(reactor, 0)  # type: ignore[arg-type]
