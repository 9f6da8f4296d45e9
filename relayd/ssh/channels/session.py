"""
One command on one SSH session channel: what is sent, what comes back, how it ended.

Source: RFC 4254, sections 5 and 6.  A `Session` does no I/O: its connection feeds it and asks it for packets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct
from twisted.conch.ssh.common import NS, getNS
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd.ssh.channels.channel import State, UsedConnection
from relayd.ssh.channels.output import OutputBuffer
from relayd.ssh.channels.surroundings import Progress
from relayd.ssh.channels.terminal import Terminal, typed_to_the_end

if TYPE_CHECKING:
    from relayd.ssh.errors import SSHError
    from relayd.ssh.target import Target

#: RFC 4254, section 6.10, with the numbers of POSIX and Linux: a shell reports 128 + number.
SIGNAL_NUMBERS = {
    "ABRT": 6, "ALRM": 14, "FPE": 8, "HUP": 1, "ILL": 4, "INT": 2, "KILL": 9, "PIPE": 13, "QUIT": 3, "SEGV": 11,
    "TERM": 15, "USR1": 10, "USR2": 12, "BUS": 7, "SYS": 31, "TRAP": 5, "XCPU": 24, "XFSZ": 25,
}  # fmt: skip


class ExitInfo(Struct, frozen=True):
    """How the remote command ended: with a status, by a signal, or, with neither, unknown."""

    status: int | None
    signal: str | None

    @property
    def known(self) -> bool:
        """Whether the server said anything."""
        return self.status is not None or self.signal is not None

    @property
    def exit_code(self) -> int | None:
        """The exit code that a shell would report: 128 + number for a signal."""
        if self.status is not None:
            return self.status
        if self.signal is not None:
            return 128 + SIGNAL_NUMBERS.get(self.signal, 0)
        return None


_NOT_ENDED: Final = ExitInfo(None, None)

#: Takes output as it arrives: whether it is stderr, and the bytes. A Deferred keeps the server from sending more than
#: its window until it fires.
OutputReader = Callable[[bool, bytes], Deferred[None] | None]

#: Permission to run a command: the Deferred fires when it may be run, and fails when it must not.
Permission = Callable[[], Deferred[None]]


class Dialogue(Protocol):
    """
    What is said with the host before the command may begin, such as a password for its prompt
    (`relayd.ssh.become.dialogue`).

    :ivar ready: whether it is over: the command has begun.
    """

    @property
    def ready(self) -> bool: ...

    def feed(self, data: bytes, is_stderr: bool) -> bytes:
        """Take output of the session; gives what of it belongs to the command."""

    def taken(self) -> tuple[bytes, bool]:
        """What is to be sent to the host now, and whether nothing follows it."""

    def failure(self, target: Target) -> SSHError:
        """Why the command has not begun, where the session has ended."""


class Command(Struct, frozen=True):
    """
    What is to be run in a session.

    :ivar text: what the server's shell gets.
    :ivar max_output: bytes kept of stdout and of stderr.
    :ivar stdin: what the command gets on its standard input, before EOF.
    :ivar stdin_open: whether more may follow (`relayd.ssh.channels.connection.ClientConnection.write`).
    :ivar env: environment variables; a server takes those that its configuration allows (RFC 4254, section 6.4).
    :ivar progress: takes out of the output what tells how far the shell came before the command.
    :ivar terminal: the pseudo-terminal that it has; ``None``: none.
    :ivar dialogue: what is said before it; *stdin* is not used then.
    """

    text: bytes
    max_output: int
    stdin: bytes = b""
    stdin_open: bool = False
    env: Sequence[tuple[str, bytes]] = ()
    progress: Progress | None = None
    terminal: Terminal | None = None
    dialogue: Dialogue | None = None

    def __repr__(self) -> str:
        return f"Command({len(self.text)} bytes)"  # text, input and variables may hold secrets


class Session:
    """
    One command, from its wait for a channel to its end.

    :param on_start: called when the ``exec`` request leaves.
    :param on_end: called once when the channel has closed after that; what happens before is its owner's business.
    :param reader: gets the output as it arrives, beside what is kept.
    :param permission: asked for when a channel is asked for; the ``exec`` request does not leave before it fires.
    :param on_forbidden: called with what that failed with: the command must not run.
    :param on_left: called when the command has ended, and the server leaves the channel open all the same, though
        nothing comes any more; with whether it had said that the output was complete.
    :ivar command: its text.
    :ivar accepted: whether the server said that it runs the command.
    :ivar exec_refused: whether it refused to run the command, or before that the terminal for it; not where something
        has come of the command all the same.
    :ivar terminal_refused: whether it refused the terminal.
    :ivar exit: what it said of the command's end.
    """

    __slots__ = (
        "_connection", "_go", "_later", "_on_end", "_on_forbidden", "_on_left", "_on_start", "_permission",
        "_permitted", "_terminal", "_terminal_asked", "accepted", "command", "dialogue", "env", "exec_refused", "exit",
        "progress", "reader", "state", "stderr", "stdin", "stdin_open", "stdout", "terminal_refused",
    )  # fmt: skip

    #: Of its channel (RFC 4254, section 6.1)
    kind = b"session"
    open_data = b""

    def __init__(
        self,
        command: Command,
        on_start: Callable[[], None],
        on_end: Callable[[], None],
        *,
        reader: OutputReader | None = None,
        permission: Permission | None = None,
        on_forbidden: Callable[[Failure], None] | None = None,
        on_left: Callable[[bool], None] | None = None,
    ) -> None:
        self.command = command.text
        self.dialogue = command.dialogue
        self._terminal = command.terminal
        self._terminal_asked = False
        self._take_input(command.stdin, command.stdin_open)
        self.env = command.env
        self.progress = command.progress
        self.reader = reader
        self.state = State.WAITING
        self.stdout = OutputBuffer(command.max_output)
        self.stderr = OutputBuffer(command.max_output)
        self.exit = _NOT_ENDED
        self.accepted = False
        self.exec_refused = False
        self.terminal_refused = False
        self._connection: UsedConnection | None = None
        self._on_start = on_start
        self._on_end = on_end
        self._permission = permission
        self._permitted = permission is None
        self._on_forbidden = on_forbidden
        self._on_left = on_left
        self._go: Callable[[], None] | None = None

    @property
    def said_nothing(self) -> bool:
        """Whether nothing has come of its command, not even a sign that a shell has reached it."""
        reached = self.progress is not None and self.progress.missing is None
        begun = self.dialogue is not None and self.dialogue.ready
        return not (reached or begun or self.stdout.total or self.stderr.total or self.exit.known)

    def replace(self, command: Command) -> None:
        """Run something else, as long as nothing was sent; its output is kept as that of the first one."""
        self.command = command.text
        self.env = command.env
        self.progress = command.progress
        self._take_input(command.stdin, command.stdin_open)

    def _take_input(self, stdin: bytes, stdin_open: bool) -> None:
        """What the command gets: now, or when its terminal is there, which knows no other end than a key."""
        self.stdin, self.stdin_open = stdin, stdin_open
        self._later: bytes | None = None
        if self._terminal is not None or self.dialogue is not None:
            if self.dialogue is None and not stdin_open:
                self._later = stdin
            self.stdin, self.stdin_open = b"", True

    # What the connection reports

    def opening(self, connection: UsedConnection) -> None:
        """A channel is asked for."""
        self.state = State.OPENING
        self.exec_refused = False
        self._go = None
        if self._terminal is not None or self.dialogue is not None:
            self._connection = connection
            self._terminal_asked = False
        permission, self._permission = self._permission, None
        if permission is not None:
            permission().addCallbacks(self._permit, self._forbid)

    def _permit(self, _: None) -> None:
        self._permitted = True
        go, self._go = self._go, None
        if go is not None:
            go()

    def _forbid(self, failure: Failure) -> None:
        if self._on_forbidden is not None:
            self._on_forbidden(failure)

    def when_permitted(self, go: Callable[[], None]) -> None:
        """The channel is open: *go* on when the command may run, unless another channel is asked for before that."""
        if self._permitted:
            go()
        else:
            self._go = go

    def opened(self) -> list[bytes]:
        """
        The channel is open, and the command may run.

        :return: the channel requests to send, each without the channel's number.
        """
        if self._terminal is not None:
            # The command waits for it: one that wants a terminal is not run without.
            self._terminal_asked = True
            return [self._terminal.request()]
        return self._begin()

    def _begin(self) -> list[bytes]:
        self.state = State.STARTING
        self._on_start()
        execute = _exec_request(self.command)
        if not self.env:
            return [execute]
        return [*(_env_request(name, value) for name, value in self.env), execute]

    def exec_answered(self, accepted: bool) -> bool:
        """
        The server answered the ``exec`` request, or the one for a terminal.

        :return: whether the channel can still be used. An answer to a request that was not made changes nothing.
        """
        if self._terminal_asked and self.state is State.OPENING:
            return self._terminal_answered(accepted)
        if self.state is not State.STARTING:
            return True
        if accepted:
            self.state = State.RUNNING
            self.accepted = True
        else:
            self.exec_refused = self.said_nothing
        return accepted

    def _terminal_answered(self, accepted: bool) -> bool:
        self._terminal_asked = False
        if not accepted:
            self.exec_refused = self.terminal_refused = True
            return False
        if self._connection is not None:
            for request in self._begin():
                self._connection.request(self, request)
            if self._later is not None:
                self._send_last(self._later)
        return True

    def _send_last(self, data: bytes) -> None:
        """Send data, and the end of the input."""
        if self._connection is None:
            return
        if self._terminal is not None:
            self._connection.write(self, typed_to_the_end(data))
        else:
            self._connection.write(self, data)
            self._connection.finish(self)

    def _converse(self, data: bytes, is_stderr: bool) -> bytes:
        """The host said something before the command: answer; gives what is the command's output."""
        if self.dialogue is None or self.dialogue.ready:
            return data
        data = self.dialogue.feed(data, is_stderr)
        answer, last = self.dialogue.taken()
        if last:
            self._send_last(answer)
        elif answer and self._connection is not None:
            self._connection.write(self, answer)
        return data

    def received(self, data: bytes, is_stderr: bool) -> Deferred[None] | None:
        """
        Take output.

        :return: ``None``, or what fires when it has been read.
        """
        if self.dialogue is not None:
            data = self._converse(data, is_stderr)
            if not data:
                return None
        if self.progress is not None and not is_stderr:
            data = self.progress.feed(data)
            if not data:
                return None
        (self.stderr if is_stderr else self.stdout).append(data)
        return None if self.reader is None else self.reader(is_stderr, data)

    def request_received(self, name: bytes, rest: bytes) -> None:
        """
        Take ``exit-status`` or ``exit-signal`` (RFC 4254, section 6.10); all others are ignored.

        A server may only send one of them. Where it sends both, the signal is taken: the status is then a filler, often
        0. A number that is cut off is no status.
        """
        if name == b"exit-status":
            if len(rest) >= 4 and self.exit.signal is None:
                self.exit = ExitInfo(int.from_bytes(rest[:4], "big"), None)
        elif name == b"exit-signal":
            signal = getNS(rest)[0][:19].decode("ascii", "replace").removeprefix("SIG")
            self.exit = ExitInfo(None, "".join(char for char in signal if char.isalnum())[:16])

    def survives(self, eof: bool) -> bool:
        """The connection is lost; says whether everything but the close had arrived."""
        return eof and self.exit.known

    def left(self, eof: bool) -> None:
        """Its command has ended, and no output has come for a while."""
        if self._on_left is not None:
            self._on_left(eof)

    def let_go(self) -> None:
        """Its owner has its result, and is not called any more."""
        self._on_start = self._on_end = _nothing
        self._on_forbidden = self._on_left = self._permission = self._connection = None

    def drained(self) -> None:
        """All of its standard input is sent: there is nothing more to send."""

    def ended(self) -> None:
        """The channel has closed, after the ``exec`` request was sent."""
        self.state = State.ENDED
        self._connection = None
        if self.progress is not None and (rest := self.progress.rest()):
            self.stdout.append(rest)
            if self.reader is not None:
                self.reader(False, rest)
        self._on_end()


def _nothing() -> None:
    pass


_EXEC: Final = NS(b"exec") + b"\1"


def _exec_request(command: bytes) -> bytes:
    """An ``exec`` request with a reply, without the channel number (RFC 4254, section 6.5)."""
    return _EXEC + NS(command)


def _env_request(name: str, value: bytes) -> bytes:
    """An ``env`` request without a reply: a server that does not allow the variable ignores it (section 6.4)."""
    return NS(b"env") + b"\0" + NS(name.encode("utf-8")) + NS(value)


def signal_request(name: str) -> bytes:
    """A ``signal`` request, which has no reply, without the channel number (RFC 4254, section 6.9)."""
    return NS(b"signal") + b"\0" + NS(name.encode("ascii"))
