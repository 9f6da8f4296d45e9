"""
The uplink service in memory: time by a Clock, the network by iosim, the main server by autobahn's server protocol.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import txaio.tx
from twisted.logger import LogLevel

from relayd.errors import KeyUnusable, Overloaded
from relayd.uplink.conversation import ATTACHMENT_TIMEOUT
from relayd.uplink.service import UplinkStatus
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import AckReceived, EventReceived
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.receiver import RecordingReceiver, echo
from tests.support.schemas import malformed
from tests.support.uplink import KEY, ORDER, Scripted, ServiceCase


class Visiting(ServiceCase):
    """Only to ask whether the main server would have the relay."""

    def test_nothing_is_taken_once_it_is_accepted(self) -> None:
        self.service._on_accepted = lambda connection: connection.close()
        server, pump = self.connected()
        server.dialect.request("execute_command", ORDER)
        server.dialect.request("command_status", {"commandId": "c1"})
        server.flush()
        pump.flush()
        self.assertEqual(self.receiver.words(), ["ready", "lost"])
        self.assertEqual(server.closed, 1000)
        self.assertEqual([event for event in server.events if isinstance(event, AckReceived)], [])


class Reconnecting(ServiceCase):
    def test_unreachable(self) -> None:
        """Every five seconds or so, for ever, with one clear line each."""
        for attempt in range(1, 30):
            self.assertEqual(self.attempts(), attempt)
            self.refuse()
            self.advance(2.99)
            self.assertEqual(self.attempts(), attempt)
            self.advance(4.02)
        self.assertEqual(len(self.warnings()), 29)
        self.assertIn("http://192.0.2.9:3000 cannot be reached: connection refused", self.warnings()[0])
        self.assertIn("look at the port in --server", self.warnings()[0])
        self.assertEqual(len(self.keys), 30, "the key is read again at each attempt")

    def test_wrong_key(self) -> None:
        """Thrown out in the probation, again and again: the delay grows, until the relay is really accepted."""
        for least in (3, 6, 12):
            attempts = self.attempts()
            server, pump = self.connected()
            self.assertEqual(self.receiver.words()[-1], "ready")
            server.dialect.close()
            server.flush()
            pump.flush()
            self.assertEqual(self.receiver.words()[-1], "lost")
            self.assertIn("compare --proxy-id", self.warnings()[-1])
            self.advance(least - 0.01)
            self.assertEqual(self.attempts(), attempts)
            self.advance(least * 1.35)
            self.assertEqual(self.attempts(), attempts + 1)
        server, pump = self.connected()
        self.advance(2.1)
        attempts = self.attempts()
        server.dialect.close()
        server.flush()
        pump.flush()
        self.assertIn("(it disconnected the namespace), although it had accepted this relay", self.warnings()[-1])
        self.advance(7.01)
        self.assertEqual(self.attempts(), attempts + 1, "the delay grows from the start again")

    def test_status(self) -> None:
        """Only what the main server has really accepted counts, and why there is nothing is remembered."""
        self.assertEqual(self.service.status, UplinkStatus())
        server, pump = self.connected()
        self.assertFalse(self.service.status.accepted)
        self.advance(2.1)
        status = self.service.status
        self.assertEqual((status.accepted, status.dialect, status.last_error), (True, "socketio", None))
        server.dialect.close()
        server.flush()
        pump.flush()
        status = self.service.status
        self.assertEqual((status.accepted, status.dialect, status.losses), (False, None, 1))
        self.assertIn("it disconnected the namespace", str(status.last_error))

    def test_since_when_it_is_not_accepted(self) -> None:
        """From its start, whatever attempts are made: the main server throws the relay out of each."""
        self.service.stopService()
        self.reactor.advance(1000)
        self.begin()
        started = self.reactor.seconds()
        for _ in range(2):
            self.assertEqual(self.service.status.since, started)
            server, pump = self.connected()
            self.advance(0.5)
            server.dialect.close()
            server.flush()
            pump.flush()
            self.advance(20)
        self.assertEqual(self.service.status.since, started)
        self.connected()
        self.advance(2.1)
        self.assertEqual(self.service.status.since, self.reactor.seconds())

    def test_the_log_says_when_the_relay_is_accepted(self) -> None:
        """Not before; and it names the URL as it was given, but for what may be a secret."""
        self.service.stopService()
        self.begin(server="ws://192.0.2.9:3000/Main?token=hunter2")
        del self.events[:]
        self.refuse()
        self.assertIn("ws://192.0.2.9:3000/Main cannot be reached", self.warnings()[0])
        self.advance(7)
        self.connected()
        said = [f"{what} ws://192.0.2.9:3000/Main as p (socketio)" for what in ("Connecting to", "Connected to")]
        self.assertEqual(self.lines(LogLevel.info), said)
        self.advance(2.1)
        self.assertEqual(self.lines(LogLevel.info), [*said, "Accepted by ws://192.0.2.9:3000/Main as p (socketio)"])

    def test_http_answers(self) -> None:
        for answer, words, least in (
            ("401 Unauthorized", "refused this relay (HTTP 401)", 3),
            ("403 Forbidden", "refused this relay (HTTP 403", 6),
            ("503 Busy\r\nRetry-After: 90", "asks relayd to come back in 90 s", 90),
            ("429 Slow down\r\nRetry-After: 60", "asks relayd to come back in 60 s", 60),
            ("503 Busy\r\nRetry-After: 99999999", "asks relayd to come back in 1157 d 10 h", 3600),
            ("503 Busy\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT", "asks relayd to come back in 0 s", 5),
            ("503 Busy\r\nRetry-After: Sun, 06 Nov 99999999999999999999 08:49:37 GMT", "it answers HTTP 503", 3),
            ("429 Slow down\r\nRetry-After: soon", "it answers HTTP 429", 3),
            ("502 Bad Gateway", "it answers HTTP 502", 3),
            ("404 Not Found", "does not speak socketio at /socket.io/: HTTP 404", 3),
            ("101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x", "bogus", 3),
        ):
            server = Scripted(f"HTTP/1.1 {answer}\r\n\r\n".encode())
            self.join(server).flush()
            if answer.startswith(("403", "502")) or words == "it answers HTTP 503":
                self.no_polling()
            self.assertIn(words, self.warnings()[-1])
            attempts = self.attempts()
            self.advance(least - 0.01)
            self.assertEqual(self.attempts(), attempts)
            self.advance(least * 1.4)
            self.assertEqual(self.attempts(), attempts + 1)

    def test_no_http(self) -> None:
        """Whatever answers, the connection ends in good order, and with a bound on what is read."""
        for answer in (
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"\xff\xfe\r\n\r\n",
            b"HTTP/1.1 \r\n\r\n",
            b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\n\r\n",  # more digits than Python makes a number of
            b"x" * 70_000,
        ):
            attempts = self.attempts()
            server = Scripted(answer)
            self.join(server).flush()
            self.assertIn("does not speak socketio", self.warnings()[-1])
            self.assertLess(len(self.warnings()[-1]), 500)
            self.advance(7.01)
            self.assertEqual(self.attempts(), attempts + 1)

    def test_silent_server(self) -> None:
        self.join(Scripted(b"")).flush()
        self.advance(20.1)
        self.no_polling()
        self.assertIn("did not finish the HTTP handshake within 20 s", self.warnings()[-1])

    def test_key_unusable(self) -> None:
        """Nothing is dialled without a key; it is looked for again."""
        self.successResultOf(self.service.stopService())
        keys = [KeyUnusable(reason="its file is gone"), None]

        def read() -> Secret:
            error = keys.pop(0)
            if error is not None:
                raise error
            return Secret(KEY)

        attempts = self.attempts()
        self.read_key = read  # type: ignore[method-assign]
        self.begin()
        self.assertEqual(self.attempts(), attempts)
        self.assertIn("The API key cannot be used: its file is gone. Next attempt in", self.warnings()[-1])
        self.advance(7.01)
        self.assertEqual(self.attempts(), attempts + 1)

    def test_internal_error(self) -> None:
        """A bug of ours is logged, and does not end the service."""
        self.successResultOf(self.service.stopService())
        self.read_key = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        self.begin()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.read_key = lambda: Secret(KEY)  # type: ignore[method-assign]
        self.advance(7.01)
        self.flushLoggedErrors(ZeroDivisionError)


class Flowing(ServiceCase):
    def test_request(self) -> None:
        server, _ = self.connected()
        self.assertEqual(server.target, "/socket.io/ EIO,apiKey,proxyId,transport")
        self.assertTrue(server.http_headers["user-agent"].startswith("relayd/"))
        self.assertEqual(server.http_headers["host"], "192.0.2.9:3000")
        self.assertNotIn("sec-websocket-extensions", server.http_headers)

    def test_shown_in_connect_too(self) -> None:
        """Some main servers read ``handshake.auth``, and not the query."""
        shown: list[object] = []
        server = self.main_server()
        connect = server.dialect._connect
        server.dialect._connect = lambda packet: shown.append(packet.data) or connect(packet)
        self.join(server).flush()
        self.assertEqual(shown, [{"proxyId": "p", "apiKey": KEY}])
        self.advance(2.1)
        self.assertTrue(self.service.status.accepted)

    def test_commands(self) -> None:
        server, pump = self.connected()
        server.dialect.request("execute_command", ORDER)
        server.dialect.send_event("execute_command", malformed(ORDER | {"port": "x", "commandId": "c2"}))
        server.dialect.send_event("execute_command", malformed(["no", "command"]))
        perhaps = malformed({"success": "perhaps"}, "command_result_received")
        server.dialect.send_event("command_result_received", perhaps)
        server.dialect.send_event("command_result_received", {"success": False, "error": "commandId is missing"})
        server.dialect.send_event("proxy_status_update", malformed(None, "proxy_status_update"))
        server.dialect.send_event("news", None)
        server.flush()
        pump.flush()
        self.assertEqual(self.receiver.words(), ["ready", "command", "invalid", "invalid", "receipt"])
        self.assertIn(AckReceived(0, None), server.events)
        results: list[Any] = [event.data for event in server.events if isinstance(event, EventReceived)]
        self.assertEqual([data["commandId"] for data in results], ["c1", "c2"])
        self.assertIn("command_result_received was refused: success", self.warnings()[-1])
        self.assertEqual(self.service.ignored, 1)

    def test_ids_that_are_numbers(self) -> None:
        """Whoever asks with one is answered with one."""
        server, pump = self.connected()
        for event in ("command_status", "cancel_command"):
            server.dialect.request(event, {"commandId": 7})
        server.dialect.send_event("command_status", {"commandId": 7})
        server.dialect.send_event("execute_command", malformed(ORDER | {"commandId": 8, "port": "x"}))
        server.flush()
        pump.flush()
        data: list[Any] = [event.data for event in server.events if isinstance(event, AckReceived | EventReceived)]
        self.assertEqual([each["commandId"] for each in data], [7, 7, 7, 8])
        self.assertEqual(self.receiver.calls[-1][1].numeric_id, True)

    def test_attachments_that_never_come(self) -> None:
        """The order gets its result, the link goes on, and no timer is left."""
        server, pump = self.connected()
        place = {"_placeholder": True, "num": 0}
        binary = f"451-/proxy,{json.dumps(['execute_command', ORDER | {'privateKey': place}])}"
        server.sendMessage(binary.encode())
        pump.flush()
        self.assertEqual(self.receiver.words(), ["ready"])
        for _ in range(6):
            server.dialect.ping()
            server.flush()
            self.advance(ATTACHMENT_TIMEOUT / 6 + 0.1)
        self.assertEqual(self.receiver.words(), ["ready", "invalid"])
        results: list[Any] = [event.data for event in server.events if isinstance(event, EventReceived)]
        self.assertEqual([data["commandId"] for data in results], ["c1"])
        self.assertIn("privateKey came without the binary attachment", results[0]["result"]["stderr"])
        server.dialect.send_event("execute_command", ORDER)
        server.flush()
        pump.flush()
        self.assertEqual(self.receiver.words()[-1], "command")
        server.sendMessage(binary.replace("c1", "c2").encode())
        pump.flush()

    def test_attachments(self) -> None:
        server, pump = self.connected()
        place = {"_placeholder": True, "num": 0}
        server.sendMessage(f"451-/proxy,5{json.dumps(['execute_command', ORDER | {'stdin': place}])}".encode())
        server.sendMessage(b"\xff\x00", isBinary=True)
        pump.flush()
        self.assertEqual(self.receiver.calls[-1][1].stdin, b"\xff\x00")
        self.assertIn(AckReceived(5, None), server.events)

    def test_refusal(self) -> None:
        self.receiver._answer = lambda command: Overloaded(running=1, queued=2)
        server, pump = self.connected()
        server.dialect.request("execute_command", ORDER)
        server.flush()
        pump.flush()
        answers: list[Any] = [event.data for event in server.events if isinstance(event, AckReceived)]
        self.assertEqual([list(answer) for answer in answers], [["error"]])
        self.assertIn("relayd is full", answers[0]["error"])

    def test_late(self) -> None:
        """Acknowledgements and results for a link that is gone go nowhere, quietly."""
        late: list[Callable[[], None]] = []

        class Slow(RecordingReceiver):
            def command_received(self, command: ExecuteCommand, acknowledge: Any) -> None:
                link = self.link
                late.append(lambda: acknowledge(None))
                late.append(lambda: link.send_result(echo(command)))  # type: ignore[union-attr]

        self.successResultOf(self.service.stopService())
        self.receiver = Slow()
        self.begin()
        server, pump = self.connected()
        server.dialect.request("execute_command", ORDER)
        server.flush()
        pump.flush()
        server.transport.abortConnection()
        pump.flush()
        self.assertEqual(self.receiver.words(), ["ready", "lost"])
        for call in late:
            call()
        self.assertEqual(len(late), 2)

    def test_receiver_that_raises(self) -> None:
        """It promises not to; but the link does not die of it."""

        def broken(command: ExecuteCommand) -> CommandResult:
            raise ZeroDivisionError

        self.receiver._answer = broken
        server, pump = self.connected()
        server.dialect.send_event("execute_command", ORDER)
        server.flush()
        pump.flush()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.receiver.words(), ["ready"])

    def test_result_of_escapes(self) -> None:
        """What counts is the size on the wire."""
        server, pump = self.connected(socketio.SocketIOServerDialect(accepts=5000))
        self.receiver.link.send_result(  # type: ignore[union-attr]
            CommandResult(command_id="c1", stdout="\x01" * 4000, stderr="", exit_code=0)
        )
        pump.flush()
        self.assertIn("bytes cut here to fit the link", server.events[-1].data["result"]["stdout"])
        self.assertIn("The output of c1 is larger than the 5000 bytes", self.warnings()[-1])

    def test_surrogates(self) -> None:
        """A text that is no Unicode is repaired rather than lost."""
        server, pump = self.connected()
        result = CommandResult(command_id="c1", stdout="a\udc80b", stderr="", exit_code=0)
        self.receiver.link.send_result(result)  # type: ignore[union-attr]
        pump.flush()
        self.assertEqual(server.events[-1].data["result"]["stdout"], "a?b")

    def test_malformed(self) -> None:
        """The link is closed with the code for that, and the log does not repeat what came."""
        server, pump = self.connected()
        server.sendMessage(b'42/proxy,["hunter2')
        pump.flush()
        self.assertEqual(server.closed, 1002)
        self.assertIn("does not understand: malformed JSON", self.warnings()[-1])
        self.assertEqual(self.receiver.words(), ["ready", "lost"])

    def test_invalid_utf8(self) -> None:
        server, pump = self.connected()
        server.sendMessage(b"42/proxy,\xff")
        pump.flush()
        self.assertEqual(server.closed, 1007)

    def test_oversized_frame_is_not_collected(self) -> None:
        """Once a frame was announced that is too large, nothing of it is kept while the connection closes."""
        self.successResultOf(self.service.stopService())
        self.begin(max_frame=1000)
        server, pump = self.connected()
        server.deaf = True
        server.transport.write(b"\x81\x7f" + (10**6).to_bytes(8, "big"))
        pump.flush()
        self.assertEqual(server.closed, 1009)
        connection: Any = self.receiver.calls[0][1]
        for _ in range(10):
            server.transport.write(b"x" * 1000)
            pump.flush()
        self.assertEqual((connection.wire.frame_data, connection.wire.data), ([], b""))

    def test_recursion(self) -> None:
        """Data that nests just less than what JSON decoding refuses overflows the stack of whoever looks at it."""

        def deep(command: ExecuteCommand) -> CommandResult:
            raise RecursionError

        self.receiver._answer = deep
        server, pump = self.connected()
        server.dialect.send_event("execute_command", ORDER)
        server.flush()
        pump.flush()
        self.assertIn("nests too deeply", self.warnings()[-1])

    def test_autobahn_is_silent(self) -> None:
        """At its most talkative, it would log the request, and with it the key; `tearDown` looks for that."""
        make_talkative: Any = txaio.tx.set_global_log_level
        make_talkative("trace")
        self.addCleanup(make_talkative, "info")
        server = Scripted(b"HTTP/1.1 500 Oh\r\n\r\n")
        self.join(server).flush()
        self.assertIn(KEY.encode(), server.received)
        self.no_polling()
        self.assertIn("it answers HTTP 500", self.warnings()[-1])

    def test_deep_nesting(self) -> None:
        """Where it ends the rest is there; where it does not, so does the connection."""
        server, pump = self.connected()
        for deep in ("[" * 3000 + "]" * 3000, "[" * 3000):
            self.assertEqual(self.warnings(), [])
            server.sendMessage(f'42/proxy,["command_result_received",{{"success":true,"error":{deep}}}]'.encode())
            pump.flush()
        self.assertEqual(self.receiver.words(), ["ready", "receipt", "lost"])
        self.assertIn("malformed JSON", self.warnings()[-1])

    def test_broken_frames(self) -> None:
        """What is no WebSocket at all ends the connection in good order."""
        server, pump = self.connected()
        server.transport.write(b"\x93\x05hello" + b"x" * 1000)
        pump.flush()
        self.assertEqual(server.closed, 1002)

    def test_dead_link(self) -> None:
        """No heartbeat for pingInterval and pingTimeout together."""
        server, pump = self.connected(socketio.SocketIOServerDialect(ping_interval=10, ping_timeout=5))
        for _ in range(3):
            self.advance(14.9)
            server.dialect.ping()
            server.flush()
            pump.flush()
        self.assertEqual(self.receiver.words(), ["ready"])
        self.advance(15.1)
        self.assertEqual(self.receiver.words(), ["ready", "lost"])
        self.assertIn("nothing arrived from it for 15 s", self.warnings()[-1])

    def test_frame_that_never_ends(self) -> None:
        """A byte now and then, in the middle of a frame, is no sign of life."""
        server, pump = self.connected(socketio.SocketIOServerDialect(ping_interval=10, ping_timeout=5))
        server.transport.write(b"\x81\x7e\xff\xff")
        for _ in range(14):
            self.advance(1)
            server.transport.write(b"4")
            pump.flush()
        self.assertEqual(self.receiver.words(), ["ready"])
        self.advance(1.1)
        self.assertEqual(self.receiver.words(), ["ready", "lost"])
        self.assertIn("nothing arrived from it for 15 s", self.warnings()[-1])

    def test_large_frame_on_a_slow_line(self) -> None:
        """As long as it comes on, it may take as long as it likes."""
        server, pump = self.connected(socketio.SocketIOServerDialect(ping_interval=10, ping_timeout=5))
        server.transport.write(b"\x81\x7e\xff\xff")
        for size in (5000, 2000, 3000, 5000):
            self.advance(7)
            server.transport.write(b"4" * size)
            pump.flush()
        self.advance(14)
        self.assertEqual(self.receiver.words(), ["ready"])
        self.advance(1.1)
        self.assertEqual(self.receiver.words(), ["ready", "lost"])

    def test_no_namespace(self) -> None:
        """A main server that opens Engine.IO, but never the namespace."""
        server = self.main_server()
        server.deaf = True
        self.join(server).flush()
        self.advance(20.1)
        self.advance(5.1)  # for the closing handshake, in which it has no part either
        self.assertIn("did not finish the handshake of the dialect within 20 s", self.warnings()[-1])


class Stopping(ServiceCase):
    def stop(self) -> None:
        self.stopped = self.service.stopService()

    def test_while_dialling(self) -> None:
        self.stop()
        self.successResultOf(self.stopped)
        self.assertTrue(self.reactor.connectors[-1].stoppedConnecting)

    def test_while_waiting(self) -> None:
        self.refuse()
        self.stop()
        self.successResultOf(self.stopped)
        self.advance(60)
        self.assertEqual(self.attempts(), 1)

    def test_while_shaking_hands(self) -> None:
        pump = self.join(Scripted(b""))
        pump.flush()
        self.stop()
        pump.flush()
        self.successResultOf(self.stopped)
        self.assertEqual(self.receiver.words(), [])

    def test_politely(self) -> None:
        server, pump = self.connected()
        self.stop()
        self.assertEqual(self.receiver.words(), ["ready", "lost"])
        self.assertNoResult(self.stopped)
        pump.flush()
        self.successResultOf(self.stopped)
        self.assertEqual(server.events[-1].reason, "it disconnected the namespace")
        self.assertEqual(server.closed, 1000)
        self.advance(60)
        self.assertEqual(self.attempts(), 1)
        self.assertEqual(self.warnings(), [])

    def test_main_server_that_hangs(self) -> None:
        """Five seconds are enough to say good-bye."""
        server, pump = self.connected()
        server.deaf = True
        self.stop()
        pump.flush()
        self.advance(4.9)
        self.assertNoResult(self.stopped)
        self.advance(0.2)
        self.successResultOf(self.stopped)

    def test_restart(self) -> None:
        """A service can be started again."""
        self.stop()
        self.advance(0)
        self.successResultOf(self.stopped)
        self.service.startService()
        _server, _ = self.connected()
        self.assertEqual(self.receiver.words(), ["ready"])


class Native(ServiceCase):
    dialect = "native"

    def test_pings(self) -> None:
        server, _ = self.connected(native.NativeServerDialect())
        self.assertEqual(server.target, "/proxy apiKey,proxyId")
        for _ in range(3):
            self.advance(12.5)
            self.advance(12.5)
        self.assertEqual(server.pings, 3)
        server.answers_pings = False
        for _ in range(46):
            self.advance(1)
        self.assertIn("nothing arrived from it", self.warnings()[-1])

    def test_greeting_shows_the_dialect(self) -> None:
        """An event of no use proves nothing of the key, but what follows is no other dialect."""
        server, pump = self.connected(native.NativeServerDialect())
        server.dialect.send_event("welcome", {})
        server.flush()
        pump.flush()
        self.assertFalse(self.service.status.accepted)
        server.sendFrame(opcode=1, payload=b"\xff")
        pump.flush()
        self.assertIn("a text message that is not UTF-8", self.warnings()[-1])
        self.assertNotIn("does not speak", self.warnings()[-1])

    def test_close_codes(self) -> None:
        """Before the relay is accepted, a close frame means refusal; unless its code says that the server leaves."""
        for code, words in (
            (1001, "lost: it closed the WebSocket with code 1001"),
            (1012, "lost: it closed the WebSocket with code 1012"),
            (1013, "lost: it closed the WebSocket with code 1013"),
            (1000, "refused this relay (it c"),
            (1008, "refused this relay (it c"),
            (4401, "refused this relay (it c"),
        ):
            self.service.servers[0].retry.accepted()
            attempts = self.attempts()
            server, pump = self.connected(native.NativeServerDialect())
            server.sendCloseFrame(code=code)
            pump.flush()
            server.transport.loseConnection()
            pump.flush()
            self.assertIn(words, self.warnings()[-1])
            self.advance(7.01)
            self.assertEqual(self.attempts(), attempts + 1)

    def test_close_codes_and_the_delay(self) -> None:
        """Turned away, again and again, the relay stays away for longer; a main server that restarts has it back."""
        for code, least in ((1008, 3), (4401, 6), (1008, 12), (1012, 3), (1013, 3), (4401, 24)):
            server, pump = self.connected(native.NativeServerDialect())
            server.sendCloseFrame(code=code)
            pump.flush()
            server.transport.loseConnection()
            pump.flush()
            attempts = self.attempts()
            self.advance(least - 0.01)
            self.assertEqual(self.attempts(), attempts)
            self.advance(least * 1.4)
            self.assertEqual(self.attempts(), attempts + 1)


class Auto(ServiceCase):
    dialect = "auto"

    def mismatch(self, answer: str = "404 Not Found") -> None:
        self.join(Scripted(f"HTTP/1.1 {answer}\r\n\r\n".encode())).flush()

    def test_native_is_found_at_once(self) -> None:
        self.mismatch()
        self.assertEqual(self.attempts(), 2, "without a delay")
        server, pump = self.connected(native.NativeServerDialect())
        self.assertTrue(server.target.startswith("/proxy"))
        self.assertEqual(self.warnings(), [])
        self.advance(2.1)
        # remembered: the next attempt begins with it, and Socket.IO is not tried when it cannot be reached
        server.transport.abortConnection()
        pump.flush()
        self.advance(7.01)
        self.assertEqual(self.attempts(), 3)
        self.refuse()
        self.assertEqual(self.attempts(), 3)
        self.advance(7.01)
        server, _ = self.connected(native.NativeServerDialect())
        self.assertTrue(server.target.startswith("/proxy"))

    def test_server_changes_its_dialect(self) -> None:
        server, pump = self.connected()
        self.advance(2.1)
        server.transport.abortConnection()
        pump.flush()
        self.advance(7.01)
        self.mismatch()
        server, _ = self.connected(native.NativeServerDialect())
        self.assertTrue(server.target.startswith("/proxy"))

    def test_unreachable_is_no_mismatch(self) -> None:
        self.refuse()
        self.assertEqual(self.attempts(), 1)
        self.advance(7.01)
        self.mismatch("429 Slow down\r\nRetry-After: 1")
        self.assertEqual(self.attempts(), 2)

    def test_native_server_on_every_path(self) -> None:
        """It takes the Socket.IO request too, and says nothing, or something else."""
        self.connected(native.NativeServerDialect())
        self.advance(4.9)
        self.assertEqual(self.attempts(), 1)
        self.advance(0.2)
        self.assertEqual(self.attempts(), 2)

    def test_first_frame_of_another_kind(self) -> None:
        dialect = native.NativeServerDialect()
        dialect.send_event("welcome", {})
        self.connected(dialect)
        self.assertEqual(self.attempts(), 2)
        self.assertEqual(self.receiver.words(), [])

    def test_a_failure_at_one_path_says_nothing_of_the_other(self) -> None:
        """Django Channels answers 500 where it has no route, a front 502 where nothing is behind its ``/``."""
        for answer in ("500 Internal Server Error", "502 Bad Gateway", "503 Down\r\nRetry-After: 9", "504 Time-out"):
            self.successResultOf(self.service.stopService())
            self.begin()
            attempts = self.attempts()
            self.mismatch(answer)
            self.assertEqual(self.attempts(), attempts + 1)
            server, pump = self.connected(native.NativeServerDialect())
            self.assertTrue(server.target.startswith("/proxy"))
            self.advance(2.1)
            self.assertTrue(self.service.status.accepted)
            server.transport.abortConnection()
            pump.flush()

    def test_a_plea_to_stay_away_counts_if_both_fail(self) -> None:
        self.mismatch("503 Down\r\nRetry-After: 90")
        self.mismatch()
        self.assertIn("socketio: The main server http://192.0.2.9:3000 accepts no connection now", self.warnings()[-1])
        self.advance(89)
        self.assertEqual(self.attempts(), 2)

    def test_an_open_packet_shows_the_dialect(self) -> None:
        """From then on the main server has its full time, whose handler of connections may ask a slow database."""
        server = self.main_server()
        handle, server.dialect._connect = server.dialect._connect, lambda packet: ()
        self.join(server).flush()
        self.advance(19.8)
        self.assertEqual(self.attempts(), 1)
        handle(socketio.Packet(socketio.sio.CONNECT, {}, "/proxy"))
        server.flush()
        self.advance(0.1)
        self.advance(2.1)
        self.assertTrue(self.service.status.accepted)

    def test_an_open_packet_and_nothing_more(self) -> None:
        server = self.main_server()
        server.dialect._connect = lambda packet: ()
        self.join(server).flush()
        self.advance(20.1)
        self.assertEqual(self.attempts(), 1)
        self.assertIn("did not finish the handshake of the dialect within 20 s", self.warnings()[-1])

    def test_slow_before_the_websocket(self) -> None:
        """Silent for five seconds, and then the other dialect is not spoken: it was only slow."""
        self.join(Scripted(b"")).flush()
        self.advance(5.1)
        self.mismatch()
        self.assertEqual(self.attempts(), 3)
        server = self.main_server()
        pump = self.join(server)
        self.advance(19.8)
        pump.flush()
        self.advance(2.1)
        self.assertTrue(self.service.status.accepted)
        self.assertEqual((self.warnings(), self.service.status.dialect), ([], "socketio"))

    def test_a_slow_native_server(self) -> None:
        self.mismatch()
        pump = self.join(self.main_server(native.NativeServerDialect()))
        self.advance(19.8)
        pump.flush()
        self.advance(2.1)
        self.assertEqual(self.service.status.dialect, "native")

    def test_a_dialect_that_is_not_spoken_any_more(self) -> None:
        """After three failures in a row whatever was known is in doubt."""
        server, pump = self.connected()
        self.advance(2.1)
        server.transport.abortConnection()
        pump.flush()
        for attempt in range(2, 5):
            self.advance(7.01)
            self.assertEqual(self.attempts(), attempt)
            self.mismatch("500 Oh")
        self.advance(7.01)
        self.mismatch("500 Oh")
        self.assertEqual(self.attempts(), 6)
        server, _ = self.connected(native.NativeServerDialect())
        self.advance(2.1)
        self.assertEqual(self.service.status.dialect, "native")

    def test_a_front_that_takes_one_connection(self) -> None:
        self.mismatch()
        self.refuse()
        self.assertIn("wss://HOST; native: The main server http://192.0.2.9:3000 cannot be", self.warnings()[-1])
        self.advance(7.01)
        self.assertEqual(self.attempts(), 3)

    def test_neither(self) -> None:
        """Then it is told how far each came, and the usual delay is kept."""
        self.mismatch()
        self.mismatch("400 Bad Request")
        self.assertEqual(self.attempts(), 2)
        self.assertIn("accepts this relay in neither dialect. socketio: ", self.warnings()[-1])
        self.assertIn("does not speak socketio at /socket.io/: HTTP 404", self.warnings()[-1])
        self.assertIn("does not speak native at /proxy: HTTP 400", self.warnings()[-1])
        self.advance(7.01)
        self.assertEqual(self.attempts(), 3)

    def test_refusal_beats_mismatch(self) -> None:
        """A main server that says 403 at one path and 404 at the other means the 403."""
        self.mismatch()
        self.join(Scripted(b"HTTP/1.1 403 Forbidden\r\n\r\n")).flush()
        self.assertIn("refused this relay (HTTP 403", self.warnings()[-1])

    def test_wrong_key_is_no_mismatch(self) -> None:
        dialect = socketio.SocketIOServerDialect()
        dialect.refuse("who are you")
        self.connected(dialect)
        self.assertEqual(self.attempts(), 1)
        self.assertIn("refused this relay (who are you)", self.warnings()[-1])
