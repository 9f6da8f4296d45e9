"""
What comes out of a benchmark: a table of medians over the rounds with relayd's ratio to each of the others, and JSON.
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

#: One round: numbers by name; ``None`` where there is none.
Round = Mapping[str, float | None]


class Shown(Struct, frozen=True):
    """
    A row of a table of figures.

    :ivar name: of the number in each `Round`.
    :ivar form: how it is written.
    :ivar add: the sum over the rounds is shown instead of the median, and no ratio.
    """

    name: str
    label: str
    form: str
    add: bool = False


class Section(Struct, frozen=True):
    """
    A part of a table.

    :ivar rounds: by name of the one that was measured.
    """

    title: str
    rows: Sequence[Shown]
    rounds: Mapping[str, list[Round]]

    def summary(self) -> dict[str, dict[str, float | None]]:
        """What the table shows, by name of the one that was measured and of the number."""
        return {
            name: {row.name: _middle(row, [each.get(row.name) for each in rounds]) for row in self.rows}
            for name, rounds in self.rounds.items()
        }


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
    _print_rows(rows)
    print("\nMedians over the rounds. Latencies are of commands that succeeded; CPU time is divided by all")
    print("commands sent, also those that failed, which are cheap: compare it where none failed.")
    for name, title, _ in scenarios:
        for relay in relays:
            reasons: Counter[str] = Counter()
            for measurement in measured[name][relay]:
                reasons.update(measurement.reasons)
            for reason, times in reasons.most_common(3):
                print(f"{title}: {relay}: {times} × {' '.join(reason.split())[:200]}")


def print_sections(sections: Sequence[Section]) -> None:
    """Print a table for each group of sections that measure the same clients."""
    for names in dict.fromkeys(tuple(section.rounds) for section in sections):
        others = [name for name in names if name != OURS] if OURS in names else []
        rows = [["", *names, *(f"{OURS}/{other}" for other in others)]]
        for section in sections:
            if tuple(section.rounds) != names:
                continue
            rows.append([section.title])
            summary = section.summary()
            for row in section.rows:
                values = {name: summary[name][row.name] for name in names}
                cells = ["-" if (value := values[name]) is None else row.form.format(value) for name in names]
                ratios = ["" if row.add else _quotient(values[OURS], values[other]) for other in others]
                rows.append([f"  {row.label}", *cells, *ratios])
        _print_rows(rows)
        print()


def write_sections(directory: Path, options: Mapping[str, Any], sections: Mapping[str, Section]) -> Path:
    """Likewise as JSON, with all figures of all rounds and what they were taken on; gives the path."""
    return _write(
        directory / "ssh.json",
        options,
        {
            "medians": {name: section.summary() for name, section in sections.items()},
            "rounds": {name: section.rounds for name, section in sections.items()},
        },
    )


def write_results(directory: Path, options: Mapping[str, Any], measured: Measured) -> Path:
    """Write all figures of all rounds, and what they were taken on, as JSON; gives the path."""
    found = {
        "medians": {
            scenario: {
                relay: {metric: _summary(metric, rounds) for metric in _SHOWN} for relay, rounds in by_relay.items()
            }
            for scenario, by_relay in measured.items()
        },
        "rounds": measured,
    }
    return _write(directory / "latest.json", options, found)


def _write(path: Path, options: Mapping[str, Any], found: Mapping[str, Any]) -> Path:
    taken_on: dict[str, Any] = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": {
            "platform": platform.platform(),
            "cpus": cpu_count(),
            "python": platform.python_version(),
            "twisted": version("twisted"),
            "autobahn": version("autobahn"),
        },
        "options": dict(options),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode({**taken_on, **found}), indent=2) + b"\n")
    return path


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    first = max(len(row[0]) for row in rows if len(row) > 1)
    width = max(len(cell) for row in rows for cell in row[1:]) + 2
    for row in rows:
        print((f"{row[0]:<{first}}" + "".join(f"{cell:>{width}}" for cell in row[1:])).rstrip())


def _middle(row: Shown, found: Sequence[float | None]) -> float | None:
    values = [value for value in found if value is not None]
    if not values:
        return None
    return sum(values) if row.add else median(values)


def _quotient(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours is not None and theirs else ""


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
    return _quotient(ours, theirs) if metric != "failures" else ""
