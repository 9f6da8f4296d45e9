"""
Files that hold a secret: reading its one line, and who else can read it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Final

from relayd.network.descriptors import words_of
from relayd.wire.messages import Secret

#: The most bytes read from a file; a longer file is not one of a secret.
MOST_BYTES = 4096


#: What to do about a file that cannot be read.
_CURES: Final = {
    # Not the path itself: some give the secret where the path belongs.
    FileNotFoundError: "name a file that is there, which holds it",
    PermissionError: "relayd's user has to read it",
    IsADirectoryError: "name the file in it",
}


class Unusable(Exception):
    """
    A file does not hold a usable secret; the text says why, and follows a colon.

    :ivar cure: what to do about that, where the text does not say it.
    """

    def __init__(self, reason: str, cure: str = "") -> None:
        super().__init__(reason)
        self.cure = cure


def read_line(path: str) -> Secret:
    """
    The one line of a file, without its line break.

    :raises Unusable: when the file cannot be read, or does not hold exactly one line.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        line = raw.decode("utf-8-sig").rstrip("\r\n")  # some editors begin files with a byte order mark
    except OSError as error:
        cure = _CURES.get(type(error), "")
        raise Unusable(f"its file cannot be read ({words_of(error)})", cure) from None
    except UnicodeDecodeError:
        raise Unusable("its file is not UTF-8 text; save it as UTF-8") from None
    if not line.strip():
        raise Unusable("its file is empty", "write it into that")
    if len(raw) > MOST_BYTES or not line.isprintable() or line != line.strip():
        raise Unusable("its file must hold exactly one line, without leading or trailing blanks")
    return Secret(line)


def is_credential(path: str, environ: Mapping[str, str]) -> bool:
    """
    Whether a file is one of systemd's credentials, which are for this unit alone whatever their mode looks like.

    :param environ: the environment, in which systemd names the folder of its credentials.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and os.path.dirname(path) == os.path.normpath(str(folder))


def open_to_others(path: str, environ: Mapping[str, str]) -> bool:
    """
    Whether other users may read a file. systemd's credentials only look that way, and a missing file cannot be read.

    :param environ: the environment, in which systemd names the folder of its credentials.
    """
    if is_credential(path, environ):
        return False
    try:
        return bool(stat.S_IMODE(os.stat(path).st_mode) & 0o077)
    except OSError:
        return False
