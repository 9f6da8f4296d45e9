"""
Headers of the site's own: what is taken from their file, and what comes of them at the main server.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import UplinkError
from relayd.uplink.headers import MOST_HEADERS, read_headers
from relayd.wire.dialects import native
from tests.support.uplink import MainServer, Scripted, ServiceCase

TOKEN = "t0ken-" + "z" * 20


class Choosing(MainServer):
    def onConnect(self, request: Any) -> str | None:  # type: ignore[override]
        super().onConnect(request)
        return next(iter(request.protocols), None)


class Sent(ServiceCase):
    dialect = "native"

    def restart(self, text: str) -> None:
        stopped = self.service.stopService()
        self.advance(6)
        self.successResultOf(stopped)
        path = Path(self.mktemp())
        path.write_text(text)
        self.begin(read_headers=partial(read_headers, str(path)))

    def test_they_arrive(self) -> None:
        self.restart(
            f"# for the access proxy\nCF-Access-Client-Secret: {TOKEN}\n\nOrigin: https://relay.test\nuser-agent: x\n"
        )
        server, _ = self.connected(native.NativeServerDialect())
        headers = server.http_headers
        self.assertEqual(headers["cf-access-client-secret"], TOKEN)
        self.assertEqual(headers["origin"], "https://relay.test")
        self.assertEqual(headers["user-agent"], "x")

    def test_a_subprotocol(self) -> None:
        self.restart("Sec-WebSocket-Protocol: v2.relay, v1.relay\n")
        server = Choosing(native.NativeServerDialect())
        server.factory = WebSocketServerFactory(reactor=self.reactor, protocols=["v2.relay"])
        server.factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
        self.join(server).flush()
        self.advance(2.1)
        self.assertTrue(self.service.status.accepted)
        self.assertEqual(server.websocket_protocol_in_use, "v2.relay")

    def test_a_subprotocol_that_is_not_chosen(self) -> None:
        """The main server need not choose one."""
        self.restart("Sec-WebSocket-Protocol: v2.relay\n")
        self.connected(native.NativeServerDialect())
        self.advance(2.1)
        self.assertTrue(self.service.status.accepted)

    def test_a_subprotocol_that_was_not_offered(self) -> None:
        """RFC 6455, section 4.1: the relay does not go on."""
        self.restart("Sec-WebSocket-Protocol: v2.relay\n")

        class Stubborn(MainServer):
            def onConnect(self, request: Any) -> Any:
                return None, {"Sec-WebSocket-Protocol": "v9"}

        server = Stubborn(native.NativeServerDialect())
        server.factory = WebSocketServerFactory(reactor=self.reactor)
        server.factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
        self.join(server).flush()
        self.advance(2.1)
        self.assertFalse(self.service.status.accepted)
        self.assertIn("subprotocol", self.warnings()[-1])

    def test_never_quoted(self) -> None:
        self.restart(f"X-Token: {TOKEN}\n")
        self.join(Scripted(f"HTTP/1.1 400 No\r\n\r\nbad token {TOKEN}".encode())).flush()
        self.assertIn('it says "bad token [redacted]"', self.warnings()[-1])

    def test_no_part_is_quoted(self) -> None:
        """A main server may send back what it has read of one."""
        self.restart(f"Authorization: Bearer {TOKEN}==\nCookie: site=relay; session={TOKEN[::-1]}\n")
        page = f"relay: {TOKEN}== is no token, {TOKEN[::-1]} is no session".encode()
        self.join(Scripted(b"HTTP/1.1 400 No\r\n\r\n" + page)).flush()
        self.assertIn('it says "relay: [redacted]== is no token, [redacted] is no session"', self.warnings()[-1])

    def test_the_query_is_not_quoted_either(self) -> None:
        """Nor its values, where they are more than a word."""
        stopped = self.service.stopService()
        self.advance(6)
        self.successResultOf(stopped)
        self.begin(server=f"http://192.0.2.9:3000?mode=main&code={TOKEN}&a=%2Fb1")
        page = f"main: no GET /proxy?mode=main&code={TOKEN}&a=%2Fb1, nor {TOKEN}".encode()
        self.join(Scripted(b"HTTP/1.1 400 No\r\n\r\n" + page)).flush()
        words = 'it says "main: no GET /proxy?[redacted]&[redacted]&[redacted], nor [redacted]"'
        self.assertIn(words, self.warnings()[-1])

    def test_a_file_that_cannot_be_used(self) -> None:
        """Nothing is dialled without it; it is looked at again."""
        attempts = self.attempts()
        self.restart("no header\n")
        self.assertEqual(self.attempts(), attempts)
        self.assertIn("line 1, is not a header (Name: value)", self.warnings()[-1])


class Read(SynchronousTestCase):
    def test_refused(self) -> None:
        for text, words in (
            (f"X-Token {TOKEN}", "line 1, is not a header"),
            (f"A: b\nX-Tok\u00e9n: {TOKEN}", "not ASCII"),
            ("A: b\nHost: other", "line 2, sets a header that relayd sets itself"),
            ("sec-websocket-key: x", "that relayd sets itself"),
            ("Transfer-Encoding: chunked", "that relayd sets itself"),
            (f"A: b\rX-Token: {TOKEN}", "is not a header"),
            ("A:", "is not a header"),
            ("A: b\nB: c\na: d", "names a header twice"),
            ("Cookie: a=1\nCookie: b=2", "names a header twice"),
            ("accept-encoding: gzip", "that relayd sets itself"),
            ("Content-Type: x/y", "that relayd sets itself"),
            ("Cache-Control: no-store", "that relayd sets itself"),
            ("Expect: 100-continue", "that relayd sets itself"),
            ("Sec-WebSocket-Extensions: permessage-deflate", "that relayd sets itself"),
            ("Sec-WebSocket-Protocol: a, b, a", "is not a list of distinct subprotocols"),
            ("Sec-WebSocket-Protocol: a,,b", "is not a list of distinct subprotocols"),
            ("Sec-WebSocket-Protocol: a b", "is not a list of distinct subprotocols"),
            (f"X: \u4e2d{TOKEN}", "not ASCII"),
            ("X: a\tb", "is not a header"),
            (f"X: {TOKEN}\x00", "is not a header"),
            ("A B: c", "is not a header"),
            ("".join(f"A{number}: b\n" for number in range(MOST_HEADERS + 1)), "more than 32 headers"),
            ("A: " + "b" * 20_000, "more than 16384 bytes"),
        ):
            path = Path(self.mktemp())
            path.write_text(text)
            error = self.assertRaises(UplinkError, read_headers, str(path))
            self.assertIn(words, str(error))
            self.assertNotIn(TOKEN, str(error))
        self.assertIn("cannot be read", str(self.assertRaises(UplinkError, read_headers, "/nowhere/x")))
        self.assertEqual(read_headers(None), ())

    def test_what_editors_make_of_it(self) -> None:
        """Windows' line ends, a signature, no line end, nothing."""
        wanted = (("A", "b: c"), ("X-D", "e"))
        for data, headers in (
            (b"\xef\xbb\xbfA: b: c\r\n\r\n# comment\r\nX-D:e\r\n", wanted),
            (b"  A :b: c\n\tX-D:   e  ", wanted),
            (b"", ()),
            (b"\xef\xbb\xbf", ()),
            (b"# A: b\n \n", ()),
        ):
            path = Path(self.mktemp())
            path.write_bytes(data)
            self.assertEqual(read_headers(str(path)), headers)
        path.write_bytes("A: b".encode("utf-16"))
        self.assertRaises(UplinkError, read_headers, str(path))
