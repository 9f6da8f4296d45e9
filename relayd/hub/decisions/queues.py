"""
The invocations of one run that are still to be sent: those whose turn has not come, and those that wait for a relay or
a place.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import Struct

from relayd.hub.decisions.places import HOST, RELAY, Places, Where

#: The relays that are connected, each with the name of its journal: a command that comes twice to the same journal runs
#: once.  An empty name: a program of which that is not known; nothing is ever sent to it twice.
Online = Mapping[str, str]


class Aim(Struct, frozen=True, gc=False):
    """
    For whom an invocation is.

    :ivar host: the host's id.
    :ivar relays: the names of the relays that reach it, in the order in which they are tried.
    """

    host: str
    relays: tuple[str, ...]


class _Heap:
    """Positions, each once, the lowest first."""

    def __init__(self) -> None:
        self._heap: list[int] = []
        self.members: set[int] = set()

    def push(self, slot: int) -> None:
        if slot not in self.members:
            self.members.add(slot)
            heapq.heappush(self._heap, slot)

    def pop(self) -> int:
        slot = heapq.heappop(self._heap)
        self.members.remove(slot)
        return slot


class Queues:
    """
    Finds the next invocation that can be sent, without looking at all of them each time.

    Invocations are named by their positions.  One that waits is in the heap of each of its relays, and a relay is
    looked at only after something has changed there.

    :param run: names the run in *places*.
    :param waits: whether an invocation is still queued: others are left behind in heaps, and passed over.
    """

    def __init__(
        self,
        run: str,
        aims: Sequence[Aim],
        online: Online,
        places: Places[str],
        limits: tuple[int | None, int | None],
        waits: Callable[[int], bool],
    ) -> None:
        self._run = run
        self._aims = aims
        self._online = online
        self._places = places
        self._per_relay, self._per_host = limits
        self._waits = waits
        self._parked: dict[str, _Heap] = {}
        #: Those that wait for a place on a host.
        self._for_host: dict[str, dict[int, None]] = {}
        #: Relays at which something has changed.
        self._changed: dict[str, None] = {}

    def relay_for(self, slot: int) -> str | None:
        """The relay to which it can be sent now."""
        aim = self._aims[slot]
        if not self._host_has_room(slot):
            return None
        for relay in aim.relays:
            if relay in self._online and self._places.has((RELAY, relay), self._per_relay):
                return relay
        return None

    def is_away(self, slot: int) -> bool:
        """Whether none of its relays is connected."""
        return not any(relay in self._online for relay in self._aims[slot].relays)

    def park(self, slot: int) -> None:
        """It cannot be sent now: look again when something has changed for it."""
        aim = self._aims[slot]
        if not self._host_has_room(slot):
            self._wait_for_host(slot)
        for relay in aim.relays:
            self._heap_of(relay).push(slot)
            if relay in self._online:
                if self._places.has((RELAY, relay), self._per_relay):
                    self._changed[relay] = None
                else:
                    self._places.wait((RELAY, relay), self._run)

    def changed(self, where: Where) -> None:
        """A relay is connected, or a place has become free."""
        kind, name = where
        if kind == RELAY:
            if name in self._parked:
                self._changed[name] = None
        else:
            for slot in self._for_host.pop(name, ()):
                if self._waits(slot):
                    self.park(slot)

    def parked_at(self, relay: str) -> Iterator[int]:
        """The queued invocations that this relay could take."""
        waiting = (slot for slots in self._for_host.values() for slot in slots)
        of_hosts = {slot for slot in waiting if relay in self._aims[slot].relays}
        heap = self._parked.get(relay)
        slots = sorted(of_hosts | heap.members) if heap else sorted(of_hosts)
        return (slot for slot in slots if self._waits(slot))

    def next(self) -> tuple[int, str] | None:
        """An invocation that waited and can be sent now, with its relay; it is taken out."""
        while self._changed:
            relay = next(iter(self._changed))
            heap = self._parked.get(relay)
            if heap is None or relay not in self._online:
                del self._changed[relay]
            elif not self._places.has((RELAY, relay), self._per_relay):
                self._places.wait((RELAY, relay), self._run)
                del self._changed[relay]
            else:
                slot = heap.pop()
                if not heap.members:
                    del self._parked[relay]
                if self._waits(slot):
                    if self.relay_for(slot) is not None:
                        return slot, relay
                    self._wait_for_host(slot)
        return None

    def _host_has_room(self, slot: int) -> bool:
        return self._places.has((HOST, self._aims[slot].host), self._per_host)

    def _heap_of(self, relay: str) -> _Heap:
        heap = self._parked.get(relay)
        if heap is None:
            heap = self._parked[relay] = _Heap()
        return heap

    def _wait_for_host(self, slot: int) -> None:
        host = self._aims[slot].host
        self._for_host.setdefault(host, {})[slot] = None
        self._places.wait((HOST, host), self._run)
