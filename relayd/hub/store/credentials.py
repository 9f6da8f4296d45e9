"""
Credentials in the store, and whatever else is sealed there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType
from sqlalchemy import Connection, Select, Table, delete, func, insert, select, update

from relayd.hub.store.errors import Changed, NotFound
from relayd.hub.store.host_records import Method, SealedCredential, StoredCredential
from relayd.hub.store.keyset import fetch_page
from relayd.hub.store.paging import USUAL, Page
from relayd.hub.store.tables import credentials, hosts, runs
from relayd.language.texts import Text

#: Tables that have a column ``sealed``.
SEALED_TABLES: Final[dict[str, Table]] = {"credentials": credentials, "runs": runs}


def add_credential(connection: Connection, credential: SealedCredential, now: int) -> StoredCredential:
    """
    Add a credential.

    :param credential: with the id that it is sealed for (`relayd.hub.store.ids.new_id`).
    :param now: microseconds since 1970, UTC.
    :raises Conflict: when there is one of that name.
    """
    values = {
        "id": credential.id,
        "name": credential.name,
        "method": credential.method,
        "sealed": credential.sealed,
        "created_at": now,
        "version": 1,
    }
    connection.execute(insert(credentials), values)
    return StoredCredential(
        id=credential.id, name=credential.name, method=credential.method, hosts=0, version=1, created_at=now
    )


def credential_named(connection: Connection, name: str) -> StoredCredential:
    """
    The credential of that name.

    :raises NotFound: when there is none.
    """
    row = connection.execute(_QUERY.where(credentials.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(what=Text("credential"), name=name)
    return _made(row)


def page_of_credentials(
    connection: Connection, *, cursor: str | None = None, limit: int = USUAL
) -> Page[StoredCredential]:
    """
    A page of credentials, by name.

    :raises BadCursor: when *cursor* is not one of this list.
    """
    return fetch_page(connection, _QUERY, [credentials.c.name], _made, name="credentials", cursor=cursor, limit=limit)


def names_of_credentials(connection: Connection) -> set[str]:
    """The names that hosts may give as credential."""
    return set(connection.scalars(select(credentials.c.name)))


def change_credential(
    connection: Connection,
    name: str,
    *,
    new_name: str | None = None,
    method: Method | None = None,
    sealed: bytes | UnsetType | None = UNSET,
    version: int | None = None,
) -> StoredCredential:
    """
    Change a credential.

    :param sealed: for the id that it has.
    :param version: that it must have; ``None``: any.
    :raises NotFound: when it is not there.
    :raises Changed: when it has another version.
    :raises Conflict: when another has the new name.
    """
    old = _checked(connection, name, version)
    values: dict[str, Any] = {"version": old.version + 1}
    if new_name is not None:
        values["name"] = new_name
    if method is not None:
        values["method"] = method
    if sealed is not UNSET:
        values["sealed"] = sealed
    of_it = (credentials.c.id == old.id, credentials.c.version == old.version)
    if connection.execute(update(credentials).where(*of_it), values).rowcount != 1:
        raise Changed(what=Text("credential"), name=name)
    return credential_named(connection, new_name or name)


def delete_credential(connection: Connection, name: str, version: int | None = None) -> StoredCredential:
    """
    Delete a credential that no host uses.

    :param version: that it must have; ``None``: any.
    :return: it, as it was.
    :raises NotFound: when it is not there.
    :raises Changed: when it has another version.
    :raises StillReferred: when a host uses it.
    """
    old = _checked(connection, name, version)
    connection.execute(delete(credentials).where(credentials.c.id == old.id))
    return old


def sealed_credentials(connection: Connection, ids: Iterable[str]) -> dict[str, SealedCredential]:
    """The credentials of these ids that are there, for `relayd.hub.inventory.logins.Opener`."""
    columns = (credentials.c.id, credentials.c.name, credentials.c.method, credentials.c.sealed)
    found: dict[str, SealedCredential] = {}
    wanted = list(dict.fromkeys(ids))
    for start in range(0, len(wanted), 500):
        for row in connection.execute(select(*columns).where(credentials.c.id.in_(wanted[start : start + 500]))):
            found[row.id] = SealedCredential(id=row.id, name=row.name, method=row.method, sealed=row.sealed)
    return found


# Sealed anew


class SealedValue(Struct, frozen=True):
    """A sealed value of one row."""

    id: str
    sealed: bytes

    def __repr__(self) -> str:
        return f"<SealedValue of {self.id}>"


def anything_is_sealed(connection: Connection) -> bool:
    """Whether there is a sealed value anywhere: then a sealing key that is missing was lost."""
    return any(sealed_after(connection, table, "", 1) for table in SEALED_TABLES)


def sealed_after(connection: Connection, table: str, after: str, limit: int) -> list[SealedValue]:
    """
    Some sealed values, by the ids of their rows.

    :param table: of `SEALED_TABLES`.
    :param after: the id of the last row that was seen; empty: none was.
    """
    of = SEALED_TABLES[table]
    query = select(of.c.id, of.c.sealed).where(of.c.id > after, of.c.sealed.is_not(None))
    return [SealedValue(*row) for row in connection.execute(query.order_by(of.c.id).limit(limit))]


def replace_sealed(connection: Connection, table: str, values: Iterable[tuple[SealedValue, bytes]]) -> int:
    """
    Put the same secrets, sealed anew, in the place of sealed values that are still there.

    :return: how many were; one that was changed meanwhile was sealed with the newest key then.
    """
    of = SEALED_TABLES[table]
    count = 0
    for old, new in values:
        of_it = (of.c.id == old.id, of.c.sealed == old.sealed)
        count += connection.execute(update(of).where(*of_it), {"sealed": new}).rowcount
    return count


_COUNT: Final = (
    select(func.count()).select_from(hosts).where(hosts.c.credential_id == credentials.c.id).scalar_subquery()
)
_QUERY: Final[Select[Any]] = select(
    credentials.c.id,
    credentials.c.name,
    credentials.c.method,
    credentials.c.version,
    credentials.c.created_at,
    _COUNT.label("hosts"),
)


def _made(row: Any) -> StoredCredential:
    return StoredCredential(
        id=row.id,
        name=row.name,
        method=row.method,
        hosts=row.hosts,
        version=row.version,
        created_at=row.created_at,
    )


def _checked(connection: Connection, name: str, version: int | None) -> StoredCredential:
    found = credential_named(connection, name)
    if version is not None and found.version != version:
        raise Changed(what=Text("credential"), name=name)
    return found
