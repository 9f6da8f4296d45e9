"""
Which ids are certainly not in the archive, without a look at the disk: a Bloom filter in two generations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: Bits that each id sets, and bits of memory for each id: of a hundred ids that are new, less than one seems known.
_HASHES: Final = 4
_BITS: Final = 16


class KnownIds:
    """
    Says of an id that it is new, or may be known.

    It forgets the ids before the latest *most*, at the earliest: the archive forgets those as well.

    :param most: ids that the archive keeps.
    :ivar complete: whether all ids of the archive were added; before that, each may be known.
    """

    def __init__(self, most: int) -> None:
        self._most = max(most, 1024)
        self._mask = (1 << (self._most * _BITS - 1).bit_length()) - 1
        self._generations = (self._empty(), self._empty())
        self._count = 0
        self.complete = False

    def _empty(self) -> bytearray:
        return bytearray((self._mask + 1) // 8)  # the system gives the memory when it is written to

    def add(self, ids: Iterable[str]) -> None:
        """Add ids that are in the archive, or are about to be."""
        for command_id in ids:
            if self._count >= self._most:
                self._generations = (self._empty(), self._generations[0])
                self._count = 0
            bits = self._generations[0]
            place, step = self._hashes(command_id)
            for _ in range(_HASHES):
                bits[place >> 3] |= 1 << (place & 7)
                place = (place + step) & self._mask
            self._count += 1

    def may_have(self, command_id: str) -> bool:
        """Whether an id may be in the archive."""
        if not self.complete:
            return True
        place, step = self._hashes(command_id)
        young, old = self._generations
        return self._has(young, place, step) or self._has(old, place, step)

    def _has(self, bits: bytearray, place: int, step: int) -> bool:
        for _ in range(_HASHES):
            if not bits[place >> 3] & 1 << (place & 7):
                return False
            place = (place + step) & self._mask
        return True

    def _hashes(self, command_id: str) -> tuple[int, int]:
        number = hash(command_id)  # of 64 bits, and keyed anew in each process: nobody can choose ids that collide
        return number & self._mask, number >> 32 & self._mask | 1
