"""
Sessions and tokens as each request brings them: who asks, as it is at that moment.

What is found here is never kept: a user who is disabled, demoted or removed, and a token that is revoked, have ended
with the next request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from relayd.hub.access.errors import CsrfWrong, NotAuthenticated
from relayd.hub.access.permissions import Permission, Principal, Role
from relayd.hub.access.secret_texts import digest_of_session, digest_of_token, is_csrf_token
from relayd.hub.store import api_tokens, sessions
from relayd.hub.store.sessions import Session
from relayd.hub.store.store import Store
from relayd.hub.store.users import User
from relayd.wire.secret import Secret

_log = Logger("relayd.hub")

_SECOND: Final = 1_000_000
#: Microseconds after which a session ends, used or not, and when it is not used (ASVS 4.0.3, 3.3.2).
ABSOLUTE: Final = 12 * 3600 * _SECOND
IDLE: Final = 30 * 60 * _SECOND
#: Microseconds between two notes that a session or a token was used: it is to a minute.
NOTED: Final = 60 * _SECOND

#: Microseconds since 1970 of now.
Now = Callable[[], int]


class Doorkeeper:
    """
    Finds out who asks.

    :param now: the time of day.
    """

    def __init__(self, store: Store, now: Now) -> None:
        self._store = store
        self._now = now

    async def by_session(self, session_id: Secret, address: str, *, changes: bool, csrf: str | None) -> Principal:
        """
        Who has a session.

        :param changes: whether the request changes something, or shall not come from another site for another reason.
        :param csrf: the CSRF token that came with it.
        :raises NotAuthenticated: when the session is not known, or has ended.
        :raises CsrfWrong: when *changes*, and *csrf* is not that of the session.
        """
        digest = digest_of_session(session_id)
        found = None if digest is None else await self._store.read(sessions.find, digest)
        now = self._now()
        if found is None or has_ended(found[0], now) or not can_log_in(found[1], now):
            raise NotAuthenticated
        session, user = found
        if changes and not is_csrf_token(session_id, csrf):
            raise CsrfWrong
        if now - session.last_used_at >= NOTED:
            _in_background(self._store.run(sessions.touch, session.digest, now))
        return principal_of(user, address)

    async def by_token(self, token: Secret, address: str) -> Principal:
        """
        Who has an API token.

        :raises NotAuthenticated: when the token is not known, has expired or is revoked, or its user is disabled.
        """
        digest = digest_of_token(token)
        found = None if digest is None else await self._store.read(api_tokens.find, digest)
        if found is None:
            raise NotAuthenticated
        known, user = found
        now = self._now()
        expired = known.expires_at is not None and known.expires_at <= now
        if expired or known.revoked_at is not None or not user.enabled:
            raise NotAuthenticated
        if known.last_used_at is None or now - known.last_used_at >= NOTED:
            _in_background(self._store.run(api_tokens.touch, known.id, now))
        scopes = frozenset(map(Permission, known.scopes))
        return principal_of(user, address, token=known.name, scopes=scopes)


def principal_of(
    user: User, address: str, *, token: str | None = None, scopes: frozenset[Permission] = frozenset()
) -> Principal:
    """Who asks, when it is *user*, with a session or with a token."""
    return Principal(
        user_id=user.id,
        user=user.name,
        role=Role(user.role),
        selectors=user.selectors,
        address=address,
        token=token,
        token_scopes=scopes,
        must_change_password=token is None and user.password_expires_at is not None,
    )


def has_ended(session: Session, now: int) -> bool:
    """Whether a session is over, by its age or because it was not used; also when the clock was set back before it."""
    return not session.created_at - NOTED <= now < session.expires_at or now - session.last_used_at >= IDLE


def can_log_in(user: User, now: int) -> bool:
    """Whether a user is enabled, and the password has not expired."""
    return user.enabled and (user.password_expires_at is None or user.password_expires_at > now)


def _in_background(running: Deferred[None]) -> None:
    running.addErrback(lambda failure: _log.failure("Noting that a session or a token is used failed", failure))
