"""
Looks up the names of hosts again while connections to them are in use: a name may move to another machine.
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

#: Seconds for which a name is not looked up again.
FRESH = 5.0
#: Seconds after which new work waits for the new answer, because the last one may be long out of date.
STALE = 15.0
#: Seconds that it waits at most; then the last answer decides.
PATIENCE = 1.0
#: Names looked up at a time: the threads that do it have other work too, and block while a name server is down.
MAX_LOOK_UPS = 2
#: Seconds for which an address is remembered that is missing from the last answer.
MEMORY = 120.0
#: Seconds for which a name is taken for a rotating one, which gives a few of its addresses at a time, after an address
#: came back.
ROTATING = 900.0
#: How many names are remembered.
MAX_NAMES = 4096


class LookupHistory:
    """
    The addresses that one name had lately.  No I/O, no clock.

    A name that moves to another machine leaves its old address for good.  A name that stands for many machines may give
    a few of them with each answer (round-robin): there, addresses of earlier answers are still good.
    """

    __slots__ = ("_rotates_until", "_seen", "learned")

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._rotates_until = 0.0
        #: When the last answer came.
        self.learned = 0.0

    def learn(self, found: frozenset[str], now: float) -> None:
        """The name was looked up: it has the addresses *found*, of which there is at least one."""
        seen = {address: time for address, time in self._seen.items() if now - time <= MEMORY}
        if any(seen.get(address, self.learned) != self.learned for address in found):
            self._rotates_until = now + ROTATING
        seen.update(dict.fromkeys(found, now))
        self._seen, self.learned = seen, now

    def include(self, address: str, now: float) -> bool:
        """Whether *address* is one of the name's."""
        time = self._seen.get(address)
        if time is None:
            return False
        return time == self.learned or (now < self._rotates_until and now - time <= MEMORY)


class _Name(Generic[Job]):
    """One name: its addresses, the connections to it, and the jobs that wait for it."""

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
    Looks a name up again when a job comes for it and a connection to it is open, every few seconds at most.

    :param reactor: provides time and name resolution.
    :param on_moved: called with each connection whose address is not one of its name's any more.
    :param on_known: called with each job that waited, when the answer is there, or takes too long.
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
        """*connection* was opened to an address of *host*, which its `address` is if the name was looked up."""
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
        """*connection* is closed."""
        name = self._names.get(host)
        if name is not None:
            name.connections.pop(connection, None)

    def ask(self, host: str, job: Job) -> bool:
        """
        A job has come for *host*.

        :return: whether it has to wait until *on_known* is called with it; if not, the last answer is good enough.
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
        if found:  # no answer says nothing about the host: the name server may be down
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
        """Let the jobs go that wait for *name*."""
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
    """Collects the addresses of one look-up."""

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
