"""
The main server's table of relays and of pending orders, with plain strings for links and orders.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.errors import CommandInFlight
from relayd.hub.links.registry import Registry


class RegistryTests(SynchronousTestCase):
    """Decisions of the table, with plain strings for links and orders."""

    def setUp(self) -> None:
        self.registry: Registry[str, str] = Registry()

    def test_connect_and_disconnect(self) -> None:
        self.assertIsNone(self.registry.connect("a", "link 1"))
        self.assertEqual(dict(self.registry.relays), {"a": "link 1"})
        self.assertTrue(self.registry.disconnect("a", "link 1"))
        self.assertEqual(dict(self.registry.relays), {})

    def test_a_newer_link_replaces_and_outlives_the_older(self) -> None:
        self.registry.connect("a", "link 1")
        self.assertEqual(self.registry.connect("a", "link 2"), "link 1")
        self.assertFalse(self.registry.disconnect("a", "link 1"))
        self.assertEqual(dict(self.registry.relays), {"a": "link 2"})

    def test_an_id_is_pending_once_a_relay(self) -> None:
        self.registry.add("a", "c", "first")
        self.registry.add("b", "c", "other relay")
        self.assertRaises(CommandInFlight, self.registry.add, "a", "c", "second")
        self.assertEqual(self.registry.take("a", "c"), "first")
        self.assertIsNone(self.registry.take("a", "c"))
        self.registry.add("a", "c", "again")
        self.assertEqual(self.registry.take("a", "c"), "again")

    def test_an_order_survives_its_link_but_its_acknowledgement_does_not(self) -> None:
        self.registry.connect("a", "link 1")
        self.registry.add("a", "c", "order")
        self.registry.expect_ack("a", "c", "link 1", 0)
        self.registry.disconnect("a", "link 1")
        self.registry.connect("a", "link 2")
        self.assertIsNone(self.registry.acknowledged("link 2", 0))
        self.assertIsNone(self.registry.acknowledged("link 1", 0))
        self.assertEqual(self.registry.take("a", "c"), "order")

    def test_an_acknowledgement_names_its_command_once(self) -> None:
        self.registry.connect("a", "link")
        self.registry.add("a", "c", "order")
        self.registry.expect_ack("a", "c", "link", 7)
        self.assertEqual(self.registry.acknowledged("link", 7), "c")
        self.assertIsNone(self.registry.acknowledged("link", 7))

    def test_an_acknowledgement_after_the_end_does_not_hit_a_later_command_of_that_id(self) -> None:
        self.registry.connect("a", "link")
        self.registry.add("a", "c", "first")
        self.registry.expect_ack("a", "c", "link", 0)
        self.registry.take("a", "c")
        self.registry.add("a", "c", "second")
        self.assertIsNone(self.registry.acknowledged("link", 0))

    def test_take_all(self) -> None:
        self.registry.add("a", "1", "x")
        self.registry.add("b", "1", "y")
        self.assertEqual(self.registry.take_all(), ["x", "y"])
        self.assertEqual(self.registry.take_all(), [])
