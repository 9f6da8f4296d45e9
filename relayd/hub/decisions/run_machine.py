"""
What becomes of a run: events go in, and what is to be done comes out (`relayd.hub.decisions.effects`).

The invocations go from ``waiting`` over ``queued``, ``sent`` and ``accepted`` to their ends
(`relayd.hub.decisions.states`).  Nothing here does input or output or reads a clock; *now* is in microseconds.
This module is long as all that may happen to a run is in one machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from relayd.hub.decisions.budget import Budget
from relayd.hub.decisions.effects import (
    Accept,
    Ask,
    AskCancel,
    Correct,
    Effects,
    End,
    EndByResult,
    NoteCancel,
    Queue,
    Rearm,
    RunIs,
    Store,
    Write,
)
from relayd.hub.decisions.ends import Verdict, correction_of
from relayd.hub.decisions.places import RELAY, Places, Where
from relayd.hub.decisions.queues import Aim, Online, Queues
from relayd.hub.decisions.rollout import Pace, Rollout
from relayd.hub.decisions.slots import TO_SEND, Slots
from relayd.hub.decisions.states import ENDS, InvocationState, RunState
from relayd.hub.decisions.under_way import Patience, Trip, UnderWay
from relayd.language.texts import Text
from relayd.wire.messages import CommandState

#: Nothing is sent any more, and what was sent is still to end.
_STOPS: Final = (RunState.CANCELLING, RunState.STOPPING)


class Plan(Struct, frozen=True, kw_only=True):
    """
    A run as it was ordered.

    :ivar run: its id.
    :ivar aims: for whom its invocations are, by position.
    :ivar now_or_never: whether an invocation whose relays are away ends at once, as ``not-executed``.
    :ivar wait_until: until when an invocation may wait for its relay.
    :ivar over_at: when those that were not sent until then end as ``expired``.
    """

    run: str
    aims: Sequence[Aim]
    rollout: Rollout
    budget: Budget
    patience: Patience
    now_or_never: bool
    wait_until: int
    over_at: int


class Sent(Struct, frozen=True, kw_only=True):
    """
    What the store knows of an invocation that is under way when a hub starts.

    :ivar relay: to which it was sent, or was about to be.
    :ivar journal: the journal that it had.
    :ivar sent_at: when.
    :ivar accepted_at: when the relay said that it has it; ``None``: it has not said so.
    :ivar cancelled: whether a person cancelled it.
    """

    relay: str
    journal: str
    sent_at: int
    accepted_at: int | None
    cancelled: bool


class RunMachine:
    """
    One run that has not ended.  More than 25 methods, as each event has one.

    :param online: the relays that are connected, with the journal of each: a live view.  It is changed before the
        machine is told.
    :param since: when each of them connected; a live view, too.
    :param places: what is under way in all runs.
    """

    def __init__(
        self,
        plan: Plan,
        online: Online,
        since: Mapping[str, int],
        places: Places[str],
        state: RunState = RunState.RUNNING,
        states: Sequence[InvocationState] | None = None,
    ) -> None:
        self._plan = plan
        self._online = online
        self._since = since
        self._places = places
        self.state = state
        size = len(plan.aims)
        self.slots = Slots([InvocationState.WAITING] * size if states is None else states)
        self._pace = Pace(plan.rollout, size)
        self._allowed = plan.budget.allowed(size)
        limits = (plan.rollout.per_relay, plan.rollout.per_host)
        self._queues = Queues(plan.run, plan.aims, online, places, limits, self._is_queued)
        self._under_way = UnderWay()
        #: Those that are being stored as sent; written to no link yet.
        self._storing: dict[int, Store] = {}
        self._number = 0
        #: Queued ones whose stored deadline is that of the run, as one of their relays was connected.
        self._unhurried: set[int] = set()
        self._had_result = bytearray(size)
        self._effects: Effects = []

    @property
    def under_way(self) -> int:
        """Invocations that are sent, or are being stored as sent."""
        return self._pace.under_way

    # The beginning

    def start(self, now: int) -> Effects:
        """The run is stored: send what can be sent."""
        return self._done(now)

    def go_on(self, now: int, sent: Mapping[int, Sent], ever_sent: int, with_result: Sequence[int] = ()) -> Effects:
        """
        Go on where another process of the hub ended.

        :param sent: the invocations that are under way.
        :param ever_sent: how many were ever sent.
        :param with_result: those that ended by a result.
        """
        for slot, known in sent.items():
            since = known.sent_at if known.accepted_at is None else known.accepted_at
            until = max(self._plan.wait_until, known.sent_at + self._plan.patience.resend)
            trip = Trip(known.relay, known.journal, since, until, in_doubt=True, writes=1, cancelled=known.cancelled)
            self._under_way.add(slot, trip)
            self._places.take(known.relay, self._plan.aims[slot].host)
        self._pace.resume(len(sent), ever_sent)
        for slot in with_result:
            self._had_result[slot] = True
        for slot in list(self.slots.of(frozenset({InvocationState.QUEUED}))):
            self._unhurried.add(slot)
            self._await_relay(slot, now)
            self._queues.park(slot)
        if self.state in _STOPS:
            for slot in list(self.slots.of(TO_SEND)):
                self._cancel(slot)
        self._all_back(now)
        return self._done(now)

    # What relays do

    def relay_online(self, relay: str, now: int) -> Effects:
        """A relay has connected, or has shown that it joins duplicates."""
        self._queues.changed((RELAY, relay))
        self._back(relay, now)
        return self._done(now)

    def relay_offline(self, relay: str, now: int) -> Effects:
        """A relay's link is gone, and it has no other."""
        for slot, storing in list(self._storing.items()):
            if storing.relay == relay:
                self._hold_back(slot, now)
        for slot in self._under_way.at(relay):
            self._under_way[slot].in_doubt = True
        for slot in list(self._queues.parked_at(relay)):
            if self._queues.is_away(slot):
                self._await_relay(slot, now)
        return self._done(now)

    def stored(self, slot: int, number: int, now: int) -> Effects:
        """`Store` is done."""
        storing = self._storing.get(slot)
        if storing is not None and storing.number == number:
            del self._storing[slot]
            until = max(self._plan.wait_until, now + self._plan.patience.resend)
            trip = Trip(storing.relay, storing.journal, now, until, writes=1, stored=self._sent_deadline(now))
            self._under_way.add(slot, trip)
            self._effects.append(Write(slot, storing.relay, False))
        return self._done(now)

    def not_written(self, slot: int, now: int, why: Text | None = None) -> Effects:
        """
        `Write` was not done: nothing of the order was written.

        :param why: the order itself cannot be written; ``None``: the link is gone.
        """
        if self.slots[slot] is InvocationState.SENT:
            trip = self._under_way[slot]
            trip.writes -= 1
            if trip.writes:
                trip.in_doubt = True
            elif why is not None:
                self._end(slot, InvocationState.NOT_EXECUTED, "not-sendable", why)
            else:
                self._under_way.remove(slot)
                self._queue_again(slot, trip.relay, now, cancelled=trip.cancelled)
        return self._done(now)

    def wants(self, slot: int) -> bool:
        """Whether `Write` is still to be done, where that took a while."""
        if self.slots[slot] is not InvocationState.SENT or self.state is not RunState.RUNNING:
            return False
        trip = self._under_way[slot]
        return not trip.cancelled and self._joins(trip)

    def accepted(self, slot: int, now: int) -> Effects:
        """The relay has it."""
        if self.slots[slot] is InvocationState.SENT:
            self._accept(slot, now)
        return self._done(now)

    def refused(self, slot: int, now: int, words: Text) -> Effects:
        """
        The relay said in an acknowledgement that it does not take it.

        That does not end it: relayd says so, too, of one that has run and comes again, and sends a result that tells
        what is true.  Other programs may acknowledge a command with an error after they have run it.
        """
        if self.slots[slot] is InvocationState.SENT:
            trip = self._under_way[slot]
            trip.refusal = words
            self._answer_soon(slot, trip, now)
        return self._done(now)

    def status(self, slot: int, answer: CommandState, now: int) -> Effects:
        """The relay has answered `Ask` or `AskCancel`."""
        if (state := self.slots[slot]) in (InvocationState.SENT, InvocationState.ACCEPTED):
            trip = self._under_way[slot]
            if answer is not CommandState.UNKNOWN:
                if state is InvocationState.SENT:
                    self._accept(slot, now)
            elif state is InvocationState.SENT and trip.in_doubt:
                self._order_lost(slot, trip, now)
            else:
                self._answer_soon(slot, trip, now)
        return self._done(now)

    def result(self, slot: int, verdict: Verdict, now: int) -> Effects:
        """A result has come; the same result may come again."""
        state = self.slots[slot]
        if state in ENDS:
            correction = correction_of(state, bool(self._had_result[slot]), verdict)
            if correction is not None:
                self.slots.set(slot, correction.end)
                self._effects.append(Correct(slot, verdict, correction))
        else:
            self._leave(slot)
            self.slots.set(slot, verdict.end)
            self._effects.append(EndByResult(slot, verdict))
        self._had_result[slot] = True
        return self._done(now)

    # What persons do

    def pause(self, now: int) -> Effects:
        """
        Send nothing new.

        :raises ValueError: when the run is not running.
        """
        self._become(RunState.PAUSED, RunState.RUNNING)
        for slot in list(self._storing):
            self._hold_back(slot, now)
        return self._done(now)

    def resume(self, now: int) -> Effects:
        """
        Go on sending.

        :raises ValueError: when the run is not paused.
        """
        self._become(RunState.RUNNING, RunState.PAUSED)
        self._all_back(now)
        return self._done(now)

    def cancel(self, now: int) -> Effects:
        """
        Send nothing more, and have relays end what is under way.

        :raises ValueError: when it has ended or is cancelled already.
        """
        self._become(RunState.CANCELLING, RunState.RUNNING, RunState.PAUSED, RunState.STOPPING)
        for slot in list(self.slots.of(TO_SEND)):
            self._cancel(slot)
        for slot in self._under_way.all():
            self._cancel(slot)
        for slot in list(self._storing):
            self._cancel(slot)
        return self._done(now)

    def cancel_one(self, slot: int, now: int) -> Effects:
        """
        Have one invocation end.

        :raises ValueError: when it has ended.
        """
        if self.slots[slot] in ENDS:
            raise ValueError(f"it has ended already, as {self.slots[slot]}")
        self._cancel(slot)
        return self._done(now)

    # What time does, and other runs

    def due(self, slot: int, now: int) -> Effects:
        """The deadline that is stored for it has passed; it may have another one since."""
        state = self.slots[slot]
        if state not in ENDS and slot not in self._storing:
            deadline = self._deadline(slot)
            if deadline > now:
                self._rearm(slot, deadline)
            elif state in TO_SEND:
                self._end(
                    slot, InvocationState.EXPIRED, "expired", Text("It could not be sent in time, and did not run.")
                )
            else:
                self._give_up(slot)
        return self._done(now)

    def freed(self, where: Where, now: int) -> Effects:
        """A place has become free for which this run waits."""
        self._queues.changed(where)
        return self._done(now)

    # Ours

    def _done(self, now: int) -> Effects:
        """After each event: stop or send, look whether the run has ended, and hand out what is to be done."""
        self._check_budget()
        if self.state is RunState.RUNNING:
            self._fill(now)
        if not self.slots.open:
            self._conclude()
        effects, self._effects = self._effects, []
        return effects

    def _fill(self, now: int) -> None:
        while self._pace.room > 0:
            ready = self._queues.next()
            if ready is not None:
                self._store(*ready, now)
            elif (slot := self.slots.turn()) is None:
                return
            elif (relay := self._queues.relay_for(slot)) is not None:
                self._store(slot, relay, now)
            else:
                self._queue(slot, now)
                if self._allowed is not None:
                    self._check_budget()
                    if self.state is not RunState.RUNNING:
                        return

    def _store(self, slot: int, relay: str, now: int) -> None:
        self._number += 1
        store = Store(slot, relay, self._online[relay], self._sent_deadline(now), self._number)
        self._storing[slot] = store
        self._pace.sent()
        self._places.take(relay, self._plan.aims[slot].host)
        self.slots.set(slot, InvocationState.SENT)
        self._unhurried.discard(slot)
        self._effects.append(store)

    def _sent_deadline(self, now: int) -> int:
        return now + self._plan.patience.timeout + self._plan.patience.grace

    def _queue(self, slot: int, now: int) -> None:
        """It cannot be sent now."""
        if self._queues.is_away(slot) and now >= self._plan.wait_until:
            self._end_away(slot)
            return
        self.slots.set(slot, InvocationState.QUEUED)
        self._queues.park(slot)
        deadline = self._deadline(slot)
        if deadline == self._plan.over_at:
            self._unhurried.add(slot)
        self._effects.append(Queue(slot, deadline))

    def _await_relay(self, slot: int, now: int) -> None:
        """It is queued, and none of its relays is connected now."""
        if now >= self._plan.wait_until:
            self._end_away(slot)
        elif slot in self._unhurried:
            self._unhurried.remove(slot)
            self._effects.append(Rearm(slot, self._deadline(slot)))

    def _end_away(self, slot: int) -> None:
        relays = ", ".join(self._plan.aims[slot].relays)
        if not relays:
            self._end(slot, InvocationState.NOT_EXECUTED, "no-relay", Text("No relay reaches the host."))
        elif self._plan.now_or_never:
            why = Text("No relay that reaches the host is connected ({relays}).", relays=relays)
            self._end(slot, InvocationState.NOT_EXECUTED, "relay-away", why)
        else:
            why = Text("No relay that reaches the host was connected in time ({relays}).", relays=relays)
            self._end(slot, InvocationState.EXPIRED, "relay-away", why)

    def _hold_back(self, slot: int, now: int) -> None:
        """It was being stored as sent, and was not written."""
        self._queue_again(slot, self._storing.pop(slot).relay, now)

    def _queue_again(self, slot: int, relay: str, now: int, cancelled: bool = False) -> None:
        self._pace.not_sent()
        self._places.give(relay, self._plan.aims[slot].host)
        self.slots.set(slot, InvocationState.QUEUED)
        if cancelled or self.state is RunState.CANCELLING:
            self._end(slot, InvocationState.CANCELLED, "cancelled", Text("It was cancelled before it was sent."))
        elif self.state is RunState.STOPPING:
            self._end_stopped(slot)
        else:
            self._queue(slot, now)

    def _accept(self, slot: int, now: int) -> None:
        trip = self._under_way[slot]
        trip.since, trip.in_doubt, trip.refusal, trip.answer_by = now, False, None, None
        self.slots.set(slot, InvocationState.ACCEPTED)
        trip.stored = self._deadline(slot)
        self._effects.append(Accept(slot, trip.stored))

    def _answer_soon(self, slot: int, trip: Trip, now: int) -> None:
        trip.answer_by = now + self._plan.patience.grace
        self._rearm(slot, trip.answer_by)

    def _rearm(self, slot: int, deadline: int) -> None:
        if self.slots[slot] is InvocationState.QUEUED:
            self._unhurried.add(slot)
        elif self.slots[slot] is not InvocationState.WAITING:
            self._under_way[slot].stored = deadline
        self._effects.append(Rearm(slot, deadline))

    def _order_lost(self, slot: int, trip: Trip, now: int) -> None:
        """It was written to a link that is gone, and the relay says that it does not have it."""
        if trip.cancelled:
            why = Text("It was cancelled; its relay does not have the order.")
            self._end(slot, InvocationState.CANCELLED, "cancelled", why)
        elif now >= trip.resend_until or self.state in _STOPS:
            why = Text(
                "It was sent, and its relay does not have the order. It is too late to send it again, and not certain "
                "that it did not run."
            )
            self._end(slot, InvocationState.UNKNOWN, "order-lost", why)
        elif self._joins(trip) and self.state is RunState.RUNNING:
            self._write_again(slot, trip, now)

    def _write_again(self, slot: int, trip: Trip, now: int) -> None:
        trip.in_doubt, trip.since = False, now
        trip.writes += 1
        self._effects.append(Write(slot, trip.relay, True))

    def _all_back(self, now: int) -> None:
        for relay in list(self._online):
            self._back(relay, now)

    def _back(self, relay: str, now: int) -> None:
        """A relay is connected: what was sent to it on an older link?"""
        for slot in self._under_way.at(relay):
            trip = self._under_way[slot]
            joins = self._joins(trip)
            if trip.cancelled and joins:
                self._effects.append(AskCancel(slot, relay))
            elif joins and trip.in_doubt and trip.refusal is None and self.slots[slot] is InvocationState.SENT:
                if now >= trip.resend_until or self.state in _STOPS:
                    self._effects.append(Ask(slot, relay))
                elif self.state is RunState.RUNNING:
                    self._write_again(slot, trip, now)
            if (deadline := self._deadline(slot)) < trip.stored or not trip.stored:
                self._rearm(slot, deadline)

    def _cancel(self, slot: int) -> None:
        if slot in self._storing or self.slots[slot] in TO_SEND:
            self._end(slot, InvocationState.CANCELLED, "cancelled", Text("It was cancelled before it was sent."))
            return
        trip = self._under_way[slot]
        if not trip.cancelled:
            trip.cancelled = True
            self._effects.append(NoteCancel(slot))
            if self._joins(trip):
                self._effects.append(AskCancel(slot, trip.relay))

    def _give_up(self, slot: int) -> None:
        trip = self._under_way[slot]
        if trip.refusal is None:
            why = Text("Its relay ({relay}) has not said in time how it ended.", relay=trip.relay)
            self._end(slot, InvocationState.UNKNOWN, "no-result", why)
        elif trip.writes == 1 and self._joins(trip):
            self._end(slot, InvocationState.REFUSED, "refused", trip.refusal)
        else:
            self._end(slot, InvocationState.UNKNOWN, "refused", trip.refusal)

    def _deadline(self, slot: int) -> int:
        if self.slots[slot] is InvocationState.WAITING:
            return self._plan.over_at
        if self.slots[slot] is InvocationState.QUEUED:
            away = self._queues.is_away(slot)
            return min(self._plan.wait_until, self._plan.over_at) if away else self._plan.over_at
        trip = self._under_way[slot]
        return trip.deadline(self._plan.patience, self._since.get(trip.relay))

    def _leave(self, slot: int) -> None:
        """What it holds is free."""
        if slot in self._storing:
            relay = self._storing.pop(slot).relay
            self._pace.not_sent()
        elif self.slots[slot] in TO_SEND:
            self._unhurried.discard(slot)
            return
        else:
            relay = self._under_way.remove(slot).relay
            self._pace.ended()
        self._places.give(relay, self._plan.aims[slot].host)

    def _end(self, slot: int, end: InvocationState, code: str, why: Text) -> None:
        sent = slot in self._under_way and self._under_way[slot].writes > 0
        self._leave(slot)
        self.slots.set(slot, end)
        self._effects.append(End(slot, end, code, why, sent))

    def _check_budget(self) -> None:
        if self._allowed is None or self.state not in (RunState.RUNNING, RunState.PAUSED):
            return
        counts = self.slots.counts
        if sum(counts[end] for end in self._plan.budget.counted) <= self._allowed:
            return
        if counts[InvocationState.WAITING] or counts[InvocationState.QUEUED] or self._storing:
            self.state = RunState.STOPPING
            self._effects.append(RunIs(self.state))
            for slot in [*self.slots.of(TO_SEND), *self._storing]:
                self._end_stopped(slot)

    def _end_stopped(self, slot: int) -> None:
        why = Text("The run was stopped: more invocations had errors than it may have.")
        self._end(slot, InvocationState.NOT_EXECUTED, "run-stopped", why)

    def _become(self, state: RunState, *froms: RunState) -> None:
        if self.state not in froms:
            raise ValueError(f"the run is {self.state}")
        self.state = state
        self._effects.append(RunIs(state))

    def _conclude(self) -> None:
        end = end_of_run(self.state, self.slots.counts)
        if end is not self.state:
            self.state = end
            self._effects.append(RunIs(end))

    def _joins(self, trip: Trip) -> bool:
        """Whether its relay is connected, and has the journal to which it was written."""
        return bool(trip.journal) and self._online.get(trip.relay) == trip.journal

    def _is_queued(self, slot: int) -> bool:
        return self.slots[slot] is InvocationState.QUEUED


def end_of_run(state: RunState, counts: Mapping[InvocationState, int]) -> RunState:
    """
    How a run ends, or has ended now that a late result has changed the end of an invocation.

    :param state: as it was.
    :param counts: how many invocations ended in which way.
    """
    if state in (RunState.CANCELLING, RunState.CANCELLED):
        return RunState.CANCELLED
    if state in (RunState.STOPPING, RunState.STOPPED):
        return RunState.STOPPED
    others = any(count for end, count in counts.items() if end is not InvocationState.SUCCEEDED)
    return RunState.FAILED if others else RunState.SUCCEEDED
