"""
Results that are held in memory, a bounded number of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from sys import getsizeof

from relayd.wire.files import length_of
from relayd.wire.messages import CommandResult


class HeldResults:
    """
    The latest results, one for each command.

    :param max_results: how many.
    :param max_bytes: bytes of memory for their outputs; a single result may take more.
    """

    def __init__(self, max_results: int, max_bytes: int) -> None:
        self._max_results = max_results
        self._max_bytes = max_bytes
        self._results: OrderedDict[str, CommandResult] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __contains__(self, command_id: object) -> bool:
        return command_id in self._results

    def hold(self, result: CommandResult) -> list[str]:
        """
        Hold *result*.

        :return: the commands whose results had to make room.
        """
        if result.command_id in self._results:
            self.remove(result.command_id)
        self._results[result.command_id] = result
        self._bytes += size_of(result)
        removed = []
        while len(self._results) > 1 and (len(self._results) > self._max_results or self._bytes > self._max_bytes):
            removed.append(oldest := next(iter(self._results)))
            self.remove(oldest)
        return removed

    def find(self, command_id: str) -> CommandResult | None:
        """The result of a command, if it is held."""
        return self._results.get(command_id)

    def remove(self, command_id: str) -> None:
        """Hold the result of a command no more, if it is held."""
        result = self._results.pop(command_id, None)
        if result is not None:
            self._bytes -= size_of(result)


def size_of(result: CommandResult) -> int:
    """Bytes of memory that the output of *result* takes; in constant time."""
    size = getsizeof(result.stdout) + getsizeof(result.stderr)
    return size + length_of(result.details.fetched) if result.details.fetched else size
