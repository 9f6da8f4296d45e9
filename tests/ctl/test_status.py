"""
relayctl status: where it asks, and what it makes of answers that are none.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from relayd.ctl import status
from relayd.ctl.main import main
from relayd.status.summary import summarize
from tests.support.status import FakeRelay


def relayctl(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of ``relayctl status``."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), mock.patch.dict(os.environ, clear=True):
        code = main(["status", *words])
    return code, out.getvalue(), err.getvalue()


class WhereTests(SynchronousTestCase):
    """The address."""

    def test_no_settings(self) -> None:
        self.assertEqual(relayctl()[0], 2)
        self.assertIn("where is the relay?", relayctl()[2])

    def test_a_file_that_does_not_name_it(self) -> None:
        """It is named, with the line that it lacks."""
        path = Path(self.mktemp())
        path.write_text('server = "wss://main.example.com"\n')
        code, _, said = relayctl("--config", str(path))
        self.assertEqual(code, 2)
        self.assertIn(f"{path} does not set status", said)
        self.assertIn('status = "tcp:127.0.0.1:9180"', said)
        path.write_text('status = "tcp:127.0.0.1:1"\n')
        self.assertEqual(relayctl("--config", str(path))[0], 1)


class AnswerTests(SynchronousTestCase):
    """Anything may listen at that address."""

    def ask(self, body: bytes) -> tuple[int, str, str]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = Thread(target=server.handle_request)
        thread.start()
        try:
            return relayctl("--url", f"http://127.0.0.1:{server.server_port}")
        finally:
            thread.join()
            server.server_close()

    def test_an_answer_in_drops(self) -> None:
        """All of it has to be there in time, and not just the next byte."""
        self.patch(status, "PATIENCE", 0.5)
        body = json.dumps(summarize(FakeRelay().sources)).encode()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for path in ("", str(Path(folder.name, "socket"))):
            listening = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
            self.addCleanup(listening.close)
            listening.bind(path or ("127.0.0.1", 0))
            listening.listen()

            def drip(listening: socket.socket = listening) -> None:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(1000)
                    for piece in (b"HTTP/1.0 200 OK\r\n", *[b"A: b\r\n"] * 50, b"\r\n" + body):
                        connection.sendall(piece)
                        time.sleep(0.1)

            thread = Thread(target=drip)
            thread.start()
            url = f"unix:{path}" if path else f"http://127.0.0.1:{listening.getsockname()[1]}"
            code, _, said = relayctl("--url", url)
            thread.join()
            self.assertEqual(code, 1)
            self.assertIn("timed out", said)

    def test_a_relay(self) -> None:
        self.assertEqual(self.ask(json.dumps(summarize(FakeRelay().sources)).encode())[0], 0)

    def test_something_else(self) -> None:
        document = summarize(FakeRelay().sources)
        others: tuple[object, ...] = (
            [], None, {"obstacles": []}, {**document, "uptime": "long"}, {**document, "uptime": float("inf")},
            {**document, "hosts": [1], "hostsInAll": 1}, {**document, "commands": {"refused": 3}},
        )  # fmt: skip
        for body in (b"<html>", b"[" * 100_000, b"\xff", *(json.dumps(other).encode() for other in others)):
            code, out, said = self.ask(body)
            self.assertEqual((code, out), (1, ""), body[:80])
            self.assertIn("the answer is not a relay's status", said)

    def test_a_name_that_cannot_be_one(self) -> None:
        with redirect_stderr(io.StringIO()) as said:
            self.assertEqual(main(["status", "--url", f"http://{'a' * 64}.example:1"]), 1)
        self.assertIn("the host is not a valid name", said.getvalue())

    def test_texts_that_would_change_the_terminal(self) -> None:
        document = {**summarize(FakeRelay().sources), "version": "\x1b[2J", "server": "\x1b]0;x\x07"}
        self.assertNotIn("\x1b", self.ask(json.dumps(document).encode())[1])
