"""
What can go wrong with the hub's database, in words that say what to do.

No message holds what was written: the databases' own words may, and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from relayd.errors import RelayError


class StoreError(RelayError):
    """The hub's database failed: {reason}."""

    code = "store"


class StoreUnavailable(StoreError):
    """The hub's database cannot be used now: {reason}. Nothing was changed."""

    code = "store-unavailable"
    retriable = True


class StoreBusy(StoreUnavailable):
    """The hub's database does not keep up: {waiting} changes wait already. Nothing was changed; try again later."""

    code = "store-busy"


class CommitUnknown(StoreUnavailable):
    """The connection to the hub's database was lost while a change was committed: {reason}. Whether it was made is not
    known; look before you repeat it."""

    code = "commit-unknown"
    executed = "unknown"


class StoreUnusable(StoreError):
    """The hub's database cannot be used: {reason}."""

    code = "store-unusable"


class StoreTooNew(StoreUnusable):
    """The hub's database has version {found} of its tables, and this relayd knows none after {known}: a newer relayd
    wrote it. Install that version of relayd again, or restore a backup that this one made."""

    code = "store-too-new"


class StoreInUse(StoreUnusable):
    """The hub's database {path} is in use by another process{process}. Stop that one, or give each hub a state
    directory of its own."""

    code = "store-in-use"


class BackupFailed(StoreError):
    """The backup {path} was not made: {reason}. The hub's database is as it was."""

    code = "backup-failed"


class RestoreFailed(StoreError):
    """{path} was not restored: {reason}. The hub's database is as it was."""

    code = "restore-failed"


class StoreClosed(StoreUnavailable):
    """The hub stops, and changes nothing more in its database."""

    code = "store-closed"


class Conflict(StoreError):
    """There is already an entry in {table} with the same {columns}."""

    code = "conflict"

    def __init__(self, *, table: str, columns: Sequence[str] = ()) -> None:
        super().__init__(table=table, columns=", ".join(columns))
        self.table = table
        self.columns = tuple(columns)


class StillReferred(Conflict):
    """An entry in the hub's database is still used by another one, or refers to one that is gone."""

    code = "still-referred"


class NotFound(StoreError):
    """There is no {what} {name}."""

    code = "not-found"


class Changed(StoreError):
    """The {what} {name} was changed by somebody else meanwhile. Read it again, and then change it."""

    code = "changed"


class Unstorable(StoreError):
    """The hub's database cannot hold a value: {reason}."""

    code = "unstorable"


class BadCursor(StoreError):
    """The cursor is not one that this list gave. Take it as it is from an answer, or leave it out to begin at the
    start."""

    code = "bad-cursor"
