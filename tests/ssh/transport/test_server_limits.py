"""
What is known of servers by their version.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.transport.server_limits import passes_signals


class SignalTests(SynchronousTestCase):
    """`passes_signals`; `tests.ssh.ending.test_ending` and `tests.peers.test_kills` have real servers."""

    def test_versions(self) -> None:
        for version, known in (
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3", True),
            (b"SSH-2.0-OpenSSH_10.0", True),
            (b"SSH-2.0-OpenSSH_7.9", True),
            (b"SSH-2.0-OpenSSH_7.8p1", False),
            (b"SSH-1.99-OpenSSH_3.9p1", False),
            (b"SSH-2.0-OpenSSH_for_Windows_9.5", False),
            (b"SSH-2.0-dropbear_2022.83", True),
            (b"SSH-2.0-Go", False),
            (b"SSH-2.0-lsh-2.1 NOT-OpenSSH_9.2", False),
            (b"", False),
        ):
            self.assertIs(passes_signals(version), known, version)
