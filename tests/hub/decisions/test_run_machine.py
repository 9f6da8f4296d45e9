"""
Tests of `relayd.hub.decisions.run_machine` by example; `test_any_order` has what holds in any order of events.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.decisions.budget import Budget
from relayd.hub.decisions.effects import Ask, AskCancel, Correct, Effects, End, EndByResult, Rearm, RunIs, Store, Write
from relayd.hub.decisions.ends import Verdict
from relayd.hub.decisions.places import Places
from relayd.hub.decisions.queues import Aim
from relayd.hub.decisions.rollout import Rollout
from relayd.hub.decisions.run_machine import Plan, RunMachine
from relayd.hub.decisions.states import InvocationState, RunState
from relayd.hub.decisions.under_way import SECOND, Patience
from relayd.language.texts import Text
from relayd.wire.messages import CommandState

SUCCEEDED = Verdict(InvocationState.SUCCEEDED)
FAILED = Verdict(InvocationState.FAILED)


def of(kind: type[Any], effects: Effects) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


class MachineCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.online: dict[str, str] = {}
        self.since: dict[str, int] = {}
        self.places: Places[str] = Places()

    def machine(self, *aims: str, wait: int = 0, run: str = "run", **fields: Any) -> RunMachine:
        """Each of *aims* is a host and its relays, as ``h1 a b``."""
        budget = Budget.parse(most=fields.pop("most", None))
        plan = Plan(
            run=run,
            aims=[Aim(aim.split()[0], tuple(aim.split()[1:])) for aim in aims],
            rollout=Rollout.parse(**fields),
            budget=budget,
            patience=Patience(timeout=100 * SECOND),
            now_or_never=not wait,
            wait_until=wait,
            over_at=10**12,
        )
        return RunMachine(plan, self.online, self.since, self.places)

    def connect(self, name: str, journal: str = "j", now: int = 0) -> None:
        self.online[name], self.since[name] = journal, now

    def sent(self, machine: RunMachine, effects: Effects, now: int = 0) -> list[Write]:
        """Have all stored that is to be stored."""
        written: list[Write] = []
        for store in of(Store, effects):
            written += of(Write, machine.stored(store.slot, store.number, now))
        return written


class SendTests(MachineCase):
    def test_the_first_relay_that_is_there(self) -> None:
        self.connect("b")
        machine = self.machine("h a b", "h2 b a")
        self.assertEqual([(each.slot, each.relay) for each in of(Store, machine.start(0))], [(0, "b"), (1, "b")])

    def test_a_full_relay_is_passed_over(self) -> None:
        self.connect("a")
        self.connect("b")
        machine = self.machine("h1 a b", "h2 a b", "h3 a", per_relay=1)
        self.assertEqual([each.relay for each in of(Store, machine.start(0))], ["a", "b"])
        self.assertEqual(machine.slots[2], InvocationState.QUEUED)

    def test_a_host_is_shared_by_runs(self) -> None:
        self.connect("a")
        first, second = (self.machine("h a", run=name, per_host=1) for name in ("first", "second"))
        self.sent(first, first.start(0))
        self.assertEqual(of(Store, second.start(0)), [])
        first.result(0, SUCCEEDED, 1)
        ((where, runs),) = self.places.take_freed()
        self.assertEqual((where, runs), (("host", "h"), ["second"]))
        self.assertEqual(len(of(Store, second.freed(where, 1))), 1)

    def test_no_relay(self) -> None:
        machine = self.machine("h")
        effects = machine.start(0)
        self.assertEqual([(end.end, end.code) for end in of(End, effects)], [("not-executed", "no-relay")])
        self.assertEqual(of(RunIs, effects), [RunIs(RunState.FAILED)])

    def test_a_write_that_fails_is_no_reason_to_send_it_elsewhere_once_it_was_sent(self) -> None:
        """It was written before, to a link that is gone: it may run there."""
        self.connect("a")
        machine = self.machine("h a b", wait=10**9)
        self.sent(machine, machine.start(0))
        del self.online["a"]
        machine.relay_offline("a", 1)
        self.connect("a")
        self.assertEqual(of(Write, machine.relay_online("a", 2)), [Write(0, "a", True)])
        del self.online["a"]
        machine.relay_offline("a", 3)
        self.connect("b")
        self.assertEqual(of(Store, machine.not_written(0, 3)), [])
        self.assertEqual(machine.slots[0], InvocationState.SENT)

    def test_a_write_that_fails_the_first_time_is_as_if_it_was_never_sent(self) -> None:
        self.connect("a")
        machine = self.machine("h a b", wait=10**9)
        self.sent(machine, machine.start(0))
        del self.online["a"]
        machine.relay_offline("a", 1)
        self.connect("b")
        self.assertEqual([each.relay for each in of(Store, machine.not_written(0, 1))], ["b"])

    def test_too_late_to_send_it_again(self) -> None:
        self.connect("a")
        machine = self.machine("h a")
        self.sent(machine, machine.start(0))
        del self.online["a"]
        machine.relay_offline("a", 1)
        self.connect("a", now=90 * SECOND)
        effects = machine.relay_online("a", 90 * SECOND)
        self.assertEqual((of(Write, effects), of(Ask, effects)), ([], [Ask(0, "a")]))
        (end,) = of(End, machine.status(0, CommandState.UNKNOWN, 91 * SECOND))
        self.assertEqual((end.end, end.code), ("unknown", "order-lost"))

    def test_a_stopped_run_asks_where_it_would_have_sent_again(self) -> None:
        self.connect("a")
        machine = self.machine("h1 a", "h2 a", "h3 b", wait=10**9, most=0)
        self.sent(machine, machine.start(0))
        machine.relay_offline("a", 1)
        machine.result(0, FAILED, 2)
        self.assertEqual(machine.state, RunState.STOPPING)
        effects = machine.relay_online("a", 3)
        self.assertEqual((of(Write, effects), of(Ask, effects)), ([], [Ask(1, "a")]))

    def test_what_a_relay_has_is_left_to_it(self) -> None:
        self.connect("a")
        machine = self.machine("h a")
        self.sent(machine, machine.start(0))
        del self.online["a"]
        machine.relay_offline("a", 1)
        self.connect("a", now=90 * SECOND)
        machine.relay_online("a", 90 * SECOND)
        machine.status(0, CommandState.RUNNING, 91 * SECOND)
        self.assertEqual(machine.slots[0], InvocationState.ACCEPTED)


class EndTests(MachineCase):
    def test_an_acknowledgement_with_an_error_ends_nothing(self) -> None:
        """relayd sends a result that says what is true; another program perhaps nothing more."""
        for journal, end in (("j", "refused"), ("", "unknown")):
            self.connect("a", journal)
            machine = self.machine("h a")
            self.sent(machine, machine.start(0))
            self.assertEqual(machine.refused(0, SECOND, Text("no")), [Rearm(0, 61 * SECOND)])
            self.assertEqual([each.end for each in of(End, machine.due(0, 61 * SECOND))], [end])

    def test_the_refusal_of_a_command_that_came_again_ends_nothing(self) -> None:
        self.connect("a")
        machine = self.machine("h a", wait=10**9)
        self.sent(machine, machine.start(0))
        machine.relay_offline("a", 1)
        machine.relay_online("a", 2)
        machine.refused(0, 3, Text("The command with this commandId has already run."))
        self.assertEqual([each.end for each in of(End, machine.due(0, 61 * SECOND))], ["unknown"])

    def test_a_late_result(self) -> None:
        self.connect("a")
        machine = self.machine("h a", "h2 a")
        self.sent(machine, machine.start(0))
        machine.due(0, 200 * SECOND)
        self.assertEqual(machine.slots[0], InvocationState.UNKNOWN)
        (correct,) = of(Correct, machine.result(0, FAILED, 201 * SECOND))
        self.assertEqual((correct.correction.end, correct.correction.former), ("failed", "unknown"))
        self.assertEqual(machine.result(0, SUCCEEDED, 202 * SECOND), [])
        self.assertEqual(machine.slots.counts[InvocationState.UNKNOWN], 0)

    def test_the_budget(self) -> None:
        self.connect("a")
        machine = self.machine("h1 a", "h2 a", "h3 a", concurrency=2, most=0)
        self.sent(machine, machine.start(0))
        effects = machine.result(0, FAILED, 1)
        self.assertEqual([(end.slot, end.code) for end in of(End, effects)], [(2, "run-stopped")])
        self.assertEqual(of(RunIs, machine.result(1, SUCCEEDED, 2)), [RunIs(RunState.STOPPED)])

    def test_a_budget_that_is_spent_at_the_end_stops_nothing(self) -> None:
        self.connect("a")
        machine = self.machine("h1 a", most=0)
        self.sent(machine, machine.start(0))
        self.assertEqual(of(RunIs, machine.result(0, FAILED, 1)), [RunIs(RunState.FAILED)])

    def test_ramp(self) -> None:
        self.connect("a")
        machine = self.machine(*(f"h{n} a" for n in range(9)), ramp=[1, 2])
        sizes, effects = [], machine.start(0)
        while stores := of(Store, effects):
            sizes.append(len(stores))
            self.sent(machine, effects)
            for store in stores:
                effects = machine.result(store.slot, SUCCEEDED, 1)
        self.assertEqual(sizes, [1, 2, 6])
        self.assertEqual(machine.state, RunState.SUCCEEDED)


class CancelTests(MachineCase):
    def test_what_was_stored_for_another_relay_is_not_written(self) -> None:
        self.connect("a")
        machine = self.machine("h a b", wait=10**9)
        (first,) = of(Store, machine.start(0))
        del self.online["a"]
        self.connect("b")
        machine.relay_online("b", 1)
        (second,) = of(Store, machine.relay_offline("a", 1))
        self.assertEqual((first.relay, second.relay), ("a", "b"))
        self.assertEqual(machine.stored(0, first.number, 2), [])
        self.assertEqual(machine.stored(0, second.number, 3), [Write(0, "b", False)])

    def test_cancelled_between_the_store_and_the_link(self) -> None:
        self.connect("a")
        machine = self.machine("h a")
        (store,) = of(Store, machine.start(0))
        (end,) = of(End, machine.cancel(0))
        self.assertEqual((end.end, end.sent), ("cancelled", False))
        self.assertEqual(machine.stored(store.slot, store.number, 1), [])

    def test_another_program_is_not_asked_to_cancel(self) -> None:
        self.connect("a", "")
        machine = self.machine("h a")
        self.sent(machine, machine.start(0))
        self.assertEqual(of(AskCancel, machine.cancel(0)), [])
        self.assertEqual(of(EndByResult, machine.result(0, SUCCEEDED, 1)), [EndByResult(0, SUCCEEDED)])
        self.assertEqual(machine.state, RunState.CANCELLED)

    def test_a_run_that_has_ended(self) -> None:
        machine = self.machine("h")
        machine.start(0)
        for event in (machine.cancel, machine.pause, machine.resume):
            self.assertRaises(ValueError, event, 1)
        self.assertRaises(ValueError, machine.cancel_one, 0, 1)
