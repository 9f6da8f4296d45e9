"""
How long a login that was refused rests: the decisions, and a real server that sees no attempt meanwhile.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.errors import HostResting, LoginRefused, LoginResting
from relayd.ssh.pool.refused_logins import (
    FIRST_REST,
    FORGIVEN_AFTER,
    HOST_REFUSALS,
    HOST_WINDOW,
    LONGEST_REST,
    MOST,
    RefusedLogins,
)
from relayd.ssh.target import Credential, Target
from tests.support.ssh import ServerTestCase

REFUSED = LoginRefused(host="h", port=22, username="u", tried="password", offered="publickey")


def target(password: str = "one", host: str = "h") -> Target:
    return Target(host, 22, "u", Credential(password))


class DecisionTests(SynchronousTestCase):
    """`RefusedLogins` alone."""

    def setUp(self) -> None:
        self.refusals = RefusedLogins()

    def rests_until(self, now: float) -> float:
        """When the login may be tried again, to the second."""
        at = now
        while self.refusals.check(target(), at) is not None:
            at += 1
        return at

    def test_growing(self) -> None:
        now, rests = 100.0, []
        for _ in range(9):
            self.refusals.refused(target(), REFUSED, now)
            rests.append(self.rests_until(now) - now)
            now += rests[-1]
        self.assertEqual(rests[:4], [FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST, 8 * FIRST_REST])
        self.assertEqual(rests[-1], LONGEST_REST)

    def test_others_do_not_rest(self) -> None:
        self.refusals.refused(target(), REFUSED, 0)
        self.assertIsNone(self.refusals.check(target("two"), 1))
        self.assertIsNone(self.refusals.check(target(host="i"), 1))

    def test_what_is_remembered(self) -> None:
        """Each part of a target counts, and is not there to be read."""
        password, via = "s3cret-passw0rd", Target("j", 22, "u", Credential("s3cret-of-the-hop"))
        targets = [
            Target(host, port, user, Credential(secret), key, hop, trusted, site, detour)
            for host, port, user in (("h", 22, "u"), ("i", 22, "u"), ("h", 23, "u"), ("h", 22, "v"))
            for secret in (password, None)
            for key in ("SHA256:x", None)
            for hop in (via, None)
            for trusted, site, detour in (
                (True, False, ""),
                (False, True, ""),
                (False, False, "way"),
                (False, False, ""),
            )
        ]
        for at, each in enumerate(targets):
            self.assertIsNone(self.refusals.check(each, 1), at)
            self.refusals.refused(each, REFUSED, 0)
            self.assertIsInstance(self.refusals.check(each, 1), LoginResting)
            self.refusals._hosts.clear()
        self.assertEqual(len({each.digest() for each in targets}), len(targets))
        same = Target("h", 22, "u", Credential(password), "SHA256:x", via, trusted=True)
        self.assertEqual(targets[0].digest(), same.digest())
        self.assertTrue(all(type(each) is bytes for each in [*self.refusals._refusals, *self.refusals._accepted]))

    def test_host_that_refuses_many(self) -> None:
        """One that guesses passwords must not have the relay's address locked out for those that know theirs."""
        self.refusals.accepted(target("good"))
        for number in range(HOST_REFUSALS):
            self.assertIsNone(self.refusals.check(target(f"wrong {number}"), number))
            self.refusals.refused(target(f"wrong {number}"), REFUSED, number)
        error = self.refusals.check(target("another"), HOST_REFUSALS)
        self.assertIsInstance(error, HostResting)
        self.assertIn("refused 10 logins within a minute", str(error))
        self.assertIsNone(self.refusals.check(target("good"), HOST_REFUSALS))
        self.assertIsNone(self.refusals.check(target("another", host="i"), HOST_REFUSALS))
        self.assertIsNone(self.refusals.check(target("another"), HOST_WINDOW))
        self.refusals.refused(target("another"), REFUSED, HOST_WINDOW)
        self.assertIsNotNone(self.refusals.check(target("yet another"), HOST_WINDOW + 0.5))

    def test_accepted(self) -> None:
        for _ in range(5):
            self.refusals.refused(target(), REFUSED, 0)
        self.refusals.accepted(target())
        self.assertIsNone(self.refusals.check(target(), 1))
        self.refusals.refused(target(), REFUSED, 1)
        self.assertEqual(self.rests_until(1), 1 + FIRST_REST)

    def test_forgiven(self) -> None:
        self.refusals.refused(target(), REFUSED, 0)
        later = FIRST_REST + FORGIVEN_AFTER + 1
        self.refusals.refused(target(), REFUSED, later)
        self.assertEqual(self.rests_until(later), later + FIRST_REST)

    def test_message(self) -> None:
        self.refusals.refused(target(), REFUSED, 0)
        text = str(self.refusals.check(target(), 1.2))
        self.assertIn("h:22 refused the login of u", text)
        self.assertIn("not tried again for 4 s", text)

    def test_bounded(self) -> None:
        for number in range(MOST + 1):
            self.refusals.refused(target(host=str(number)), REFUSED, 0)
        self.assertIsNone(self.refusals.check(target(host="0"), 0))
        self.assertIsNotNone(self.refusals.check(target(host="1"), 0))


class ServerTests(ServerTestCase):
    """With a real sshd."""

    async def test_a_storm_of_wrong_passwords(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        wrong = self.target(server, password="wrong")
        storm = [self.run_command(client, wrong, "true") for _ in range(30)]
        for each in storm:
            await self.error_of(each, LoginRefused)
        for _ in range(30):
            await self.error_of(self.run_command(client, wrong, "true"), LoginResting)
        good = await self.run_command(client, self.target(server, password=server.password), "echo ok")
        self.assertEqual(good.stdout.text(), "ok")
        attempts = [line for line in server.log_lines if "Failed password" in line]
        self.assertEqual(len(attempts), 1, attempts)
