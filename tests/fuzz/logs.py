"""
A log of the journal, after a disk or somebody changed it: what `read_log` makes of it, and a start from it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import Any

import msgspec

from relayd.ctl import journal
from relayd.errors import JournalUnavailable, NoJournal
from relayd.interfaces import EntryState
from relayd.journal.journal_report import read_report
from relayd.journal.log import _FRAME, BEGIN, Header, LogContent, log_name, read_log
from relayd.journal.records import Accepted, AnyRecord, Batch, Buried, Confirmed, Finished, Noted, Started
from relayd.journal.sqlite_errors import is_damage
from relayd.journal.store import Store
from tests.fuzz.engine import Target, check, check_words
from tests.fuzz.records import _RESULTS

#: The first byte: a file as it stands; changes of a good one; what is in batches whose frames are good.
_FILE, _CHANGED, _CONTENTS = range(3)

_HEADER = Header(1, True, bytes(range(16)))
_encode = msgspec.msgpack.Encoder().encode
_folder = tempfile.mkdtemp(prefix="relayd-fuzz-log-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
atexit.register(shutil.rmtree, _folder, True)


def _framed(contents: list[bytes]) -> bytes:
    """A log with these batches."""
    log = _HEADER.to_bytes()
    for number, content in enumerate(contents, 1):
        checksum = _HEADER.checksum(len(log), number, content)
        log += _FRAME.pack(_HEADER.marker, len(content), checksum, number) + content
    return log


def _run(data: bytes) -> None:
    if not data:
        return
    kind, data = data[0] % 3, data[1:]
    if kind == _FILE:
        _read(data)
    elif kind == _CONTENTS:
        _read(_framed(data.split(b"\xff\xfe\xfd")))
    else:
        _changed(data)


def _changed(data: bytes) -> None:
    """Each three bytes change one of a good log; a change is seen, and adds nothing."""
    log = bytearray(_GOOD)
    for place in range(0, min(len(data), 60) - 2, 3):
        log[int.from_bytes(data[place : place + 2], "big") % len(log)] = data[place + 2]
    content = _read(bytes(log))
    whole = read_log(_GOOD).changes
    check(content is not None, "another version, though the header has a checksum")
    assert content is not None
    check(content.changes.commands.keys() <= whole.commands.keys(), "a command that nobody wrote")
    check(set(content.bodies) <= set(read_log(_GOOD).bodies), "a result that nobody wrote")


def _read(data: bytes) -> LogContent | None:
    """Read it, show it, and start from it: each copes, and they agree."""
    try:
        content = read_log(data)
    except JournalUnavailable as error:
        check_words(error)
        return None
    for command_id, place in content.changes.results.items():
        check(content.body_of(command_id, place) is not None, "a result without its body")
    _start(data, content)
    return content


def _start(data: bytes, content: LogContent) -> None:
    shutil.rmtree(_folder, True)
    os.mkdir(_folder)
    path = os.path.join(_folder, "journal.sqlite3")
    store = Store(path, durable=False)
    store.open()
    store.close()
    with open(os.path.join(_folder, log_name(9)), "wb") as file:
        file.write(data)
    try:
        for row in read_report(path).rows:
            check(journal._line(row).isprintable(), "a row that moves the cursor")
    except NoJournal as error:
        check_words(error)
    try:
        store.open()
    except JournalUnavailable as error:
        check_words(error)
        return
    except sqlite3.Error as error:  # of records in an order in which relayd writes none
        check(is_damage(error), "damage that does not look like it")
        return
    check(len(store.damaged) == content.damaged, "damage that is not reported")
    for command_id in content.changes.commands:
        outcome: Any = store.apply([(store.steps.accept, (command_id, b"another", False))])[0]
        check(outcome is not None, "a command that was accepted is new")
        if not isinstance(outcome, JournalUnavailable):
            check(outcome.state not in (EntryState.ACCEPTED, EntryState.STARTED), "a command without an end")
    store.close()


def _batch(*records: AnyRecord) -> bytes:
    return _encode(Batch(1.7e9, 1.7e9, list(records)))


_BATCHES = [
    _batch(Accepted("c1", b"fingerprint", 0), Started("c1")),
    _batch(Accepted("c2", b"fingerprint", 3), Finished("c1", _encode(_RESULTS[0]))),
    _batch(Confirmed("c1"), Started("c2"), Noted("receipts", "yes")),
    _batch(Finished("c2", _encode(_RESULTS[1])), Accepted("c3", b"", 1)),
    _batch(Buried("c2")),
]
_GOOD = _framed(_BATCHES)


def _seeds() -> Iterator[bytes]:
    yield bytes((_FILE,)) + _GOOD
    yield bytes((_FILE,)) + _GOOD[:-7] + bytes(40)
    yield bytes((_FILE,)) + _GOOD[:BEGIN]
    yield bytes((_CHANGED,)) + b"\x04\x10\x55"
    yield bytes((_CHANGED,)) + b"\x00\x10\x02\x02\x10\x02"
    yield bytes((_CONTENTS,)) + b"\xff\xfe\xfd".join(_BATCHES)
    yield bytes((_CONTENTS,)) + b"\xff\xfe\xfd".join(reversed(_BATCHES))


_WORDS = (
    *(_HEADER.marker, _GOOD[:64], b"\xff\xfe\xfd", b"\x93\x01\xa2c1", b"\x92\x02\xa2c1", b"\x93\x03\xa2c1\xc4\0"),
    *(b"\x92\x04\xa2c1", b"\x92\x05\xa2c1", b"\xcb\x7f\xf0" + bytes(6), b"\xcb\x7f\xf8" + bytes(6)),
    *(b"\xdd\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8, b"\xa2\xff\xff", b"\xd9\xff"),
)

TARGETS = {"journal": Target(_run, _seeds, _WORDS)}
