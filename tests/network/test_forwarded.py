"""
Where a request came from, behind proxies.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.network.forwarded import client_address, is_within
from relayd.network.patterns import read_network

PROXIES = (read_network("10.0.0.0/24"), read_network("fd00::/64"))


class ForwardedTests(SynchronousTestCase):
    """The nearest address that is not trusted."""

    def test_addresses(self) -> None:
        for peer, forwarded, client in (
            ("198.51.100.7", "", "198.51.100.7"),
            ("198.51.100.7", "192.0.2.1", "198.51.100.7"),
            ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "192.0.2.66, 198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "192.0.2.66, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
            ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
            ("fd00::1", "2001:DB8::1", "2001:db8::1"),
            ("::ffff:10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
            # what is no address is nowhere
            ("10.0.0.1", "unknown", ""),
            ("10.0.0.1", "198.51.100.7, ", ""),
            ("10.0.0.1", "198.51.100.7, 0x0a000001", ""),
            ("/run/hub.sock", "198.51.100.7", ""),
        ):
            self.assertEqual(client_address(peer, forwarded, PROXIES), client, (peer, forwarded))

    @given(st.text(st.sampled_from("0123456789abcdef.:,[] %x"), max_size=60))
    def test_what_a_client_writes_itself(self, text: str) -> None:
        """The proxy adds the address from which it was called."""
        self.assertEqual(client_address("10.0.0.1", f"{text},198.51.100.7", PROXIES), "198.51.100.7")

    def test_within(self) -> None:
        self.assertEqual(
            [is_within(each, PROXIES) for each in ("10.0.0.9", "10.0.1.9", "fd00::9", "", "x", "::ffff:10.0.0.9")],
            [True, False, True, False, False, True],
        )
