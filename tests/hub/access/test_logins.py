"""
Tests of `relayd.hub.access.logins` and `sessions`: on both databases.
"""

from __future__ import annotations

from typing import Any

from argon2 import PasswordHasher
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from relayd.hub.access.access import SWEEP, Access
from relayd.hub.access.accounts import AccountChange
from relayd.hub.access.errors import (
    CsrfWrong,
    LoginFailed,
    LoginsBusy,
    LoginThrottled,
    NoSuchSession,
    NotAuthenticated,
)
from relayd.hub.access.logins import MOST_SESSIONS, LoggedIn
from relayd.hub.access.password_hashes import HashingCost, PasswordHashes
from relayd.hub.access.permissions import Permission
from relayd.hub.access.secret_texts import new_session_id
from relayd.hub.access.sessions import ABSOLUTE, IDLE, NOTED
from relayd.hub.access.throttle import FREE
from relayd.hub.store import sessions, users
from relayd.wire.secret import Secret
from tests.support.access import ADDRESS, CHEAP, OTHER_PASSWORD, PASSWORD, AccessCase

MINUTE = 60_000_000


class LoginCase(AccessCase):
    async def start(self) -> None:
        await super().start()
        self.bob = await self.user("bob")

    async def outcome(self, name: str, password: str, address: str = ADDRESS) -> str:
        """The message of a login that fails."""
        try:
            await self.logged_in(name, password, address)
        except (LoginFailed, LoginThrottled) as error:
            return str(error)
        self.fail("it succeeded")


class LoginTests(LoginCase):
    async def test_a_login(self) -> None:
        bob = await self.logged_in("bob")
        self.assertEqual(bob.principal.name, "user:bob")
        self.assertEqual(bob.principal.address, ADDRESS)
        self.assertEqual((await self.by_session(bob.session_id)).user_id, self.bob.id)
        [line] = await self.acts()
        self.assertEqual(
            (line["event"], line["outcome"], line["principal"], line["address"]), ("login", "done", "user:bob", ADDRESS)
        )

    async def test_all_failures_are_alike(self) -> None:
        """An unknown user, a wrong password, a disabled user, what cannot be a name or a password."""
        await self.user("carol", "viewer")
        alice = await self.administrator()
        await self.access.accounts.change(alice, "carol", AccountChange(enabled=False))
        outcomes = {
            await self.outcome("bob", OTHER_PASSWORD, "10.0.0.1"),
            await self.outcome("nobody", PASSWORD, "10.0.0.2"),
            await self.outcome("carol", PASSWORD, "10.0.0.3"),
            await self.outcome("Bob\n", PASSWORD, "10.0.0.4"),
            await self.outcome("", "", "10.0.0.5"),
            await self.outcome("bob", PASSWORD * 100, "10.0.0.6"),
        }
        self.assertEqual(outcomes, {str(LoginFailed())})

    async def test_all_failures_cost_the_same(self) -> None:
        """Counted, not measured: one hash each, and of a disabled user as well."""
        await self.user("carol", "viewer")
        alice = await self.administrator()
        await self.access.accounts.change(alice, "carol", AccountChange(enabled=False))
        asked: list[str] = []
        verify = PasswordHasher.verify

        def spy(hasher: Any, hashed: Any, password: Any) -> Any:
            asked.append(hashed)
            return verify(hasher, hashed, password)

        self.patch(PasswordHasher, "verify", spy)
        for name in ("bob", "nobody", "carol"):
            before = len(asked)
            await self.outcome(name, OTHER_PASSWORD)
            self.assertEqual(len(asked), before + 1, name)

    async def test_throttled_alike_whether_a_user_exists(self) -> None:
        for name, address in (("bob", "10.0.0.1"), ("nobody", "10.0.0.2")):
            outcomes = [await self.outcome(name, OTHER_PASSWORD, address) for _ in range(FREE + 2)]
            self.assertEqual(outcomes[: FREE + 1], [str(LoginFailed())] * (FREE + 1))
            self.assertEqual(outcomes[-1], str(LoginThrottled(seconds=2)))
        with self.assertRaises(LoginThrottled):  # also with the right one
            await self.logged_in("bob", PASSWORD, "10.0.0.1")
        await self.logged_in("bob", PASSWORD, "10.0.0.3")

    async def test_what_the_log_has_of_failures(self) -> None:
        """A name that no user has may be a password that was typed into the wrong field."""
        await self.outcome("bob", OTHER_PASSWORD)
        await self.outcome("canary-password", OTHER_PASSWORD)
        await self.access.accounts.change(await self.administrator(), "bob", AccountChange(enabled=False))
        await self.outcome("bob", PASSWORD)
        digest = self.access.audit.digest("canary-password")[:16]
        first, second, third = await self.acts("login")
        self.assertEqual((third["principal"], third["outcome"]), ("user:bob", "login-failed"))
        self.assertEqual((first["principal"], first["outcome"]), ("user:bob", "login-failed"))
        self.assertEqual((second["principal"], second["outcome"]), ("user:?", "login-failed"))
        self.assertEqual(second["nameDigest"], digest)
        self.assertNotIn("canary", self.log_path.read_text())

    async def test_a_login_gets_a_new_session_and_ends_the_one_before(self) -> None:
        planted = new_session_id()
        first = await self.access.logins.log_in("bob", Secret(PASSWORD), ADDRESS, planted)
        self.assertNotEqual(first.session_id, planted)
        await self.assert_ended(planted)
        second = await self.access.logins.log_in("bob", Secret(PASSWORD), ADDRESS, first.session_id)
        await self.assert_ended(first.session_id)
        await self.by_session(second.session_id)

    async def test_a_password_that_is_changed_while_it_is_checked(self) -> None:
        """The one that was right a moment ago opens no session."""
        checked: Deferred[bool] = Deferred()
        matches = PasswordHashes.matches

        def slow(hashes: PasswordHashes, password: Secret, hashed: str | None) -> Deferred[bool]:
            running = matches(hashes, password, hashed)
            running.addCallback(lambda right: checked.addCallback(lambda _: right))
            return running

        self.patch(PasswordHashes, "matches", slow)
        login: Deferred[LoggedIn] = Deferred.fromCoroutine(self.logged_in("bob"))
        new = await self.access.hashes.make(Secret(OTHER_PASSWORD))
        await self.store.run(users.set_password, "bob", new, None)
        checked.callback(True)
        with self.assertRaises(LoginFailed):
            await login
        self.assertEqual(await self.store.read(sessions.list_of, self.bob.id), [])

    async def test_hashes_are_made_anew_when_their_cost_changes(self) -> None:
        self.access.hashes._hasher = PasswordHasher(time_cost=2, memory_cost=128, parallelism=1)
        await self.logged_in("bob")
        found = await self.store.read(users.find_password, "bob")
        assert found is not None
        self.assertIn("m=128,t=2", found[1])
        await self.logged_in("bob")
        self.assertEqual(await self.store.read(users.find_password, "bob"), found)

    async def test_too_many_at_once_are_not_held_against_anybody(self) -> None:
        self.patch(PasswordHashes, "matches", lambda *_: (_ for _ in ()).throw(LoginsBusy(seconds=5)))
        for _ in range(50):
            with self.assertRaises(LoginsBusy):
                await self.logged_in("bob")

    async def test_who_gives_up_is_counted(self) -> None:
        """Else a flood of those who do not wait for the answer would never be throttled."""
        self.patch(PasswordHashes, "matches", lambda *_: Deferred())
        for _ in range(FREE + 1):
            login = Deferred.fromCoroutine(self.logged_in("bob"))
            await self.store.read(users.find, "bob")
            login.addErrback(lambda failure: None)
            login.cancel()
        with self.assertRaises(LoginThrottled):
            await self.logged_in("bob")

    async def test_real_cost(self) -> None:
        """The hash of a real installation is one that is checked."""
        hashes = PasswordHashes(None, HashingCost())
        self.assertTrue(hashes.is_outdated(await self.access.hashes.make(Secret(PASSWORD))))
        self.assertNotEqual(CHEAP, HashingCost())


class SessionTests(LoginCase):
    async def test_ends(self) -> None:
        """After 12 hours, and after 30 minutes without use."""
        bob = await self.logged_in("bob")
        begun = self.time
        while self.time < begun + ABSOLUTE - MINUTE:
            await self.by_session(bob.session_id)
            await self.store.run(users.find, "bob")  # that it was used is noted
            self.time += IDLE - NOTED - MINUTE
        self.time = begun + ABSOLUTE
        await self.assert_ended(bob.session_id)

        bob = await self.logged_in("bob")
        self.time += IDLE
        await self.assert_ended(bob.session_id)

    async def test_a_clock_that_was_set_back_gives_no_session_a_longer_life(self) -> None:
        bob = await self.logged_in("bob")
        self.time -= 365 * 24 * 60 * MINUTE
        await self.assert_ended(bob.session_id)

    async def test_use_is_noted_at_most_once_a_minute(self) -> None:
        bob = await self.logged_in("bob")
        noted: list[int] = []
        touch = sessions.touch

        def spy(connection: Any, key: Any, now: int) -> None:
            noted.append(now)
            touch(connection, key, now)

        self.patch(sessions, "touch", spy)
        for _ in range(130):
            await self.by_session(bob.session_id)
            await self.store.run(users.find, "bob")  # what was to be noted is
            self.time += 1_000_000
        self.assertEqual(len(noted), 2)

    async def test_csrf(self) -> None:
        first, second = await self.logged_in("bob"), await self.logged_in("bob")
        ask = self.access.doorkeeper.by_session
        await ask(first.session_id, ADDRESS, changes=True, csrf=first.csrf)
        await ask(first.session_id, ADDRESS, changes=False, csrf=None)
        for wrong in (None, "", second.csrf, first.csrf[:-1], first.csrf + "0"):
            with self.assertRaises(CsrfWrong):
                await ask(first.session_id, ADDRESS, changes=True, csrf=wrong)
        with self.assertRaises(NotAuthenticated):  # a session that is not there first
            await ask(new_session_id(), ADDRESS, changes=True, csrf=None)

    async def test_what_is_no_session(self) -> None:
        for wrong in ("", "x" * 64, "0" * 63, "0" * 64, "' OR 1=1 --"):
            await self.assert_ended(Secret(wrong))

    async def test_log_out(self) -> None:
        first, second = await self.logged_in("bob"), await self.logged_in("bob")
        await self.access.logins.log_out(first.session_id, first.principal)
        await self.assert_ended(first.session_id)
        await self.by_session(second.session_id)
        self.assertEqual([line["outcome"] for line in await self.acts("logout")], ["begun", "done"])

    async def test_the_own_sessions(self) -> None:
        here, there = await self.logged_in("bob"), await self.logged_in("bob", address="10.0.0.9")
        await self.user("carol")
        carol = await self.logged_in("carol")
        seen = await self.access.logins.list_sessions(here.principal, here.session_id)
        self.assertEqual({(each.address, each.current) for each in seen}, {(ADDRESS, True), ("10.0.0.9", False)})
        [other] = [each for each in seen if not each.current]
        with self.assertRaises(NoSuchSession):  # of another user
            await self.access.logins.end_session(carol.principal, other.handle)
        await self.access.logins.end_session(here.principal, other.handle)
        await self.assert_ended(there.session_id)
        await self.by_session(here.session_id)
        self.assertNotIn(here.session_id.reveal(), repr(seen))

    async def test_no_user_has_sessions_without_end(self) -> None:
        opened = []
        for _ in range(MOST_SESSIONS + 5):
            opened.append(await self.logged_in("bob"))
            self.time += 1
        self.assertEqual(len(await self.store.read(sessions.list_of, self.bob.id)), MOST_SESSIONS)
        await self.assert_ended(opened[0].session_id)
        await self.by_session(opened[-1].session_id)

    async def test_what_has_expired_is_forgotten(self) -> None:
        await self.logged_in("bob")
        self.time += IDLE - MINUTE
        bob = await self.logged_in("bob")
        self.time += MINUTE
        self.assertEqual(await self.access.logins.sweep(), 1)
        self.assertEqual(len(await self.store.read(sessions.list_of, self.bob.id)), 1)
        await self.by_session(bob.session_id)
        self.time += ABSOLUTE
        self.assertEqual(await self.access.logins.sweep(), 1)

    async def test_it_is_forgotten_by_and_by(self) -> None:
        await self.logged_in("bob")
        self.time += IDLE
        clock = Clock()
        access = Access(clock, self.store, self.access.audit, str, now=self.now, cost=CHEAP)
        access.start()
        clock.advance(SWEEP)
        await self.store.run(users.find, "bob")
        self.assertEqual(await self.store.read(sessions.list_of, self.bob.id), [])
        access.stop()
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_a_database_that_is_away_ends_no_sweep(self) -> None:
        clock = Clock()
        access = Access(clock, self.store, self.access.audit, str, now=self.now, cost=CHEAP)
        access.start()
        self.patch(sessions, "remove_expired", lambda *_: 1 / 0)
        clock.advance(SWEEP)
        await self.store.run(users.find, "bob")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        access.stop()

    async def test_the_store_has_no_id(self) -> None:
        bob = await self.logged_in("bob")
        [session] = await self.store.read(sessions.list_of, self.bob.id)
        self.assertNotIn(bob.session_id.reveal(), repr(session) + session.digest.hex())
        self.assertNotIn(bob.session_id.reveal(), repr(bob))

    async def test_each_request_sees_the_user_as_it_is_now(self) -> None:
        alice = await self.administrator()
        await self.user("carol", "admin")
        carol = await self.logged_in("carol")
        _, token = await self.access.tokens.make(carol.principal, "ci", ["inventory:write", "runs:read"], None)
        by_token = self.access.doorkeeper.by_token
        self.assertTrue((await by_token(token, ADDRESS)).may(Permission.INVENTORY_WRITE))
        await self.access.accounts.change(alice, "carol", AccountChange(role="viewer"))
        self.assertEqual((await by_token(token, ADDRESS)).scopes, {Permission.RUNS_READ})
        await self.access.accounts.change(alice, "carol", AccountChange(enabled=False))
        await self.assert_token_ended(token)
