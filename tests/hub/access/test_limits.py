"""
Tests of `relayd.hub.access.limits`: on which hosts an operator may run commands.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.access.errors import Unusable
from relayd.hub.access.limits import allowed, check_selectors, forbidden, may_stop, outside
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
        self.assertEqual(outside(OPERATOR, HOSTS, read), HOSTS[2:])
        for everywhere in (
            principal(role=Role.OPERATOR, selectors=("env=prod", "env=test")),
            principal(role=Role.OPERATOR),
            principal(role=Role.ADMIN, selectors=("env=prod",)),
        ):
            self.assertEqual(outside(everywhere, HOSTS, read), [])
        self.assertIsNone(allowed(principal(role=Role.OPERATOR), read))

    def test_selectors_are_read_once(self) -> None:
        """Not once for each of many hosts."""
        asked: list[str] = []

        def spy(text: str) -> Callable[[Host], bool]:
            asked.append(text)
            return read(text)

        may_use = allowed(OPERATOR, spy)
        assert may_use is not None
        self.assertEqual([may_use(host) for host in HOSTS], [True, True, False])
        self.assertEqual(asked, ["env=prod"])

    def test_outside_by_name(self) -> None:
        error = forbidden(OPERATOR, HOSTS[2:])
        self.assertEqual((error.names, error.count), (("db1",), 1))
        self.assertIn("The host db1 is outside of what user:alice may run commands on", str(error))
        self.assertIn("The hosts web1, web2 are outside", str(forbidden(OPERATOR, HOSTS[:2])))

    def test_many_are_not_all_named(self) -> None:
        text = str(forbidden(OPERATOR, [Host(f"db{number}", "test") for number in range(30)]))
        self.assertIn("db19 and 10 more are outside", text)
        self.assertNotIn("db20", text)

    def test_a_token_that_must_not_see_hosts_learns_no_names(self) -> None:
        scopes = frozenset({Permission.RUNS_WRITE})
        error = forbidden(principal(role=Role.OPERATOR, token="ci", token_scopes=scopes), HOSTS[1:])
        self.assertEqual((error.names, error.count), ((), 2))
        self.assertIn("2 of the hosts are outside", str(error))
        self.assertNotIn("db1", str(error))

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
