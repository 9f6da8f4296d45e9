"""
Sessions: queries.  The store has digests of their ids, and no id.
"""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import Connection, delete, select, update

from relayd.hub.store.tables import sessions, users
from relayd.hub.store.users import User, user_of


class Session(Struct, frozen=True, kw_only=True):
    """
    A session; times are microseconds since 1970.

    :ivar digest: SHA-256 of its id.
    :ivar address: from where the user logged in.
    :ivar expires_at: when it ends, whatever happens.
    """

    digest: bytes
    user_id: str
    address: str
    created_at: int
    last_used_at: int
    expires_at: int


def add(connection: Connection, session: Session, most: int) -> None:
    """
    Add a session.

    :param most: sessions that its user has then at most; those that were used longest ago end.
    """
    of_user = sessions.c.user_id == session.user_id
    newest = select(sessions.c.digest).where(of_user).order_by(sessions.c.last_used_at.desc()).limit(most - 1)
    connection.execute(delete(sessions).where(of_user, sessions.c.digest.not_in(newest)))
    connection.execute(
        sessions.insert().values(
            digest=session.digest,
            user_id=session.user_id,
            address=session.address,
            created_at=session.created_at,
            last_used_at=session.last_used_at,
            expires_at=session.expires_at,
        )
    )


def find(connection: Connection, digest: bytes) -> tuple[Session, User] | None:
    """The session with that digest, and its user; it may have expired."""
    row = connection.execute(select(sessions).where(sessions.c.digest == digest)).first()
    if row is None:
        return None
    user = connection.execute(select(users).where(users.c.id == row.user_id)).first()
    return None if user is None else (Session(**row._mapping), user_of(user))


def list_of(connection: Connection, user_id: str) -> list[Session]:
    """The sessions of a user, the last used first."""
    query = select(sessions).where(sessions.c.user_id == user_id).order_by(sessions.c.last_used_at.desc())
    return [Session(**row._mapping) for row in connection.execute(query)]


def touch(connection: Connection, digest: bytes, now: int) -> None:
    """Note that a session is used."""
    connection.execute(update(sessions).where(sessions.c.digest == digest).values(last_used_at=now))


def remove(connection: Connection, digest: bytes) -> bool:
    """End a session; ``False``: there is none."""
    return connection.execute(delete(sessions).where(sessions.c.digest == digest)).rowcount == 1


def remove_of(connection: Connection, user_id: str) -> int:
    """End all sessions of a user, and say how many there were."""
    return connection.execute(delete(sessions).where(sessions.c.user_id == user_id)).rowcount


def remove_expired(connection: Connection, now: int, idle_since: int, limit: int) -> int:
    """
    Forget sessions that have expired, and say how many.

    :param idle_since: sessions that were last used before are expired, too.
    :param limit: of how many are forgotten at once.
    """
    expired = (sessions.c.expires_at <= now) | (sessions.c.last_used_at <= idle_since)
    some = select(sessions.c.digest).where(expired).limit(limit)
    return connection.execute(delete(sessions).where(sessions.c.digest.in_(some))).rowcount
