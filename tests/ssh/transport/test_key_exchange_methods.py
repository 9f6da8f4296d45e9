"""
Key exchange methods by themselves: a group that the server chose.
"""

from __future__ import annotations

import time

from twisted.conch.ssh.common import MP, NS, getMP
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.key_exchange_methods import Agreed, GroupExchange, modp_prime
from relayd.ssh.transport.numbers import MSG_KEX_DH_GEX_REPLY, MSG_KEX_REPLY


class GroupExchangeTests(SynchronousTestCase):
    """``diffie-hellman-group-exchange-sha256``"""

    def setUp(self) -> None:
        self.exchange = GroupExchange("sha256")
        self.exchange.first()

    def public(self, prime: int, generator: int) -> int:
        """The client's public value in a group."""
        answer = self.exchange.step(MSG_KEX_REPLY, MP(prime) + MP(generator))
        assert isinstance(answer, tuple)
        return int(getMP(answer[1])[0])

    def reply(self, theirs: int) -> Agreed:
        outcome = self.exchange.step(MSG_KEX_DH_GEX_REPLY, NS(b"host key") + MP(theirs) + NS(b"signature"))
        assert isinstance(outcome, Agreed)
        return outcome

    def test_both_sides_agree_and_nobody_has_to_wait_for_it(self) -> None:
        # 5 as generator makes it a group that no library knows: to look whether such a modulus is prime takes seconds,
        # in which the relay would do nothing else.
        prime, private = modp_prime(4096), 3**300
        began = time.process_time()
        ours = self.public(prime, 5)
        agreed = self.reply(pow(5, private, prime))
        self.assertLess(time.process_time() - began, 2)
        self.assertEqual(agreed.secret, MP(pow(ours, private, prime)))

    def test_groups_that_are_refused(self) -> None:
        good = modp_prime(2048)
        for prime, generator in (
            (2**1023 + 1, 2),
            (2**4096 + 1, 2),  # long ones keep the relay busy
            (2**2100, 2),
            (good, 1),
            (good, 0),
            (good, good - 1),
        ):
            self.assertRaises(Breach, self.public, prime, generator)

    def test_public_values_that_are_refused(self) -> None:
        prime = modp_prime(2048)
        for value in (0, 1, prime - 1, prime):
            self.setUp()
            self.public(prime, 2)
            self.assertRaises(Breach, self.reply, value)
