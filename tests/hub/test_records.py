"""
A main server that keeps results: each is recorded before its receipt, and what cannot be recorded is not confirmed.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from relayd.hub import Hub
from relayd.hub.errors import CommandRefused
from relayd.hub.links import protocol
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import EventReceived
from relayd.wire.messages import CommandResult, Secret
from tests.hub.test_server import DIALECTS, KEY, HubTestCase, command, result

RECEIPT = {"success": True, "commandId": "c1"}


class RecordTests(HubTestCase):
    """What ``record`` of `Hub` does."""

    def make_hub(self) -> Hub:
        self.recorded: list[tuple[str, CommandResult]] = []
        self.outcomes: list[Deferred[None] | Exception | None] = []
        return Hub(reactor, {"r1": Secret(KEY)}, self.settings, self.record)

    def record(self, proxy_id: str, result: CommandResult) -> Deferred[None] | None:
        self.recorded.append((proxy_id, result))
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def being_recorded(self, client: Any) -> tuple[Deferred[Any], Deferred[None]]:
        """A command whose result is being recorded: its result, and what ends the recording."""
        done = self.hub.execute("r1", command())
        await client.next(EventReceived)
        written: Deferred[None] = Deferred()
        self.outcomes = [written]
        client.send_result(result())
        await self.until(lambda: bool(self.recorded))
        return done, written

    async def test_recorded_before_the_receipt(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            done, written = await self.being_recorded(client)
            await deferLater(reactor, 0.05)
            self.assertFalse(done.called)
            self.assertEqual(client.events.pending, [])
            written.callback(None)
            self.assertEqual((await client.next(EventReceived)).data, RECEIPT)
            self.assertEqual((await done, self.recorded), (result(), [("r1", result())]))
            self.recorded.clear()
            await self.leave(client)

    async def test_a_result_that_comes_again_or_that_nobody_waits_for(self) -> None:
        """Is recorded, too: whether it is there already, only the record knows."""
        client = await self.relay()
        for _ in range(2):
            client.send_result(result())
            self.assertEqual((await client.next(EventReceived)).data, RECEIPT)
        self.assertEqual(self.recorded, [("r1", result())] * 2)

    async def test_a_record_that_fails(self) -> None:
        """The relay gets no success, keeps the result, and sends it again."""
        client = await self.relay()
        done = self.hub.execute("r1", command())
        await client.next(EventReceived)
        later: Deferred[None] = Deferred()
        self.outcomes = [OSError("disk full: hunter2"), later]
        for _ in range(2):
            client.send_result(result())
            if len(self.recorded) == 1:
                await self.until(lambda: len(self.recorded) == 2)
                later.errback(OSError("disk full: hunter2"))
            receipt = (await client.next(EventReceived)).data
            self.assertEqual((receipt["success"], receipt["commandId"]), (False, "c1"))
            self.assertNotIn("hunter2", receipt["error"])
            self.assertFalse(done.called)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)
        client.send_result(result())
        self.assertEqual((await client.next(EventReceived)).data, RECEIPT)
        self.assertEqual(await done, result())

    async def test_a_connection_that_ends_meanwhile(self) -> None:
        client = await self.relay()
        done, written = await self.being_recorded(client)
        await self.leave(client)
        written.callback(None)
        self.assertEqual(await done, result())

    async def test_more_than_can_be_recorded(self) -> None:
        """What waits is bounded, however much a relay sends; all of it is recorded in the end."""
        self.patch(protocol, "MAX_RECORDING", 1_000_000)
        client = await self.relay()
        (link,) = self.hub.relays.values()
        waiting: list[Deferred[None]] = [Deferred() for _ in range(60)]
        self.outcomes = [*waiting]
        for number in range(60):
            client.send_result(result(f"c{number}", "x" * 100_000))
        await self.until(lambda: link.deaf)
        await deferLater(reactor, 0.1)
        self.assertLess(len(self.recorded), 20)
        for each in waiting:
            each.callback(None)
            await deferLater(reactor, 0)
        await self.until(lambda: len(self.recorded) == 60)
        self.assertFalse(link.deaf)
        for number in range(60):
            self.assertEqual((await client.next(EventReceived)).data, {"success": True, "commandId": f"c{number}"})

    async def test_a_connection_that_ends_while_nothing_is_read(self) -> None:
        self.patch(protocol, "MAX_RECORDING", 1)
        client = await self.relay()
        (link,) = self.hub.relays.values()
        written: Deferred[None] = Deferred()
        self.outcomes = [written]
        client.send_result(result())
        await self.until(lambda: link.deaf)
        link.drop("as a test wants it")
        await client.closed
        written.callback(None)
        self.assertFalse(link.deaf)
        self.assertEqual(self.recorded, [("r1", result())])

    async def test_accepted(self) -> None:
        """Only an acknowledgement without an error says that the relay has accepted a command."""
        client = await self.relay()
        accepted: list[str] = []
        done = self.hub.execute("r1", command("c1"), on_accepted=lambda: accepted.append("c1"))
        refused = self.hub.execute("r1", command("c2"), on_accepted=lambda: accepted.append("c2"))
        first, second = await client.next(EventReceived), await client.next(EventReceived)
        client.dialect.acknowledge(second.ack_id, {"error": "no"})
        client.dialect.acknowledge(first.ack_id, None)
        client.send_result(result("c1"))
        await self.assertFailure(refused, CommandRefused)
        self.assertEqual((await done, accepted), (result("c1"), ["c1"]))

    async def test_accepted_by_a_function_that_fails(self) -> None:
        client = await self.relay(socketio)

        def broken() -> None:
            raise ZeroDivisionError

        done = self.hub.execute("r1", command(), on_accepted=broken)
        client.dialect.acknowledge((await client.next(EventReceived)).ack_id, None)
        client.send_result(result())
        self.assertEqual(await done, result())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_a_coroutine_function(self) -> None:
        self.hub._record = self.slowly
        self.slow: list[str] = []
        client = await self.relay(native)
        client.send_result(result())
        self.assertEqual((await client.next(EventReceived)).data, RECEIPT)
        self.assertEqual(self.slow, ["c1"])

    async def slowly(self, _proxy_id: str, result: CommandResult) -> None:
        await deferLater(reactor, 0.01)
        self.slow.append(result.command_id)
