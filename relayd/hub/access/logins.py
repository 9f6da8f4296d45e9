"""
Logging in and out.

An unknown user, a wrong password, a disabled user and an expired temporary password have one answer, which takes one
time.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError

from relayd.hub.access.audit import DONE, Actor, HubAudit, actor_of
from relayd.hub.access.errors import AuditUnavailable, LoginFailed, LoginsBusy, LoginThrottled, NoSuchSession
from relayd.hub.access.password_hashes import PasswordHashes
from relayd.hub.access.password_rules import is_possible
from relayd.hub.access.permissions import Principal
from relayd.hub.access.secret_texts import csrf_token, digest_of_session, new_session_id
from relayd.hub.access.sessions import ABSOLUTE, IDLE, Now, can_log_in, has_ended, principal_of
from relayd.hub.access.throttle import LoginThrottle
from relayd.hub.access.user_names import is_user_name
from relayd.hub.store import sessions, users
from relayd.hub.store.sessions import Session
from relayd.hub.store.store import Store
from relayd.hub.store.users import User
from relayd.network.steady_clock import steady_seconds
from relayd.wire.secret import Secret

#: Sessions that a user has at once; with one more, the one that was used longest ago ends.
MOST_SESSIONS: Final = 20
#: Sessions that are forgotten at once when they have expired.
SWEPT: Final = 500
#: Hexadecimal digits of a digest that name a session to its user.
_HANDLE: Final = 16


class LoggedIn(Struct, frozen=True):
    """
    A new session.

    :ivar session_id: for the cookie.
    :ivar csrf: for the page.
    """

    session_id: Secret
    csrf: str
    principal: Principal


class SessionSeen(Struct, frozen=True, kw_only=True):
    """
    A session as its user sees it; times are microseconds since 1970.

    :ivar handle: names it.
    :ivar current: whether it is the one that asks.
    """

    handle: str
    address: str
    created_at: int
    last_used_at: int
    expires_at: int
    current: bool


class Logins:
    """
    Logs users in and out.

    :param reactor: provides a clock that nobody sets.
    :param now: the time of day.
    """

    def __init__(
        self,
        reactor: Any,
        store: Store,
        hashes: PasswordHashes,
        throttle: LoginThrottle,
        audit: HubAudit,
        now: Now,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._hashes = hashes
        self._throttle = throttle
        self._audit = audit
        self._now = now

    async def log_in(self, name: str, password: Secret, address: str, previous: Secret | None = None) -> LoggedIn:
        """
        Log a user in; the session is a new one.

        :param previous: the id of a session that the browser had, which ends.
        :raises LoginFailed: when user and password do not match.
        :raises LoginThrottled: when too many attempts failed.
        :raises LoginsBusy: when too many passwords wait to be checked.
        :raises AuditUnavailable: when it cannot be recorded.
        """
        if not self._audit.available:
            raise AuditUnavailable
        user, hashed = await self.check(name, password, address, "login")
        session_id = new_session_id()
        digest, now = digest_of_session(session_id), self._now()
        assert digest is not None
        session = Session(
            digest=digest,
            user_id=user.id,
            address=address,
            created_at=now,
            last_used_at=now,
            expires_at=now + ABSOLUTE,
        )
        actor = Actor(f"user:{user.name}", address)
        await self._audit.record(actor, "login", DONE, {})
        old = None if previous is None else digest_of_session(previous)
        if not await self._store.run(_add_session, session, user, hashed, old, now):
            self._audit.refused(actor, "login", LoginFailed.code, {})
            raise LoginFailed  # the user was changed while the password was checked
        if self._hashes.is_outdated(hashed):
            await self._rehash(user, password, hashed)
        return LoggedIn(session_id, csrf_token(session_id), principal_of(user, address))

    async def check(self, name: str, password: Secret, address: str, event: str) -> tuple[User, str]:
        """
        Check a password.

        :param event: what it is for, in the audit log, which has failures.
        :return: the user, and the hash that fits.
        :raises LoginFailed: when user and password do not match.
        :raises LoginThrottled: when too many attempts failed.
        :raises LoginsBusy: when too many passwords wait to be checked.
        """
        typed = is_user_name(name)
        key = name if typed else ""
        wait = self._throttle.begin(key, address, steady_seconds(self._reactor))
        if wait:
            self._failed(None, name, address, event, LoginThrottled.code)
            raise LoginThrottled(seconds=wait)
        try:
            found = await self._store.read(users.find_password, name) if typed else None
            right = await self._is_right(password, None if found is None else found[1])
        except CancelledError:
            raise  # who gave up waiting has cost as much as others
        except Exception as error:
            self._throttle.void(key, address)
            if isinstance(error, LoginsBusy):
                self._failed(None, name, address, event, error.code)
            raise
        if found is None or not right or not can_log_in(found[0], self._now()):
            self._failed(None if found is None else found[0], name, address, event, LoginFailed.code)
            raise LoginFailed
        self._throttle.succeeded(key, address)
        return found

    async def log_out(self, session_id: Secret, principal: Principal) -> None:
        """End the session of *principal*."""
        digest = digest_of_session(session_id)
        if digest is not None:
            actor = actor_of(principal)
            await self._audit.perform(actor, "logout", {}, lambda: self._store.run(sessions.remove, digest))

    async def list_sessions(self, principal: Principal, session_id: Secret) -> list[SessionSeen]:
        """The sessions of *principal*'s user that go on, the last used first."""
        own, now = digest_of_session(session_id), self._now()
        found = await self._store.read(sessions.list_of, principal.user_id)
        return [
            SessionSeen(
                handle=each.digest.hex()[:_HANDLE],
                address=each.address,
                created_at=each.created_at,
                last_used_at=each.last_used_at,
                expires_at=each.expires_at,
                current=each.digest == own,
            )
            for each in found
            if not has_ended(each, now)
        ]

    async def end_session(self, principal: Principal, handle: str) -> None:
        """
        End one session of *principal*'s user.

        :param handle: see `SessionSeen`.
        :raises NoSuchSession: when the user has none of that handle.
        """
        actor = actor_of(principal)

        async def end() -> None:
            if not await self._store.run(_end_session, principal.user_id, handle):
                raise NoSuchSession

        await self._audit.perform(actor, "session-end", {"session": handle}, end)

    async def sweep(self) -> int:
        """Forget some sessions that have expired, and say how many."""
        now = self._now()
        return await self._store.run(sessions.remove_expired, now, now - IDLE, SWEPT)

    async def _is_right(self, password: Secret, hashed: str | None) -> bool:
        if not is_possible(password):
            return False
        return await self._hashes.matches(password, hashed)

    async def _rehash(self, user: User, password: Secret, hashed: str) -> None:
        try:
            new = await self._hashes.make(password)
        except LoginsBusy:
            return  # the next login does it
        await self._store.run(users.replace_hash, user.id, hashed, new)

    def _failed(self, user: User | None, name: str, address: str, event: str, code: str) -> None:
        """Record a failure.  A name that no user has may be a password: the log has a keyed digest of it."""
        if user is not None:
            self._audit.refused(Actor(f"user:{user.name}", address), event, code, {})
        else:
            self._audit.refused(Actor("user:?", address), event, code, {"nameDigest": self._audit.digest(name)[:16]})


def _add_session(
    connection: Connection, session: Session, user: User, hashed: str, previous: bytes | None, now: int
) -> bool:
    """Add a session, if the user and the password are still as they were when the password was checked."""
    found = users.find_password(connection, user.name)
    if found is None or found[0].id != user.id or found[1] != hashed or not can_log_in(found[0], now):
        return False
    if previous is not None:
        sessions.remove(connection, previous)
    sessions.add(connection, session, MOST_SESSIONS)
    return True


def _end_session(connection: Connection, user_id: str, handle: str) -> bool:
    for each in sessions.list_of(connection, user_id):
        if each.digest.hex()[:_HANDLE] == handle:
            return sessions.remove(connection, each.digest)
    return False
