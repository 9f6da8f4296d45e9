"""
Finds out which shell a host of Windows has: OpenSSH for Windows starts cmd.exe, unless its administrator chose another.

The first command for such a host waits for a question in a session of its own, which every shell can read and which
changes nothing.  It is never concluded from the end of a command, which may have run.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from typing import Final

from twisted.internet.defer import Deferred, succeed

from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.errors import SSHError
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.members import Where, where_is
from relayd.ssh.pool.pool import Pool
from relayd.ssh.shells.prepared import WindowsShell
from relayd.ssh.target import Target

#: What OpenSSH for Windows has in its version.
_SIGN: Final = b"for_Windows"
#: Hosts that are remembered with their shell.
_REMEMBERED: Final = 1024
#: Bytes of the answer that are kept.
_MOST: Final = 4096


def is_windows(connection: ClientConnection) -> bool:
    """Whether a server says that it runs on Windows, and has not said that it runs a command of its own."""
    transport = connection.transport
    return _SIGN in transport.otherVersionString and not transport.forced_command


def question(nonce: str) -> bytes:
    """
    A command whose output tells the shells apart.

    cmd.exe replaces the first variable, PowerShell the second, and a POSIX shell makes nothing of the second.
    """
    return f"echo relayd:{nonce}:%ComSpec%:$PSHOME:".encode("ascii")


def answer(nonce: str, said: bytes) -> WindowsShell | None:
    """Which shell gave this answer to `question`; ``None``: another one, or it cannot be told."""
    found = re.search(
        rb"^relayd:%s:(%%ComSpec%%|.*\\cmd\.exe):(.*):\r?$" % nonce.encode("ascii"), said, re.MULTILINE | re.IGNORECASE
    )
    if found is None:
        return None
    replaced, home = found[1] != b"%ComSpec%", found[2]
    if home == b"$PSHOME":
        return "cmd" if replaced else None
    return "powershell" if home and not replaced else None


class WindowsShells:
    """The shells of the hosts, as far as they are known."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: OrderedDict[Where, WindowsShell | None] = OrderedDict()
        self._questions: dict[Where, _Question] = {}

    def find(self, target: Target, connection: ClientConnection) -> Deferred[WindowsShell | None]:
        """
        Find out which shell a host has.

        :param connection: on which it can be asked.
        :return: fires with ``None`` for a shell that is neither; fails with an `SSHError` when the question could not
            be asked.
        """
        key = where_is(target)
        if key in self._known:
            self._known.move_to_end(key)
            return succeed(self._known[key])
        asked = self._questions.get(key)
        if asked is None:
            asked = self._questions[key] = _Question()
            found = asked.wait()
            asked.ask(self._pool, target, connection).addBoth(self._asked, key)
            return found
        return asked.wait()

    def asking(self, target: Target) -> bool:
        """Whether a host has not answered yet."""
        return where_is(target) in self._questions

    def forget(self, target: Target) -> None:
        """The shell turned out to be another one."""
        self._known.pop(where_is(target), None)

    def _asked(self, result: object, key: Where) -> None:
        question = self._questions.pop(key)
        if not question.failed:
            self._known[key] = question.shell
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        question.tell()


class _Question:
    """One question, and those who wait for its answer."""

    def __init__(self) -> None:
        self.shell: WindowsShell | None = None
        self.failed: SSHError | None = None
        self._waiting: list[Deferred[WindowsShell | None]] = []
        self._nonce = secrets.token_hex(8)
        self._answered: Deferred[None] = Deferred()

    def wait(self) -> Deferred[WindowsShell | None]:
        waiting: Deferred[WindowsShell | None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def ask(self, pool: Pool, target: Target, connection: ClientConnection) -> Deferred[None]:
        self._session = Session(Command(question(self._nonce), _MOST), lambda: None, self._ended)
        self._job = Job(target, self._session, self._failed)
        pool.submit(self._job, near=connection)
        return self._answered

    def _ended(self) -> None:
        self.shell = answer(self._nonce, self._session.stdout.raw())
        self._over()

    def _failed(self, error: SSHError) -> None:
        self.failed = error
        self._over()

    def _over(self) -> None:
        # Else it would hold itself until the next collection of garbage.
        self._session.let_go()
        self._job.let_go()
        self._answered.callback(None)

    def tell(self) -> None:
        """Fire what waits, each on its own: one of them may go on at once."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if self.failed is None:
                each.callback(self.shell)
            else:
                each.errback(self.failed)
