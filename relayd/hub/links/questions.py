"""
Questions to relays that are not answered yet.  Decisions only, no I/O and no time.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

LinkT = TypeVar("LinkT")

#: What identifies a question: the number of its acknowledgement or, where the dialect has none, its ``commandId``,
#: with the name of its event where it is not about the state of a command; ``None``: it is about the relay.
Mark = int | str | tuple[str, str] | None


class Questions(Generic[LinkT]):
    """The table of open questions, by the link on which each was asked; a link may be of any kind."""

    def __init__(self) -> None:
        self._asked: dict[LinkT, dict[Mark, list[Deferred[object]]]] = {}

    def add(self, link: LinkT, mark: Mark) -> Deferred[object]:
        """
        Note a question that was asked.

        :return: a Deferred of the answer; cancelling it withdraws the question.
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
        """Remove and return the Deferreds that wait for the answer to a question."""
        marks = self._asked.get(link, {})
        waiting = marks.pop(mark, [])
        if not marks:
            self._asked.pop(link, None)
        return waiting

    def take_all(self, link: LinkT) -> list[Deferred[object]]:
        """Remove and return the Deferreds that wait for any answer on *link*, which is gone."""
        return [asked for waiting in self._asked.pop(link, {}).values() for asked in waiting]
