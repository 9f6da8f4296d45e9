"""What the site's tables of hosts come to for one host."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.network.host_rules import NOTHING_SAID, HostRule, HostSettings, HostTable


class HostTableTests(SynchronousTestCase):
    def test_first_rule_that_says_something_wins(self) -> None:
        table = HostTable(
            (
                HostRule(hosts=("db-1",), settings=HostSettings(shell="none")),
                HostRule(hosts=("db-*",), users=("root",), settings=HostSettings(shell="cmd", pty=True)),
                HostRule(hosts=("*",), settings=HostSettings(pty=False, max_sessions=1)),
            )
        )
        self.assertEqual(HostSettings(shell="none", pty=True, max_sessions=1), table.of("db-1", 22, "root"))
        self.assertEqual(HostSettings(shell="none", pty=False, max_sessions=1), table.of("db-1", 22, "app"))
        self.assertEqual({"shell": 1, "pty": 1, "max_sessions": 2}, table.deciding("db-2", 22, "root"))

    def test_nothing_is_said_without_rules(self) -> None:
        self.assertIs(NOTHING_SAID, HostTable().of("db-1", 22, "root"))
        self.assertEqual(NOTHING_SAID, HostTable((HostRule(hosts=("web",)),)).of("db-1", 22, "root"))
