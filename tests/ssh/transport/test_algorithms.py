"""
Tests of `relayd.ssh.transport.algorithms`: each policy offers only what this package has.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.transport.algorithms import POLICIES
from relayd.ssh.transport.ciphers import CIPHERS, MACS
from relayd.ssh.transport.key_exchange_methods import METHODS


class PolicyTests(SynchronousTestCase):
    def test_what_is_offered_is_there(self) -> None:
        """Otherwise the first server that chooses it would be taken for one that breaks the protocol."""
        for name, policy in POLICIES.items():
            for offered, there in (
                (policy.key_exchanges, METHODS),
                (policy.ciphers, CIPHERS),
                (policy.macs, MACS),
            ):
                self.assertLessEqual(set(offered), set(there), name)
                self.assertEqual(len(set(offered)), len(offered), name)

    def test_what_is_outdated_is_in_legacy_alone(self) -> None:
        for name, policy in POLICIES.items():
            offered = {*policy.key_exchanges, *policy.host_keys, *policy.ciphers, *policy.macs}
            self.assertEqual(offered & POLICIES["legacy"].outdated, policy.outdated, name)
