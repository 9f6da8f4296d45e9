"""
Errors of SQLite and of the system: whether they mean damage, and how they are said to people.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import Final

from relayd.errors import JournalUnavailable
from relayd.language.texts import Text
from relayd.network.descriptors import shortage, words_of

_REASONS: Final = {
    "SQLITE_FULL": Text("the disk is full; make room"),
    "SQLITE_READONLY": Text("its file system is read-only"),
    "SQLITE_IOERR": Text("the disk reports errors"),
    "SQLITE_CANTOPEN": Text("its folder is gone, or this user may not write there"),
    "SQLITE_CORRUPT": Text("its file is damaged; restart relayd, which sets it aside and saves what can be read"),
    "SQLITE_NOTADB": Text("its file is damaged; restart relayd, which sets it aside and saves what can be read"),
    "SQLITE_BUSY": Text("another program uses its file; end that"),
    "SQLITE_LOCKED": Text("another program uses its file; end that"),
}

#: The same errors as the system names them.
_NAMES: Final = {
    errno.ENOSPC: "SQLITE_FULL",
    errno.EDQUOT: "SQLITE_FULL",
    errno.EFBIG: "SQLITE_FULL",
    errno.EROFS: "SQLITE_READONLY",
    errno.EIO: "SQLITE_IOERR",
}


def damage() -> sqlite3.DatabaseError:
    """The error of a file that SQLite opens, and finds inconsistent."""
    error = sqlite3.DatabaseError("damaged")
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means that the file itself is beyond use."""
    # Python, and not SQLite, finds texts that are not UTF-8.
    return _name(error) in ("SQLITE_CORRUPT", "SQLITE_NOTADB") or "decode to UTF-8" in str(error)


def as_unavailable(error: Exception) -> JournalUnavailable:
    """An error of SQLite or of the system, in words for people: their own texts might hold what was written."""
    if isinstance(error, JournalUnavailable):
        return error
    if isinstance(error, sqlite3.Error):
        name = "SQLITE_CORRUPT" if is_damage(error) else _name(error)
        if name == "SQLITE_CANTOPEN" and (words := shortage()) is not None:
            return JournalUnavailable(reason=words)
        return JournalUnavailable(
            reason=_REASONS.get(name) or Text("SQLite says {error}", error=name or type(error).__name__)
        )
    if isinstance(error, OSError):
        name = _NAMES.get(error.errno or 0, "")
        return JournalUnavailable(reason=_REASONS.get(name) or words_of(error))
    return JournalUnavailable(reason=Text("an internal error, {error}", error=type(error).__name__))


def _name(error: sqlite3.Error) -> str:
    """``SQLITE_IOERR`` of ``SQLITE_IOERR_WRITE``."""
    return "_".join(str(getattr(error, "sqlite_errorname", "")).split("_")[:2])
