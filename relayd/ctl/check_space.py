"""
What ``relayctl check`` checks of disks: whether a relay can write now, and whether what it may keep fits.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator
from errno import EDQUOT, ENOSPC
from typing import Final

from msgspec import Struct

from relayd.config.options import Config
from relayd.ctl.findings import Report
from relayd.journal.store import journal_file
from relayd.network.descriptors import words_of

#: Bytes written to see whether the disk has room.
_ROOM: Final = 256 * 1024


def no_room(folder: str) -> str | None:
    """Why a relay could not write its first bytes to *folder*, which need not exist yet; ``None``: it could."""
    folder = existing_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # the only way to see a quota
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
        if _free(folder) < _ROOM:  # root alone may take the last part of a disk, and relayd need not be root
            raise OSError(ENOSPC, os.strerror(ENOSPC))
    except OSError as error:
        # there may be free bytes, but no free inodes
        room = "; make room (see df, and df -i)" if error.errno in (ENOSPC, EDQUOT) else ""
        return f"{words_of(error)}{room}"
    return None


class _Need(Struct, frozen=True):
    """
    What a relay may still write.

    :ivar folder: where; it need not exist yet.
    :ivar limits: the options that bound it.
    :ivar size: how many bytes.
    """

    folder: str
    limits: str
    size: int


def check_space(config: Config, report: Report) -> None:
    """Report, for each disk, whether the journal and the audit log fit if they grow as far as the settings let them."""
    disks: dict[int, list[_Need]] = {}
    for need in _needs(config):
        try:
            disks.setdefault(os.stat(existing_folder(need.folder)).st_dev, []).append(need)
        except OSError:  # reported elsewhere
            continue
    for needs in disks.values():
        folder, size = needs[0].folder, sum(need.size for need in needs)
        free = _free(existing_folder(folder))
        if free < size:
            limits = ", ".join(need.limits for need in needs)
            text = f"{_spell(free)} are free for {folder}, but relayd may need {_spell(size)} ({limits})"
            report("warning", "disk space", f"{text}: make room, or set less")
        else:
            report("ok", "disk space", f"{_spell(free)} are free for {folder}; relayd may need {_spell(size)}")


def _needs(config: Config) -> Iterator[_Need]:
    if config.journal != "memory":
        path = journal_file(config.state_dir)
        logs = glob.glob(os.path.join(glob.escape(os.path.dirname(path)), "log.*"))
        size = config.journal_max_size - _size_of(path, f"{path}-wal", *logs)
        yield _Need(config.state_dir, "--journal-max-size", max(size, 0))
    if config.audit_log is not None and config.audit_max_size and config.audit_keep:
        size = config.audit_max_size * (config.audit_keep + 1)
        size -= _size_of(*glob.glob(f"{glob.escape(config.audit_log)}*"))
        yield _Need(os.path.dirname(config.audit_log), "--audit-max-size, --audit-keep", max(size, 0))


def _size_of(*paths: str) -> int:
    return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))


def existing_folder(folder: str) -> str:
    """*folder*, or the nearest one above it that exists."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _free(folder: str) -> int:
    """The bytes that users other than root can write."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _spell(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
