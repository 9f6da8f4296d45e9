"""
What relayd wrote itself and reads again, after somebody or a disk changed it: lines of the audit log, the file of its
head, results in the journal.
"""

from __future__ import annotations

import atexit
import gzip
import io
import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any

import msgspec

from relayd.audit import verify
from relayd.audit.heads import parse_head, parse_own_head
from relayd.audit.lines import GENESIS, decode_line, encode_line
from relayd.audit.seal import Seal
from relayd.ctl import journal
from relayd.errors import JournalUnavailable, NoJournal
from relayd.journal.bodies import decode_result
from relayd.journal.journal_report import read_report, read_result
from relayd.journal.salvage import salvage
from relayd.journal.sqlite_errors import is_damage
from relayd.journal.store import Store
from relayd.wire.messages import CommandResult, Details
from tests.fuzz.engine import Target, check, check_words, grow

#: The first byte: a log as it stands; one whose lines get the hash that they need; a compressed one; a result; a row.
_LOG, _HASHED, _GZIP, _RESULT, _ROW = range(5)

_folder = tempfile.mkdtemp(prefix="relayd-fuzz-records-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
atexit.register(shutil.rmtree, _folder, True)
_encode = msgspec.msgpack.Encoder().encode


def _run(data: bytes) -> None:
    if not data:
        return
    kind, data = data[0] % 5, data[1:]
    if kind == _LOG:
        _log(grow(data))
    elif kind == _HASHED:
        _log(b"".join(map(_hashed, grow(data).split(b"\n"))))
    elif kind == _GZIP:
        _log(data, "audit.log.gz")
    elif kind == _RESULT:
        _result(data)
    else:
        _row(data)


def _hashed(body: bytes) -> bytes:
    return body + b',"hash":"' + sha256(body).hexdigest().encode() + b'"}\n'


def _log(data: bytes, name: str = "audit.log") -> None:
    parse_head(data[:100])
    parse_own_head(data[:300], name)
    verifier = verify.Verifier({"0" * 64}, Seal(b"k" * 32) if len(data) % 2 else None)

    def content(path: str) -> Any:
        return gzip.GzipFile(fileobj=io.BytesIO(data)) if path.endswith(".gz") else io.BytesIO(data)

    verify._open = content
    try:
        verify.in_order([name])
        found = list(verifier.check_file(name))
    except (OSError, EOFError, zlib.error):
        check(name.endswith(".gz"), "an error of a file that is none")
        return
    check(isinstance(found[-1], verify.Checked), "no last word")
    for fault in found[:-1]:
        check(isinstance(fault, verify.AuditFault), "a fault that is none")
        check_words(fault.text)  # type: ignore[union-attr]
    lines = [line for line in map(decode_line, data.split(b"\n")) if line is not None] if name == "audit.log" else []
    if lines and len(found) == 1:
        check(verifier.last == lines[-1], "another last line")


def _result(data: bytes) -> None:
    try:
        result = decode_result(data)
    except JournalUnavailable as error:
        check_words(error)
        return
    check(decode_result(_encode(result)) == result, "a result that is another when it was written again")
    msgspec.json.encode(result.to_wire())


def _row(data: bytes) -> None:
    """A journal in which one row was changed: what SQLite does not see."""
    path, kept = os.path.join(_folder, "journal"), os.path.join(_folder, "kept")
    shutil.copyfile(_original(), kept)
    state, kind, body = (data[0] if data else 0), (data[1] if len(data) > 1 else 0), data[2:]
    value: Any = (body, body.decode("utf-8", "replace"), len(body), 1.5)[kind % 4]
    with sqlite3.connect(kept) as db:
        if kind & 4:
            db.execute("UPDATE command SET state = ?", (value if kind & 8 else state % 8,))
        if kind & 16:
            db.execute("UPDATE command SET accepted = ?, finished = ?", (value, value))
        if kind & 32:
            db.execute("INSERT OR REPLACE INTO note VALUES ('damaged x', ?)", (value,))
        if not kind & 64:
            db.execute("UPDATE result SET body = ?", (value,))
    db.close()
    for read in (lambda: read_report(kept), lambda: read_result(kept, "c1")):
        try:
            read()
        except NoJournal as error:
            check_words(error)
    with suppress(NoJournal):
        for row in read_report(kept).rows:
            check(journal._line(row).isprintable(), "a row that moves the cursor")
    _fresh(path)
    try:
        store = Store(kept, durable=False)
        store.open()
    except sqlite3.Error as error:
        check(is_damage(error), "damage that does not look like it")
    except JournalUnavailable as error:
        check_words(error)
    else:
        store.close()
    salvage(kept, path)
    store = Store(path, durable=False)
    store.open()
    store.apply([(store.steps.load, ("c1",))])
    store.close()


def _fresh(path: str) -> None:
    for end in ("", "-wal", "-shm"):
        if os.path.exists(path + end):
            os.remove(path + end)
    shutil.copyfile(_original(empty=True), path)


def _original(*, empty: bool = False) -> str:
    """A journal with one result, or with nothing."""
    path = os.path.join(_folder, "empty" if empty else "original")
    if not os.path.exists(path):
        store = Store(path, durable=False)
        store.open()
        if not empty:
            store.apply(
                [
                    (store.steps.accept, ("c1", b"fingerprint", True)),
                    (store.steps.start, ("c1",)),
                    (store.steps.finish, (_RESULTS[0],)),
                ]
            )
        store.close()
        db = sqlite3.connect(path)
        db.execute("PRAGMA journal_mode = DELETE")
        db.close()
    return path


_RESULTS = (
    CommandResult(command_id="c1", stdout="out", stderr="", exit_code=0),
    CommandResult(
        command_id="c2",
        stdout="ä",
        stderr="x",
        exit_code=-1,
        extended=True,
        details=Details(
            error={"code": "x", "retriable": True},
            signal="TERM",
            truncated=True,
            stdout_bytes=5,
            timings={"run": 0.25},
            killed="confirmed",
            encoding="base64",
        ),
    ),
)


def _chain(count: int) -> list[bytes]:
    lines, last = [], GENESIS
    for number in range(1, count + 1):
        event = ("file", "start", "accepted", "ended")[min(number, 4) - 1]
        line, last = encode_line(number, 1.7e9 + number, event, {"command": "c1", "exit": number}, last, b"k" * 32)
        lines.append(line)
    return lines


def _seeds() -> Iterator[bytes]:
    lines = _chain(6)
    whole = b"".join(lines)
    yield bytes((_LOG,)) + whole
    yield bytes((_LOG,)) + b"".join(lines[:3] + lines[4:])
    yield bytes((_LOG,)) + whole[:-20]
    yield bytes((_LOG,)) + whole + whole
    yield bytes((_LOG,)) + b"%020d %s\n" % (6, b"0" * 64)
    yield bytes((_HASHED,)) + b"\n".join(line.rpartition(b',"hash"')[0] for line in lines)
    yield bytes((_HASHED,)) + lines[0].rpartition(b',"hash"')[0] + bytes((1, 60, 11, 0xFF))
    yield bytes((_GZIP,)) + gzip.compress(whole)
    for result in _RESULTS:
        yield bytes((_RESULT,)) + _encode(result)
        for kind in (0, 4, 8 + 4, 16, 32, 64 + 16, 1):
            yield bytes((_ROW, 3, kind)) + _encode(result)


_WORDS = (
    *(b'"seq":', b'"time":', b'"event":', b'"prev":', b'"torn":', b'"file"', b"0" * 64, b"1e400", b"null", b"\n"),
    *(b'"seq":1', b"9" * 400, b"\\u0000", b"[[[[[[", b"command_id", b"stdout", b"exit_code", b"details", b"extended"),
    *(b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x91" * 64),
    *(b"\xca\x7f\xc0\0\0", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x1f\x8b\x08"),
)

TARGETS = {"records": Target(_run, _seeds, _WORDS)}
