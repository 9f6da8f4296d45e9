"""
What is remembered of hosts that have SFTP, or have none.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.target import Credential, Target
from relayd.ssh.with_files import Ways


class WaysTests(SynchronousTestCase):
    """Each login of each machine for itself."""

    def test_one_private_address_behind_two_jump_hosts(self) -> None:
        credential = Credential(password="x")
        behind = [Target("10.0.0.5", 22, "u", credential, via=Target(jump, 22, "j", credential)) for jump in ("a", "b")]
        ways = Ways(Clock())
        ways.remember(behind[0], served=False)
        self.assertEqual([ways.known(target) for target in behind], [False, None])
        ways.remember(behind[1], served=True)
        self.assertEqual([ways.known(target) for target in behind], [False, True])
