"""
What the demonstration shows when it has run.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from relayd.demo.steps import DemoTarget, StepResult
from relayd.language.texts import printable

#: Most characters of an output's first line that the table shows.
OUTPUT_WIDTH = 100
#: The table's columns of numbers.
_NUMBERS = (3, 4)


def table(rows: Sequence[StepResult], target: DemoTarget) -> str:
    """The results as lines of aligned columns."""
    lines = [("", "COMMAND", "HOST", "EXIT", "TIME", "STDOUT", "STDERR")]
    for row in rows:
        result = row.result
        lines.append(
            (
                "ok" if row.as_expected else "NO",
                row.step.shown or row.step.command,
                str(target),
                "-" if result is None else str(result.exit_code),
                f"{row.milliseconds:.1f} ms",
                _first_line("" if result is None else result.stdout),
                _first_line(row.failure if result is None else result.stderr),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    columns = max(shutil.get_terminal_size((160, 24)).columns, 80)
    aligned = (
        "  ".join(
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(printable(line.rstrip(), columns) for line in aligned)


def _first_line(text: str) -> str:
    first, _, rest = text.partition("\n")
    return printable(first + (" …" if rest else ""), OUTPUT_WIDTH)


def closing_line(rows: Sequence[StepResult], seconds: float) -> str:
    """Totals and timings."""
    good = sum(row.as_expected for row in rows)
    times = sorted(row.milliseconds for row in rows)
    return (
        f"{len(rows)} commands in {seconds:.2f} s, {good} of {len(rows)} as expected; "
        f"fastest {times[0]:.1f} ms, slowest {times[-1]:.1f} ms"
    )
