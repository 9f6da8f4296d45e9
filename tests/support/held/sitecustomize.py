"""
Lets a relay under test tell what it holds: Python runs this at its start, where this directory is on its path.

At SIGUSR2 it writes every text, every sequence of bytes and every private key that an object of the process refers to.
What was freed is not among them, wherever it still stands in memory. It must not hold anything itself meanwhile.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from typing import Any

from msgspec import Struct


def _referents(held: Any) -> list[Any]:
    """What *held* refers to: what the collector is told, and what is kept from it."""
    found = gc.get_referents(held)
    if isinstance(held, io.BytesIO | io.StringIO):
        found.append(held.getvalue())
    # Those that are not collected, and keys, whose bytes are not Python's
    if isinstance(held, Struct):
        found += [getattr(held, name, None) for name in held.__struct_fields__]
    if type(held).__name__.endswith("PrivateKey") and hasattr(held, "private_bytes_raw"):
        found.append(held.private_bytes_raw())
    return found


def _write(_number: int, _frame: object) -> None:
    kept: list[Any] = [*gc.get_objects(), *sys._current_frames().values()]
    seen = {id(kept)}
    path = os.environ["HELD_FILE"]
    with open(f"{path}.new", "wb") as file:
        while kept:
            held = kept.pop()
            if isinstance(held, str):
                file.write(held.encode("utf-8", "surrogatepass") + b"\0")
            elif isinstance(held, bytes | bytearray):
                file.write(held)
                file.write(b"\0")
            elif isinstance(held, memoryview):
                file.write(bytes(held) + b"\0")
            elif id(held) not in seen:
                seen.add(id(held))
                kept += _referents(held)
    os.replace(f"{path}.new", path)


signal.signal(signal.SIGUSR2, _write)
