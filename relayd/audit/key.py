"""
The digests of commands in the audit log, and the key that they are made with.
"""

from __future__ import annotations

import hmac
import os
import re

from relayd.process.whole_files import write_whole


def command_digest(key: bytes, command: str) -> str:
    """
    HMAC-SHA256 of a command.

    It has a key because commands are easily guessed: somebody with a copy of the log could try out a plain digest with
    ``mysql -p…`` and one password after another.
    """
    return hmac.digest(key, command.encode("utf-8", "surrogatepass"), "sha256").hex()


def key_file(state_dir: str) -> str:
    """The file of the key of `command_digest`: apart from the log, so that a copy of the log comes without it."""
    return os.path.join(state_dir, "audit-key")


def read_key(path: str, *, make: bool) -> bytes:
    """
    The key of `command_digest`.

    :param make: make one, for this user alone, where there is none.
    :raises OSError: when it cannot be read or made.
    :raises ValueError: when the file holds no key.
    """
    if make and not os.path.exists(path):
        write_whole(path, os.urandom(32).hex().encode() + b"\n")
    with open(path, "rb") as file:
        text = file.read(100).strip()
    if not re.fullmatch(rb"[0-9a-f]{64}", text):
        raise ValueError("it does not hold a key of 64 hexadecimal digits")
    return bytes.fromhex(text.decode())
