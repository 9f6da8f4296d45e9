"""
Running commands on SSH servers: what users of this package call.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool

from relayd.ssh.dial import Dialer
from relayd.ssh.errors import (
    ExecRefused,
    NoExitStatus,
    NotRun,
    OutcomeUnknown,
    RunCancelled,
    RunTimeout,
    SessionTimeout,
    SSHError,
)
from relayd.ssh.hostkeys import KnownHosts
from relayd.ssh.keys import KeyStore
from relayd.ssh.output import OutputBuffer
from relayd.ssh.pool import Job, Pool
from relayd.ssh.pool_state import Counts
from relayd.ssh.session import ExitInfo, Session, State
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Target

#: Seconds that a command gets to end by itself after the first signal, before its result is given without its end.
TERM_GRACE = 0.25
#: Seconds after that until the command is killed and its channel closed.
KILL_AFTER = 2.0


class Completed(Struct, frozen=True, kw_only=True):
    """
    How a command that was started ended.

    :ivar exit: what the server said of its end.
    :ivar error: why that is not the whole story, where it is not: it ran out of time, was cancelled, ended without a
        status, or the connection was lost; the output is what had come until then.
    :ivar wait: seconds until the command was started.
    :ivar run: seconds from there to its end.
    """

    exit: ExitInfo
    stdout: OutputBuffer
    stderr: OutputBuffer
    error: SSHError | None
    wait: float
    run: float


class SSHClient:
    """
    Runs commands over pooled connections.

    :param reactor: provides time, TCP, name resolution and threads.
    """

    def __init__(self, reactor: Any, settings: SSHSettings) -> None:
        def defer_to_thread(function: Any, *args: Any) -> Deferred[Any]:
            return deferToThreadPool(reactor, reactor.getThreadPool(), function, *args)

        self._reactor = reactor
        self._settings = settings
        known_hosts = KnownHosts(settings.known_hosts, settings.host_keys)
        self._pool = Pool(reactor, Dialer(reactor, settings, known_hosts, KeyStore(defer_to_thread)), settings)

    def run(self, target: Target, command: bytes, deadline: float) -> Deferred[Completed]:
        """
        Run *command* once.

        :param deadline: in seconds of the reactor's clock.
        :return: a Deferred that fails with an `SSHError` when the command was certainly not run.  Cancelling it ends
            the command: the Deferred fires with how it ended.
        """
        return _Execution(self._reactor, self._pool, self._settings, target, command, deadline).done

    def counts(self) -> Counts:
        """What the pool holds now."""
        return self._pool.counts()

    def close(self) -> Deferred[None]:
        """Close all connections; commands on them end unknown."""
        return self._pool.close()


class _Execution:
    """One command with its deadline."""

    __slots__ = (
        "_begun", "_call", "_deadline", "_ending", "_job", "_pool", "_reactor", "_session", "_started", "_target",
        "done",
    )  # fmt: skip

    def __init__(
        self, reactor: Any, pool: Pool, settings: SSHSettings, target: Target, command: bytes, deadline: float
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._target = target
        self._begun = reactor.seconds()
        self._deadline = deadline
        self._session = Session(command, settings.max_output, self._exec_sent, self._ended)
        self._started = self._begun
        self._ending: SSHError | None = None
        self._job = Job(target, self._session, self._failed)
        self.done: Deferred[Completed] = Deferred(self._cancel)
        self._call: IDelayedCall | None = reactor.callLater(max(0.0, deadline - self._begun), self._timed_out)
        pool.submit(self._job)

    # What the session and the pool report

    def _exec_sent(self) -> None:
        self._started = self._reactor.seconds()

    def _ended(self) -> None:
        if self._session.exec_refused:
            self._fire(ExecRefused(host=self._target.host, port=self._target.port, username=self._target.username))
        elif self._ending is None and not self._session.exit.known:
            self._fire(self._completed(NoExitStatus(host=self._target.host, port=self._target.port)))
        else:
            self._fire(self._completed(self._ending))

    def _failed(self, error: SSHError) -> None:
        self._fire(self._completed(self._ending or error) if isinstance(error, OutcomeUnknown) else error)

    # Ending it early

    def _timed_out(self) -> None:
        self._call = None
        where = {
            "host": self._target.host,
            "port": self._target.port,
            "seconds": self._seconds(),
        }
        if not self._signal():
            self._withdraw(SessionTimeout(**where, waited_for=self._waited_for()))
            return
        self._ending = RunTimeout(**where)
        self._call = self._reactor.callLater(TERM_GRACE, self._give_up)

    def _cancel(self, _done: Deferred[Completed]) -> None:
        where = {"host": self._target.host, "port": self._target.port}
        if not self._signal():
            self._withdraw(NotRun(**where))
            return
        if self._ending is None:
            self._ending = RunCancelled(**where)
        # A Deferred has to fire while it is cancelled.
        self._give_up()

    def _signal(self) -> bool:
        """Ask the command to end. Says whether it was started at all."""
        connection = self._job.connection
        if connection is None or self._session.state not in (State.STARTING, State.RUNNING):
            return False
        connection.signal(self._session, "TERM")
        return True

    def _withdraw(self, error: SSHError) -> None:
        self._pool.withdraw(self._job)
        self._fire(error)

    def _give_up(self) -> None:
        """The result does not wait for a command that will not end; that is seen to behind its back."""
        self._pool.kill(self._job, KILL_AFTER)
        self._fire(self._completed(self._ending))

    def _waited_for(self) -> str:
        if self._session.state is State.OPENING:
            return "the host did not open a session"
        return "all sessions are in use" if self._pool.reaches(self._target) else "no connection is open yet"

    def _seconds(self) -> float:
        """The time that the command had, as somebody would have written it: the clock has moved on since then."""
        seconds: float = self._deadline - self._begun
        return round(seconds, 1) or seconds

    # The end

    def _completed(self, error: SSHError | None) -> Completed:
        now = self._reactor.seconds()
        return Completed(
            exit=self._session.exit,
            stdout=self._session.stdout,
            stderr=self._session.stderr,
            error=error,
            wait=self._started - self._begun,
            run=now - self._started,
        )

    def _fire(self, result: Completed | SSHError) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
        if self.done.called:
            return
        if isinstance(result, SSHError):
            self.done.errback(result)
        else:
            self.done.callback(result)
