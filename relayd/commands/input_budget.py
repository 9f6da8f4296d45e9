"""
How much large commands may take of the memory, with what they read and their credentials.
"""

from __future__ import annotations

from typing import Final

from relayd.wire.messages import Become, ExecuteCommand, JumpHost

#: Bytes of large commands that are held at a time; a single one may be larger.
MAX_INPUT: Final = 24 << 20
#: Bytes from which on a command is a large one: the others are bounded by their number.
LARGE_INPUT: Final = 4 << 10


class InputBudget:
    """
    Bounds the memory that large commands take together.

    :ivar used: bytes that they take now.
    """

    def __init__(self) -> None:
        self.used = 0
        self._sizes: dict[str, int] = {}

    def reserve(self, command: ExecuteCommand) -> bool:
        """Whether there is room for *command*; it is taken then, until `release`."""
        size = _size(command)
        if size < LARGE_INPUT:
            return True
        if self._sizes and self.used + size > MAX_INPUT:
            return False
        self._sizes[command.command_id] = size
        self.used += size
        return True

    def release(self, command: ExecuteCommand) -> None:
        """Give back the room of *command*, if it had any."""
        if self._sizes:
            self.used -= self._sizes.pop(command.command_id, 0)


def _size(command: ExecuteCommand) -> int:
    """About how many bytes *command* takes, with all that can be large."""
    size = len(command.command) + len(command.stdin) + _size_of_credential(command)
    if command.env:
        size += sum(len(name) + len(value) for name, value in command.env)
    if isinstance(command.become, Become) and command.become.password is not None:
        size += len(command.become.password)
    if command.via:
        size += sum(map(_size_of_credential, command.via))
    if command.files:
        size += sum(len(file.path) + len(file.content) for file in command.files)
    if command.fetch:
        size += sum(len(each.path) for each in command.fetch)
    return size


def _size_of_credential(of: ExecuteCommand | JumpHost) -> int:
    size = 0 if of.certificate is None else len(of.certificate)
    for secret in (of.password, of.private_key, of.passphrase):
        if secret is not None:
            size += len(secret)
    return size
