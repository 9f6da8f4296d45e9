"""
relayd.hub.api.server and .channel: HTTP/1.1 over real sockets, with clients that break every rule.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Answer, Call, Gone, NoQuery, Writer
from relayd.hub.api.channel import Bounds
from relayd.hub.api.routes import Anyone, Route
from tests.hub.api.serving import Serving, parse

JSON = (("Content-Type", "application/json"),)


class Thing(Struct, frozen=True, forbid_unknown_fields=True):
    """A thing of tests."""

    name: str
    size: int = 0


class Handlers:
    """Handlers of tests."""

    def __init__(self) -> None:
        self.entered: Deferred[None] = Deferred()
        self.release: Deferred[None] = Deferred()
        self.done: list[str] = []

    async def get(self, hub: object, call: Call[NoQuery, None]) -> Thing:
        return Thing(call.parameters["name"], 3)

    async def make(self, hub: object, call: Call[NoQuery, Thing]) -> Answer:
        self.done.append(call.body.name)
        return Answer(body=call.body, headers={"Location": f"/api/v1/things/{call.body.name}"})

    async def slow(self, hub: object, call: Call[NoQuery, None]) -> Thing:
        self.entered.callback(None)
        try:
            await self.release
        except BaseException:
            self.done.append("cancelled")
            raise
        self.done.append("slow")
        return Thing("slow")

    async def fail(self, hub: object, call: Call[NoQuery, None]) -> Thing:
        raise ValueError("password=hunter2")

    async def remove(self, hub: object, call: Call[NoQuery, None]) -> None:
        self.done.append("removed")

    async def flood(self, hub: object, call: Call[NoQuery, None]) -> Answer:
        return Answer(stream=self._flood, media_type="application/octet-stream")

    async def _flood(self, writer: Writer) -> None:
        try:
            while not writer.ending:
                await writer.write(b"x" * 65536)
        except Gone:
            self.done.append("gone")
            raise
        self.done.append("ended")

    async def short(self, hub: object, call: Call[NoQuery, None]) -> Answer:
        async def write(writer: Writer) -> None:
            await writer.write(b"half")
            raise OSError("the disk is gone")

        return Answer(stream=write, length=8, media_type="application/octet-stream")

    def routes(self) -> list[Route]:
        read, write = Permission.INVENTORY_READ, Permission.INVENTORY_WRITE
        return [
            Route(method="GET", path="/things/{name}", handler=self.get, permission=read, summary="", answers=Thing),
            Route(
                method="DELETE", path="/things/{name}", handler=self.remove, permission=write, summary="", act="x",
                status=204,
            ),
            Route(
                method="POST", path="/things", handler=self.make, permission=write, summary="", act="thing-create",
                takes=Thing, answers=Thing, status=201, max_body=1000,
            ),
            Route(method="GET", path="/slow", handler=self.slow, permission=read, summary="", answers=Thing),
            Route(method="POST", path="/slow", handler=self.slow, permission=write, summary="", act="s", answers=Thing),
            Route(method="GET", path="/fail", handler=self.fail, permission=Anyone.PUBLIC, summary=""),
            Route(
                method="GET", path="/flood", handler=self.flood, permission=read, summary="", answers=bytes,
                produces="application/octet-stream",
            ),
            Route(
                method="GET", path="/short", handler=self.short, permission=read, summary="", answers=bytes,
                produces="application/octet-stream",
            ),
        ]  # fmt: skip


def request(line: str, *headers: str, body: bytes = b"", host: str = "hub") -> bytes:
    """The bytes of a request; it is authenticated."""
    lines = [line, *([f"Host: {host}"] if host else []), "Authorization: Bearer all", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


GET = "GET /api/v1/things/a HTTP/1.1"


class HttpTests(Serving):
    """What clients may do."""

    def setUp(self) -> None:
        self.handlers = Handlers()

    async def start(self, **bounds: Any) -> None:
        await self.serve(self.handlers.routes(), bounds=Bounds(**{"linger_seconds": 0.3} | bounds))

    async def test_get(self) -> None:
        await self.start()
        response = await self.ask("GET", "/api/v1/things/a%20b")
        self.assertEqual((response.status, response.document), (200, {"name": "a b", "size": 3}))
        headers = response.headers
        self.assertEqual(headers["content-type"], "application/json")
        self.assertEqual(headers["cache-control"], "no-store")
        self.assertEqual(headers["x-content-type-options"], "nosniff")
        self.assertIn("default-src 'none'", headers["content-security-policy"])
        self.assertEqual(headers["server"], "relayd-hub")
        self.assertRegex(headers["date"], r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")
        self.assertRegex(headers["x-request-id"], r"^[0-9a-f]{16}$")
        self.assertNotIn("strict-transport-security", headers)
        self.assertNotIn("access-control-allow-origin", headers)

    async def test_an_answer_that_the_client_has_is_not_sent_again(self) -> None:
        await self.start()
        tag = (await self.ask("GET", "/api/v1/things/a")).headers["etag"]
        response = await self.ask("GET", "/api/v1/things/a", headers=[("If-None-Match", f'"other", W/{tag}')])
        self.assertEqual((response.status, response.body, response.headers["etag"]), (304, b"", tag))
        other = await self.ask("GET", "/api/v1/things/b", headers=[("If-None-Match", tag)])
        self.assertEqual(other.status, 200)

    async def test_head_is_get_without_the_body(self) -> None:
        await self.start()
        got = await self.ask("GET", "/api/v1/things/a")
        head = await self.ask("HEAD", "/api/v1/things/a")
        for name in ("content-length", "content-type", "etag"):
            self.assertEqual(head.headers[name], got.headers[name])
        self.assertEqual((await self.ask("HEAD", "/api/v1/flood")).status, 200)
        self.assertEqual((await self.ask("HEAD", "/api/v1/nothing")).status, 404)
        self.assertEqual(self.handlers.done, [])

    async def test_post(self) -> None:
        await self.start()
        response = await self.ask("POST", "/api/v1/things", b'{"name":"a"}')
        self.assertEqual((response.status, response.document), (201, {"name": "a", "size": 0}))
        self.assertEqual(response.headers["location"], "/api/v1/things/a")
        self.assertEqual(
            self.gate.noted, [("thing-create", "token:test/t", "begun"), ("thing-create", "token:test/t", "done")]
        )
        response = await self.ask("DELETE", "/api/v1/things/a")
        self.assertEqual((response.status, response.body), (204, b""))
        self.assertNotIn("content-length", response.headers)

    async def test_a_body_in_chunks(self) -> None:
        await self.start()
        data = request(
            "POST /api/v1/things HTTP/1.1", "Transfer-Encoding: chunked", "Content-Type: application/json",
            "Connection: close", body=b'4\r\n{"na\r\n8;x=y\r\nme":"a"}\r\n0\r\nTrailer: x\r\n\r\n',
        )  # fmt: skip
        self.assertEqual((await self.exchange(data, "POST"))[0].status, 201)

    async def test_requests_on_one_connection(self) -> None:
        """Also when they arrive at once, and one of them fails."""
        await self.start()
        body = b'{"name":"b"}'
        data = (
            request(GET)
            + request("GET /api/v1/nothing HTTP/1.1")
            + request("POST /api/v1/things HTTP/1.1", "Content-Length: 12", "Content-Type: application/json", body=body)
            + request("HEAD /api/v1/things/c HTTP/1.1")
            + request(GET, "Connection: close")
        )
        answers = await self.exchange(data, "GET", "GET", "POST", "HEAD", "GET")
        self.assertEqual([each.status for each in answers], [200, 404, 201, 200, 200])
        client = await self.connect()
        transport: Any = client.transport
        for byte in data:
            transport.write(bytes([byte]))
        one_by_one = parse(await client.done, ["GET", "GET", "POST", "HEAD", "GET"])
        self.assertEqual([each.status for each in one_by_one], [200, 404, 201, 200, 200])

    async def test_expect_continue(self) -> None:
        """The client learns before it sends the body whether it is of use."""
        await self.start()
        line, kind = "POST /api/v1/things HTTP/1.1", "Content-Type: application/json"
        client = await self.connect(
            request(line, kind, "Content-Length: 12", "Expect: 100-continue", "Connection: close")
        )
        await client.until(b"HTTP/1.1 100 Continue\r\n\r\n")
        transport: Any = client.transport
        transport.write(b'{"name":"a"}')
        answers = parse(await client.done, ["POST", "POST"])
        self.assertEqual([each.status for each in answers], [100, 201])
        refused = await self.exchange(request(line, kind, "Content-Length: 1001", "Expect: 100-continue"), "POST")
        self.assert_problem(refused[0], 413, "body-too-large")

    async def test_http_1_0(self) -> None:
        await self.start()
        client = await self.connect(request("GET /api/v1/things/a HTTP/1.0", host=""))
        received = await client.done
        self.assertTrue(received.startswith(b"HTTP/1.0 200 OK\r\n"), received)
        self.assertTrue(received.endswith(b'{"name":"a","size":3}'), received)

    async def test_the_target_in_absolute_form(self) -> None:
        await self.start()
        answers = await self.exchange(request("GET http://hub/api/v1/things/a HTTP/1.1", "Connection: close"))
        self.assertEqual(answers[0].document["name"], "a")

    async def test_an_error_of_a_handler(self) -> None:
        """Nobody outside sees what it is; the log has it, by the request's id."""
        await self.start()
        response = await self.ask("GET", "/api/v1/fail")
        document = self.assert_problem(response, 500, "internal")
        self.assertNotIn(b"hunter2", response.body)
        self.assertEqual(document["requestId"], response.headers["x-request-id"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    async def test_a_stream_that_breaks_off(self) -> None:
        """The client sees that it is not whole."""
        await self.start()
        client = await self.connect(request("GET /api/v1/short HTTP/1.1", "Connection: close"))
        received = await client.done
        self.assertIn(b"Content-Length: 8", received)
        self.assertTrue(received.endswith(b"half"))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    async def test_a_client_that_goes_away(self) -> None:
        """What only reads ends with it, what changes something is finished."""
        await self.start()
        for method, done in (("GET", ["cancelled"]), ("POST", ["slow"])):
            self.handlers.__init__()  # type: ignore[misc]
            client = await self.connect(request(f"{method} /api/v1/slow HTTP/1.1"))
            await self.handlers.entered
            transport: Any = client.transport
            transport.abortConnection()
            await client.done
            while self.factory.open:
                await deferLater(reactor, 0.01)
            if not self.handlers.done:
                self.handlers.release.callback(None)
            self.assertEqual(self.handlers.done, done)
        self.assertEqual(self.factory.answering, 0)


class RefusalTests(Serving):
    """What is refused, as a problem and not otherwise."""

    def setUp(self) -> None:
        self.handlers = Handlers()

    async def start(self, **bounds: Any) -> None:
        await self.serve(self.handlers.routes(), bounds=Bounds(**{"linger_seconds": 0.3} | bounds))

    async def refused(self, data: bytes, status: int, code: str, method: str = "GET") -> Any:
        answers = await self.exchange(data, method)
        document = self.assert_problem(answers[0], status, code)
        self.assertEqual(answers[0].headers["x-content-type-options"], "nosniff")
        self.assertEqual(self.handlers.done, [])
        return document

    async def test_what_is_not_http(self) -> None:
        await self.start()
        for data in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/3.0\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b"GE\x00T / HTTP/1.1\r\n\r\n",
            request(GET, "no colon"),
            request(GET, "Bad Name: x"),
            request(GET, "X: a\x00b"),
            request(GET, "Space : x"),
        ):
            await self.refused(data, 400, "malformed-request")

    async def test_what_could_be_understood_in_two_ways(self) -> None:
        """Request smuggling: a proxy in front might see other requests than we do."""
        await self.start()
        post, kind = "POST /api/v1/things HTTP/1.1", "Content-Type: application/json"
        for headers in (
            ("Content-Length: 3", "Content-Length: 12"),
            ("Content-Length: 12", "Content-Length: 12"),
            ("Content-Length: 12", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: chunked, identity",),
            ("Transfer-Encoding: gzip",),
            ("Transfer-Encoding: \x0bchunked",),
            ("Content-Length: +12",),
            ("Content-Length: 1_2",),
            ("Content-Length: -1",),
            ("Content-Length: 12, 12",),
        ):
            await self.refused(request(post, kind, *headers, body=b'{"name":"a"}'), 400, "malformed-request", "POST")
        chunked = request(post, kind, "Transfer-Encoding: chunked", body=b"zz\r\n")
        await self.refused(chunked, 400, "malformed-request", "POST")

    async def test_hosts(self) -> None:
        await self.start()
        for host in ("", "a b", "a/b", "user@hub", "hub:port", "hub:1:2", "\xe4"):
            await self.refused(request(GET, "Connection: close", host=host), 400, "malformed-request")
        await self.refused(request(GET, "Host: other", "Connection: close"), 400, "malformed-request")

    async def test_paths(self) -> None:
        await self.start()
        for path, status in (
            ("/api/v1/things/..", 400),
            ("/api/v1/things/%2e%2E", 400),
            ("/api/v1/./things/a", 400),
            ("/api/v1/things/a%00b", 400),
            ("/api/v1/things/a%0d%0ab", 400),
            ("/api/v1/things/%ff", 400),
            ("/api/v1/things/%c2%9b", 400),
            ("/api/v1/things/%zz", 400),
            ("/api/v1/things/%2", 400),
            ("/api/v1/things/a#b", 400),
            ("*", 400),
            ("hub:443", 400),
            ("/api/v1/things/", 404),
            ("/api/v1/things/a/", 404),
            ("//api/v1/things/a", 404),
            ("/api/v1//things/a", 404),
            ("/api%2Fv1/things/a", 404),
            ("/API/v1/things/a", 404),
            ("/", 404),
        ):
            code = "malformed-request" if status == 400 else "unknown-path"
            await self.refused(request(f"GET {path} HTTP/1.1", "Connection: close"), status, code)
        response = await self.ask("GET", "/api/v1/things/a%2Fb")
        self.assertEqual(response.document["name"], "a/b", "an encoded slash is a part of its segment")

    async def test_queries(self) -> None:
        await self.start()
        for query, code in (
            ("x=1", "invalid-query"),
            ("x=1&x=1", "invalid-query"),
            ("x=%00", "invalid-query"),
            ("x=%ff", "malformed-request"),
            ("x=%g0", "malformed-request"),
            ("&".join(f"x{number}=" for number in range(40)), "malformed-request"),
        ):
            await self.refused(request(f"GET /api/v1/things/a?{query} HTTP/1.1", "Connection: close"), 400, code)
        document = await self.refused(
            request("GET /api/v1/things/a?b%0a=1 HTTP/1.1", "Connection: close"), 400, "invalid-query"
        )
        self.assertEqual(document["errors"][0]["parameter"], "b\ufffd")

    async def test_methods(self) -> None:
        await self.start()
        for method in ("PUT", "OPTIONS", "TRACE", "get"):
            response = await self.ask(method, "/api/v1/things/a")
            self.assert_problem(response, 405, "method-not-allowed")
            self.assertEqual(response.headers["allow"], "DELETE, GET, HEAD")

    async def test_lines_and_heads_that_are_too_long(self) -> None:
        await self.start()
        await self.refused(request("GET /" + "a" * 9000 + " HTTP/1.1"), 414, "uri-too-long")
        await self.refused(b"G" * 9000, 414, "uri-too-long")
        await self.refused(request(GET, "X: " + "a" * 9000), 431, "headers-too-large")
        await self.refused(request(GET, *[f"X{number}: {'a' * 7000}" for number in range(5)]), 431, "headers-too-large")
        await self.refused(request(GET, *["X: a"] * 101), 431, "headers-too-large")

    async def test_bodies(self) -> None:
        await self.start()
        post, kind = "POST /api/v1/things HTTP/1.1", "Content-Type: application/json"
        large = b" " * 1001
        await self.refused(request(post, kind, "Content-Length: 1001", body=large), 413, "body-too-large", "POST")
        await self.refused(request(post, kind, "Content-Length: " + "9" * 30), 413, "body-too-large", "POST")
        chunks = b"".join(b"10\r\n" + b" " * 16 + b"\r\n" for _ in range(70))
        await self.refused(
            request(post, kind, "Transfer-Encoding: chunked", body=chunks), 413, "body-too-large", "POST"
        )
        await self.refused(request(post, "Connection: close"), 411, "length-required", "POST")
        for headers in (("Content-Type: text/plain",), (), ("Content-Type: application/json; charset=utf-16",),
                        ("Content-Type: application/x-www-form-urlencoded",),
                        ("Content-Type: multipart/form-data; boundary=x",),
                        (kind, "Content-Encoding: gzip")):  # fmt: skip
            data = request(post, *headers, "Content-Length: 12", body=b'{"name":"a"}')
            await self.refused(data, 415, "unsupported-media-type", "POST")
        data = request(GET, "Content-Length: 1", body=b"x")
        await self.refused(data, 400, "body-unexpected")

    async def test_json(self) -> None:
        await self.start()
        for body, status, code, pointer in (
            (b"", 400, "not-json", None),
            (b"{", 400, "not-json", None),
            (b"\xff", 400, "not-json", None),
            (b'{"name":"\xff"}', 400, "not-json", None),
            (b'{"name":"\\ud800"}', 400, "not-json", None),
            (b"[" * 900, 400, "not-json", None),
            (b'{"name":' + b"[" * 40 + b"]" * 40 + b"}", 422, "invalid-request", "/name" + "/0" * 32),
            (b'{"name":NaN}', 400, "not-json", None),
            (b"[]", 422, "invalid-request", ""),
            (b"{}", 422, "invalid-request", "/name"),
            (b'{"name":1}', 422, "invalid-request", "/name"),
            (b'{"name":"a","size":"1"}', 422, "invalid-request", "/size"),
            (b'{"name":"a","a/b":1}', 422, "invalid-request", "/a~1b"),
            (b'{"name":"a\\u0000"}', 422, "invalid-request", "/name"),
        ):
            response = await self.ask("POST", "/api/v1/things", body)
            document = self.assert_problem(response, status, code)
            found = document["errors"][0]["pointer"] if "errors" in document else None
            self.assertEqual(found, pointer, document)
            self.assertEqual(self.handlers.done, [])

    async def test_accept(self) -> None:
        await self.start()
        for accept, status in (
            ("*/*", 200), ("application/*;q=0.1, text/html", 200), ("application/json", 200), ("", 200),
            ("text/html, */*;q=0.1", 200), ("text/html", 406), ("application/json;q=0, */*", 406),
            ("application/json;q=x", 400),
        ):  # fmt: skip
            response = await self.ask("GET", "/api/v1/things/a", headers=[("Accept", accept)])
            self.assertEqual(response.status, status, accept)

    async def test_headers_that_are_there_twice(self) -> None:
        await self.start()
        for header in ("Authorization: Bearer all", "If-None-Match: nonsense"):
            await self.refused(request(GET, header, "Connection: close"), 400, "invalid-header")

    async def test_permissions(self) -> None:
        await self.start()
        response = await self.ask("GET", "/api/v1/things/a", token="")
        self.assert_problem(response, 401, "not-authenticated")
        self.assertEqual(response.headers["www-authenticate"], 'Bearer realm="relayd-hub"')
        body = b'{"name":"a"}'
        response = await self.ask("POST", "/api/v1/things", body, token="inventory:read")
        self.assert_problem(response, 403, "forbidden")
        self.assertEqual(self.gate.noted, [("thing-create", "token:test/t", "forbidden")])
        self.assertEqual(self.handlers.done, [])

    async def test_requests_from_other_sites(self) -> None:
        await self.start()
        own = f"http://127.0.0.1:{self.port}"
        for headers, status in (
            ([("Origin", "https://evil.example")], 403),
            ([("Origin", "null")], 403),
            ([("Origin", f"http://127.0.0.1:{self.port + 1}")], 403),
            ([("Sec-Fetch-Site", "cross-site")], 403),
            ([("Sec-Fetch-Site", "same-site")], 403),
            ([("Origin", own), ("Sec-Fetch-Site", "cross-site")], 403),
            ([("Origin", own), ("Sec-Fetch-Site", "same-origin")], 201),
            ([], 201),
        ):
            response = await self.ask("POST", "/api/v1/things", b'{"name":"a"}', headers=headers)
            self.assertEqual(response.status, status, headers)
            self.assertEqual(self.handlers.done != [], status == 201)


class SlowClientTests(Serving):
    """What clients can make long: with short bounds; nothing here asserts that something was quick."""

    def setUp(self) -> None:
        self.handlers = Handlers()

    async def start(self, **bounds: Any) -> None:
        await self.serve(self.handlers.routes(), bounds=Bounds(**{"linger_seconds": 0.3} | bounds))

    async def test_a_head_that_does_not_end(self) -> None:
        """Though something arrives all the time."""
        await self.start(head_seconds=0.5)
        client = await self.connect(request(GET)[:-2])
        trickle = self.trickle(client)
        answers = parse(await client.done, ["GET"])
        await trickle
        self.assert_problem(answers[0], 408, "request-timeout")

    async def test_a_second_head_that_does_not_end(self) -> None:
        """On a connection that is known."""
        await self.start(head_seconds=0.5, idle_seconds=600)
        client = await self.connect(request(GET))
        await client.until(b'{"name":"a","size":3}')
        transport: Any = client.transport
        transport.write(request(GET)[:-2])
        trickle = self.trickle(client)
        answers = parse(await client.done, ["GET", "GET"])
        await trickle
        self.assert_problem(answers[1], 408, "request-timeout")

    async def test_a_body_that_does_not_end(self) -> None:
        await self.start(body_seconds=0.5)
        kind = "Content-Type: application/json"
        client = await self.connect(request("POST /api/v1/things HTTP/1.1", kind, "Content-Length: 900"))
        trickle = self.trickle(client, b" ")
        answers = parse(await client.done, ["POST"])
        await trickle
        self.assert_problem(answers[0], 408, "request-timeout")
        self.assertEqual(self.factory.held, 0)

    def trickle(self, client: Any, data: bytes = b"X: y\r\n") -> Deferred[None]:
        async def go_on() -> None:
            while not client.done.called:
                client.transport.write(data)
                await deferLater(reactor, 0.05)

        return Deferred.fromCoroutine(go_on())

    async def test_a_connection_without_a_request(self) -> None:
        await self.start(head_seconds=0.3, idle_seconds=0.3)
        for data in (b"", request(GET)):
            client = await self.connect(data)
            received = await client.done
            self.assertEqual(received.count(b"HTTP/1.1 "), 1 if data else 0)

    async def test_a_client_that_does_not_read(self) -> None:
        await self.start(stall_seconds=0.5)
        client = await self.connect()
        transport: Any = client.transport
        transport.pauseProducing()
        transport.write(request("GET /api/v1/flood HTTP/1.1"))
        while "gone" not in self.handlers.done:
            await deferLater(reactor, 0.05)
        transport.resumeProducing()
        received = await client.done
        self.assertLess(len(received), 64 * 2**20)

    async def test_too_many_connections(self) -> None:
        await self.start(connections=3)
        clients = [await self.connect() for _ in range(3)]
        await deferLater(reactor, 0.1)
        self.assertEqual(await (await self.connect(request(GET))).done, b"")
        transport: Any = clients[0].transport
        transport.loseConnection()
        await clients[0].done
        while self.factory.open == 3:
            await deferLater(reactor, 0.01)
        self.assertEqual((await self.ask("GET", "/api/v1/things/a")).status, 200)

    async def test_too_many_connections_of_one_address(self) -> None:
        await self.start(from_one_address=1)
        await self.connect()
        await deferLater(reactor, 0.1)
        self.assertEqual(await (await self.connect(request(GET))).done, b"")

    async def test_too_many_bodies(self) -> None:
        await self.start(bodies=900)
        kind = "Content-Type: application/json"
        post = request("POST /api/v1/things HTTP/1.1", kind, "Content-Length: 999")
        first = await self.connect(post + b" " * 800)
        while not self.factory.held:
            await deferLater(reactor, 0.01)
        response = (await self.exchange(post + b" " * 800, "POST"))[0]
        self.assert_problem(response, 503, "unavailable")
        self.assertEqual(response.headers["retry-after"], "2")
        transport: Any = first.transport
        transport.loseConnection()
        await first.done
        while self.factory.open:
            await deferLater(reactor, 0.01)
        self.assertEqual(self.factory.held, 0)

    async def test_stopping(self) -> None:
        """What is being answered is finished, streams end, and nobody else comes in."""
        await self.start()
        idle = await self.connect()
        flood = await self.connect(request("GET /api/v1/flood HTTP/1.1"))
        slow = await self.connect(request("POST /api/v1/slow HTTP/1.1"))
        await self.handlers.entered
        await flood.until(b"xxxx")
        stopped = self.factory.stop(30)
        await idle.done
        self.assertTrue((await flood.done).endswith(b"0\r\n\r\n"))
        self.assertFalse(stopped.called)
        self.handlers.release.callback(None)
        answer = parse(await slow.done, ["POST"])[0]
        self.assertEqual((answer.status, answer.headers["connection"]), (200, "close"))
        await stopped

    async def test_stopping_does_not_wait_for_ever(self) -> None:
        await self.start()
        slow = await self.connect(request("GET /api/v1/slow HTTP/1.1"))
        await self.handlers.entered
        await self.factory.stop(0.2)
        self.assertEqual(await slow.done, b"")
        self.assertEqual(self.handlers.done, ["cancelled"])
