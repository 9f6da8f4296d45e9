"""
Tests of `relayd.hub.access.accounts`, `first_administrator` and of the queries of users: on both databases.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from relayd.hub.access.accounts import TEMPORARY, AccountChange
from relayd.hub.access.audit import Actor
from relayd.hub.access.errors import (
    AuditUnavailable,
    Forbidden,
    LastAdministrator,
    LoginFailed,
    LoginThrottled,
    NoSuchUser,
    PasswordMustChange,
    SessionNeeded,
    Unusable,
    UserChanged,
    UserExists,
    UsersExist,
    WeakPassword,
)
from relayd.hub.access.first_administrator import make_first_administrator, read_new_password
from relayd.hub.access.permissions import Permission, Role
from relayd.hub.access.throttle import FREE
from relayd.hub.store import users
from relayd.wire.secret import Secret
from tests.support.access import ADDRESS, OTHER_PASSWORD, PASSWORD, AccessCase, principal

BOB = "bob"
BY_HAND = Actor("local:root", "")


class FirstAdministratorTests(AccessCase):
    async def test_only_where_there_is_no_user(self) -> None:
        user = await self.first("carol")
        self.assertEqual((user.name, user.role, user.password_expires_at), ("carol", "admin", None))
        with self.assertRaises(UsersExist):
            await self.first("dave")
        self.assertEqual((await self.logged_in("carol")).principal.scopes, frozenset(Permission))
        self.assertEqual(
            [(line["principal"], line["user"], line["outcome"]) for line in await self.acts("first-administrator")],
            [
                ("local:root", "carol", "begun"),
                ("local:root", "carol", "done"),
                ("local:root", "dave", "begun"),
                ("local:root", "dave", "users-exist"),
            ],
        )

    async def test_of_many_at_once_one_is_made(self) -> None:
        made = [Deferred.fromCoroutine(self.first(f"user{number}")) for number in range(5)]
        outcomes = await gatherResults([each.addErrback(lambda failure: failure.trap(UsersExist)) for each in made])
        self.assertEqual(outcomes.count(UsersExist), 4)

    async def test_what_cannot_be(self) -> None:
        with self.assertRaises(Unusable):
            await self.first("Carol")
        with self.assertRaises(WeakPassword):
            await self.first("carol", "carol-carol-carol")
        self.assertIsNone(await self.store.read(users.find, "carol"))

    async def first(self, name: str, password: str = PASSWORD) -> Any:
        access = self.access
        return await make_first_administrator(
            self.store, access.hashes, access.audit, BY_HAND, self.now, name, Secret(password)
        )

    def test_the_password_comes_from_a_file_or_a_terminal(self) -> None:
        path = self.folder / "password"
        path.write_text(PASSWORD + "\n")
        self.assertEqual(read_new_password(str(path)), Secret(PASSWORD))
        terminal = type("Terminal", (), {"isatty": lambda self: True})()
        typed = iter([PASSWORD, PASSWORD, PASSWORD, OTHER_PASSWORD])
        self.assertEqual(read_new_password(None, lambda prompt: next(typed), terminal), Secret(PASSWORD))
        for words, given in (
            ("the second one was another", (None, lambda prompt: next(typed), terminal)),
            ("is no terminal", (None, lambda prompt: PASSWORD, type("Pipe", (), {"isatty": lambda self: False})())),
            ("cannot be read", (str(self.folder / "none"),)),
        ):
            error = self.assertRaises(Unusable, read_new_password, *given)
            self.assertIn(words, str(error))
            self.assertNotIn("canary", str(error))


class UserTests(AccessCase):
    """What an administrator does with users."""

    async def start(self) -> None:
        await super().start()
        self.admin = await self.administrator()

    async def test_a_new_user_chooses_a_password_first(self) -> None:
        user = await self.access.accounts.add(self.admin, BOB, Secret(PASSWORD), "viewer")
        self.assertEqual(user.password_expires_at, self.now() + TEMPORARY)
        bob = await self.logged_in(BOB)
        self.assertRaises(PasswordMustChange, bob.principal.require, Permission.RUNS_READ)
        with self.assertRaises(LoginFailed):
            await self.access.accounts.change_password(bob.principal, Secret("wrong wrong wrong"), Secret("x"))
        await self.access.accounts.change_password(bob.principal, Secret(PASSWORD), Secret(OTHER_PASSWORD))
        with self.assertRaises(LoginFailed):
            await self.logged_in(BOB)
        bob = await self.logged_in(BOB, OTHER_PASSWORD)
        self.assertTrue(bob.principal.may(Permission.RUNS_READ))

    async def test_a_temporary_password_expires(self) -> None:
        await self.access.accounts.add(self.admin, BOB, Secret(PASSWORD), "viewer")
        self.time += TEMPORARY
        with self.assertRaises(LoginFailed):
            await self.logged_in(BOB)

    async def test_given_anew(self) -> None:
        """Somebody forgot it: their sessions end, and the new one is temporary."""
        await self.user(BOB)
        bob = await self.logged_in(BOB)
        await self.access.accounts.give_password(self.admin, BOB, Secret(OTHER_PASSWORD))
        await self.assert_ended(bob.session_id)
        bob = await self.logged_in(BOB, OTHER_PASSWORD)
        self.assertTrue(bob.principal.must_change_password)
        with self.assertRaises(Unusable):
            await self.access.accounts.give_password(self.admin, "alice", Secret(OTHER_PASSWORD))
        with self.assertRaises(NoSuchUser):
            await self.access.accounts.give_password(self.admin, "nobody", Secret(OTHER_PASSWORD))

    async def test_names_and_passwords(self) -> None:
        accounts = self.access.accounts
        for name in ("", "Bob", "bob ", "-bob", "bob\n", "b/b", "bób", "b" * 65, "..", "user:bob"):
            with self.assertRaises(Unusable):
                await accounts.add(self.admin, name, Secret(PASSWORD), "viewer")
        with self.assertRaises(WeakPassword):
            await accounts.add(self.admin, BOB, Secret("bob-bob-bob-bob"), "viewer")
        with self.assertRaises(Unusable):
            await accounts.add(self.admin, BOB, Secret(PASSWORD), "root")
        await accounts.add(self.admin, BOB, Secret(PASSWORD), "viewer")
        with self.assertRaises(UserExists):
            await accounts.add(self.admin, BOB, Secret(PASSWORD), "viewer")

    async def test_limits_of_operators(self) -> None:
        accounts = self.access.accounts
        user = await accounts.add(self.admin, BOB, Secret(PASSWORD), "operator", ["env=prod"])
        self.assertEqual(user.selectors, ("env=prod",))
        self.assertEqual((await accounts.get(self.admin, BOB)), user)
        for selectors in ([], ["wrong"]):
            with self.assertRaises(Unusable):
                await accounts.change(self.admin, BOB, AccountChange(selectors=selectors))
        user = await accounts.change(self.admin, BOB, AccountChange(selectors=None))
        self.assertIsNone(user.selectors)
        user = await accounts.change(self.admin, BOB, AccountChange(selectors=["env=test"]))
        user = await accounts.change(self.admin, BOB, AccountChange(role="viewer"))
        self.assertIsNone(user.selectors)
        with self.assertRaises(Unusable):  # what an operator may do is said, and not left to chance
            await accounts.change(self.admin, BOB, AccountChange(role="operator"))
        with self.assertRaises(Unusable):
            await accounts.change(self.admin, BOB, AccountChange(selectors=["env=prod"]))
        user = await accounts.change(self.admin, BOB, AccountChange(role="operator", selectors=["env=prod"]))
        self.assertEqual((user.role, user.selectors), ("operator", ("env=prod",)))

    async def test_a_change_ends_sessions(self) -> None:
        for changes in (
            AccountChange(role="admin"),
            AccountChange(role="viewer"),
            AccountChange(selectors=["env=prod"]),
            AccountChange(enabled=False),
        ):
            user = await self.user(BOB, "operator")
            bob = await self.logged_in(BOB)
            await self.access.accounts.change(self.admin, BOB, changes, user.version)
            await self.assert_ended(bob.session_id)
            if changes.enabled is False:
                with self.assertRaises(LoginFailed):
                    await self.logged_in(BOB)
            await self.access.accounts.remove(self.admin, BOB)

    async def test_somebody_else_changed_it_meanwhile(self) -> None:
        user = await self.user(BOB)
        accounts = self.access.accounts
        changed = await accounts.change(self.admin, BOB, AccountChange(enabled=False), user.version)
        self.assertGreater(changed.version, user.version)
        with self.assertRaises(UserChanged):
            await accounts.change(self.admin, BOB, AccountChange(enabled=True), user.version)
        with self.assertRaises(UserChanged):
            await accounts.remove(self.admin, BOB, user.version)
        with self.assertRaises(NoSuchUser):
            await accounts.change(self.admin, "nobody", AccountChange(enabled=True))

    async def test_removed(self) -> None:
        await self.user(BOB)
        bob = await self.logged_in(BOB)
        _, token = await self.access.tokens.make(bob.principal, "ci", ["runs:read"], None)
        await self.access.accounts.remove(self.admin, BOB)
        await self.assert_ended(bob.session_id)
        await self.assert_token_ended(token)
        with self.assertRaises(NoSuchUser):
            await self.access.accounts.remove(self.admin, BOB)

    async def test_lists(self) -> None:
        for name in ("dave", "bob", "carol"):
            await self.user(name)
        names: list[str] = []
        cursor = None
        while True:
            page = await self.access.accounts.list_page(self.admin, cursor, 2)
            names += [user.name for user in page.items]
            if (cursor := page.next_cursor) is None:
                break
        self.assertEqual(names, ["alice", "bob", "carol", "dave"])
        self.assertNotIn("argon2", repr(page))

    async def test_who_may(self) -> None:
        """Nobody but administrators; a token only with the scope."""
        await self.user(BOB)
        accounts = self.access.accounts
        others = [principal(role=role, user=BOB) for role in (Role.VIEWER, Role.OPERATOR)]
        scopes = frozenset(Permission) - {Permission.ACCESS_ADMIN}
        others.append(principal(role=Role.ADMIN, token="ci", token_scopes=scopes))
        for other in others:
            for act in (
                lambda other=other: accounts.list_page(other),
                lambda other=other: accounts.get(other, "carol"),
                lambda other=other: accounts.add(other, "carol", Secret(PASSWORD), "admin"),
                lambda other=other: accounts.change(other, BOB, AccountChange(role="admin")),
                lambda other=other: accounts.give_password(other, "alice", Secret(OTHER_PASSWORD)),
                lambda other=other: accounts.remove(other, "alice"),
            ):
                with self.assertRaises(Forbidden):
                    await act()
        self.assertEqual((await accounts.get(others[0], BOB)).name, BOB)  # everybody sees their own
        token = principal(user=BOB, token="ci", token_scopes=frozenset(Permission))
        with self.assertRaises(SessionNeeded):
            await accounts.change_password(token, Secret(PASSWORD), Secret(OTHER_PASSWORD))

    async def test_guessing_the_own_password_is_throttled(self) -> None:
        """A page left open on somebody's desk."""
        bob = principal(user=BOB, user_id=(await self.user(BOB)).id)
        outcomes = []
        for _ in range(10):
            try:
                await self.access.accounts.change_password(bob, Secret("wrong wrong wrong"), Secret(PASSWORD))
            except (LoginFailed, LoginThrottled) as error:
                outcomes.append(error.code)
        self.assertEqual(outcomes, ["login-failed"] * (FREE + 1) + ["login-throttled"] * (9 - FREE))

    async def test_the_new_password(self) -> None:
        await self.user(BOB)
        bob = (await self.logged_in(BOB)).principal
        for new, error in ((PASSWORD, Unusable), ("short", WeakPassword)):
            with self.assertRaises(error):
                await self.access.accounts.change_password(bob, Secret(PASSWORD), Secret(new))

    async def test_no_secret_is_in_the_log(self) -> None:
        await self.access.accounts.add(self.admin, BOB, Secret(PASSWORD), "operator", ["env=prod"])
        bob = await self.logged_in(BOB)
        await self.access.accounts.change_password(bob.principal, Secret(PASSWORD), Secret(OTHER_PASSWORD))
        lines = await self.acts()
        self.assertEqual(
            [(line["event"], line["outcome"]) for line in lines if line["principal"].startswith("user:")][-5:],
            [
                ("user-add", "begun"),
                ("user-add", "done"),
                ("login", "done"),
                ("password-change", "begun"),
                ("password-change", "done"),
            ],
        )
        text = self.log_path.read_text()
        for secret in (PASSWORD, OTHER_PASSWORD, "canary", bob.session_id.reveal(), bob.csrf, "argon2"):
            self.assertNotIn(secret, text)

    async def test_nothing_is_done_that_cannot_be_recorded(self) -> None:
        await self.access.audit.close()
        with self.assertRaises(AuditUnavailable):
            await self.access.accounts.add(self.admin, BOB, Secret(PASSWORD), "viewer")
        with self.assertRaises(AuditUnavailable):
            await self.access.logins.log_in("alice", Secret(PASSWORD), ADDRESS)
        self.assertIsNone(await self.store.read(users.find, BOB))


class LastAdministratorTests(AccessCase):
    async def test_the_last_one_stays(self) -> None:
        alice = await self.administrator()
        accounts = self.access.accounts
        for act in (
            lambda: accounts.change(alice, "alice", AccountChange(role="viewer")),
            lambda: accounts.change(alice, "alice", AccountChange(enabled=False)),
            lambda: accounts.change(alice, "alice", AccountChange(role="admin", enabled=False)),
            lambda: accounts.remove(alice, "alice"),
        ):
            with self.assertRaises(LastAdministrator):
                await act()
        await self.user(BOB, "admin")
        await accounts.change(alice, BOB, AccountChange(enabled=False))
        with self.assertRaises(LastAdministrator):  # bob cannot log in
            await accounts.remove(alice, "alice")
        await accounts.change(alice, BOB, AccountChange(enabled=True))
        await accounts.remove(alice, "alice")

    async def test_two_who_demote_each_other(self) -> None:
        """At once, many times: one of them always stays."""
        last = "alice"
        alice = await self.administrator(last)
        other = await self.opened_again()
        for number in range(10):
            names = [f"a{number}", f"b{number}"]
            for name in names:
                await self.user(name, "admin")
            await self.access.accounts.remove(alice, last)
            acts = [
                Deferred.fromCoroutine(access.accounts.change(alice, name, AccountChange(role="viewer")))
                for access, name in zip((self.access, other), names, strict=True)
            ]
            outcomes = await gatherResults(
                [each.addErrback(lambda failure: failure.trap(LastAdministrator)) for each in acts]
            )
            self.assertEqual(outcomes.count(LastAdministrator), 1)
            [last] = await self.store.run(users.lock_administrators)
