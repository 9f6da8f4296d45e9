"""
The main server's table of links, with plain strings for links.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.links.table import LinkTable


class LinkTableTests(SynchronousTestCase):
    """Decisions of the table."""

    def setUp(self) -> None:
        self.table: LinkTable[str] = LinkTable()

    def test_connect_and_disconnect(self) -> None:
        self.assertIsNone(self.table.connect("a", "link 1"))
        self.assertEqual(dict(self.table.relays), {"a": "link 1"})
        self.assertTrue(self.table.disconnect("a", "link 1"))
        self.assertEqual(dict(self.table.relays), {})

    def test_a_newer_link_replaces_and_outlives_the_older(self) -> None:
        self.table.connect("a", "link 1")
        self.assertEqual(self.table.connect("a", "link 2"), "link 1")
        self.assertFalse(self.table.disconnect("a", "link 1"))
        self.assertEqual(dict(self.table.relays), {"a": "link 2"})

    def test_an_acknowledgement_ends_with_its_link(self) -> None:
        self.table.connect("a", "link 1")
        self.table.expect("link 1", 0, "c")
        self.table.disconnect("a", "link 1")
        self.table.connect("a", "link 2")
        self.assertIsNone(self.table.acknowledged("link 2", 0))
        self.assertIsNone(self.table.acknowledged("link 1", 0))

    def test_an_acknowledgement_names_its_command_once(self) -> None:
        self.table.connect("a", "link")
        self.table.expect("link", 7, "c")
        self.assertEqual(self.table.acknowledged("link", 7), "c")
        self.assertIsNone(self.table.acknowledged("link", 7))

    def test_an_acknowledgement_after_the_end_does_not_hit_a_later_command_of_that_id(self) -> None:
        self.table.connect("a", "link")
        self.table.expect("link", 0, "c")
        self.table.forget("link", "c")
        self.table.expect("link", 1, "c")
        self.assertIsNone(self.table.acknowledged("link", 0))
        self.assertEqual(self.table.acknowledged("link", 1), "c")

    def test_nothing_is_kept(self) -> None:
        """Of a program that never acknowledges, too."""
        self.table.connect("a", "link")
        for number in range(100):
            self.table.expect("link", number, f"c{number}")
            self.table.forget("link", f"c{number}")
            self.table.forget(None, f"c{number}")
        self.assertEqual((self.table._commands["link"], self.table._numbers["link"]), ({}, {}))
        self.table.disconnect("a", "link")
        self.assertEqual((self.table._commands, self.table._numbers), ({}, {}))
