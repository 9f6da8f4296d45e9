"""
Files that hold a secret: the line that is in one, and who else can read it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from relayd.network.descriptors import words_of
from relayd.wire.messages import Secret

#: What is read of a file, in bytes; a longer one is some other file.
MOST_BYTES = 4096


class Unusable(Exception):
    """A file that does not hold a secret: why, in words that follow a colon."""


def read_line(path: str) -> Secret:
    """
    The one line of a file, without the line break at its end.

    :raises Unusable: when there is none, or more.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        line = raw.decode("utf-8-sig").rstrip("\r\n")  # some editors begin files with a signature
    except OSError as error:
        raise Unusable(f"its file cannot be read ({words_of(error)})") from None
    except UnicodeDecodeError:
        raise Unusable("its file is no UTF-8 text") from None
    if not line.strip():
        raise Unusable("its file is empty")
    if len(raw) > MOST_BYTES or not line.isprintable() or line != line.strip():
        raise Unusable("its file must hold one line, without blanks around it")
    return Secret(line)


def open_to_others(path: str, environ: Mapping[str, str]) -> bool:
    """
    Whether other users may read a file; those that systemd keeps for us only look so, and what is not there is not.

    :param environ: where systemd names its folder.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder and os.path.dirname(path) == os.path.normpath(folder):
        return False
    try:
        return bool(stat.S_IMODE(os.stat(path).st_mode) & 0o077)
    except OSError:
        return False
