"""
API tokens: queries.  The store has their digests, and no token.
"""

from __future__ import annotations

import json

from msgspec import Struct
from sqlalchemy import Connection, Row, func, or_, select, update

from relayd.hub.store.keyset import fetch_page
from relayd.hub.store.paging import USUAL, Page
from relayd.hub.store.tables import api_tokens, users
from relayd.hub.store.users import User, user_of


class ApiToken(Struct, frozen=True, kw_only=True):
    """
    A token, without its text; times are microseconds since 1970.

    :ivar scopes: what it is limited to.
    :ivar expires_at: ``None``: never.
    :ivar last_used_at: to a minute; ``None``: never.
    :ivar revoked_at: ``None``: it is not revoked.
    """

    id: str
    user_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None
    last_used_at: int | None = None
    revoked_at: int | None = None


def add(connection: Connection, token: ApiToken, digest: bytes) -> None:
    """
    Add a token.

    :raises Conflict: when its user has, or had, one of that name.
    """
    connection.execute(
        api_tokens.insert().values(
            id=token.id,
            user_id=token.user_id,
            name=token.name,
            digest=digest,
            scopes=json.dumps(token.scopes),
            created_at=token.created_at,
            expires_at=token.expires_at,
        )
    )


def find(connection: Connection, digest: bytes) -> tuple[ApiToken, User] | None:
    """The token with that digest, and its user; it may have expired or be revoked."""
    row = connection.execute(select(api_tokens).where(api_tokens.c.digest == digest)).first()
    return None if row is None else _with_user(connection, row)


def find_by_id(connection: Connection, token_id: str) -> tuple[ApiToken, User] | None:
    """The token with that id, and its user."""
    row = connection.execute(select(api_tokens).where(api_tokens.c.id == token_id)).first()
    return None if row is None else _with_user(connection, row)


def fetch(
    connection: Connection, user_id: str | None = None, cursor: str | None = None, limit: int = USUAL
) -> Page[ApiToken]:
    """
    A page of the tokens in the order in which they were made.

    :param user_id: of whom; ``None``: of everybody.
    :raises BadCursor: when *cursor* is not one of this list.
    """
    query = select(api_tokens)
    if user_id is not None:
        query = query.where(api_tokens.c.user_id == user_id)
    name = f"tokens {user_id or ''}"
    return fetch_page(connection, query, [api_tokens.c.id], _token_of, name=name, cursor=cursor, limit=limit)


def count_usable(connection: Connection, user_id: str, now: int) -> int:
    """How many tokens of a user are neither expired nor revoked."""
    query = select(func.count()).where(
        api_tokens.c.user_id == user_id,
        api_tokens.c.revoked_at.is_(None),
        or_(api_tokens.c.expires_at.is_(None), api_tokens.c.expires_at > now),
    )
    return connection.execute(query).scalar_one()


def touch(connection: Connection, token_id: str, now: int) -> None:
    """Note that a token is used."""
    connection.execute(update(api_tokens).where(api_tokens.c.id == token_id).values(last_used_at=now))


def revoke(connection: Connection, token_id: str, now: int) -> None:
    """Revoke a token, unless it is revoked."""
    statement = update(api_tokens).where(api_tokens.c.id == token_id, api_tokens.c.revoked_at.is_(None))
    connection.execute(statement.values(revoked_at=now))


def _with_user(connection: Connection, row: Row[tuple[object, ...]]) -> tuple[ApiToken, User] | None:
    user = connection.execute(select(users).where(users.c.id == row.user_id)).first()
    return None if user is None else (_token_of(row), user_of(user))


def _token_of(row: Row[tuple[object, ...]]) -> ApiToken:
    return ApiToken(
        id=row.id,
        user_id=row.user_id,
        name=row.name,
        scopes=tuple(json.loads(row.scopes)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
