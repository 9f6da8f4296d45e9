"""
A network device in memory: a host that offers a command line on a pseudo-terminal, and runs no commands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relayd.ssh.testing.behaviour import Reply
from relayd.ssh.testing.host import MemoryHost


def _nothing(line: CommandLine, text: bytes) -> bytes | None:
    return b""


class CommandLine:
    """
    One login to a device: it echoes what is typed, and answers each line.

    :ivar prompt: what stands before each line.
    :ivar mode: whatever the device keeps of this login.
    """

    def __init__(self, device: MemoryDevice, write: Callable[[bytes], None], close: Callable[[], None]) -> None:
        self.prompt = device.prompt
        self.mode = ""
        self._device = device
        self._write = write
        self.close = close
        self._typed = b""
        write(device.greeting + self.prompt)

    def write(self, data: bytes) -> None:
        """Show something now."""
        self._write(data)

    def typed(self, data: bytes) -> None:
        """Take what the client sends."""
        for number in data:
            key = bytes((number,))
            if key != b"\r":
                self._typed += key
                if self._device.keys is not None and self._device.keys(self, key):
                    self._typed = b""
                elif self._device.echoes:
                    self._write(key)
                continue
            text, self._typed = self._typed, b""
            self._write(b"\r\n")
            self._device.lines.append(text)
            answer = b"" if not text and not self.mode else self._device.answer(self, text)
            if answer is not None:
                self._write(answer.replace(b"\n", b"\r\n") + self.prompt)


class MemoryDevice(MemoryHost):
    """
    A host in a `relayd.ssh.testing.MemoryNetwork` that has a command line, and nothing else.

    :param answer: gives the output of a line; ``None``: the prompt does not come either.
    :param keys: takes single keys, such as that which turns a page; says whether it did.
    :ivar lines: every line that came, the oldest first.
    """

    def __init__(
        self,
        name: str = "router.example",
        *,
        prompt: bytes = b"router>",
        greeting: bytes = b"\r\nWelcome!\r\n",
        answer: Callable[[CommandLine, bytes], bytes | None] = _nothing,
        keys: Callable[[CommandLine, bytes], bool] | None = None,
        echoes: bool = True,
        **others: Any,
    ) -> None:
        super().__init__(name, run=_no_commands, **others)
        self.prompt = prompt
        self.greeting = greeting
        self.answer = answer
        self.keys = keys
        self.echoes = echoes
        self.lines: list[bytes] = []
        self.command_lines: list[CommandLine] = []

    def open_shell(self, write: Callable[[bytes], None], close: Callable[[], None]) -> Callable[[bytes], None] | None:
        """See `MemoryHost.open_shell`."""
        line = CommandLine(self, write, close)
        self.command_lines.append(line)
        return line.typed


def _no_commands(command: bytes) -> Reply:
    return Reply(stdout=b"% Invalid input", exit_code=1)
