"""
The status page in a real browser: Chromium without a window, driven by tests/node/browser.js.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from relayd.config.listen_address import listen_address
from relayd.ssh.pool.pool_report import HostCounts
from relayd.status.server import StatusServer
from tests.status.test_server import free_port
from tests.support.node import DIRECTORY
from tests.support.process import PeerFailed
from tests.support.status import FakeRelay

#: Where the page's picture for the documents goes, when somebody wants a new one.
SCREENSHOT = os.environ.get("RELAYD_SCREENSHOT", "")


class BrowserTests(TestCase):
    """Light and dark, wide and narrow, with and without JavaScript, by keyboard alone."""

    timeout = 180

    async def look(self) -> dict[str, Any]:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        node = shutil.which("node")
        if chromium is None or node is None:
            raise PeerFailed("chromium or node is missing; tests/bootstrap.sh installs them")
        relay = FakeRelay()
        relay.running = 3
        relay.stats.accepted = 1893
        relay.stats.finished.update({"ok": 1804, "nonzero": 63})
        relay.stats.refused.update({"forbidden-host": 4})
        relay.stats.sent = relay.stats.confirmed = 1884
        for number, host in enumerate(("web-1", "web-2", "db-1")):
            relay.begin(f"deploy-{4211 + number}", host=f"{host}.internal", running=number < 2)
            relay.clock.advance(1.7 * number)
        relay.host_counts = [
            HostCounts("web-1.internal:22", 2, 0, 9, 4, 10),
            HostCounts("web-2.internal:22", 1, 1, 2, 0, 2),
            HostCounts("db-1.internal:22 via gate.internal:22", 1, 0, 1, 0, 10),
        ]
        relay.end("<script>window.executed = true</script>", "timeout", exit_code=1, duration=30.0)
        for number, outcome in enumerate(("ok", "nonzero", "ok", "login-refused", "ok", "ok", "ok")):
            exit_code = 0 if outcome == "ok" else 1
            host = f"web-{1 + number % 2}.internal"
            relay.end(f"deploy-{4204 + number}", outcome, exit_code=exit_code, duration=0.04 * (number + 1), host=host)
            relay.clock.advance(0.4)
        port = free_port()
        server = StatusServer(reactor, listen_address(f"tcp:127.0.0.1:{port}"), relay.sources)
        server.startService()
        self.addCleanup(server.stopService)
        clock = LoopingCall(relay.clock.advance, 0.5)
        clock.start(0.5)
        self.addCleanup(clock.stop)
        script = [str(DIRECTORY / "browser.js"), chromium, f"http://127.0.0.1:{port}/status.html"]
        asking: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(
            node, [*script, SCREENSHOT] if SCREENSHOT else script, env=dict(os.environ)
        )
        output, errors, code = await asking
        self.assertEqual(code, 0, errors.decode())
        seen: dict[str, Any] = json.loads(output)
        return seen

    async def test_page(self) -> None:
        seen = await self.look()
        keyboard, plain = seen["keyboard"], seen["plain"]
        for each in seen.values():
            self.assertEqual(each["errors"], [])  # of scripts, and of the Content-Security-Policy
        self.assertEqual(
            [stop["name"] for stop in keyboard["stops"]],
            ["#main", "#overview", "#hosts", "#active", "#recent", "/status.json", "/metrics", "/status.html", "live",
             "hosts-table", "active-table", "recent-table"],
        )  # fmt: skip
        self.assertEqual([stop["name"] for stop in keyboard["stops"] if not stop["seen"]], [])
        self.assertEqual((keyboard["section"], keyboard["kept"], keyboard["live"]), ("#recent", "recent-table", True))
        self.assertEqual(len(keyboard["captions"]), 3)
        self.assertFalse(keyboard["executed"])
        self.assertNotEqual(seen["dark"]["back"], keyboard["back"])
        self.assertLessEqual(seen["narrow"]["overflow"], 0)
        self.assertEqual((plain["live"], plain["again"], plain["rows"]), (False, True, 3))
        self.assertEqual(plain["state"].strip(), "Ready: the relay accepts and runs commands.")
