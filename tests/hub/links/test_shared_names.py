"""
Whether two programs share a name, by plain numbers.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.links.shared_names import TURNS, WINDOW, SharedName, SharedNames, Turn


class SharedNamesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = SharedNames()

    def turns(self, *times: float) -> list[SharedName | None]:
        return [self.names.replaced_alive("r", Turn(time, "192.0.2.1", "192.0.2.2")) for time in times]

    def test_it_is_said_once(self) -> None:
        said = self.turns(0, 10, 20, 30, 40)
        self.assertEqual(said, [None, None, SharedName(3, ("192.0.2.2", "192.0.2.1")), None, None])
        self.assertEqual(self.names.of("r", 40), SharedName(5, ("192.0.2.2", "192.0.2.1")))
        self.assertIsNone(self.names.of("another", 40))

    def test_now_and_then(self) -> None:
        self.assertEqual(self.turns(*(WINDOW * number for number in range(10))), [None] * 10)

    def test_it_ends_and_is_said_again(self) -> None:
        self.turns(0, 1, 2)
        self.assertIsNone(self.names.of("r", WINDOW + 3))
        self.assertEqual(self.names._turns, {})
        later = WINDOW * 2
        self.assertEqual([each is not None for each in self.turns(later, later + 1, later + 2)], [False, False, True])

    def test_nothing_grows(self) -> None:
        self.turns(*(number / 1000 for number in range(10_000)))
        self.assertLessEqual(len(self.names._turns["r"]), TURNS * 10)
