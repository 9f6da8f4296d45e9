"""
Ids of what the hub keeps: UUIDs of version 7 (RFC 9562, section 5.7), which sort by the time when they were made.
"""

from __future__ import annotations

import secrets
from threading import Lock
from typing import Final

_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
_RANDOM_BITS: Final = 62

_lock = Lock()
_last = 0


def new_id(now_us: int) -> str:
    """
    A new id, greater than all that this process made before, even if the clock was set back.

    :param now_us: the time of now, in microseconds since 1970, UTC.
    :return: 36 characters; 62 bits of them are random.
    """
    global _last  # noqa: PLW0603 — one order for the whole process
    milliseconds, microseconds = divmod(now_us, 1000)
    # RFC 9562, section 6.2, method 3: the first 12 bits after the milliseconds are a fraction of one.
    moment = milliseconds << 12 | (microseconds << 12) // 1000
    with _lock:
        _last = moment = max(moment, _last + 1)
    number = moment >> 12 << 80 | _VERSION | (moment & 0xFFF) << 64 | _VARIANT | secrets.randbits(_RANDOM_BITS)
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
