"""
The secrets that the hub makes for relays: keys, and tokens for which a relay gets one.

The store has SHA-256 digests of both.  As they are 256 random bits, nobody can find them by their digests, and to look
one up by its digest tells nothing by the time it takes.
"""

from __future__ import annotations

import re
from hashlib import sha256
from secrets import token_hex
from typing import Final

from relayd.wire.secret import Secret

#: How each begins, so that a scanner finds one that was published by mistake.
KEY_PREFIX: Final = "rlk_"
TOKEN_PREFIX: Final = "rle_"
_KEY: Final = re.compile(r"rlk_[0-9a-f]{64}")
_TOKEN: Final = re.compile(r"rle_[0-9a-f]{64}")


def new_key() -> Secret:
    """A new key of a relay."""
    return Secret(KEY_PREFIX + token_hex(32))


def new_token() -> Secret:
    """A new enrolment token."""
    return Secret(TOKEN_PREFIX + token_hex(32))


def digest_of_key(key: str) -> bytes | None:
    """The digest of a key; ``None``: it is none of ours."""
    return sha256(key.encode()).digest() if _KEY.fullmatch(key) else None


def digest_of_token(token: str) -> bytes | None:
    """The digest of an enrolment token; ``None``: it is none of ours."""
    return sha256(token.encode()).digest() if _TOKEN.fullmatch(token) else None
