"""
``relayctl journal``: which commands have no confirmed result yet, and which results the main server did not take.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from relayd.ctl.settings import add_options, read_settings
from relayd.errors import NoJournal
from relayd.language.texts import printable

if TYPE_CHECKING:  # otherwise imported by `run`, so that other subcommands and completion start fast
    from relayd.journal.journal_report import JournalRow, Report


#: The words for each state, by its name; in the order of a command's life.
_WORDS = {
    "ACCEPTED": "accepted, not started",
    "STARTED": "started",
    "FINISHED": "waiting for confirmation",
    "DEAD": "dead letter: not taken",
    "CONFIRMED": "confirmed (ids only)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add_options(parser)
    parser.add_argument("id", nargs="?", metavar="COMMAND_ID", help="show the stored result of this command")
    parser.add_argument("--all", action="store_true", help="list every command, not only the oldest 20")


def run(arguments: argparse.Namespace) -> int:
    """
    Show the journal; 1 when it holds dead letters or was damaged.

    :raises NoJournal: when no journal can be read.
    """
    from relayd.interfaces import EntryState
    from relayd.journal.journal_report import read_report
    from relayd.journal.store import journal_file

    path = journal_file(read_settings(arguments).state_dir)
    if arguments.id is not None:
        return _show(path, arguments.id)
    report = read_report(path)
    print(path)
    for name, words in _WORDS.items():
        print(f"  {report.counts.get(EntryState[name], 0):>9,}  {words}")
    print(f"  {report.size:>9,}  bytes of results")
    for damaged, saved in report.damages.items():
        print(f"It was damaged once; the damaged file is {damaged}: {saved}. Ids that could not be saved are lost.")
    _list(report, None if arguments.all else 20)
    return 1 if report.damages or report.counts.get(EntryState.DEAD) else 0


def _list(report: Report, most: int | None) -> None:
    # dead letters first: they need attention
    rows = sorted(report.rows, key=lambda row: row.state.name != "DEAD")
    if rows:
        print(f"\n{'ACCEPTED':<19}  {'BYTES':>9}  {'STATE':<30}  COMMAND")
    for row in rows[:most]:
        print(_line(row))
    if most is not None and len(rows) > most:
        print(f"… and {len(rows) - most:,} more; --all lists them")


def _line(row: JournalRow) -> str:
    accepted = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.accepted))
    return f"{accepted:<19}  {row.size:>9,}  {_WORDS[row.state.name]:<30}  {printable(row.command_id, 256)}"


def _show(path: str, command_id: str) -> int:
    from relayd.journal.journal_report import read_result

    result = read_result(path, command_id)
    if result is None:
        raise NoJournal(reason=f"{path} holds no result of {printable(command_id, 256)}")
    print(f"exit code  {result.exit_code}")
    for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        print(f"{name}     {len(text):,} characters")
        if text:
            print(text)
    return 0
