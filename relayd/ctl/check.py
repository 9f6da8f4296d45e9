"""
``relayctl check``: whether a relay would run with these settings, from its files to being accepted by the main server.
"""

from __future__ import annotations

import argparse
from typing import Any

from relayd.config.options import Config
from relayd.config.reading import Reading
from relayd.ctl.findings import Finding, Level, Report, counted
from relayd.ctl.settings import Place, add_all_options, read_all
from relayd.ctl.unit_settings import UnitSettings


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "--dial",
        action="store_true",
        help="connect to the main server even while the relay is running, which may cost the relay its connection",
    )
    add_all_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """
    Check everything; 1 when a fault was found, 130 when interrupted.

    :raises OSError: when the findings cannot be written, such as `BrokenPipeError` when nobody reads them any more.
    """
    from relayd.process.garbage import no_collections

    with no_collections():
        from twisted.internet.defer import CancelledError, Deferred
        from twisted.internet.task import react

        import relayd.ctl.check_server  # noqa: F401  # `check` uses it
    faults: list[int] = []
    unwritten: list[OSError] = []
    reading, place = read_all(arguments)

    async def all_of_it(reactor: Any) -> None:
        try:
            faults.append(await check(reactor, reading, place, dial=arguments.dial))
        except CancelledError:
            pass
        except OSError as error:  # such as for | head
            unwritten.append(error)

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
    if unwritten:
        raise unwritten[0]
    if not faults:
        print("\ninterrupted: not everything was checked")
        return 130
    return 1 if faults[0] else 0


async def check(reactor: Any, reading: Reading, place: Place, *, dial: bool) -> int:
    """
    Print all findings, as they are found.

    :param place: where *reading* was read.
    :param dial: whether to connect to the main server even while a relay is running.
    :return: the number of faults.
    """
    from relayd.ctl.check_files import check_settings
    from relayd.ctl.check_unit import check_unit

    counts: dict[Level, int] = {"ok": 0, "warning": 0, "fault": 0, "skipped": 0}

    def report(level: Level, what: str, text: str) -> None:
        counts[level] += 1
        print(Finding(level, what, text), flush=True)

    of_unit = place.of_unit
    if of_unit is not None:
        check_unit(of_unit, place.note, report)
    elif place.note:
        report("ok", "settings", place.note)
    check_settings(reading, report)
    if reading.config is None:
        report("skipped", "everything else", "fix the settings first")
    elif place.elsewhere.unseen:
        unreadable = () if of_unit is None else of_unit.unreadable
        for text in unreadable or [f"this user cannot read {path}: run as root" for path in place.elsewhere.unseen]:
            report("skipped", "files", text)
        report("skipped", "main server", "the key and the files of the relay cannot all be read")
    else:
        await _check_all(reactor, reading, reading.config, of_unit, report, dial=dial)
    faults, warnings = counts["fault"], counts["warning"]
    print(f"\n{counted(faults, 'fault')}, {counted(warnings, 'warning')}")
    return faults


async def _check_all(
    reactor: Any, reading: Reading, config: Config, of_unit: UnitSettings | None, report: Report, *, dial: bool
) -> None:
    """Report on the files that *config* names, and on the way to the main server."""
    from relayd.ctl.check_files import check_files
    from relayd.ctl.check_server import check_server
    from relayd.ctl.check_unit import check_holder, check_what_the_unit_sees

    if of_unit is not None:
        check_what_the_unit_sees(of_unit, reading, report)
    holder = await check_files(reactor, config, report)
    if reading.mistakes:  # a relay would not start with them, so its key is not sent either
        report("skipped", "main server", "fix the settings first")
        return
    starting = False
    if of_unit is not None:
        unit = of_unit.unit
        check_holder(unit, holder, report)
        # A unit that is still starting has no connection that a second one could displace.
        starting = unit.active == "activating" and holder in (None, str(unit.pid))
    await check_server(reactor, config, report, holder, dial=dial or starting)
