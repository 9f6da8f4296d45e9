"""
The seal of the audit log: the key with which relayd signs its lines.  It is kept apart from the log, so that somebody
who can write to the log cannot forge lines.
"""

from __future__ import annotations

import hmac
import os
import re
from typing import Final

from msgspec import Struct

from relayd.audit.lines import GENESIS, Line, mac
from relayd.process.whole_files import write_whole

_FILE: Final = re.compile(rb"([0-9a-f]{64}) ([0-9]{1,20}) ([0-9a-f]{64})\n")
_SEALED: Final = re.compile(rb'(\{.*),"mac":"[0-9a-f]{64}","hash":"[0-9a-f]{64}"\}', re.DOTALL)


class Seal(Struct, frozen=True):
    """
    A key, and the place in the log from which it is used.

    :ivar since: number of the last line that was there when the key was made; 0: there was none. Lines up to there have
        no seal, or the seal of a key that is lost: the first line after them vouches for them as they were then.
    :ivar head: hash of that line.
    """

    key: bytes
    since: int = 0
    head: str = GENESIS

    def __repr__(self) -> str:
        return f"Seal(since={self.since})"

    def holds(self, content: bytes, line: Line) -> bool:
        """Whether relayd wrote the *content* of *line*, as far as the seal can tell."""
        if line.seq <= self.since:
            return True
        match = _SEALED.fullmatch(content)
        return match is not None and line.mac is not None and hmac.compare_digest(line.mac, mac(self.key, match[1]))


def seal_file(state_dir: str) -> str:
    """The file of the seal: apart from the log."""
    return os.path.join(state_dir, "audit-seal")


def read_seal(path: str) -> Seal | None:
    """
    The seal in the file *path*; ``None`` where no seal was made yet.

    :raises OSError: when the file cannot be read.
    :raises ValueError: when it holds no seal.
    """
    try:
        with open(path, "rb") as file:
            match = _FILE.fullmatch(file.read(200))
    except FileNotFoundError:
        return None
    if match is None:
        raise ValueError("it is not a seal: a key, a number and a hash")
    return Seal(bytes.fromhex(match[1].decode()), int(match[2]), match[3].decode())


def make_seal(path: str, since: int, head: str) -> Seal:
    """
    Make a seal for the lines after number *since*.

    :raises OSError: when it cannot be written.
    """
    seal = Seal(os.urandom(32), since, head)
    write_whole(path, b"%s %d %s\n" % (seal.key.hex().encode(), since, head.encode()))
    return seal
