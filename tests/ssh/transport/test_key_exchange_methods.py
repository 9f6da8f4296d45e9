"""
Key exchange methods by themselves: groups, and what a hostile server may send.
"""

from __future__ import annotations

import sys
import time
from unittest.mock import patch

from pqcrypto.kem import sntrup_761
from twisted.conch.ssh.common import MP, NS, getMP, getNS
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.errors import KeyExchangeFailed
from relayd.ssh.transport.breach import Breach, LibraryGone
from relayd.ssh.transport.faults import error_of
from relayd.ssh.transport.key_exchange_methods import (
    METHODS,
    SNTRUP761X25519,
    Agreed,
    FixedGroup,
    GroupExchange,
    modp_prime,
)
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

    def test_short_groups_are_for_the_old_hash_alone(self) -> None:
        self.assertRaises(Breach, self.public, modp_prime(1024), 2)
        old = METHODS[b"diffie-hellman-group-exchange-sha1"]()
        old.first()
        self.assertIsInstance(old.step(MSG_KEX_REPLY, MP(modp_prime(1024)) + MP(2)), tuple)
        older = METHODS[b"diffie-hellman-group-exchange-sha1"]()
        older.first()
        self.assertRaises(Breach, older.step, MSG_KEX_REPLY, MP(modp_prime(1024) >> 8 | 1) + MP(2))

    def test_public_values_that_are_refused(self) -> None:
        prime = modp_prime(2048)
        for value in (0, 1, prime - 1, prime):
            self.setUp()
            self.public(prime, 2)
            self.assertRaises(Breach, self.reply, value)


class FixedGroupTests(SynchronousTestCase):
    """Groups that have a number."""

    def test_the_prime_of_group_1(self) -> None:
        # RFC 2409, section 6.2
        digits = (
            "FFFFFFFFFFFFFFFF C90FDAA2 2168C234 C4C6628B 80DC1CD1 29024E08 8A67CC74 020BBEA6 3B139B22 514A0879 8E3404DD"
            "EF9519B3CD3A431B 302B0A6D F25F1437 4FE1356D 6D51C245 E485B576 625E7EC6 F44C42E9 A637ED6B 0BFF5CB6 F406B7ED"
            "EE386BFB 5A899FA5 AE9F2411 7C4B1FE6 49286651 ECE65381 FFFFFFFF FFFFFFFF"
        )
        self.assertEqual(modp_prime(1024), int(digits.replace(" ", ""), 16))

    def test_both_sides_agree_and_nobody_has_to_wait_for_it(self) -> None:
        for bits in (1024, 3072, 6144, 8192):
            began = time.process_time()
            exchange = FixedGroup(bits, "sha512")
            _message, first = exchange.first()
            agreed = exchange.step(MSG_KEX_REPLY, NS(b"key") + MP(pow(2, 3**300, modp_prime(bits))) + NS(b"signature"))
            self.assertLess(time.process_time() - began, 2)
            assert isinstance(agreed, Agreed)
            self.assertEqual(agreed.secret, MP(pow(getMP(first)[0], 3**300, modp_prime(bits))))

    def test_public_values_that_are_refused(self) -> None:
        for bits in (1024, 3072):
            for value in (0, 1, modp_prime(bits) - 1, modp_prime(bits)):
                answer = NS(b"key") + MP(value) + NS(b"signature")
                self.assertRaises(Breach, FixedGroup(bits, "sha512").step, MSG_KEX_REPLY, answer)


class SNTRUP761Tests(SynchronousTestCase):
    """``sntrup761x25519-sha512``; `tests.peers.test_ssh_matrix` has it with OpenSSH."""

    def test_values_that_are_refused(self) -> None:
        exchange = SNTRUP761X25519()
        public, _rest = getNS(exchange.first()[1])
        ciphertext, _secret = sntrup_761.encaps(public[: sntrup_761.PUBLIC_KEY_SIZE])
        good = ciphertext + public[sntrup_761.PUBLIC_KEY_SIZE :]
        self.assertIsInstance(exchange.step(MSG_KEX_REPLY, NS(b"key") + NS(good) + NS(b"signature")), Agreed)
        for value in (b"", ciphertext, good[:-1], good + b"\0", ciphertext + bytes(32), bytes(10_000)):
            answer = NS(b"key") + NS(value) + NS(b"signature")
            self.assertRaises(Breach, SNTRUP761X25519().step, MSG_KEX_REPLY, answer)

    def test_the_library_was_removed_since_the_start(self) -> None:
        """It is imported with the first server that needs it."""
        with patch.dict(sys.modules, {"pqcrypto.kem": None}):
            fault = self.assertRaises(LibraryGone, SNTRUP761X25519)
        error = error_of(fault, "h", 22, secured=False)
        self.assertIsInstance(error, KeyExchangeFailed)
        self.assertIn("this client cannot load the Python package pqcrypto, which was there when it began", str(error))
