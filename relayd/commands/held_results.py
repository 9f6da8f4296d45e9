"""
Results that are held in memory, within bounds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from sys import getsizeof

from relayd.wire.messages import CommandResult


class HeldResults:
    """
    The latest results, by command: of each the latest one.

    :param most: how many.
    :param most_bytes: of memory for their outputs; a single one may take more.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._results: OrderedDict[str, CommandResult] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __contains__(self, command_id: object) -> bool:
        return command_id in self._results

    def add(self, result: CommandResult) -> list[str]:
        """
        Hold *result*.

        :return: the commands whose results had to make room.
        """
        self.remove(result.command_id)
        self._results[result.command_id] = result
        self._bytes += size_of(result)
        gone = []
        while len(self._results) > 1 and (len(self._results) > self._most or self._bytes > self._most_bytes):
            gone.append(next(iter(self._results)))
            self.remove(gone[-1])
        return gone

    def get(self, command_id: str) -> CommandResult | None:
        """The result of a command, if it is held."""
        return self._results.get(command_id)

    def remove(self, command_id: str) -> None:
        """Hold it no more, if it is."""
        result = self._results.pop(command_id, None)
        if result is not None:
            self._bytes -= size_of(result)


def size_of(result: CommandResult) -> int:
    """Bytes of memory that the result's output takes; in constant time."""
    return getsizeof(result.stdout) + getsizeof(result.stderr)
