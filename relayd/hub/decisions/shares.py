"""
Numbers of invocations as people write them: ``10``, or ``20%`` of all invocations of the run.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from msgspec import Struct

from relayd.language.texts import Fault, printable

_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3})?) ?%")
#: The largest number that is taken.
MOST: Final = 1_000_000


class Share(Struct, frozen=True):
    """
    A number, or a share of all invocations of the run.

    :ivar number: the number, or the per cent.
    :ivar percent: whether it is per cent.
    """

    number: Fraction
    percent: bool

    @classmethod
    def parse(cls, written: int | str, what: str) -> Share:
        """
        Read ``10``, ``"10"`` or ``"20%"``.

        :param what: the field's name, for the message.
        :raises Fault: when it is neither a whole number from 0 nor 0 to 100 per cent.
        """
        text = str(written).strip()
        if not isinstance(written, bool):
            if match := _PERCENT.fullmatch(text):
                if (number := Fraction(match[1])) <= 100:
                    return cls(number, True)
            elif text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) and int(text) <= MOST:
                return cls(Fraction(int(text)), False)
        raise Fault(
            '{what} is a number such as 10, or per cent of all hosts of the run such as 20%; "{typed}" is neither',
            what=what,
            typed=printable(text, 60),
        )

    def __str__(self) -> str:
        return f"{float(self.number):g}%" if self.percent else str(self.number)

    def of(self, size: int) -> Fraction:
        """The number that it means in a run of *size* invocations, not rounded."""
        return self.number * size / 100 if self.percent else self.number

    def at_least_one(self, size: int) -> int:
        """The same, rounded up, and at least 1."""
        return max(1, -(-self.of(size) // 1))
