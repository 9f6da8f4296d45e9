"""
How a run is rolled out: how many of its invocations are under way at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from relayd.hub.decisions.shares import MOST, Share
from relayd.language.texts import Fault

#: Steps of the longest ramp.
MAX_STEPS: Final = 32


class Rollout(Struct, frozen=True, kw_only=True):
    """
    How many invocations are under way at a time: sent, and not ended.

    :ivar concurrency: of this run; per cent means of all its invocations, rounded up, and at least 1.
    :ivar ramp: sizes of the first steps: a step begins when all that the step before sent has ended, and the error
        budget is not spent.  After the last one only *concurrency* holds.
    :ivar per_relay: nothing is sent to a relay at which so many are under way, of any run; ``None``: no limit.
    :ivar per_host: the same for a host.
    """

    concurrency: Share | None = None
    ramp: tuple[int, ...] = ()
    per_relay: int | None = None
    per_host: int | None = None

    @classmethod
    def parse(
        cls,
        *,
        concurrency: int | str | None = None,
        ramp: Sequence[int] = (),
        per_relay: int | None = None,
        per_host: int | None = None,
    ) -> Rollout:
        """
        Check what a person ordered.

        :raises Fault: naming the field at fault.
        """
        share = None if concurrency is None else Share.parse(concurrency, "concurrency")
        if share is not None and not share.number:
            raise Fault("concurrency is at least 1: with 0 nothing would ever be sent")
        if len(ramp) > MAX_STEPS:
            raise Fault("ramp has {count} steps; it may have {most}", count=len(ramp), most=MAX_STEPS)
        for step in ramp:
            _check("ramp", step)
        for name, limit in (("perRelay", per_relay), ("perHost", per_host)):
            if limit is not None:
                _check(name, limit)
        return cls(concurrency=share, ramp=tuple(ramp), per_relay=per_relay, per_host=per_host)

    def to_builtins(self) -> dict[str, Any]:
        """As it is stored, and as `from_builtins` reads it."""
        return {
            "concurrency": None if self.concurrency is None else str(self.concurrency),
            "ramp": list(self.ramp),
            "perRelay": self.per_relay,
            "perHost": self.per_host,
        }

    @classmethod
    def from_builtins(cls, stored: Mapping[str, Any]) -> Rollout:
        """What `to_builtins` made."""
        return cls.parse(
            concurrency=stored["concurrency"],
            ramp=stored["ramp"],
            per_relay=stored["perRelay"],
            per_host=stored["perHost"],
        )


def _check(name: str, number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST:
        raise Fault("{what} is a whole number from 1 to {most}", what=name, most=f"{MOST:,}")


class Pace:
    """
    How many invocations of one run may be sent now.

    :param size: of the run.
    """

    def __init__(self, rollout: Rollout, size: int) -> None:
        self._most = size if rollout.concurrency is None else rollout.concurrency.at_least_one(size)
        #: The steps to come, the next one last.
        self._steps = list(reversed(rollout.ramp))
        #: What the step may still send; ``None``: the ramp is over.
        self._left = self._steps.pop() if self._steps else None
        self._under_way = 0

    @property
    def under_way(self) -> int:
        """Invocations that are sent and have not ended."""
        return self._under_way

    @property
    def room(self) -> int:
        """How many more may be sent now."""
        room = self._most - self._under_way
        return room if self._left is None else min(room, self._left)

    def sent(self) -> None:
        """One is sent."""
        self._under_way += 1
        if self._left is not None:
            self._left -= 1

    def not_sent(self) -> None:
        """One that was said to be sent was not, after all."""
        self._under_way -= 1
        if self._left is not None:
            self._left += 1

    def ended(self) -> None:
        """One that was sent has ended.  The next step of the ramp begins when it was the last one of its step."""
        self._under_way -= 1
        if self._left == 0 and not self._under_way:
            self._left = self._steps.pop() if self._steps else None

    def resume(self, under_way: int, sent: int) -> None:
        """
        Go on where another process of the hub ended.

        :param under_way: that are sent and have not ended.
        :param sent: all that were ever sent.
        """
        self._under_way = under_way
        while self._left is not None and sent:
            step = min(self._left, sent)
            sent -= step
            self._left -= step
            if not self._left and (sent or not under_way):
                self._left = self._steps.pop() if self._steps else None
