"""
File descriptors: how many this process may have, and errors of the system in words that say so where none is left.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from errno import EMFILE, ENFILE
from typing import Final

from relayd.language.texts import Text

#: Descriptors that a relay needs beside its SSH connections: uplink, journal, logs, the status page's readers, files
#: and agents that are read while it dials.
RESERVED: Final = 40
#: Connections that are tried however few descriptors there are.
FEWEST: Final = 4
#: What stands for a limit that is none.
_MANY: Final = 1 << 30


def words_of(error: OSError, otherwise: str = "") -> Text:
    """
    What the system says of an error.

    :param otherwise: said where it says nothing; by default the name of the error.
    """
    if isinstance(error.errno, int) and error.errno in (EMFILE, ENFILE):
        return words_for(error.errno)
    return Text(error.strerror or otherwise or type(error).__name__)


def words_for(number: int) -> Text:
    """Likewise, by the error's number."""
    if number == EMFILE:
        return Text(
            "{error}: this relay's limit is {limit} (LimitNOFILE= of its unit, or ulimit -n)",
            error=Text(os.strerror(number)),
            limit=limit(),
        )
    if number == ENFILE:
        return Text("{error}: the limit of the whole machine is reached (fs.file-max)", error=Text(os.strerror(number)))
    return Text(os.strerror(number))


def is_shortage(words: object) -> bool:
    """Whether *words*, or those within them, were made of an error for want of a descriptor."""
    if not isinstance(words, Text):
        return False
    ours = {words_for(number).template for number in (EMFILE, ENFILE)}
    return words.template in ours or any(map(is_shortage, words.fields.values()))


def shortage() -> Text | None:
    """Why no descriptor can be had now; ``None``: one can."""
    try:
        os.close(os.dup(2))
    except OSError as error:
        return words_of(error) if error.errno in (EMFILE, ENFILE) else None
    return None


def limit() -> int:
    """How many descriptors this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MANY if soft == resource.RLIM_INFINITY else soft


def raise_limit() -> None:
    """Have as many descriptors as this process may give itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # some systems call unlimited what they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_within(most: int) -> int:
    """How many connections, *most* at most, there can be by the limit of now."""
    return min(most, max(FEWEST, limit() - RESERVED))
