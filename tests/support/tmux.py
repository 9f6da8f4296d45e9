"""
A real terminal for tests: a session of tmux, which tells what stands on its screen and in which modes it is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue

#: Seconds until what a test waits for has to be there.
PATIENCE = 20.0
#: Modes of a terminal that belongs to the shell: no alternate screen, a cursor, long lines go on in the next one.
USUAL = "0 1 1"


class Terminal:
    """
    A terminal with a shell in it.

    :param reactor: runs tmux, and waits.
    """

    def __init__(self, reactor: Any) -> None:
        self.directory = tempfile.mkdtemp(prefix="relayd-test-tmux-")
        self._reactor = reactor

    async def start(self, width: int, height: int, environ: Mapping[str, str]) -> None:
        """
        Begin.

        :param environ: variables of the shell.
        """
        variables = [f"{name}={value}" for name, value in {"PS1": "$ ", **environ}.items()]
        shell = ("env", *variables, "bash", "--norc", "--noprofile")
        await self.tmux("new-session", "-d", "-x", str(width), "-y", str(height), *shell)

    async def close(self) -> None:
        """End it, with all that runs in it."""
        await self.tmux("kill-server")
        shutil.rmtree(self.directory)

    async def tmux(self, *words: str) -> str:
        """What a command of tmux prints."""
        program = shutil.which("tmux")
        assert program is not None, "tmux: tests/bootstrap.sh installs it"
        own = ("-u", "-f", "/dev/null", "-S", f"{self.directory}/tmux")
        output, errors, code = await getProcessOutputAndValue(program, (*own, *words), env={"LANG": "C.UTF-8"})
        if code:
            raise AssertionError(f"tmux {words}: {errors.decode()}")
        return str(output, "utf-8")

    async def type(self, text: str) -> None:
        """Type a line."""
        await self.tmux("send-keys", "-l", text)
        await self.press("Enter")

    async def press(self, key: str) -> None:
        """Press a key, by tmux's name for it."""
        await self.tmux("send-keys", key)

    async def screen(self, *options: str) -> str:
        """What stands on the screen."""
        return (await self.tmux("capture-pane", "-p", *options)).rstrip("\n")

    async def modes(self) -> str:
        """Whether it shows the alternate screen, a cursor, and long lines in more than one: each 0 or 1."""
        return (await self.tmux("display", "-p", "#{alternate_on} #{cursor_flag} #{wrap_flag}")).strip()

    async def history(self) -> str:
        """How many lines have left the screen at its top."""
        return (await self.tmux("display", "-p", "#{history_size}")).strip()

    async def when(self, holds: Callable[[str], object], *options: str) -> str:
        """Wait until *holds* is true of the screen; gives that screen."""
        deadline = self._reactor.seconds() + PATIENCE
        while not holds(shown := await self.screen(*options)):
            if self._reactor.seconds() > deadline:
                raise AssertionError(f"it does not come; the screen is\n{shown}")
            await self.pause()
        return shown

    def pause(self) -> Deferred[None]:
        """A moment."""
        return deferLater(self._reactor, 0.05)

    async def child(self) -> int:
        """The process that the shell runs."""
        shell = (await self.tmux("display", "-p", "#{pane_pid}")).strip()
        return int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0])
