"""
Whether a relay may connect: looks its key up in the store, for all relays that wait at the same time together.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final, Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.hub.links.identity import RelayIdentity
from relayd.hub.relays.secrets import digest_of_key
from relayd.hub.store.relays import Relay, RelayKey, find_by_digests
from relayd.language.texts import printable
from relayd.network.forwarded import is_within
from relayd.network.patterns import read_network

_log = Logger("relayd.hub")

#: Refusals that are logged at once, and the seconds in which one more may be.
_BURST: Final = 20
_REFILL: Final = 3.0

#: Stands in for the digest of what cannot be a key, so that it is looked up like any other.
_NO_DIGEST: Final = sha256(b"no key").digest()


class Reads(Protocol):
    """The part of `relayd.hub.store.store.Store` that is needed here."""

    def read(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Call *function* with a connection to read."""


class Refused(Protocol):
    """Is told of each connection that was refused, for the audit log."""

    def __call__(self, proxy_id: str, address: str, reason: str) -> None:
        """
        :param proxy_id: what the peer claims, which may be anything.
        :param reason: ``unknown-key``, ``wrong-relay``, ``revoked-key``, ``expired-key``, ``disabled`` or ``address``.
        """


class _Waiting(Struct, frozen=True):
    proxy_id: str
    digest: bytes
    address: str
    done: Deferred[RelayIdentity | None]


class RelayAuthenticator:
    """
    Answers `relayd.hub.links.identity.Authenticate`.

    One read of the store is under way at a time, for all relays that have come meanwhile: a thousand relays that come
    at once are a few reads, and so are as many wrong keys.

    The peer cannot tell by the answer or by its time what was wrong: the same is looked up for each.  The reason goes
    to the log, as long as there are not too many, and to *refused*.

    :param now: the time, in microseconds since 1970.
    :param seconds: a clock that never goes backwards.
    """

    def __init__(
        self, store: Reads, now: Callable[[], int], seconds: Callable[[], float], refused: Refused | None = None
    ) -> None:
        self._store = store
        self._now = now
        self._refused = refused
        self._waiting: list[_Waiting] = []
        self._reading = False
        self._log_limit = _LogLimit(seconds)

    def authenticate(self, proxy_id: str, api_key: str, address: str) -> Deferred[RelayIdentity | None]:
        """See `relayd.hub.links.identity.Authenticate`.  Fails with `StoreError`."""
        done: Deferred[RelayIdentity | None] = Deferred()
        self._waiting.append(_Waiting(proxy_id, digest_of_key(api_key) or _NO_DIGEST, address, done))
        if not self._reading:
            self._read()
        return done

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._reading = True
        digests = list({each.digest for each in waiting})
        self._store.read(find_by_digests, digests).addBoth(self._was_read, waiting)

    def _was_read(self, found: Mapping[bytes, tuple[Relay, RelayKey]] | Failure, waiting: list[_Waiting]) -> None:
        if self._waiting:
            self._read()
        else:
            self._reading = False
        for each in waiting:
            if each.done.called:  # it was cancelled
                continue
            if isinstance(found, Failure):
                each.done.errback(found)
                continue
            relay, key = found.get(each.digest, (None, None))
            reason = refusal_of(relay, key, each.proxy_id, each.address, self._now())
            if reason or relay is None or key is None:
                self._refuse(each, reason)
                each.done.callback(None)
            else:
                each.done.callback(RelayIdentity(relay.name, key.id))

    def _refuse(self, each: _Waiting, reason: str) -> None:
        shown = printable(each.proxy_id, 80)
        if (left_out := self._log_limit.admits()) is not None:
            _log.warn(
                "Refused a connection as relay {proxy_id} from {address}: {reason}{more}",
                proxy_id=shown,
                address=each.address or "an unknown address",
                reason=_WORDS[reason],
                more=f" ({left_out} more were refused since the last line)" if left_out else "",
            )
        if self._refused is not None:
            self._refused(shown, each.address, reason)


_WORDS: Final = {
    "unknown-key": "no relay has that key",
    "wrong-relay": "the key is another relay's",
    "revoked-key": "the key is revoked",
    "expired-key": "the key has expired",
    "disabled": "the relay is disabled",
    "address": "it may not come from there",
}


def refusal_of(relay: Relay | None, key: RelayKey | None, proxy_id: str, address: str, now: int) -> str:
    """
    Why a relay may not connect; empty: it may.  Decides alone, without I/O.

    :param relay: whose key it is, with *key*.
    """
    if relay is None or key is None:
        return "unknown-key"
    if not hmac.compare_digest(relay.name.encode(), proxy_id.encode("utf-8", "replace")):
        return "wrong-relay"
    if key.revoked_at is not None:
        return "revoked-key"
    if not key.is_good(now):
        return "expired-key"
    if not relay.enabled:
        return "disabled"
    return "" if may_come_from(relay, address) else "address"


def may_come_from(relay: Relay, address: str) -> bool:
    """Whether the relay may connect from there."""
    networks = [read_network(text) for text in relay.allowed_networks]
    return not networks or is_within(address, networks)


class _LogLimit:
    """Lets some lines pass, and counts the others."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._left = float(_BURST)
        self._at = seconds()
        self._left_out = 0

    def admits(self) -> int | None:
        """How many were left out before this one; ``None``: this one is, too."""
        now = self._seconds()
        self._left = min(float(_BURST), self._left + (now - self._at) / _REFILL)
        self._at = now
        if self._left < 1.0:
            self._left_out += 1
            return None
        self._left -= 1.0
        left_out, self._left_out = self._left_out, 0
        return left_out
