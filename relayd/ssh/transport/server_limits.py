"""
What servers are known to bear: how long a command may be, how many sessions one connection may have; and to do.

A packet that is too long makes a server close the connection, and with it the commands of others. A command that is too
long for the host's system to start has its use, too: see `guarded`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

#: The longest payload of a packet that every server accepts, in bytes: 32,768 (RFC 4253, section 6.1); tinysshd
#: subtracts the padding and its length.
EVERY_SERVER: Final = 32768 - 32
#: The same for some servers, by their software. OpenSSH and Go's library count length and padding too, 256 KiB in all.
#: dropbear accepts packets of 35,000 bytes, with strings of 9,000 in them.
_KNOWN: Final = (
    (re.compile(rb"(OpenSSH.*|Go)", re.DOTALL), 256 * 1024 - 32),
    (re.compile(rb"dropbear.*", re.DOTALL), 9000 + 18),
)
#: A payload that needs no look at the server: none is known to accept less.
ALWAYS_FITS: Final = 9000
#: The longest argument or variable of Linux where pages have 4 KiB, in bytes with the zero at its end (execve(2),
#: MAX_ARG_STRLEN).
MAX_LINUX_ARGUMENT: Final = 128 * 1024
#: Bytes of a command that fits an argument, and the variable ``SSH_ORIGINAL_COMMAND=…`` of a forced command.
ALWAYS_STARTS: Final = MAX_LINUX_ARGUMENT - 22
#: Bytes of a command that fits an argument, but not that variable.
_GUARDED: Final = MAX_LINUX_ARGUMENT - 12
#: Systems without Linux's /proc, as OpenSSH names them in its version.
_OTHER_SYSTEMS: Final = (b"BSD", b"Windows")
#: What sshd writes when it cannot start the user's shell. A shell would write its own name and a line number first.
_NOT_STARTED: Final = re.compile(rb"/[^\s:]{1,200}: (Argument list too long)\r?\n")
_OPENSSH: Final = re.compile(rb"OpenSSH_(\d{1,3})\.(\d{1,3})")
#: The first version of OpenSSH that passes signals on.
_SIGNALS_SINCE: Final = (7, 9)
#: Bytes of an ``exec`` and of an ``env`` request without their texts.
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


def passes_signals(version: bytes) -> bool:
    """
    Whether a server is known to pass signals on to a command (RFC 4254, section 6.9).

    :param version: see `most_payload`.
    """
    software = _software(version)
    found = _OPENSSH.match(software)
    return software.startswith(b"dropbear") or (found is not None and (int(found[1]), int(found[2])) >= _SIGNALS_SINCE)


def most_of_command(payload: int) -> int:
    """The longest command, in bytes, that fits a packet with so many bytes of payload."""
    return payload - _EXEC


def needs_own_connection(payload: int, most: int) -> bool:
    """
    Whether a packet comes so near the limit of the server that it must not endanger other commands.

    Should the limit be wrong, the packet would end all that runs on its connection.
    """
    return 4 * payload > 3 * most


def guarded(command: bytes, version: bytes, *, by_key: bool) -> bytes | None:
    """
    One of our own commands, in a form that never starts a forced command in its place.

    OpenSSH passes the original command to a forced one (``ForceCommand``, ``command=``) as a variable. A command of the
    right length fits an argument and not that variable: Linux then starts the command itself, or nothing.

    :param version: see `most_payload`.
    :param by_key: whether a key was shown at the login: with dropbear a forced command belongs to a key.
    :return: ``None`` where there is no such form, or it would not help.
    """
    software = _software(version)
    if software.startswith(b"dropbear"):
        return None if by_key else command
    if any(system in software for system in _OTHER_SYSTEMS):
        return None
    return command.ljust(_GUARDED) if software.startswith(b"OpenSSH") else command


def not_started(status: int | None, stdout: int, stderr: bytes) -> str | None:
    """
    What the host's system said when it did not start a command because of its length; ``None``: it did start it.

    :param stdout: bytes that came there.
    """
    found = _NOT_STARTED.fullmatch(stderr) if status == 1 and not stdout else None
    return None if found is None else found[1].decode()
