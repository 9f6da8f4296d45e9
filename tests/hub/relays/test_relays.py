"""
Relays in the store: enrolment, keys, changes, and what is noted of connections; on both databases.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import Clock, deferLater

from relayd.hub.links.identity import RelayIdentity, RelayProgram
from relayd.hub.relays.administration import RelayAdministration, RelayView
from relayd.hub.relays.authentication import RelayAuthenticator
from relayd.hub.relays.enrolment import OVERLAP, TOKEN_LIFE, Enrolment
from relayd.hub.relays.errors import BadRelay, EnrolmentRefused
from relayd.hub.relays.presence import INTERVAL, Presence
from relayd.hub.store.errors import Changed, Conflict, NotFound
from tests.support.databases import OnBothStores
from tests.wire.test_relay_info import info


class Links:
    """Which relays are connected, and which were disconnected."""

    def __init__(self) -> None:
        self.relays: dict[str, Any] = {}
        self.disconnected: list[tuple[str, str, str | None]] = []

    def connect(self, name: str, key_id: str, address: str = "192.0.2.1", **told: Any) -> Any:
        program = RelayProgram(info=info() if told.get("info", True) else None)
        identity = RelayIdentity(name, key_id)
        link = SimpleNamespace(proxy_id=name, identity=identity, address=address, dialect="native", program=program)
        self.relays[name] = link
        return link

    def disconnect(self, name: str, reason: str, key_id: str | None = None) -> bool:
        self.disconnected.append((name, reason, key_id))
        return True

    def shared_name(self, name: str) -> None:
        return None


class RelaysTests(OnBothStores):
    """A hub's relays."""

    async def start(self) -> None:
        await super().start()
        self.time = 1_700_000_000_000_000
        self.links = Links()
        self.enrolment = Enrolment(self.store, self.now)
        links: Any = self.links
        self.relays = RelayAdministration(self.store, links, self.now)
        self.clock: Any = Clock()
        self.authenticator = RelayAuthenticator(self.store, self.now, self.clock.seconds)

    def now(self) -> int:
        self.time += 1
        return self.time

    async def may_connect(self, name: str, key: Any, address: str = "192.0.2.1") -> bool:
        return await self.authenticator.authenticate(name, key.reveal(), address) is not None

    async def refusal(self, token: str) -> str:
        return str(await self.assertFailure(self.enrolment.enrol(token), EnrolmentRefused))

    async def test_enrolment(self) -> None:
        await self.relays.add("r1")
        await self.relays.add("r2")
        token = await self.enrolment.invite("r1", "user:ann")
        self.assertEqual(token.expires_at, self.time + TOKEN_LIFE)
        key = await self.enrolment.enrol(token.token.reveal())
        self.assertEqual(key.relay, "r1")
        self.assertTrue(await self.may_connect("r1", key.key))
        self.assertFalse(await self.may_connect("r2", key.key))
        self.assertFalse(await self.may_connect("r1", token.token))
        self.assertIn("it was used on 2023-11-14", await self.refusal(token.token.reveal()))

    async def test_a_token_is_good_once_however_many_ask(self) -> None:
        await self.relays.add("r1")
        token = await self.enrolment.invite("r1", "user:ann")
        asked = [self.enrolment.enrol(token.token.reveal()) for _ in range(10)]
        outcomes = [await each.addErrback(lambda why: why.trap(EnrolmentRefused)) for each in asked]
        self.assertEqual(len([each for each in outcomes if each is not EnrolmentRefused]), 1)
        self.assertEqual(len((await self.relays.get("r1")).keys), 1)

    async def test_tokens_that_are_not_good(self) -> None:
        await self.relays.add("r1")
        for wrong in ("", "x", "rle_" + "0" * 64 + "\n"):
            self.assertIn("not an enrolment token", await self.refusal(wrong))
        self.assertIn("does not know it", await self.refusal("rle_" + "0" * 64))
        first = await self.enrolment.invite("r1", "user:ann")
        second = await self.enrolment.invite("r1", "user:ann", life=5_000_000)
        self.assertIn("does not know it", await self.refusal(first.token.reveal()))
        self.time += 5_000_000
        self.assertIn("it expired on", await self.refusal(second.token.reveal()))
        await self.assertFailure(self.enrolment.invite("r9", "user:ann"), NotFound)

    async def test_a_token_of_a_disabled_relay_is_not_used_up(self) -> None:
        await self.relays.add("r1", enabled=False)
        token = await self.enrolment.invite("r1", "user:ann")
        self.assertIn("disabled", await self.refusal(token.token.reveal()))
        await self.relays.change("r1", enabled=True)
        self.assertEqual((await self.enrolment.enrol(token.token.reveal())).relay, "r1")

    async def test_rotation(self) -> None:
        """Both keys are good for a while."""
        await self.relays.add("r1")
        first = await self.enrolment.rotate("r1")
        second = await self.enrolment.rotate("r1")
        self.assertTrue(await self.may_connect("r1", first.key))
        third = await self.enrolment.rotate("r1", overlap=5_000_000)
        self.time += 5_000_000
        goods = [await self.may_connect("r1", each.key) for each in (first, second, third)]
        self.assertEqual(goods, [False, False, True])
        ends = [each.expires_at for each in (await self.relays.get("r1")).keys]
        assert ends[0] is not None
        self.assertEqual((ends[1], ends[2]), (ends[0], None))
        self.assertLess(ends[0], self.time + OVERLAP)

    async def test_revocation(self) -> None:
        """At once, and the connection that was made with the key ends."""
        await self.relays.add("r1")
        await self.relays.add("r2")
        first, second = await self.enrolment.rotate("r1"), await self.enrolment.rotate("r1")
        await self.relays.revoke("r1", first.id)
        self.assertEqual(self.links.disconnected, [("r1", "the key is revoked", first.id)])
        self.assertFalse(await self.may_connect("r1", first.key))
        self.assertTrue(await self.may_connect("r1", second.key))
        revoked = (await self.relays.get("r1")).keys[0].revoked_at
        await self.relays.revoke("r1", first.id)
        self.assertEqual((await self.relays.get("r1")).keys[0].revoked_at, revoked)
        await self.assertFailure(self.relays.revoke("r2", first.id), NotFound)
        await self.assertFailure(self.relays.revoke("r3", first.id), NotFound)

    async def test_disabled_and_elsewhere(self) -> None:
        await self.relays.add("r1")
        key = await self.enrolment.rotate("r1")
        self.links.connect("r1", key.id)
        await self.relays.change("r1", allowed_networks=["192.0.2.0/24", "192.0.2.0/24"], note="x")
        self.assertEqual(self.links.disconnected, [])
        self.assertTrue(await self.may_connect("r1", key.key))
        self.assertFalse(await self.may_connect("r1", key.key, "198.51.100.1"))
        view = await self.relays.change("r1", 2, allowed_networks=["198.51.100.0/24"])
        self.assertEqual((view.entry.version, view.entry.note), (3, "x"))
        await self.relays.change("r1", 3, enabled=False)
        self.assertEqual([reason for _, reason, _ in self.links.disconnected], [
            "the relay may not come from there", "the relay is disabled",
        ])  # fmt: skip
        self.assertFalse(await self.may_connect("r1", key.key, "198.51.100.1"))
        await self.assertFailure(self.relays.change("r1", 3, enabled=True), Changed)
        await self.assertFailure(self.relays.change("r2", enabled=True), NotFound)

    async def test_mistakes(self) -> None:
        for wrong in ("", "-x", "a b", "a/b", "x" * 129, "r1\n", "ü"):
            self.assertRaises(BadRelay, self.relays.add, wrong)
        for networks in (["x"], ["192.0.2.1/24"], ["192.0.2.0/33"], [""], ["192.0.2.1"] * 101):
            self.assertRaises(BadRelay, self.relays.add, "r1", allowed_networks=networks)
        self.assertRaises(BadRelay, self.relays.add, "r1", note="x" * 2001)
        await self.relays.add("r1")
        await self.assertFailure(self.relays.add("r1"), Conflict)

    async def test_lists_and_deletion(self) -> None:
        await gatherResults([self.relays.add(name) for name in ("c", "a", "b")])
        first = await self.relays.fetch(limit=2)
        second = await self.relays.fetch(first.next_cursor, 2)
        names = [each.entry.name for page in (first, second) for each in page.items]
        self.assertEqual((names, second.next_cursor), (["a", "b", "c"], None))
        key = await self.enrolment.rotate("a")
        await self.enrolment.invite("a", "user:ann")
        await self.assertFailure(self.relays.remove("a", 7), Changed)
        await self.relays.remove("a", 1)
        self.assertEqual(self.links.disconnected, [("a", "the relay is deleted", None)])
        self.assertFalse(await self.may_connect("a", key.key))
        await self.assertFailure(self.relays.get("a"), NotFound)

    async def test_what_is_noted(self) -> None:
        """When it connects, once a minute, and when it leaves."""
        await self.relays.add("r1")
        key = await self.enrolment.rotate("r1")
        self.assertEqual((await self.relays.get("r1")).lacks, (), "nothing is known yet")
        links: Any = self.links
        presence = Presence(self.clock, self.store, links, self.now)
        presence.startService()
        link = self.links.connect("r1", key.id)
        presence.relay_connected(link)
        view = await self.written(presence)
        entry = view.entry
        self.assertEqual((entry.last_address, entry.last_dialect, entry.last_version), ("192.0.2.1", "native", "1"))
        self.assertEqual((entry.last_seen_at, view.keys[0].last_used_at), (self.time, self.time))
        self.assertEqual((view.online, view.info), (True, info()))
        self.assertIn("stream", view.lacks)
        for _ in range(2):
            before = self.time
            self.clock.advance(INTERVAL)
            view = await self.written(presence)
            self.assertGreater(view.entry.last_seen_at or 0, before)
        del self.links.relays["r1"]
        before = self.time
        presence.relay_lost(link)
        self.assertGreater((await self.written(presence)).entry.last_seen_at or 0, before)
        presence.relay_connected(self.links.connect("r1", key.id, info=False))
        self.assertIsNone((await self.written(presence)).entry.last_version)
        presence.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        await self.written(presence)

    async def written(self, presence: Presence) -> RelayView:
        """The relay once all notes are in the store."""
        while presence._open:
            await deferLater(reactor, 0.005)
        return await self.relays.get("r1")
