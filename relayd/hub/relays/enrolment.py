"""
How a relay gets its key: a token that an administrator makes, good for one use and for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection
from twisted.internet.defer import Deferred, fail

from relayd.hub.relays.errors import EnrolmentRefused
from relayd.hub.relays.secrets import digest_of_key, digest_of_token, new_key, new_token
from relayd.hub.store import relays
from relayd.hub.store.ids import new_id
from relayd.hub.store.store import Store
from relayd.language.texts import Text
from relayd.wire.secret import Secret

#: Microseconds for which a token is good, and for which older keys are after a new one was made.
TOKEN_LIFE = 60 * 60 * 1_000_000
OVERLAP = 7 * 24 * 60 * 60 * 1_000_000


class Token(Struct, frozen=True):
    """
    A new enrolment token.

    :ivar expires_at: in microseconds since 1970.
    """

    token: Secret
    expires_at: int


class NewKey(Struct, frozen=True):
    """
    A new key of a relay, shown once.

    :ivar id: names the key; it is no secret.
    """

    relay: str
    id: str
    key: Secret


class Enrolment:
    """
    Gives tokens to administrators, and keys to relays.

    :param now: the time, in microseconds since 1970.
    """

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now

    def invite(self, name: str, created_by: str, life: int = TOKEN_LIFE) -> Deferred[Token]:
        """
        Make a token for a relay; an earlier one that was not used is good no more.

        :param life: microseconds for which it is good.
        :return: fails with `NotFound`, or another `StoreError`.
        """
        now = self._now()
        token, expires_at = new_token(), now + life

        def make(connection: Connection) -> Token:
            relay = relays.find(connection, name)
            entry = relays.EnrolmentToken(
                id=new_id(now), relay_id=relay.id, created_by=created_by, created_at=now, expires_at=expires_at
            )
            relays.add_token(connection, entry, _digest(digest_of_token(token.reveal())))
            return Token(token, expires_at)

        return self._store.run(make)

    def enrol(self, token: str) -> Deferred[NewKey]:
        """
        Use a token: make a key for its relay.  Older keys of it are good for `OVERLAP` from now.

        :return: fails with `EnrolmentRefused`, which says why to whoever has a real token, or with `StoreError`: then
            the token can be used again.
        """
        digest, now = digest_of_token(token), self._now()
        if digest is None:
            return fail(EnrolmentRefused(reason=Text("it is not an enrolment token; was all of it copied?")))

        def use(connection: Connection) -> NewKey:
            good = relays.use_token(connection, digest, now)
            found = relays.find_token(connection, digest)
            if found is None:
                reason = Text("the hub does not know it; perhaps a newer one has replaced it. Ask for a new one")
                raise EnrolmentRefused(reason=reason)
            entry, relay = found
            if not good:
                raise EnrolmentRefused(reason=_why_not(entry))
            if not relay.enabled:
                raise EnrolmentRefused(reason=Text("the relay is disabled at the hub"))
            return _make_key(connection, relay, now, OVERLAP)

        return self._store.run(use)

    def rotate(self, name: str, overlap: int = OVERLAP) -> Deferred[NewKey]:
        """
        Make a new key for a relay.

        :param overlap: microseconds for which older keys are still good.
        :return: fails with `NotFound`, or another `StoreError`.
        """
        now = self._now()
        return self._store.run(lambda connection: _make_key(connection, relays.find(connection, name), now, overlap))


def settings_text(relay: str, url: str, key_file: str = "/etc/relayd/api-key") -> str:
    """A ``relayd.toml`` for a relay, for those who write it by hand."""
    values = {"server": url, "proxy-id": relay, "api-key-file": key_file}
    lines = [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in values.items()]
    return "\n".join(lines) + "\n"  # a string of JSON without control characters is one of TOML


def _make_key(connection: Connection, relay: relays.Relay, now: int, overlap: int) -> NewKey:
    key = new_key()
    entry = relays.RelayKey(id=new_id(now), relay_id=relay.id, created_at=now)
    relays.add_key(connection, entry, _digest(digest_of_key(key.reveal())))
    relays.end_other_keys(connection, relay.id, entry.id, now + overlap)
    return NewKey(relay.name, entry.id, key)


def _why_not(token: relays.EnrolmentToken) -> Text:
    if token.used_at is not None:
        return Text(
            "it was used on {time}, and is good for one use. If that was not you, revoke the key that was given for it "
            "and find out who has read the token",
            time=_moment(token.used_at),
        )
    return Text("it expired on {time}. Ask for a new one", time=_moment(token.expires_at))


def _moment(microseconds: int) -> str:
    return f"{datetime.fromtimestamp(microseconds / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _digest(digest: bytes | None) -> bytes:
    if digest is None:
        raise AssertionError("a secret of another shape was made")
    return digest
