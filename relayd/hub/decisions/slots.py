"""
The invocations of one run in compact form: the state of each, and how many are in each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from relayd.hub.decisions.states import ENDS, InvocationState

#: They are sent, and have not ended.
UNDER_WAY: Final = frozenset({InvocationState.SENT, InvocationState.ACCEPTED})
#: They are still to be sent.
TO_SEND: Final = frozenset({InvocationState.WAITING, InvocationState.QUEUED})


class Slots:
    """
    The table of states.  Invocations are named by their positions.

    :ivar counts: how many are in each state.
    :ivar open: how many have not ended.
    """

    def __init__(self, states: Sequence[InvocationState]) -> None:
        self._states = list(states)
        self.counts: Counter[InvocationState] = Counter(self._states)
        self.open = sum(count for state, count in self.counts.items() if state not in ENDS)
        #: Everything before it has had its turn.
        self._turn = 0

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, slot: int) -> InvocationState:
        return self._states[slot]

    def set(self, slot: int, state: InvocationState) -> None:
        """
        Its state is another one.

        :raises ValueError: when it has ended, and *state* is no end: nothing runs once more.
        """
        former = self._states[slot]
        if former in ENDS:
            if state not in ENDS:
                raise ValueError(f"invocation {slot} has ended as {former}; it cannot be {state}")
        elif state in ENDS:
            self.open -= 1
        self._states[slot] = state
        self.counts[former] -= 1
        self.counts[state] += 1

    def turn(self) -> int | None:
        """The invocation whose turn is next; it stays so until its state changes."""
        while self._turn < len(self._states):
            if self._states[self._turn] is InvocationState.WAITING:
                return self._turn
            self._turn += 1
        return None

    def of(self, states: frozenset[InvocationState]) -> Iterator[int]:
        """Those that are in one of *states*; only for what is rare, as it looks at all."""
        return (slot for slot, state in enumerate(self._states) if state in states)
