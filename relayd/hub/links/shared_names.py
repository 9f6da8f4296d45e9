"""
Two programs with one name: each connection replaces the other's, again and again.  Decisions only, no I/O and no time.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct

#: So many connections that were alive have to be replaced within so many seconds.  One is: a relay that was started
#: anew while its machine still kept the old connection, or ``relayctl check --dial``.
TURNS: Final = 3
WINDOW: Final = 600.0


class Turn(Struct, frozen=True):
    """
    A connection that took the place of one that was alive.

    :ivar time: in seconds.
    :ivar address: where the new connection comes from, and the one before.
    """

    time: float
    address: str
    former_address: str


class SharedName(Struct, frozen=True):
    """
    Two programs that take turns with one name.

    :ivar turns: how often, within `WINDOW`.
    :ivar addresses: where they come from; one address, if both are behind the same.
    """

    turns: int
    addresses: tuple[str, ...]


class SharedNames:
    """
    The names that more than one program uses now.

    What shows it is that the replaced connection was alive: its peer answered the good-bye.  A relay whose network has
    failed leaves a connection that does not.
    """

    def __init__(self) -> None:
        self._turns: dict[str, deque[Turn]] = {}
        self._said: set[str] = set()

    def replaced_alive(self, proxy_id: str, turn: Turn) -> SharedName | None:
        """
        Note that a connection which was alive was replaced.

        :return: what to say now; ``None``: it has been said, or there are too few turns.
        """
        turns = self._turns.setdefault(proxy_id, deque(maxlen=TURNS * 10))
        turns.append(turn)
        shared = self.of(proxy_id, turn.time)
        if shared is None:
            self._said.discard(proxy_id)
        elif proxy_id not in self._said:
            self._said.add(proxy_id)
            return shared
        return None

    def of(self, proxy_id: str, now: float) -> SharedName | None:
        """Whether more than one program uses a name."""
        turns = self._turns.get(proxy_id)
        if turns is None:
            return None
        while turns and now - turns[0].time > WINDOW:
            turns.popleft()
        if not turns:
            del self._turns[proxy_id]
        if len(turns) < TURNS:
            return None
        named = {address: None for turn in turns for address in (turn.former_address, turn.address)}
        return SharedName(len(turns), tuple(named))
