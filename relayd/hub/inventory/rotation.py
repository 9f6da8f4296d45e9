"""
New sealing keys: what is stored is sealed anew with them in small steps, while the hub runs, and the old keys go.

Each step is a transaction that changes only rows that are as they were read.  After an end of any kind it begins again,
and what is sealed with the newest key already is left as it is.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from relayd.hub.inventory.errors import NotOpened, SealingKeysUnusable
from relayd.hub.inventory.sealing import FixedKeys, KeyFile, Sealer, file_of_keys, new_key
from relayd.hub.store.credentials import SEALED_TABLES, SealedValue, replace_sealed, sealed_after
from relayd.hub.store.store import Store
from relayd.language.texts import Text
from relayd.process.whole_files import write_whole

#: Rows of one step.
STEP: Final = 100


class Rotated(Struct, frozen=True):
    """
    What became of the sealed values.

    :ivar anew: how many were sealed anew.
    :ivar current: how many were sealed with the newest key already.
    :ivar lost: the rows that no key opens, as ``credentials ID``; they stay as they are.
    """

    anew: int
    current: int
    lost: tuple[str, ...]


def add_key(file: KeyFile) -> None:
    """
    Put a new key before the others of a file.  A hub that runs reads it when it seals or opens the next secret.

    :raises SealingKeysUnusable: when the file cannot be read or written.
    """
    _write(file, (new_key(), *file.keys()))


async def seal_anew(store: Store, sealer: Sealer, step: int = STEP) -> Rotated:
    """
    Seal everything with the newest key.

    :param step: rows of one transaction.
    :raises SealingKeysUnusable: when there is no key.
    :raises StoreError: when the database cannot be used; what was done stays done.
    """
    anew = current = 0
    lost: list[str] = []
    for table in SEALED_TABLES:
        after = ""
        while values := await store.read(sealed_after, table, after, step):
            after = values[-1].id
            changes: list[tuple[SealedValue, bytes]] = []
            for value in values:
                if sealer.is_current(value.sealed):
                    current += 1
                    continue
                try:
                    changes.append((value, sealer.rotate(value.sealed)))
                except NotOpened:
                    lost.append(f"{table} {value.id}")
            if changes:
                anew += await store.run(replace_sealed, table, changes)
    return Rotated(anew, current, tuple(lost))


async def rotate(store: Store, file: KeyFile, step: int = STEP) -> Rotated:
    """
    Seal everything with a new key.  Where a file has several keys, an earlier rotation did not end, and goes on with
    the key that it made.

    The old keys stay in the file: backups need them.  `remove_old_keys` takes them out.

    :raises SealingKeysUnusable: when the file cannot be read or written.
    :raises StoreError: when the database cannot be used; to call it again goes on.
    """
    if len(file.keys()) == 1:
        add_key(file)
    sealer = Sealer(file)
    found = await seal_anew(store, sealer, step)
    # What was sealed with the old key before the new one was there may have been stored since.
    more = await seal_anew(store, sealer, step)
    return Rotated(found.anew + more.anew, more.current, more.lost)


async def remove_old_keys(store: Store, file: KeyFile) -> int:
    """
    Take all keys but the newest out of a file, where nothing needs them any more.

    :return: how many went.
    :raises SealingKeysUnusable: when something needs them still, or the file cannot be written.
    """
    keys = file.keys()
    if await _needs_old_keys(store, keys[0]):
        raise SealingKeysUnusable(path=file.path, reason=_NEEDED)
    _write(file, keys[:1])
    # A hub that read the file before may have stored what it sealed with an old key.
    if await _needs_old_keys(store, keys[0]):
        _write(file, keys)
        raise SealingKeysUnusable(path=file.path, reason=_NEEDED)
    return len(keys) - 1


_NEEDED: Final = Text("something is still sealed with an old key; rotate the secrets first")


async def _needs_old_keys(store: Store, newest: bytes) -> bool:
    sealer = Sealer(FixedKeys((newest,)))
    for table in SEALED_TABLES:
        after = ""
        while values := await store.read(sealed_after, table, after, STEP):
            after = values[-1].id
            if not all(sealer.is_current(value.sealed) for value in values):
                return True
    return False


def _write(file: KeyFile, keys: tuple[bytes, ...]) -> None:
    if file.is_credential:
        reason = Text("systemd passes it on and it cannot be written here: name the file that it is made from")
        raise SealingKeysUnusable(path=file.path, reason=reason)
    try:
        write_whole(file.path, file_of_keys(keys))
    except OSError as error:
        raise SealingKeysUnusable(path=file.path, reason=Text(error.strerror or type(error).__name__)) from None
