"""
The metrics, as Prometheus' own parser reads them.
"""

from __future__ import annotations

import re
from pathlib import Path

from relayd.commands.stats import EndedCommand
from relayd.process import event_loop
from relayd.ssh.pool.pool_report import HostCounts
from relayd.status.metrics import OTHER, make_registry
from relayd.wire.messages import Details
from tests.status.test_responses import StatusCase

ROOT = Path(__file__).resolve().parents[2]


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
        self.assertEqual(self.value("relayd_certificate_end_timestamp_seconds", certificate="main_server"), 2e9)
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
        allowed = {"outcome", "code", "answer", "phase", "stream", "dialect", "state", "certificate", "le", "server"}
        self.assertEqual(labels - allowed, {"version", "python", "twisted"})

    def test_the_document_lists_them(self) -> None:
        listed = re.findall(r"^``((?:relayd|process)_[a-z_]+)``", (ROOT / "docs/metrics.rst").read_text(), re.M)
        families = make_registry(self.relay.sources).collect()
        names = [f"{each.name}_total" if each.type == "counter" else each.name for each in families]
        self.assertEqual(sorted(set(listed) - {"process_open_fds", "process_max_fds"}),
                         sorted(set(names) - {"process_open_fds", "process_max_fds"}))  # fmt: skip
