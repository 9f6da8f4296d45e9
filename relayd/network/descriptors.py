"""
File descriptors: how many this process may have, and the system's errors in words, which say when none is left.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from errno import EMFILE, ENFILE
from typing import Final

from relayd.language.texts import Text

#: Descriptors that a relay needs besides its SSH connections: uplink, journal, logs, clients of the status server, and
#: files and agents for logins.
RESERVED: Final = 40
#: Connections that are allowed, however few descriptors there are.
FEWEST: Final = 4
#: The limit of a process without a limit.
_MANY: Final = 1 << 30


def words_of(error: OSError, otherwise: str = "") -> Text:
    """
    The system's words for an error.

    :param otherwise: words for an error that has none; by default its name.
    """
    if isinstance(error.errno, int) and error.errno in (EMFILE, ENFILE):
        return words_for(error.errno)
    return Text(error.strerror or otherwise or type(error).__name__)


def words_for(number: int) -> Text:
    """The system's words for the number of an error."""
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
    """Whether *words*, or those within them, say that no descriptor was left."""
    if not isinstance(words, Text):
        return False
    ours = {words_for(number).template for number in (EMFILE, ENFILE)}
    return words.template in ours or any(map(is_shortage, words.fields.values()))


def shortage() -> Text | None:
    """Why no descriptor is left now; ``None``: one is left."""
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
    """Raise the limit of this process as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # some systems say "unlimited", and do not allow it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_within(most: int) -> int:
    """How many connections the limit of now allows, *most* at most."""
    return min(most, max(FEWEST, limit() - RESERVED))
