"""
The fields of SSH's binary formats, read strictly: bytes that end too early are an error.

Source: RFC 4251, section 5. Conch's ``getNS`` accepts a string that was cut off.
"""

from __future__ import annotations


class CutOff(Exception):
    """The bytes end before the field does, or a number has an impossible value."""


class Fields:
    """
    Reads fields from bytes, one after another.

    :ivar at: how many bytes have been read.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    @property
    def over(self) -> bool:
        """Whether all bytes have been read."""
        return self.at == len(self._data)

    def number(self, size: int) -> int:
        """An unsigned number of *size* bytes."""
        return int.from_bytes(self._take(size), "big")

    def string(self) -> bytes:
        """A string, which may hold any bytes."""
        return self._take(self.number(4))

    def integer(self, most_bytes: int) -> int:
        """
        A positive number of any size (``mpint``).

        :param most_bytes: how long it may be. A peer chooses it, and large numbers are expensive.
        """
        digits = self.string()
        if not 0 < len(digits) <= most_bytes or digits[0] & 0x80:
            raise CutOff
        return int.from_bytes(digits, "big")

    def strings(self, most: int) -> tuple[bytes, ...]:
        """
        All strings that are left.

        :param most: how many there may be.
        """
        found: list[bytes] = []
        while self.at < len(self._data):
            if len(found) == most:
                raise CutOff
            found.append(self.string())
        return tuple(found)

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise CutOff
        start, self.at = self.at, self.at + size
        return self._data[start : self.at]
