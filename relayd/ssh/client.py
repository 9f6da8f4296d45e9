"""
Running commands on SSH servers: what users of this package call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from relayd.language.errors import Executed
from relayd.language.texts import Text, span
from relayd.network.patterns import covers_host
from relayd.ssh.channels.channel import State
from relayd.ssh.channels.output import OutputBuffer
from relayd.ssh.channels.session import ExitInfo, OutputReader, Permission, Session
from relayd.ssh.channels.surroundings import Progress
from relayd.ssh.ending.account import AccountCheck, answers_for_account
from relayd.ssh.ending.ending import Ending, Killed
from relayd.ssh.errors import (
    CommandNotStarted,
    CommandReplaced,
    ExecRefused,
    NoExitStatus,
    NotRun,
    OutcomeUnknown,
    RunCancelled,
    RunTimeout,
    SessionTimeout,
    ShellUnsuitable,
    SSHError,
)
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.host_keys.order_check import FileChecks
from relayd.ssh.keys.private import KeyStore
from relayd.ssh.pool.checked_names import AddressCheck, allow_all
from relayd.ssh.pool.decisions import Counts, HostCounts
from relayd.ssh.pool.dialer import Dialer
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.pool import Pool
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Target
from relayd.ssh.transport.server_limits import ALWAYS_STARTS, largest_payload, most_of_command, not_started
from relayd.ssh.worker import Worker

#: Seconds that each byte of output takes to become a result that is recorded and sent, on a slow machine.
BYTE_TAKES = 50e-9
#: Seconds after a command's deadline at which its result is given, whatever is known of its end by then, unless told.
RESULT_AFTER = 0.4

#: Seconds in which a host has to say whether it was the command that answered, or the account.
CHECK_WITHIN = 5.0

_HELD = Text(
    "[relayd: the command has ended, but something that it left running keeps its output open. It is left alone; what "
    "it writes from now on is not told. To avoid the wait, give it no output: COMMAND >/dev/null 2>&1 &]"
)

_CUT = Text(
    "[relayd: the command has ended, but its output has not: something that it left running may hold it, or the rest "
    "is still on its way. What comes from now on is not told]"
)

_OUTCOMES: dict[Killed, str] = {
    "confirmed": Text("It was ended: none of its processes is left."),
    "unconfirmed": Text("It was told to end; whether all of it did is not known yet."),
    "unsupported": Text("It was told to end, but the host offers no way to see to it: it may still be running."),
}
#: The same of a command before which the shell still was at its directory and variables.
_NOT_REACHED = Text("The shell had not come to it: it was not run, and will not be.")
_PERHAPS_NOT_REACHED = Text(
    "The shell had not come to it yet, and was told to end; whether it still does is not known."
)


class Completed(Struct, frozen=True, kw_only=True):
    """
    How a command that was started ended.

    :ivar open: why the output may not be complete though the command has ended: something that it left running holds
        it, or the connection was lost.
    :ivar exit: what the server said of its end.
    :ivar error: why that is not the whole story, where it is not: it ran out of time, was cancelled, ended without a
        status, or the connection was lost; the output is what had come until then.
    :ivar killed: where it was to end early: what became of it by the time of this.
    :ivar timings: seconds that it took, by phase: ``wait`` until the command was sent; within that, where a connection
        was opened for it, ``connect``, ``keyExchange`` and ``login``; then ``run``.
    """

    exit: ExitInfo
    stdout: OutputBuffer
    stderr: OutputBuffer
    error: SSHError | None
    open: Text | None
    killed: Killed | None
    timings: dict[str, float]


class SSHClient:
    """
    Runs commands over pooled connections.

    :param reactor: provides time, TCP, name resolution and threads.
    :param allows: to which addresses it may connect; by default to all.
    """

    def __init__(self, reactor: Any, settings: SSHSettings, allows: AddressCheck = allow_all) -> None:
        def defer_to_thread(function: Any, *args: Any) -> Deferred[Any]:
            return deferToThreadPool(reactor, reactor.getThreadPool(), function, *args)

        self._reactor = reactor
        self._settings = settings
        self._known_hosts = KnownHosts(settings.known_hosts, settings.host_keys)
        self._files = Worker(reactor, "known hosts")
        self._derivations = Worker(reactor, "passphrases")
        self._keys = KeyStore(reactor, defer_to_thread, self._derivations.run)
        checks = FileChecks(reactor, self._known_hosts, self._files.run)
        self._dialer = Dialer(reactor, settings, checks, self._keys, allows)
        self._pool = Pool(reactor, self._dialer, settings)

    def run(
        self,
        target: Target,
        command: bytes,
        deadline: float,
        *,
        timeout: float | None = None,
        grace: float | None = None,
        stdin: bytes = b"",
        env: Sequence[tuple[str, bytes]] = (),
        progress: Progress | None = None,
        reader: OutputReader | None = None,
        shell: bool = True,
        permission: Permission | None = None,
    ) -> Deferred[Completed]:
        """
        Run *command* once.

        :param deadline: in seconds of the reactor's clock.
        :param timeout: the seconds that messages name when it is over; by default those from now.
        :param grace: seconds after the deadline by which the result is given, whatever is known of the command's end;
            by default `RESULT_AFTER`.
        :param stdin: what it gets on its standard input before the end of it.
        :param env: environment variables, of which the host takes those that its configuration allows (``AcceptEnv``).
        :param progress: what came with *command* from `relayd.ssh.channels.surroundings.surround`.
        :param reader: gets the output as it arrives, beside what the result holds; see `OutputReader`.
        :param shell: whether the host is supposed to run a POSIX shell, so that a command that has to end early can be
            looked after with another one.
        :param permission: asked for, once, when the host is about to be told to run the command, which is not done
            before it fires; when it fails, the command is not run.
        :return: a Deferred that fails with an `SSHError`, or with what *permission* failed with, when the command was
            certainly not run.  Cancelling it ends
            the command: the Deferred fires with how it ended.
        """
        make_session = partial(
            Session,
            command,
            self._settings.max_output,
            stdin=stdin,
            env=env,
            progress=progress,
            reader=reader,
            permission=permission,
        )
        payload = largest_payload(command, env)
        return _Execution(
            self._reactor, self._pool, target, make_session, deadline, timeout, grace, shell, payload, self._silent
        ).done

    def _silent(self, target: Target) -> bool:
        """Whether *target* is known never to say how a command ended."""
        return covers_host(self._settings.no_exit_status_hosts, target.host, target.port)

    def configure(self, settings: SSHSettings, allows: AddressCheck) -> None:
        """
        Other settings for the commands and connections that come from now on.

        :param settings: as before in ``known_hosts``, in the numbers of sessions and connections, and in their age.
        """
        self._settings = settings
        self._known_hosts.policy = settings.host_keys
        self._dialer.configure(settings, allows)
        self._pool.configure(settings)

    def retire_all(self) -> None:
        """Give no more commands to the connections that there are."""
        self._pool.retire_all()

    def counts(self) -> Counts:
        """What the pool holds now."""
        return self._pool.counts()

    def hosts(self) -> list[HostCounts]:
        """The same for each host."""
        return self._pool.hosts()

    def close(self) -> Deferred[None]:
        """Close all connections; commands on them end unknown."""
        closed = self._pool.close()
        self._files.close()
        self._derivations.close()
        self._keys.close()
        return closed


def _ignore(_error: SSHError) -> None:
    """The command has its result already."""


class _Execution:
    """One command with its deadline."""

    __slots__ = (
        "_begun", "_call", "_check", "_ending", "_grace", "_job", "_opening", "_pool", "_reactor", "_session",
        "_settled", "_shell", "_silent", "_started", "_target", "_timeout", "_why", "done",
    )  # fmt: skip

    def __init__(
        self,
        reactor: Any,
        pool: Pool,
        target: Target,
        make_session: Callable[..., Session],
        deadline: float,
        timeout: float | None,
        grace: float | None,
        shell: bool,
        payload: int,
        silent: Callable[[Target], bool],
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._target = target
        self._begun = reactor.seconds()
        # Rounded, as somebody would have written it: the clock has moved on since the deadline was set.
        left = deadline - self._begun
        self._timeout = (round(left, 1) or left) if timeout is None else timeout
        self._grace = RESULT_AFTER if grace is None else grace
        self._shell = shell
        self._silent = silent
        self._session = make_session(
            self._exec_sent, self._ended, on_forbidden=self._forbidden, on_left=self._left_open
        )
        self._started = self._begun
        self._opening: dict[str, float] = {}
        self._ending: Ending | None = None
        self._settled = False
        self._check: AccountCheck | None = None
        self._why: type[SSHError] = RunTimeout
        self._job = Job(target, self._session, self._failed, payload)
        self.done: Deferred[Completed] = Deferred(self._cancel)
        self._call: IDelayedCall | None = reactor.callLater(max(0.0, deadline - self._begun), self._timed_out)
        pool.submit(self._job)

    # What the session and the pool report

    def _exec_sent(self) -> None:
        self._started = self._reactor.seconds()
        connection = self._job.connection
        if connection is not None and connection.opened >= self._begun:
            self._opening = connection.timings

    def _forbidden(self, failure: Failure) -> None:
        self._pool.withdraw(self._job)
        self._fire(failure)

    def _ended(self) -> None:
        if self._session.exec_refused:
            self._fire(ExecRefused(host=self._target.host, port=self._target.port, username=self._target.username))
        elif self._ending is not None and self._ending.channel_ended():
            if self._settled:
                self._give_result()
            # Else it tells when all of it has ended.
        elif not self._session.exit.known:
            self._no_status()
        elif self._ending is None and answers_for_account(self._session) and not self._forced():
            self._check_account()
        else:
            self._fire(self._not_started() or self._completed(None))

    def _no_status(self) -> None:
        if self._session.accepted and self._silent(self._target):
            self._session.exit = ExitInfo(0, None)
            self._fire(self._completed(None))
        else:
            self._fire(self._completed(NoExitStatus(host=self._target.host, port=self._target.port)))

    def _not_started(self) -> SSHError | None:
        """Whether the host's system found the command too long."""
        size = most_of_command(self._job.payload)
        if size <= ALWAYS_STARTS:
            return None
        session = self._session
        words = not_started(session.exit.status, session.stdout.total, session.stderr.raw())
        if words is None:
            return None
        where = {"host": self._target.host, "port": self._target.port}
        return CommandNotStarted(**where, words=words, size=size)

    def _left_open(self, complete: bool) -> None:
        """The command has ended, and the server keeps its channel open, though nothing comes any more."""
        if self._ending is None:
            self._let_go(None if complete else _HELD)

    def _cut_short(self) -> None:
        """The command has ended; what may come yet is not waited for."""
        connection = self._job.connection
        complete = connection is not None and connection.output_complete(self._session)
        self._let_go(None if complete else _CUT)

    def _let_go(self, remark: Text | None) -> None:
        # Closing the channel ends nothing on the host: what was left running was ordered, too.
        self._pool.withdraw(self._job)
        self._fire(self._completed(None, open=remark))

    def _check_account(self) -> None:
        if self._call is not None:
            left = self._call.getTime() - self._reactor.seconds()
            self._call.reset(max(0.0, min(left, CHECK_WITHIN)))
        self._check = AccountCheck(self._pool, self._job, self._session, self._checked)

    def _forced(self) -> bool:
        """Whether the host would run a command of its own once more."""
        connection = self._job.connection
        return connection is not None and connection.transport.forced_command

    def _checked(self, error: SSHError | None) -> None:
        self._fire(self._completed(None) if error is None else error)

    def _stop_check(self) -> bool:
        """The command has ended: its result waits no longer for what else the host has to say."""
        if self._check is None:
            return False
        self._check.stop()
        self._fire(self._completed(None))
        return True

    def _failed(self, error: SSHError) -> None:
        if self._ending is None and self._session.exit.known and isinstance(error, OutcomeUnknown):
            lost = Text(
                "[relayd: the command has ended, but then the connection was lost: {reason}. The end of its output may "
                "be missing]",
                reason=error.fields["reason"],
            )
            self._fire(self._completed(None, open=lost))
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
        # The result does not wait for a command that will not end; that is seen to behind its back.
        kept = self._session.stdout.kept + self._session.stderr.kept
        self._call = self._reactor.callLater(max(0.0, self._grace - kept * BYTE_TAKES), self._give_result)
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
        return self._job.connection is not None and self._session.state in (State.STARTING, State.RUNNING)

    def _end(self) -> None:
        self._ending = Ending(self._reactor, self._pool, self._job, self._session, self._shell, self._on_settled)
        self._ending.begin()

    def _on_settled(self) -> None:
        self._settled = True
        # Word that the shell came to the command may still be on its way.
        if self._reached() or self._session.state is State.ENDED:
            self._give_result()

    def _withdraw(self, error: SSHError) -> None:
        self._pool.withdraw(self._job)
        self._fire(error)

    def _give_result(self) -> None:
        assert self._ending is not None
        killed = self._ending.killed
        outcome = _OUTCOMES[killed]
        executed: Executed = "yes"
        if not self._reached():
            # An end in good order comes after all output, so after word that the shell came to the command.
            ended = self._session.state is State.ENDED and self._session.exit.known
            never = ended and killed == "confirmed"
            outcome = _NOT_REACHED if never else _PERHAPS_NOT_REACHED
            executed = "no" if never else "unknown"
        where = {"host": self._target.host, "port": self._target.port}
        error = self._why(**where, time=span(self._timeout), outcome=outcome)
        error.executed = executed
        self._fire(self._completed(error, killed))

    def _waited_for(self) -> Text:
        if self._session.state is State.OPENING:
            return Text("the host did not open a session")
        return self._pool.waits_for(self._job.target)

    # The end

    def _reached(self) -> bool:
        """Whether the shell is known to have come to the command."""
        progress = self._session.progress
        return progress is None or progress.missing is None

    def _not_reached(self, complete: bool) -> SSHError | None:
        """
        Why the shell did not come to the command, where its session has ended in good order.

        :param complete: whether all of the output is here, which would tell.
        """
        progress = self._session.progress
        kind = None if progress is None else progress.missing
        if kind is None:
            return None
        # Another command may have run instead, as far as anybody can tell.
        if not complete or (kind is ShellUnsuitable and (self._forced() or self._session.exit.status == 0)):
            kind = CommandReplaced
        return kind(host=self._target.host, port=self._target.port, username=self._target.username)

    def _timings(self) -> dict[str, float]:
        wait, run = self._started - self._begun, self._reactor.seconds() - self._started
        return {"wait": wait, **self._opening, "run": run}

    def _completed(self, error: SSHError | None, killed: Killed | None = None, open: Text | None = None) -> Completed:
        error = error or self._not_reached(open is None)
        return Completed(
            exit=self._session.exit,
            stdout=self._session.stdout,
            stderr=self._session.stderr,
            error=error,
            open=open,
            killed=killed,
            timings=self._timings(),
        )

    def _fire(self, result: Completed | SSHError | Failure) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
        if self.done.called:
            return
        if self._ending is None:
            # Nothing more is to come. The circle through these two would keep the command, and its secrets, until the
            # next long collection of garbage, which takes the longer for each.
            self._session.let_go()
            self._job.on_failure = _ignore
        if isinstance(result, SSHError | Failure):
            self.done.errback(result)
        else:
            self.done.callback(result)
