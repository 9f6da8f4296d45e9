"""
What an earlier process left in logs: it is moved to the archive before anything else is done.
"""

from __future__ import annotations

import os
import time

from msgspec import Struct

from relayd.journal.archive import Archive
from relayd.journal.disk import Disk
from relayd.journal.log import log_name, log_numbers, read_log
from relayd.journal.records import Changes


class DamagedLog(Struct, frozen=True):
    """
    A log of which something could not be read.

    :ivar kept: path of the damaged file.
    :ivar commands: how many commands could be read.
    :ivar results: how many results could be read.
    """

    kept: str
    commands: int
    results: int


def take_over(folder: str, archive: Archive, disk: Disk) -> tuple[int, list[DamagedLog]]:
    """
    Move to *archive* what is in the logs of a folder, and remove them.

    :return: the number of the next log, and the logs that were found damaged.
    :raises sqlite3.Error: when the archive cannot be written.
    :raises OSError: when a file cannot be read, renamed or removed.
    :raises JournalUnavailable: when another version of relayd wrote a log.
    """
    numbers = log_numbers(folder)
    following = max([*numbers, archive.last_log]) + 1
    damaged = []
    for number in numbers:
        path = os.path.join(folder, log_name(number))
        if number > archive.last_log:
            with open(path, "rb") as file:
                data = file.read()
            content = read_log(data)
            archive.move(number, content.changes, content.body_of)
            if content.damaged:
                damaged.append(_keep(path, content.changes, archive, disk))
                continue
        disk.unlink(path)
    if numbers:
        disk.sync_folder(folder)
    return following, damaged


def _keep(path: str, changes: Changes, archive: Archive, disk: Disk) -> DamagedLog:
    kept = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
    disk.rename(path, kept)
    found = DamagedLog(kept, len(changes.commands), len(changes.results))
    archive.note(f"damaged {kept}", f"{found.commands} commands saved")
    return found
