"""
How long a command may be: for the packet that carries it, by what the server is, and for the system that starts it.

A packet that is too long makes a server end the connection, and with it the commands of others.  What is too long for
a system to start is of use, too: see `guarded`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

#: Bytes of the payload of a packet that every server takes: 32,768 (RFC 4253, section 6.1), of which tinysshd takes
#: away the length of the padding and the padding.
EVERY_SERVER: Final = 32768 - 32
#: What some servers take, by their software. OpenSSH and Go's library count length and padding too, 256 KiB in all.
#: dropbear takes packets of 35,000 bytes, and in them strings of 9,000.
_KNOWN: Final = (
    (re.compile(rb"(OpenSSH.*|Go)", re.DOTALL), 256 * 1024 - 32),
    (re.compile(rb"dropbear.*", re.DOTALL), 9000 + 18),
)
#: Whoever sends no more than this need not ask: it is the least of them.
ALWAYS_FITS: Final = 9000
#: Bytes of an argument or a variable, with its end, that Linux takes at most (execve(2), MAX_ARG_STRLEN), where pages
#: have 4 KiB.
MOST_OF_LINUX: Final = 128 * 1024
#: Bytes of a command that Linux takes as an argument, and as the variable ``SSH_ORIGINAL_COMMAND=…`` of forced ones.
ALWAYS_STARTS: Final = MOST_OF_LINUX - 22
#: Of one that it takes as an argument, but not as that variable.
_GUARDED: Final = MOST_OF_LINUX - 12
#: Systems without Linux's /proc, as OpenSSH names them in its version.
_OTHER_SYSTEMS: Final = (b"BSD", b"Windows")
#: What sshd writes then instead of starting the user's shell; a shell would name itself, and a line, before that.
_NOT_STARTED: Final = re.compile(rb"/[^\s:]{1,200}: (Argument list too long)\r?\n")
#: What a request has beside its texts: ``exec``, and ``env``.
_EXEC: Final = 18
_ENV: Final = 21


def _software(version: bytes) -> bytes:
    return version.split(b"-", 2)[-1]


def largest_payload(command: bytes, env: Sequence[tuple[str, bytes]]) -> int:
    """Bytes of the largest packet that a command is sent with."""
    most = _EXEC + len(command)
    for name, value in env:
        most = max(most, _ENV + len(name.encode("utf-8")) + len(value))
    return most


def most_payload(version: bytes) -> int:
    """
    Bytes of payload in one packet that a server is known to take.

    :param version: the line that it sent first, such as ``SSH-2.0-OpenSSH_9.2p1``.
    """
    software = _software(version)
    return next((most for name, most in _KNOWN if name.fullmatch(software)), EVERY_SERVER)


def most_sessions(version: bytes) -> int | None:
    """
    How many sessions at a time a server is known to bear on one connection; ``None``: nothing is known.

    :param version: see `most_payload`.
    """
    # dropbear 2022.83 loses output and exit status of sessions side by side, and at times dies of an assertion.
    return 1 if _software(version).startswith(b"dropbear") else None


def most_of_command(payload: int) -> int:
    """How long a command may be for a packet of so many bytes."""
    return payload - _EXEC


def needs_own_connection(payload: int, most: int) -> bool:
    """Whether a packet comes near what the server takes: were that known wrong, it would end what runs beside it."""
    return 4 * payload > 3 * most


def guarded(command: bytes, version: bytes, *, by_key: bool) -> bytes | None:
    """
    A command of our own in a form in which it cannot start another one that the host's site put in its place.

    OpenSSH gives a forced command (``ForceCommand``, ``command=``) what was ordered as a variable.  A command of the
    right length fits an argument and not that variable, so that Linux starts it, and nothing instead of it.

    :param version: see `most_payload`.
    :param by_key: whether a key was shown at the login: with dropbear a forced command belongs to a key.
    :return: ``None`` where there is no such form, or no use in it.
    """
    software = _software(version)
    if software.startswith(b"dropbear"):
        return None if by_key else command
    if any(system in software for system in _OTHER_SYSTEMS):
        return None
    return command.ljust(_GUARDED) if software.startswith(b"OpenSSH") else command


def not_started(status: int | None, stdout: int, stderr: bytes) -> str | None:
    """
    What the host's system says against the length of a command, where it did not start it.

    :param stdout: bytes that came there.
    """
    found = _NOT_STARTED.fullmatch(stderr) if status == 1 and not stdout else None
    return None if found is None else found[1].decode()
