"""
Main servers that do not take what is sent to them: what waits is bounded, nothing of it is lost, and it ends in time.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.language.texts import span
from relayd.network.flow import MAX_BEHIND, PIECE
from relayd.uplink.stages import Timing
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import AckReceived, EventReceived
from relayd.wire.messages import CommandResult
from tests.support.flows import RecordedFlow
from tests.support.uplink import MainServer, ServiceCase

DIALECTS = (socketio, native)
WRITING = Timing().writing


class FlowSizeTests(SynchronousTestCase):
    """`relayd.network.flow.Flow` alone."""

    def setUp(self) -> None:
        self.flow = RecordedFlow()

    def test_small_ones_pass(self) -> None:
        self.flow.send(b"a")
        self.flow.send(b"b" * PIECE)
        self.assertEqual((self.flow.sent, self.flow.said, self.flow.writable), ([b"a", b"b" * PIECE], [], True))

    def test_a_large_one_goes_in_pieces(self) -> None:
        data = bytes(range(256)) * (PIECE // 64)  # four pieces
        full = self.flow.pauseProducing
        self.patch(self.flow, "_write", lambda piece: (self.flow.sent.append(piece), full()))
        self.flow.send(data)
        self.flow.send(b"behind it")
        for pieces in (1, 2, 3):
            self.assertEqual((len(self.flow.sent), self.flow.writable), (pieces, False))
            self.flow.resumeProducing()
        self.flow.resumeProducing()
        self.flow.resumeProducing()
        self.assertTrue(self.flow.writable)
        self.assertEqual(b"".join(self.flow.sent), data + b"behind it")
        self.assertEqual(max(map(len, self.flow.sent)), PIECE)
        self.assertEqual(self.flow.said, ["full", *["taken"] * 5])

    def test_what_fills_it_does_not_count_and_what_comes_behind_does(self) -> None:
        self.patch(self.flow, "_write", lambda piece: self.flow.pauseProducing())
        self.flow.send(b"x" * 10 * MAX_BEHIND)
        self.assertEqual(self.flow.said, ["full"])
        self.flow.send(b"y" * MAX_BEHIND)
        self.flow.send(b"y")
        self.flow.send(b"y" * MAX_BEHIND)
        self.assertEqual(self.flow.said, ["full", "behind"])

    def test_it_is_behind_until_all_has_left(self) -> None:
        self.flow.pauseProducing()
        for _ in range(3):
            self.flow.send(b"x" * MAX_BEHIND)
        self.assertEqual(self.flow.said, ["full", "behind"])
        self.flow.resumeProducing()
        self.assertEqual(self.flow.said, ["full", "behind", "not behind", "taken"])
        self.assertEqual(sum(map(len, self.flow.sent)), 3 * MAX_BEHIND)

    def test_what_is_left_goes_to_the_transport_in_the_end(self) -> None:
        """The closing handshake comes behind it."""
        self.flow.pauseProducing()
        self.flow.send(b"x" * MAX_BEHIND)
        self.flow.send(b"x" * MAX_BEHIND)
        self.flow.end()
        self.flow.send(b"close")
        self.flow.pauseProducing()
        self.flow.send(b"more")
        self.assertEqual(b"".join(self.flow.sent), b"x" * 2 * MAX_BEHIND + b"closemore")
        self.assertEqual(self.flow.said[-2:], ["not behind", "taken"])

    def test_a_transport_that_is_gone_gets_nothing(self) -> None:
        self.flow.pauseProducing()
        self.flow.send(b"x" * MAX_BEHIND)
        self.flow.stopProducing()
        self.assertEqual((self.flow.sent, self.flow.writable), ([], True))


class StuckTests(ServiceCase):
    """On the wire, in both dialects."""

    def connect_in(self, dialect: ModuleType) -> tuple[MainServer, Any]:
        stopped = self.service.stopService()
        self.advance(6)
        self.successResultOf(stopped)
        self.begin(dialect=dialect.NAME)
        server, pump = self.connected(
            native.NativeServerDialect() if dialect is native else socketio.SocketIOServerDialect()
        )
        self.transport = pump.client.transport
        self.flow = self.transport.producer
        self.reading = True
        self.patch(self.transport, "pauseProducing", lambda: setattr(self, "reading", False))
        self.patch(self.transport, "resumeProducing", lambda: setattr(self, "reading", True))
        return server, pump

    def flood(self, server: MainServer, pump: Any) -> int:
        """Ask until it reads no more; how often, at most 20,000 times."""
        self.flow.pauseProducing()
        for number in range(20_000):
            server.dialect.request("command_status", {"commandId": f"{number} " + "x" * 200})
            server.flush()
            pump.flush()
            if not self.reading:
                return number + 1
        return 20_000

    def answers(self, server: MainServer) -> int:
        named = [each for each in server.events if isinstance(each, EventReceived) and each.name == "command_status"]
        return len(named) + sum(isinstance(each, AckReceived) for each in server.events)

    def test_it_is_not_read_while_it_takes_no_answers(self) -> None:
        for dialect in DIALECTS:
            server, pump = self.connect_in(dialect)
            asked = self.flood(server, pump)
            self.assertLess(asked, 2000)
            self.assertEqual(self.answers(server), 0)
            self.flow.resumeProducing()
            pump.flush()
            self.assertTrue(self.reading)
            self.assertEqual(self.answers(server), asked, "each has its answer")

    def test_heartbeats_of_engine_io(self) -> None:
        server, pump = self.connect_in(socketio)
        self.flow.pauseProducing()
        pings = 0
        while self.reading and pings < 100_000:
            for _ in range(1000):
                server.dialect.ping()
            server.flush()
            pump.flush()
            self.reactor.advance(0)
            pings += 1000
        self.assertLess(pings, 60_000)

    def test_heartbeats_of_the_websocket(self) -> None:
        """The latest answer is one for all."""
        for dialect in DIALECTS:
            server, pump = self.connect_in(dialect)
            pongs: list[bytes] = []
            self.patch(server, "onPong", pongs.append)
            self.flow.pauseProducing()
            for number in range(1000):
                server.sendPing(b"%d" % number)
            pump.flush()
            self.assertEqual((len(self.flow._queue), self.reading), (0, True))
            self.flow.resumeProducing()
            pump.flush()
            self.assertEqual(pongs, [b"999"])
            server.sendPing(b"next")
            pump.flush()
            self.assertEqual(pongs, [b"999", b"next"])

    def test_a_large_result_does_not_stop_the_reading(self) -> None:
        """A main server may well write before it reads: both would wait for the other for ever."""
        server, pump = self.connect_in(native)
        link = self.receiver.link
        assert link is not None
        self.patch(self.flow, "_write", lambda data: self.flow.pauseProducing())
        link.send_result(CommandResult(command_id="c", stdout="x" * 200_000, stderr="", exit_code=0))
        self.assertFalse(link.writable)
        server.dialect.send_event("cancel_command", {"commandId": "c1"})
        server.flush()
        pump.flush()
        self.assertEqual((self.receiver.calls[-1], self.reading), (("cancel", "c1"), True))

    def test_silence_is_no_death_while_nothing_is_read(self) -> None:
        for dialect in DIALECTS:
            server, pump = self.connect_in(dialect)
            losses = self.service.status.losses
            self.flood(server, pump)
            for _ in range(80):
                self.advance(1)
            self.assertEqual(self.service.status.losses, losses)
            self.flow.resumeProducing()
            pump.flush()
            for _ in range(40):
                self.advance(1)
            self.assertEqual(self.service.status.losses, losses, "it is heard again")

    def test_one_that_takes_nothing_for_long_is_lost(self) -> None:
        for dialect in DIALECTS:
            server, pump = self.connect_in(dialect)
            losses = self.service.status.losses
            self.flood(server, pump)
            for _ in range(13):
                self.advance(WRITING / 10)
            self.assertEqual(self.service.status.losses, losses + 1)
            self.assertEqual(self.receiver.words()[-1], "lost")
            self.assertIn(
                f"read nothing of what was sent to it for {span(WRITING)}", str(self.service.status.last_error)
            )

    def test_one_that_talks_all_the_time_and_takes_nothing_is_lost_too(self) -> None:
        server, _pump = self.connect_in(native)
        losses = self.service.status.losses
        self.flow.pauseProducing()
        for _ in range(13):
            server.sendPing(b"")
            self.advance(WRITING / 10)
        self.assertEqual(self.service.status.losses, losses + 1)

    def test_one_that_takes_a_little_now_and_then_lives(self) -> None:
        server, pump = self.connect_in(native)
        losses = self.service.status.losses
        self.flood(server, pump)
        self.patch(self.flow, "_write", lambda data: self.flow.pauseProducing())
        for _ in range(30):
            self.advance(WRITING / 4)
            self.flow.resumeProducing()
        self.assertEqual(self.service.status.losses, losses)


class FragmentTests(ServiceCase):
    """A message in a great many frames takes no more memory than it has bytes."""

    def test_empty_frames_take_nothing(self) -> None:
        self.begin_native()
        server, pump = self.connected(native.NativeServerDialect())
        client: Any = pump.client._wrappedProtocol
        server.sendFrame(opcode=1, payload=b'{"event": "cancel_command", ', fin=False)
        for _ in range(1000):
            server.sendFrame(opcode=0, payload=b"", fin=False)
        pump.flush()
        held = [value for value in vars(client).values() if isinstance(value, list | bytearray) and len(value) > 100]
        self.assertEqual(held, [])
        server.sendFrame(opcode=0, payload=b'"data": {"commandId": "c1"}}', fin=True)
        pump.flush()
        self.assertEqual(self.receiver.calls[-1], ("cancel", "c1"))

    def begin_native(self) -> None:
        stopped = self.service.stopService()
        self.advance(6)
        self.successResultOf(stopped)
        self.begin(dialect="native")
