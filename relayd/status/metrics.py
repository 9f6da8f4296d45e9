"""
The metrics of a relay in Prometheus' text format: read from counters that are there anyway, when somebody asks.

No label has more values than the code has: neither hosts nor users nor commands are labels.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

import relayd.ssh.errors
import twisted
from relayd import __version__, errors
from relayd.commands import stats
from relayd.process import event_loop
from relayd.status.sources import Sources

#: A label for what has no name here.
OTHER: Final = "other"
_PHASES: Final = {"wait": "wait", "connect": "connect", "keyExchange": "key_exchange", "login": "login", "run": "run"}


def _codes(root: type[errors.RelayError] | type[relayd.ssh.errors.SSHError]) -> Iterator[str]:
    yield root.code
    for below in root.__subclasses__():
        yield from _codes(below)


#: All that an outcome, or the reason of a refusal, can be.
CODES: Final = frozenset({"ok", "nonzero", *_codes(errors.RelayError), *_codes(relayd.ssh.errors.SSHError)})


class RelayCollector(Collector):
    """Reads a relay's figures."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client`."""
        yield from self._relay()
        yield from self._commands()
        yield from self._results()
        yield from self._uplink()
        yield from self._journal()
        yield from self._ssh()

    def _relay(self) -> Iterator[Metric]:
        sources = self._sources
        labels = {"version": __version__, "python": platform.python_version(), "twisted": twisted.__version__}
        build = GaugeMetricFamily("relayd_build_info", "What runs; always 1.", labels=list(labels))
        build.add_metric(list(labels.values()), 1)
        yield build
        yield _gauge("relayd_ready", "Whether it would take and run a command now.", not sources.obstacles())
        yield _gauge("relayd_uptime_seconds", "Seconds since it started.", sources.clock.seconds() - sources.started)
        seen = sources.lag.snapshot()
        late = HistogramMetricFamily("relayd_event_loop_delay_seconds", "How late the event loop came to what was due.")
        late.add_metric([], _buckets(event_loop.BOUNDS, seen.counts), seen.total)
        yield late
        yield _gauge("relayd_event_loop_longest_delay_seconds", "The longest of these delays.", seen.longest)
        if sources.audit is not None:
            yield _gauge("relayd_audit_available", "Whether the audit log can be written.", sources.audit.available)

    def _commands(self) -> Iterator[Metric]:
        commands, limits = self._sources.commands, self._sources.commands.limits
        counted = commands.stats
        yield _counter("relayd_commands_accepted", "Commands taken on.", counted.accepted)
        yield _by_code("relayd_commands_finished", "Commands that have a result.", "outcome", counted.finished)
        yield _by_code("relayd_commands_refused", "Commands turned away.", "code", counted.refused)
        duplicates = CounterMetricFamily("relayd_commands_duplicate", "Commands that came again.", labels=["answer"])
        duplicates.add_metric(["joined"], counted.joined)
        duplicates.add_metric(["resent"], counted.resent)
        yield duplicates
        yield _gauge("relayd_commands_running", "Commands that run.", commands.running)
        yield _gauge("relayd_commands_running_limit", "How many may run (--max-commands).", limits.max_commands)
        yield _gauge("relayd_commands_queued", "Commands that wait for their turn.", commands.queued)
        yield _gauge("relayd_commands_queued_limit", "How many may wait (--max-queue).", limits.max_queue)
        yield _histogram("relayd_command_duration_seconds", "From receipt to result.", counted.duration)
        yield _histogram("relayd_command_queue_seconds", "From receipt to a command's turn.", counted.queue)
        phases = HistogramMetricFamily(
            "relayd_command_phase_seconds", "Of commands that ran, by phase.", labels=["phase"]
        )
        for phase, histogram in counted.phases.items():
            phases.add_metric([_PHASES[phase]], _buckets(stats.BOUNDS, histogram.counts), histogram.total)
        yield phases
        output = CounterMetricFamily("relayd_output_bytes", "Bytes that commands wrote.", labels=["stream"])
        output.add_metric(["stdout"], counted.stdout_bytes)
        output.add_metric(["stderr"], counted.stderr_bytes)
        yield output

    def _results(self) -> Iterator[Metric]:
        counted = self._sources.commands.stats
        yield _counter("relayd_results_sent", "Results sent, the first time and again.", counted.sent)
        yield _counter("relayd_results_confirmed", "Receipts that confirmed a result.", counted.confirmed)
        yield _counter(
            "relayd_results_presumed", "Results that were read by a main server without receipts.", counted.presumed
        )
        yield _counter("relayd_results_rejected", "Receipts that refused a result.", counted.rejected)
        yield _counter("relayd_results_given_up", "Results that are not sent any more.", counted.given_up)
        yield _counter("relayd_results_dropped", "Results without a journal that made room.", counted.dropped)
        yield _counter("relayd_receipts_stray", "Receipts that fit no result.", counted.stray)
        yield _counter("relayd_streamed_pieces", "Pieces of output sent while commands ran.", counted.streamed)
        yield _counter("relayd_streamed_passed_over_bytes", "Bytes that no link would take then.", counted.passed_over)

    def _uplink(self) -> Iterator[Metric]:
        status, now = self._sources.uplink.status, self._sources.clock.seconds()
        accepted = GaugeMetricFamily(
            "relayd_uplink_accepted", "Whether the main server has accepted it, by dialect.", labels=["dialect"]
        )
        for dialect in ("socketio", "native"):
            accepted.add_metric([dialect], float(status.accepted and status.dialect == dialect))
        yield accepted
        yield _gauge("relayd_uplink_state_seconds", "Seconds for which that has been so.", now - status.since)
        yield _counter("relayd_uplink_losses", "Attempts that failed and connections that were lost.", status.losses)
        yield _counter(
            "relayd_uplink_ignored", "Messages of the main server that were of no use.", self._sources.uplink.ignored
        )

    def _journal(self) -> Iterator[Metric]:
        figures = self._sources.journal.figures()
        yield _gauge("relayd_journal_unfinished", "Commands without a result.", figures.unfinished)
        yield _gauge("relayd_journal_unconfirmed", "Results to be sent and confirmed.", figures.unconfirmed)
        yield _gauge("relayd_journal_dead", "Results kept that the main server would not have.", figures.dead)
        yield _gauge("relayd_journal_oldest_unconfirmed_seconds", "Age of the oldest to be confirmed.", figures.oldest)
        yield _gauge("relayd_journal_bytes", "Bytes of all results.", figures.size)
        yield _gauge("relayd_journal_bytes_limit", "With more, no command is taken.", figures.max_size)
        yield _gauge("relayd_journal_trouble", "Whether it takes no commands.", figures.trouble is not None)

    def _ssh(self) -> Iterator[Metric]:
        sources = self._sources
        counts, hosts = sources.hosts.counts(), sources.hosts.hosts()
        connections = GaugeMetricFamily("relayd_ssh_connections", "Connections to hosts.", labels=["state"])
        connections.add_metric(["busy"], counts.connections - counts.idle)
        connections.add_metric(["idle"], counts.idle)
        connections.add_metric(["dialling"], counts.dialling)
        yield connections
        yield _gauge(
            "relayd_ssh_connections_limit",
            "How many there may be (--max-total-connections).",
            sources.bounds.max_total_connections,
        )
        yield _gauge("relayd_ssh_sessions", "Commands on these connections.", counts.sessions)
        yield _gauge("relayd_ssh_forwards", "Connections to other hosts through them.", counts.forwards)
        yield _gauge("relayd_ssh_waiting", "Commands that wait for a session.", counts.waiting)
        yield _gauge("relayd_ssh_hosts", "Hosts with connections or commands.", len(hosts))
        limited = sum(host.limit < sources.bounds.max_sessions for host in hosts)
        yield _gauge("relayd_ssh_hosts_limited", "Of these, hosts that allow fewer than --max-sessions.", limited)


class _Process(Collector):
    """The process as /proc shows it; what may not be read there is left out (`relayd.process.hardening`)."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=None)

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client`."""
        try:
            return list(self._collector.collect())
        except (OSError, ValueError):
            return []


def make_registry(sources: Sources) -> CollectorRegistry:
    """The metrics of one relay and its process, apart from all others that a process may have."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RelayCollector(sources))
    registry.register(_Process())
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """In Prometheus' text format 0.0.4."""
    return generate_latest(registry)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(name, help, value=value)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=float(value))


def _by_code(name: str, help: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, help, labels=[label])
    other = 0
    for code, count in sorted(counts.items()):
        if code in CODES:
            family.add_metric([code], count)
        else:
            other += count
    family.add_metric([OTHER], other)
    return family


def _histogram(name: str, help: str, histogram: stats.Histogram) -> Metric:
    family = HistogramMetricFamily(name, help)
    family.add_metric([], _buckets(stats.BOUNDS, histogram.counts), histogram.total)
    return family


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> Sequence[tuple[str, float]]:
    rows, sum_ = [], 0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        sum_ += count
        rows.append((bound, float(sum_)))
    return rows
