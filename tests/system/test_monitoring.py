"""
The dashboard and the alerts of packaging/: that they parse, and that every metric and label in them exists.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from relayd.status.metrics import CODES
from relayd.status.responses import Responder
from tests.support.status import FakeRelay

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
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
        """Where it is installed (Debian's ``prometheus``): what it checks beyond the parsers is style."""
        promtool = shutil.which("promtool")
        if promtool is None:
            return
        asked: tuple[tuple[list[str], str], ...] = (
            ([promtool, "check", "rules", str(RULES)], ""),
            ([promtool, "check", "metrics"], self.text),
        )
        for argv, text in asked:
            done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=60)
            self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
