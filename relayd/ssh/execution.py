"""
One command with its deadline, from the wait for a connection to its result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.language.texts import Text, span
from relayd.network.patterns import covers_host
from relayd.network.steady_clock import steady_seconds
from relayd.ssh.become.dialogue import BecomeDialogue
from relayd.ssh.become.texts import Become
from relayd.ssh.channels.channel import State
from relayd.ssh.channels.session import Command, ExitInfo, OutputReader, Permission, Session
from relayd.ssh.channels.surroundings import Progress
from relayd.ssh.channels.terminal import Terminal
from relayd.ssh.ending.account import AccountCheck, answers_for_account
from relayd.ssh.ending.ending import Ending, Killed
from relayd.ssh.ending.windows import WindowsEnding
from relayd.ssh.errors import (
    ConnectionLost,
    ExecRefused,
    NoExitStatus,
    NotRun,
    OutcomeUnknown,
    RunCancelled,
    RunTimeout,
    SessionTimeout,
    ShellUnsuitable,
    SSHError,
    TerminalRefused,
)
from relayd.ssh.outcome import (
    CUT,
    HELD,
    Completed,
    connection_lost,
    ended_early,
    give,
    not_reached,
    reached,
    too_long_to_start,
)
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.pool import Pool
from relayd.ssh.settings import LiveSettings
from relayd.ssh.shells.prepared import Prepared, WindowsShell
from relayd.ssh.shells.windows import WindowsShells, is_windows
from relayd.ssh.target import Target
from relayd.ssh.transport.server_limits import ALWAYS_FITS, largest_payload

#: Seconds that each byte of output takes to become a result that is recorded and sent, on a slow machine.
BYTE_TAKES = 50e-9
#: Seconds after a command's deadline at which its result is given, whatever is known of its end by then, unless the
#: request says otherwise.
RESULT_AFTER = 0.4
#: Seconds for the check whether it was the command that answered, or the account.
CHECK_WITHIN = 5.0


class RunRequest(Struct, frozen=True, kw_only=True):
    """What is to be run, and until when: the arguments of `relayd.ssh.client.SSHClient.run`, which explains them."""

    target: Target
    command: bytes
    deadline: float
    timeout: float | None
    grace: float | None
    stdin: bytes
    env: Sequence[tuple[str, bytes]]
    progress: Progress | None
    reader: OutputReader | None
    shell: bool
    permission: Permission | None
    terminal: Terminal | None
    become: Become | None
    windows: Callable[[WindowsShell], Prepared] | None
    needle: str

    def __repr__(self) -> str:
        return f"RunRequest({self.target!r})"  # command, input and variables may hold secrets


class Execution:
    """
    Runs one command.

    More than 25 methods, as all that can happen to a command comes here, each in a few lines.

    :param settings: as they are when the command comes.
    :ivar done: fires with how it ended, and fails when it was not run; see `relayd.ssh.client.SSHClient.run`.
    """

    __slots__ = (
        "_begun", "_call", "_check", "_clock", "_ending", "_grace", "_job", "_needle", "_opening", "_permission",
        "_pool", "_session", "_settings", "_settled", "_shell", "_shells", "_started", "_submitted", "_target",
        "_timeout", "_why", "_windows", "done",
    )  # fmt: skip

    def __init__(
        self, clock: IReactorTime, pool: Pool, request: RunRequest, settings: LiveSettings, shells: WindowsShells
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._shells = shells
        self._settings = settings
        self._target = request.target
        self._begun = clock.seconds()
        # Rounded, as somebody would have written it: the clock has moved on since the deadline was set.
        left = request.deadline - self._begun
        self._timeout = (round(left, 1) or left) if request.timeout is None else request.timeout
        self._grace = RESULT_AFTER if request.grace is None else request.grace
        self._shell = request.shell
        command = _command(request, settings.max_output)
        self._windows, self._needle = request.windows, request.needle
        self._permission = request.permission
        self._session = Session(
            command,
            self._exec_sent,
            self._ended,
            reader=request.reader,
            permission=self._permission if self._windows is None else self._permit,
            on_forbidden=self._forbidden,
            on_left=self._left_open,
        )
        self._submitted = self._started = steady_seconds(clock)
        self._opening: dict[str, float] = {}
        self._ending: Ending | WindowsEnding | None = None
        self._settled = False
        self._check: AccountCheck | None = None
        self._why: type[SSHError] = RunTimeout
        payload = largest_payload(command.text, request.env)
        self._job = Job(request.target, self._session, self._failed, payload)
        self.done: Deferred[Completed] = Deferred(self._cancel)
        self._call: IDelayedCall | None = clock.callLater(max(0.0, left), self._timed_out)
        pool.submit(self._job)

    # What the session and the pool report

    def _permit(self) -> Deferred[None]:
        """A channel is asked for: which shell a host of Windows has is found out before the command may run."""
        connection = self._job.connection
        if connection is None or not is_windows(connection):
            return self._permission() if self._permission is not None else succeed(None)
        return self._shells.find(self._target, connection).addCallback(self._found)

    def _found(self, shell: WindowsShell | None) -> Deferred[None]:
        if self.done.called:
            # The command was given up while the host was asked.
            raise NotRun(host=self._target.host, port=self._target.port)
        if shell is not None and self._windows is not None:
            prepared = self._windows(shell)
            self._shell, self._needle = prepared.ended_by == "posix", prepared.needle
            self._session.replace(
                Command(prepared.text, 0, stdin=prepared.stdin, env=prepared.env, progress=prepared.progress)
            )
        return self._permission() if self._permission is not None else succeed(None)

    def _exec_sent(self) -> None:
        self._started = steady_seconds(self._clock)
        connection = self._job.connection
        if connection is not None and connection.opened >= self._begun:
            self._opening = connection.timings

    def _forbidden(self, failure: Failure) -> None:
        self._pool.withdraw(self._job)
        self._fire(failure)

    def _ended(self) -> None:
        if self._session.exec_refused:
            kind = TerminalRefused if self._session.terminal_refused else ExecRefused
            self._fire(kind(host=self._target.host, port=self._target.port, username=self._target.username))
        elif self._ending is not None and self._ending.channel_ended():
            if self._settled:
                self._give_result()
            # Else it tells when all of it has ended.
        elif not self._session.exit.known and self._begun_to_run():
            self._no_status()
        elif self._ending is None and answers_for_account(self._session) and not self._forced():
            self._check_account()
        else:
            payload = self._job.payload
            too_long = too_long_to_start(self._session, self._target, payload) if payload > ALWAYS_FITS else None
            self._fire(too_long or self._completed(None))

    def _no_status(self) -> None:
        target, settings = self._target, self._settings
        status = settings.hosts.of(target.host, target.port, target.username).no_exit_status
        if status is None and covers_host(settings.no_exit_status_hosts, target.host, target.port):
            status = 0
        if self._session.accepted and status is not None:
            self._session.exit = ExitInfo(status, None)
            self._fire(self._completed(None))
        else:
            self._fire(self._completed(NoExitStatus(host=target.host, port=target.port)))

    def _left_open(self, complete: bool) -> None:
        """The command has ended, and the server keeps its channel open, though nothing comes any more."""
        if self._ending is None:
            self._let_go(None if complete else HELD)

    def _cut_short(self) -> None:
        """The command has ended; the result does not wait for the rest of its output."""
        connection = self._job.connection
        complete = connection is not None and connection.output_complete(self._session)
        self._let_go(None if complete else CUT)

    def _let_go(self, remark: Text | None) -> None:
        # Closing the channel ends nothing on the host: what the command left running was ordered, too.
        self._pool.withdraw(self._job)
        self._fire(self._completed(None, remark=remark))

    def _check_account(self) -> None:
        if self._call is not None:
            left = self._call.getTime() - self._clock.seconds()
            self._call.reset(max(0.0, min(left, CHECK_WITHIN)))
        self._check = AccountCheck(self._pool, self._job, self._session, self._checked)

    def _forced(self) -> bool:
        """Whether the host would run a forced command once more."""
        connection = self._job.connection
        return connection is not None and connection.transport.forced_command

    def _checked(self, error: SSHError | None) -> None:
        self._fire(self._completed(None) if error is None else error)

    def _stop_check(self) -> bool:
        """The command has ended: its result waits no longer for the check of the account."""
        if self._check is None:
            return False
        self._check.stop()
        self._fire(self._completed(None))
        return True

    def _failed(self, error: SSHError) -> None:
        if isinstance(error, OutcomeUnknown) and not self._begun_to_run():
            reason = error.fields["reason"]
            self._fire(ConnectionLost(host=self._target.host, port=self._target.port, reason=reason))
        elif self._ending is None and self._session.exit.known and isinstance(error, OutcomeUnknown):
            self._fire(self._completed(None, remark=connection_lost(error)))
        elif self._ending is None or not self._ending.channel_ended():
            self._fire(self._completed(error) if isinstance(error, OutcomeUnknown) else error)

    # Ending it early

    def _timed_out(self) -> None:
        self._call = None
        if self._stop_check():
            return
        if not self._started_running():
            where = {"host": self._target.host, "port": self._target.port}
            self._withdraw(SessionTimeout(**where, time=span(self._timeout), waited_for=self._waited_for()))
            return
        if self._session.exit.known:
            self._cut_short()
            return
        self._why = RunTimeout
        # The result does not wait for a command that does not end; `Ending` goes on without it.
        kept = self._session.stdout.kept + self._session.stderr.kept
        self._call = self._clock.callLater(max(0.0, self._grace - kept * BYTE_TAKES), self._give_result)
        self._end()

    def _cancel(self, _done: Deferred[Completed]) -> None:
        if self._stop_check():
            return
        if not self._started_running():
            self._withdraw(NotRun(host=self._target.host, port=self._target.port))
            return
        if self._ending is None and self._session.exit.known:
            self._cut_short()
            return
        if self._ending is None:
            self._why = RunCancelled
            self._end()
        # A Deferred has to fire while it is cancelled.
        self._give_result()

    def _started_running(self) -> bool:
        """Whether the host may have been told to run the command."""
        told = self._job.connection is not None and self._session.state in (State.STARTING, State.RUNNING)
        return told and self._begun_to_run()

    def _begun_to_run(self) -> bool:
        """Whether the host may have got the command: not so while its user is still to become another one."""
        return self._session.dialogue is None or self._session.dialogue.ready

    def _end(self) -> None:
        common = (self._clock, self._pool, self._job, self._session)
        if self._needle:
            self._ending = WindowsEnding(*common, self._needle, self._on_settled)
        else:
            self._ending = Ending(*common, self._started, self._shell, self._on_settled)
        self._ending.begin()

    def _on_settled(self) -> None:
        self._settled = True
        # The mark that the shell has reached the command may still be on its way.
        if self.done.called or reached(self._session) or self._session.state is State.ENDED:
            self._give_result()

    def _withdraw(self, error: SSHError) -> None:
        self._pool.withdraw(self._job)
        self._fire(error)

    def _give_result(self) -> None:
        assert self._ending is not None
        killed = self._ending.killed
        error = ended_early(self._why, self._session, self._target, killed, self._timeout)
        self._fire(self._completed(error, killed))

    def _waited_for(self) -> Text:
        if self._shells.asking(self._target):
            return Text("the host did not say which shell it has")
        if self._session.state is State.OPENING:
            return Text("the host did not open a session")
        if not self._begun_to_run():
            return Text("its user did not become the other one")
        return self._pool.waits_for(self._job.target)

    # The end

    def _completed(self, error: SSHError | None, killed: Killed | None = None, remark: Text | None = None) -> Completed:
        """
        The result of a command that was started.

        :param remark: why the output may not be complete.
        """
        session = self._session
        if error is None and session.dialogue is not None and not session.dialogue.ready:
            error = session.dialogue.failure(self._target)
        elif error is None and session.progress is not None:
            complete = remark is None
            error = not_reached(session, self._target, complete=complete, forced=self._forced())
            if isinstance(error, ShellUnsuitable):
                self._shells.forget(self._target)
        return Completed(
            exit=session.exit,
            stdout=session.stdout,
            stderr=session.stderr,
            error=error,
            open=remark,
            killed=killed,
            timings={
                "wait": self._started - self._submitted,
                **self._opening,
                "run": steady_seconds(self._clock) - self._started,
            },
        )

    def _fire(self, result: Completed | SSHError | Failure) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
        if self._ending is None or self._ending.over:
            # Nothing more is to come. Through these two the command would hold itself, with its secrets, until the next
            # long collection of garbage, which each such command makes longer.
            self._session.let_go()
            self._job.let_go()
        give(self.done, result)


def _command(request: RunRequest, max_output: int) -> Command:
    """What the session runs."""
    dialogue = None
    text = request.command
    if request.terminal is not None and request.progress is not None:
        request.progress.on_terminal()
    if request.become is not None:
        on_terminal = request.terminal is not None
        dialogue = BecomeDialogue(request.become, text, request.stdin, on_terminal=on_terminal)
        text = dialogue.start
    return Command(
        text,
        max_output,
        stdin=request.stdin if dialogue is None else b"",
        env=request.env,
        progress=request.progress,
        terminal=request.terminal,
        dialogue=dialogue,
    )
