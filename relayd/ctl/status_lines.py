"""
The document of a relay's status (`relayd.status.summary`) as lines for a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from relayd.ctl.terminal import Line, Mood, Piece, columns, padded, wrap
from relayd.language.texts import printable, span, tally

#: The most rows of each table.
MAX_ROWS: Final = 20
#: The most characters of a line, and of a cell, that others chose.
_MAX_TEXT: Final = 10_000
_MAX_CELL: Final = 256
#: Columns of a cell that is cut, at least.
_LEAST_CELL: Final = 12
#: Columns before the text of a figure.
_LABEL: Final = 10
#: Lines of a table besides its rows: an empty one, and the heads.
_OVERHEAD: Final = 2


class _Table(Struct):
    """
    A table.

    :ivar in_all: how many rows there are; the document has the first of them.
    :ivar long: the columns with texts that others chose, which are cut where a line would be too wide.
    :ivar space: lines that the rows may take.
    """

    heads: tuple[str, ...]
    rows: Sequence[Line]
    in_all: int
    long: tuple[int, ...]
    space: int = MAX_ROWS + 1

    @property
    def count(self) -> int:
        """How many rows are shown: one line less where it is needed to say how many more there are."""
        return self.in_all if self.in_all <= min(self.space, MAX_ROWS) else min(self.space - 1, MAX_ROWS)

    @property
    def height(self) -> int:
        """Lines that it takes; none where not one row has room."""
        return 0 if self.count < 1 else _OVERHEAD + self.count + (self.in_all > self.count)

    def lines(self, width: int) -> Iterator[Line]:
        """Rows in columns, after an empty line and the heads."""
        if not self.height:
            return
        heads = [Piece(head, Mood.HEAD) for head in self.heads]
        rows = [[Piece(printable(cell.text, _MAX_CELL), cell.mood) for cell in row] for row in self.rows[: self.count]]
        widths = [max(columns(cell.text) for cell in column) for column in zip(heads, *rows, strict=True)]
        for column in self.long:
            excess = sum(widths) + 2 * (len(widths) - 1) - width
            if excess > 0:
                widths[column] = max(_LEAST_CELL, widths[column] - excess)
        yield ()
        for row in (heads, *rows):
            gaps = ["  "] * (len(row) - 1) + [""]
            yield [
                Piece(padded(cell.text, size) + gap, cell.mood)
                for cell, size, gap in zip(row, widths, gaps, strict=True)
            ]
        if self.in_all > self.count:
            yield [Piece(f"… and {self.in_all - self.count:,} more")]


def lines(status: Mapping[str, Any], width: int, height: int | None = None) -> list[Line]:
    """
    *status* as lines, of which most fit into *width* columns.

    :param height: the most lines; the tables share what the figures leave.
    """
    shown = [*_state(status, width), *_figures(status, width)]
    tables = [table for table in (_hosts(status), _active(status), _ended(status)) if table.in_all]
    if height is not None:
        _share(tables, height - len(shown))
    for table in tables:
        shown += table.lines(width)
    return shown[:height]


def _share(tables: Sequence[_Table], room: int) -> None:
    """Give each table its part of *room* lines, and what small ones leave to the others."""
    for number, table in enumerate(sorted(tables, key=lambda table: table.in_all)):
        table.space = min(table.space, room // (len(tables) - number) - _OVERHEAD)
        room -= table.height


# What it says --------------------------------------------------------------------------------------------------------


def _state(status: Mapping[str, Any], width: int) -> Iterator[Line]:
    state = Piece("ready", Mood.GOOD) if status["ready"] else Piece("NOT READY", Mood.BAD)
    yield [
        Piece(f"{status['proxyId']}  ", Mood.HEAD),
        state,
        Piece(f"  relayd {status['version']}, up for {span(status['uptime'])}"),
    ]
    for obstacle in status["obstacles"]:
        yield from _wrapped("  ", obstacle, width, Mood.BAD)


def _figures(status: Mapping[str, Any], width: int) -> Iterator[Line]:
    uplink, commands, results, journal = (status[name] for name in ("uplink", "commands", "results", "journal"))
    accepted = f"accepted ({uplink['dialect']})" if uplink["accepted"] else "not accepted"
    oldest = f" (the oldest for {span(journal['oldest'])})" if journal["unconfirmed"] else ""
    losses = f"{uplink['losses']:,} {'loss' if uplink['losses'] == 1 else 'losses'}"
    dead = f", {journal['dead']:,} dead letters" if journal["dead"] else ""
    yield from _wrapped(
        "server",
        f"{uplink.get('server', status['server'])}, {accepted} for {span(uplink['since'])}, {losses}",
        width,
        Mood.PLAIN if uplink["accepted"] else Mood.BAD,
    )
    yield from _wrapped(
        "commands",
        f"{commands['running']:,} of {commands['maxRunning']:,} run, {commands['queued']:,} wait, "
        f"{sum(commands['refused'].values()):,} refused; ended: {tally(commands['finished']) or 'none'}",
        width,
    )
    if commands["refused"]:
        yield from _wrapped("refused", tally(commands["refused"]), width, Mood.FAIR)
    yield from _wrapped(
        "results",
        f"{results['confirmed']:,} confirmed, {journal['unconfirmed']:,} not{oldest}, {results['givenUp']:,} given up",
        width,
        Mood.FAIR if results["givenUp"] else Mood.PLAIN,
    )
    yield from _wrapped(
        "journal",
        f"{journal['bytes'] / 1e6:,.1f} of {journal['maxBytes'] / 1e6:,.0f} MB{dead}",
        width,
        Mood.FAIR if journal["dead"] else Mood.PLAIN,
    )


def _wrapped(label: str, text: str, width: int, mood: Mood = Mood.PLAIN) -> Iterator[Line]:
    begin = label if label.isspace() else label.ljust(_LABEL)
    text = printable(text, _MAX_TEXT)
    for line in wrap(text, max(width - len(begin), _LEAST_CELL)):
        yield [Piece(begin), Piece(line, mood)]
        begin = " " * len(begin)


def _hosts(status: Mapping[str, Any]) -> _Table:
    rows = [
        _row(row["host"], row["connections"], row["sessions"], row["waiting"], _limit(row)) for row in status["hosts"]
    ]
    return _Table(("HOST", "CONNECTIONS", "COMMANDS", "WAITING", "LIMIT"), rows, status["hostsInAll"], (0,))


def _active(status: Mapping[str, Any]) -> _Table:
    rows = [_row(row["id"], _where(row), row["state"], span(row["duration"])) for row in status["active"]]
    return _Table(("ACTIVE", "USER@HOST", "STATE", "FOR"), rows, status["activeInAll"], (1, 0))


def _ended(status: Mapping[str, Any]) -> _Table:
    rows = [
        [
            *_row(row["id"], _where(row)),
            Piece(str(row["outcome"]), {"ok": Mood.GOOD, "nonzero": Mood.FAIR}.get(row["outcome"], Mood.BAD)),
            *_row(row["exit"], span(row["duration"]), span(row["ago"])),
        ]
        for row in status["recent"]
    ]
    return _Table(("ENDED", "USER@HOST", "OUTCOME", "EXIT", "TOOK", "AGO"), rows, len(rows), (1, 0))


def _row(*cells: object) -> list[Piece]:
    return [Piece(str(cell)) for cell in cells]


def _where(row: Mapping[str, Any]) -> str:
    return f"{row['user']}@{row['host']}:{row['port']}"


def _limit(row: Mapping[str, Any]) -> str:
    if row.get("single"):  # which relays of older versions do not say
        return "1 in all (learned)"
    return f"{row['limit']}{' (learned)' if row['learned'] else ''}"
