"""
Where the names of hosts lead while connections that were opened by them are used: a host may move to another machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from twisted.internet.interfaces import IAddress, IDelayedCall, IHostResolution
from twisted.internet.interfaces import IResolutionReceiver as Receiver
from zope.interface import implementer

from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.pool.checked_names import address_in

#: What waits for an answer.
Job = TypeVar("Job")

#: Seconds for which nobody asks again where a name leads.
FRESH = 5.0
#: Seconds after which new work waits for the answer, because the last one may be of another day.
STALE = 15.0
#: Seconds that it waits, at most; then what is known decides.
PATIENCE = 1.0
#: Names looked up at a time: the threads that do it have other work too, and each waits for a name server that is down.
MAX_LOOK_UPS = 2
#: Seconds for which an address is remembered that was not among the last answers.
MEMORY = 120.0
#: Seconds for which a name counts as one that gives a few of its addresses at a time, when an address came back.
ROTATING = 900.0
#: Names that are remembered without a connection.
MAX_NAMES = 4096


class LookupHistory:
    """
    What one name led to lately.  No I/O, no clock.

    A name that moves to another machine leaves its old address for good.  One that stands for many machines may give a
    few of them with each answer (round-robin): there, what was among the answers lately still counts.
    """

    __slots__ = ("_rotates_until", "_seen", "learned")

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._rotates_until = 0.0
        #: When the last answer came.
        self.learned = 0.0

    def learn(self, found: frozenset[str], now: float) -> None:
        """The name leads to *found*, which is not empty."""
        seen = {address: time for address, time in self._seen.items() if now - time <= MEMORY}
        if any(seen.get(address, self.learned) != self.learned for address in found):
            self._rotates_until = now + ROTATING
        seen.update(dict.fromkeys(found, now))
        self._seen, self.learned = seen, now

    def include(self, address: str, now: float) -> bool:
        """Whether the name leads to *address*."""
        time = self._seen.get(address)
        if time is None:
            return False
        return time == self.learned or (now < self._rotates_until and now - time <= MEMORY)


class _Name(Generic[Job]):
    __slots__ = ("asked", "connections", "history", "looking", "patience", "waiting")

    def __init__(self) -> None:
        self.history = LookupHistory()
        #: When it was looked up last, with or without success.
        self.asked = 0.0
        self.looking = False
        self.connections: dict[ClientConnection, None] = {}
        self.waiting: dict[Job, None] = {}
        self.patience: IDelayedCall | None = None


class MovedNames(Generic[Job]):
    """
    Looks names up again, when new work comes for a connection that one led to: once in a few seconds at most.

    :param reactor: provides time and name resolution.
    :param on_moved: called with each connection whose address is not one of its name's any more.
    :param on_known: called with each job that waited, when it is known where its name leads now, or takes too long to
        find out.
    """

    def __init__(
        self, reactor: Any, on_moved: Callable[[ClientConnection], None], on_known: Callable[[Job], None]
    ) -> None:
        self._reactor = reactor
        self._on_moved = on_moved
        self._on_known = on_known
        self._names: dict[str, _Name[Job]] = {}
        self._looking = 0
        self._queue: dict[str, _Name[Job]] = {}

    def opened(self, host: str, connection: ClientConnection) -> None:
        """*connection* was opened to an address of *host*; one that was looked up, if it has such an address."""
        if not connection.address:
            return
        name = self._names.get(host)
        if name is None:
            if len(self._names) >= MAX_NAMES:
                self._names = {host: name for host, name in self._names.items() if name.connections or name.looking}
            name = self._names[host] = _Name()
        name.connections[connection] = None
        name.asked = self._reactor.seconds()
        self._learn(name, connection.found)

    def closed(self, host: str, connection: ClientConnection) -> None:
        """*connection* is gone."""
        name = self._names.get(host)
        if name is not None:
            name.connections.pop(connection, None)

    def ask(self, host: str, job: Job) -> bool:
        """
        A job has come for *host*.

        :return: whether it has to wait (see *on_known*); if not, what is known of the name is good enough.
        """
        name = self._names.get(host)
        if name is None or not name.connections:
            return False
        now = self._reactor.seconds()
        since = now - name.asked
        if since >= FRESH and not name.looking:
            name.asked = now
            name.looking = True
            if since >= STALE:
                name.patience = self._reactor.callLater(PATIENCE, self._go_on, name)
            self._queue[host] = name
            self._look_up()
        if name.patience is None:
            return False
        name.waiting[job] = None
        return True

    def withdraw(self, host: str, job: Job) -> bool:
        """*job* does not wait any longer; says whether it did."""
        name = self._names.get(host)
        if name is None or job not in name.waiting:
            return False
        del name.waiting[job]
        return True

    def close(self) -> list[Job]:
        """Nothing waits for an answer any more; gives the jobs that did."""
        waiting: list[Job] = []
        for name in self._names.values():
            self._stop_waiting(name)
            waiting += name.waiting
            name.waiting.clear()
        return waiting

    def _look_up(self) -> None:
        while self._queue and self._looking < MAX_LOOK_UPS:
            host = next(iter(self._queue))
            name = self._queue.pop(host)
            self._looking += 1
            self._reactor.nameResolver.resolveHostName(_Receiver(partial(self._answered, name)), host)

    def _answered(self, name: _Name[Job], found: frozenset[str]) -> None:
        self._looking -= 1
        name.looking = False
        if found:  # a name server that is down says nothing about hosts
            self._learn(name, found)
        self._go_on(name)
        self._look_up()

    def _learn(self, name: _Name[Job], found: frozenset[str]) -> None:
        now = self._reactor.seconds()
        name.history.learn(found, now)
        for connection in list(name.connections):
            if not name.history.include(connection.address, now):
                del name.connections[connection]
                self._on_moved(connection)

    def _go_on(self, name: _Name[Job]) -> None:
        """What is known of *name* decides for the jobs that wait."""
        self._stop_waiting(name)
        while name.waiting:
            job = next(iter(name.waiting))
            del name.waiting[job]
            self._on_known(job)

    def _stop_waiting(self, name: _Name[Job]) -> None:
        patience, name.patience = name.patience, None
        if patience is not None and patience.active():
            patience.cancel()


@implementer(Receiver)
class _Receiver:
    """Gathers the answers to one question."""

    def __init__(self, done: Callable[[frozenset[str]], None]) -> None:
        self._done = done
        self._found: set[str] = set()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        found = address_in(address)
        if found is not None:
            self._found.add(str(found))

    def resolutionComplete(self) -> None:
        self._done(frozenset(self._found))
