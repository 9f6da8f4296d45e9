"""
The dashboard and the alerts of packaging/: that they parse, that every metric and label in them exists, and when the
alerts fire.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import promql_parser
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from relayd.status.metrics import CODES
from relayd.status.responses import Responder
from tests.support.status import FakeRelay

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
RULES = PACKAGING / "prometheus" / "relayd.rules.yml"
DASHBOARD = PACKAGING / "grafana" / "relayd.json"
#: Labels that a scrape adds.
ADDED = {"job", "instance"}


def selectors(expression: str) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Metrics that a PromQL expression reads, each with its matchers: operator and value by label."""
    promql_parser.parse(expression)
    for name, matchers in re.findall(r"\b((?:relayd|process)_[a-z_]+|up)\b(?!\()(?:\{([^}]*)\})?", expression):
        found = re.findall(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers)
        yield name, {label: (operator, value) for label, operator, value in found}


def promtool(*words: str, text: str = "") -> tuple[int, str, str]:
    """Prometheus' own tool: its exit code, output and errors."""
    program = shutil.which("promtool") or str(ROOT / "build" / "promtool")  # tests/bootstrap.sh brings it
    done = subprocess.run([program, *words], input=text, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def rules() -> list[tuple[str, str]]:
    """The alerts of the rules, each with its expression; read without a YAML parser, as the file is ours."""
    text = RULES.read_text()
    found = []
    for block in text.split("- alert: ")[1:]:
        name, rest = block.split("\n", 1)
        match = re.search(r"expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)", rest)
        assert match is not None, name
        found.append((name.strip(), match[1] or match[2]))
    return found


def panels() -> list[dict[str, Any]]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    found: list[dict[str, Any]] = dashboard["panels"]
    return found


def filled(expression: str) -> str:
    """With Grafana's own variables replaced by what they could be."""
    return expression.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")


class MonitoringTests(SynchronousTestCase):
    """Held against a relay's own ``/metrics``."""

    def setUp(self) -> None:
        relay = FakeRelay()
        relay.end()
        relay.stats.refused["overloaded"] += 1
        self.text = Responder(relay.sources, check_host=False).respond("GET", "/metrics", [], "").body.decode()
        self.labels: dict[str, set[str]] = {"up": set()}
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                self.labels.setdefault(sample.name, set()).update(sample.labels)

    def check(self, where: str, expression: str) -> None:
        found = list(selectors(expression))
        self.assertTrue(found, where)
        for name, matchers in found:
            self.assertIn(name, self.labels, where)
            self.assertEqual(set(matchers) - self.labels[name] - ADDED, set(), f"{where}: {name}")
            for label, (_, value) in matchers.items():
                if label in ("outcome", "code"):
                    self.assertEqual(set(value.split("|")) - CODES, set(), where)
                elif label == "le":
                    self.assertIn(f'{name}{{le="{value}"}}', self.text, where)

    def test_alerts(self) -> None:
        alerts = dict(rules())
        self.assertEqual(len(alerts), RULES.read_text().count("- alert: "))
        for name, expression in alerts.items():
            self.check(name, expression)
        needed = {
            "NotReady",
            "CertificateEnds",
            "ResultsUnconfirmed",
            "JournalTrouble",
            "EventLoopStalls",
            "ManyRefusals",
            "HostFailures",
        }
        self.assertEqual({f"Relayd{name}" for name in needed} - set(alerts), set())

    def test_dashboard(self) -> None:
        for panel in panels():
            for target in panel["targets"]:
                self.check(panel["title"], filled(target["expr"]))
        ids = [panel["id"] for panel in panels()]
        self.assertEqual(len(ids), len(set(ids)))

    def test_panels_do_not_overlap(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in panels():
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            self.assertEqual(cells & taken, set(), panel["title"])
            self.assertLessEqual(at["x"] + at["w"], 24)
            taken |= cells

    def test_what_does_not_exist_is_found(self) -> None:
        """The checks above are worth something."""
        self.assertRaises(self.failureException, self.check, "a metric", "relayd_no_such_thing > 1")
        self.assertRaises(self.failureException, self.check, "a label", 'relayd_ready{host="x"} > 1')
        self.assertRaises(self.failureException, self.check, "a code", 'relayd_commands_refused_total{code="nope"} > 1')
        self.assertRaises(ValueError, self.check, "no PromQL", "rate(relayd_ready")

    def test_prometheus_own_tool_agrees(self) -> None:
        """What it checks beyond the parsers is style."""
        for words, text in ((("check", "rules", str(RULES)), ""), (("check", "metrics"), self.text)):
            code, said, errors = promtool(*words, text=text)
            self.assertEqual((code, errors), (0, ""), said)


class AlertTests(SynchronousTestCase):
    """Which alerts fire: one for each cause. Prometheus' own tool evaluates the rules."""

    #: Of a relay that is well; a scrape every 15 s, for an hour.
    WELL: ClassVar[dict[str, str]] = {
        "relayd_ready": "1x240",
        'relayd_uplink_accepted{dialect="socketio"}': "1x240",
        'relayd_uplink_accepted{dialect="native"}': "0x240",
        "relayd_uplink_state_seconds": "0+15x240",
        "relayd_uplink_losses_total": "0x240",
        "relayd_journal_trouble": "0x240",
        "relayd_journal_bytes": "0x240",
        "relayd_journal_bytes_limit": "100x240",
        "relayd_audit_available": "1x240",
        "relayd_commands_accepted_total": "0+10x240",
        'relayd_commands_refused_total{code="forbidden-host"}': "0x240",
    }

    def check(self, expected: dict[int, set[str]], **series: str) -> None:
        """
        Evaluate the rules.

        :param expected: the alerts that fire, by minutes from the beginning.
        :param series: values that differ from `WELL`, in promtool's notation, by the name without its first word.
        """
        values = dict(self.WELL)
        for name, each in series.items():
            (full,) = [key for key in (*values, f"relayd_{name}") if key.startswith(f"relayd_{name}")][:1]
            values[full] = each
        labels = 'job="relayd",instance="a"'
        tests = [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": f'{{alertname="Relayd{name}"}}', "value": 1} for name in sorted(names)],
            }
            for minutes, names in expected.items()
        ]
        given = [
            {"series": f"{name[:-1]},{labels}}}" if name.endswith("}") else f"{name}{{{labels}}}", "values": each}
            for name, each in values.items()
        ]
        file = Path(self.mktemp())
        test = {"interval": "15s", "input_series": given, "promql_expr_test": tests}
        file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [test]}))
        code, said, errors = promtool("test", "rules", str(file))
        self.assertEqual(code, 0, said + errors)

    def test_all_is_well(self) -> None:
        self.check({1: set(), 30: set(), 59: set()})

    def test_a_main_server_that_is_away(self) -> None:
        """Attempts to reach it fail again and again: that is one cause."""
        self.check(
            {4: set(), 6: {"NotReady"}, 40: {"NotReady"}},
            ready="0x240",
            uplink_accepted="0x240",
            uplink_losses_total="0+3x240",
        )

    def test_one_that_was_away(self) -> None:
        self.check(
            {19: {"NotReady"}, 21: set(), 35: set()},
            ready="1x39 0x39 1x160",
            uplink_accepted="1x39 0x39 1x160",
            uplink_state_seconds="0+15x39 0+15x39 0+15x160",
            uplink_losses_total="0x39 0+3x39 120x160",
        )

    def test_one_that_comes_and_goes(self) -> None:
        """In the end it stays away."""
        self.check(
            {5: set(), 20: {"UplinkUnsteady"}, 29: {"UplinkUnsteady"}, 32: {"UplinkUnsteady"}, 37: {"NotReady"}},
            ready="1 1 1 0 " * 30 + "0x120",
            uplink_accepted="1 1 1 0 " * 30 + "0x120",
            uplink_state_seconds="0 15 30 0 " * 30 + "0+15x120",
        )

    def test_one_that_comes_and_goes_and_stays(self) -> None:
        """Half an hour of calm is not needed."""
        self.check(
            {20: {"UplinkUnsteady"}, 37: set()},
            uplink_state_seconds="0 15 30 0 " * 30 + "0+15x120",
        )

    def test_the_journal(self) -> None:
        """The relay is not ready then, refuses commands, and is full: one alert."""
        self.check(
            {10: {"JournalTrouble"}, 50: {"JournalTrouble"}},
            ready="0x240",
            journal_trouble="1x240",
            journal_bytes="100x240",
            commands_accepted_total="0x240",
            **{'commands_refused_total{code="journal-full"}': "0+10x240"},
        )

    def test_the_audit_log(self) -> None:
        self.check(
            {10: {"AuditTrouble"}, 50: {"AuditTrouble"}},
            ready="0x240",
            audit_available="0x240",
            commands_accepted_total="0x240",
            **{'commands_refused_total{code="audit-unavailable"}': "0+10x240"},
        )

    def test_two_causes(self) -> None:
        """A main server that is away, and a disk that is full."""
        self.check(
            {10: {"NotReady", "JournalTrouble"}}, ready="0x240", uplink_accepted="0x240", journal_trouble="1x240"
        )

    def test_a_site_that_forbids(self) -> None:
        self.check({20: {"ManyRefusals"}}, commands_refused_total="0+10x240")
