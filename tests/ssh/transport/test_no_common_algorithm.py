"""
What is said where client and server have no algorithm in common: no advice that would not help.
"""

from __future__ import annotations

from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.errors import LibraryMissing, NoCommonAlgorithm, OutdatedInCommon
from relayd.ssh.transport import no_common_algorithm
from relayd.ssh.transport.algorithms import LEGACY, MODERN, AlgorithmPolicy
from relayd.ssh.transport.kexinit import NegotiatedAlgorithms, NothingInCommon, kexinit

UNKNOWN = b"sntrup9999-sha512"


class AdviceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(no_common_algorithm, "MISSING_LIBRARIES", {UNKNOWN: "pqother"})

    def error_for(self, offer: AlgorithmPolicy) -> NoCommonAlgorithm:
        payload = kexinit(offer, offer.host_keys)
        with self.assertRaises(NothingInCommon) as caught:
            NegotiatedAlgorithms(payload, MODERN, MODERN.host_keys)
        return no_common_algorithm.no_common_algorithm(caught.exception, "h", 22)

    def test_a_library_that_is_enough(self) -> None:
        error = self.error_for(replace(MODERN, key_exchanges=(UNKNOWN,)))
        self.assertIsInstance(error, LibraryMissing)
        self.assertIn("pqother", str(error))

    def test_a_library_that_would_be_of_no_use(self) -> None:
        """What else is missing is said in its place."""
        for other in ({"ciphers": (b"arcfour",)}, {"host_keys": (b"x-key",)}):
            error = self.error_for(replace(MODERN, key_exchanges=(UNKNOWN,), **other))
            self.assertIs(type(error), NoCommonAlgorithm)
            self.assertNotIn("pqother", str(error))
            self.assertIn((other.get("ciphers") or other["host_keys"])[0].decode(), str(error))

    def test_a_policy_that_would_be_of_no_use(self) -> None:
        outdated = LEGACY.key_exchanges[-1]
        self.assertIsInstance(self.error_for(replace(MODERN, key_exchanges=(outdated,))), OutdatedInCommon)
        error = self.error_for(replace(MODERN, key_exchanges=(outdated,), ciphers=(b"arcfour",)))
        self.assertIs(type(error), NoCommonAlgorithm)
        self.assertIn("arcfour", str(error))
