"""
Who may connect: decisions, and that a thousand who ask at once are a few reads of the store.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.links.identity import RelayIdentity
from relayd.hub.relays.authentication import RelayAuthenticator, refusal_of
from relayd.hub.relays.secrets import digest_of_key, new_key
from relayd.hub.store.errors import StoreUnavailable
from relayd.hub.store.relays import Relay, RelayKey
from tests.support.dispatching import watch_log

NOW = 1_000_000
RELAY = Relay(id="1", name="r1", created_at=0)
KEY = RelayKey(id="k1", relay_id="1", created_at=0)


class RefusalTests(SynchronousTestCase):
    """Decisions."""

    def test_reasons(self) -> None:
        somewhere = replace(RELAY, allowed_networks=("192.0.2.0/24", "2001:db8::/32"))
        for relay, key, name, address, reason in (
            (RELAY, KEY, "r1", "198.51.100.1", ""),
            (RELAY, KEY, "r1", "", ""),
            (None, None, "r1", "", "unknown-key"),
            (RELAY, KEY, "r2", "", "wrong-relay"),
            (RELAY, KEY, "R1", "", "wrong-relay"),
            (RELAY, KEY, "r1\ud800", "", "wrong-relay"),
            (RELAY, replace(KEY, revoked_at=NOW), "r1", "", "revoked-key"),
            (RELAY, replace(KEY, expires_at=NOW + 1), "r1", "", ""),
            (RELAY, replace(KEY, expires_at=NOW), "r1", "", "expired-key"),
            (replace(RELAY, enabled=False), KEY, "r1", "", "disabled"),
            (somewhere, KEY, "r1", "192.0.2.9", ""),
            (somewhere, KEY, "r1", "::ffff:192.0.2.9", ""),
            (somewhere, KEY, "r1", "2001:db8::9", ""),
            (somewhere, KEY, "r1", "198.51.100.1", "address"),
            (somewhere, KEY, "r1", "", "address"),
            (somewhere, KEY, "r1", "garbage", "address"),
        ):
            self.assertEqual(refusal_of(relay, key, name, address, NOW), reason)


class HeldStore:
    """A store whose reads end when a test says so."""

    def __init__(self) -> None:
        self.reads: list[tuple[list[bytes], Deferred[Any]]] = []

    def read(self, function: Any, digests: list[bytes]) -> Deferred[Any]:
        self.reads.append((digests, Deferred()))
        return self.reads[-1][1]


class AuthenticatorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = HeldStore()
        self.clock = Clock()
        self.refused: list[tuple[str, str, str]] = []
        self.authenticator = RelayAuthenticator(
            self.store, lambda: NOW, self.clock.seconds, lambda *what: self.refused.append(what)
        )

    def ask(self, name: str = "r1", key: str = "x", address: str = "192.0.2.1") -> Deferred[RelayIdentity | None]:
        return self.authenticator.authenticate(name, key, address)

    def answer(self, found: Any) -> None:
        self.store.reads.pop(0)[1].callback(found)

    def test_a_key(self) -> None:
        key = new_key().reveal()
        digest = digest_of_key(key)
        asked = [self.ask(key=key), self.ask("r2", key)]
        self.assertEqual(self.store.reads[0][0], [digest])
        self.answer({digest: (RELAY, KEY)})
        self.answer({digest: (RELAY, KEY)})
        self.assertEqual(self.successResultOf(asked[0]), RelayIdentity("r1", "k1"))
        self.assertIsNone(self.successResultOf(asked[1]))
        self.assertEqual(self.refused, [("r2", "192.0.2.1", "wrong-relay")])

    def test_many_at_once(self) -> None:
        """What has come while one read was under way is the next one."""
        keys = [new_key().reveal() for _ in range(1000)]
        asked = [self.ask(key=key) for key in keys]
        self.assertEqual([len(digests) for digests, _ in self.store.reads], [1])
        self.answer({})
        self.assertEqual([len(digests) for digests, _ in self.store.reads], [999])
        self.answer({digest_of_key(keys[-1]): (RELAY, KEY)})
        self.assertEqual([self.successResultOf(each) is not None for each in asked], [False] * 999 + [True])
        self.assertEqual(self.store.reads, [])

    def test_what_cannot_be_a_key_is_looked_up_like_one(self) -> None:
        """Whoever measures the time learns nothing."""
        for key in ("", "x", "rlk_" + "0" * 63, "rlk_" + "0" * 64 + "\n", "\ud800"):
            asked = self.ask(key=key)
            self.assertEqual(len(self.store.reads[0][0]), 1)
            self.answer({})
            self.assertIsNone(self.successResultOf(asked))

    def test_a_store_that_fails(self) -> None:
        asked = [self.ask(), self.ask()]
        self.store.reads.pop(0)[1].errback(StoreUnavailable(reason="x"))
        self.failureResultOf(asked[0], StoreUnavailable)
        self.assertNoResult(asked[1])
        self.answer({})
        self.assertIsNone(self.successResultOf(asked[1]))

    def test_who_does_not_wait(self) -> None:
        asked = self.ask()
        asked.cancel()
        self.failureResultOf(asked)
        self.answer({})

    def test_many_refusals_are_few_lines(self) -> None:
        """And no line holds a key."""
        logged = watch_log(self)
        for number in range(500):
            self.ask(f"r{number}\n", key=f"secret{number}")
            self.answer({})
        self.assertEqual(len(logged), 20)
        self.clock.advance(3)
        self.ask("again")
        self.answer({})
        self.assertEqual(len(logged), 21)
        text = "".join(map(str, logged))
        self.assertIn("480 more were refused", text)
        self.assertNotIn("secret", text)
        self.assertEqual(len(self.refused), 501, "the audit log has a limit of its own")
