"""
Tests of `relayd.hub.access.tokens`: on both databases.
"""

from __future__ import annotations

from typing import Any

from relayd.hub.access import tokens as tokens_module
from relayd.hub.access.errors import Forbidden, NoSuchToken, TokenExists, TooManyTokens, Unusable
from relayd.hub.access.permissions import Permission, Principal
from relayd.hub.store import api_tokens
from relayd.wire.secret import Secret
from tests.support.access import ADDRESS, AccessCase

HOUR = 3600_000_000


class TokenCase(AccessCase):
    async def start(self) -> None:
        await super().start()
        self.alice = await self.administrator()
        await self.user("bob", "operator", ("env=prod",))
        self.bob = (await self.logged_in("bob")).principal

    async def with_token(self, principal: Principal, name: str, *scopes: str) -> Principal:
        _, text = await self.access.tokens.make(principal, name, scopes, None)
        return await self.access.doorkeeper.by_token(text, ADDRESS)


class TokenTests(TokenCase):
    async def test_a_token(self) -> None:
        token, text = await self.access.tokens.make(self.bob, "ci", ["runs:write", "runs:read"], self.time + HOUR)
        asks = await self.access.doorkeeper.by_token(text, "10.0.0.1")
        self.assertEqual((asks.name, asks.address, asks.limits), ("token:bob/ci", "10.0.0.1", ("env=prod",)))
        self.assertEqual(asks.scopes, {Permission.RUNS_READ, Permission.RUNS_WRITE})
        self.assertEqual(token.scopes, ("runs:read", "runs:write"))
        self.time += HOUR
        await self.assert_token_ended(text)

    async def test_it_is_shown_once(self) -> None:
        token, text = await self.access.tokens.make(self.bob, "ci", ["runs:read"], None)
        page = await self.access.tokens.list_page(self.bob)
        self.assertEqual([each.name for each in page.items], ["ci"])
        for shown in (repr(token), repr(text), repr(page)):
            self.assertNotIn(text.reveal()[4:], shown)
        await self.acts()
        self.assertNotIn(text.reveal()[4:], self.log_path.read_text())

    async def test_never_more_than_who_makes_it(self) -> None:
        for scope in ("inventory:write", "relays:write", "access:admin", "audit:read"):
            with self.assertRaises(Forbidden):
                await self.access.tokens.make(self.bob, "ci", ["runs:read", scope], None)
        runs = await self.with_token(self.alice, "runs", "runs:read", "runs:write")
        with self.assertRaises(Forbidden):  # it does not multiply
            await self.access.tokens.make(runs, "other", ["runs:read"], None)
        access = await self.with_token(self.alice, "access", "access:admin", "runs:read")
        with self.assertRaises(Forbidden):
            await self.access.tokens.make(access, "other", ["relays:write"], None)
        await self.access.tokens.make(access, "other", ["runs:read"], None)

    async def test_what_cannot_be(self) -> None:
        for name in ("", "a b", "a/b", "x" * 65, "-a", "a\n"):
            with self.assertRaises(Unusable):
                await self.access.tokens.make(self.bob, name, ["runs:read"], None)
        for scopes in ([], ["all"], ["runs"]):
            with self.assertRaises(Unusable):
                await self.access.tokens.make(self.bob, "ci", scopes, None)
        with self.assertRaises(Unusable):
            await self.access.tokens.make(self.bob, "ci", ["runs:read"], self.time)
        for wrong in ("", "rlh_", "rlh_" + "0" * 64, "RLH_" + "0" * 64, "x" * 100_000):
            await self.assert_token_ended(Secret(wrong))

    async def test_revoked(self) -> None:
        token, text = await self.access.tokens.make(self.bob, "ci", ["runs:read"], None)
        await self.access.tokens.revoke(self.bob, token.id)
        await self.assert_token_ended(text)
        [listed] = (await self.access.tokens.list_page(self.bob)).items
        self.assertEqual(listed.revoked_at, self.time)
        with self.assertRaises(TokenExists):  # its name is in the audit log, and stays that of one token
            await self.access.tokens.make(self.bob, "ci", ["runs:read"], None)
        self.time += 1
        await self.access.tokens.revoke(self.bob, token.id)
        [listed] = (await self.access.tokens.list_page(self.bob)).items
        self.assertEqual(listed.revoked_at, self.time - 1)

    async def test_whose_it_is(self) -> None:
        """To others it is as if it were not there."""
        token, text = await self.access.tokens.make(self.alice, "ci", ["runs:read"], None)
        with self.assertRaises(NoSuchToken):
            await self.access.tokens.revoke(self.bob, token.id)
        with self.assertRaises(NoSuchToken):
            await self.access.tokens.revoke(self.bob, "none")
        other, _ = await self.access.tokens.make(self.alice, "other", ["runs:read"], None)
        asks = await self.access.doorkeeper.by_token(text, ADDRESS)
        with self.assertRaises(NoSuchToken):  # a token that was stolen does not end others
            await self.access.tokens.revoke(asks, other.id)
        self.assertEqual((await self.access.tokens.list_page(self.bob)).items, [])
        with self.assertRaises(Forbidden):
            await self.access.tokens.list_page(self.bob, everybody=True)
        self.assertEqual(len((await self.access.tokens.list_page(self.alice, everybody=True)).items), 2)
        await self.access.tokens.revoke(asks, token.id)  # but itself
        await self.assert_token_ended(text)
        theirs, _ = await self.access.tokens.make(self.bob, "bobs", ["runs:read"], None)
        await self.access.tokens.revoke(self.alice, theirs.id)

    async def test_use_is_noted_at_most_once_a_minute(self) -> None:
        token, text = await self.access.tokens.make(self.bob, "ci", ["runs:read"], None)
        noted: list[int] = []
        touch = api_tokens.touch

        def spy(connection: Any, key: Any, now: int) -> None:
            noted.append(now)
            touch(connection, key, now)

        self.patch(api_tokens, "touch", spy)
        begun = self.time
        for _ in range(130):
            await self.access.doorkeeper.by_token(text, ADDRESS)
            await self.store.run(api_tokens.find_by_id, token.id)  # what was to be noted is
            self.time += 1_000_000
        self.assertEqual(len(noted), 3)
        [listed] = (await self.access.tokens.list_page(self.bob)).items
        self.assertEqual(listed.last_used_at, begun + 120_000_000)

    async def test_not_without_end(self) -> None:
        self.patch(tokens_module, "MOST_TOKENS", 3)
        made = [await self.access.tokens.make(self.bob, f"t{number}", ["runs:read"], None) for number in range(3)]
        with self.assertRaises(TooManyTokens):
            await self.access.tokens.make(self.bob, "t3", ["runs:read"], None)
        await self.access.tokens.revoke(self.bob, made[0][0].id)
        await self.access.tokens.make(self.bob, "t3", ["runs:read"], None)

    async def test_pages(self) -> None:
        for number in range(5):
            await self.access.tokens.make(self.bob, f"t{number}", ["runs:read"], None)
        page = await self.access.tokens.list_page(self.bob, limit=3)
        rest = await self.access.tokens.list_page(self.bob, cursor=page.next_cursor, limit=3)
        self.assertEqual([each.name for each in (*page.items, *rest.items)], [f"t{number}" for number in range(5)])
