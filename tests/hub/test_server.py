"""
The main server, by the real protocols of both dialects over loopback.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from relayd.errors import InvalidMessage
from relayd.hub import Hub, HubSettings
from relayd.hub.errors import (
    CommandInFlight,
    CommandRefused,
    HubClosed,
    InfoRefused,
    NoAnswer,
    NoInfo,
    NoResult,
    RelayOffline,
)
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import Connected, Disconnected, EventReceived, HeartbeatReceived
from relayd.wire.messages import CommandOutput, CommandResult, CommandState, CommandStatus, ExecuteCommand, Secret
from tests.support.schemas import TO_MAIN_SERVER, malformed
from tests.wire.test_relay_info import info

KEY = "correct-horse-battery-staple-correct"
DIALECTS = (socketio, native)


def command(command_id: str = "c1", **changes: Any) -> ExecuteCommand:
    fields: dict[str, Any] = {
        "command_id": command_id,
        "server_id": 1,
        "host": "127.0.0.1",
        "port": 22,
        "username": "u",
        "password": Secret("p"),
        "command": "true",
    }
    return ExecuteCommand(**{**fields, **changes})


def result(command_id: str = "c1", stdout: str = "out") -> CommandResult:
    return CommandResult(command_id=command_id, stdout=stdout, stderr="", exit_code=0)


class RelayClient(WebSocketClientProtocol):
    """
    A relay that does what a test says: autobahn and the relay's half of a dialect, without any logic.

    :ivar events: what the dialect made of each message, in order.
    :ivar closed: fires with the close code and reason.
    """

    transport: Any

    def __init__(self, dialect: Any) -> None:
        super().__init__()
        self.dialect = dialect
        self.events: DeferredQueue[Any] = DeferredQueue()
        self.closed: Deferred[tuple[int | None, str | None]] = Deferred()
        self.mute = False
        self.only_pongs = False
        self.extensions: list[Any] | None = None

    def onConnect(self, response: Any) -> None:
        self.extensions = response.extensions

    def onOpen(self) -> None:
        self._got(self.dialect.opened())

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._got(self.dialect.receive_text(payload.decode()))

    def onPing(self, payload: bytes) -> None:
        if not self.mute:
            super().onPing(payload)
            self.events.put(HeartbeatReceived())

    def _got(self, events: Any) -> None:
        for event in events:
            self.events.put(event)
        self.flush()

    def flush(self) -> None:
        frames = self.dialect.frames_to_send()
        if not self.mute and self.state == self.STATE_OPEN:
            for frame in frames:
                if frame == "3" or not self.only_pongs:
                    self.sendMessage(frame.encode())

    def send(self, name: str, data: object) -> None:
        self.dialect.send_event(name, data)
        self.flush()

    def send_malformed(self, name: str, data: object) -> None:
        self.send(name, malformed(data, name, TO_MAIN_SERVER))

    def acknowledge(self, event: EventReceived, data: object) -> None:
        assert event.ack_id is not None
        self.dialect.acknowledge(event.ack_id, data)
        self.flush()

    def send_result(self, of: CommandResult) -> None:
        self.send("command_result", of.to_wire())

    async def next(self, kind: type) -> Any:
        """The next event of that *kind*; others are passed over."""
        while True:
            event = await self.events.get()
            if isinstance(event, kind):
                return event

    async def joined(self) -> RelayClient:
        await self.next(Connected)
        return self

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.closed.callback((code, reason))


class RawHTTP(Protocol):
    """Sends one request and collects the answer until the server closes."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.answer = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.request)

    def dataReceived(self, data: bytes) -> None:
        self.answer += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(self.answer)


class HubTestCase(TestCase):
    """One main server on a free port of loopback, and clients that play relays."""

    timeout = 60.0
    settings = HubSettings(grace=0.0)

    def setUp(self) -> Deferred[Any]:  # type: ignore[override]
        return Deferred.fromCoroutine(self.start())

    async def start(self) -> None:
        self.hub = self.make_hub()
        self.clients: list[RelayClient] = []
        self.addCleanup(self.stop)
        port = await self.hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        self.port: int = port.getHost().port  # type: ignore[attr-defined]

    def make_hub(self) -> Hub:
        return Hub(reactor, {"r1": Secret(KEY), "r2": Secret(KEY + "2")}, self.settings)

    def stop(self) -> Deferred[Any]:
        async def stopping() -> None:
            await self.hub.close()
            for client in self.clients:
                await client.closed

        return Deferred.fromCoroutine(stopping())

    async def dial(
        self,
        dialect: ModuleType = socketio,
        proxy_id: str = "r1",
        key: str = KEY,
        *,
        mute: bool = False,
        only_pongs: bool = False,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> RelayClient:
        """Open the WebSocket; whether the relay is welcome shows later."""
        url = dialect.url(f"ws://127.0.0.1:{self.port}", proxy_id, key)
        factory = WebSocketClientFactory(url, reactor=reactor, headers=headers)
        codec = native.NativeRelayDialect if dialect is native else socketio.SocketIORelayDialect
        factory.protocol = lambda: RelayClient(codec())  # type: ignore[assignment]
        factory.setProtocolOptions(**options)
        client = await TCP4ClientEndpoint(reactor, "127.0.0.1", self.port).connect(factory)
        assert isinstance(client, RelayClient)
        client.mute, client.only_pongs = mute, only_pongs
        self.clients.append(client)
        return client

    async def relay(self, dialect: ModuleType = socketio, proxy_id: str = "r1", key: str = KEY) -> RelayClient:
        """Open the WebSocket and be accepted."""
        client = await self.dial(dialect, proxy_id, key)
        await self.hub.when_connected(proxy_id)
        return await client.joined()

    async def leave(self, client: RelayClient) -> None:
        """Close the connection, and wait until the main server knows."""
        client.sendClose()
        await client.closed
        await self.until(lambda: not self.hub.relays)

    async def http(self, request: str) -> str:
        factory = Factory.forProtocol(lambda: RawHTTP(request.encode()))
        protocol = await TCP4ClientEndpoint(reactor, "127.0.0.1", self.port).connect(factory)
        assert isinstance(protocol, RawHTTP)
        return (await protocol.done).decode()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await deferLater(reactor, 0.005)


class KeysTests(SynchronousTestCase):
    """The keys that a program gives."""

    def test_texts(self) -> None:
        for keys in ({"r1": KEY}, {"r1": KEY}.get):
            hub = Hub(Clock(), keys)
            found = [
                hub.accepts(*each) for each in (("r1", KEY), ("r1", KEY + "x"), ("r1", ""), ("r2", KEY), ("", KEY))
            ]
            self.assertEqual(found, [True, False, False, False, False])

    def test_an_empty_key_is_none(self) -> None:
        for key in ("", Secret("")):
            self.assertFalse(Hub(Clock(), {"r1": key}).accepts("r1", ""))

    def test_anything_else(self) -> None:
        wrong: Any = {"r1": KEY, "r2": KEY.encode()}
        error = self.assertRaises(TypeError, Hub, Clock(), wrong)
        self.assertEqual(str(error), "the key of 'r2' has to be a Secret or a str, not bytes")
        error = self.assertRaises(TypeError, Hub(Clock(), wrong.get).accepts, "r2", KEY)
        self.assertNotIn(KEY, str(error))


class HubTests(HubTestCase):
    """What a main server does for its user and for relays."""

    # The main thing

    async def test_a_command_and_its_result(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            self.assertEqual(self.hub.relays["r1"].dialect, dialect.NAME)
            done = self.hub.execute("r1", command("c1", timeout=2.5))
            event = await client.next(EventReceived)
            self.assertEqual(event.name, "execute_command")
            self.assertEqual(
                event.data,
                {
                    "commandId": "c1",
                    "serverId": 1,
                    "host": "127.0.0.1",
                    "port": 22,
                    "username": "u",
                    "password": "p",
                    "command": "true",
                    "timeout": 2500,
                },
            )
            self.assertEqual(event.ack_id is not None, dialect is socketio)
            client.send_result(result())
            self.assertEqual(await done, result())
            receipt = await client.next(EventReceived)
            self.assertEqual(receipt.name, "command_result_received")
            self.assertEqual(receipt.data, {"success": True, "commandId": "c1"})
            await self.leave(client)

    async def test_many_commands_at_a_time_end_in_any_order(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            ids = [f"c{number}" for number in range(50)]
            done = gatherResults([self.hub.execute("r1", command(each)) for each in ids])
            seen = [(await client.next(EventReceived)).data["commandId"] for _ in ids]
            self.assertEqual(seen, ids)
            for each in reversed(ids):
                client.send_result(result(each, stdout=each))
            self.assertEqual([each.stdout for each in await done], ids)
            await self.leave(client)

    async def test_two_relays_do_not_answer_for_each_other(self) -> None:
        one, two = await self.relay(), await self.relay(native, "r2", KEY + "2")
        done = self.hub.execute("r1", command())
        two.send_result(result(stdout="forged"))
        await two.next(EventReceived)  # confirmed all the same
        self.assertFalse(done.called)
        one.send_result(result(stdout="true"))
        self.assertEqual((await done).stdout, "true")

    # What can go wrong with a command

    async def test_an_acknowledged_error_fails_the_command_at_once(self) -> None:
        client = await self.relay()
        done = self.hub.execute("r1", command())
        event = await client.next(EventReceived)
        client.dialect.acknowledge(event.ack_id, {"error": "no\nroom"})
        client.flush()
        error = await self.assertFailure(done, CommandRefused)
        self.assertIn("no\N{REPLACEMENT CHARACTER}room", str(error))

    async def test_other_acknowledgements_mean_nothing(self) -> None:
        client = await self.relay()
        done = self.hub.execute("r1", command())
        event = await client.next(EventReceived)
        for ack_id, data in ((event.ack_id, None), (event.ack_id, {"error": "twice"}), (99, {"error": "whose?"})):
            client.dialect.acknowledge(ack_id, data)
        client.send_result(result())
        self.assertEqual(await done, result())

    async def test_a_relay_that_is_not_there(self) -> None:
        await self.assertFailure(self.hub.execute("r1", command()), RelayOffline)

    async def test_a_command_that_cannot_be_sent_is_not_in_flight(self) -> None:
        """A mistake of the main server's author: the same command can be given again, mended."""
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            wrong = command(stdin=b"\xff", stdin_is_text=True)
            self.assertRaises(ValueError, self.hub.execute, "r1", wrong, 60)
            done = self.hub.execute("r1", command())
            await client.next(EventReceived)
            client.send_result(result())
            self.assertEqual(await done, result())
            await self.leave(client)

    def test_things_of_another_type(self) -> None:
        """At once, whether the relay is there or not."""
        for arguments in (({"commandId": "c1"},), (command(), "30"), (command(), True)):
            self.assertRaises(TypeError, self.hub.execute, "r1", *arguments)
        for ask in (self.hub.cancel, self.hub.status):
            self.assertIn("command_id has to be str", str(self.assertRaises(TypeError, ask, "r1", 7)))

    async def test_an_id_in_flight(self) -> None:
        client = await self.relay()
        first = self.hub.execute("r1", command())
        await self.assertFailure(self.hub.execute("r1", command()), CommandInFlight)
        client.send_result(result())
        await first

    async def test_no_result_in_time_and_a_late_one_is_still_confirmed(self) -> None:
        client = await self.relay()
        error: Any = await self.assertFailure(self.hub.execute("r1", command(timeout=60), timeout=0.01), NoResult)
        self.assertEqual(error.executed, "unknown")
        self.assertEqual((await client.next(EventReceived)).name, "execute_command")
        client.send_result(result())
        self.assertEqual((await client.next(EventReceived)).data, {"success": True, "commandId": "c1"})

    async def test_the_commands_own_timeout_counts_where_the_caller_names_none(self) -> None:
        await self.relay()
        await self.assertFailure(self.hub.execute("r1", command(timeout=0.01)), NoResult)

    async def test_a_cancelled_command_is_forgotten(self) -> None:
        client = await self.relay()
        done = self.hub.execute("r1", command())
        done.cancel()
        await self.assertFailure(done, CancelledError)
        again = self.hub.execute("r1", command())
        client.send_result(result())
        self.assertEqual(await again, result())

    async def test_a_command_survives_a_reconnect(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            done = self.hub.execute("r1", command())
            await client.next(EventReceived)
            client.transport.abortConnection()
            await client.closed
            await self.until(lambda: "r1" not in self.hub.relays)
            again = await self.relay(dialect)
            self.assertFalse(done.called)
            again.send_result(result())
            self.assertEqual(await done, result())
            await self.leave(again)

    async def test_a_result_that_makes_no_sense_is_not_confirmed(self) -> None:
        client = await self.relay()
        client.send_malformed(
            "command_result", {"commandId": "c1", "result": {"stdout": "", "stderr": "", "exitCode": "zero"}}
        )
        receipt = (await client.next(EventReceived)).data
        self.assertEqual((receipt["success"], receipt["commandId"]), (False, "c1"))
        self.assertIn("exitCode", receipt["error"])
        client.send_malformed("command_result", ["?"])
        self.assertNotIn("commandId", (await client.next(EventReceived)).data)

    async def test_unknown_events_are_normal(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            client.send("proxy_status", {"load": 1})
            client.send_result(result())
            self.assertTrue((await client.next(EventReceived)).data["success"])
            await self.leave(client)

    # Output, cancelling, questions

    async def test_output_comes_before_the_result(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            got: list[CommandOutput] = []
            done = self.hub.execute("r1", command("c1"), on_output=got.append)
            self.assertIs((await client.next(EventReceived)).data["stream"], True)
            piece = {"commandId": "c1", "stream": "stdout", "offset": 0, "data": "x"}
            client.send("command_output", piece)
            client.send("command_output", piece | {"commandId": "c2"})
            client.send_malformed("command_output", piece | {"offset": "zero"})
            client.send("command_output", piece | {"offset": 1, "encoding": "base64"})
            client.send_result(result())
            await done
            client.send("command_output", piece)
            await client.next(EventReceived)
            self.assertEqual([(each.offset, each.encoding) for each in got], [(0, None), (1, "base64")])
            await self.leave(client)

    async def test_output_that_nobody_wants(self) -> None:
        client = await self.relay()
        done = self.hub.execute("r1", command("c1"))
        self.assertNotIn("stream", (await client.next(EventReceived)).data)
        client.send("command_output", {"commandId": "c1", "stream": "stdout", "offset": 0, "data": "x"})
        client.send_result(result())
        self.assertEqual(await done, result())

    async def test_callback_that_raises(self) -> None:
        client = await self.relay()

        def broken(output: CommandOutput) -> None:
            raise ZeroDivisionError

        done = self.hub.execute("r1", command("c1"), on_output=broken)
        client.send("command_output", {"commandId": "c1", "stream": "stdout", "offset": 0, "data": "x"})
        client.send_result(result())
        self.assertEqual(await done, result())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_cancel_with_an_acknowledgement(self) -> None:
        client = await self.relay()
        asked = self.hub.cancel("r1", "c1")
        event = await client.next(EventReceived)
        self.assertEqual((event.name, event.data), ("cancel_command", {"commandId": "c1"}))
        client.acknowledge(event, {"commandId": "c1", "state": "running"})
        self.assertEqual(await asked, CommandStatus(command_id="c1", state=CommandState.RUNNING))

    async def test_cancel_without_an_acknowledgement(self) -> None:
        client = await self.relay(native)
        self.assertIsNone(await self.hub.cancel("r1", "c1"))
        self.assertEqual((await client.next(EventReceived)).name, "cancel_command")

    async def test_status(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            asked = [self.hub.status("r1", each) for each in ("c1", "c2", "c1")]
            events = [await client.next(EventReceived) for _ in asked]
            self.assertEqual(
                [(event.name, event.data["commandId"]) for event in events],
                [("command_status", each) for each in ("c1", "c2", "c1")],
            )
            for event in reversed(events):
                answer = {"commandId": event.data["commandId"], "state": "queued"}
                if event.ack_id is None:
                    client.send("command_status", answer)
                else:
                    client.acknowledge(event, answer)
            answers = [await each for each in asked]
            self.assertEqual(
                [(each.command_id, each.state.value) for each in answers],
                [(each, "queued") for each in ("c1", "c2", "c1")],
            )
            await self.leave(client)

    async def test_info(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            asked = self.hub.info("r1"), self.hub.info("r1")
            for _ in asked:
                event = await client.next(EventReceived)
                self.assertEqual((event.name, event.data), ("relay_info", {}))
                answer = info(hosts=1, labels=1).to_wire(10_000)
                if event.ack_id is None:
                    client.send("relay_info", answer)
                else:
                    client.acknowledge(event, answer)
            for each in asked:
                self.assertEqual(await each, info(hosts=1, labels=1))
            await self.leave(client)
            await self.assertFailure(self.hub.info("r1"), RelayOffline)

    async def test_info_that_is_refused_or_nonsense_or_does_not_come(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            shape = "relay_info.ack" if dialect is socketio else "relay_info"
            nonsense = malformed({"version": 1}, shape, TO_MAIN_SERVER)
            for answer, kind in (({"error": "no\nidea"}, InfoRefused), (nonsense, InvalidMessage)):
                asked = self.hub.info("r1")
                event = await client.next(EventReceived)
                if event.ack_id is None:
                    client.send("relay_info", answer)
                else:
                    client.acknowledge(event, answer)
                self.assertNotIn("\n", str(await self.assertFailure(asked, kind)))
            asked = self.hub.info("r1")
            await client.next(EventReceived)
            await self.leave(client)
            await self.assertFailure(asked, RelayOffline)

    async def test_question_that_is_refused_or_answered_with_nonsense(self) -> None:
        client = await self.relay()
        asleep = malformed({"state": "asleep"}, "command_status.ack", TO_MAIN_SERVER)
        for answer, kind in (({"error": "no\nidea"}, CommandRefused), (asleep, InvalidMessage)):
            asked = self.hub.status("r1", "c1")
            client.acknowledge(await client.next(EventReceived), answer)
            error = await self.assertFailure(asked, kind)
            self.assertNotIn("\n", str(error))

    async def test_question_to_a_relay_that_leaves(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            asked = self.hub.status("r1", "c1")
            await client.next(EventReceived)
            await self.leave(client)
            await self.assertFailure(asked, RelayOffline)
            await self.assertFailure(self.hub.status("r1", "c1"), RelayOffline)
            await self.assertFailure(self.hub.cancel("r1", "c1"), RelayOffline)

    async def test_question_taken_back(self) -> None:
        client = await self.relay(native)
        first, second = self.hub.status("r1", "c1"), self.hub.status("r1", "c1")
        first.cancel()
        await self.assertFailure(first, CancelledError)
        client.send("command_status", {"commandId": "c1", "state": "unknown"})
        client.send_malformed("command_status", {"commandId": "c1", "state": "?"})
        self.assertEqual((await second).state, CommandState.UNKNOWN)

    # Who may connect

    async def test_a_wrong_key_on_socketio_is_told_after_joining(self) -> None:
        for proxy_id, key in (("r1", KEY + "x"), ("nobody", KEY), ("r1", ""), ("", ""), ("r1", KEY + "2")):
            client = await self.dial(socketio, proxy_id, key)
            await client.joined()
            event = await client.next(Disconnected)
            self.assertFalse(event.refused)
            await client.closed
        self.assertEqual(dict(self.hub.relays), {})

    async def test_a_wrong_key_on_native_is_an_http_401(self) -> None:
        for proxy_id, key in (("r1", KEY + "x"), ("nobody", KEY), ("r1", "")):
            client = await self.dial(native, proxy_id, key)
            _, reason = await client.closed
            self.assertIn("[401]", str(reason))
        self.assertEqual(dict(self.hub.relays), {})

    async def test_a_key_given_twice_is_no_key(self) -> None:
        answer = await self.http(
            f"GET /proxy?proxyId=r1&apiKey={KEY}&apiKey=x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.assertIn("HTTP/1.1 401 Unauthorized\r\n", answer)

    async def test_keys_can_be_looked_up(self) -> None:
        self.hub._key_of = lambda proxy_id: Secret(proxy_id * 2)
        client = await self.dial(native, "r9", "r9r9")
        await self.hub.when_connected("r9")
        await client.joined()

    async def test_a_newer_connection_replaces_the_older(self) -> None:
        for old_dialect, new_dialect in ((socketio, native), (native, socketio)):
            old = await self.relay(old_dialect)
            new = await self.dial(new_dialect)
            await new.joined()
            await old.closed
            if old_dialect is socketio:
                await old.next(Disconnected)
            self.assertEqual(list(self.hub.relays), ["r1"])
            done = self.hub.execute("r1", command())
            await new.next(EventReceived)
            new.send_result(result())
            await done
            await self.leave(new)

    async def test_waiting_for_a_relay_can_be_cancelled(self) -> None:
        waiting, other = self.hub.when_connected("r1"), self.hub.when_connected("r1")
        waiting.cancel()
        await self.assertFailure(waiting, CancelledError)
        await self.relay()
        await other

    # The wire

    async def test_polling_is_refused_in_words(self) -> None:
        answer = await self.http("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: h\r\n\r\n")
        head, _, body = answer.partition("\r\n\r\n")
        self.assertTrue(head.startswith("HTTP/1.1 400 Bad Request\r\n"), head)
        self.assertEqual(body, "The polling transport is not supported here: use transport=websocket.\n")

    async def test_other_requests_are_refused_in_words(self) -> None:
        upgrade = (
            "HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        for path, status, words in (
            ("/socket.io/?EIO=3&transport=websocket", 400, "revision 4"),
            ("/socket.io/?EIO=4&transport=polling", 400, "transport=websocket"),
            ("/other", 404, "/proxy"),
        ):
            answer = await self.http(f"GET {path} {upgrade}")
            self.assertIn(f"HTTP/1.1 {status} ", answer)
            self.assertIn(words, answer)

    async def test_nagle_and_compression_are_off(self) -> None:
        client = await self.dial(native, perMessageCompressionOffers=[PerMessageDeflateOffer()])
        await client.joined()
        self.assertEqual(client.extensions, [])
        await self.hub.when_connected("r1")
        self.assertTrue(self.hub.relays["r1"].transport.getTcpNoDelay())

    async def test_nonsense_closes_the_connection(self) -> None:
        client = await self.relay()
        client.sendMessage(b"9?")
        client.send_result(result())  # which finds the connection closing
        code, _ = await client.closed
        self.assertEqual(code, 1002)

    async def test_the_key_is_in_no_log(self) -> None:
        seen: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            seen.append(formatEvent(event) + repr(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        client = await self.relay()
        for path in (f"/proxy?apiKey={KEY}#x{KEY}", f"/nowhere?apiKey={KEY}", f"/proxy ?apiKey={KEY}"):
            answer = await self.http(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
            self.assertIn("HTTP/1.1 4", answer)
            self.assertNotIn(KEY, answer)
        for dialect in DIALECTS:
            wrong = await self.dial(dialect, "r1", KEY + "x")
            await wrong.closed
        client.sendClose()
        await client.closed
        await self.until(lambda: not self.hub.relays)
        text = "\n".join(seen)
        self.assertIn("Relay r1 connected", text)
        self.assertIn("Refused", text)
        self.assertNotIn(KEY, text)

    # The end

    async def test_closing_fails_what_is_pending_and_closes_the_connections(self) -> None:
        one, two = await self.relay(), await self.relay(native, "r2", KEY + "2")
        pending = self.hub.execute("r1", command())
        waiting = self.hub.when_connected("nobody")
        half_open = await self.dial(socketio, mute=True)
        closed = Deferred.fromCoroutine(self.hub.close())
        await self.assertFailure(pending, HubClosed)
        await self.assertFailure(waiting, CancelledError)
        await closed
        codes = [(await client.closed)[0] for client in (one, two, half_open)]
        self.assertEqual(codes[:2], [1001, 1001])
        self.assertEqual(dict(self.hub.relays), {})
        # a common client of Socket.IO would not come again after that
        self.assertEqual([each for each in one.events.pending if isinstance(each, Disconnected)], [])


class BoundsTests(HubTestCase):
    """Heartbeats and sizes, with settings small enough to see them at work."""

    settings = HubSettings(
        ping_interval=0.3, ping_timeout=0.3, join_timeout=1.0, max_payload=5000, grace=0.0, answer_timeout=0.01
    )

    async def test_a_relay_that_does_not_understand_a_question(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            await self.assertFailure(self.hub.status("r1", "c1"), NoAnswer)
            await self.assertFailure(self.hub.info("r1"), NoInfo)
            self.assertEqual(self.hub.links.asking._questions._asked, {})
            await self.leave(client)

    async def test_a_silent_relay_is_dropped(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            client.mute = True
            await client.closed
            await self.until(lambda: not self.hub.relays)

    async def test_a_relay_in_the_middle_of_a_frame_is_dropped(self) -> None:
        """It sends a byte now and then, and no frame is ever whole."""
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            client.mute = True
            client.beginMessage()
            client.beginMessageFrame(4000)
            dripping = LoopingCall(lambda client=client: client.sendMessageFrameData(b"x"))
            dripping.start(0.01)
            await client.closed
            dripping.stop()
            await self.until(lambda: not self.hub.relays)

    async def test_heartbeats_keep_a_live_relay(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            for _ in range(5):
                await client.next(HeartbeatReceived)
            self.assertIn("r1", self.hub.relays)
            await self.leave(client)

    async def test_a_client_that_never_joins_is_dropped(self) -> None:
        client = await self.dial(socketio, only_pongs=True)
        await client.next(HeartbeatReceived)
        await client.closed

    async def test_a_message_beyond_the_limit_closes_the_connection(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            client.send_result(result(stdout="x" * 6000))
            code, _ = await client.closed
            self.assertEqual(code, 1009)

    async def test_nor_may_a_message_in_parts_go_beyond_it(self) -> None:
        client = await self.relay()
        client.beginMessage()
        client.sendMessageFrame(b"x" * 3000)
        client.sendMessageFrame(b"x" * 3000)
        code, _ = await client.closed
        self.assertEqual(code, 1009)

    async def test_the_limit_is_told(self) -> None:
        client = await self.relay()
        self.assertEqual(client.dialect.max_payload, 5000)
