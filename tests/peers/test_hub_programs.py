"""
Programs at the other end of a hub's links: relayd, and the specification's example.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from relayd.hub import HubSettings
from relayd.hub.errors import NoPolicyCheck
from relayd.hub.links.identity import RelayIdentity
from relayd.hub.links.links import Links
from tests.hub.links.test_links import Observer
from tests.hub.test_server import command
from tests.support.relays import ROOT, Relayd, RelayProcess, example_command

#: Seconds for a start, or for coming back.
PATIENCE = 120.0


class Watching(Observer):
    """Remembers each connected link, as it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.connected: list[Any] = []

    def relay_connected(self, link: Any) -> None:
        self.connected.append(link)
        super().relay_connected(link)


def example_over_websocket(folder: Path) -> Path:
    """The specification's example, with the one change that it begins with a WebSocket: a hub has no long polling."""
    text = (ROOT / "benchmarks" / "peers" / "example_relay.js").read_text()
    packages = "'../../tests/node/package.json'"
    for old, new in (
        (packages, repr(str(ROOT / "tests" / "node" / "package.json"))),
        ("{ query:", "{ transports: ['websocket'], query:"),
    ):
        assert old in text
        text = text.replace(old, new)
    script = folder / "example.js"
    script.write_text(text)
    return script


class HubProgramsTests(TestCase):
    timeout = 300.0

    async def start_links(self, port: int = 0) -> tuple[Links, Watching, int]:
        watching = Watching()

        def accept(proxy_id: str, api_key: str, address: str) -> Deferred[RelayIdentity | None]:
            return succeed(RelayIdentity(proxy_id))

        links = Links(reactor, accept, watching, HubSettings(answer_timeout=3.0))  # type: ignore[arg-type]
        self.addCleanup(lambda: Deferred.fromCoroutine(links.close()))
        listening: Any = await links.listen(TCP4ServerEndpoint(reactor, port, interface="127.0.0.1"))
        return links, watching, listening.getHost().port

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        end = reactor.seconds() + PATIENCE  # type: ignore[attr-defined]
        while not condition():
            said = [(each.output, each.log if isinstance(each, Relayd) else "") for each in self.relays]
            self.assertLess(reactor.seconds(), end, f"{what}: {said}")  # type: ignore[attr-defined]
            await deferLater(reactor, 0.05)

    async def test_what_they_are_and_that_they_come_back(self) -> None:
        """After a restart, of which the hub tells both with 1012; relayd has the same journal then."""
        links, watching, port = await self.start_links()
        url = f"http://127.0.0.1:{port}"
        folder = Path(tempfile.mkdtemp(prefix="relayd-programs-"))
        self.addCleanup(shutil.rmtree, folder)
        self.relays: list[RelayProcess] = []
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_text("k" * 40)
        relay = Relayd(url, "--deny-commands", "reboot", "--reconnect-delay", "1s")
        node, _, *arguments = example_command(url, "example", key)
        example = RelayProcess([node, str(example_over_websocket(folder)), *arguments])
        for process in (relay, example):
            self.addCleanup(process.remove if isinstance(process, Relayd) else process.stop)
            process.start()
            self.relays.append(process)
        await self.until(lambda: len(watching.connected) == 2, "they connect")
        by_name = {link.proxy_id: link for link in watching.connected}
        known, other = by_name[Relayd.proxy_id], by_name["example"]
        self.assertTrue(known.joins_duplicates)
        self.assertRegex(known.journal_id, "^[0-9a-f]{32}$")
        self.assertEqual((other.joins_duplicates, other.program.info, other.program.has("cwd")), (False, None, False))
        self.assertIn("check_command", other.program.lacks)
        allowed = [(await links.check(Relayd.proxy_id, command("q", command=text))).code for text in ("true", "reboot")]
        self.assertEqual(allowed, [None, "forbidden-command"])
        await self.assertFailure(links.check("example", command("q")), NoPolicyCheck)
        await links.close()
        again, watching, _ = await self.start_links(port)
        await self.until(lambda: len(watching.connected) == 2, f"they come back to {again}")
        back = {link.proxy_id: link.journal_id for link in watching.connected}
        self.assertEqual(back, {Relayd.proxy_id: known.journal_id, "example": ""})
        await relay.stop()
        watching.connected.clear()
        relay.start()
        await self.until(lambda: bool(watching.connected), "the relay starts anew")
        self.assertEqual(watching.connected[0].journal_id, known.journal_id, "with the same state directory")
