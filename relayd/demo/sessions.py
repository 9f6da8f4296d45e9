"""
The sessions of the demonstration's SSH server: each runs one command as a process of this machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.connection import EXTENDED_DATA_STDERR
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

#: Signal names that a client may send (RFC 4254, section 6.10), with ours.
_SIGNALS = {
    name: getattr(signal, f"SIG{name}")
    for name in ("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2")
}
_SIGNAL_NAMES = {number: name for name, number in _SIGNALS.items()}

#: Starts what follows in a process group of its own, so that a signal reaches all of a command's processes.
SETSID = (shutil.which("setsid") or "",)
#: The same for systems without setsid(1).
PYTHON_SETSID = (
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])",
)
LAUNCHER: Sequence[str] = SETSID if SETSID[0] else PYTHON_SETSID


class Sessions:
    """Starts commands, and keeps those that still run."""

    def __init__(self, reactor: IReactorProcess, launcher: Sequence[str]) -> None:
        self._reactor = reactor
        self._launcher = launcher
        self._running: set[RunningCommand] = set()
        self._all_ended: Deferred[None] | None = None

    def start(self, channel: SessionChannel, user: str, command: bytes) -> RunningCommand:
        """
        Run *command* by the shell, in this process's working directory.

        :raises OSError: when no process can be made.
        """
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(Path.home()),
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
        }
        process = RunningCommand(channel, self)
        arguments: list[str | bytes] = [*self._launcher, "/bin/sh", "-c", command]
        self._reactor.spawnProcess(process, self._launcher[0], arguments, environment)
        self._running.add(process)
        return process

    def ended(self, process: RunningCommand) -> None:
        """*process* has ended, and its pipes are closed."""
        self._running.discard(process)
        if self._all_ended is not None and not self._running:
            self._all_ended.callback(None)

    async def end_all(self) -> None:
        """Kill the commands that still run, and wait until they are gone."""
        if self._running:
            all_ended: Deferred[None] = Deferred()
            self._all_ended = all_ended
            for process in list(self._running):
                process.signal(signal.SIGKILL)
                process.abandon()
            await all_ended


@implementer(IPushProducer)
class RunningCommand(ProcessProtocol):
    """
    One command: its process, joined to its channel.

    The channel is told to hold back the client's input while the process does not read it, for which this is the
    "producer" of the process's standard input.
    """

    transport: Any

    def __init__(self, channel: SessionChannel, sessions: Sessions) -> None:
        self._channel: SessionChannel | None = channel
        self._sessions = sessions
        #: Also its process group; ``None`` once the process has been reaped, when the number may be another's.
        self._group: int | None = None

    def connectionMade(self) -> None:
        self._group = self.transport.pid
        self.transport.registerProducer(self, True)

    def outReceived(self, data: bytes) -> None:
        if self._channel is not None:
            self._channel.write(data)

    def errReceived(self, data: bytes) -> None:
        if self._channel is not None:
            self._channel.writeExtended(EXTENDED_DATA_STDERR, data)

    def processExited(self, reason: Failure) -> None:
        """Report the exit at once, as OpenSSH does: children of the process may keep its pipes open for longer."""
        self._group = None
        if self._channel is not None:
            end: Any = reason.value  # ProcessDone or ProcessTerminated
            self._channel.process_exited(end.exitCode, end.signal, end.status)

    def processEnded(self, reason: Failure) -> None:
        if self._channel is not None:
            self._channel.output_ended()
        self._sessions.ended(self)

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group, unless the process has been reaped."""
        if self._group is not None:
            try:
                os.killpg(self._group, number)
            except ProcessLookupError:
                # the launcher has not made the group yet: then its one process is all there is
                self.transport.signalProcess(number)

    def abandon(self) -> None:
        """The client is gone: close the pipes, and drop what the process still writes."""
        self._channel = None
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def end_input(self) -> None:
        """Close standard input once what was written has been read."""
        # first, as a pipe with a paused producer would stay open for ever
        self.transport.unregisterProducer()
        self.transport.closeStdin()

    def pauseProducing(self) -> None:
        if self._channel is not None:
            self._channel.hold_input()

    def resumeProducing(self) -> None:
        if self._channel is not None:
            self._channel.take_input()

    def stopProducing(self) -> None:
        """The process reads no more input: drop what still arrives."""
        self.resumeProducing()


class SessionChannel(SSHChannel):
    """A session that runs one command."""

    name = b"session"
    conn: Any

    def __init__(self, sessions: Sessions, user: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._sessions = sessions
        self._user = user
        self._command: RunningCommand | None = None
        self._output_ended = False
        self._holding = False
        #: Bytes by which the client's window should have been opened while `_holding`.
        self._owed = 0

    # Requests of the client

    def request_exec(self, data: bytes) -> bool:
        if self._command is not None:
            return False
        command: bytes = getNS(data)[0]
        if b"\0" in command:
            return False
        try:
            self._command = self._sessions.start(self, self._user, command)
        except OSError:
            self._log.failure("Could not run a command")
            return False
        return True

    def request_signal(self, data: bytes) -> bool:
        number = _SIGNALS.get(getNS(data)[0].decode("ascii", "replace"))
        if self._command is None or number is None:
            return False
        self._command.signal(number)
        return True

    # Input

    def dataReceived(self, data: bytes) -> None:
        if self._command is not None:
            self._command.transport.write(data)

    def eofReceived(self) -> None:
        if self._command is not None:
            self._command.end_input()

    def hold_input(self) -> None:
        """The process does not read its input: let the client's window run out."""
        self._holding = True

    def take_input(self) -> None:
        """The process reads its input again: open the client's window."""
        self._holding = False
        owed, self._owed = self._owed, 0
        if owed:
            self.conn.adjustWindow(self, owed)

    def withholds(self, count: int) -> bool:
        """Whether the window may not be opened by *count* bytes now; it is then opened later."""
        if self._holding:
            self._owed = count  # each time it is all that is missing
        return self._holding

    # Output

    def stopWriting(self) -> None:
        if self._command is not None:
            self._command.transport.pauseProducing()

    def startWriting(self) -> None:
        if self._command is not None and not self._output_ended:
            self._command.transport.resumeProducing()

    def addWindowBytes(self, data: int) -> None:
        super().addWindowBytes(data)
        self._finish_when_sent()

    # The end

    def process_exited(self, code: int | None, number: int | None, status: int) -> None:
        """Tell the client how the command ended (RFC 4254, section 6.10)."""
        if number is None:
            self.conn.sendRequest(self, b"exit-status", struct.pack(">L", (code or 0) & 0xFF))
        else:
            name = _SIGNAL_NAMES.get(number, f"{number}@{sys.platform}")
            dumped = bytes([os.WCOREDUMP(status)])
            self.conn.sendRequest(self, b"exit-signal", NS(name.encode()) + dumped + NS(b"") + NS(b""))

    def output_ended(self) -> None:
        """Both pipes are closed: close the channel once the client has received everything."""
        self._output_ended = True
        self._finish_when_sent()

    def _finish_when_sent(self) -> None:
        if self._output_ended and not self.closing and not self.buf and not self.extBuf:
            self.conn.sendEOF(self)
            self.loseConnection()

    def closeReceived(self) -> None:
        """The client accepts no more output."""
        self.buf, self.extBuf = b"", []
        super().closeReceived()

    def closed(self) -> None:
        """The channel is closed: the client hung up, or the command ended."""
        command, self._command = self._command, None
        if command is not None and not self._output_ended:
            command.signal(signal.SIGHUP)
            command.abandon()
