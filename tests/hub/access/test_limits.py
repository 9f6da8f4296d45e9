"""
Tests of `relayd.hub.access.limits`: on which hosts an operator may run commands.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.access.errors import HostsForbidden, Unusable
from relayd.hub.access.limits import check_hosts, check_selectors, may_stop, outside
from relayd.hub.access.permissions import Permission, Role
from relayd.language.texts import Fault
from tests.support.access import principal


class Host(Struct, frozen=True):
    name: str
    env: str


HOSTS = [Host("web1", "prod"), Host("web2", "prod"), Host("db1", "test")]


def read(text: str) -> Callable[[Host], bool]:
    if "=" not in text:
        raise Fault("in the selector: {typed} is not known", typed=text)
    return lambda host: host.env == text.partition("=")[2]


OPERATOR = principal(role=Role.OPERATOR, selectors=("env=prod",))


class LimitTests(SynchronousTestCase):
    def test_within(self) -> None:
        check_hosts(OPERATOR, HOSTS[:2], read)
        check_hosts(principal(role=Role.OPERATOR, selectors=("env=prod", "env=test")), HOSTS, read)
        check_hosts(principal(role=Role.OPERATOR), HOSTS, read)
        check_hosts(principal(role=Role.ADMIN, selectors=("env=prod",)), HOSTS, read)

    def test_outside_by_name(self) -> None:
        error = self.assertRaises(HostsForbidden, check_hosts, OPERATOR, HOSTS, read, ["none"])
        self.assertEqual((error.names, error.count), (("db1",), 1))
        self.assertIn("The host db1 is outside of what user:alice may run commands on", str(error))

    def test_many_are_not_all_named(self) -> None:
        hosts = [Host(f"db{number}", "test") for number in range(30)]
        text = str(self.assertRaises(HostsForbidden, check_hosts, OPERATOR, hosts, read))
        self.assertIn("db19 and 10 more are outside", text)
        self.assertNotIn("db20", text)

    def test_a_token_that_must_not_see_hosts_learns_no_names(self) -> None:
        """Nor whether a host exists: one that does not is as one outside."""
        scopes = frozenset({Permission.RUNS_WRITE})
        token = principal(role=Role.OPERATOR, selectors=("env=prod",), token="ci", token_scopes=scopes)
        there = self.assertRaises(HostsForbidden, check_hosts, token, HOSTS[2:], read)
        missing = self.assertRaises(HostsForbidden, check_hosts, token, [], read, ["db1"])
        self.assertEqual(str(there), str(missing))
        self.assertEqual((there.names, there.count), ((), 1))
        self.assertNotIn("db1", str(there))

    def test_a_selector_that_cannot_be_read_any_more_means_no_host(self) -> None:
        broken = principal(role=Role.OPERATOR, selectors=("broken",))
        self.assertEqual(outside(broken, HOSTS, read), HOSTS)
        self.assertEqual(outside(principal(role=Role.OPERATOR, selectors=()), HOSTS, read), HOSTS)

    def test_who_may_stop_a_run(self) -> None:
        self.assertTrue(may_stop(OPERATOR, "user:bob", HOSTS[:2], read))
        self.assertFalse(may_stop(OPERATOR, "user:bob", HOSTS, read))
        for own in ("user:alice", "token:alice/ci"):
            self.assertTrue(may_stop(OPERATOR, own, HOSTS, read))
        self.assertFalse(may_stop(OPERATOR, "token:alice2/ci", HOSTS, read))
        self.assertFalse(may_stop(OPERATOR, "user:alice2", HOSTS, read))

    def test_selectors(self) -> None:
        self.assertIsNone(check_selectors(None, read))
        self.assertEqual(check_selectors(["env=prod"], read), ("env=prod",))
        for wrong, word in ([[], "with none"], [["env=a", "x"], "x is not known"], [["a=b"] * 101, "more than 100"]):
            self.assertIn(word, str(self.assertRaises(Unusable, check_selectors, wrong, read)))
