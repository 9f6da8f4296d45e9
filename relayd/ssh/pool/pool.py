"""
The connections that are shared, and the jobs that wait for one: does what `relayd.ssh.pool.decisions` decides.

This module is long as all events of a pool are in it, one method each; what has a state of its own is in other modules.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relayd.language.texts import Text
from relayd.ssh.channels.channel import ChannelUser, State
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.forward import Forward
from relayd.ssh.channels.silence import SilenceWatch
from relayd.ssh.errors import (
    CommandTooLong,
    ConnectionLost,
    NotRun,
    OutcomeUnknown,
    PacketsTooSmall,
    SessionRefused,
    SSHError,
    TooManyHops,
)
from relayd.ssh.pool.assignment import Start
from relayd.ssh.pool.connections import OpenConnections
from relayd.ssh.pool.decisions import MAX_DROPS, PoolState, Step
from relayd.ssh.pool.dialer import Dialer
from relayd.ssh.pool.dials import DialFailure, Dials
from relayd.ssh.pool.jobs import Forwarding, Job, forward_error
from relayd.ssh.pool.members import Member, hops_of
from relayd.ssh.pool.moved_names import MovedNames
from relayd.ssh.pool.places import Dial
from relayd.ssh.pool.pool_report import PoolReport
from relayd.ssh.pool.refused_logins import RefusedLogins
from relayd.ssh.pool.shutdown import Shutdown
from relayd.ssh.pool.timers import Timers
from relayd.ssh.settings import LiveSettings, SSHSettings
from relayd.ssh.target import Target
from relayd.ssh.transport.server_limits import (
    ALWAYS_FITS,
    most_of_command,
    most_payload,
    most_sessions,
    needs_own_connection,
)

_log = Logger("relayd.ssh")


class Pool:
    """
    Runs jobs on connections that it opens, shares and closes as needed.

    More than 25 methods, as all events meet here that the decisions need: of jobs, dials, connections, names and time.
    Each method tells `PoolState` what happened, and does what follows.

    :param reactor: provides name resolution.
    :param clock: the time of all.
    :ivar report: tells what the pool holds.
    """

    def __init__(self, reactor: Any, clock: IReactorTime, dialer: Dialer, settings: SSHSettings) -> None:
        self._clock = clock
        self._idle_timeout = settings.idle_timeout
        self._max_total_connections = settings.max_total_connections
        self._state: PoolState[Job] = PoolState(
            settings.max_sessions,
            settings.max_connections,
            settings.max_total_connections,
            settings.max_connection_age,
            settings.hosts,
        )
        self.report: PoolReport[Job] = self._state.report
        self._refused_logins = RefusedLogins()
        self._silence = SilenceWatch(clock, self._silent, self._late)
        self._names: MovedNames[Job] = MovedNames(reactor, self._moved, self._enter)
        self._timers = Timers(clock, self._take_steps, self._sweep)
        self._dials = Dials(dialer, self, self._opened, self._not_opened)
        self._connections = OpenConnections()
        self._shutdown = Shutdown(clock, self._connections)
        # Why there could be no more connections when that was last so
        self._shortage: Text | None = None
        self._working = False

    def configure(self, settings: LiveSettings) -> None:
        """Change what may change while connections are open. What is said of single hosts ends some of them."""
        self._idle_timeout = settings.idle_timeout
        self._state.configure(settings.hosts, self._clock.seconds())
        self._work()

    # Jobs

    def submit(self, job: Job, near: ClientConnection | None = None) -> None:
        """
        Run *job* as soon as there is a place for it.

        :param near: run it on this connection, if that has room now, or else before all others that wait.
        """
        member = None if near is None or self._shutdown.begun else self._connections.members.get(near)
        if near is not None and member is not None and self._state.start_on(member, self._clock.seconds()):
            self._start(near, job)
            return
        if near is None and self._start_at_once(job):
            return
        error = self._hindrance(job.target)
        if error is not None:
            job.on_failure(error)
            return
        if near is None and job.target.via is None and self._names.ask(job.target.dialled, job):
            return  # it comes when enough is known of the host's name
        self._enter(job, first=near is not None)

    def _start_at_once(self, job: Job) -> bool:
        """See to a command for which a connection has room, and before which none waits; says whether it was so."""
        if self._shutdown.begun or isinstance(job.channel, Forward):
            return False
        target, now = job.target, self._clock.seconds()
        member = self._state.free_member(target, now)
        if member is None:
            return False
        if target.via is None and self._names.ask(target.dialled, job):
            return True
        if self._state.start_on(member, now):
            self._start(self._connections.by_member[member], job)
        else:  # the answer came at once, and the host has moved
            self._enter(job)
        return True

    def _enter(self, job: Job, *, first: bool = False) -> None:
        self._state.add(job.target, job, forward=isinstance(job.channel, Forward), first=first)
        self._work()

    def withdraw(self, job: Job) -> None:
        """
        Give up a job: it waits no longer, and its channel, if it has one, is closed. Its `on_failure` is not called.
        """
        if job.connection is not None and self._connections.take(job.channel, job.connection) is not None:
            job.connection.close(job.channel)
        elif not self._names.withdraw(job.target.dialled, job) and self._state.remove(job.target, job):
            self._work()  # others may have waited behind it

    def forward(self, via: Target, host: str, port: int) -> Deferred[Forward]:
        """
        Have *via* connect to another host.

        :param host: as *via* knows it.
        :return: fires when bytes can flow, and fails with an `SSHError`; cancelling it gives the connection up.
        """
        return Forwarding(self.submit, self.withdraw, via, host, port).opened

    def commands_elsewhere(self, job: Job) -> list[bytes]:
        """See `OpenConnections.commands_elsewhere`."""
        return self._connections.commands_elsewhere(job)

    def gives_more(self, job: Job) -> bool:
        """
        Whether the connection of *job* may be given more: not so when it is old, or settings have changed since.
        """
        member = None if job.connection is None else self._connections.members.get(job.connection)
        return member is not None and not member.retired and self._clock.seconds() < member.expires

    def waits_for(self, target: Target) -> Text:
        """See `PoolReport.waits_for`."""
        return self.report.waits_for(target, self._clock.seconds(), self._shortage)

    def _hindrance(self, target: Target) -> SSHError | None:
        """Why nothing for *target* can be done now."""
        if self._shutdown.begun:
            return NotRun(host=target.host, port=target.port)
        if target.via is not None and len(hops_of(target)) >= self._max_total_connections:
            return TooManyHops(host=target.host, port=target.port, most=self._max_total_connections)
        if self.report.reaches(target):
            return None
        return self._refused_logins.check(target, self._clock.seconds())

    def _fail_waiting(self, target: Target, error: SSHError, *, sessions_only: bool = False) -> None:
        for job in self._state.take_waiting(target, sessions_only=sessions_only):
            job.on_failure(error)

    # Connections that take no more jobs

    def retire_all(self) -> None:
        """Give no more work to the connections that there are; they are closed when nothing runs on them."""
        self._state.retire_all(self._clock.seconds())
        self._work()

    def account_closed(self, target: Target, error: SSHError) -> None:
        """The host accepts the login, but runs nothing for it: give it no more work, and let the login rest."""
        self._refused_logins.refused(target, error, self._clock.seconds())
        self._state.retire_target(target, Text("its account is closed"))
        for connection, member in self._connections.members.items():
            if member.target == target:
                connection.runs_nothing = error
        self._fail_waiting(target, error)
        self._work()

    def session_denied(self, connection: ClientConnection, error: SSHError) -> None:
        """Nothing runs on *connection*, though it may on others: retire it, and let the login rest."""
        connection.runs_nothing = error
        member = self._connections.members.get(connection)
        if member is None:
            return
        self._refused_logins.refused(member.target, error, self._clock.seconds())
        self._state.retire(member, Text("nothing runs on it"))
        if not self.report.reaches(member.target):
            self._fail_waiting(member.target, error)
        self._work()

    def close(self) -> Deferred[None]:
        """Close every connection; what waits fails. Fires when all are gone."""
        self._shutdown.begun = True
        self._dials.cancel()
        self._timers.stop()
        for job in self._names.close():
            job.on_failure(NotRun(host=job.target.host, port=job.target.port))
        for target in self.report.targets():
            self._fail_waiting(target, NotRun(host=target.host, port=target.port))
        for connection in self._connections.members:
            for job in self._connections.jobs(connection):
                if job.ending:
                    connection.signal(job.channel, "KILL")
        return self._shutdown.close_all()

    # Doing what was decided

    def _work(self) -> None:
        # Most commands come and go while nothing waits.
        if not self._state.is_settled(self._clock.seconds()):
            self._take_steps()

    def _take_steps(self) -> None:
        # What happens while a step is taken is seen by the next one.
        if self._working or self._shutdown.begun:
            return
        self._working = True
        try:
            while not self._shutdown.begun and (step := self._state.next_step(self._clock.seconds())) is not None:
                self._take(step)
        finally:
            self._working = False
        if not self._shutdown.begun:
            self._timers.set_alarm(self._state.alarm())

    def _take(self, step: Step[Job]) -> None:
        if isinstance(step, Start):
            self._start(self._connections.by_member[step.member], step.work)
        elif isinstance(step, Dial):
            self._dials.begin(step.member)
        else:
            connection = self._connections.by_member.get(step.member)
            if connection is not None:  # it may be gone by itself
                connection.disconnect(step.reason)

    def _start(self, connection: ClientConnection, job: Job) -> None:
        if job.payload > ALWAYS_FITS and not self._may_carry(connection, job):
            return
        self._connections.put(job, connection)
        connection.start(job.channel)
        if isinstance(job.channel, Forward):
            # The answer comes when the other host has answered: this asks the server itself.
            connection.probe()
        self._silence.asked(connection)

    def _may_carry(self, connection: ClientConnection, job: Job) -> bool:
        """
        Whether *job* may use this connection: a packet that is too long for the server would end all that runs on it.
        If not, the job fails, or gets a connection to itself.
        """
        target, most = job.target, most_payload(connection.transport.otherVersionString)
        if job.payload <= most and (target.alone or not needs_own_connection(job.payload, most)):
            return True
        self._state.session_closed(self._connections.members[connection], self._clock.seconds(), given=False)
        if job.payload > most:
            size, takes = most_of_command(job.payload), most_of_command(most)
            job.on_failure(CommandTooLong(host=target.host, port=target.port, size=size, most=takes))
        else:
            job.target = structs.replace(target, alone=True)
            self._state.add(job.target, job)
        self._work()
        return False

    def _sweep(self) -> float | None:
        """Close idle connections; gives the pause until it is to be done again."""
        self._state.close_idle(self._clock.seconds(), self._idle_timeout)
        self._work()
        return self._idle_timeout / 4 if self._connections else None

    # From `Dials`

    def _opened(self, connection: ClientConnection, member: Member[Job]) -> None:
        target = member.target
        self._connections.add(connection, member)
        self._state.opened(member, self._clock.seconds(), most_sessions(connection.transport.otherVersionString))
        if target.via is None:
            self._names.opened(target.dialled, connection)
        self._refused_logins.accepted(target)
        _log.debug("{target}: connected", **target.log_fields)
        if self._shutdown.begun:
            self._shutdown.close(connection)
            return
        self._timers.start_sweeps(self._idle_timeout / 4)
        self._work()

    def _not_opened(self, member: Member[Job], failure: DialFailure) -> None:
        target, error, now = member.target, failure.error, self._clock.seconds()
        reason = error.fields.get("reason")
        if failure.shortage and isinstance(reason, Text):
            self._shortage = reason
        out_of_reach = self._state.not_opened(member, now, hung_up=failure.hung_up, shortage=failure.shortage)
        if self._shutdown.begun:
            return
        if failure.refused:
            self._refused_logins.refused(target, error, now)
        if out_of_reach and not (error.retriable and self.report.in_doubt(target)):
            self._fail_waiting(target, error)
        self._work()

    def login_refused(self, target: Target) -> None:
        """See `DialOwner.login_refused`."""
        self._refused_logins.host_refused(target, self._clock.seconds())

    # From `SilenceWatch` and `MovedNames`

    def _silent(self, connection: ClientConnection) -> None:
        """
        A connection does not answer: what was asked of it goes to another one, or to this one if it answers before
        that.  None of it has run: the host learns no command before the channel is open.
        """
        member = self._connections.members[connection]
        users = connection.unanswered()
        jobs = self._connections.jobs(connection)
        proven = any(job.channel.state in (State.STARTING, State.RUNNING) for job in jobs)
        if self._shutdown.begun or not self._state.doubt(member, proven=proven):
            return
        target = member.target
        _log.info("{target}: a connection does not answer; another one is opened beside it", **target.log_fields)
        for user in reversed(users):
            job = self._connections.take(user, connection)
            if job is None:  # it was withdrawn
                continue
            job.connection = None
            if isinstance(user, Forward):
                connection.close(user)
                job.on_failure(ConnectionLost(host=target.host, port=target.port, reason=Text("it stopped answering")))
            else:
                connection.release(user)
                self._state.add(job.target, job, first=True)
        self._work()

    def _late(self, connection: ClientConnection, users: list[ChannelUser]) -> None:
        """A connection answers, but opens no channel: where it has given one, the others are asked for elsewhere."""
        member = self._connections.members[connection]
        late = [user for user in users if not isinstance(user, Forward)]
        if self._shutdown.begun or not late or not self._state.sessions_late(member, self._clock.seconds(), len(late)):
            return
        _log.info("{target}: a connection opens no other session; another one is opened", **member.target.log_fields)
        for user in reversed(late):
            job = self._connections.take(user, connection)
            if job is not None:
                connection.release(user)
                job.connection = None
                self._state.add(job.target, job, first=True)
        self._work()

    def _moved(self, connection: ClientConnection) -> None:
        """The name of its host has other addresses now: the connection finishes what runs on it."""
        member = self._connections.members[connection]
        _log.info(
            "{target}: the name no longer resolves to {address}; new commands go to its new address",
            address=connection.address,
            **member.target.log_fields,
        )
        self._state.retire(member, Text("the host's name resolves elsewhere now"))
        self._work()

    # From connections, see `ConnectionOwner`

    def connection_answers(self, connection: ClientConnection) -> None:
        self._state.trust(self._connections.members[connection])
        self._work()

    def session_closed(self, connection: ClientConnection, session: ChannelUser) -> None:
        self._connections.take(session, connection)
        member, now = self._connections.members[connection], self._clock.seconds()
        if isinstance(session, Forward):
            self._state.forward_ended(member, now)
        else:
            self._state.session_closed(member, now)
        self._work()

    def session_refused(self, connection: ClientConnection, session: ChannelUser, code: int, reason: str) -> None:
        member, now = self._connections.members[connection], self._clock.seconds()
        target = member.target
        where = {"host": target.host, "port": target.port}
        job = self._connections.take(session, connection)
        if isinstance(session, Forward):
            self._state.forward_ended(member, now)
            if job is not None:
                job.on_failure(forward_error(session, target, code, reason))
            self._work()
            return
        for_good = self._state.session_refused(member, now)
        if job is not None:
            job.connection = None
            if self._shutdown.begun:
                job.on_failure(NotRun(**where))
            else:
                self._state.add(target, job, first=True)
        if for_good:
            error = SessionRefused(**where, username=target.username, reason=reason or Text("no reason given"))
            self._fail_waiting(target, error, sessions_only=True)
        self._work()

    def exec_refused(self, connection: ClientConnection, session: ChannelUser) -> bool:
        member = self._connections.members[connection]
        job = self._connections.job(session, connection)
        if not connection.has_run:
            if job is not None and job.refused:
                self._state.exec_refused_at_first(member)
            return False
        if job is None or job.ending or self._shutdown.begun:
            return False
        self._connections.take(session, connection)
        self._state.takes_one_command(member, self._clock.seconds())
        job.connection, job.refused = None, True
        self._state.add(job.target, job, first=True)
        self._work()
        return True

    def not_usable(self, connection: ClientConnection, session: ChannelUser, max_packet: int) -> None:
        job, target = self._connections.take(session, connection), self._connections.members[connection].target
        if job is not None:
            job.connection = None
            job.on_failure(PacketsTooSmall(host=target.host, port=target.port, size=max_packet))

    def connection_lost(self, connection: ClientConnection, interrupted: list[ChannelUser], reason: str) -> None:
        member, jobs = self._connections.remove(connection)
        target = member.target
        self._silence.forget(connection)
        if target.via is None:
            self._names.closed(target.dialled, connection)
        opening = sum(user.state is State.WAITING and not isinstance(user, Forward) for user in interrupted)
        with_session = connection.ended_with_session
        self._state.lost(member, self._clock.seconds(), opening, with_session=with_session)
        _log.debug("{target}: disconnected: {reason}", reason=reason, **target.log_fields)
        for user in reversed(interrupted):
            job = jobs.get(user)
            if job is not None:
                self._interrupted(job, target, reason)
        if self._shutdown.begun:
            self._shutdown.connection_lost()
        else:
            self._work()

    def _interrupted(self, job: Job, target: Target, reason: str) -> None:
        """The connection of *job* was lost. A job that certainly did not run is tried again, a few times."""
        where = {"host": target.host, "port": target.port}
        job.connection = None
        if job.channel.state is not State.WAITING:
            job.channel.state = State.ENDED
            job.on_failure(OutcomeUnknown(**where, reason=reason))
        elif job.drops >= MAX_DROPS or self._shutdown.begun or isinstance(job.channel, Forward):
            job.on_failure(ConnectionLost(**where, reason=reason))
        else:
            job.drops += 1
            self._state.add(target, job, first=True)
