"""
The error budget of a run: how many invocations may end badly before nothing more is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from relayd.hub.decisions.shares import Share
from relayd.hub.decisions.states import ENDS, InvocationState
from relayd.language.texts import Fault, printable

#: What counts as an error where the order does not say.
DEFAULT_ERRORS: Final = (InvocationState.FAILED, InvocationState.TIMED_OUT, InvocationState.UNKNOWN)


class Budget(Struct, frozen=True, kw_only=True):
    """
    How many errors a run may have.

    :ivar most: errors that are allowed: the run stops at the next one.  Per cent means of all its invocations: the run
        stops once more than that share of them are errors.  ``None``: it never stops.
    :ivar counted: the ends that are errors.
    """

    most: Share | None = None
    counted: frozenset[InvocationState] = frozenset(DEFAULT_ERRORS)

    @classmethod
    def parse(cls, *, most: int | str | None = None, counted: Iterable[str] | None = None) -> Budget:
        """
        Check what a person ordered.

        :raises Fault: naming the field at fault.
        """
        share = None if most is None else Share.parse(most, "maxErrors")
        if counted is None:
            return cls(most=share)
        possible = sorted(ENDS - {InvocationState.SUCCEEDED})
        chosen = list(counted)
        for each in chosen:
            if each not in possible:
                raise Fault(
                    'errorsCount has "{typed}"; it may have {possible}',
                    typed=printable(str(each), 60),
                    possible=", ".join(possible),
                )
        if not chosen:
            raise Fault("errorsCount is empty; leave it out for {usual}", usual=", ".join(DEFAULT_ERRORS))
        return cls(most=share, counted=frozenset(InvocationState(each) for each in chosen))

    def to_builtins(self) -> dict[str, Any]:
        """As it is stored, and as `from_builtins` reads it."""
        return {"maxErrors": None if self.most is None else str(self.most), "errorsCount": sorted(self.counted)}

    @classmethod
    def from_builtins(cls, stored: Mapping[str, Any]) -> Budget:
        """What `to_builtins` made."""
        return cls.parse(most=stored["maxErrors"], counted=stored["errorsCount"])

    def allowed(self, size: int) -> int | None:
        """How many errors a run of *size* invocations may have before nothing more is sent; ``None``: any number."""
        return None if self.most is None else int(self.most.of(size))
