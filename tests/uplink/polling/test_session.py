"""
HTTP long-polling in memory: what a main server can do wrong, the bounds, and the pieces by themselves.
"""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import FrameTooLarge, ProtocolError
from relayd.uplink.connection import CLOSE_TIMEOUT
from relayd.uplink.headers import with_session
from relayd.uplink.polling.cookies import LONGEST, MOST, Cookies
from relayd.uplink.polling.exchange import MAX_HEAD, Exchange, NotHTTP
from relayd.uplink.polling.payload import MOST_PACKETS, Splitter, take_payload
from relayd.uplink.polling.polls import EMPTY_PAUSE
from relayd.uplink.polling.posting import POST_TIMEOUT
from relayd.wire.dialects import socketio
from relayd.wire.messages import CommandResult
from tests.support.uplink import KEY, MainServer, Scripted, ServiceCase

OPEN = '0{"sid":"s1","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000}'
JOINED = '40/proxy,{"sid":"n1"}'


def answer(body: str, status: str = "200 OK", more: str = "") -> bytes:
    data = body.encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode() + data


class Web(Protocol):
    """One connection of the main server: it keeps the requests, which the test answers."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class SessionCase(ServiceCase):
    """A service that was told to poll."""

    def begin_polling(self, first: bytes = answer(OPEN)) -> Web:
        self.join(Scripted(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")).flush()
        web = self.next()
        self.assertIn(b"transport=polling", web.received)
        self.say(web, first)
        return web

    def joined(self) -> None:
        """The session is open and the namespace joined; a poll is under way on ``get``, and ``post`` is idle."""
        self.post = self.begin_polling()
        self.get = self.next()
        self.assertEqual(self.post.received.rpartition(b"\r\n")[2][:9], b"40/proxy,")
        self.say(self.post, answer("ok"))
        self.say(self.get, answer(JOINED))
        self.assertEqual(self.receiver.words(), ["ready"])
        self.post.received = self.get.received = b""

    def next(self) -> Web:
        web = Web()
        self.join(web).flush()
        return web

    def say(self, web: Web, data: bytes) -> None:
        web.transport.write(data)
        self.settle()

    def settle(self) -> None:
        """What has happened is told, and what follows from it."""
        for pump in self.pumps:
            pump.flush()
        self.advance(0)
        self.advance(0)

    def send(self, text: str) -> None:
        link: Any = self.receiver.link
        link.send_result(CommandResult(command_id="c", stdout=text, stderr="", exit_code=0))
        for pump in self.pumps:
            pump.flush()


class Session(SessionCase):
    """What may go wrong in one."""

    def test_one_post_at_a_time(self) -> None:
        """What comes meanwhile waits, and goes out together."""
        self.joined()
        for text in ("one", "two", "three"):
            self.send(text)
        self.assertIn(b"one", self.post.received)
        self.assertNotIn(b"two", self.post.received)
        self.post.received = b""
        self.say(self.post, answer("ok"))
        self.assertIn(b"two", self.post.received)
        self.assertIn(b"three", self.post.received)

    def test_probe(self) -> None:
        """The answer to a POST tells that what it brought was read."""
        self.joined()
        self.send("one")
        link: Any = self.receiver.link
        probe = link.probe()
        self.assertNoResult(probe)
        self.say(self.post, answer("ok"))
        self.successResultOf(probe)
        self.successResultOf(link.probe())

    def test_poll_that_hangs(self) -> None:
        """Answers to POSTs are no sign of life: pings and commands come in polls."""
        self.joined()
        for _ in range(20):
            self.advance(2.2)
            self.send("one")
            self.say(self.post, answer("ok"))
        self.advance(1.1)
        self.settle()
        self.assertIn("nothing arrived from it for 45 s", self.warnings()[-1])
        self.assertEqual(self.receiver.words(), ["ready", "lost"])

    def test_post_that_hangs(self) -> None:
        self.joined()
        self.send("one")
        for _ in range(3):
            self.advance(POST_TIMEOUT / 3 - 0.1)
            self.say(self.get, answer("2"))
        self.advance(1)
        self.settle()
        self.assertIn("it took nothing of a POST for 60 s", self.warnings()[-1])

    def test_too_large(self) -> None:
        self.joined()
        self.send("x" * 700)
        self.say(self.post, answer("", "413 Payload Too Large"))
        self.assertIn("it does not take what was sent (HTTP 413)", self.warnings()[-1])

    def test_forgotten(self) -> None:
        """What is said of it is quoted, without the key that may stand in it."""
        self.joined()
        body = f'{{"code":1,"message":"Session ID unknown {KEY}"}}'
        self.say(self.get, answer(body, "400 Bad Request", "Content-Type: application/json\r\n"))
        self.assertIn('HTTP 400, it says "Session ID unknown [redacted]"', self.warnings()[-1])
        self.assertEqual(self.receiver.words(), ["ready", "lost"])

    def test_cut(self) -> None:
        for of in ("get", "post"):
            self.joined()
            self.send("one")
            getattr(self, of).transport.loseConnection()
            self.settle()
            self.assertIn("it closed the connection", self.warnings()[-1])
            self.advance(8)  # tried once more, as it may only be its WebSocket that is broken
            self.receiver.calls.clear()

    def test_idle_connection_that_ends(self) -> None:
        """It means nothing; the next POST gets another one."""
        self.joined()
        self.post.transport.loseConnection()
        self.advance(0.1)
        self.send("one")
        self.assertIn(b"one", self.next().received)
        self.assertEqual(self.receiver.words(), ["ready"])

    def test_too_much(self) -> None:
        """More than we take in one packet."""
        self.joined()
        self.say(self.get, b"HTTP/1.1 200 OK\r\n\r\n42/proxy,")
        for _ in range(12):
            self.say(self.get, b"x" * 1_000_000)
        self.advance(5.1)  # for the good-bye, which nobody answers
        self.settle()
        self.assertIn("relayd takes at most 8388608", self.warnings()[-1])

    def test_nothing_at_all(self) -> None:
        """A main server that answers at once with nothing is not asked without end."""
        self.joined()
        self.say(self.get, answer(""))
        self.assertEqual(self.get.received, b"")
        self.advance(EMPTY_PAUSE + 0.1)
        self.assertIn(b"GET /socket.io/", self.get.received)

    def test_no_session(self) -> None:
        """A page instead of a session."""
        self.begin_polling(answer("<html>Hello</html>"))
        self.assertIn("the first packet is not an Engine.IO open packet", self.warnings()[-1])

    def test_version_before(self) -> None:
        """As npm's socket.io 2 answers."""
        self.begin_polling(answer('96:0{"sid":"x","upgrades":["websocket"],"pingInterval":25000}2:40'))
        self.assertIn("it speaks Engine.IO 3, as Socket.IO 2 servers do", self.warnings()[-1])

    def test_cookies(self) -> None:
        """A balancer finds the same main server again."""
        first = self.begin_polling(answer(OPEN, more="Set-Cookie: LB=a1; Path=/; HttpOnly\r\n"))
        self.assertIn(b"Cookie: LB=a1\r\n", first.received.rpartition(b"POST ")[2])
        self.assertIn(b"Cookie: LB=a1\r\n", self.next().received)

    def test_held(self) -> None:
        """What is not wanted yet is not asked for."""
        self.joined()
        link: Any = self.receiver.link
        link.wire.hold(True)
        self.say(self.get, answer("2"))
        self.advance(1)
        self.assertEqual(self.receiver.words(), ["ready"])
        self.assertNotIn(b"GET ", self.get.received + self.post.received)
        link.wire.hold(False)
        self.settle()
        self.assertIn(b"GET ", self.get.received + self.post.received)


class Probed(MainServer):
    """The WebSocket of an upgrade: it answers the probe."""

    def __init__(self) -> None:
        super().__init__(socketio.SocketIOServerDialect())
        self.received: list[bytes] = []

    def onOpen(self) -> None:
        """It is for the relay to speak."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.received.append(payload)
        if payload == b"2probe":
            self.sendMessage(b"3probe")


class Upgraded(SessionCase):
    """A session that moves to a WebSocket."""

    OFFER = answer(OPEN.replace('"upgrades":[]', '"upgrades":["websocket"]'))

    def open_session(self, post: Web) -> bool:
        """
        Answer with a session that offers an upgrade, and join the namespace.

        :return: whether the relay asks for the WebSocket.
        """
        attempts = self.attempts()
        self.say(post, self.OFFER)
        wants = self.attempts() == attempts + 2
        self.get = self.next()
        self.say(post, answer("ok"))
        self.say(self.get, answer(JOINED))
        return wants

    def move(self) -> Probed:
        """Let the upgrade, which was dialled before the latest poll, succeed."""
        clients = self.reactor.tcpClients
        clients.append(clients.pop(-2))
        server = Probed()
        server.factory = WebSocketServerFactory(reactor=self.reactor)
        server.factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
        self.join(server).flush()
        self.say(self.get, answer("6"))
        self.assertEqual(server.received, [b"2probe", b"5"])
        return server

    def end(self, what: Any, after: float = 8) -> Web:
        """It is lost, and the relay dials again, which is by polling."""
        what.transport.loseConnection()
        self.settle()
        self.assertIn("it closed the connection", self.warnings()[-1])
        self.advance(after)
        web = self.next()
        self.assertIn(b"transport=polling", web.received)
        return web

    def moved(self) -> Probed:
        self.join(Scripted(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")).flush()
        self.assertTrue(self.open_session(self.next()))
        server = self.move()
        self.advance(2.1)
        self.assertTrue(self.service.status.accepted)
        return server

    def test_one_that_dies_soon(self) -> None:
        """For an hour no session moves, and then one does."""
        server = self.moved()
        for number in range(4):
            web = self.end(server if number == 0 else self.get, 8 if number == 0 else 1100)
            self.assertFalse(self.open_session(web), number)
            self.advance(2.1)
        web = self.end(self.get, 400)
        self.assertTrue(self.open_session(web))
        self.move()

    def test_one_that_lives(self) -> None:
        server = self.moved()
        for _ in range(2):
            self.advance(30)
            server.sendMessage(b"2")
            self.advance(0)
        self.assertTrue(self.open_session(self.end(server)))
        self.move()

    def test_end_while_it_moves(self) -> None:
        """A main server that takes no notice of the good-bye does not hold up the end."""
        self.post = self.begin_polling(answer(OPEN.replace("[]", '["websocket"]')))
        self.get = self.next()
        self.say(self.post, answer("ok"))
        self.say(self.get, answer(JOINED))
        self.reactor.tcpClients.pop()  # the one before it is that of the upgrade
        server = Probed()
        server.factory = WebSocketServerFactory(reactor=self.reactor)
        server.factory.setProtocolOptions(openHandshakeTimeout=0)
        self.join(server).flush()
        self.assertEqual((self.receiver.words(), server.received), (["ready"], [b"2probe"]))
        stopped = self.service.stopService()
        self.say(self.get, answer("6"))
        self.assertEqual(server.received[1:], [b"5", b"41/proxy,", b"1"])
        self.advance(CLOSE_TIMEOUT)
        self.settle()
        self.successResultOf(stopped)

    def test_impossible(self) -> None:
        """A session that was over with its first packet does not move."""
        before = self.attempts()
        self.begin_polling(answer(OPEN.replace("[]", '["websocket"]').replace("25000", "0")))
        self.assertIn("an impossible pingInterval", self.warnings()[-1])
        self.assertEqual(self.attempts() - before, 1)


class Owner:
    """Remembers what an exchange tells."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.done = 0
        self.lost: BaseException | None = None

    def on_up(self, exchange: Exchange) -> None: ...
    def on_sent(self, exchange: Exchange) -> None: ...

    def on_head(self, exchange: Exchange, status: int, headers: Any, cookies: list[str]) -> None:
        self.status = status

    def on_body(self, exchange: Exchange, data: bytes) -> None:
        self.body += data

    def on_done(self, exchange: Exchange) -> None:
        self.done += 1

    def on_lost(self, exchange: Exchange, error: BaseException) -> None:
        self.lost = error


class Exchanges(SynchronousTestCase):
    def exchange(self, *pieces: bytes) -> tuple[Owner, Exchange]:
        owner = Owner()
        exchange = Exchange(owner, lambda _: None, server_name=None)
        exchange.makeConnection(StringTransport())  # type: ignore[no-untyped-call]
        exchange.request(b"GET / HTTP/1.1\r\n\r\n")
        for piece in pieces:
            exchange.dataReceived(piece)
        return owner, exchange

    @given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.integers(1, 30))
    def test_any_pieces(self, chunks: list[bytes], size: int) -> None:
        """Whatever the pieces in which it comes, and whatever says where it ends."""
        whole = b"".join(chunks)
        chunked = b"".join(b"%x;a=b\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nT: x\r\n\r\n"
        early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        for data in (
            early + b"HTTP/1.1 200 OK\r\ncontent-length:%d\r\n\r\n" % len(whole) + whole,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
        ):
            owner, exchange = self.exchange(*(data[at : at + size] for at in range(0, len(data), size)))
            self.assertEqual((owner.status, owner.body, owner.done), (200, whole, 1))
            self.assertTrue(exchange.reusable)
        owner, exchange = self.exchange(b"HTTP/1.0 200 OK\r\n\r\n" + whole)
        self.assertEqual(owner.done, 0)
        exchange.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((owner.body, owner.done, exchange.reusable), (whole, 1, False))

    def test_no_http(self) -> None:
        for data in (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n no header\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 5000,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 2000,
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"x" * (MAX_HEAD + 1),
        ):
            owner, exchange = self.exchange(data)
            transport: Any = exchange.transport
            self.assertTrue(transport.aborting if hasattr(transport, "aborting") else transport.disconnecting, data)
            exchange.connectionLost(Failure(ConnectionDone()))
            self.assertIsInstance(owner.lost, NotHTTP)


class Pieces(SynchronousTestCase):
    @given(st.lists(st.one_of(st.text(min_size=1), st.binary()), min_size=1), st.integers(1, 20))
    def test_splitter(self, packets: list[str | bytes], size: int) -> None:
        wanted = [
            packet
            if isinstance(packet, bytes)
            else "4" + packet.replace("\x1e", "").encode("utf-8", "replace").decode()
            for packet in packets
        ]
        data = b"\x1e".join(b"b" + b64encode(each) if isinstance(each, bytes) else each.encode() for each in wanted)
        splitter = Splitter(10_000)
        found = [packet for at in range(0, len(data), size) for packet in splitter.feed(data[at : at + size])]
        self.assertEqual([*found, *splitter.finish()], wanted)

    def test_splitter_refuses(self) -> None:
        for data, error in (
            (b"b***", ProtocolError),
            (b"4\xff", ProtocolError),
            (b"4" * 101, FrameTooLarge),
            (b"4" * 200, FrameTooLarge),
        ):
            splitter = Splitter(100)
            with self.assertRaises(error):
                list(splitter.feed(data + b"\x1e"))

    def test_payload(self) -> None:
        packets = deque(b"%d" % number for number in range(40))
        self.assertEqual(take_payload(packets, 4), b"0\x1e1")
        self.assertEqual(take_payload(packets, 0), b"2")
        self.assertEqual(len(take_payload(packets, 1000).split(b"\x1e")), MOST_PACKETS)

    def test_cookies(self) -> None:
        cookies = Cookies()
        cookies.take_from(["a=1; Path=/", "b=2", "a=3", "c\r\nX: y=1", "d=\r\nX: y", "=5", "b=; Max-Age=0"])
        self.assertEqual(cookies.header(), {"Cookie": "a=3"})
        cookies.take_from([f"n{number}={'x' * LONGEST}" for number in range(100)])
        self.assertLessEqual(len(cookies.header()["Cookie"]), MOST * (LONGEST + 2))
        self.assertEqual(Cookies().header(), {})

    def test_the_cookies_of_the_site(self) -> None:
        own = (("Origin", "x"), ("cookie", "site=1"))
        self.assertEqual(with_session(own, {"Cookie": "LB=1"}), (("Origin", "x"), ("cookie", "site=1; LB=1")))
        self.assertEqual(with_session(own[:1], {"Cookie": "LB=1"}), (own[0], ("Cookie", "LB=1")))
