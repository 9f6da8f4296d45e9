"""
The connections that are open, and the commands that wait for one: does what `relayd.ssh.pool_state` decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.ssh.channel import ChannelUser
from relayd.ssh.connection import Connection
from relayd.ssh.dial import Dialer
from relayd.ssh.errors import (
    ConnectionDropped,
    ConnectionLost,
    LoginDropped,
    LoginRefused,
    NotRun,
    OutcomeUnknown,
    PasswordExpired,
    SessionRefused,
    SSHError,
)
from relayd.ssh.pool_state import MAX_DROPS, Counts, Dial, Member, PoolState, Start, Step
from relayd.ssh.refusals import Refusals
from relayd.ssh.session import State
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Target

#: Seconds that servers get to take our good-bye before their connections are cut.
CLOSE_GRACE = 2.0


class Job:
    """
    A session that wants a connection to a target.

    :param on_failure: called at most once, with what kept the command from running or, with
        `relayd.ssh.errors.OutcomeUnknown`, from being seen to its end.
    """

    __slots__ = ("connection", "doomed", "drops", "on_failure", "session", "target")

    def __init__(self, target: Target, session: ChannelUser, on_failure: Callable[[SSHError], None]) -> None:
        self.target = target
        self.session = session
        self.on_failure = on_failure
        self.connection: Connection | None = None
        self.drops = 0
        self.doomed = False


class Pool:
    """
    Runs sessions on connections that it opens, shares and closes as needed.

    :param reactor: provides time.
    """

    _log = Logger("relayd.ssh")

    def __init__(self, reactor: Any, dialer: Dialer, settings: SSHSettings) -> None:
        self._reactor = reactor
        self._dialer = dialer
        self._settings = settings
        self._state: PoolState[Job] = PoolState(settings.max_sessions, settings.max_connections)
        self._refusals = Refusals()
        self._jobs: dict[ChannelUser, Job] = {}
        self._members: dict[Connection, Member[Job]] = {}
        self._connections: dict[Member[Job], Connection] = {}
        self._dials: dict[Member[Job], Deferred[Any]] = {}
        self._wakes: dict[Target, IDelayedCall] = {}
        self._kills: dict[Job, IDelayedCall] = {}
        self._sweep_call: IDelayedCall | None = None
        self._gone: list[Deferred[None]] = []
        self._abort_call: IDelayedCall | None = None
        self._closing = False

    def counts(self) -> Counts:
        """What the pool holds now."""
        return self._state.counts()

    def reaches(self, target: Target) -> bool:
        """Whether a connection to *target* is open."""
        return self._state.reaches(target)

    def submit(self, job: Job, near: Connection | None = None) -> None:
        """Run the session of *job* as soon as there is a place for it."""
        if self._closing:
            job.on_failure(NotRun(host=job.target.host, port=job.target.port))
            return
        resting = None if self.reaches(job.target) else self._refusals.check(job.target, self._reactor.seconds())
        if resting is not None:
            job.on_failure(resting)
            return
        self._jobs[job.session] = job
        self._state.add(job.target, job)
        self._work(job.target)

    def withdraw(self, job: Job) -> None:
        """
        Give up a job: it waits no longer, and if it has a channel that is closed. Its `on_failure` is not called.
        """
        if self._forget(job.session) is None:
            return
        if self._state.remove(job.target, job):
            return
        if job.connection is not None:
            job.connection.close(job.session)

    def kill(self, job: Job, delay: float) -> None:
        """
        The command of *job* was asked to end, and nobody waits for it any more: after *delay* seconds it is killed
        and its channel closed.
        """
        if job.session in self._jobs:
            self._kills[job] = self._reactor.callLater(delay, self._kill, job)

    def close(self) -> Deferred[None]:
        """Close every connection; what waits fails. Fires when all are gone."""
        self._closing = True
        for target in self._state.targets():
            self._fail_waiting(target, NotRun(host=target.host, port=target.port))
        if self._sweep_call is not None:
            self._sweep_call.cancel()
            self._sweep_call = None
        for call in self._wakes.values():
            call.cancel()
        self._wakes.clear()
        for job, call in list(self._kills.items()):
            call.cancel()
            self._kill(job)
        for dial in list(self._dials.values()):
            dial.cancel()
        for connection in list(self._members):
            connection.disconnect("relayd closes")
        if self._members and self._abort_call is None:
            # A peer that reads no more must not hold up the end.
            self._abort_call = self._reactor.callLater(CLOSE_GRACE, self._abort)
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        self._check_gone()
        return gone

    def _abort(self) -> None:
        self._abort_call = None
        for connection in list(self._members):
            connection.transport.abort()

    def _check_gone(self) -> None:
        if self._closing and not self._members:
            if self._abort_call is not None:
                self._abort_call.cancel()
                self._abort_call = None
            waiting, self._gone = self._gone, []
            for gone in waiting:
                gone.callback(None)

    # Doing what was decided

    def _work(self, target: Target) -> None:
        for step in self._state.plan(target, self._reactor.seconds()):
            self._take(target, step)

    def _take(self, target: Target, step: Step[Job]) -> None:
        if isinstance(step, Start):
            connection = self._connections[step.member]
            step.work.connection = connection
            connection.start(step.work.session)
        elif isinstance(step, Dial):
            self._dial(step.member)
        else:
            self._wake_at(target, step.at)

    def _wake_at(self, target: Target, time: float) -> None:
        call = self._wakes.get(target)
        if call is not None:
            if call.getTime() <= time:
                return
            call.cancel()
        delay = max(0.0, time - self._reactor.seconds())
        self._wakes[target] = self._reactor.callLater(delay, self._wake, target)

    def _wake(self, target: Target) -> None:
        del self._wakes[target]
        self._work(target)

    def _dial(self, member: Member[Job]) -> None:
        dial: Deferred[Any] = Deferred.fromCoroutine(self._dialer.dial(member.target, self))
        self._dials[member] = dial
        dial.addCallbacks(self._dialled, self._not_dialled, callbackArgs=(member,), errbackArgs=(member,))

    def _dialled(self, connection: Connection, member: Member[Job]) -> None:
        del self._dials[member]
        self._members[connection] = member
        self._connections[member] = connection
        self._state.opened(member, self._reactor.seconds(), connection.transport.most_sessions())
        self._refusals.accepted(member.target)
        self._log.debug("{target!r}: connected", target=member.target)
        if self._closing:
            connection.disconnect("relayd closes")
            return
        if self._sweep_call is None:
            self._sweep_call = self._reactor.callLater(self._settings.idle_timeout / 4, self._sweep)
        self._handshake_ended(member.target)

    def _handshake_ended(self, target: Target) -> None:
        self._work(target)
        for other in self._state.waiting_at(target.host, target.port):
            self._work(other)

    def _not_dialled(self, failure: Failure, member: Member[Job]) -> None:
        del self._dials[member]
        target = member.target
        error = failure.value
        hung_up = isinstance(error, ConnectionDropped) and not isinstance(error, LoginDropped)
        out_of_reach = self._state.not_opened(member, self._reactor.seconds(), hung_up=hung_up)
        if self._closing:
            return
        if not isinstance(error, SSHError):
            # A fault of ours. Its text might hold what the host or the main server sent.
            self._log.error(
                "{target!r}: connecting failed unexpectedly: {kind} at {where}",
                target=target,
                kind=type(error).__name__,
                where=failure.frames[-1][:3] if failure.frames else "",
            )
            error = SSHError()
        self._log.info("{target!r}: {error}", target=target, error=str(error))
        if isinstance(error, LoginRefused | PasswordExpired):
            self._refusals.refused(target, error, self._reactor.seconds())
        if out_of_reach:
            self._fail_waiting(target, error)
        self._handshake_ended(target)

    def _fail_waiting(self, target: Target, error: SSHError) -> None:
        for job in self._state.take_waiting(target):
            self._fail(job, error)

    def _fail(self, job: Job, error: SSHError) -> None:
        if self._forget(job.session) is not None:
            job.on_failure(error)

    def _sweep(self) -> None:
        self._sweep_call = None
        for member in self._state.idle(self._reactor.seconds() - self._settings.idle_timeout):
            self._connections[member].disconnect("it was idle")
        if self._members:
            self._sweep_call = self._reactor.callLater(self._settings.idle_timeout / 4, self._sweep)

    def _kill(self, job: Job) -> None:
        del self._kills[job]
        if job.connection is not None:
            job.connection.signal(job.session, "KILL")
        self.withdraw(job)

    def _forget(self, session: ChannelUser) -> Job | None:
        job = self._jobs.pop(session, None)
        if job is not None:
            call = self._kills.pop(job, None)
            if call is not None:
                call.cancel()
        return job

    # ConnectionOwner

    def session_closed(self, connection: Connection, session: ChannelUser) -> None:
        self._forget(session)
        member = self._members[connection]
        self._state.session_closed(member, self._reactor.seconds())
        self._work(member.target)

    def session_refused(self, connection: Connection, session: ChannelUser, code: int, reason: str) -> None:
        member = self._members[connection]
        target = member.target
        for_good = self._state.session_refused(member, self._reactor.seconds())
        job = self._jobs.get(session)
        if job is not None:
            job.connection = None
            self._state.put_back(target, job)
        if for_good:
            error = SessionRefused(
                host=target.host, port=target.port, username=target.username, reason=reason or "no reason given"
            )
            self._fail_waiting(target, error)
            connection.disconnect("it opens no sessions")
        else:
            self._work(target)

    def connection_lost(self, connection: Connection, interrupted: list[ChannelUser], reason: str) -> None:
        member = self._members.pop(connection)
        del self._connections[member]
        self._state.lost(member)
        target = member.target
        self._log.debug("{target!r}: disconnected: {reason}", target=target, reason=reason)
        for session in reversed(interrupted):
            job = self._jobs.get(session)
            if job is None:
                continue
            job.connection = None
            if session.state is not State.WAITING:
                session.state = State.ENDED
                self._fail(job, OutcomeUnknown(host=target.host, port=target.port, reason=reason))
            elif job.drops >= MAX_DROPS or self._closing:
                self._fail(job, ConnectionLost(host=target.host, port=target.port, reason=reason))
            else:
                job.drops += 1
                self._state.put_back(target, job)
        if self._closing:
            self._check_gone()
        else:
            self._work(target)
