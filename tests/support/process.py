"""
A child process whose output is read line by line: the common part of the real peers that tests run against.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.support.forks import ForkedProcess, can_spawn

#: Seconds for which the outputs of a process that has exited are read on.
PATIENCE = 5.0


class PeerFailed(Exception):
    """A real peer that a test needs could not be started, or ended early."""


class ChildProcess(ProcessProtocol):
    """
    One child process.

    :ivar on_line: called with each line of its output, without the line end: descriptor number (1 or 2), text.
    :ivar exit_code: how it ended: its exit code, minus the signal's number, or ``None`` while it runs.
    """

    transport: IProcessTransport

    def __init__(self, on_line: Callable[[int, str], None]) -> None:
        self.on_line = on_line
        self.exit_code: int | None = None
        self._partial = {1: b"", 2: b""}
        self._waiting: list[Deferred[int]] = []
        self._started = False
        self._give_up: IDelayedCall | None = None

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        may_fork: bool = False,
    ) -> None:
        """
        Run *argv*, by default with this process's environment.

        :param may_fork: whether a fork may become the process (`tests.support.forks`), which is quicker.
        """
        from twisted.internet import reactor  # trial's, which is chosen before any test runs

        environment = dict(os.environ) if env is None else dict(env)
        if may_fork and can_spawn(argv, environment):
            ForkedProcess(reactor, self, argv, environment, cwd)
        else:
            reactor.spawnProcess(self, argv[0], list(argv), env=environment, path=cwd)
        self._started = True

    def write_line(self, text: str) -> None:
        """Give it a line on its standard input."""
        self.transport.write(text.encode() + b"\n")

    def when_ended(self) -> Deferred[int]:
        """Fires with the exit code."""
        if self.exit_code is not None or not self._started:
            return succeed(self.exit_code or 0)
        waiting: Deferred[int] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def terminate(self) -> Deferred[int]:
        """
        Send SIGTERM, and SIGKILL when it has not ended within 5 s.

        :return: fires with the exit code once it has ended.
        """
        from twisted.internet import reactor

        ended = self.when_ended()
        if self.exit_code is None and self._started:
            self.transport.signalProcess("TERM")
            insist = reactor.callLater(5, self._insist)

            def calm(code: int) -> int:
                if insist.active():
                    insist.cancel()
                return code

            ended.addCallback(calm)
        return ended

    def _insist(self) -> None:
        if self._give_up is None:
            self.transport.signalProcess("KILL")

    def kill(self) -> Deferred[int]:
        """Send SIGKILL; fires once it has ended."""
        ended = self.when_ended()
        if self.exit_code is None and self._started:
            self.transport.signalProcess("KILL")
        return ended

    # What Twisted calls ----------------------------------------------------------------------------------------------

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._partial[childFD] = (self._partial[childFD] + data).split(b"\n")
        for line in lines:
            self.on_line(childFD, line.decode("utf-8", "replace").rstrip("\r"))

    def processExited(self, reason: Failure) -> None:
        from twisted.internet import reactor

        # A child of its own may still have its outputs, and would keep this from ending.
        self._give_up = reactor.callLater(PATIENCE, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        if self._give_up is not None and self._give_up.active():
            self._give_up.cancel()
        for descriptor, rest in self._partial.items():
            if rest:
                self.on_line(descriptor, rest.decode("utf-8", "replace"))
        ended = reason.value
        if isinstance(ended, ProcessDone):
            self.exit_code = 0
        else:
            code, number = getattr(ended, "exitCode", None), getattr(ended, "signal", None)
            self.exit_code = code if code is not None else -(number or signal.SIGKILL)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if not deferred.called:  # a test whose time was over has cancelled it
                deferred.callback(self.exit_code)


def needed(deferred: Deferred[None], failure: str) -> None:
    """Fail *deferred* with `PeerFailed`, unless it has fired already."""
    if not deferred.called:
        deferred.errback(PeerFailed(failure))
