"""
Tests of `relayd.hub.access.password_hashes`: argon2id, one at a time.
"""

from __future__ import annotations

import threading
from typing import Any

from argon2 import PasswordHasher
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from relayd.hub.access.errors import LoginsBusy
from relayd.hub.access.password_hashes import MOST_WAITING, HashingCost, PasswordHashes
from relayd.wire.secret import Secret
from tests.support.access import CHEAP, OTHER_PASSWORD, PASSWORD


class HashTests(TestCase):
    def setUp(self) -> None:
        self.hashes = self.made()

    def made(self, cost: HashingCost = CHEAP) -> PasswordHashes:
        hashes = PasswordHashes(reactor, cost)
        hashes.start()
        self.addCleanup(hashes.stop)
        return hashes

    async def test_a_password_and_its_hash(self) -> None:
        hashed = await self.hashes.make(Secret(PASSWORD))
        self.assertRegex(hashed, r"^\$argon2id\$v=19\$m=64,t=1,p=1\$")
        self.assertNotIn(PASSWORD, hashed)
        self.assertNotEqual(hashed, await self.hashes.make(Secret(PASSWORD)))
        self.assertTrue(await self.hashes.matches(Secret(PASSWORD), hashed))
        self.assertFalse(await self.hashes.matches(Secret(OTHER_PASSWORD), hashed))
        self.assertFalse(await self.hashes.matches(Secret(PASSWORD + " "), hashed))

    async def test_nobody(self) -> None:
        """Who does not exist has no password, also not the one that is checked in their place."""
        for password in (PASSWORD, "nobody has this password"):
            self.assertFalse(await self.hashes.matches(Secret(password), None))

    async def test_an_unknown_user_costs_as_much(self) -> None:
        """Counted, not measured: argon2 is asked once, with the cost of new hashes."""
        asked: list[str] = []
        verify = PasswordHasher.verify

        def spy(hasher: Any, hashed: Any, password: Any) -> Any:
            asked.append(hashed)
            return verify(hasher, hashed, password)

        self.patch(PasswordHasher, "verify", spy)
        await self.hashes.matches(Secret(PASSWORD), None)
        await self.hashes.matches(Secret(PASSWORD), await self.hashes.make(Secret(OTHER_PASSWORD)))
        self.assertEqual([each.rsplit("$", 2)[0] for each in asked], ["$argon2id$v=19$m=64,t=1,p=1"] * 2)

    async def test_a_hash_that_is_none(self) -> None:
        self.assertFalse(await self.hashes.matches(Secret(PASSWORD), "not a hash"))

    async def test_another_cost(self) -> None:
        """Old hashes go on, and are noticed."""
        hashed = await self.hashes.make(Secret(PASSWORD))
        dearer = self.made(HashingCost(passes=2, kib=128))
        self.assertFalse(self.hashes.is_outdated(hashed))
        self.assertTrue(dearer.is_outdated(hashed))
        self.assertTrue(await dearer.matches(Secret(PASSWORD), hashed))

    def test_what_it_costs(self) -> None:
        """At least OWASP's least, 19 MiB twice; RFC 9106's second choice has 64 MiB three times."""
        self.assertEqual((HashingCost().passes, HashingCost().kib), (3, 65536))

    async def test_a_flood_takes_one_thread(self) -> None:
        go_on, running, most = threading.Event(), [0], [0]
        self.addCleanup(go_on.set)

        def slow(hasher: Any, password: Any) -> str:
            running[0] += 1
            most[0] = max(most[0], running[0])
            go_on.wait(60)
            running[0] -= 1
            return "hash"

        self.patch(PasswordHasher, "hash", slow)
        waiting = [self.hashes.make(Secret(PASSWORD)) for _ in range(1000)]
        busy = [each for each in waiting if each.called]
        self.assertEqual(len(waiting) - len(busy), MOST_WAITING + 1)
        for each in busy:
            self.failureResultOf(each, LoginsBusy)  # type: ignore[attr-defined]
        go_on.set()
        await gatherResults([each for each in waiting if each not in busy])
        self.assertEqual(most, [1])
        await self.hashes.make(Secret(PASSWORD))  # there is room again

    async def test_who_gives_up_keeps_the_place(self) -> None:
        """Else somebody could have any number of them computed."""
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        self.patch(PasswordHasher, "hash", lambda hasher, password: go_on.wait(60) and "hash")
        given_up: list[Deferred[str]] = [self.hashes.make(Secret(PASSWORD)) for _ in range(MOST_WAITING + 1)]
        for each in given_up:
            each.addErrback(lambda failure: None)
            each.cancel()
        with self.assertRaises(LoginsBusy):
            await self.hashes.make(Secret(PASSWORD))
