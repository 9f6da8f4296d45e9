"""
The connections that are open, and the commands that wait for one: does what `relayd.ssh.pool.decisions` decides.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.language.texts import Text
from relayd.ssh.channels.channel import ChannelUser, State
from relayd.ssh.channels.connection import Connection
from relayd.ssh.channels.forward import Forward
from relayd.ssh.channels.silence import SilenceWatch
from relayd.ssh.errors import (
    CommandTooLong,
    ConnectionDropped,
    ConnectionLost,
    LoginDropped,
    LoginRefused,
    NoDescriptor,
    NotRun,
    OutcomeUnknown,
    PasswordExpired,
    SessionRefused,
    SSHError,
    TooManyHops,
)
from relayd.ssh.pool.decisions import MAX_DROPS, Counts, HostCounts, PoolState, Start, Step
from relayd.ssh.pool.dialer import Dialer
from relayd.ssh.pool.jobs import Forwarding, Job, forward_error
from relayd.ssh.pool.members import Member, hops_of
from relayd.ssh.pool.moved_names import Names
from relayd.ssh.pool.places import Evict
from relayd.ssh.pool.refused_logins import Refusals
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Target
from relayd.ssh.transport.server_limits import (
    ALWAYS_FITS,
    most_of_command,
    most_payload,
    most_sessions,
    needs_own_connection,
)

#: Seconds that servers get to take our good-bye before their connections are cut.
CLOSE_GRACE = 2.0


class Pool:
    """
    Runs sessions on connections that it opens, shares and closes as needed.

    :param reactor: provides time and name resolution.
    """

    _log = Logger("relayd.ssh")

    def __init__(self, reactor: Any, dialer: Dialer, settings: SSHSettings) -> None:
        self._reactor = reactor
        self._dialer = dialer
        self._settings = settings
        self._state: PoolState[Job] = PoolState(
            settings.max_sessions,
            settings.max_connections,
            settings.max_total_connections,
            settings.max_connection_age,
        )
        self._refusals = Refusals()
        self._silence = SilenceWatch(reactor, self._silent)
        self._names = Names(reactor, self._moved)
        # What waits until it is known where its host's name leads now
        self._undirected: dict[Job, None] = {}
        # Why there could be no more connections when that was last so
        self._shortage: Text | None = None
        self._members: dict[Connection, Member[Job]] = {}
        self._connections: dict[Member[Job], Connection] = {}
        # What runs on each, or is about to; what was withdrawn is not there.
        self._jobs: dict[Connection, dict[ChannelUser, Job]] = {}
        self._dials: dict[Member[Job], Deferred[Any]] = {}
        self._alarm_call: IDelayedCall | None = None
        self._sweep_call: IDelayedCall | None = None
        self._gone: list[Deferred[None]] = []
        self._abort_call: IDelayedCall | None = None
        self._working = False
        self._closing = False

    def counts(self) -> Counts:
        """What the pool holds now."""
        return self._state.counts()

    def hosts(self) -> list[HostCounts]:
        """The same for each host."""
        return self._state.hosts()

    def limits(self) -> dict[str, int]:
        """Sessions on one connection, by host, of the hosts that were found to allow fewer than the settings do."""
        return self._state.limits()

    def configure(self, settings: SSHSettings) -> None:
        """
        Other settings from now on; those of numbers of sessions and connections, and of their age, must be as before.
        """
        self._settings = settings

    def retire_all(self) -> None:
        """Give no more work to the connections that there are; they are closed when nothing runs on them."""
        self._state.retire_all(self._reactor.seconds())
        self._work()

    def reaches(self, target: Target) -> bool:
        """Whether a connection to *target* is open."""
        return self._state.reaches(target)

    def waits_for(self, target: Target) -> Text:
        """What keeps work for *target* from a session, in words."""
        if self._state.is_held_back(target):
            if self._shortage is not None and self._state.is_short(self._reactor.seconds()):
                return self._shortage
            most = self._settings.max_total_connections
            return Text("all {most} connections that the relay may have are in use", most=most)
        if self._state.in_doubt(target):
            return Text("its connection does not answer, and no other one is open yet")
        if self.reaches(target):
            return Text("all sessions are in use")
        return Text("no connection is open yet")

    def submit(self, job: Job, near: Connection | None = None) -> None:
        """
        Run *job* as soon as there is a place for it.

        :param near: run it on this connection, if that has room now, or else before all others that wait.
        """
        member = None if near is None or self._closing else self._members.get(near)
        if near is not None and member is not None and self._state.start_on(member, self._reactor.seconds()):
            self._start(near, job)
            return
        error = self._hindrance(job.target)
        if error is not None:
            job.on_failure(error)
            return
        if near is None and job.target.via is None and self._names.ask(job.target.dialled, self._direct, job):
            self._undirected[job] = None
            return
        self._enter(job, first=near is not None)

    def _direct(self, job: Job) -> None:
        """What is known of the host's name by now decides."""
        if job in self._undirected:
            del self._undirected[job]
            self._enter(job)

    def _enter(self, job: Job, *, first: bool = False) -> None:
        self._state.add(job.target, job, forward=isinstance(job.channel, Forward), first=first)
        self._work()

    def forward(self, via: Target, host: str, port: int) -> Deferred[Forward]:
        """
        Have *via* connect to another host.

        :param host: as *via* knows it.
        :return: fires when bytes can flow, and fails with an `SSHError`; cancelling it gives the connection up.
        """
        return Forwarding(self.submit, self.withdraw, via, host, port).opened

    def login_refused(self, target: Target) -> None:
        """See `DialOwner.login_refused`."""
        self._refusals.host_refused(target, self._reactor.seconds())

    def account_closed(self, target: Target, error: SSHError) -> None:
        """The host lets the user in, but runs nothing: give it no more work, and let the login rest."""
        self._refusals.refused(target, error, self._reactor.seconds())
        self._state.retire(target, Text("its account is closed"))
        for connection, member in self._members.items():
            if member.target == target:
                connection.runs_nothing = error
        self._fail_waiting(target, error)
        self._work()

    def session_denied(self, connection: Connection, error: SSHError) -> None:
        """Nothing runs on *connection*, though it may on others: give it no more work, and let the login rest."""
        connection.runs_nothing = error
        member = self._members.get(connection)
        if member is None:
            return
        self._refusals.refused(member.target, error, self._reactor.seconds())
        self._state.retire_one(member, Text("nothing runs on it"))
        if not self.reaches(member.target):
            self._fail_waiting(member.target, error)
        self._work()

    def _hindrance(self, target: Target) -> SSHError | None:
        """Why nothing for *target* can be done now."""
        if self._closing:
            return NotRun(host=target.host, port=target.port)
        if target.via is not None and len(hops_of(target)) >= self._settings.max_total_connections:
            return TooManyHops(host=target.host, port=target.port, most=self._settings.max_total_connections)
        return None if self.reaches(target) else self._refusals.check(target, self._reactor.seconds())

    def withdraw(self, job: Job) -> None:
        """
        Give up a job: it waits no longer, and if it has a channel that is closed. Its `on_failure` is not called.
        """
        if job in self._undirected:
            del self._undirected[job]
        elif job.connection is not None and self._forget(job.connection, job.channel) is not None:
            job.connection.close(job.channel)
        elif self._state.remove(job.target, job):
            self._work()  # others may have waited behind it

    def close(self) -> Deferred[None]:
        """Close every connection; what waits fails. Fires when all are gone."""
        self._closing = True
        undirected, self._undirected = self._undirected, {}
        self._names.close()
        for job in undirected:
            job.on_failure(NotRun(host=job.target.host, port=job.target.port))
        for target in self._state.targets():
            self._fail_waiting(target, NotRun(host=target.host, port=target.port))
        for call in (self._sweep_call, self._alarm_call):
            if call is not None:
                call.cancel()
        self._sweep_call = self._alarm_call = None
        for dial in list(self._dials.values()):
            dial.cancel()
        for connection, jobs in self._jobs.items():
            for job in jobs.values():
                if job.doomed:
                    connection.signal(job.channel, "KILL")
        # The farthest first: what is sent to them passes through the others.
        for connection in sorted(self._members, key=self._distance, reverse=True):
            connection.disconnect(Text("relayd closes"))
        if self._members and self._abort_call is None:
            # A peer that reads no more must not hold up the end.
            self._abort_call = self._reactor.callLater(CLOSE_GRACE, self._abort)
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        self._check_gone()
        return gone

    def _distance(self, connection: Connection) -> int:
        return len(hops_of(self._members[connection].target))

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

    def _work(self) -> None:
        # What happens while a step is taken is seen by the next one.
        if self._working or self._closing:
            return
        self._working = True
        try:
            while not self._closing and (step := self._state.next_step(self._reactor.seconds())) is not None:
                self._take(step)
        finally:
            self._working = False
        self._set_alarm()

    def _take(self, step: Step[Job]) -> None:
        if isinstance(step, Start):
            self._start(self._connections[step.member], step.work)
        elif isinstance(step, Evict):
            connection = self._connections.get(step.member)
            if connection is not None:  # it may be gone by itself
                connection.disconnect(step.reason)
        else:
            self._dial(step.member)

    def _start(self, connection: Connection, job: Job) -> None:
        if job.payload > ALWAYS_FITS and not self._may_carry(connection, job):
            return
        job.connection = connection
        self._jobs[connection][job.channel] = job
        connection.start(job.channel)
        if isinstance(job.channel, Forward):
            # The answer comes when the other host has answered: this asks the server itself.
            connection.call()
        self._silence.asked(connection)

    def _silent(self, connection: Connection) -> None:
        """
        A connection does not answer: what it was asked for is done by another one, or by this one should it answer
        before that.  Nothing of it has run: the host was told of no command on a channel that is not open.
        """
        member = self._members[connection]
        users = connection.unanswered()
        proven = any(job.channel.state in (State.STARTING, State.RUNNING) for job in self._jobs[connection].values())
        if self._closing or not self._state.doubt(member, proven=proven):
            return
        target = member.target
        self._log.info("{target!r}: a connection does not answer; another one is opened beside it", target=target)
        for user in reversed(users):
            job = self._forget(connection, user)
            if job is None:  # it was withdrawn
                continue
            job.connection = None
            if isinstance(user, Forward):
                connection.close(user)
                job.on_failure(
                    ConnectionLost(host=target.host, port=target.port, reason=Text("it did not answer any more"))
                )
            else:
                connection.release(user)
                self._state.add(job.target, job, first=True)
        self._work()

    def _moved(self, connection: Connection) -> None:
        """The name of its host leads to other addresses now: it finishes what runs on it."""
        member = self._members[connection]
        self._log.info(
            "{target!r}: the name leads to {address} no longer; new commands go to where it leads now",
            target=member.target,
            address=connection.address,
        )
        self._state.retire_one(member, Text("the host's name leads elsewhere now"))
        self._work()

    def _may_carry(self, connection: Connection, job: Job) -> bool:
        """
        Whether the server takes packets as long as those of *job*, here where it would end what runs beside it. If not,
        the job fails, or gets a connection to itself.
        """
        target, most = job.target, most_payload(connection.transport.otherVersionString)
        if job.payload <= most and (target.alone or not needs_own_connection(job.payload, most)):
            return True
        self._state.session_closed(self._members[connection], self._reactor.seconds(), given=False)
        if job.payload > most:
            size, takes = most_of_command(job.payload), most_of_command(most)
            job.on_failure(CommandTooLong(host=target.host, port=target.port, size=size, most=takes))
        else:
            job.target = structs.replace(target, alone=True)
            self._state.add(job.target, job)
        self._work()
        return False

    def _set_alarm(self) -> None:
        time, call = self._state.alarm(), self._alarm_call
        if self._closing or time is None or (call is not None and call.getTime() <= time):
            return
        if call is not None:
            call.cancel()
        self._alarm_call = self._reactor.callLater(max(0.0, time - self._reactor.seconds()), self._alarm)

    def _alarm(self) -> None:
        self._alarm_call = None
        self._work()

    def _dial(self, member: Member[Job]) -> None:
        dial: Deferred[Any] = Deferred.fromCoroutine(self._dialer.dial(member.target, self))
        self._dials[member] = dial
        dial.addCallbacks(self._dialled, self._not_dialled, callbackArgs=(member,), errbackArgs=(member,))

    def _dialled(self, connection: Connection, member: Member[Job]) -> None:
        del self._dials[member]
        self._members[connection] = member
        self._connections[member] = connection
        self._jobs[connection] = {}
        self._state.opened(member, self._reactor.seconds(), most_sessions(connection.transport.otherVersionString))
        if member.target.via is None:
            self._names.opened(member.target.dialled, connection)
        self._refusals.accepted(member.target)
        self._log.debug("{target!r}: connected", target=member.target)
        if self._closing:
            connection.disconnect(Text("relayd closes"))
            return
        if self._sweep_call is None:
            self._sweep_call = self._reactor.callLater(self._settings.idle_timeout / 4, self._sweep)
        self._work()

    def _not_dialled(self, failure: Failure, member: Member[Job]) -> None:
        del self._dials[member]
        target = member.target
        error = failure.value
        here = not (isinstance(error, SSHError) and error.at_jump_host)
        hung_up = here and isinstance(error, ConnectionDropped) and not isinstance(error, LoginDropped)
        shortage = isinstance(error, NoDescriptor)
        if isinstance(error, NoDescriptor) and isinstance(reason := error.fields["reason"], Text):
            self._shortage = reason
        out_of_reach = self._state.not_opened(member, self._reactor.seconds(), hung_up=hung_up, shortage=shortage)
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
        if here and isinstance(error, LoginRefused | PasswordExpired):
            self._refusals.refused(target, error, self._reactor.seconds())
        if out_of_reach and not (error.retriable and self._state.in_doubt(target)):
            self._fail_waiting(target, error)
        self._work()

    def _fail_waiting(self, target: Target, error: SSHError, *, sessions_only: bool = False) -> None:
        for job in self._state.take_waiting(target, sessions_only=sessions_only):
            job.on_failure(error)

    def _sweep(self) -> None:
        self._sweep_call = None
        self._state.close_idle(self._reactor.seconds(), self._settings.idle_timeout)
        self._work()
        if self._members:
            self._sweep_call = self._reactor.callLater(self._settings.idle_timeout / 4, self._sweep)

    def _forget(self, connection: Connection, channel: ChannelUser) -> Job | None:
        jobs = self._jobs.get(connection)
        return None if jobs is None else jobs.pop(channel, None)

    # ConnectionOwner

    def connection_answers(self, connection: Connection) -> None:
        self._state.trust(self._members[connection])
        self._work()

    def session_closed(self, connection: Connection, session: ChannelUser) -> None:
        self._forget(connection, session)
        member, now = self._members[connection], self._reactor.seconds()
        if isinstance(session, Forward):
            self._state.forward_ended(member, now)
        else:
            self._state.session_closed(member, now)
        self._work()

    def session_refused(self, connection: Connection, session: ChannelUser, code: int, reason: str) -> None:
        member, now = self._members[connection], self._reactor.seconds()
        target = member.target
        where = {"host": target.host, "port": target.port}
        job = self._forget(connection, session)
        if isinstance(session, Forward):
            self._state.forward_ended(member, now)
            if job is not None:
                job.on_failure(forward_error(session, target, code, reason))
            self._work()
            return
        for_good = self._state.session_refused(member, now)
        if job is not None:
            job.connection = None
            if self._closing:
                job.on_failure(NotRun(**where))
            else:
                self._state.add(target, job, first=True)
        if for_good:
            error = SessionRefused(**where, username=target.username, reason=reason or Text("no reason given"))
            self._fail_waiting(target, error, sessions_only=True)
        self._work()

    def connection_lost(self, connection: Connection, interrupted: list[ChannelUser], reason: str) -> None:
        member = self._members.pop(connection)
        self._silence.forget(connection)
        if member.target.via is None:
            self._names.closed(member.target.dialled, connection)
        del self._connections[member]
        jobs = self._jobs.pop(connection)
        opening = sum(user.state is State.WAITING and not isinstance(user, Forward) for user in interrupted)
        self._state.lost(member, self._reactor.seconds(), opening)
        target = member.target
        where = {"host": target.host, "port": target.port}
        self._log.debug("{target!r}: disconnected: {reason}", target=target, reason=reason)
        for session in reversed(interrupted):
            job = jobs.get(session)
            if job is None:
                continue
            job.connection = None
            if session.state is not State.WAITING:
                session.state = State.ENDED
                job.on_failure(OutcomeUnknown(**where, reason=reason))
            elif job.drops >= MAX_DROPS or self._closing or isinstance(session, Forward):
                job.on_failure(ConnectionLost(**where, reason=reason))
            else:
                job.drops += 1
                self._state.add(target, job, first=True)
        if self._closing:
            self._check_gone()
        else:
            self._work()
