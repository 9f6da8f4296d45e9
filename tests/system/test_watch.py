"""
``relayctl status --watch`` in a real terminal, which shows afterwards what it showed before, however that ends.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relayd.config.listen_address import listen_address
from relayd.status.server import StatusServer
from relayd.uplink.service import UplinkStatus
from tests.support.status import FakeRelay
from tests.support.tmux import USUAL, Terminal

#: With the alternate screen, without a cursor, and long lines are cut.
WATCHING = "1 0 0"


class WatchTests(TestCase):
    """The relay is not real; its status server and the terminal are."""

    timeout = 60

    async def begin(self, width: int = 80, height: int = 24, **environ: str) -> None:
        self.relay = FakeRelay()
        for number in range(30):
            self.relay.begin(f"c-{number}")
            self.relay.end(f"c-{number}", "ok" if number % 2 else "timeout")
        self.terminal = Terminal(reactor)
        await self.terminal.start(
            width, height, {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environ}
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(self.terminal.close()))
        self.endpoint = f"unix:{self.terminal.directory}/status"
        server = StatusServer(reactor, listen_address(self.endpoint), self.relay.sources)
        server.startService()
        self.addCleanup(lambda: server.stopService() if server.running else None)
        self.server = server

    async def watch(self, seconds: str = "0.2") -> str:
        """Start watching, below a line that was there before; gives the screen."""
        await self.terminal.type("clear; echo stays")
        await self.terminal.when(lambda shown: shown.startswith("stays\n$"))
        self.before = await self.terminal.history()
        await self.terminal.type(f"relayctl status --url {self.endpoint} --watch {seconds}; echo status $?")
        return await self.terminal.when(lambda shown: shown.startswith("site-1  ready"))

    async def over(self, code: int) -> str:
        """It has ended so, and the terminal is as it was; gives the screen."""
        shown = await self.terminal.when(lambda shown: f"status {code}" in shown)
        self.assertEqual(await self.terminal.modes(), USUAL)
        self.assertTrue(shown.startswith("stays\n$ relayctl status"), shown)
        self.assertNotIn("site-1", shown)
        self.assertEqual(await self.terminal.history(), self.before, "nothing has left the screen")
        return shown

    async def test_ctrl_c(self) -> None:
        await self.begin()
        shown = (await self.watch()).splitlines()
        self.assertEqual(await self.terminal.modes(), WATCHING)
        self.assertEqual(len(shown), 24)
        self.assertTrue(shown[-1].startswith("… and "), "the tables end where the terminal ends")
        self.relay.status = UplinkStatus(last_error="the door is shut")
        await self.terminal.when(lambda shown: "the door is shut" in shown)
        self.relay.active = {}
        self.relay.stats.recent.clear()
        self.relay.clock.advance(1)
        await self.terminal.when(lambda shown: "c-1" not in shown and shown.count("\n") < 10)
        await self.terminal.press("C-c")
        await self.over(1)

    async def test_another_size(self) -> None:
        """It is there at once, long before the next look."""
        await self.begin()
        await self.watch("600")
        await self.terminal.tmux("resize-window", "-x", "60", "-y", "12")
        small = await self.terminal.when(lambda shown: shown.startswith("site-1  ready") and shown.count("\n") == 11)
        shown = small.splitlines()
        self.assertTrue(shown[-1].startswith("… and "), shown)
        self.assertLessEqual(max(map(len, shown)), 60)
        await self.terminal.press("C-c")
        await self.over(0)

    async def test_sigterm(self) -> None:
        await self.begin()
        await self.watch()
        os.kill(await self.terminal.child(), signal.SIGTERM)
        await self.over(128 + signal.SIGTERM)

    async def test_ctrl_z(self) -> None:
        """The shell has the terminal meanwhile."""
        await self.begin()
        await self.watch()
        await self.terminal.press("C-z")
        await self.terminal.when(lambda shown: "Stopped" in shown)
        self.assertEqual(await self.terminal.modes(), USUAL)
        await self.terminal.type("fg")
        await self.terminal.when(lambda shown: shown.startswith("site-1  ready"))
        self.assertEqual(await self.terminal.modes(), WATCHING)
        await self.terminal.press("C-c")
        await self.terminal.when(lambda shown: "stays" in shown)
        self.assertEqual(await self.terminal.modes(), USUAL)

    async def test_an_exception(self) -> None:
        """What Python says of it can be read."""
        await self.begin()
        script = "from relayd.ctl.screen import *\nwith alternate_screen(1, 'utf-8') as it: it.show(['x']); 1 / 0"
        await self.terminal.type(f'clear; echo stays; python -c "{script}"; echo status $?')
        shown = await self.terminal.when(lambda shown: "status 1" in shown.splitlines())
        self.assertIn("ZeroDivisionError: division by zero\n", shown)
        self.assertEqual(await self.terminal.modes(), USUAL)

    async def test_a_relay_that_is_gone(self) -> None:
        """It is waited for, and all that is wrong can be read."""
        await self.begin(40)
        await self.watch()
        await self.server.stopService()
        shown = await self.terminal.when(lambda shown: shown.startswith("relayctl: The relay's status cannot be"))
        self.assertTrue("".join(shown.split()).endswith("Nosuchfileordirectory"), shown)
        self.server.startService()
        await self.terminal.when(lambda shown: shown.startswith("site-1  ready"))
        await self.terminal.press("C-c")
        await self.over(0)

    async def test_colours(self) -> None:
        await self.begin()
        await self.watch()
        await self.terminal.when(lambda shown: "\x1b[31mtimeout" in shown and "\x1b[32mok" in shown, "-e")
        await self.terminal.press("C-c")
        await self.over(0)
        await self.terminal.type(f"clear; relayctl status --url {self.endpoint}")
        await self.terminal.when(lambda shown: "\x1b[31mtimeout" in shown, "-e")

    async def test_no_colours(self) -> None:
        """no-color.org."""
        await self.begin(NO_COLOR="1")
        await self.watch()
        self.assertNotIn("\x1b", await self.terminal.screen("-e"))

    async def test_a_terminal_that_knows_only_lines(self) -> None:
        await self.begin(100, 60)
        await self.terminal.type(f"clear; TERM=dumb relayctl status --url {self.endpoint}")
        await self.terminal.when(lambda shown: "site-1  ready" in shown and shown.endswith("$"))
        self.assertNotIn("\x1b[31m", await self.terminal.screen("-e"))
