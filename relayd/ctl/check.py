"""
``relayctl check``: whether a relay would run with these settings, from its files to being accepted by the main server.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any

from relayd.config.reading import Reading
from relayd.ctl.findings import Finding, Level
from relayd.ctl.settings import add_all_options, read_all

NAME = "check"
HELP = "check settings, files and the connection to the main server; say what is wrong and how to fix it"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "--dial",
        action="store_true",
        help="connect to the main server even while the relay is running, which may cost the relay its connection",
    )
    add_all_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check everything; 1 when a fault was found, 130 when interrupted."""
    from twisted.internet.defer import CancelledError, Deferred
    from twisted.internet.task import react

    faults: list[int] = []

    async def all_of_it(reactor: Any) -> None:
        with suppress(CancelledError):
            faults.append(await check(reactor, read_all(arguments), dial=arguments.dial))

    def start(reactor: Any) -> Deferred[None]:
        checking = Deferred.fromCoroutine(all_of_it(reactor))
        # Before the shutdown closes connections, which would look like faults of the network.
        reactor.addSystemEventTrigger("before", "shutdown", checking.cancel)
        return checking

    try:
        react(start)
    except SystemExit as done:
        if done.code:
            return int(done.code)
    if not faults:
        print("\ninterrupted: not everything was checked")
        return 130
    return 1 if faults[0] else 0


async def check(reactor: Any, reading: Reading, *, dial: bool) -> int:
    """
    Print all findings, as they are found.

    :param dial: whether to connect to the main server even while a relay is running.
    :return: the number of faults.
    """
    from relayd.ctl.check_files import check_files, check_settings
    from relayd.ctl.check_server import check_server

    counts: dict[Level, int] = {"ok": 0, "warning": 0, "fault": 0, "skipped": 0}

    def report(level: Level, what: str, text: str) -> None:
        counts[level] += 1
        print(Finding(level, what, text), flush=True)

    check_settings(reading, report)
    if reading.config is None:
        report("skipped", "everything else", "fix the settings first")
    else:
        holder = await check_files(reactor, reading.config, report)
        if reading.mistakes:  # a relay would not start with them, so its key is not sent either
            report("skipped", "main server", "fix the settings first")
        else:
            await check_server(reactor, reading.config, report, holder, dial=dial)
    faults, warnings = counts["fault"], counts["warning"]
    print(f"\n{_counted(faults, 'fault')}, {_counted(warnings, 'warning')}")
    return faults


def _counted(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"
