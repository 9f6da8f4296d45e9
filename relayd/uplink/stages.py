"""
The states of one connection to the main server, without I/O: its deadlines, when it is accepted, how it ends.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from automat import TypeMachineBuilder
from msgspec import Struct
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.errors import RelayError, UplinkDisplaced, UplinkRefused, UplinkSilent, UplinkStuck, UplinkTimeout
from relayd.language.texts import span


class Timing(Struct, frozen=True, kw_only=True):
    """
    The deadlines of a connection, all in seconds.

    :ivar securing: for the TLS handshake.
    :ivar handshake: for the HTTP request, and again for the dialect's own handshake.
    :ivar proved: for the rest of that handshake, once the main server has shown that it speaks the dialect.
    :ivar probation: of silence that mean that the key is accepted: main servers check it only once events can flow.
    :ivar ping_interval: between two WebSocket pings, in a dialect without a heartbeat of its own.
    :ivar ping_timeout: for the answer.
    :ivar own_pings: between two WebSocket pings in a dialect that has a heartbeat; ``None``: no pings.
    :ivar writing: in which a main server has to take something of what is sent.  It is longer than the silence allowed:
        a busy main server answers no ping either, and what was sent then need not be sent again.
    """

    securing: float = 15.0
    handshake: float = 20.0
    proved: float = 20.0
    probation: float = 2.0
    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    own_pings: float | None = None
    writing: float = 120.0


class Stage(Enum):
    """How far a connection has come. The value is the name of the stage in errors."""

    SECURING = "TLS handshake"
    UPGRADING = "HTTP handshake"
    GREETING = "handshake of the dialect"
    PROBATION = "check of the API key"
    ACCEPTED = "exchange of events"


class LinkOwner(Protocol):
    """The connection that a machine belongs to."""

    @property
    def unsent(self) -> bool:
        """Whether something still waits to be sent."""

    def on_ready(self) -> None:
        """Events can flow."""

    def on_accepted(self) -> None:
        """The main server has really accepted this relay."""

    def on_over(self, error: RelayError, stage: Stage) -> None:
        """The connection is over: called once, and last."""

    def on_ping_due(self) -> None:
        """It is time for a WebSocket ping."""


class LinkInputs(Protocol):
    """What can happen to a connection."""

    def secured(self) -> None:
        """The TLS handshake is done, or there is none."""

    def upgraded(self) -> None:
        """The WebSocket is open."""

    def connected(self, heartbeat: float | None) -> None:
        """Events can flow. *heartbeat*: seconds of silence allowed; ``None``: the relay has to ping."""

    def proved(self) -> None:
        """The main server has shown that it speaks the dialect."""

    def event_received(self) -> None:
        """The main server sent an event that only an accepted relay gets."""

    def time_up(self) -> None:
        """The deadline of the stage has passed."""

    def silent(self) -> None:
        """Nothing was heard for too long."""

    def stuck(self) -> None:
        """Nothing could be sent for too long."""

    def turned_away(self, reason: str) -> None:
        """The main server closed the connection, and said so."""

    def failed(self, error: RelayError) -> None:
        """Anything else ended the connection."""


class LinkCore:
    """
    The stage and the timers of one connection.

    :param server: the main server's name in errors.
    :ivar stage: how far the connection has come.
    :ivar allowed: the seconds that the stage may take; ``None``: any time.
    :ivar last_heard: when the last sign of life came, by the clock. It changes with each, so it is a plain attribute.
    :ivar last_taken: when the main server last took some of what waits for it, by the clock.
    :ivar deaf: whether nothing is read on purpose: then silence proves nothing, and the deadline of writing decides.
    """

    def __init__(self, clock: IReactorTime, owner: LinkOwner, server: str, timing: Timing) -> None:
        self.clock = clock
        self.owner = owner
        self.server = server
        self.timing = timing
        self.stage = Stage.SECURING
        self.allowed: float | None = None
        self.last_heard = 0.0
        self.last_taken = 0.0
        self.deaf = False
        self._writing: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None
        self._heartbeat: IDelayedCall | None = None

    def enter(self, stage: Stage, inputs: LinkInputs, seconds: float | None) -> None:
        """Begin *stage*, which may take *seconds*, or any time."""
        self.stage, self.allowed = stage, seconds
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.clock.callLater(seconds, inputs.time_up)

    def keep_alive(self, inputs: LinkInputs, heartbeat: float | None) -> None:
        """Watch for silence from now on."""
        self.last_heard = self.clock.seconds()
        timing = self.timing
        self._watch(
            inputs,
            limit=timing.ping_interval + timing.ping_timeout if heartbeat is None else heartbeat,
            ping_interval=timing.ping_interval if heartbeat is None else timing.own_pings,
        )

    def _watch(self, inputs: LinkInputs, limit: float, ping_interval: float | None) -> None:
        # one timer that looks at the time of the last frame, instead of one that each frame has to move
        if self.deaf:
            self.last_heard = self.clock.seconds()
        left = self.last_heard + limit - self.clock.seconds()
        if left <= 0:
            self._heartbeat = None
            inputs.silent()
            return
        if ping_interval is not None and left < limit:  # not the first time
            self.owner.on_ping_due()
        wait = left if ping_interval is None else min(left, ping_interval)
        self._heartbeat = self.clock.callLater(wait, self._watch, inputs, limit, ping_interval)

    def watch_writing(self, inputs: LinkInputs) -> None:
        """Watch that the main server takes what waits for it, from now on."""
        self.last_taken = self.clock.seconds()
        if self._writing is None:
            self._writing = self.clock.callLater(self.timing.writing, self._watch_writing, inputs)

    def _watch_writing(self, inputs: LinkInputs) -> None:
        self._writing = None
        if not self.owner.unsent:
            return
        left = self.last_taken + self.timing.writing - self.clock.seconds()
        if left <= 0:
            inputs.stuck()
        else:
            self._writing = self.clock.callLater(left, self._watch_writing, inputs)

    def end(self, error: RelayError) -> None:
        """Stop all timers, and tell the owner that the connection ended with *error*."""
        for call in (self._deadline, self._heartbeat, self._writing):
            if call is not None and call.active():
                call.cancel()
        self.owner.on_over(error, self.stage)


_builder = TypeMachineBuilder(LinkInputs, LinkCore)
_securing = _builder.state("securing")
_upgrading = _builder.state("upgrading")
_greeting = _builder.state("greeting")
_probation = _builder.state("probation")
_accepted = _builder.state("accepted")
_over = _builder.state("over")


@_securing.upon(LinkInputs.secured).to(_upgrading)
def _start_upgrade(inputs: LinkInputs, core: LinkCore) -> None:
    core.enter(Stage.UPGRADING, inputs, core.timing.handshake)


@_upgrading.upon(LinkInputs.upgraded).to(_greeting)
def _start_greeting(inputs: LinkInputs, core: LinkCore) -> None:
    core.enter(Stage.GREETING, inputs, core.timing.handshake)


@_greeting.upon(LinkInputs.proved).loop()
def _be_patient(inputs: LinkInputs, core: LinkCore) -> None:
    core.enter(Stage.GREETING, inputs, core.timing.proved)


@_greeting.upon(LinkInputs.connected).to(_probation)
def _start_probation(inputs: LinkInputs, core: LinkCore, heartbeat: float | None) -> None:
    core.enter(Stage.PROBATION, inputs, core.timing.probation)
    core.keep_alive(inputs, heartbeat)
    core.owner.on_ready()


@_probation.upon(LinkInputs.event_received).to(_accepted)
def _accept_for_event(inputs: LinkInputs, core: LinkCore) -> None:
    core.enter(Stage.ACCEPTED, inputs, None)
    core.owner.on_accepted()


@_probation.upon(LinkInputs.time_up).to(_accepted)
def _accept_for_silence(inputs: LinkInputs, core: LinkCore) -> None:
    core.enter(Stage.ACCEPTED, inputs, None)
    core.owner.on_accepted()


def _time_out(inputs: LinkInputs, core: LinkCore) -> None:
    core.end(UplinkTimeout(server=core.server, phase=core.stage.value, time=span(core.allowed or 0.0)))


def _refuse(inputs: LinkInputs, core: LinkCore, reason: str) -> None:
    core.end(UplinkRefused(server=core.server, reason=reason))


def _displace(inputs: LinkInputs, core: LinkCore, reason: str) -> None:
    core.end(UplinkDisplaced(server=core.server, reason=reason))


def _lose_to_silence(inputs: LinkInputs, core: LinkCore) -> None:
    seconds = core.clock.seconds() - core.last_heard
    core.end(UplinkSilent(server=core.server, time=span(round(seconds) or seconds)))


def _lose_as_stuck(inputs: LinkInputs, core: LinkCore) -> None:
    seconds = core.clock.seconds() - core.last_taken
    core.end(UplinkStuck(server=core.server, time=span(round(seconds) or seconds)))


def _fail(inputs: LinkInputs, core: LinkCore, error: RelayError) -> None:
    core.end(error)


for _state in (_securing, _upgrading, _greeting):
    _state.upon(LinkInputs.time_up).to(_over)(_time_out)
for _state in (_securing, _upgrading, _greeting, _probation):
    _state.upon(LinkInputs.turned_away).to(_over)(_refuse)
_accepted.upon(LinkInputs.turned_away).to(_over)(_displace)
for _state in (_probation, _accepted):
    _state.upon(LinkInputs.silent).to(_over)(_lose_to_silence)
for _state in (_securing, _upgrading, _greeting, _probation, _accepted):
    _state.upon(LinkInputs.stuck).to(_over)(_lose_as_stuck)
    _state.upon(LinkInputs.failed).to(_over)(_fail)
_accepted.upon(LinkInputs.event_received).loop().returns(None)
# what happens after the end changes nothing
_over.upon(LinkInputs.secured).loop().returns(None)
_over.upon(LinkInputs.upgraded).loop().returns(None)
_over.upon(LinkInputs.proved).loop().returns(None)
_over.upon(LinkInputs.connected).loop().returns(None)
_over.upon(LinkInputs.event_received).loop().returns(None)
_over.upon(LinkInputs.time_up).loop().returns(None)
_over.upon(LinkInputs.silent).loop().returns(None)
_over.upon(LinkInputs.stuck).loop().returns(None)
_over.upon(LinkInputs.turned_away).loop().returns(None)
_over.upon(LinkInputs.failed).loop().returns(None)

_machine = _builder.build()


def start_machine(core: LinkCore) -> LinkInputs:
    """Start the machine of a connection whose TCP handshake is done."""
    inputs = _machine(core)
    core.enter(Stage.SECURING, inputs, core.timing.securing)
    return inputs
