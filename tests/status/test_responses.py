"""
What the status server responds to which request.
"""

from __future__ import annotations

import json
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from twisted.trial.unittest import SynchronousTestCase

from relayd.status.responses import FRESH, Responder, Response
from tests.support.status import FakeRelay

ROOT = Path(__file__).resolve().parents[2]
TEXT = "canary-text --of a-command"
EVIL = "<script>alert(1)</script>\"'&\x00\u202e"


class StatusCase(SynchronousTestCase):
    """Has a relay, and asks it."""

    def setUp(self) -> None:
        self.relay = FakeRelay()
        self.responder = Responder(self.relay.sources, check_host=True)

    def get(self, target: str, accept: str = "*/*", host: str = "127.0.0.1:9180", method: str = "GET") -> Response:
        self.relay.clock.advance(FRESH)
        return self.responder.respond(method, target, [host], accept)

    def samples(self) -> list[Sample]:
        text = self.get("/metrics").body.decode()
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        found = [sample.value for sample in self.samples() if (sample.name, sample.labels) == (name, labels)]
        self.assertEqual(len(found), 1, (name, labels))
        return float(found[0])


class AnswerTests(StatusCase):
    """Paths, methods, hosts."""

    def test_paths(self) -> None:
        expected = {
            "/": 302, "/healthz": 200, "/readyz": 200, "/metrics": 200, "/metrics?x=1": 200, "/status": 200,
            "/status.json": 200, "/status.html": 200, "/status.css": 200, "/status.js": 200, "/favicon.ico": 404,
            "/../config.py": 404, "": 404, "*": 404,
        }  # fmt: skip
        self.assertEqual({path: self.get(path).code for path in expected}, expected)

    def test_methods(self) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X"):
            answer = self.get("/status", method=method)
            self.assertEqual((answer.code, answer.headers()["Allow"]), (405, "GET, HEAD"))
        self.assertEqual(self.get("/status", method="HEAD").code, 200)

    def test_a_name_that_was_made_to_lead_here(self) -> None:
        for host in ("evil.example", "evil.example:9180", "127.0.0.1.evil.example", "localhost.evil", "", "1"):
            self.assertEqual(self.get("/status", host=host).code, 421, host)
        for host in ("127.0.0.1", "localhost:9180", "LOCALHOST", "[::1]:9180", "10.0.0.7"):
            self.assertEqual(self.get("/status", host=host).code, 200, host)
        self.assertEqual(self.responder.respond("GET", "/", ["127.0.0.1", "evil.example"], "").code, 421)
        self.assertEqual(self.responder.respond("GET", "/healthz", [], "").code, 200)  # HTTP/1.0
        anywhere = Responder(self.relay.sources, check_host=False)
        self.assertEqual(anywhere.respond("GET", "/status", ["relay-1.internal:9180"], "").code, 200)

    def test_who_gets_the_page(self) -> None:
        browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
        for accept, kind in ((browser, "text/html"), ("*/*", "application/json"), ("", "application/json"),
                             ("application/json, text/html", "application/json")):  # fmt: skip
            answer = self.get("/status", accept)
            self.assertEqual(answer.headers()["Content-Type"].partition(";")[0], kind, accept)
            self.assertEqual(answer.headers()["Vary"], "Accept")

    def test_headers(self) -> None:
        for path in ("/status", "/status.html", "/metrics", "/readyz", "/none"):
            headers = self.get(path).headers()
            self.assertEqual(headers["Cache-Control"], "no-store")
            self.assertTrue(headers["Content-Security-Policy"].startswith("default-src 'none';"))
            self.assertNotIn("unsafe", headers["Content-Security-Policy"])
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")

    def test_many_that_ask_cost_one_answer(self) -> None:
        first = self.get("/metrics").body
        self.relay.stats.accepted += 1
        self.assertIs(self.responder.respond("GET", "/metrics", [], "").body, first)
        self.assertEqual(self.value("relayd_commands_accepted_total"), 1)

    def test_but_never_one_that_is_not_true_any_more(self) -> None:
        self.assertTrue(json.loads(self.get("/status").body)["ready"])
        self.relay.accepting = False
        self.assertFalse(json.loads(self.responder.respond("GET", "/status", [], "").body)["ready"])
