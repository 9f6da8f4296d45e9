"""
Which tables never apply: what is flagged never wins anywhere, and what people would see at a glance is flagged.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.network.shadowed import Claim, shadowed

PATTERNS = (
    "*", "db-*", "d*", "db-?", "db-1", "?b-1", "d*1", "*-1", "[db-*]:22", "[*]:23", "10.0.0.0/8", "10.1.0.0/16",
    "10.1.2.3", "10.1.*", "10.*", "fd00::/8", "fd00::1", "fd00:*", "DB-1", "::ffff:10.1.2.3", "!db-1", "!10.1.*",
)  # fmt: skip
USERS = ("*", "a*", "ab", "a?", "!ab", "!a*")
HOSTS = (
    "db-1", "db-2", "db-", "db", "d1", "x-1", "10.1.2.3", "10.2.0.1", "fd00::1", "::1", "d", "b-1", "ab-1", "dx1",
)  # fmt: skip


def claim(*hosts: str, users: tuple[str, ...] = ("*",), says: str = "x") -> Claim:
    return Claim(hosts, users, frozenset(says))


class ShadowTests(SynchronousTestCase):
    def flagged(self, *claims: Claim) -> list[tuple[int, tuple[int, ...]]]:
        return list(shadowed(claims))

    def test_plain_cases(self) -> None:
        for wide, narrow in (
            ("*", "db-*"), ("*", "10.1.2.3"), ("*", "[db]:22"), ("db-*", "db-1"), ("db-*", "DB-1"), ("d*", "db-*"),
            ("*.lab", "sw-?.lab"), ("10.0.0.0/8", "10.1.0.0/16"), ("10.0.0.0/8", "10.1.2.3"), ("10.1.*", "10.1.2.3"),
            ("fd00::/8", "fd00::1"), ("db", "[db]:22"), ("[db-*]:22", "[db-1]:22"), ("a*c", "ab*c"),
        ):  # fmt: skip
            self.assertEqual(self.flagged(claim(wide), claim(narrow)), [(1, (0,))], (wide, narrow))
            self.assertEqual(self.flagged(claim(narrow), claim(wide)), [], (narrow, wide))

    def test_what_is_not_all_of_it(self) -> None:
        for wide, narrow in (
            ("db-1", "db-*"), ("db-?", "db-*"), ("d?*", "d*"), ("db-??", "db-*"), ("10.1.0.0/16", "10.1.*"),
            ("[*]:22", "db"), ("[*]:22", "[db]:23"), ("10.*", "*"), ("fd00::/8", "10.0.0.0/8"), ("d*", "10.1.2.3"),
        ):  # fmt: skip
            self.assertEqual(self.flagged(claim(wide), claim(narrow)), [], (wide, narrow))
        self.assertEqual(self.flagged(claim("*", users=("a",)), claim("db")), [])
        self.assertEqual(self.flagged(claim("*", says="x"), claim("db", says="xy")), [])

    def test_several_take_it_together(self) -> None:
        several = claim("*", says="x"), claim("db-*", says="y"), claim("db-1", says="xy"), claim("web", says="xy")
        self.assertEqual(self.flagged(*several), [(2, (0, 1))])

    def test_exceptions(self) -> None:
        self.assertEqual(self.flagged(claim("*", "!db-1"), claim("db-*")), [])
        self.assertEqual(self.flagged(claim("*", "!db-1"), claim("db-*", "!db-1")), [(1, (0,))])
        self.assertEqual(self.flagged(claim("*", users=("*", "!root")), claim("db", users=("app",))), [])
        self.assertEqual(self.flagged(claim("*", users=("a*",)), claim("db", users=("app",))), [(1, (0,))])

    @given(
        st.lists(
            st.tuples(st.lists(st.sampled_from(PATTERNS), max_size=2), st.lists(st.sampled_from(USERS), max_size=1)),
            min_size=2,
            max_size=4,
        )
    )
    def test_what_is_flagged_never_wins(self, tables: list[tuple[list[str], list[str]]]) -> None:
        whole = [(tuple(hosts) or ("*",), tuple(users) or ("*",)) for hosts, users in tables]
        rules = [HostRule(hosts=hosts, users=users, settings=HostSettings(pty=True)) for hosts, users in whole]
        flagged = {
            number for number, _ in shadowed([Claim(hosts, users, frozenset(("pty",))) for hosts, users in whole])
        }
        table = HostTable(tuple(rules))
        for host in HOSTS:
            for port in (22, 23):
                for user in ("ab", "a", "root"):
                    self.assertNotIn(table.deciding(host, port, user).get("pty"), flagged, (host, port, user))
