"""
relayd.hub.api.conditions: entity tags.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.api.conditions import entity_tag, expected_version, is_same, parse_tags
from relayd.hub.api.problems import Changed, ConditionMissing, InvalidHeader


class ConditionTests(SynchronousTestCase):
    def test_tags(self) -> None:
        self.assertEqual(parse_tags("If-Match", '"1" , W/"a!b",""'), [(False, '"1"'), (True, '"a!b"'), (False, '""')])
        self.assertEqual(parse_tags("If-Match", '"a,b"'), [(False, '"a,b"')])
        self.assertIsNone(parse_tags("If-Match", " * "))
        for wrong in ("", "1", '"1', '"1" "2"', 'w/"1"', '"1", *', '"a"b"', '"a b"', ","):
            self.assertRaises(InvalidHeader, parse_tags, "If-Match", wrong)

    def test_the_version_that_a_change_is_for(self) -> None:
        self.assertEqual(expected_version(entity_tag(7)), 7)
        self.assertIsNone(expected_version("*"))
        self.assertRaises(ConditionMissing, expected_version, None)
        for other in ('W/"7"', '"7", "8"', '"x"', '"-1"', '"\xb2"', f'"{"9" * 30}"'):
            self.assertRaises(Changed, expected_version, other)

    def test_what_the_client_has(self) -> None:
        for value in ('"7"', 'W/"7"', '"6", "7"', "*"):
            self.assertTrue(is_same(value, '"7"'), value)
        self.assertFalse(is_same('"8"', '"7"'))
        self.assertFalse(is_same(None, '"7"'))
