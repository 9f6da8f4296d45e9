"""
What comes out of a benchmark: a table of medians over the rounds with relayd's ratio to each other relay, and JSON.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from os import cpu_count
from pathlib import Path
from statistics import median
from typing import Any, Literal

import msgspec
from msgspec import Struct

Metric = Literal["rate", "median", "p95", "cpu", "peak", "throughput", "failures"]
OURS = "relayd"


class Measurement(Struct, frozen=True, kw_only=True):
    """
    One relay under one load, once.

    :ivar count: commands sent.
    :ivar rate: successful commands a second.
    :ivar median: of the latencies of successful commands, in ms; likewise ``p95``; ``None`` where all failed.
    :ivar cpu: CPU time of the relay for each command sent, in ms.
    :ivar peak: the most memory that the relay held, in MB.
    :ivar throughput: output of a command by its median latency, in MB/s.
    :ivar failures: commands without the result that they should have.
    :ivar reasons: why, with counts.
    """

    count: int
    rate: float
    median: float | None
    p95: float | None
    cpu: float
    peak: float
    throughput: float | None
    failures: int
    reasons: dict[str, int]


#: How each metric is named and written.
_SHOWN: dict[Metric, tuple[str, str]] = {
    "rate": ("commands/s", "{:,.0f}"),
    "median": ("median ms", "{:.2f}"),
    "p95": ("95th percentile ms", "{:.2f}"),
    "cpu": ("relay's CPU ms/command", "{:.3f}"),
    "peak": ("peak memory MB", "{:,.0f}"),
    "throughput": ("MB/s", "{:.1f}"),
    "failures": ("failed", "{:,.0f}"),
}
Measured = Mapping[str, Mapping[str, Sequence[Measurement]]]


def print_report(scenarios: Sequence[tuple[str, str, Sequence[Metric]]], measured: Measured) -> None:
    """
    Print the table, and why commands failed.

    :param scenarios: name, title and metrics of each.
    :param measured: by name of scenario and relay: one measurement a round.
    """
    relays = list(next(iter(measured.values())))
    others = [relay for relay in relays if relay != OURS] if OURS in relays else []
    rows = [["", *relays, *(f"{OURS}/{other}" for other in others)]]
    for name, title, metrics in scenarios:
        rows.append([title])
        for metric in metrics:
            label, form = _SHOWN[metric]
            values = {relay: _summary(metric, measured[name][relay]) for relay in relays}
            cells = [_cell(form, values[relay], metric, measured[name][relay]) for relay in relays]
            ratios = [_ratio(metric, values[OURS], values[other]) for other in others]
            rows.append([f"  {label}", *cells, *ratios])
    first = max(len(row[0]) for row in rows if len(row) > 1)
    width = max(len(cell) for row in rows for cell in row[1:]) + 2
    for row in rows:
        print((f"{row[0]:<{first}}" + "".join(f"{cell:>{width}}" for cell in row[1:])).rstrip())
    print("\nMedians over the rounds. Latencies are of commands that succeeded; CPU time is divided by all")
    print("commands sent, also those that failed, which are cheap: compare it where none failed.")
    for name, title, _ in scenarios:
        for relay in relays:
            reasons: Counter[str] = Counter()
            for measurement in measured[name][relay]:
                reasons.update(measurement.reasons)
            for reason, times in reasons.most_common(3):
                print(f"{title}: {relay}: {times} × {' '.join(reason.split())[:200]}")


def write_results(directory: Path, options: Mapping[str, Any], measured: Measured) -> Path:
    """Write all figures of all rounds, and what they were taken on, as JSON; gives the path."""
    found = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": {
            "platform": platform.platform(),
            "cpus": cpu_count(),
            "python": platform.python_version(),
            "twisted": version("twisted"),
            "autobahn": version("autobahn"),
        },
        "options": dict(options),
        "medians": {
            scenario: {
                relay: {metric: _summary(metric, rounds) for metric in _SHOWN} for relay, rounds in by_relay.items()
            }
            for scenario, by_relay in measured.items()
        },
        "rounds": measured,
    }
    directory.mkdir(exist_ok=True)
    path = directory / "latest.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    return path


def _summary(metric: Metric, rounds: Sequence[Measurement]) -> float | None:
    """The median over the rounds; of failures the sum."""
    values: list[float] = [value for measurement in rounds if (value := getattr(measurement, metric)) is not None]
    if metric == "failures":
        return sum(values)
    return median(values) if values else None


def _cell(form: str, value: float | None, metric: Metric, rounds: Sequence[Measurement]) -> str:
    if value is None:
        return "-"
    total = sum(measurement.count for measurement in rounds)
    return form.format(value) + (f" of {total:,}" if metric == "failures" else "")


def _ratio(metric: Metric, ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if metric != "failures" and ours is not None and theirs else ""
