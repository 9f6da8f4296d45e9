"""
Tests of `relayd.hub.decisions.selectors`.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.decisions.selectors import MAX_SELECTOR, NoHostSelected, SelectorError, parse


class Host(Struct, frozen=True):
    name: str
    labels: dict[str, str]


HOSTS = [
    Host("web-1", {"env": "prod", "role": "web", "linux": ""}),
    Host("web-2", {"env": "test", "role": "web", "linux": ""}),
    Host("db-1", {"env": "prod", "role": "db", "windows": ""}),
    Host("lonely", {}),
    Host("in", {"rack": "Hall 3, left"}),
]


def names(text: str) -> list[str]:
    return [host.name for host in parse(text).select(HOSTS)]


class SelectTests(SynchronousTestCase):
    def test_what_is_meant(self) -> None:
        for text, expected in (
            ("all", ["web-1", "web-2", "db-1", "lonely", "in"]),
            ("all, env=prod", ["web-1", "db-1"]),
            ("web-1", ["web-1"]),
            ("web-*", ["web-1", "web-2"]),
            ("linux", ["web-1", "web-2"]),
            ("!linux", ["db-1", "lonely", "in"]),
            ("! web-1 and role", ["web-2", "db-1"]),
            ("env=prod", ["web-1", "db-1"]),
            ("env == prod", ["web-1", "db-1"]),
            ("env!=prod", ["web-2", "lonely", "in"]),
            ("role in (web,db)", ["web-1", "web-2", "db-1"]),
            ("role in (web , db) and env=prod, linux", ["web-1"]),
            ("role notin (web)", ["db-1", "lonely", "in"]),
            ("name=web-1", ["web-1"]),
            ("name in (web-1, db-1)", ["web-1", "db-1"]),
            ("name != web-*", ["db-1", "lonely", "in"]),
            ('linux=""', ["web-1", "web-2"]),
            ('rack="Hall 3, left"', ["in"]),
            ('"in"', ["in"]),
        ):
            self.assertEqual(names(text), expected, text)

    def test_nothing_is_an_error_that_says_so(self) -> None:
        for text, position, message in (
            ("env=prdo", 0, 'no host matches "env=prdo"; did you mean "env=prod"?'),
            ("evn=prod", 0, 'no host matches "evn=prod"; did you mean "env=prod"?'),
            ("linux, web-3", 7, 'no host matches "web-3"; did you mean "web-2"?'),
            ("name in (wbe-2)", 0, 'no host matches "name in (wbe-2)"; did you mean "name=web-2"?'),
            ("zzzz", 0, 'no host matches "zzzz"'),
            (
                "env=prod, role=web, windows",
                20,
                'no host matches "env=prod, role=web, windows": 1 of the inventory match what stands before "windows", '
                "and none of them matches that",
            ),
            (
                "web-1,db-1",
                6,
                'no host matches "web-1,db-1": a comma means "and", and no host has two names; for several hosts write '
                "name in (web-1, db-1)",
            ),
        ):
            error = self.assertRaises(NoHostSelected, names, text)
            self.assertEqual((str(error), error.position, error.typed), (message, position, text))

    def test_the_near_one_is_meant(self) -> None:
        """What a message says to write does what it says."""
        self.assertEqual(names("name in (web-1, db-1)"), ["web-1", "db-1"])

    def test_an_inventory_without_hosts(self) -> None:
        error = self.assertRaises(NoHostSelected, parse("all").select, [])
        self.assertEqual(str(error), "the inventory has no hosts that you may use")

    def test_a_label_that_a_host_lacks_is_no_empty_one(self) -> None:
        self.assertEqual(names('linux!=""'), ["db-1", "lonely", "in"])


class MistakeTests(SynchronousTestCase):
    def test_mistakes(self) -> None:
        for text, position, message in (
            ("", 0, 'a selector is needed, such as "env=prod"; "all" means all hosts'),
            ("  \n", 0, 'a selector is needed, such as "env=prod"; "all" means all hosts'),
            ("env=", 4, 'in the selector "env=", at character 5: a value is expected before the end'),
            ("env=,a", 4, 'in the selector "env=,a", at character 5: a value is expected before ","'),
            ("a b", 2, 'in the selector "a b", at character 3: a comma or "and" is expected before "b"'),
            ("a,", 2, 'in the selector "a,", at character 3: a name, a label or "all" is expected before the end'),
            ("role in web", 8, 'in the selector "role in web", at character 9: "(" is expected before "web"'),
            (
                "role in (a b)",
                11,
                'in the selector "role in (a b)", at character 12: "," or ")" is expected before "b"',
            ),
            ("role in (", 9, 'in the selector "role in (", at character 10: a value is expected before the end'),
            (
                "role In (a)",
                5,
                'in the selector "role In (a)", at character 6: "In" is not known here; did you mean in?',
            ),
            ("!all", 1, 'in the selector "!all", at character 2: "!all" would mean no host at all'),
            (
                "!env=prod",
                1,
                'in the selector "!env=prod", at character 2: write env!=… or "env notin (…)": "!" stands only before '
                "a name or label",
            ),
            ('env="pro', 4, 'in the selector "env="pro", at character 5: a value is expected before """'),
            (
                "a\0b=",
                4,
                'in the selector "a\N{REPLACEMENT CHARACTER}b=", at character 5: a value is expected before the end',
            ),
        ):
            error = self.assertRaises(SelectorError, parse, text)
            self.assertEqual((str(error), error.position), (message, position), text)

    def test_too_long(self) -> None:
        error = self.assertRaises(SelectorError, parse, "a" * (MAX_SELECTOR + 1))
        self.assertEqual(str(error), "a selector may have 4096 characters; this one has 4097")

    @given(st.text(st.sampled_from('ab =!,()"*innotand'), max_size=30))
    def test_any_text(self, text: str) -> None:
        """It is read or refused; and what is read means all hosts only where it says so."""
        try:
            selector = parse(text)
        except SelectorError as error:
            self.assertLessEqual(error.position, len(text))
        else:
            self.assertTrue(text.strip())
            selector.matches(HOSTS[0])
