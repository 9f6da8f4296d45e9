"""
Users: queries.  A hash of a password leaves here only by `find_password`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType
from sqlalchemy import Connection, Row, delete, select, text, update

from relayd.hub.store.keyset import fetch_page
from relayd.hub.store.paging import USUAL, Page
from relayd.hub.store.tables import users

_ADMIN = "admin"
_COLUMNS = tuple(column for column in users.c if column is not users.c.password_hash)


class User(Struct, frozen=True, kw_only=True):
    """
    A user, without the password.

    :ivar role: ``viewer``, ``operator`` or ``admin``.
    :ivar selectors: of the hosts that an operator is limited to; ``None``: all hosts.
    :ivar password_expires_at: microseconds since 1970; ``None``: the user chose the password.
    :ivar created_at: microseconds since 1970.
    """

    id: str
    name: str
    role: str
    selectors: tuple[str, ...] | None
    enabled: bool
    password_expires_at: int | None
    created_at: int
    version: int


class UserChange(Struct, frozen=True, kw_only=True):
    """What of a user is to change."""

    role: str | UnsetType = UNSET
    selectors: Sequence[str] | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


def add(connection: Connection, user: User, password_hash: str) -> None:
    """
    Add a user.

    :raises Conflict: when there is one of that name.
    """
    connection.execute(
        users.insert().values(
            id=user.id,
            name=user.name,
            password_hash=password_hash,
            password_expires_at=user.password_expires_at,
            role=user.role,
            selectors=_encode(user.selectors),
            enabled=user.enabled,
            created_at=user.created_at,
            version=user.version,
        )
    )


def is_empty(connection: Connection) -> bool:
    """
    Whether there is no user.

    Until the end of the transaction nobody else can add one: so there is one first administrator.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE"))
    return connection.execute(select(users.c.id).limit(1)).first() is None


def find(connection: Connection, name: str) -> User | None:
    """The user of that name."""
    row = connection.execute(select(*_COLUMNS).where(users.c.name == name)).first()
    return None if row is None else user_of(row)


def find_password(connection: Connection, name: str) -> tuple[User, str] | None:
    """The user of that name, and the hash of the password."""
    row = connection.execute(select(users).where(users.c.name == name)).first()
    return None if row is None else (user_of(row), row.password_hash)


def fetch(connection: Connection, cursor: str | None = None, limit: int = USUAL) -> Page[User]:
    """
    A page of the users in the order of their names.

    :raises BadCursor: when *cursor* is not one of this list.
    """
    return fetch_page(connection, select(*_COLUMNS), [users.c.name], user_of, name="users", cursor=cursor, limit=limit)


def change(connection: Connection, name: str, changes: UserChange) -> User | None:
    """Change a user; ``None``: there is none of that name."""
    values: dict[str, object] = {"version": users.c.version + 1}
    if changes.role is not UNSET:
        values["role"] = changes.role
    if changes.selectors is not UNSET:
        values["selectors"] = _encode(changes.selectors)
    if changes.enabled is not UNSET:
        values["enabled"] = changes.enabled
    connection.execute(update(users).where(users.c.name == name).values(values))
    return find(connection, name)


def set_password(connection: Connection, name: str, password_hash: str, expires_at: int | None) -> None:
    """
    Give a user another password.

    :param expires_at: see `User.password_expires_at`.
    """
    values = {"password_hash": password_hash, "password_expires_at": expires_at, "version": users.c.version + 1}
    connection.execute(update(users).where(users.c.name == name).values(values))


def replace_hash(connection: Connection, user_id: str, old: str, new: str) -> None:
    """Keep a password by another hash, unless it was changed meanwhile."""
    statement = update(users).where(users.c.id == user_id, users.c.password_hash == old)
    connection.execute(statement.values(password_hash=new))


def remove(connection: Connection, name: str) -> bool:
    """Remove a user, with the sessions and tokens; ``False``: there is none of that name."""
    return connection.execute(delete(users).where(users.c.name == name)).rowcount == 1


def lock_administrators(connection: Connection) -> list[str]:
    """
    The names of administrators who can log in.

    Until the end of the transaction, nobody else can change them: so of two who demote each other, the second one
    sees what the first did.
    """
    query = select(users.c.name).where(users.c.role == _ADMIN, users.c.enabled).order_by(users.c.id).with_for_update()
    return list(connection.execute(query).scalars())


def user_of(row: Row[tuple[object, ...]]) -> User:
    """The user in a row that has the columns of the table."""
    return User(
        id=row.id,
        name=row.name,
        role=row.role,
        selectors=None if row.selectors is None else tuple(json.loads(row.selectors)),
        enabled=row.enabled,
        password_expires_at=row.password_expires_at,
        created_at=row.created_at,
        version=row.version,
    )


def _encode(selectors: Sequence[str] | UnsetType | None) -> str | None:
    return None if selectors is None else json.dumps(selectors)
