"""
Tests of `relayd.uplink.message_limit`, alone and in the uplink service: main servers whose limits show only when they
are hit.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import CredentialMissing
from relayd.interfaces import Blame
from relayd.uplink.message_limit import (
    BELIEVE_FOR,
    BLAME_FOR,
    GUESS_AFTER,
    GUESS_FOR,
    LEAST_GUESS,
    RUNGS,
    MessageLimit,
    UnderWay,
    named_limit,
    says_too_big,
)
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.codec import NO_LIMIT
from relayd.wire.dialects.events import AckReceived, EventReceived
from relayd.wire.messages import CommandResult, ExecuteCommand
from tests.support.uplink import ORDER, MainServer, ServiceCase

#: What servers say with 1009 or could say, how large the message was, and the limit. None of them was run here.
REASONS = (
    ("frame with 2000036 bytes exceeds limit of 1048576 bytes", 2_000_036, 1_048_576),  # websockets
    ("over size limit (2000036 > 1048576 bytes)", 2_000_036, 1_048_576),  # another form of that
    ("frame with 36 bytes after reading 1048560 bytes exceeds limit of 1048576 bytes", 2_000_036, 1_048_560),
    ("Message size 4194404 exceeds limit 4194304", 9_000_000, 4_194_304),  # aiohttp
    ("read limited at 32769 bytes", 70_000, 32_769),  # coder/websocket for Go
    ("Text message too large: (actual) 70,000 > (configured max text message size) 65,536", 70_000, 65_536),  # Jetty
    ("received WebSocket message size 70000 exceeds payload limit of 66000 octets", 70_000, 66_000),  # autobahn
    ("Max frame length of 65536 has been exceeded.", 70_000, 65_536),  # Netty
    ("message is larger than 64 KiB", 70_000, 65_536),
    ("limit: 1MB", 2_000_000, 1_000_000),
    # Beside numbers of something else, and as other people write them
    ("connection 4711: message too large, max=131072", 300_000, 131_072),
    ("max 131072 bytes (code 1009, retry after 5000 ms)", 300_000, 131_072),
    ("2026-11-27 12:00 message too big, max 131072", 300_000, 131_072),
    ("max 128k, at 10.0.0.1:8443", 300_000, 128_000),
    ("frame length 300_000 > 131_072", 300_000, 131_072),
    ("limit 100.000 bytes", 300_000, 100_000),
    ("limit=131072B", 300_000, 131_072),
    ("max 65536bytes", 300_000, 65_536),
    ("limit 64 kilobytes", 300_000, 64_000),
    ("payload exceeds 0.25 MB", 300_000, 250_000),
    ("消息过大,最大65536字节", 300_000, 65_536),
)
#: And such as name none.
WORDS = ("", "message too big", "1009", "code 1009: too big", "Max payload size exceeded", "limit 10", "v1.2.3", "2k")
#: And with numbers that nothing ties to a limit.
OTHER_NUMBERS = (
    "error 1024: message too big",
    "too big, see https://docs.example:8443/errors/4711",
    "message of connection 2048 dropped",
    "message too big, 2026-11-27",
    "max 1000 messages",
)


class NamedLimitTests(SynchronousTestCase):
    def test_reasons(self) -> None:
        for reason, size, limit in REASONS:
            named = named_limit(reason, size)
            assert named is not None, reason
            self.assertLess(named, limit, reason)
            self.assertGreater(named, limit * 0.98, reason)

    def test_words(self) -> None:
        for reason in WORDS:
            self.assertIsNone(named_limit(reason, 1900), reason)
        for reason in OTHER_NUMBERS:
            self.assertIsNone(named_limit(reason, 300_000), reason)

    def test_it_has_read_a_larger_one(self) -> None:
        """Whatever the number is, the limit it is not."""
        self.assertIsNone(named_limit("limit 8192", 300_000, 60_000))
        self.assertEqual(named_limit("limit 8192, max 65536", 300_000, 60_000), 65_536 - 655)

    @given(st.text(max_size=125), st.integers(0, 1 << 40))
    def test_anything(self, reason: str, size: int) -> None:
        named = named_limit(reason, size)
        self.assertTrue(named is None or 0 < named < size)


class TooBigTests(SynchronousTestCase):
    def test_words(self) -> None:
        for reason in ("Payload Too Large", "message_too_big", "frame too long", "max length exceeded"):
            self.assertTrue(says_too_big(1008, reason, 10_000), reason)
            self.assertFalse(says_too_big(1008, reason, 1_000), reason)
        for reason in ("", "who are you", "too many requests", "message limit exceeded", "token exceeds its lifetime"):
            self.assertFalse(says_too_big(1008, reason, 10_000), reason)
            self.assertTrue(says_too_big(1009, reason, 10), reason)


class MessageLimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.limit = MessageLimit(self.clock, "main")

    def test_what_the_server_says_counts_at_once(self) -> None:
        self.assertEqual(self.limit.bytes, NO_LIMIT)
        self.assertTrue(self.limit.too_big(5_000_000, "message too big"))
        self.assertEqual(self.limit.bytes, 1_000_000)
        self.assertTrue(self.limit.too_big(1_000_000, "limit 70000"))
        self.assertEqual(self.limit.bytes, 69_300)
        self.clock.advance(BELIEVE_FOR - 1)
        self.assertEqual(self.limit.bytes, 69_300)
        self.clock.advance(1)
        self.assertEqual(self.limit.bytes, NO_LIMIT, "servers get other limits")

    def test_it_ends_somewhere(self) -> None:
        """A server to which everything is too large is given up by others, not by smaller messages without end."""
        size, times = 5_000_000, 0
        while self.limit.too_big(size, ""):
            size, times = self.limit.bytes, times + 1
        self.assertEqual((size, times), (RUNGS[-1], len(RUNGS)))

    def test_connections_that_are_lost_have_it_guessed(self) -> None:
        for _ in range(GUESS_AFTER - 1):
            self.assertFalse(self.limit.connection_lost(5_000_000))
            self.assertEqual(self.limit.bytes, NO_LIMIT)
        self.assertTrue(self.limit.connection_lost(5_000_000))
        self.assertEqual(self.limit.bytes, 1_000_000)
        self.assertTrue(self.limit.connection_lost(1_000_000), "one more is enough on the way down")
        self.assertEqual(self.limit.bytes, 125_000)
        self.limit.was_read(125_000)
        self.assertFalse(self.limit.connection_lost(120_000), "as large ones were read")
        self.assertEqual(self.limit.bytes, 125_000)

    def guess(self) -> None:
        for _ in range(GUESS_AFTER):
            self.limit.connection_lost(500_000)
        self.assertEqual(self.limit.bytes, 125_000)
        self.limit.was_read(120_000)

    def test_guess_is_tried_again_and_counts_for_longer_when_it_was_right(self) -> None:
        seconds = GUESS_FOR
        for _ in range(3):
            self.guess()
            self.clock.advance(seconds - 1)
            self.assertEqual(self.limit.bytes, 125_000)
            self.clock.advance(1)
            self.assertEqual(self.limit.bytes, NO_LIMIT)
            seconds *= 2

    def test_small_messages_are_no_cause(self) -> None:
        for _ in range(10):
            self.assertFalse(self.limit.connection_lost(LEAST_GUESS))
            self.assertFalse(self.limit.connection_lost(0))
        self.assertEqual(self.limit.bytes, NO_LIMIT)

    def test_where_smaller_ones_are_no_help_it_was_not_the_size(self) -> None:
        """A result that the main server cannot bear, however short it is cut: it is not cut for ever."""
        size, losses = 5_000_000, 0
        while size > LEAST_GUESS:
            self.limit.connection_lost(size)
            losses += 1
            size = min(5_000_000, self.limit.bytes)
        self.assertEqual(losses, GUESS_AFTER - 1 + len([rung for rung in RUNGS if rung >= LEAST_GUESS]))
        self.assertFalse(self.limit.connection_lost(size))
        self.assertEqual(self.limit.bytes, NO_LIMIT)
        for _ in range(10):
            self.assertFalse(self.limit.connection_lost(5_000_000), "the size is not suspected for a while")

    def test_reading_a_large_one_refutes_a_loss(self) -> None:
        """Links that are cut for other reasons."""
        for _ in range(10):
            self.assertFalse(self.limit.connection_lost(5_000_000))
            self.limit.was_read(5_000_000)
        self.assertEqual(self.limit.bytes, NO_LIMIT)


class UnderWayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.limit = MessageLimit(self.clock, "main")
        self.pings: list[Deferred[None]] = []
        self.under_way = UnderWay(self.clock, self.limit, self.ping)

    def ping(self) -> Deferred[None]:
        self.pings.append(Deferred())
        return self.pings[-1]

    def test_small_ones_cost_no_ping(self) -> None:
        for _ in range(100):
            self.under_way.message_sent(300)
        self.assertEqual((self.pings, self.under_way.largest()), ([], 300))
        self.assertEqual(self.under_way.suspect(unsent=False), 0)

    def test_one_ping_at_a_time(self) -> None:
        for size in (5_000, 90_000, 7_000, 100):
            self.under_way.message_sent(size)
        self.assertEqual((len(self.pings), self.under_way.largest()), (1, 90_000))
        self.pings.pop().callback(None)
        self.assertEqual((len(self.pings), self.under_way.largest()), (1, 90_000))
        self.pings.pop().callback(None)
        self.assertEqual((self.pings, self.under_way.largest()), ([], 0))
        self.assertEqual(self.limit._read, 90_000)

    def test_long_after(self) -> None:
        self.under_way.message_sent(90_000)
        self.clock.advance(BLAME_FOR)
        self.assertEqual(self.under_way.suspect(unsent=False), 0)
        self.assertEqual(self.under_way.suspect(unsent=True), 90_000, "it takes so long to leave")
        self.under_way.message_sent(5_000)  # the first was never known to be read
        self.assertEqual(self.under_way.suspect(unsent=False), 90_000)


def large(command: ExecuteCommand) -> CommandResult:
    return CommandResult(command_id=command.command_id, stdout="x" * 200_000, stderr="", exit_code=3)


class Narrow(MainServer):
    """
    Takes so many bytes and no more.

    :ivar takes: how many.
    :ivar says: the reason that it gives; ``None``: it drops the connection without a word.
    :ivar code: with which it closes it.
    :ivar late: whether it looks at messages after pings.
    """

    takes = 1 << 30
    says: str | None = None
    code = 1009
    late = False
    refuses = False

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if len(payload) <= self.takes:
            super().onMessage(payload, isBinary)
        elif self.says is None:
            self.transport.abortConnection()
        else:
            self.refuses = True
            if not self.late:
                self.refuse()

    def onPing(self, payload: bytes) -> None:
        super().onPing(payload)
        if self.refuses and self.late:
            self.refuse()

    def refuse(self) -> None:
        """A message was too large."""
        self.deaf = True
        self.sendCloseFrame(code=self.code, reasonUtf8=(self.says or "").encode())
        self.transport.loseConnection()


class LearningTests(ServiceCase):
    """One command for each connection, as if each were a result that is sent again."""

    dialect = "native"

    def setUp(self) -> None:
        super().setUp()
        self.receiver._answer = large
        self.servers = {"native": native.NativeServerDialect, "socketio": socketio.SocketIOServerDialect}

    def main_server(self, dialect: Any = None) -> Narrow:
        server = Narrow(dialect or self.servers[self.dialect]())
        server.factory = super().main_server().factory
        return server

    def try_one(self, takes: int, says: str | None) -> list[Any]:
        """
        Connect, have a result sent, and what came of it.

        :return: the ``result`` where it arrived.
        """
        server = self.main_server()
        server.takes, server.says = takes, says
        pump = self.join(server)
        pump.flush()
        self.advance(2.1)
        server.dialect.request("execute_command", ORDER)
        server.flush()
        for _ in range(5):
            pump.flush()
        results = [e.data["result"] for e in server.events if isinstance(e, EventReceived) and isinstance(e.data, dict)]
        if not results:
            self.advance(7.01)
        else:
            server.transport.abortConnection()
            pump.flush()
            self.advance(7.01)
        return results

    def test_one_that_names_its_limit(self) -> None:
        self.assertEqual(self.try_one(32_768, "read limited at 32769 bytes"), [])
        [result] = self.try_one(32_768, "read limited at 32769 bytes")
        self.assertIn("bytes cut here to fit the link; see --max-output", result["stdout"])
        self.assertEqual(result["exitCode"], 3)
        self.assertGreater(len(result["stdout"]), 31_000)
        self.assertEqual(self.receiver.blames[:1], [Blame.NONE], "the result need not be suspected")
        [words] = [line for line in self.warnings() if "messages are cut to 32442 bytes" in line]
        self.assertIn("see --max-output", words)
        self.assertIn("lost: it closed the WebSocket with code 1009", "".join(self.warnings()))

    def check_code(self, code: int, says: str) -> None:
        """It is no wrong key, either."""
        self.patch(Narrow, "code", code)
        self.assertEqual(self.try_one(32_768, says), [])
        self.assertIn(f"lost: it closed the WebSocket with code {code}", "".join(self.warnings()))
        self.assertEqual(self.receiver.blames, [Blame.NONE])
        for _ in range(3):  # one that names no limit is approached step by step
            if results := self.try_one(32_768, says):
                break
        self.assertEqual([result["exitCode"] for result in results], [3])

    def test_one_that_calls_it_a_breach_of_its_policy(self) -> None:
        self.check_code(1008, "Payload too large (max 32768)")

    def test_one_that_calls_it_an_error(self) -> None:
        self.check_code(1011, "message size exceeds 32768")

    def test_one_whose_library_answers_pings_first(self) -> None:
        """Such as Python's websockets: the pong says nothing of the application, which looks later."""
        self.patch(Narrow, "late", True)
        self.check_code(1008, "too large")

    def test_one_with_a_code_of_its_own(self) -> None:
        self.check_code(4413, "too big: limit 32768")

    def test_one_that_names_none(self) -> None:
        for _ in (64_000, 16_000):
            self.assertEqual(self.try_one(20_000, ""), [])
            self.advance(60)
        self.assertEqual(self.try_one(20_000, ""), [])
        [result] = self.try_one(20_000, "")
        self.assertGreater(len(result["stdout"]), 14_000)

    def test_one_that_says_nothing(self) -> None:
        """As those that drop the connection at 16 KiB."""
        for blame in (Blame.POSSIBLE, Blame.NONE, Blame.NONE, Blame.NONE):
            self.assertEqual(self.try_one(16_384, None), [])
            self.assertIs(self.receiver.blames[-1], blame)
        for _ in range(2):
            [result] = self.try_one(16_384, None)
            self.assertGreater(len(result["stdout"]), 14_000)

    def test_it_is_remembered_by_dialect(self) -> None:
        self.try_one(32_768, "read limited at 32769 bytes")
        self.assertEqual(self.service.servers[0].profile._limits["socketio"].bytes, NO_LIMIT)
        self.assertLess(self.service.servers[0].profile._limits["native"].bytes, 32_768)

    def test_during_the_probation_too(self) -> None:
        """A close for the size is no refusal of the relay."""
        self.receiver._answer = None
        server = self.main_server()
        server.takes, server.says = 20_000, "limit 20000"
        pump = self.join(server)
        pump.flush()
        assert self.receiver.link is not None
        self.receiver.link.send_result(CommandResult(command_id="c", stdout="x" * 50_000, stderr="", exit_code=0))
        pump.flush()
        self.assertIn("lost: it closed the WebSocket with code 1009", self.warnings()[-1])
        self.assertEqual(self.service.servers[0].profile._limits["native"].bytes, 19_800)

    def test_whom_to_blame(self) -> None:
        """Where either side says why the link ends, no result is the cause."""
        for code, blame in (
            (1001, Blame.NONE),
            (1012, Blame.NONE),
            (1013, Blame.NONE),
            (1000, Blame.POSSIBLE),
            (1011, Blame.POSSIBLE),
            (4000, Blame.POSSIBLE),
        ):
            server, pump = self.connected()
            self.advance(2.1)
            server.sendCloseFrame(code=code)
            pump.flush()
            server.transport.loseConnection()
            pump.flush()
            self.assertEqual((code, self.receiver.blames[-1]), (code, blame))
            self.advance(60)
        server, pump = self.connected()
        server.sendCloseFrame(code=4401)
        pump.flush()
        self.assertIs(self.receiver.blames[-1], Blame.REFUSED)
        server.transport.loseConnection()
        pump.flush()
        self.advance(60)
        server, pump = self.connected()
        server.answers_pings = False
        for _ in range(50):
            self.advance(1)
        self.assertIs(self.receiver.blames[-1], Blame.NONE, "silence")
        self.advance(60)
        server, pump = self.connected()
        server.sendMessage(b"\xff")
        pump.flush()
        self.assertIs(self.receiver.blames[-1], Blame.NONE, "we close it for a breach of the rules")
        server.transport.loseConnection()
        pump.flush()
        self.advance(60)
        self.connected()
        stopped = self.service.stopService()
        self.assertIs(self.receiver.blames[-1], Blame.NONE, "we leave")
        self.advance(6)
        self.successResultOf(stopped)


class TinyTests(ServiceCase):
    """Socket.IO servers whose ``maxPayload`` has room for next to nothing."""

    def test_results_and_answers_fit(self) -> None:
        for limit in (4095, 1000, 300, 200):
            self.receiver._answer = large
            server, pump = self.connected(socketio.SocketIOServerDialect(accepts=limit))
            server.dialect.request("execute_command", ORDER)
            server.flush()
            pump.flush()
            self.receiver._answer = lambda command: CredentialMissing(username="u" * 300, host="db")
            server.dialect.request("execute_command", ORDER)
            server.flush()
            pump.flush()
            [result] = [event.data for event in server.events if isinstance(event, EventReceived)]
            self.assertEqual(result["result"]["exitCode"], 3)  # type: ignore[index, call-overload]
            [_, refusal] = [event.data for event in server.events if isinstance(event, AckReceived)]
            self.assertTrue(refusal["error"].startswith("The command has neither"))  # type: ignore[index, call-overload]
            self.assertLessEqual(max(server.sizes), limit)
            server.transport.abortConnection()
            pump.flush()
            self.advance(7.01)

    def main_server(self, dialect: Any = None) -> Any:
        server = Measuring(dialect)
        server.factory = super().main_server().factory
        return server


class Measuring(MainServer):
    def __init__(self, dialect: Any) -> None:
        super().__init__(dialect)
        self.sizes: list[int] = []

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sizes.append(len(payload))
        super().onMessage(payload, isBinary)
