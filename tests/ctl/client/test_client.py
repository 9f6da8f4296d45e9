"""
relayd.ctl.client: requests, stored logins, streams of events, and lines of output.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.ctl.client import events as events_module
from relayd.ctl.client import http as http_module
from relayd.ctl.client.errors import LoginUnusable, NoLogin, Refused, Unreachable
from relayd.ctl.client.events import events_of, parse
from relayd.ctl.client.http import Hub, read_url, segment
from relayd.ctl.client.lines import HostLines
from relayd.ctl.client.logins import Login, Logins
from relayd.ctl.client.outcome import exit_status, tell
from relayd.wire.secret import Secret
from tests.support.fake_hub import Asked, FakeHub, Said, events, problem

END = ("end", None, {})


class ClientCase(SynchronousTestCase):
    """Tests with a fake hub."""

    def setUp(self) -> None:
        self.fake = FakeHub()
        self.addCleanup(self.fake.close)
        self.hub = Hub(Login(self.fake.url, Secret("the-token")))
        self.addCleanup(self.hub.close)
        self.patch(http_module, "_DELAYS", (0.0, 0.0))
        self.patch(events_module, "_DELAYS", (0.0,))


class RequestTests(ClientCase):
    """`Hub`."""

    def test_a_request(self) -> None:
        self.fake.answers["POST", "/runs"] = {"id": "r1"}
        self.assertEqual(self.hub.call("POST", "/runs", {"a": 1}, headers={"Idempotency-Key": "k"}), {"id": "r1"})
        [asked] = self.fake.asked
        self.assertEqual((asked.body, asked.headers["authorization"]), ({"a": 1}, "Bearer the-token"))
        self.assertEqual(asked.headers["idempotency-key"], "k")

    def test_pages(self) -> None:
        def page(asked: Asked) -> Any:
            start = int(asked.query.get("cursor", 0))
            return {"items": [start, start + 1], **({"next": str(start + 2)} if start < 4 else {})}

        self.fake.answers["GET", "/hosts"] = page
        self.assertEqual(list(self.hub.items("/hosts")), [0, 1, 2, 3, 4, 5])
        self.assertEqual(list(self.hub.items("/hosts", most=2)), [0, 1])
        self.assertEqual(self.fake.asked[-1].query, {"limit": "2"})

    def test_refusals(self) -> None:
        self.fake.answers["GET", "/me"] = problem(403, "forbidden", "You may\x1b[31m not.")
        error = self.assertRaises(Refused, self.hub.get, "/me")
        self.assertEqual((error.status, error.kind), (403, "forbidden"))
        self.assertEqual(str(error), "The hub refuses it: You may\ufffd[31m not.")
        self.fake.answers["GET", "/me"] = Said(b"<html>", 404, "text/html")
        self.assertIn("perhaps no hub of relayd", str(self.assertRaises(Refused, self.hub.get, "/me")))

    def test_what_is_away_for_a_moment_is_asked_again(self) -> None:
        self.fake.answers["GET", "/me"] = [problem(503, "unavailable", "x"), {"name": "user:a"}]
        self.assertEqual(self.hub.get("/me"), {"name": "user:a"})
        self.fake.answers["POST", "/runs"] = [problem(503, "unavailable", "x"), {"id": "r1"}]
        self.assertRaises(Refused, self.hub.call, "POST", "/runs", {})
        self.assertEqual(self.hub.call("POST", "/runs", {}, again=True), {"id": "r1"})

    def test_nobody_there(self) -> None:
        self.fake.close()
        error = self.assertRaises(Unreachable, self.hub.get, "/me")
        self.assertIn("Connection refused", str(error))
        self.addCleanup(setattr, self.fake, "close", lambda: None)
        self.fake.close = lambda: None  # type: ignore[method-assign]

    def test_urls(self) -> None:
        self.assertEqual(read_url("hub.example.com"), "https://hub.example.com")
        self.assertEqual(read_url("https://hub:8443/api/v1/"), "https://hub:8443")
        self.assertEqual(read_url("http://127.0.0.1:1"), "http://127.0.0.1:1")
        for wrong in ("http://hub", "ftp://hub", "https://u:p@hub", "https://hub/x", "https://hub?x", "https://h:0"):
            self.assertRaises(ValueError, read_url, wrong)
        self.assertEqual(segment("a/b?c"), "a%2Fb%3Fc")


class LoginTests(SynchronousTestCase):
    """`Logins`."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "deep", "hubs.json")
        self.logins = Logins(self.path)

    def test_it_is_for_its_user_alone(self) -> None:
        self.assertRaises(NoLogin, self.logins.find, None)
        self.logins.store(Login("https://a", Secret("token-a"), "/ca.pem"))
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.logins.store(Login("https://b", Secret("token-b")))
        self.assertEqual(self.logins.find(None), Login("https://b", Secret("token-b")))
        self.assertEqual(self.logins.find("https://a"), Login("https://a", Secret("token-a"), "/ca.pem"))
        self.assertRaises(NoLogin, self.logins.find, "https://c")
        self.logins.forget("https://b")
        self.assertEqual(self.logins.find(None).url, "https://a")
        self.assertNotIn("token-a", repr(self.logins.find(None)))

    def test_others_may_use_it(self) -> None:
        self.logins.store(Login("https://a", Secret("token-a")))
        os.chmod(self.path, 0o640)
        self.assertIn("chmod 600", str(self.assertRaises(LoginUnusable, self.logins.find, None)))

    def test_damage(self) -> None:
        self.logins.store(Login("https://a", Secret("token-a")))
        for content in ("", "[]", '{"hubs": []}'):
            Path(self.path).write_text(content)
            self.assertIn("damaged", str(self.assertRaises(LoginUnusable, self.logins.find, None)))


class EventTests(ClientCase):
    """`events_of`."""

    def test_parse(self) -> None:
        text = b'retry: 5\n\n: \n\nid: 7\nevent: run\ndata: {"a":\ndata: 1}\n\n'
        text += b"data: {}\n\nid: x\nevent: end\ndata: {}\n\n"
        self.assertEqual(list(parse(io.BytesIO(text))), [("run", "7", {"a": 1}), ("message", "", {}), ("end", "", {})])
        for wrong in (b"data: {}", b"data: []\n\n", b"data: {\n\n"):
            self.assertRaises(ValueError, list, parse(io.BytesIO(wrong)))

    def test_it_goes_on_where_it_was(self) -> None:
        self.fake.answers["GET", "/runs/r1/events"] = [
            events(("run", 3, {"n": 1})),
            problem(503, "unavailable", "x"),
            events(("run", 4, {"n": 2}), END),
        ]
        lost: list[float] = []
        self.assertEqual(list(events_of(self.hub, "r1", lost.append)), [("run", {"n": 1}), ("run", {"n": 2})])
        self.assertEqual(len(lost), 2)
        self.assertEqual([asked.headers.get("last-event-id") for asked in self.fake.asked], [None, "3", "3"])

    def test_a_hub_that_stays_away(self) -> None:
        self.fake.answers["GET", "/runs/r1/events"] = problem(503, "unavailable", "x")
        self.assertRaises(Unreachable, list, events_of(self.hub, "r1", lambda delay: None, patience=0.05))

    def test_a_refusal_is_final(self) -> None:
        self.fake.answers["GET", "/runs/r1/events"] = problem(404, "not-found", "There is no run r1.")
        self.assertRaises(Refused, list, events_of(self.hub, "r1", lambda delay: None))


class LineTests(SynchronousTestCase):
    """`HostLines`."""

    def setUp(self) -> None:
        self.written: list[tuple[str, str]] = []
        self.lines = HostLines(lambda stream, line: self.written.append((stream, line)))

    def test_lines_are_whole(self) -> None:
        self.lines.add("i1", "a", "stdout", b"on")
        self.lines.add("i2", "b", "stdout", b"two\nthree")
        self.lines.add("i1", "a", "stderr", b"oh\n")
        self.lines.add("i1", "a", "stdout", b"e\n\n")
        self.lines.end("i2", "b")
        self.assertEqual(
            self.written,
            [
                ("stdout", "b: two"),
                ("stderr", "a: oh"),
                ("stdout", "a: one"),
                ("stdout", "a: "),
                ("stdout", "b: three"),
            ],
        )

    def test_a_character_in_two_pieces(self) -> None:
        data = "ä\n".encode()
        self.lines.add("i1", "a", "stdout", data[:1])
        self.lines.add("i1", "a", "stdout", data[1:])
        self.lines.add("i1", "a", "stdout", data[:1])
        self.lines.end("i1", "a")
        self.assertEqual([line for _, line in self.written], ["a: ä", "a: \ufffd"])

    def test_nothing_that_a_terminal_obeys(self) -> None:
        self.lines.add("i1", "a\x1b[2J", "stdout", b"\x1b]0;title\x07x\ty\r\n\xc2\x9b31m\n")
        self.assertEqual(
            [line for _, line in self.written], ["a\ufffd[2J: \ufffd]0;title\ufffdx     y", "a\ufffd[2J: \ufffd31m"]
        )
        HostLines(lambda _, line: self.written.append(("raw", line)), raw=True).add("i", "a", "stdout", b"\x1b[1m\n")
        self.assertEqual(self.written[-1], ("raw", "a: \x1b[1m"))

    def test_a_line_without_end(self) -> None:
        for _ in range(20):
            self.lines.add("i1", "a", "stdout", b"x" * 10_000)
        self.assertEqual(len(self.written), 3)
        self.lines.end("i1", "a")
        self.assertEqual(sum(line.count("x") for _, line in self.written), 200_000)


class OutcomeTests(SynchronousTestCase):
    """The exit status."""

    def test_exit_status(self) -> None:
        for states, status in (
            (["succeeded"], 0),
            (["succeeded", "failed"], 1),
            (["timed-out"], 1),
            (["succeeded", "refused"], 4),
            (["expired", "not-executed", "cancelled"], 4),
            (["failed", "refused"], 1),
            (["unknown", "failed", "refused"], 3),
            (["something-new"], 1),
        ):
            self.assertEqual(exit_status(states), status, states)

    def test_counts(self) -> None:
        self.assertEqual(tell({"succeeded": 48, "unknown": 1, "failed": 0, "odd": 2}), "1 unknown, 48 succeeded, 2 odd")
