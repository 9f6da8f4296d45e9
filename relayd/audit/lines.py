"""
The format of the audit log: one JSON object a line, each with the hash of the one before.
No I/O: values in, bytes out, and back.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

#: Stands for the hash of a line before the first.
GENESIS: Final = "0" * 64
#: Bytes that no line exceeds, so that readers need not hold more. relayd writes less, see `relayd.audit.events`;
#: versions without seals wrote up to this.
MAX_LINE: Final = 1 << 20

_LINE = re.compile(rb'(\{.*),"hash":"([0-9a-f]{64})"\}', re.DOTALL)


class Line(Struct, frozen=True):
    """
    The fields that make a line a link of the chain.

    :ivar prev: hash of the line before it.
    :ivar torn: digest of what stands before it that is no line of the relay's.
    :ivar foreign: how many lines of that no crash explains.
    :ivar mac: keyed digest of all its bytes before that, see `relayd.audit.seal`; ``None``: it is older than seals.
    :ivar hash: hash of all its bytes before the hash itself.
    """

    seq: int
    time: str
    event: str
    prev: str
    torn: str | None = None
    foreign: int = 0
    mac: str | None = None
    hash: str = ""


_encode = json.JSONEncoder(separators=(",", ":")).encode
_decoder = msgspec.json.Decoder(Line)


def encode_line(
    seq: int, seconds: float, event: str, fields: Mapping[str, object], prev: str, key: bytes
) -> tuple[bytes, str]:
    """
    One line, its end included, and its hash.

    :param seconds: since the epoch.
    :param key: of the seal.
    """
    time = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    entry = {"seq": seq, "time": time, "event": event, **fields, "prev": prev}
    # ASCII only: what a main server puts into a name must not move the cursor of a terminal that shows the log.
    body = _encode(entry)[:-1].encode()
    body += b',"mac":"' + mac(key, body).encode() + b'"'
    digest = sha256(body).hexdigest()
    return body + b',"hash":"' + digest.encode() + b'"}\n', digest


def mac(key: bytes, body: bytes) -> str:
    """HMAC-SHA256 of all the bytes of a line before it: nobody can make it without the *key* of the seal."""
    return hmac.digest(key, body, "sha256").hex()


def decode_line(line: bytes) -> Line | None:
    """Read a *line*, given without its end; ``None`` if those are not the bytes that were written."""
    match = _LINE.fullmatch(line)
    if match is None or sha256(match[1]).hexdigest().encode() != match[2]:
        return None
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # somebody who can compute hashes, too
        return None
