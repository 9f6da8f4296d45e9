"""
relayd.status: what is answered to whom, the metrics, the page.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands import stats
from relayd.commands.stats import EndedCommand, Stats
from relayd.config.listen_address import listen_address
from relayd.config.options import load
from relayd.errors import ConfigError
from relayd.process import event_loop
from relayd.ssh.pool.decisions import HostCounts
from relayd.status.metrics import OTHER, make_registry
from relayd.status.responses import FRESH, Responder, Response
from relayd.status.summary import MOST_ROWS
from relayd.uplink.service import UplinkStatus
from relayd.wire.messages import Details
from tests.support.dispatching import PASSWORD
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


class ReadyTests(StatusCase):
    """Readiness, and the reason against it."""

    def not_ready(self, reason: str) -> None:
        answer = self.get("/readyz")
        self.assertEqual(answer.code, 503)
        self.assertEqual(answer.body.decode(), f"not ready: {reason}\n")
        self.assertEqual(self.value("relayd_ready"), 0)
        self.assertIn(reason, json.loads(self.get("/status").body)["obstacles"])

    def test_ready(self) -> None:
        self.assertEqual((self.get("/readyz").code, self.value("relayd_ready")), (200, 1))

    def test_the_main_server_has_not_accepted_it(self) -> None:
        self.relay.status = UplinkStatus()
        self.not_ready("the main server has not accepted it: relayd is connecting")
        self.relay.status = UplinkStatus(last_error="the door is shut")
        self.not_ready("the main server has not accepted it: the door is shut")

    def test_the_journal(self) -> None:
        self.relay.trouble = "disk full"
        self.not_ready("the journal accepts no commands: disk full")

    def test_the_audit_log(self) -> None:
        self.relay.available = False
        self.not_ready("the audit log cannot be written")

    def test_the_end(self) -> None:
        self.relay.accepting = False
        self.not_ready("it is shutting down and accepts no new commands")
        self.assertEqual(self.get("/healthz").code, 200)


class MetricsTests(StatusCase):
    """Prometheus' own parser reads them."""

    def test_commands(self) -> None:
        counted = self.relay.stats
        details = Details(stdout_bytes=7, stderr_bytes=2, timings={"wait": 0.02, "login": 0.3, "run": 4.0, "new": 1.0})
        counted.count_ended(EndedCommand("c", "h", 22, "u", "ok", 0, 4.5, 0), 0.18, details)
        counted.count_ended(EndedCommand("d", "h", 22, "u", "timeout", 1, 9.0, 0), None, Details())
        self.assertEqual(self.value("relayd_commands_finished_total", outcome="timeout"), 1)
        self.assertEqual(self.value("relayd_output_bytes_total", stream="stdout"), 7)
        self.assertEqual(self.value("relayd_command_duration_seconds_count"), 2)
        self.assertEqual(self.value("relayd_command_duration_seconds_sum"), 13.5)
        self.assertEqual(self.value("relayd_command_duration_seconds_bucket", le="5.0"), 1)
        self.assertEqual(self.value("relayd_command_queue_seconds_count"), 1)
        self.assertEqual(self.value("relayd_command_phase_seconds_bucket", phase="login", le="0.25"), 0)
        self.assertEqual(self.value("relayd_command_phase_seconds_bucket", phase="login", le="0.5"), 1)
        self.assertEqual(self.value("relayd_command_phase_seconds_count", phase="key_exchange"), 0)

    def test_other_parts(self) -> None:
        self.relay.host_counts = [HostCounts("a:22", 1, 0, 1, 0, 3), HostCounts("b:22", 1, 0, 1, 0, 10)]
        self.assertEqual(self.value("relayd_uplink_accepted", dialect="socketio"), 1)
        self.assertEqual(self.value("relayd_uplink_accepted", dialect="native"), 0)
        self.assertEqual(self.value("relayd_journal_unconfirmed"), 2)
        self.assertEqual(self.value("relayd_journal_oldest_unconfirmed_seconds"), 12.5)
        self.assertEqual(self.value("relayd_ssh_connections", state="busy"), 3)
        self.assertEqual(self.value("relayd_ssh_hosts_limited"), 1)
        self.assertEqual(self.value("relayd_event_loop_delay_seconds_bucket", le=str(event_loop.BOUNDS[-1])), 0)
        self.assertGreater(self.value("process_cpu_seconds_total"), 0)

    def test_no_label_without_a_bound(self) -> None:
        """Whatever hosts, users and commands there are, there are no more time series."""
        before = len(self.samples())
        for number in range(500):
            self.relay.begin(f"c{number}", host=f"host-{number}")
            self.relay.end(f"d{number}", outcome=f"invented-{number}", host=f"h{number}", user=f"u{number}")
            self.relay.stats.refused[f"made-up-{number}"] += 1
        self.relay.host_counts = [HostCounts(f"h{number}:22", 1, 0, 1, 0, 10) for number in range(500)]
        self.assertEqual(len(self.samples()), before)
        self.assertEqual(self.value("relayd_commands_finished_total", outcome=OTHER), 500)
        labels = {name for sample in self.samples() for name in sample.labels}
        allowed = {"outcome", "code", "answer", "phase", "stream", "dialect", "state", "le"}
        self.assertEqual(labels - allowed, {"version", "python", "twisted"})

    def test_the_document_lists_them(self) -> None:
        listed = re.findall(r"^``((?:relayd|process)_[a-z_]+)``", (ROOT / "docs/metrics.rst").read_text(), re.M)
        families = make_registry(self.relay.sources).collect()
        names = [f"{each.name}_total" if each.type == "counter" else each.name for each in families]
        self.assertEqual(sorted(set(listed) - {"process_open_fds", "process_max_fds"}),
                         sorted(set(names) - {"process_open_fds", "process_max_fds"}))  # fmt: skip


class PageTests(StatusCase):
    """JSON and HTML."""

    def fill(self, text: str, count: int = 1) -> None:
        for number in range(count):
            self.relay.begin(f"{text}{number}", host=text, text=TEXT)
            self.relay.end(f"{text}{number}", host=text, user=text)
        self.relay.host_counts = [HostCounts(f"{text}{number}:22", 1, 1, 1, 0, 3) for number in range(count)]

    def test_neither_text_nor_secret(self) -> None:
        self.fill("c")
        for path in ("/status", "/status.html", "/metrics"):
            body = self.get(path).body.decode()
            self.assertNotIn(TEXT, body)
            self.assertNotIn(PASSWORD, body)

    def test_what_others_chose_is_escaped(self) -> None:
        self.fill(EVIL)
        self.relay.status = UplinkStatus(last_error=EVIL)
        page = self.get("/status.html").body.decode()
        self.assertNotIn("<script>", page)
        self.assertEqual(page.count("<script"), 1)
        self.assertIn("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;", page)
        self.assertEqual(json.loads(self.get("/status").body)["active"][0]["host"], EVIL)

    def test_half_a_surrogate_pair(self) -> None:
        self.fill("\udc80")
        self.assertEqual(json.loads(self.get("/status").body)["active"][0]["id"], "?0")
        self.assertEqual(self.get("/status.html").code, 200)

    def test_bounds(self) -> None:
        self.fill("c" * 300, MOST_ROWS + 20)
        document = json.loads(self.get("/status").body)
        for rows, count in (("active", "activeInAll"), ("hosts", "hostsInAll")):
            self.assertEqual((len(document[rows]), document[count]), (MOST_ROWS, MOST_ROWS + 20))
        self.assertEqual(len(document["recent"]), stats.RECENT)
        self.assertEqual(document["recent"][0]["id"], "c" * 300 + str(MOST_ROWS + 19))
        self.assertIn("Commands running or queued, oldest first: 100 of 120", self.get("/status.html").body.decode())
        self.assertLess(len(self.get("/status.html").body), 200_000)

    def test_the_page_is_well_formed_and_says_what_its_tables_are(self) -> None:
        self.fill("c", 3)
        checker = _Checker()
        checker.feed(self.get("/status.html").body.decode())
        checker.close()
        self.assertEqual(checker.open, [])
        self.assertEqual(checker.seen["table"], 3)
        self.assertEqual(checker.seen["caption"], 3)
        self.assertEqual(checker.inline, [])


class _Checker(HTMLParser):
    """Every element is closed, and nothing is inline that the Content-Security-Policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


class RecentTests(SynchronousTestCase):
    """The commands that ended last."""

    def test_it_is_a_ring(self) -> None:
        counted = Stats()
        for number in range(stats.RECENT + 5):
            counted.count_ended(EndedCommand(f"c{number}", "h", 22, "u", "ok", 0, 1.0, number), 0.0, Details())
        self.assertEqual(len(counted.recent), stats.RECENT)
        self.assertEqual((counted.recent[0].command_id, counted.recent[-1].at), ("c5", stats.RECENT + 4))
        self.assertEqual(counted.finished["ok"], stats.RECENT + 5)


class ListenTests(SynchronousTestCase):
    """``--status``."""

    def test_spellings(self) -> None:
        for text in ("tcp:127.0.0.1:9180", "tcp:9180:interface=127.0.0.1", "tcp:9180", "tcp:localhost:9180"):
            address = listen_address(text)
            self.assertEqual((str(address), address.is_local), ("tcp:127.0.0.1:9180", True), text)
        for text in ("tcp:[::1]:9180", "tcp6:9180:interface=\\:\\:1"):
            self.assertEqual((str(listen_address(text)), listen_address(text).is_local), ("tcp:[::1]:9180", True))
        self.assertFalse(listen_address("tcp:0.0.0.0:9180").is_local)
        self.assertFalse(listen_address("tcp:10.0.0.1:9180").is_local)
        socket = listen_address("unix:/run/relayd/status")
        self.assertEqual((socket.path, socket.mode, socket.is_local), ("/run/relayd/status", 0o660, True))
        self.assertEqual(listen_address("unix:/run/s:mode=600").mode, 0o600)
        for text in ("tcp:127.0.0.1:9180", "tcp:[::1]:9180", "unix:/run/s", "unix:/run/s:mode=600"):
            self.assertEqual(str(listen_address(text)), text)  # relayctl config shows it so

    def test_mistakes(self) -> None:
        mistakes = ("", "9180", "tcp:", "tcp:0", "tcp:70000", "tcp:127.0.0.1", "tcp:main.example.com:80", "unix:status",
                    "tcp:999.1.1.1:80", "ssl:443", "http://127.0.0.1:9180", "tcp:127.0.0.1:9180:backlog=1")  # fmt: skip
        for text in mistakes:
            self.assertRaises(ValueError, listen_address, text)
        error = self.assertRaises(ConfigError, load, {"status": "tcp:everywhere"}, {}, complete=False)
        self.assertEqual(str(error), '--status: expected tcp:127.0.0.1:PORT or unix:/PATH, not "tcp:everywhere"')
