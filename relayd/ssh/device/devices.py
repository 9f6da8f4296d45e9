"""
The command lines of devices, shared by commands for the same login, one command at a time on each.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.language.texts import Text
from relayd.network.host_rules import Family as FamilyName
from relayd.ssh.device.families import FAMILIES
from relayd.ssh.device.run import DeviceRequest, DeviceRun
from relayd.ssh.device.session import FRESH, DeviceSession
from relayd.ssh.errors import NotRun, SSHError
from relayd.ssh.outcome import Completed
from relayd.ssh.pool.pool import Pool
from relayd.ssh.target import Target

#: How often a command gets another session where the one that it had ended before it was sent.
MOST_DROPS: Final = 2
#: Seconds without another try where one session is there and a further one could not be had: devices have few.
NO_MORE_FOR: Final = 30.0


class _Login(Struct, frozen=True):
    """What sessions are shared for: their device is in the same mode at their beginning."""

    target: Target
    family: FamilyName
    secret: bytes | None

    def __repr__(self) -> str:
        return f"<Login {self.target}>"


class Devices:
    """
    Runs commands on devices.

    :param idle_timeout: seconds until a session without a command is closed.
    """

    def __init__(self, clock: IReactorTime, pool: Pool, idle_timeout: float) -> None:
        self._clock = clock
        self._pool = pool
        self.idle_timeout = idle_timeout
        self._lines: dict[_Login, _CommandLines] = {}
        self._sweep: IDelayedCall | None = None
        self._closed = False

    def run(self, request: DeviceRequest, max_output: int) -> Deferred[Completed]:
        """
        Have a device carry out lines, once.

        :param max_output: bytes kept of its output.
        :return: as that of `relayd.ssh.client.SSHClient.run`.
        """
        login = _Login(request.target, request.family, request.secret)
        lines = self._lines.get(login)
        if lines is None:
            lines = self._lines[login] = _CommandLines(self._clock, self._pool, login)
        run = DeviceRun(self._clock, request, max_output, lines.forget, lines.waits_for)
        if self._closed:
            run.fail(NotRun(host=request.target.host, port=request.target.port))
        else:
            lines.add(run)
            self._sweep_later()
        return run.done

    def close(self) -> None:
        """Close all sessions; commands that wait for one are not run. The pool ends those that are open."""
        self._closed = True
        if self._sweep is not None and self._sweep.active():
            self._sweep.cancel()
        for lines in list(self._lines.values()):
            lines.close()

    def _sweep_later(self) -> None:
        if self._sweep is None:
            self._sweep = self._clock.callLater(self.idle_timeout / 4, self._close_idle)

    def _close_idle(self) -> None:
        self._sweep = None
        now = self._clock.seconds()
        for login, lines in list(self._lines.items()):
            lines.close_idle(now - self.idle_timeout)
            if lines.is_empty:
                del self._lines[login]
        if self._lines:
            self._sweep_later()


class _CommandLines:
    """The sessions for one login, and the commands that wait for one."""

    def __init__(self, clock: IReactorTime, pool: Pool, login: _Login) -> None:
        self._clock = clock
        self._pool = pool
        self._login = login
        self._sessions: list[DeviceSession] = []
        self._running: dict[DeviceSession, DeviceRun] = {}
        self._waiting: deque[DeviceRun] = deque()
        self._drops: dict[DeviceRun, int] = {}
        self._no_more_before = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there, and nothing waits."""
        return not self._sessions and not self._waiting

    def add(self, run: DeviceRun) -> None:
        """Run it when there is a session for it."""
        self._waiting.append(run)
        self._work()

    def forget(self, run: DeviceRun) -> None:
        """It has ended: its session, if it had one, is free, or is closed where it cannot be used again."""
        self._drops.pop(run, None)
        session, run.session = run.session, None
        if session is None:
            if run in self._waiting:
                self._waiting.remove(run)
        else:
            self._running.pop(session, None)
            if not (session.usable and session.takes_more(run.request.most_commands)):
                self._remove(session)
        self._work()

    def waits_for(self) -> Text:
        """What keeps commands waiting."""
        if any(session.starting for session in self._sessions):
            return self._pool.waits_for(self._login.target)
        if self._running:
            return Text("other commands use its command line")
        return Text("it does not show its prompt")

    def close_idle(self, before: float) -> None:
        """Close the sessions that have run nothing since *before*, in seconds of the clock."""
        for session in list(self._sessions):
            if session.usable and session not in self._running and session.idle_since <= before:
                self._remove(session)

    def close(self) -> None:
        """Nothing is run any more."""
        waiting, self._waiting = list(self._waiting), deque()
        for run in waiting:
            run.fail(NotRun(host=self._login.target.host, port=self._login.target.port))
        for session in list(self._sessions):
            if session not in self._running:
                self._remove(session)

    def _remove(self, session: DeviceSession) -> None:
        session.close()
        if session in self._sessions:
            self._sessions.remove(session)

    def _work(self) -> None:
        """Give sessions to those that wait, and open more where there may be more."""
        for session in [each for each in self._sessions if each.usable and each not in self._running]:
            if not self._waiting:
                return
            if not session.takes_more(self._waiting[0].request.most_commands):
                self._remove(session)
            elif self._clock.seconds() - session.idle_since > FRESH:
                session.look()
            else:
                run = self._running[session] = self._waiting.popleft()
                run.start(session)
        coming = sum(not each.usable and each not in self._running for each in self._sessions)
        while self._waiting and coming < len(self._waiting) and len(self._sessions) < self._most():
            session = DeviceSession(
                self._clock, self._pool, self._login.target, FAMILIES[self._login.family], self._login.secret, self
            )
            self._sessions.append(session)
            coming += 1
            session.begin()

    def _most(self) -> int:
        """How many sessions there may be now."""
        if self._sessions and self._clock.seconds() < self._no_more_before:
            return len(self._sessions)
        return self._waiting[-1].request.most_sessions

    # From sessions

    def session_ready(self, session: DeviceSession) -> None:
        """See `relayd.ssh.device.session.SessionOwner`."""
        session.idle_since = self._clock.seconds()
        self._work()

    def session_over(self, session: DeviceSession, error: SSHError) -> None:
        """See `relayd.ssh.device.session.SessionOwner`."""
        if session in self._sessions:
            self._sessions.remove(session)
        run = self._running.pop(session, None)
        if run is not None:
            run.session = None
            drops = self._drops.get(run, 0) + 1
            if run.is_sent or drops > MOST_DROPS:
                run.fail(error)
                self._drops.pop(run, None)
            else:
                self._drops[run] = drops
                self._waiting.appendleft(run)
        elif not session.proven and self._sessions:
            self._no_more_before = self._clock.seconds() + NO_MORE_FOR
        elif not session.proven:
            # What keeps one from a session keeps all others, too.
            waiting, self._waiting = list(self._waiting), deque()
            for each in waiting:
                each.fail(error)
        self._work()
