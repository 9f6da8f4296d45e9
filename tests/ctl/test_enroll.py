"""
relayctl enroll: against a small hub over real TLS, which answers as a test says.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import ssl
import stat
import sys
import tempfile
import tomllib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.ctl import check, enroll, enrolment_files
from relayd.ctl.main import main
from tests.support.certificates import Authority

TOKEN = "rle_" + "7" * 64
KEY = "rlk_" + "9" * 64
GOOD = {"relay": "site-1", "key": KEY, "url": "wss://hub.example.com", "settings": "host-keys = 'ignore'"}


class Hub:
    """
    Answers ``POST /api/v1/enrol``.

    :ivar answer: status, body, and more headers; or what is done in place of an answer.
    :ivar asked: path and body of each request.
    """

    def __init__(self, certificate: Any = None) -> None:
        self.answer: tuple[int, Any, dict[str, str]] | Callable[[Any], None] = (200, GOOD, {})
        self.asked: list[tuple[str, Any]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hub.asked.append((self.path, json.loads(body)))
                if callable(hub.answer):
                    hub.answer(self)
                    return
                status, data, headers = hub.answer
                said = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(said)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that leave
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.cert, certificate.key)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)


class EnrollCase(SynchronousTestCase):
    """Has a directory for what is written, and a hub."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.patch(os, "environ", {name: value for name, value in os.environ.items() if "RELAYD_" not in name})
        authority = Authority(self.directory / "authority")
        self.ca = authority.path
        self.hub = Hub(authority.issue("localhost"))
        self.addCleanup(self.hub.close)
        self.site = self.directory / "site"
        self.site.mkdir()
        self.config, self.key = self.site / "relayd.toml", self.site / "api-key"
        self.checked: list[list[str]] = []
        self.patch(check, "run", lambda arguments: self.checked.append([arguments.config]) or 0)

    def relayctl(self, *arguments: str, url: str = "", ca: bool = True) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        url = url or f"https://localhost:{self.hub.port}"
        trust = ("--tls-ca", self.ca) if ca else ()
        output, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(errors):
            try:
                code = main(["enroll", url, *arguments, "--config", str(self.config), *trust])
            except SystemExit as end:
                code = int(end.code or 0)
        said = output.getvalue() + errors.getvalue()
        self.assertNotIn(KEY, said)
        self.assertNotIn(TOKEN, said)
        return code, output.getvalue(), errors.getvalue()

    def fails(self, words: str, *arguments: str, asked: int = 0, **more: Any) -> None:
        """It says so in one line, writes nothing, and has asked so often."""
        before = {path.name: path.read_bytes() for path in self.site.iterdir()}
        code, _, errors = self.relayctl(*(arguments or (TOKEN,)), **more)
        self.assertIn(words, errors)
        self.assertEqual((code, errors.count("\n")), (1, 1))
        self.assertEqual({path.name: path.read_bytes() for path in self.site.iterdir()}, before)
        self.assertEqual((len(self.hub.asked), self.checked), (asked, []))
        self.hub.asked.clear()


class WrittenTests(EnrollCase):
    """What is written."""

    def test_from_nothing(self) -> None:
        code, output, _ = self.relayctl(TOKEN)
        self.assertEqual(code, 0, output)
        self.assertEqual(self.hub.asked, [("/api/v1/enrol", {"token": TOKEN})])
        self.assertIn("enrolled as site-1\n", output)
        self.assertEqual(self.key.read_text(), KEY + "\n")
        self.assertEqual(stat.S_IMODE(self.key.stat().st_mode), 0o600)
        # nothing of what the hub says about other settings: the site decides
        self.assertEqual(tomllib.loads(self.config.read_text()), {
            "server": "wss://hub.example.com", "proxy-id": "site-1", "api-key-file": str(self.key), "tls-ca": self.ca,
        })  # fmt: skip
        self.assertEqual(sorted(os.listdir(self.site)), ["api-key", "relayd.toml"])
        self.assertEqual(self.checked, [[str(self.config)]])

    def test_the_token_out_of_sight(self) -> None:
        file = self.directory / "token"
        file.write_text(TOKEN + "\n")
        self.assertEqual(self.relayctl("--token-file", str(file))[0], 0)
        self.patch(sys, "stdin", io.StringIO(TOKEN + "\n"))
        self.assertEqual(self.relayctl("-", "--force")[0], 0)
        self.assertEqual([each["token"] for _, each in self.hub.asked], [TOKEN] * 2)

    def test_settings_that_are_there_stay(self) -> None:
        """As those that the package brings, which set nothing, or the rules of the site."""
        self.config.write_text('# the site\ndeny-users = ["root"]\n[[hosts]]\nhosts = ["db"]\n')
        self.config.chmod(0o640)
        self.assertEqual(self.relayctl(TOKEN)[0], 0)
        self.assertEqual(stat.S_IMODE(self.config.stat().st_mode), 0o640)
        found = tomllib.loads(self.config.read_text())
        self.assertEqual((found["deny-users"], found["hosts"]), (["root"], [{"hosts": ["db"]}]))
        self.assertEqual(found["proxy-id"], "site-1")
        self.assertIn("# the site\n", self.config.read_text())

    def test_nothing_is_overwritten_unless_it_is_said(self) -> None:
        self.key.write_text("old")
        self.fails("api-key exists; --force writes it anew")
        self.key.unlink()
        self.config.write_text('server = "wss://old"\nmax-commands = 7\n[[hosts]]\nserver = "x"\n')
        self.fails("has server already; --force replaces these and leaves the rest")
        self.key.write_text("old")
        self.assertEqual(self.relayctl(TOKEN, "--force")[0], 0)
        found = tomllib.loads(self.config.read_text())
        self.assertEqual((found["server"], found["max-commands"]), ("wss://hub.example.com", 7))
        self.assertEqual((found["hosts"], self.key.read_text()), ([{"server": "x"}], KEY + "\n"))

    def test_settings_that_cannot_be_changed(self) -> None:
        for text, words in (
            ("server = \n", "is not valid TOML"),
            ("[[servers]]\n", "[[servers]] tables"),
            ('server = """\nwss://old"""\n', "cannot be replaced line by line"),
        ):
            self.config.write_text(text)
            self.fails(words, TOKEN, "--force")

    def test_a_place_that_cannot_be_written(self) -> None:
        self.fails(
            "cannot be written: No such file or directory", TOKEN, "--api-key-file", str(self.site / "x" / "key")
        )
        self.fails("is a directory", TOKEN, "--force", "--api-key-file", str(self.directory))

    def test_a_disk_that_is_full_after_all(self) -> None:
        """Before anything is half written, and with words about the token, which is used."""

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        self.patch(enrolment_files.os, "fsync", full)  # type: ignore[attr-defined]
        self.fails("No space left on device. The token is used, and the key is lost", asked=1)

    def test_a_file_that_came_meanwhile(self) -> None:
        def answer(handler: Any) -> None:
            self.config.write_text("mine")
            said = json.dumps(GOOD).encode()
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))

        self.hub.answer = answer
        code, _, errors = self.relayctl(TOKEN)
        self.assertEqual(code, 1)
        self.assertIn("it exists. The key is in its file; write these settings by hand: server = ", errors)
        self.assertEqual((self.config.read_text(), self.key.read_text()), ("mine", KEY + "\n"))

    def test_the_usual_unit(self) -> None:
        """Its user cannot read the key's file: systemd hands it over."""
        self.patch(enroll, "FILE", str(self.config))
        self.patch(enroll, "loaded_credentials", lambda unit: {"api-key": str(self.key)})
        self.assertEqual(self.relayctl(TOKEN)[0], 0)
        self.assertNotIn("api-key-file", self.config.read_text())
        self.assertEqual(stat.S_IMODE(self.config.stat().st_mode), 0o644)
        self.assertEqual(self.checked, [[None]])


class AnswerTests(EnrollCase):
    """What the hub may be and say."""

    def test_tls_is_verified(self) -> None:
        """No option turns that off."""
        self.fails("TLS certificate cannot be trusted", ca=False)
        self.fails("TLS certificate cannot be trusted", url=f"https://127.0.0.1:{self.hub.port}")
        self.fails("--tls-ca", TOKEN, "--tls-ca", str(self.directory / "none.pem"), ca=False)
        self.fails("--tls-ca", TOKEN, "--tls-ca", __file__, ca=False)

    def test_no_tls(self) -> None:
        self.fails("must begin with https://", url="http://hub.example.com")
        self.fails("expected a URL", url="hub.example.com")
        plain = Hub()
        self.addCleanup(plain.close)
        plain.answer = (200, GOOD | {"url": "ws://127.0.0.1:1"}, {})
        self.assertEqual(self.relayctl(TOKEN, url=f"http://127.0.0.1:{plain.port}/hub/")[0], 0)
        self.assertEqual(plain.asked, [("/hub/api/v1/enrol", {"token": TOKEN})])

    def test_nobody_there(self) -> None:
        port = self.hub.port
        self.hub.close()
        self.fails("cannot be reached: Connection refused. Nothing was sent", url=f"https://localhost:{port}")

    def test_refusals(self) -> None:
        said = {"title": "Forbidden", "detail": "it was used\non Monday"}
        problem = {"Content-Type": "application/problem+json"}
        for answer, words in (
            ((403, said, problem), "the hub refuses (HTTP 403): it was used\N{REPLACEMENT CHARACTER}on Monday"),
            ((404, b"<html>", {}), "the hub refuses (HTTP 404)"),
            ((503, {"title": "Busy"}, problem), "Busy. Try again later with the same token"),
            ((502, b"", {}), "the hub fails (HTTP 502). Run the same command again. If the hub then says"),
            ((301, b"", {"Location": "https://evil.example.com"}), "redirects (HTTP 301), which is not followed"),
            ((200, b"hello", {}), "answers with something else than a key"),
            ((200, {"relay": "x"}, {}), "answers with something else than a key"),
            ((200, GOOD | {"key": "a\nb"}, {}), "answers with something else than a key"),
            ((200, GOOD | {"url": "file:///x"}, {}), "answers with something else than a key"),
            ((200, GOOD | {"url": "ws://hub.example.com"}, {}), "not encrypted"),
        ):
            self.hub.answer = answer
            self.fails(words, asked=1)

    def test_a_lost_answer(self) -> None:
        """It says what to do: whether the token was used is not known."""

        def leave(handler: Any) -> None:
            handler.connection.close()

        self.hub.answer = leave
        self.fails("the connection was lost before the hub's answer came. Run the same command again", asked=1)

    def test_tokens(self) -> None:
        self.fails("the token is empty", "")
        self.fails("the token: its file cannot be read", "--token-file", str(self.directory / "none"))
        self.assertEqual(self.relayctl()[0], 2)
        self.assertEqual(self.relayctl(TOKEN, "--token-file", "x")[0], 2)
