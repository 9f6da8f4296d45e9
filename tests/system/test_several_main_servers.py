"""
A relay with two main servers: relayd under twistd, two of `relayd.hub`, and a real sshd.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater

from relayd.hub import Hub
from relayd.wire.messages import CommandResult, Secret
from tests.support.relays import Relayd
from tests.support.scratch import PATIENCE, ScratchCase, outcome_of


class Main:
    """
    A main server that can be away.

    :ivar results: id and outcome of each result that came, in order.
    """

    def __init__(self, key: str = Relayd.api_key) -> None:
        self.key = key
        self.results: list[tuple[str, str]] = []
        self.port = 0

    async def come(self) -> None:
        self.hub = Hub(reactor, {Relayd.proxy_id: Secret(self.key)}, record=self.record)
        listening: Any = await self.hub.listen(TCP4ServerEndpoint(reactor, self.port, interface="127.0.0.1"))
        self.port = listening.getHost().port

    async def go(self) -> None:
        await self.hub.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def record(self, _proxy_id: str, result: CommandResult) -> None:
        self.results.append(outcome_of(result))


class SeveralTests(ScratchCase):
    async def start(self) -> None:
        await super().start()
        self.first, self.second = Main(), Main()
        for each in (self.first, self.second):
            await each.come()
            self.addCleanup(lambda each=each: Deferred.fromCoroutine(each.go()))

    def make_relay(self, *options: str) -> Relayd:
        relay = Relayd(*options, "--reconnect-delay", "300ms")
        self.addCleanup(relay.remove)
        relay.start()
        return relay

    async def begin(self, main: Main, command_id: str) -> None:
        """A command that goes on until there is a file ``go-ID``, and leaves a sign of each time that it runs."""
        begun: Deferred[None] = Deferred()
        text = f"echo begun; until [ -e {self.scratch}/go-{command_id} ]; do sleep 0.05; done"
        order = self.make_order(command_id, text, extended=True)
        done = main.hub.execute(Relayd.proxy_id, order, on_output=lambda _: begun.called or begun.callback(None))
        done.addErrback(lambda _: None)  # the main server goes away
        await begun.addTimeout(PATIENCE, reactor)

    def finish(self, command_id: str) -> None:
        (self.scratch / f"go-{command_id}").touch()

    async def until(self, main: Main, *wanted: tuple[str, str]) -> None:
        """All these results have come there."""
        deadline = reactor.seconds() + PATIENCE  # type: ignore[attr-defined]
        while not set(wanted) <= set(main.results) and reactor.seconds() < deadline:  # type: ignore[attr-defined]
            await deferLater(reactor, 0.05)  # type: ignore[arg-type]
        self.assertLessEqual(set(wanted), set(main.results))

    async def connected(self, main: Main) -> None:
        await main.hub.when_connected(Relayd.proxy_id).addTimeout(PATIENCE, reactor)

    async def test_the_first_is_away(self) -> None:
        """
        The second takes over. The results of the first wait for it, also over the death of the relay, and nothing runs
        twice.
        """
        relay = self.make_relay(self.first.url, "--server", self.second.url, "--failover-delay", "1s")
        await self.connected(self.first)
        await self.begin(self.first, "a1")
        await self.begin(self.first, "a2")
        await self.first.go()
        await self.connected(self.second)
        self.finish("a1")
        await self.begin(self.second, "b1")
        self.finish("b1")
        await self.until(self.second, ("b1", "0"))
        await self.begin(self.second, "b2")
        await relay.signal(signal.SIGKILL)
        relay.start()
        await self.until(self.second, ("b2", "outcome-unknown"))
        await self.first.come()
        await self.until(self.first, ("a1", "0"), ("a2", "outcome-unknown"))
        await self.connected(self.first)
        await self.begin(self.first, "a3")
        self.finish("a3")
        await self.until(self.first, ("a3", "0"))
        self.assertEqual({name[0] for name, _ in self.first.results}, {"a"})
        self.assertEqual({name[0] for name, _ in self.second.results}, {"b"})
        self.assertEqual([self.runs(each) for each in ("a1", "a2", "a3", "b1", "b2")], [1] * 5)
        self.finish("a2")
        self.finish("b2")

    async def test_results_for_the_second_are_brought_there(self) -> None:
        relay = self.make_relay(self.first.url, "--server", self.second.url, "--failover-delay", "1s")
        await self.connected(self.first)
        await self.first.go()
        await self.connected(self.second)
        await self.begin(self.second, "b1")
        await self.second.go()
        await self.first.come()
        await self.connected(self.first)
        self.finish("b1")
        await self.second.come()
        await self.until(self.second, ("b1", "0"))
        await self.connected(self.first)
        await self.begin(self.first, "a1")
        self.finish("a1")
        await self.until(self.first, ("a1", "0"))
        self.assertEqual(self.first.results, [("a1", "0")])
        self.assertEqual(await relay.stop(), 0)

    async def test_each_has_its_own_key(self) -> None:
        """One that is wrong at the first does not keep the relay from the second."""
        self.first.key = "another-key-" * 5
        await self.first.go()
        await self.first.come()
        own = self.scratch / "own-key"
        own.touch(mode=0o600)
        own.write_text(Relayd.api_key)
        file = Path(self.scratch / "relayd.toml")
        file.write_text(
            "".join(
                f'[[servers]]\nurl = "{main.url}"\napi-key-file = "{key}"\n'
                for main, key in ((self.first, own), (self.second, own))
            )
        )
        relay = Relayd(self.first.url, "--config", str(file), "--failover-delay", "1d")
        at = relay._argv.index("--server")
        del relay._argv[at : at + 2]
        self.addCleanup(relay.remove)
        relay.start()
        await self.connected(self.second)
        await self.begin(self.second, "b1")
        self.finish("b1")
        await self.until(self.second, ("b1", "0"))
