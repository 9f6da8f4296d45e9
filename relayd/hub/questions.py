"""
Questions that a main server has asked a relay and that are not answered yet: decisions only, no I/O and no time.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

LinkT = TypeVar("LinkT")

#: A question is known by the number of its acknowledgement, or, where the dialect has none, by the command it is about.
Mark = int | str


class Questions(Generic[LinkT]):
    """The table of questions, for any kind of link: one that is lost with a question on it answers no more."""

    def __init__(self) -> None:
        self._asked: dict[LinkT, dict[Mark, list[Deferred[object]]]] = {}

    def add(self, link: LinkT, mark: Mark) -> Deferred[object]:
        """
        A question was asked.

        :return: a Deferred of the answer; cancelling it takes the question back.
        """

        def withdraw(asked: Deferred[object]) -> None:
            waiting.remove(asked)
            if not waiting:
                self.take(link, mark)

        waiting = self._asked.setdefault(link, {}).setdefault(mark, [])
        asked: Deferred[object] = Deferred(withdraw)
        waiting.append(asked)
        return asked

    def take(self, link: LinkT, mark: Mark) -> list[Deferred[object]]:
        """Who waits for the answer that came: nobody any more, from now on."""
        marks = self._asked.get(link, {})
        waiting = marks.pop(mark, [])
        if not marks:
            self._asked.pop(link, None)
        return waiting

    def take_all(self, link: LinkT) -> list[Deferred[object]]:
        """*link* is gone: who waits for an answer on it."""
        return [asked for waiting in self._asked.pop(link, {}).values() for asked in waiting]
