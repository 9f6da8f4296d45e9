"""
What relayd says when a main server, or something before it, turns it away: the words of the other side, without ours.
"""

from __future__ import annotations

import os
from errno import ENETUNREACH
from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from socketio.packet import CONNECT_ERROR
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.network.tls_faults import why_broken
from relayd.uplink.answers import MAX_BODY, HttpResponse, body_of, schemes_of, words_of
from relayd.uplink.endpoint import describe, unused_proxy
from relayd.uplink.idle import IdleWatch
from relayd.uplink.quoting import LIMIT, Quoting
from relayd.uplink.settings import ServerAddress
from relayd.uplink.tunnel import ProxyUnreachable, _Refused, _Tunnel
from relayd.wire.dialects import native, socketio
from tests.support.uplink import KEY, Scripted, ServiceCase


def http(status: str, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body.encode())}", "", body]
    return "\r\n".join(lines).encode()


ENGINE_IO = http("400 Bad Request", '{"code":0,"message":"Transport unknown"}', "Content-Type: application/json")
NGINX = http(
    "400 Bad Request",
    "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n<body></body></html>",
    "Content-Type: text/html",
)
GO = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
CHUNKED = b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbad s\r\n3;x=y\r\nid!\r\n0\r\n\r\n"


class Slow(Scripted):
    """Answers a byte at a time."""

    def dataReceived(self, data: bytes) -> None:
        for byte in self.answer:
            self.transport.write(bytes([byte]))


class Refusing(socketio.SocketIOServerDialect):
    """Answers CONNECT with an error of these data."""

    def __init__(self, data: object) -> None:
        super().__init__()
        self.data = data

    def _connect(self, packet: Any) -> tuple[()]:
        self._send(CONNECT_ERROR, self.data)
        return ()


class Answers(ServiceCase):
    def say(self, answer: bytes, kind: type[Scripted] = Scripted) -> str:
        self.service.servers[0].retry.accepted()
        before = len(self.warnings())
        self.join(kind(answer)).flush()
        if len(self.warnings()) == before:
            self.no_polling()
        words = self.warnings()[-1]
        self.advance(7.01)
        return words

    def test_words(self) -> None:
        for answer, words in (
            (ENGINE_IO, 'HTTP 400, it says "Transport unknown"'),
            (
                NGINX,
                'cannot be reached: it answers HTTP 400, it says "400 The plain HTTP request was sent to HTTPS port", '
                "it wants TLS, so that --server needs https:// or wss://",
            ),
            (GO, 'it says "Client sent an HTTP request to an HTTPS server.", it wants TLS, so that --server needs'),
            (
                http("400 No", "<title>400 No required SSL certificate was sent</title>", "Content-Type: text/html"),
                'it says "400 No required SSL certificate was sent", it wants a client certificate; see --tls-cert and',
            ),
            (http("400 No", "400 The SSL certificate error"), "it wants another client certificate than that of --"),
            (CHUNKED, 'it says "bad sid!"'),
            (http("400 No", "<h1>A &amp; B</h1><script>x()</script>"), 'it says "A & B"'),
            (http("400 No", '{"errors": [1]}'), 'it says "{"errors": [1]}"'),
            (
                http("301 Moved", "", "Location: https://new.test/x?apiKey=zzz"),
                "a redirect to https://new.test/x, which",
            ),
            (http("302 Found"), "HTTP 302, a redirect, which relayd does not follow; look at --server"),
            (
                http("401 No", "", 'WWW-Authenticate: Basic realm="r"'),
                "asks for Basic, a login that a proxy in front of the main server may want; see --header-file",
            ),
            (http("401 No", '{"message": ["no key", "no id"], "error": "Bad"}'), 'HTTP 401, it says "no key; no id"'),
            (http("400 No", '{"error": {"code": 4, "message": "too old"}}'), 'it says "too old"'),
            (http("400 No", '{"errors": [{"detail": "a"}, {"detail": "b"}]}'), 'it says "a; b"'),
            (
                b"SSH-2.0-dropbear_2022.83\r\n",
                'an answer that is not HTTP, which begins with "SSH-2.0-dropbear_2022.83"',
            ),
            (b"220 mail.test ESMTP\r\n", 'which begins with "220 mail.test ESMTP"'),
            (b"GET /socket.io/?a=1&apiKey=" + KEY.encode() + b" HTTP/1.1\r\n", 'a=1&apiKey=[redacted] HTTP/1.1"'),
            (b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x80\0\4\0\1\0\0", "it speaks HTTP/2 there, and not HTTP/1.1"),
            (b"\xff" * 16, "an answer that is not HTTP"),
            (http("403 No", "your address is blocked"), 'may also say, it says "your address is blocked"'),
            (
                http("407 No", "", "Proxy-Authenticate: NTLM"),
                "a proxy in between wants a login; see --http-proxy, which",
            ),
            (http("414 URI Too Long"), "the address with proxyId and key is too long"),
            (http("426 Upgrade Required", "", "Upgrade: h2c"), "it wants another protocol or version"),
            (http("426 Upgrade Required", "", "Sec-WebSocket-Version: 8"), "sec-websocket-version: 8"),
            (http("505 HTTP Version Not Supported"), "takes only another version of HTTP"),
            (http("500 Oh", "No route found for path 'socket.io/'."), "No route found for path 'socket.io/'."),
            (http("502 Bad Gateway"), "a proxy in front of it does not reach it"),
            (http("200 OK", "<title>Welcome</title>", "Content-Type: text/html"), 'it says "Welcome"'),
            (b"\x15\x03\x03\x00\x02\x02\x46", "it speaks TLS there, so that --server needs https://"),
        ):
            self.assertIn(words, self.say(answer))
            if not answer.startswith(b"HTTP/1.0"):  # its body ends with the connection
                self.assertIn(words, self.say(answer, Slow))

    def test_one_that_asks_to_come_back(self) -> None:
        self.join(Scripted(http("503 No", "back at noon", "Retry-After: 0"))).flush()
        self.assertIn('asks relayd to come back in 0 s: HTTP 503, it says "back at noon".', self.warnings()[-1])

    def test_a_body_that_does_not_come(self) -> None:
        """It is waited for, but not for long."""
        self.join(Scripted(b"HTTP/1.1 400 No\r\nContent-Length: 9\r\n\r\nbecause")).flush()
        self.assertEqual(self.warnings(), [])
        self.advance(2.1)
        self.no_polling()
        self.assertIn('it says "because"', self.warnings()[-1])

    def test_a_body_that_the_end_cuts(self) -> None:
        server = Scripted(b"HTTP/1.1 400 No\r\nContent-Length: 9\r\n\r\nbecause")
        pump = self.join(server)
        pump.flush()
        server.transport.loseConnection()
        pump.flush()
        self.no_polling()
        self.assertIn('it says "because"', self.warnings()[-1])

    def test_stopping_while_a_body_comes(self) -> None:
        self.join(Scripted(b"HTTP/1.1 400 No\r\nContent-Length: 9\r\n\r\nbecause")).flush()  # tearDown stops it

    def test_a_server_that_echoes_the_request(self) -> None:
        """`tearDown` looks for the key in all that was logged."""

        class Echo(Scripted):
            def dataReceived(self, data: bytes) -> None:
                target = data.split(b" ")[1].decode()
                self.transport.write(http("404 Not Found", f"Cannot GET {target}", f"Location: {target}"))

        self.join(Echo(b"")).flush()
        self.assertIn(
            'it says "Cannot GET /socket.io/?EIO=4&transport=websocket&proxyId=p&apiKey=[redacted]"',
            self.warnings()[-1],
        )
        self.advance(7.01)
        self.assertIn("[redacted]", self.say(http("302 Found", "", f"Location: https://x.test/{KEY}/y")))
        self.assertIn("[redacted]", self.say(f"HTTP/1.1 101 Yes\r\nUpgrade: {KEY}\r\n\r\n".encode()))

    def test_a_server_that_hangs_up(self) -> None:
        """What was never there is not lost."""
        server = Scripted(b"")
        pump = self.join(server)
        pump.flush()
        server.transport.loseConnection()
        pump.flush()
        self.no_polling()
        words = (
            "was reached, but the HTTP handshake failed: it closed the connection without an answer, as a TLS port does"
        )
        self.assertIn(words, self.warnings()[-1])
        self.assertIn("use wss:// in --server", self.warnings()[-1])

    def test_a_refused_namespace(self) -> None:
        for data, words in (
            ({"message": "no", "data": {"code": 7}}, 'refused this relay (no ({"code":7}))'),
            ({"message": "no", "data": "because"}, "refused this relay (no (because))"),
            ({"message": f"bad key {KEY}"}, "refused this relay (bad key [redacted])"),
            ({"message": "x" * 190 + KEY}, "refused this relay (xxx"),
            ({"message": "Invalid namespace"}, 'have no namespace /proxy: it says "Invalid namespace"'),
            ("Unable to connect", 'have no namespace /proxy: it says "Unable to connect"'),
        ):
            self.service.servers[0].retry.accepted()
            self.join(self.main_server(Refusing(data))).flush()
            self.assertIn(words, self.warnings()[-1])
            self.assertEqual("wrong proxyId" in self.warnings()[-1], "refused" in words)
            self.advance(7.01)


class Elsewhere(ServiceCase):
    dialect = "auto"

    def test_a_socketio_server_without_our_namespace(self) -> None:
        """It may serve browsers that way, and relays the other."""
        self.join(self.main_server(Refusing({"message": "Invalid namespace"}))).flush()
        self.connected(native.NativeServerDialect())
        self.advance(2.1)
        self.assertEqual(self.service.status.dialect, "native")


class Codes(ServiceCase):
    dialect = "native"

    def test_a_crash_is_no_wrong_key(self) -> None:
        """Nor is anything else that says why; and the relay comes back soon, however often."""
        for code, words in (
            (1011, "lost: it closed the WebSocket with code 1011 (something failed there): oops [redacted]"),
            (1003, "with code 1003 (it does not take data of this kind)"),
            (1011, "code 1011"),
            (3008, "code 3008"),
            (1014, "code 1014"),
        ):
            server, pump = self.connected(native.NativeServerDialect())
            server.sendCloseFrame(code=code, reasonUtf8=f"oops {KEY}".encode())
            pump.flush()
            server.transport.loseConnection()
            pump.flush()
            self.assertIn(words, self.warnings()[-1])
            attempts = self.attempts()
            self.advance(7.01)
            self.assertEqual(self.attempts(), attempts + 1)


class Idle(ServiceCase):
    def cut_after(self, seconds: float) -> int:
        """Pings that came on a connection that is cut after so much silence."""
        server, pump = self.connected()
        self.advance(2.1)
        server.dialect.ping()
        server.flush()
        pump.flush()
        for _ in range(int(seconds * 2)):
            self.advance(0.5)
        server.transport.abortConnection()
        pump.flush()
        self.advance(7.01)
        return server.pings

    def hints(self) -> list[str]:
        return [line for line in self.warnings() if "close idle connections" in line]

    def test_something_in_between(self) -> None:
        """Socket.IO, whose heartbeat is the main server's, gets pings of ours then."""
        self.assertEqual([self.cut_after(20) for _ in range(3)], [0, 0, 0])
        self.assertIn("the last 3 ended after 20 s", self.hints()[0])
        self.assertGreaterEqual(self.cut_after(30), 2)
        self.assertEqual(len(self.hints()), 1)

    def test_ends_that_differ(self) -> None:
        for seconds in (20, 25, 20, 1, 20, 20, 30):
            self.assertEqual(self.cut_after(seconds), 0)
        self.assertEqual(self.hints(), [])

    def test_only_what_was_cut(self) -> None:
        watch = IdleWatch()
        self.assertEqual([watch.note_end(each) for each in (60.0, None, 60.0, 60.4, 59.9)], [False] * 4 + [True])
        self.assertEqual(watch.ping_interval, 59.9 / 2)


class Proxies(SynchronousTestCase):
    def test_a_proxy_that_cannot_be_reached(self) -> None:
        for error, words in (
            (ConnectionRefusedError(), "the HTTP proxy http://p:3128 cannot be reached: connection refused"),
            (ConnectionRefusedError(), "look at the port in --http-proxy"),
            (ConnectError(ENETUNREACH, "x"), "Network is unreachable; look at --http-proxy and at the routes"),
            (DNSLookupError(), "cannot be reached: its name was not found; look at --http-proxy"),
        ):
            self.assertIn(words, describe(ProxyUnreachable("http://p:3128", error)))
        self.assertIn("look at --server", describe(DNSLookupError()))

    def test_what_a_proxy_asks_for(self) -> None:
        head = b'HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate, Basic realm="x, y"\r\n\r\n'
        self.assertIn("407 No, which asks for Negotiate or Basic", self.refused(head))

    def test_what_is_no_proxy(self) -> None:
        """An SSH server hangs up, a web server knows no CONNECT."""
        self.assertIn("it closed the connection; look at --http-proxy", self.refused(b"SSH-2.0-x\r\n", cut=True))
        head = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"
        self.assertIn("HTTP 405 Method Not Allowed; look at --http-proxy: an HTTP proxy", self.refused(head))

    def refused(self, *pieces: bytes, wait: bool = False, cut: bool = False) -> str:
        """
        What is said of a proxy that answers with *pieces*.

        :param wait: let the time for more of it pass.
        :param cut: have the connection end.
        """
        clock = Clock()
        tunnel = _Tunnel(clock, Quoting("hunter2"))
        tunnel.transport = type("T", (), {"abortConnection": lambda self: None})()
        for piece in pieces:
            tunnel.dataReceived(piece)
        if wait or cut:
            self.assertNoResult(tunnel.granted)
            clock.advance(2.1 if wait else 0)
        if cut:
            tunnel.connectionLost()
        self.assertEqual(clock.getDelayedCalls(), [])
        return str(self.failureResultOf(tunnel.granted, _Refused).value)

    def test_what_a_proxy_says(self) -> None:
        """In pieces, too short, and with our own login in it."""
        head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 42\r\nContent-Type: text/html\r\n\r\n"
        body = b"<title>Not for hunter2: ask Ms Wu</title>"
        words = 'HTTP 403 Forbidden, it says "Not for [redacted]: ask Ms Wu"'
        self.assertEqual(self.refused(head, body + b"!"), words)
        self.assertEqual(self.refused(head, body, wait=True), words)
        self.assertEqual(self.refused(head, body, cut=True), words)
        self.assertEqual(self.refused(*(bytes([byte]) for byte in head + body + b"!!!!")), words)
        self.assertEqual(self.refused(b"HTTP/1.0 500 Oh\r\n\r\nlook here"), 'HTTP 500 Oh, it says "look here"')
        endless = head.replace(b"42", b"99999999") + b"x" * 100_000
        self.assertLess(len(self.refused(endless)), 300)

    def test_a_proxy_of_the_environment(self) -> None:
        settings: Any = type("S", (), {"http_proxy": None})()
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            self.patch(os, "environ", {name: "http://u:hunter2@p"})
            secure, plain = (unused_proxy(ServerAddress.of(url), settings) or "" for url in ("wss://h", "ws://h"))
            self.assertEqual(name in secure, name.lower() != "http_proxy")
            self.assertEqual(name in plain, name.lower() != "https_proxy")
            self.assertNotIn("hunter2", secure + plain)
        settings.http_proxy = "http://p"
        self.assertIsNone(unused_proxy(ServerAddress.of("wss://h"), settings))

    def test_tls_to_a_plain_port(self) -> None:
        """The words of the other side are quoted like all others."""
        error = SSL.Error([("SSL routines", "", "wrong version number")])
        broken = why_broken(error, b"220 mail.example k3y-4711 ESMTP\r\n", done=False)
        words = 'it does not speak TLS there: its answer begins with "220 mail.example [redacted] ESMTP"; look at the'
        self.assertIn(words, describe(broken, Quoting("k3y-4711")))
        self.assertIn(
            "TLS failed: bad record", describe(why_broken(SSL.Error([("", "", "bad record")]), b"", done=True))
        )


class Parts(SynchronousTestCase):
    @given(st.text(min_size=4, max_size=60), st.text(max_size=300), st.text(max_size=300), st.integers(0, 5000))
    def test_no_secret_is_quoted(self, secret: str, before: str, after: str, cut: int) -> None:
        secret = f"k3y-{secret}"
        for form in (secret, quote(secret, safe="")):
            words = Quoting(secret)((before + form + after)[:cut])
            self.assertLessEqual(len(words), LIMIT)
            self.assertTrue(words.isprintable())
            if "k3y-" not in before + after:
                self.assertNotIn("k3y-", words)

    @given(st.binary(max_size=5000), st.lists(st.integers(1, 700), max_size=9), st.integers(1, 50))
    def test_chunks(self, body: bytes, sizes: list[int], cut: int) -> None:
        wire, rest = b"", body
        for size in (*sizes, len(body) or 1):
            chunk, rest = rest[:size], rest[size:]
            wire += b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
        headers = {"transfer-encoding": "chunked"}
        self.assertEqual(body_of(headers, wire + b"0\r\n\r\n"), (body[:MAX_BODY], False))
        found, _ = body_of(headers, wire[:-cut])
        self.assertTrue(body.startswith(found))

    @given(st.binary(max_size=3000), st.sampled_from(["", "text/html", "application/json"]))
    def test_any_body(self, body: bytes, kind: str) -> None:
        self.assertIsInstance(words_of(HttpResponse(400, "", {"content-type": kind}, body)), str)
        body_of({"transfer-encoding": "chunked"}, body)

    def test_compressed(self) -> None:
        self.assertEqual(body_of({"content-encoding": "gzip", "content-length": "9"}, b"\x1f\x8b"), (b"", False))

    def test_schemes(self) -> None:
        for header, schemes in (
            ('Basic realm="a"', "Basic"),
            ("Negotiate, NTLM", "Negotiate or NTLM"),
            ('Digest realm="a", nonce="b", Bearer', "Digest or Bearer"),
            ("", ""),
            ("\x00", ""),
        ):
            self.assertEqual(schemes_of(header), schemes)
