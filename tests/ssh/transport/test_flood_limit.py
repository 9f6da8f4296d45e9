"""
How many requests of its own a server may make.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.flood_limit import KEY_EXCHANGE, MAX_REQUESTS, FloodLimit


class FloodLimitTests(SynchronousTestCase):
    """`FloodLimit`."""

    def test_requests(self) -> None:
        limit = FloodLimit()
        for _ in range(MAX_REQUESTS):
            limit.count_request()
        self.assertIn("more requests", str(self.assertRaises(Breach, limit.count_request)))

    def test_key_exchanges(self) -> None:
        limit = FloodLimit()
        for _ in range(MAX_REQUESTS // KEY_EXCHANGE):
            limit.count_key_exchange()
        self.assertIn("new keys", str(self.assertRaises(Breach, limit.count_key_exchange)))

    def test_reset(self) -> None:
        limit = FloodLimit()
        for _ in range(3 * MAX_REQUESTS):
            limit.count_request()
            limit.reset()
