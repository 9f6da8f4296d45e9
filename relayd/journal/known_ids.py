"""
Which ids are certainly not in the archive, without a look at the disk: Bloom filters, each for some of the ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: Bits that each id sets, and bits of memory for each id: of a hundred ids that are new, some two seem known.
_HASHES: Final = 4
_BITS: Final = 16
#: Ids in the first filter; each has twice as many as the one before, so that few ids take little memory.
_FIRST: Final = 8192


class _Filter:
    """
    One Bloom filter.

    :param room: how many ids it is for, a power of two.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.count = 0
        self._mask = room * _BITS - 1
        self._bits = bytearray(room * _BITS // 8)

    def add(self, command_id: str) -> None:
        bits, mask = self._bits, self._mask
        number = hash(command_id)  # of 64 bits, and keyed anew in each process: nobody can choose ids that collide
        for _ in range(_HASHES):
            bits[(number & mask) >> 3] |= 1 << (number & 7)
            number += number >> 32 | 1
        self.count += 1

    def may_have(self, command_id: str) -> bool:
        bits, mask = self._bits, self._mask
        number = hash(command_id)
        for _ in range(_HASHES):
            if not bits[(number & mask) >> 3] & 1 << (number & 7):
                return False
            number += number >> 32 | 1
        return True


class KnownIds:
    """
    Says of an id that it is new, or may be known.

    It forgets no id of the latest *most*; the archive forgets the others, too.

    :param most: ids that the archive keeps.
    :ivar complete: whether all ids of the archive were added; before that, each may be known.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._filters = [_Filter(_FIRST)]
        self.complete = False

    def add(self, ids: Iterable[str]) -> None:
        """Add ids that are in the archive, or are about to be."""
        for command_id in ids:
            last = self._filters[-1]
            if last.count >= last.room:
                self._make_room(last.room)
                last = self._filters[-1]
            last.add(command_id)

    def _make_room(self, room: int) -> None:
        filters = [*self._filters, _Filter(room if room >= self._most else 2 * room)]
        while sum(each.count for each in filters[1:]) >= self._most:
            del filters[0]
        self._filters = filters  # another thread reads them

    def may_have(self, command_id: str) -> bool:
        """Whether an id may be in the archive."""
        if not self.complete:
            return True
        for each in self._filters:  # noqa: SIM110 — on the way of each command, and a generator is called twice
            if each.may_have(command_id):
                return True
        return False
