"""
The metrics of a relay in Prometheus' text format, read when a client asks from counters that relayd keeps anyway.

The code bounds the values of each label: hosts, users and commands are not labels.
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
from relayd.language.errors import DescribedError
from relayd.process import event_loop
from relayd.status.sources import StatusSources

#: The label of codes that are not in `CODES`.
OTHER: Final = "other"
_PHASES: Final = {"wait": "wait", "connect": "connect", "keyExchange": "key_exchange", "login": "login", "run": "run"}


def _codes(root: type[DescribedError]) -> Iterator[str]:
    yield root.code
    for below in root.__subclasses__():
        yield from _codes(below)


#: Every value of the labels ``outcome`` and ``code``, besides `OTHER`.
CODES: Final = frozenset({"ok", "nonzero", *_codes(errors.RelayError), *_codes(relayd.ssh.errors.SSHError)})


class RelayCollector(Collector):
    """Makes metrics of a relay's figures."""

    def __init__(self, sources: StatusSources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client`."""
        yield from self._relay()
        yield from self._commands()
        yield from self._command_times()
        yield from self._output()
        yield from self._results()
        yield from self._uplink()
        yield from self._certificates()
        yield from self._journal()
        yield from self._ssh()

    def _relay(self) -> Iterator[Metric]:
        sources = self._sources
        labels = {"version": __version__, "python": platform.python_version(), "twisted": twisted.__version__}
        build = GaugeMetricFamily(
            "relayd_build_info", "Versions of relayd, Python and Twisted; always 1.", labels=list(labels)
        )
        build.add_metric(list(labels.values()), 1)
        yield build
        yield _gauge("relayd_ready", "1 if the relay would accept and run a command now.", not sources.obstacles())
        yield _gauge(
            "relayd_uptime_seconds", "Seconds since the relay started.", sources.clock.seconds() - sources.started
        )
        seen = sources.lag.snapshot()
        late = HistogramMetricFamily(
            "relayd_event_loop_delay_seconds", "How late the event loop ran what was due, in seconds."
        )
        late.add_metric([], _buckets(event_loop.BOUNDS, seen.counts), seen.total)
        yield late
        yield _gauge(
            "relayd_event_loop_longest_delay_seconds", "The longest of these delays, in seconds.", seen.longest
        )
        if sources.audit is not None:
            yield _gauge("relayd_audit_available", "1 if the audit log can be written.", sources.audit.available)

    def _commands(self) -> Iterator[Metric]:
        commands, limits = self._sources.commands, self._sources.commands.limits
        counted = commands.stats
        yield _counter("relayd_commands_accepted", "Commands accepted.", counted.accepted)
        yield _by_code(
            "relayd_commands_finished", "Commands that have a result, by outcome.", "outcome", counted.finished
        )
        yield _by_code("relayd_commands_refused", "Commands refused, by error code.", "code", counted.refused)
        duplicates = CounterMetricFamily("relayd_commands_duplicate", "Commands received again.", labels=["answer"])
        duplicates.add_metric(["joined"], counted.joined)
        duplicates.add_metric(["resent"], counted.resent)
        yield duplicates
        yield _gauge("relayd_commands_running", "Commands running.", commands.running)
        yield _gauge(
            "relayd_commands_running_limit",
            "Most commands that may run at a time (--max-commands).",
            limits.max_commands,
        )
        yield _gauge("relayd_commands_queued", "Commands queued.", commands.queued)
        yield _gauge(
            "relayd_commands_queued_limit", "Most commands that may be queued (--max-queue).", limits.max_queue
        )

    def _command_times(self) -> Iterator[Metric]:
        counted = self._sources.commands.stats
        yield _histogram(
            "relayd_command_duration_seconds", "Seconds from the receipt of a command to its result.", counted.duration
        )
        yield _histogram(
            "relayd_command_queue_seconds",
            "Seconds from the receipt of a command to its turn in the queue.",
            counted.queue,
        )
        phases = HistogramMetricFamily(
            "relayd_command_phase_seconds", "Seconds that commands which ran spent in each phase.", labels=["phase"]
        )
        for phase, histogram in counted.phases.items():
            phases.add_metric([_PHASES[phase]], _buckets(stats.BOUNDS, histogram.counts), histogram.total)
        yield phases

    def _output(self) -> Iterator[Metric]:
        counted = self._sources.commands.stats
        output = CounterMetricFamily(
            "relayd_output_bytes", "Bytes that commands wrote to stdout and to stderr.", labels=["stream"]
        )
        output.add_metric(["stdout"], counted.stdout_bytes)
        output.add_metric(["stderr"], counted.stderr_bytes)
        yield output

    def _results(self) -> Iterator[Metric]:
        counted = self._sources.commands.stats
        yield _counter("relayd_results_sent", "Results sent, repetitions included.", counted.sent)
        yield _counter("relayd_results_confirmed", "Receipts that confirmed a result.", counted.confirmed)
        yield _counter(
            "relayd_results_presumed", "Results that a main server without receipts has read.", counted.presumed
        )
        yield _counter("relayd_results_rejected", "Receipts that rejected a result.", counted.rejected)
        yield _counter("relayd_results_given_up", "Results that became dead letters.", counted.given_up)
        yield _counter(
            "relayd_results_dropped",
            "Results that no journal held, dropped to make room for others.",
            counted.dropped,
        )
        yield _counter("relayd_receipts_stray", "Receipts that match no result.", counted.stray)
        yield _counter("relayd_streamed_pieces", "Pieces of output sent while commands ran.", counted.streamed)
        yield _counter(
            "relayd_streamed_passed_over_bytes",
            "Bytes of output not sent while commands ran, as the link was busy or down.",
            counted.passed_over,
        )

    def _uplink(self) -> Iterator[Metric]:
        status, now = self._sources.uplink.status, self._sources.clock.seconds()
        accepted = GaugeMetricFamily(
            "relayd_uplink_accepted", "1 if the main server has accepted the relay, by dialect.", labels=["dialect"]
        )
        for dialect in ("socketio", "native"):
            accepted.add_metric([dialect], float(status.accepted and status.dialect == dialect))
        yield accepted
        yield from self._servers()
        yield _gauge(
            "relayd_uplink_state_seconds",
            "Seconds since the relay was accepted, or since it lost the main server.",
            now - status.since,
        )
        yield _counter("relayd_uplink_losses", "Failed connection attempts and lost connections.", status.losses)
        yield _counter(
            "relayd_uplink_ignored", "Messages from the main server that relayd ignored.", self._sources.uplink.ignored
        )

    def _servers(self) -> Iterator[Metric]:
        """The site chooses the values of the label: they are few, and hold no secret."""
        uplink = self._sources.uplink
        used = GaugeMetricFamily(
            "relayd_uplink_server_current",
            "1 for the main server in use, or that was last in use.",
            labels=["server"],
        )
        attempts = CounterMetricFamily(
            "relayd_uplink_attempts", "Connections tried, by main server.", labels=["server"]
        )
        for each in uplink.servers:
            used.add_metric([str(each.address)], float(each is uplink.current))
            attempts.add_metric([str(each.address)], each.attempts)
        yield used
        yield attempts

    def _certificates(self) -> Iterator[Metric]:
        ends = GaugeMetricFamily(
            "relayd_certificate_end_timestamp_seconds",
            "When a TLS certificate ends, in seconds since 1970.",
            labels=["certificate"],
        )
        for certificate, end in self._sources.uplink.certificate_ends().items():
            ends.add_metric([certificate], end)
        yield ends

    def _journal(self) -> Iterator[Metric]:
        figures = self._sources.journal.figures()
        yield _gauge("relayd_journal_unfinished", "Commands without a result yet.", figures.unfinished)
        yield _gauge(
            "relayd_journal_unconfirmed", "Results that the main server has not confirmed yet.", figures.unconfirmed
        )
        yield _gauge("relayd_journal_dead", "Results kept that the main server did not take.", figures.dead)
        yield _gauge(
            "relayd_journal_oldest_unconfirmed_seconds",
            "Age of the oldest unconfirmed result, in seconds.",
            figures.oldest,
        )
        yield _gauge("relayd_journal_bytes", "Bytes of all results in the journal.", figures.size)
        yield _gauge(
            "relayd_journal_bytes_limit",
            "Limit of these bytes, above which no command is accepted (--journal-max-size).",
            figures.max_size,
        )
        yield _gauge("relayd_journal_trouble", "1 if the journal accepts no commands.", figures.trouble is not None)

    def _ssh(self) -> Iterator[Metric]:
        sources = self._sources
        counts, hosts = sources.hosts.counts(), sources.hosts.hosts()
        connections = GaugeMetricFamily("relayd_ssh_connections", "Connections to hosts, by state.", labels=["state"])
        connections.add_metric(["busy"], counts.connections - counts.idle)
        connections.add_metric(["idle"], counts.idle)
        connections.add_metric(["dialling"], counts.dialling)
        yield connections
        yield _gauge(
            "relayd_ssh_connections_limit",
            "Most connections at a time (--max-total-connections).",
            sources.max_total_connections,
        )
        yield _gauge("relayd_ssh_sessions", "Commands running on these connections.", counts.sessions)
        yield _gauge("relayd_ssh_forwards", "Connections to other hosts through these connections.", counts.forwards)
        yield _gauge("relayd_ssh_waiting", "Commands waiting for a session.", counts.waiting)
        yield _gauge("relayd_ssh_hosts", "Hosts with connections or commands.", len(hosts))
        limited = sum(host.limit < sources.max_sessions for host in hosts)
        yield _gauge(
            "relayd_ssh_hosts_limited",
            "Hosts found to allow fewer sessions on a connection than --max-sessions.",
            limited,
        )


class _Process(Collector):
    """Reads /proc for the process's figures, without those that may not be read there (`relayd.process.hardening`)."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=None)

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client`."""
        try:
            return list(self._collector.collect())
        except (OSError, ValueError):
            return []


def make_registry(sources: StatusSources) -> CollectorRegistry:
    """The metrics of one relay and its process, without any others that the process may have."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RelayCollector(sources))
    registry.register(_Process())
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """All metrics, in Prometheus' text format 0.0.4."""
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
