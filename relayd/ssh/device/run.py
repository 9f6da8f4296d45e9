"""
One command for a device, from its wait for a command line to its result.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.language.texts import Text, span
from relayd.network.host_rules import Family as FamilyName
from relayd.network.steady_clock import steady_seconds
from relayd.ssh.channels.output import OutputBuffer
from relayd.ssh.channels.session import ExitInfo, OutputReader, Permission
from relayd.ssh.device.order import Carried, End
from relayd.ssh.device.session import DeviceSession
from relayd.ssh.ending.ending import Killed
from relayd.ssh.errors import (
    ConnectionLost,
    DeviceAsked,
    LineRefused,
    NotRun,
    OutcomeUnknown,
    RunCancelled,
    RunTimeout,
    SessionTimeout,
    SSHError,
)
from relayd.ssh.outcome import Completed, give, outcome_of
from relayd.ssh.target import Target


class DeviceRequest(Struct, frozen=True, kw_only=True):
    """
    What a device is to carry out.

    :ivar lines: the command, line by line.
    :ivar secret: for the privileged mode; ``None``: the login's own mode will do.
    :ivar deadline: in seconds of the reactor's clock.
    :ivar timeout: the seconds that messages name when it is over.
    :ivar most_sessions: command lines that may be open at a time for this login.
    :ivar most_commands: commands after which a command line is closed; ``None``: there is no limit.
    """

    target: Target
    family: FamilyName
    lines: tuple[bytes, ...]
    secret: bytes | None
    deadline: float
    timeout: float
    most_sessions: int
    most_commands: int | None = None
    reader: OutputReader | None = None
    permission: Permission | None = None

    def __repr__(self) -> str:
        return f"DeviceRequest({self.target!r})"  # lines may hold secrets


class DeviceRun:
    """
    Runs one command on the session that it is given.

    :param max_output: bytes kept of its output.
    :param forget: called when it has ended.
    :param waits_for: says what keeps commands for this login waiting.
    :ivar session: the one that it has.
    :ivar done: fires with how it ended, and fails when it was not run; as that of
        `relayd.ssh.client.SSHClient.run`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        request: DeviceRequest,
        max_output: int,
        forget: Callable[[DeviceRun], None],
        waits_for: Callable[[], Text],
    ) -> None:
        self._clock = clock
        self.request = request
        self._forget = forget
        self._waits_for = waits_for
        self._stdout = OutputBuffer(max_output)
        self._begun = self._started = steady_seconds(clock)
        self.session: DeviceSession | None = None
        self._sent = False
        self._permission = request.permission
        self._permitted = request.permission is None
        self.done: Deferred[Completed] = Deferred(self._cancel)
        left = max(0.0, request.deadline - clock.seconds())
        self._call: IDelayedCall | None = clock.callLater(left, self._timed_out)

    def start(self, session: DeviceSession) -> None:
        """Use *session*, which is ready."""
        self.session = session
        permission, self._permission = self._permission, None
        if permission is not None:
            permission().addCallbacks(self._permit, self._forbidden)
        elif self._permitted:
            self._send()

    def _permit(self, _: None) -> None:
        self._permitted = True
        self._send()

    def fail(self, error: SSHError) -> None:
        """It gets no session, or its session ended."""
        if not self._sent:
            lost = isinstance(error, OutcomeUnknown)  # of the session, not of this command
            self._fire(ConnectionLost(**self._where, reason=error.fields["reason"]) if lost else error)
            return
        unknown = error if isinstance(error, OutcomeUnknown) else OutcomeUnknown(**self._where, reason=error.text)
        self._fire(self._completed(ExitInfo(None, None), unknown))

    @property
    def is_sent(self) -> bool:
        """Whether the device may have carried out some of it."""
        return self._sent

    def _send(self) -> None:
        if self.done.called or self.session is None:
            return
        self._sent = True
        self._started = steady_seconds(self._clock)
        self.session.carry_out(self.request.lines, self._output, self._carried)

    def _forbidden(self, failure: Failure) -> None:
        self._fire(failure)
        self._forget(self)

    def _output(self, data: bytes) -> Deferred[None] | None:
        self._stdout.append(data)
        reader = self.request.reader
        return None if reader is None or self.done.called else reader(False, data)

    def _carried(self, carried: Carried) -> None:
        error: SSHError | None = None
        if carried.end is End.ASKED:
            error = DeviceAsked(**self._where, words=carried.words)
        elif carried.end is End.REFUSED and carried.sent < len(self.request.lines):
            error = LineRefused(**self._where, number=carried.sent, words=carried.words)
        self._fire(self._completed(ExitInfo(0 if carried.end is End.DONE else 1, None), error))
        self._forget(self)

    # Ending it early

    def _timed_out(self) -> None:
        self._call = None
        if self._sent:
            self._cut(RunTimeout)
        else:
            time = span(self.request.timeout)
            self._fire(SessionTimeout(**self._where, time=time, waited_for=self._waits_for()))
            self._forget(self)

    def _cancel(self, _done: Deferred[Completed]) -> None:
        if self._sent:
            self._cut(RunCancelled)
        else:
            self._fire(NotRun(**self._where))
            self._forget(self)

    def _cut(self, kind: type[SSHError]) -> None:
        """The device goes on for all that is known: the command line is closed."""
        if self.session is not None:
            self.session.close()
        error = kind(**self._where, time=span(self.request.timeout), outcome=outcome_of("unsupported"))
        self._fire(self._completed(ExitInfo(None, None), error))
        self._forget(self)

    # The end

    @property
    def _where(self) -> dict[str, object]:
        return {"host": self.request.target.host, "port": self.request.target.port}

    def _completed(self, exit_: ExitInfo, error: SSHError | None) -> Completed:
        killed: Killed | None = "unsupported" if isinstance(error, RunTimeout | RunCancelled) else None
        return Completed(
            exit=exit_,
            stdout=self._stdout,
            stderr=OutputBuffer(0),
            error=error,
            open=None,
            killed=killed,
            timings={
                "wait": self._started - self._begun,
                "run": steady_seconds(self._clock) - self._started,
            },
        )

    def _fire(self, result: Completed | SSHError | Failure) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
        give(self.done, result)
