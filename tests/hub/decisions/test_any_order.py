"""
The events of a run in any order, with relays that lose orders and a hub that is killed: what must hold in all of them.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

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
from relayd.hub.decisions.ends import Verdict
from relayd.hub.decisions.places import Places
from relayd.hub.decisions.queues import Aim
from relayd.hub.decisions.rollout import Rollout
from relayd.hub.decisions.run_machine import Plan, RunMachine, Sent
from relayd.hub.decisions.shares import Share
from relayd.hub.decisions.states import CERTAINLY_NOT_RUN, ENDS, RUN_ENDS, InvocationState, RunState
from relayd.hub.decisions.under_way import SECOND, Patience
from relayd.language.texts import Text
from relayd.wire.messages import CommandState

#: Whether the program of each relay joins duplicates.
RELAYS = {"a": True, "b": True, "other": False}
HOSTS = ["h0", "h1", "h2", "h3"]
TIMEOUT = 100 * SECOND
OVER_AT = 30 * 24 * 3600 * SECOND


class Row:
    """What the store knows of an invocation."""

    def __init__(self) -> None:
        self.state = InvocationState.WAITING
        self.deadline: int | None = OVER_AT
        self.relay = ""
        self.journal = ""
        self.sent_at: int | None = None
        self.accepted_at: int | None = None
        self.cancelled = False
        self.with_result = False


class Relay:
    """A program at the other end, which keeps what it knows: relayd's journal, or a memory of what came."""

    def __init__(self, joins: bool) -> None:
        self.joins = joins
        #: Changes when its state folder is lost.
        self.journal = "1" if joins else ""
        #: Orders on the way to it.
        self.link: list[int] = []
        self.running: set[int] = set()
        self.finished: dict[int, InvocationState] = {}
        self.refused: set[int] = set()

    def forget(self) -> None:
        """Its state folder is gone, and with it what it knows of commands."""
        self.running.clear()
        self.finished.clear()
        if self.joins:
            self.journal += "1"

    def order(self, slot: int) -> bool:
        """Whether it begins to run."""
        if slot in self.running or slot in self.finished:
            return False
        self.running.add(slot)
        return True

    def state_of(self, slot: int) -> CommandState:
        if slot in self.running:
            return CommandState.RUNNING
        return CommandState.FINISHED if slot in self.finished else CommandState.UNKNOWN


class AnyOrder(RuleBasedStateMachine):
    """One run with other runs beside it."""

    @initialize(
        aims=st.lists(
            st.tuples(
                st.sampled_from(HOSTS), st.lists(st.sampled_from(sorted(RELAYS)), min_size=1, max_size=2, unique=True)
            ),
            min_size=2,
            max_size=8,
        ),
        concurrency=st.none() | st.integers(1, 3),
        ramp=st.lists(st.integers(1, 2), max_size=2),
        per_relay=st.none() | st.none() | st.integers(1, 2),
        per_host=st.none() | st.none() | st.integers(1, 2),
        most=st.none() | st.integers(0, 1),
        counted=st.sets(st.sampled_from(sorted(ENDS - {InvocationState.SUCCEEDED})), min_size=4),
        wait=st.sampled_from([0, 1000 * SECOND]),
        there=st.sets(st.sampled_from(sorted(RELAYS))),
    )
    def begin(self, aims: Any, concurrency: Any, ramp: Any, per_relay: Any, per_host: Any, most: Any, counted: Any,
              wait: int, there: set[str]) -> None:  # fmt: skip
        self.now = 0
        self.online: dict[str, str] = {}
        self.since: dict[str, int] = {}
        self.places: Places[str] = Places()
        self.relays = {name: Relay(joins) for name, joins in RELAYS.items()}
        self.rollout = Rollout(
            concurrency=None if concurrency is None else Share(Fraction(concurrency), False),
            ramp=tuple(ramp), per_relay=per_relay, per_host=per_host,
        )  # fmt: skip
        self.plan = Plan(
            run="run",
            aims=[Aim(host, tuple(relays)) for host, relays in aims],
            rollout=self.rollout,
            budget=Budget(most=None if most is None else Share(Fraction(most), False), counted=frozenset(counted)),
            patience=Patience(timeout=TIMEOUT),
            now_or_never=wait == 0,
            wait_until=wait,
            over_at=OVER_AT,
        )
        for name in there:
            self.online[name], self.since[name] = self.relays[name].journal, self.now
        self.rows = [Row() for _ in aims]
        self.run_state = RunState.RUNNING
        self.storing: list[Store] = []
        #: What was being stored as sent, and was changed again before it was stored.
        self.superseded: set[int] = set()
        #: What was written to links that are gone.
        self.in_doubt: set[int] = set()
        #: Questions that relays have not answered.
        self.answers: list[tuple[int, str]] = []
        self.written: Counter[tuple[int, str]] = Counter()
        self.executed: Counter[int] = Counter()
        self.machine = RunMachine(self.plan, self.online, self.since, self.places)
        self.do(self.machine.start(self.now))

    # What the engine does

    def do(self, effects: Effects) -> None:
        for effect in effects:
            getattr(self, f"do_{type(effect).__name__}")(effect)
        for where, runs in self.places.take_freed():
            assert runs == ["run"]
            self.do(self.machine.freed(where, self.now))

    def do_Store(self, effect: Store) -> None:
        assert self.run_state is RunState.RUNNING, "something new is sent although it is paused or stopped"
        assert effect.relay in self.online
        assert self.rows[effect.slot].state not in ENDS
        self.storing.append(effect)

    def do_Write(self, effect: Write) -> None:
        row, key = self.rows[effect.slot], (effect.slot, effect.relay)
        assert row.sent_at is not None, "it was written before it was stored"
        assert row.relay == effect.relay
        assert row.state is InvocationState.SENT
        assert self.run_state is RunState.RUNNING, "something is written although the run was paused or stopped"
        assert not row.cancelled, "something is written although it was cancelled"
        assert effect.again == bool(self.written[key])
        assert effect.relay in self.online
        if effect.again:
            assert effect.slot in self.in_doubt, "it was written to the same link before"
            self.in_doubt.remove(effect.slot)
            assert RELAYS[effect.relay], "sent twice to a program that does not join duplicates"
        self.written[key] += 1
        assert len({relay for slot, relay in self.written if slot == effect.slot and self.written[slot, relay]}) == 1
        self.relays[effect.relay].link.append(effect.slot)

    def do_Queue(self, effect: Queue) -> None:
        row = self.rows[effect.slot]
        assert row.state not in (*ENDS, InvocationState.ACCEPTED)
        row.state, row.deadline, row.sent_at = InvocationState.QUEUED, effect.deadline, None
        self.superseded |= {store.number for store in self.storing if store.slot == effect.slot}

    def do_Accept(self, effect: Accept) -> None:
        row = self.rows[effect.slot]
        assert row.state is InvocationState.SENT
        row.state, row.accepted_at, row.deadline = InvocationState.ACCEPTED, self.now, effect.deadline

    def do_Rearm(self, effect: Rearm) -> None:
        assert self.rows[effect.slot].state not in ENDS
        self.rows[effect.slot].deadline = effect.deadline

    def do_Ask(self, effect: Ask) -> None:
        assert self.online[effect.relay] == self.rows[effect.slot].journal != ""
        self.answers.append((effect.slot, effect.relay))

    def do_NoteCancel(self, effect: NoteCancel) -> None:
        self.rows[effect.slot].cancelled = True

    def do_AskCancel(self, effect: AskCancel) -> None:
        assert self.online[effect.relay] == self.rows[effect.slot].journal != ""
        assert self.rows[effect.slot].cancelled
        self.answers.append((effect.slot, effect.relay))

    def do_End(self, effect: End) -> None:
        self.ends(effect.slot, effect.end)
        self.superseded |= {store.number for store in self.storing if store.slot == effect.slot}
        assert effect.sent == any(self.written[effect.slot, name] for name in RELAYS)
        if not effect.sent:
            self.rows[effect.slot].sent_at = None
        assert effect.end not in (InvocationState.SUCCEEDED, InvocationState.FAILED, InvocationState.TIMED_OUT)
        if effect.end is InvocationState.UNKNOWN:
            assert self.rows[effect.slot].sent_at is not None, "unknown, although it was never sent"

    def do_EndByResult(self, effect: EndByResult) -> None:
        self.ends(effect.slot, effect.verdict.end)
        self.rows[effect.slot].with_result = True

    def do_Correct(self, effect: Correct) -> None:
        row = self.rows[effect.slot]
        assert row.state is effect.correction.former
        assert not effect.correction.contradicts, "an end that was said to be certain was wrong"
        assert not row.with_result or row.state is InvocationState.UNKNOWN
        row.state = effect.correction.end
        row.with_result = True

    def do_RunIs(self, effect: RunIs) -> None:
        assert self.run_state is not effect.state
        if self.run_state in RUN_ENDS:
            assert self.run_state in (RunState.FAILED, RunState.SUCCEEDED)
            assert effect.state in (RunState.FAILED, RunState.SUCCEEDED)
        self.run_state = effect.state
        if effect.state in RUN_ENDS:
            assert all(row.state in ENDS for row in self.rows), "the run has ended, and an invocation has not"

    def ends(self, slot: int, end: InvocationState) -> None:
        row = self.rows[slot]
        assert row.state not in ENDS, "it ends twice"
        row.state, row.deadline = end, None

    # What may happen

    @rule()
    @precondition(lambda self: self.storing)
    def store(self) -> None:
        """The next transaction is done."""
        effect = self.storing.pop(0)
        self.commit(effect)
        self.do(self.machine.stored(effect.slot, effect.number, self.now))

    def commit(self, effect: Store) -> None:
        row = self.rows[effect.slot]
        if effect.number not in self.superseded:
            row.state, row.relay, row.deadline = InvocationState.SENT, effect.relay, effect.deadline
            row.journal = effect.journal
            row.sent_at = self.now if row.sent_at is None else row.sent_at

    @rule(name=st.sampled_from(sorted(RELAYS)))
    def relay_connects(self, name: str) -> None:
        if name not in self.online:
            self.online[name], self.since[name] = self.relays[name].journal, self.now
        # Also for one that is there already: it says late what it is.
        self.do(self.machine.relay_online(name, self.now))

    def doubt(self, name: str) -> None:
        self.in_doubt |= {slot for slot, relay in self.written if relay == name and self.written[slot, relay]}

    @rule(name=st.sampled_from(sorted(RELAYS)), often=st.integers(0, 5))
    def relay_loses_its_memory(self, name: str, often: int) -> None:
        if name not in self.online and not often:
            self.relays[name].forget()

    @rule(name=st.sampled_from(sorted(RELAYS)), arrive=st.booleans())
    def relay_is_lost(self, name: str, arrive: bool) -> None:
        if name in self.online:
            relay = self.relays[name]
            self.doubt(name)
            orders, relay.link = relay.link, []
            for slot in orders if arrive else ():
                self.executed[slot] += relay.order(slot)
            self.answers = [asked for asked in self.answers if asked[1] != name]
            del self.online[name], self.since[name]
            self.do(self.machine.relay_offline(name, self.now))

    @rule(name=st.sampled_from(sorted(RELAYS)), arrive=st.booleans(), late=st.sampled_from([0, 50, 500]))
    def link_breaks(self, name: str, arrive: bool, late: int) -> None:
        """And the relay is back soon."""
        self.relay_is_lost(name, arrive)
        self.now += late * SECOND
        self.relay_connects(name)

    @rule()
    @precondition(lambda self: self.storing)
    def all_is_stored(self) -> None:
        while self.storing:
            self.store()

    @rule(name=st.sampled_from(sorted(RELAYS)), refuse=st.integers(0, 4), says=st.booleans())
    def order_arrives(self, name: str, refuse: int, says: bool) -> None:
        relay = self.relays[name]
        if name not in self.online or not relay.link:
            return
        slot = relay.link.pop(0)
        if relay.joins and not refuse and relay.state_of(slot) is CommandState.UNKNOWN:
            self.do(self.machine.refused(slot, self.now, Text("no")))
            if says:
                self.do(self.machine.result(slot, Verdict(InvocationState.REFUSED, "forbidden"), self.now))
            return
        self.executed[slot] += relay.order(slot)
        if relay.joins and says:
            self.do(self.machine.accepted(slot, self.now))

    @rule(name=st.sampled_from(sorted(RELAYS)))
    def write_fails(self, name: str) -> None:
        """The engine finds out that the link is gone as it writes: as if the order had not been written."""
        relay = self.relays[name]
        if name in self.online and relay.link:
            slot = relay.link.pop()
            self.written[slot, name] -= 1
            self.doubt(name)
            for other in relay.link:
                self.executed[other] += relay.order(other)
            relay.link.clear()
            self.answers = [asked for asked in self.answers if asked[1] != name]
            del self.online[name], self.since[name]
            self.do(self.machine.relay_offline(name, self.now))
            self.do(self.machine.not_written(slot, self.now))

    @rule(name=st.sampled_from(sorted(RELAYS)), end=st.sampled_from(
        [InvocationState.SUCCEEDED, InvocationState.FAILED, InvocationState.TIMED_OUT, InvocationState.UNKNOWN]
    ))  # fmt: skip
    def command_finishes(self, name: str, end: InvocationState) -> None:
        relay = self.relays[name]
        if relay.running:
            relay.finished[relay.running.pop()] = end

    @rule(name=st.sampled_from(sorted(RELAYS)))
    def results_come(self, name: str) -> None:
        """All of them, also those that came before."""
        if name in self.online:
            for slot, end in self.relays[name].finished.items():
                self.do(self.machine.result(slot, Verdict(end), self.now))

    @rule()
    @precondition(lambda self: self.answers)
    def relay_answers(self) -> None:
        slot, name = self.answers.pop(0)
        if name in self.online and slot not in self.relays[name].link:
            self.do(self.machine.status(slot, self.relays[name].state_of(slot), self.now))

    @rule()
    @precondition(lambda self: self.run_state is RunState.RUNNING)
    def pause(self) -> None:
        self.do(self.machine.pause(self.now))

    @rule()
    @precondition(lambda self: self.run_state is RunState.PAUSED)
    def resume(self) -> None:
        self.do(self.machine.resume(self.now))

    @rule(sure=st.integers(0, 1))
    @precondition(lambda self: self.run_state in (RunState.RUNNING, RunState.PAUSED, RunState.STOPPING))
    def cancel(self, sure: int) -> None:
        if not sure:
            self.do(self.machine.cancel(self.now))

    @rule(slot=st.integers(0, 7))
    def cancel_one(self, slot: int) -> None:
        if slot < len(self.rows) and self.rows[slot].state not in ENDS:
            self.do(self.machine.cancel_one(slot, self.now))

    @rule(seconds=st.sampled_from([1, 1, 70, 130, 200, 2000, 90_000]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.sweep()

    def sweep(self) -> None:
        for slot, row in enumerate(self.rows):
            if row.state not in ENDS and row.deadline is not None and row.deadline <= self.now:
                self.do(self.machine.due(slot, self.now))

    @rule(committed=st.integers(0, 3), grace=st.sampled_from([0, 300]))
    @precondition(lambda self: self.run_state not in RUN_ENDS)
    def hub_is_killed(self, committed: int, grace: int) -> None:
        """Of what was being stored, some is; another process goes on."""
        for effect in self.storing[:committed]:
            self.commit(effect)
        self.storing.clear()
        self.answers.clear()
        self.superseded.clear()
        self.in_doubt = set(range(len(self.rows)))
        self.online.clear()
        self.since.clear()
        self.places = Places()
        for relay in self.relays.values():
            for slot in relay.link:
                self.executed[slot] += relay.order(slot)
            relay.link.clear()
        wait_until = max(self.plan.wait_until, self.now + grace * SECOND)
        plan = Plan(
            **{name: getattr(self.plan, name) for name in Plan.__struct_fields__ if name != "wait_until"},
            wait_until=wait_until,
        )
        states = [row.state for row in self.rows]
        self.machine = RunMachine(plan, self.online, self.since, self.places, self.run_state, states)
        under_way = (InvocationState.SENT, InvocationState.ACCEPTED)
        sent = {
            slot: Sent(
                relay=row.relay,
                journal=row.journal,
                sent_at=row.sent_at,
                accepted_at=row.accepted_at,
                cancelled=row.cancelled,
            )
            for slot, row in enumerate(self.rows)
            if row.state in under_way and row.sent_at is not None
        }
        for slot, row in enumerate(self.rows):  # it may have been written
            if row.state in under_way:
                self.written[slot, row.relay] = max(1, self.written[slot, row.relay])
        ever = sum(row.sent_at is not None for row in self.rows)
        with_result = [slot for slot, row in enumerate(self.rows) if row.with_result]
        self.do(self.machine.go_on(self.now, sent, ever, with_result))

    # What must hold

    @invariant()
    def limits(self) -> None:
        if not hasattr(self, "machine"):
            return
        storing = {effect.slot for effect in self.storing}
        busy = [slot for slot in range(len(self.rows)) if self.machine.slots[slot] in
                (InvocationState.SENT, InvocationState.ACCEPTED)]  # fmt: skip
        assert self.machine.under_way == len(busy)
        if self.rollout.concurrency is not None:
            assert len(busy) <= self.rollout.concurrency.number
        if self.rollout.per_host is not None:
            hosts = Counter(self.plan.aims[slot].host for slot in busy)
            assert all(count <= self.rollout.per_host for count in hosts.values())
        if self.rollout.per_relay is not None:
            at = Counter(self.rows[slot].relay for slot in busy if slot not in storing)
            assert all(count <= self.rollout.per_relay for count in at.values())

    @invariant()
    def nothing_twice_and_nothing_false(self) -> None:
        if not hasattr(self, "machine"):
            return
        for slot, row in enumerate(self.rows):
            assert self.executed[slot] <= 1, "it ran twice"
            if self.executed[slot]:
                assert row.state not in CERTAINLY_NOT_RUN, f"{row.state}, although it ran"
            elif row.state in ENDS:
                assert row.state not in (InvocationState.SUCCEEDED, InvocationState.FAILED), "it did not run"

    @invariant()
    def nothing_waits_in_vain(self) -> None:
        if hasattr(self, "machine") and self.run_state is RunState.RUNNING and self.machine._pace.room > 0:
            assert self.machine.slots.turn() is None, "its turn has come"
            for slot in self.machine.slots.of(frozenset({InvocationState.QUEUED})):
                assert self.machine._queues.relay_for(slot) is None, "it could be sent"

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """What is open has a deadline that is stored."""
        if hasattr(self, "machine"):
            storing = {effect.slot for effect in self.storing}
            for slot, row in enumerate(self.rows):
                if slot not in storing:
                    assert row.state is self.machine.slots[slot]
                    if row.state not in ENDS:
                        assert row.deadline is not None
                        assert row.deadline <= self.machine._deadline(slot), "it would be noticed too late"

    def teardown(self) -> None:
        """Whatever happened: with time alone each invocation ends, and then the run has ended."""
        if hasattr(self, "machine"):
            for _ in range(40):
                while self.storing:
                    self.store()
                self.now += 3 * 24 * 3600 * SECOND
                self.sweep()
            assert self.run_state in RUN_ENDS, self.run_state
            assert all(row.state in ENDS for row in self.rows)
            assert not self.machine.under_way
            assert not any(self.places._taken.values())


AnyOrder.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


class AnyOrderTests(SynchronousTestCase):
    """Runs the machine above below trial."""

    def test_any_order(self) -> None:
        AnyOrder.TestCase("runTest").debug()
