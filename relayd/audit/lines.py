"""
The format of the audit log: one JSON object a line, each with the hash of the one before.
No I/O: values in, bytes out, and back.
"""

from __future__ import annotations

import hmac
import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from relayd.process.whole_files import write_whole

#: What stands for the hash of a line before the first.
GENESIS: Final = "0" * 64
#: Bytes that no line exceeds, so that readers need not hold more: relayd writes less, see `relayd.audit.events`, and
#: wrote up to this before it had seals.
MAX_LINE: Final = 1 << 20

_LINE = re.compile(rb'(\{.*),"hash":"([0-9a-f]{64})"\}', re.DOTALL)


class Line(Struct, frozen=True):
    """
    What makes a line a link of the chain.

    :ivar torn: digest of what stands before it that is no line of the relay's.
    :ivar foreign: how many lines of that no crash explains.
    :ivar mac: keyed digest of all its bytes before that, see `relayd.audit.seal`; ``None``: it is older than seals.
    :ivar hash: of all its bytes before the hash itself.
    """

    seq: int
    time: str
    event: str
    prev: str
    torn: str | None = None
    foreign: int = 0
    mac: str | None = None
    hash: str = ""


_decoder = msgspec.json.Decoder(Line)


def encode(
    seq: int, seconds: float, event: str, fields: Mapping[str, object], prev: str, key: bytes
) -> tuple[bytes, str]:
    """
    One line, its end included, and its hash.

    :param seconds: since the epoch.
    :param key: of the seal.
    """
    time = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    entry = {"seq": seq, "time": time, "event": event, **fields, "prev": prev}
    # ASCII only: what a main server puts into a name shall not move the cursor of whoever reads the log.
    body = json.dumps(entry, separators=(",", ":"))[:-1].encode()
    body += b',"mac":"' + mac(key, body).encode() + b'"'
    digest = sha256(body).hexdigest()
    return body + b',"hash":"' + digest.encode() + b'"}\n', digest


def mac(key: bytes, body: bytes) -> str:
    """HMAC-SHA256 of all the bytes of a line before it: nobody makes it without the *key* of the seal."""
    return hmac.digest(key, body, "sha256").hex()


def decode(line: bytes) -> Line | None:
    """The *line*, without its end; ``None`` if those are not the bytes that were written."""
    match = _LINE.fullmatch(line)
    if match is None or sha256(match[1]).hexdigest().encode() != match[2]:
        return None
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # somebody who can count hashes too
        return None


def command_digest(key: bytes, command: str) -> str:
    """
    HMAC-SHA256 of a command.

    Keyed, because commands are easily guessed: of a plain digest, whoever has a copy of the log could try out whether
    it is that of ``mysql -p…`` with one password after another.
    """
    return hmac.digest(key, command.encode("utf-8", "surrogatepass"), "sha256").hex()


def key_file(state_dir: str) -> str:
    """Where the key of `command_digest` is: apart from the log, so that a copy of that comes without it."""
    return os.path.join(state_dir, "audit-key")


def read_key(path: str, *, make: bool) -> bytes:
    """
    The key of `command_digest`.

    :param make: make one, for this user alone, where there is none.
    :raises OSError: when it cannot be read or made.
    :raises ValueError: when that is no key.
    """
    if make and not os.path.exists(path):
        write_whole(path, os.urandom(32).hex().encode() + b"\n")
    with open(path, "rb") as file:
        text = file.read(100).strip()
    if not re.fullmatch(rb"[0-9a-f]{64}", text):
        raise ValueError("it is no key of 64 hexadecimal digits")
    return bytes.fromhex(text.decode())
