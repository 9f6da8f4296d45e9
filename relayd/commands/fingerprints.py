"""
Fingerprints of commands: they tell a duplicate from another command under the same ``commandId``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b

import msgspec

from relayd.wire.messages import Become, ExecuteCommand


class Fingerprints:
    """
    Makes keyed digests of what commands ask for.

    They have a key because commands may hold secrets that are easily guessed: somebody who has only the journal must
    not be able to try them out on its fingerprints.

    :param read_key: gives up to 64 secret bytes; called once, with the first command.
    """

    def __init__(self, read_key: Callable[[], bytes]) -> None:
        self._read_key = read_key

    @cached_property
    def _key(self) -> bytes:
        return self._read_key()

    def fingerprint_of(self, command: ExecuteCommand, origin: str = "") -> bytes:
        """
        The digest of what *command* asks for, in 16 bytes.

        :param origin: the main server that ordered it, where another one must not get its result.

        Credentials are left out: a command with a password that was changed meanwhile is the same command.
        """
        # Hosts as they were written: a dot at the end may lead to another machine.
        hops = [(hop.written_host, hop.port, hop.username) for hop in command.via] if command.via else []
        asked: tuple[object, ...] = (
            command.written_host, command.port, command.username, command.command,
            command.cwd, sorted(command.env), command.stdin, hops,
        )  # fmt: skip
        if (command.pty, command.become, command.script) != (None, None, None):  # else as in earlier versions
            become = command.become
            as_whom = (become.method, become.user) if isinstance(become, Become) else become
            asked = (*asked, command.pty, as_whom, command.script)
        if command.files or command.fetch:
            asked = (*asked, "files", command.files, command.fetch)
        if origin:
            asked = (asked, "main server", origin)
        return blake2b(msgspec.msgpack.encode(asked), digest_size=16, key=self._key).digest()
