"""
A small hub for tests of its clients: it answers as its test says, over real HTTP on loopback, in a thread of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct


class Asked(Struct):
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Said(Struct):
    """
    An answer.

    :ivar body: bytes as they are; anything else as JSON.
    """

    body: Any = None
    status: int = 200
    media_type: str = "application/json"


def events(*given: tuple[str, int | None, Any]) -> Said:
    """A stream of events with name, id and data, which then breaks off."""
    text = "".join(
        (f"id: {number}\n" if number is not None else "") + f"event: {name}\ndata: {json.dumps(data)}\n\n"
        for name, number, data in given
    )
    return Said(text.encode(), media_type="text/event-stream")


def problem(status: int, kind: str, detail: str) -> Said:
    """Problem details."""
    body = {"type": f"urn:relayd:problem:{kind}", "title": "No", "status": status, "detail": detail}
    return Said(body, status, "application/problem+json")


class FakeHub:
    """
    See the module.

    :ivar answers: by method and path below ``/api/v1``; of a list, one after the other, and the last for ever. A
        function gets the request.
    :ivar asked: the requests.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[Asked] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                """Answer one request."""
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                is_json = self.headers.get("Content-Type") == "application/json" and body
                asked = Asked(
                    self.command,
                    parts.path.removeprefix("/api/v1"),
                    query,
                    {name.lower(): value for name, value in self.headers.items()},
                    json.loads(body) if is_json else body,
                )
                fake.asked.append(asked)
                said = fake.answer(asked)
                content = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                self.send_response(said.status)
                self.send_header("Content-Type", said.media_type)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = do_PATCH = do

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, asked: Asked) -> Said:
        """What the test said."""
        found = self.answers.get((asked.method, asked.path), problem(404, "unknown-path", "There is nothing here."))
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        said = found(asked) if isinstance(found, Callable) else found  # type: ignore[arg-type]
        return said if isinstance(said, Said) else Said(said)
