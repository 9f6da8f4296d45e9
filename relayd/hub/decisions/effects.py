"""
What is to be done after an event of a run: `relayd.hub.decisions.run_machine` decides it, and the engine does it.

Invocations are named by their position in the run.  Times are microseconds since 1970, UTC.
"""

from __future__ import annotations

from msgspec import Struct

from relayd.hub.decisions.ends import Correction, Verdict
from relayd.hub.decisions.states import InvocationState, RunState
from relayd.language.texts import Text


class Store(Struct, frozen=True, gc=False):
    """
    Store that the invocation is sent, then tell `RunMachine.stored`: nothing is written to the relay before that.

    :ivar journal: the relay's journal to which it will be written.
    :ivar number: tells this time from others.
    """

    slot: int
    relay: str
    journal: str
    deadline: int
    number: int


class Write(Struct, frozen=True, gc=False):
    """
    Write the order to the relay's link.

    :ivar again: whether it was written before: the relay joins duplicates.
    """

    slot: int
    relay: str
    again: bool


class Queue(Struct, frozen=True, gc=False):
    """Its turn has come, and it waits for its relay or for a place; it was written to no link."""

    slot: int
    deadline: int


class Accept(Struct, frozen=True, gc=False):
    """The relay has it."""

    slot: int
    deadline: int


class Rearm(Struct, frozen=True, gc=False):
    """Its deadline is another one."""

    slot: int
    deadline: int


class Ask(Struct, frozen=True, gc=False):
    """Ask the relay how far it has come, then tell `RunMachine.status`."""

    slot: int
    relay: str


class NoteCancel(Struct, frozen=True, gc=False):
    """Store that a person cancelled it, although it was sent."""

    slot: int


class AskCancel(Struct, frozen=True, gc=False):
    """Have the relay end it, then tell `RunMachine.status` its answer."""

    slot: int
    relay: str


class End(Struct, frozen=True, gc=False):
    """
    It has ended without a result.

    :ivar code: a stable name for programs.
    :ivar why: for people.
    :ivar sent: whether it was ever written to a link, as far as is known.
    """

    slot: int
    end: InvocationState
    code: str
    why: Text
    sent: bool


class EndByResult(Struct, frozen=True, gc=False):
    """It has ended as its result says."""

    slot: int
    verdict: Verdict


class Correct(Struct, frozen=True, gc=False):
    """A result came after the end, and knows better."""

    slot: int
    verdict: Verdict
    correction: Correction


class RunIs(Struct, frozen=True, gc=False):
    """The run's state is another one."""

    state: RunState


Effect = Store | Write | Queue | Accept | Rearm | Ask | NoteCancel | AskCancel | End | EndByResult | Correct | RunIs
Effects = list[Effect]
