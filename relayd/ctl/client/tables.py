"""
What the hub answers, as tables and lines for people. Every text in it comes from others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from relayd.ctl.client.outcome import tell, why
from relayd.ctl.terminal import columns, padded
from relayd.language.texts import printable

#: The most columns of a cell.
_WIDEST: Final = 60


def cell(value: object, most: int = _WIDEST) -> str:
    """A value in a table."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return cell(",".join(f"{key}={each}" if each else str(key) for key, each in sorted(value.items())), most)
    if isinstance(value, (list, tuple)):
        return cell(",".join(map(str, value)), most)
    return printable(str(value), most)


def moment(value: object) -> str:
    """A time of the API (RFC 3339, UTC), to the second and in the time zone of who reads it."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(str(value)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return cell(value)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; where there are no rows, its heads alone."""
    cells = [list(heads), *([cell(each) for each in row] for row in rows)]
    widths = [max(columns(row[number]) for row in cells) for number in range(len(heads))]
    for row in cells:
        print("  ".join(padded(text, width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line; without those that have none."""
    known = [(name, value) for name, value in fields if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        print(f"{name:<{width}}  {cell(value, 2000)}")


def command_of(run: Mapping[str, Any]) -> str:
    """What a run runs, in one line."""
    said = run.get("command") or {}
    script = said.get("script")
    if script:
        text = script.get("text", "") if isinstance(script, Mapping) else script
        return f"script: {str(text).strip().partition(chr(10))[0]}"
    return str(said.get("command") or "")


def print_runs(runs: Iterable[Mapping[str, Any]]) -> None:
    """One line for each run."""
    rows = (
        (
            each.get("id"),
            moment(each.get("createdAt")),
            each.get("state"),
            each.get("size"),
            tell(each.get("counts") or {}),
            each.get("createdBy"),
            command_of(each),
        )
        for each in runs
    )
    print_table(("RUN", "ORDERED", "STATE", "HOSTS", "RESULT", "BY", "COMMAND"), rows)


def print_run(run: Mapping[str, Any]) -> None:
    """What is known of one run."""
    print_fields(
        (
            ("run", run.get("id")),
            ("state", run.get("state")),
            ("command", command_of(run)),
            ("hosts", run.get("size")),
            ("selector", run.get("selector")),
            ("result", tell(run.get("counts") or {})),
            ("ordered by", run.get("createdBy")),
            ("ordered", moment(run["createdAt"]) if run.get("createdAt") else None),
            ("ended", moment(run["endedAt"]) if run.get("endedAt") else None),
            ("note", run.get("note")),
            ("rerun of", run.get("rerunOf")),
        )
    )


def print_invocations(invocations: Iterable[Mapping[str, Any]]) -> None:
    """One line for each invocation."""
    rows = (
        (
            each.get("host"),
            each.get("state"),
            each.get("exitCode"),
            each.get("relay"),
            why(each),
            each.get("id"),
        )
        for each in invocations
    )
    print_table(("HOST", "STATE", "EXIT", "RELAY", "WHY", "INVOCATION"), rows)


def show_dry_run(found: Mapping[str, Any]) -> int:
    """Show what an order would do; 1 where it would not run on some hosts now."""
    hosts = found.get("items") or []
    rows = []
    bad = 0
    for each in hosts:
        verdict = _VERDICTS.get(each.get("allowed"), "?") if each.get("connected") else "not connected"
        bad += each.get("allowed") is False or not each.get("connected")
        rows.append((each.get("host"), each.get("relay"), verdict, each.get("reason")))
    print_table(("HOST", "RELAY", "WOULD RUN", "WHY"), rows)
    print(f"{found.get('size', len(hosts))} hosts" + (f", {bad} of them would not run it now" if bad else ""))
    return 1 if bad else 0


#: What a relay says of a command; it may be a program that does not say.
_VERDICTS: Final[Mapping[Any, str]] = {True: "yes", False: "refused", None: "not known"}
