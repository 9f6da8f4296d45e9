"""
What docs/howto/backup.rst says of an old journal that is put back, and of a clone: relayd under twistd, a real sshd.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater

from relayd.hub import Hub
from relayd.hub.errors import CommandRefused
from relayd.wire.messages import CommandResult, Secret
from tests.support.relays import Relayd
from tests.support.scratch import PATIENCE, ScratchCase, outcome_of


class RestoredTests(ScratchCase):
    """One relay that runs one command at a time, and copies of its state."""

    async def start(self) -> None:
        await super().start()
        self.results: list[tuple[str, str]] = []
        self.hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)}, record=self.record)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.hub.close()))
        port: Any = await self.hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        self.url = f"http://127.0.0.1:{port.getHost().port}"
        self.relay = self.make_relay()
        self.relay.start()
        await self.hub.when_connected(Relayd.proxy_id)

    def make_relay(self) -> Relayd:
        relay = Relayd(self.url, "--reconnect-delay", "300ms", "--max-commands", "1")
        self.addCleanup(relay.remove)
        return relay

    def record(self, _proxy_id: str, result: CommandResult) -> None:
        self.results.append(outcome_of(result))

    def order(self, command_id: str, text: str = "true", **more: Any) -> Deferred[CommandResult]:
        return self.hub.execute(Relayd.proxy_id, self.make_order(command_id, text, extended=True), **more)

    async def begin(self, command_id: str) -> Deferred[CommandResult]:
        """A command that goes on until there is a file ``go``."""
        begun: Deferred[None] = Deferred()
        wait = f"echo begun; until [ -e {self.scratch / 'go'} ]; do sleep 0.05; done"
        done = self.order(command_id, wait, on_output=lambda _: begun.called or begun.callback(None))
        await begun
        return done

    async def accepted(self, command_id: str) -> Deferred[CommandResult]:
        """A command that waits in the queue."""
        accepted: Deferred[None] = Deferred()
        done = self.order(command_id, on_accepted=lambda: accepted.callback(None))
        await accepted
        return done

    async def until(self, wanted: set[tuple[str, str]]) -> None:
        """All these results have come."""
        until = reactor.seconds() + PATIENCE
        while not wanted <= set(self.results):
            self.assertLess(reactor.seconds(), until, self.results)
            await deferLater(reactor, 0.05)

    async def test_an_old_journal(self) -> None:
        await self.order("confirmed")
        running = await self.begin("running")
        queued = await self.accepted("queued")
        copy = Path(tempfile.mkdtemp(prefix="relayd-copy-")) / "journal"
        self.addCleanup(shutil.rmtree, copy.parent)
        shutil.copytree(self.relay.directory / "journal", copy)
        (self.scratch / "go").touch()
        await running
        await queued
        await self.order("later")
        await self.relay.signal(signal.SIGTERM)
        self.assertEqual({code for _, code in self.results}, {"0"})
        self.results.clear()
        shutil.rmtree(self.relay.directory / "journal")
        shutil.copytree(copy, self.relay.directory / "journal")
        self.relay.start()
        await self.hub.when_connected(Relayd.proxy_id)
        await self.until({("running", "outcome-unknown"), ("queued", "not-executed")})
        await self.order("later")
        await self.assertFailure(self.order("confirmed"), CommandRefused)
        runs = {name: self.runs(name) for name in ("confirmed", "running", "queued", "later")}
        self.assertEqual(runs, {"confirmed": 1, "running": 1, "queued": 1, "later": 2})
        await self.until({("confirmed", "already-confirmed")})
        await self.check_no_journal()

    async def check_no_journal(self) -> None:
        """Nothing of an earlier time is said, and what comes again runs again."""
        self.results.clear()
        await self.order("a")
        await self.relay.signal(signal.SIGTERM)
        (self.relay.directory / "journal").rename(self.relay.directory / "journal.old")
        (self.relay.directory / "fingerprint-key").unlink()
        self.relay.start()
        await self.hub.when_connected(Relayd.proxy_id)
        await self.order("a")
        self.assertEqual((self.runs("a"), self.results), (2, [("a", "0")] * 2))

    async def test_a_clone(self) -> None:
        """It says of a command that runs in the original that its outcome is not known; both logs say what is wrong."""
        running = await self.begin("running")
        clone = self.make_relay()
        shutil.rmtree(clone.directory)
        shutil.copytree(self.relay.directory, clone.directory)
        clone.start()
        await running
        self.assertEqual(self.results, [("running", "outcome-unknown")])
        until = reactor.seconds() + PATIENCE
        while not all("another relay may use the same name" in relay.log for relay in (self.relay, clone)):
            self.assertLess(reactor.seconds(), until, clone.log)
            await deferLater(reactor, 0.1)
        (self.scratch / "go").touch()
        await self.until({("running", "0")})
