"""
What is said with sudo or su before a command runs: when the password is given, when the command, and what went wrong.

The password goes to the one question of sudo that carries our nonce, or to the first question of su, and never twice.
No question is answered before the program was started, nor after the command has begun: that may ask for what it wants.
No I/O here.
"""

from __future__ import annotations

import enum
import re
import secrets
from typing import Final

from relayd.language.texts import Text, last_lines
from relayd.ssh.become.texts import Become, for_reader, start_text
from relayd.ssh.errors import (
    BecomeFailed,
    BecomeForbidden,
    BecomeMissing,
    BecomePasswordNeeded,
    BecomePasswordWrong,
    BecomePrompt,
    BecomeTerminalNeeded,
    SSHError,
)
from relayd.ssh.login.prompts import Asks, what_it_asks
from relayd.ssh.target import Target

#: Bytes kept of what sudo or su say; a lecture has some hundreds.
_MOST_SAID: Final = 16 * 1024
#: The end of a question to somebody at a terminal.
_QUESTION: Final = re.compile(rb"[:?>\]]\s*$|\xef\xbc\x9a\s*$")
#: What sudo and su say in English, where our text has them speak it; by what it means.
_WORDS: Final[tuple[tuple[re.Pattern[bytes], type[SSHError]], ...]] = (
    (re.compile(rb"must have a tty|must be run from a terminal"), BecomeTerminalNeeded),
    (re.compile(rb"a password is required|no askpass program"), BecomePasswordNeeded),
    (
        re.compile(rb"not in the sudoers|may not run sudo|is not allowed to (?:execute|run)|su: Permission denied"),
        BecomeForbidden,
    ),
    (re.compile(rb"Authentication failure|incorrect password"), BecomePasswordWrong),
)


class _State(enum.Enum):
    """How far it has come; it only moves down this list."""

    STARTING = enum.auto()  # the login shell has not started our text
    BECOMING = enum.auto()  # sudo or su is at work
    ANSWERED = enum.auto()  # it has got the password
    GIVEN_UP = enum.auto()  # it wants something else
    READY = enum.auto()  # the other user's shell reads the command


class BecomeDialogue:
    """
    Becomes another user in one session.

    :param text: what that user's shell runs.
    :param stdin: its standard input.
    :param stdin_open: whether more may follow.
    :param on_terminal: whether the session has a pseudo-terminal: then all that the host says is on stdout.
    :ivar start: the text for the login shell.
    :ivar leader: what the command's processes are known by, once it has begun, as the fields of
        `relayd.ssh.ending.processes.Leader`: a process, its session and its start; ``None``: the host does not tell.
    """

    __slots__ = ("_become", "_error", "_heard", "_more", "_nonce", "_on_terminal", "_out", "_state", "leader", "start")

    def __init__(
        self, become: Become, text: bytes, stdin: bytes = b"", *, stdin_open: bool = False, on_terminal: bool = False
    ) -> None:
        self._become = become
        self._nonce = nonce = secrets.token_hex(16)
        self._on_terminal = on_terminal
        self._more = for_reader(text) + stdin, not stdin_open
        self._out: tuple[bytes, bool] = b"", False
        self._heard = b""
        self._state = _State.STARTING
        self._error: type[SSHError] | None = None
        self.leader: tuple[int, int, int] | None = None
        self.start = start_text(become, nonce, on_terminal=on_terminal)

    def __repr__(self) -> str:
        return f"<BecomeDialogue {self._become!r}>"

    @property
    def become(self) -> Become:
        """As whom the command runs."""
        return self._become

    @property
    def on_terminal(self) -> bool:
        """Whether the session has a pseudo-terminal."""
        return self._on_terminal

    @property
    def ready(self) -> bool:
        """See `relayd.ssh.channels.session.Dialogue`, for this and the following methods."""
        return self._state is _State.READY

    def add(self, data: bytes) -> None:
        """Send more, after what the command gets first, as long as that was not sent."""
        self._more = self._more[0] + data, self._more[1]

    def feed(self, data: bytes, is_stderr: bool) -> bytes:
        if self.ready or is_stderr == self._on_terminal:
            return data
        heard = self._heard + data
        passed = b""
        if self._state is _State.STARTING:
            passed, started, heard = self._cut(heard, b"start")
            if started is None:
                self._heard = heard
                return passed
            self._state = _State.BECOMING
        said, ready, rest = self._cut(heard, b"ready")
        if ready is not None and self._state is not _State.GIVEN_UP:
            self._begin(ready)
            return passed + rest
        self._heard = (said + rest)[-_MOST_SAID:]
        self._listen()
        return passed

    def taken(self) -> tuple[bytes, bool]:
        out, self._out = self._out, (b"", False)
        return out

    def failure(self, target: Target) -> SSHError:
        where = {"host": target.host, "port": target.port, "username": target.username}
        become = {"method": self._become.method, "user": self._become.user}
        heard = re.sub(rb"relayd:[0-9a-f]*:\w*;", b"", self._heard)
        if self._become.password:
            # A terminal may repeat its input though it was asked not to.
            heard = heard.replace(self._become.password, "…".encode())
        words = last_lines(heard)
        said = Text("it said “{words}”", words=words) if words else Text("it said nothing")
        kind = self._error or next((kind for words, kind in _WORDS if words.search(self._heard)), BecomeFailed)
        if kind is BecomePasswordWrong and self._state is _State.BECOMING:
            kind = BecomeFailed  # no password was given
        if self._state is _State.STARTING:
            said = Text("the login shell did not start it: {said}", said=said)
        return kind(**where, **become, reason=said)

    def _cut(self, data: bytes, word: bytes) -> tuple[bytes, bytes | None, bytes]:
        """
        Look for a mark, which ends a line.

        :return: what is before it, what it says (``None``: it is not there), what is after it. Without the mark, the
            last is what may be its beginning.
        """
        mark = b"relayd:%s:%s" % (self._nonce.encode("ascii"), word)
        before, found, after = data.partition(mark)
        if found:
            value, end, rest = after.partition(b"\n")
            if end:
                return before, value.strip(b" \r;"), rest
            return before, None, found + after
        size = next(size for size in range(len(mark) - 1, -1, -1) if data.endswith(mark[:size]))
        return data[: len(data) - size], None, data[len(data) - size :]

    def _begin(self, mark: bytes) -> None:
        self._state = _State.READY
        self._heard = b""
        numbers = mark.split()
        if len(numbers) == 3 and all(number.isdigit() and len(number) < 20 for number in numbers):
            pid, session, start = map(int, numbers)
            if pid > 1 and session > 1:  # to kill(2) such a number means all processes
                self.leader = pid, session, start
        self._out, self._more = self._more, (b"", False)

    def _listen(self) -> None:
        """Answer what sudo or su say, if it is a question."""
        if self._state is _State.GIVEN_UP:
            return
        if b"relayd:%s:missing;" % self._nonce.encode("ascii") in self._heard:
            self._give_up(BecomeMissing)
        elif self._become.method == "sudo":
            question = b"relayd:%s:password;" % self._nonce.encode("ascii")
            if question in self._heard:
                self._heard = self._heard.replace(question, b"\n")
                self._answer()
        else:
            self._listen_to_su()

    def _listen_to_su(self) -> None:
        above, _, line = self._heard.rpartition(b"\n")
        if line.startswith(b"su:") or not _QUESTION.search(line):  # its own messages come in pieces, "su: " first
            return
        asks = what_it_asks(line, [above], self._become.user)
        if asks is Asks.PASSWORD or (asks is Asks.AGAIN and self._state is _State.ANSWERED):
            self._heard += b"\n"
            self._answer()
        else:
            self._give_up(BecomePrompt)

    def _answer(self) -> None:
        if self._state is _State.ANSWERED:
            self._give_up(BecomePasswordWrong)
        elif self._become.password is None:
            self._give_up(BecomePasswordNeeded)
        else:
            self._state = _State.ANSWERED
            self._out = self._become.password + b"\n", False

    def _give_up(self, error: type[SSHError]) -> None:
        """Say no more: the program gets the end of its input."""
        self._state = _State.GIVEN_UP
        self._error = error
        self._out = b"", True
