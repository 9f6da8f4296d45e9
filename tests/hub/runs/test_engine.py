"""
Tests of `relayd.hub.runs.engine` on both stores.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from sqlalchemy import update
from twisted.internet.defer import Deferred

from relayd.hub.decisions.ends import Rerun
from relayd.hub.runs.errors import InvalidOrder, NoHosts, NotNow, SecretsGone
from relayd.hub.runs.orders import Order
from relayd.hub.store.errors import Conflict, NotFound
from relayd.hub.store.output import read_output
from relayd.hub.store.runs import sealed_of
from relayd.hub.store.tables import invocations
from relayd.wire.messages import CommandOutput, CommandState
from tests.support.databases import OnBothStores
from tests.support.hub_runs import EngineCase, Link, result_of


class EngineTests(OnBothStores):
    async def start(self) -> None:
        await super().start()
        self.case = EngineCase(self.store)
        await self.case.engine.start()

    def tearDown(self) -> Any:
        return Deferred.fromCoroutine(self.end())

    async def end(self) -> None:
        await self.case.settle()
        await self.case.engine.stop()

    async def a_run(self, hosts: int = 2, journal: str = "journal", **fields: Any) -> tuple[str, Link]:
        """A run on hosts behind one relay that is connected."""
        for number in range(hosts):
            self.case.inventory.add(f"h{number}", "berlin", env="prod")
        link = await self.case.connect("berlin", journal)
        run = await self.case.order(**fields)
        return run.id, link

    # Orders

    async def test_a_run_from_order_to_end(self) -> None:
        run_id, _ = await self.a_run()
        first, second = self.case.ids()
        self.assertEqual([command.host for _, command in self.case.links.sent], ["h0", "h1"])
        self.assertEqual(await self.case.states(run_id), ["sent", "sent"])
        self.case.engine.accepted("berlin", first)
        await self.case.settle()
        self.assertEqual(await self.case.states(run_id), ["accepted", "sent"])
        await self.case.give("berlin", result_of(first, 0, "up 3 days"))
        await self.case.give("berlin", result_of(second, 3))
        self.assertEqual(await self.case.states(run_id), ["succeeded", "failed"])
        run = await self.case.run(run_id)
        self.assertEqual((run.state, run.counts), ("failed", {"succeeded": 1, "failed": 1}))
        self.assertIsNotNone(run.ended_at)
        chunks = await self.store.read(read_output, first, "stdout")
        self.assertEqual([chunk.data for chunk in chunks], [b"up 3 days"])
        self.assertEqual(self.case.engine.open, {})

    async def test_the_same_request_twice_is_one_run(self) -> None:
        run_id, _ = await self.a_run(key="k")
        again = await self.case.order(key="k")
        self.assertEqual(again.id, run_id)
        self.assertEqual(len(self.case.links.sent), 2)
        await self.fails(self.case.order(key="k", command="reboot"), Conflict)

    async def test_what_cannot_be_ordered(self) -> None:
        self.case.inventory.add("h0", "berlin")
        for order, error in (
            (Order(command="x", selector="h9"), NoHosts),
            (Order(command="x", hosts=("h0", "h9")), NoHosts),
            (Order(command="x", selector=""), NoHosts),
            (Order(command="", selector="all"), InvalidOrder),
            (Order(selector="all"), InvalidOrder),
            (Order(command="x", selector="all", timeout=-1), InvalidOrder),
            (Order(command="x", selector="all", concurrency="0%"), InvalidOrder),
            (Order(command="x", selector="all", env={"1": "x"}), InvalidOrder),
        ):
            waiting = self.case.engine.create(order, "user:ann")
            await self.case.settle()
            await self.assertFailure(waiting, error)
        self.assertEqual(self.case.links.sent, [])

    async def test_only_hosts_that_the_person_may_use(self) -> None:
        self.case.inventory.add("h0", "berlin")
        self.case.inventory.add("h1", "berlin")
        await self.case.connect("berlin")
        order = Order(command="x", selector="all")
        waiting = self.case.engine.create(order, "user:ann", allowed=lambda host: host.name == "h1")
        await self.case.settle()
        await waiting
        self.assertEqual([command.host for _, command in self.case.links.sent], ["h1"])

    async def test_secrets_are_sealed_and_deleted_at_the_end(self) -> None:
        run_id, _ = await self.a_run(1, env={"TOKEN": "hunter2"}, stdin="geheim")
        run = await self.case.run(run_id)
        self.assertNotIn("hunter2", str(run.command))
        self.assertNotIn("geheim", str(run.command))
        self.assertIn(b"geheim"[::-1][:0], await self.store.read(sealed_of, run_id) or b"")
        self.assertEqual(self.case.links.sent[0][1].env, (("TOKEN", "hunter2"),))
        await self.case.give("berlin", result_of(self.case.ids()[0]))
        self.assertIsNone(await self.store.read(sealed_of, run_id))
        waiting = self.case.engine.rerun(run_id, Rerun.ALL, "user:ann")
        await self.case.settle()
        await self.assertFailure(waiting, SecretsGone)

    # What is stored before it is said

    async def test_sent_is_stored_before_it_is_sent(self) -> None:
        self.case.inventory.add("h0", "berlin")
        await self.case.connect("berlin")
        states: list[Any] = []
        send = self.case.links.send

        def look(proxy_id: str, command: Any) -> bool:
            from relayd.hub.store.invocations import get_invocation

            states.append(self.store.read(get_invocation, command.command_id))
            return send(proxy_id, command)

        self.case.links.send = look  # type: ignore[method-assign]
        await self.case.order()
        self.assertEqual([(await state).state for state in states], ["sent"])

    async def test_a_result_comes_twice(self) -> None:
        run_id, _ = await self.a_run(2)
        first = self.case.ids()[0]
        await self.case.give("berlin", result_of(first, 0, "a"))
        await self.case.give("berlin", result_of(first, 0, "a"))
        await self.case.give("berlin", result_of(first, 1, "b"))
        self.assertEqual(await self.case.states(run_id), ["succeeded", "sent"])
        self.assertEqual(len(await self.store.read(read_output, first, "stdout")), 1)

    async def test_a_result_of_another_relay_changes_nothing(self) -> None:
        run_id, _ = await self.a_run(1)
        await self.case.connect("paris")
        self.assertIsNone(self.case.engine.result("paris", result_of(self.case.ids()[0])))
        self.case.engine.accepted("paris", self.case.ids()[0])
        await self.case.settle()
        self.assertEqual(await self.case.states(run_id), ["sent"])
        await self.case.give("paris", result_of("no-such-command"))
        await self.case.give("paris", result_of("x" * 256))

    async def test_words_of_a_hostile_relay_fit_the_database(self) -> None:
        run_id, _ = await self.a_run(1)
        error = {"code": "x\0\ud800", "phase": "run", "executed": "yes", "retriable": False}
        result = result_of(self.case.ids()[0], 2**70, "out\0put \ud800", error)
        await self.case.give("berlin", result)
        (known,) = await self.case.invocations(run_id)
        self.assertEqual((known.state, known.exit_code), ("failed", None))

    # Relays that go and come

    async def test_now_or_never(self) -> None:
        self.case.inventory.add("h0", "berlin")
        run = await self.case.order()
        (known,) = await self.case.invocations(run.id)
        self.assertEqual((known.state, known.error_code, known.sent_at), ("not-executed", "relay-away", None))
        self.assertEqual((await self.case.run(run.id)).state, "failed")

    async def test_queued_until_the_relay_comes(self) -> None:
        self.case.inventory.add("h0", "berlin", "paris")
        run = await self.case.order(deliver_within=600)
        self.assertEqual(await self.case.states(run.id), ["queued"])
        await self.case.connect("paris")
        self.assertEqual([relay for relay, _ in self.case.links.sent], ["paris"])

    async def test_queued_until_it_is_too_late(self) -> None:
        self.case.inventory.add("h0", "berlin")
        run = await self.case.order(deliver_within=600)
        await self.case.wait(601)
        self.assertEqual(await self.case.states(run.id), ["expired"])
        await self.case.connect("berlin")
        self.assertEqual(self.case.links.sent, [])

    async def test_sent_again_to_the_same_journal_only(self) -> None:
        for journal, back, times in (("j1", "j1", 2), ("j1", "j2", 1), ("", "", 1)):
            case = EngineCase(self.store)
            case.inventory.add("h0", "berlin")
            link = await case.connect("berlin", journal)
            await case.order()
            await case.lose(link)
            await case.connect("berlin", back)
            self.assertEqual(len(case.links.sent), times, (journal, back))
            self.assertEqual(len(set(case.ids())), 1)
            case.inventory.remove("h0")
            case.engine.cancel(next(iter(case.engine.open)))
            await case.settle()

    async def test_a_link_that_is_gone_as_it_is_written_to(self) -> None:
        self.case.inventory.add("h0", "berlin")
        link = await self.case.connect("berlin")
        self.case.links.deaf.add("berlin")
        run = await self.case.order(deliver_within=600)
        (known,) = await self.case.invocations(run.id)
        self.assertEqual((known.state, known.sent_at, known.relay), ("queued", None, None))
        await self.case.lose(link)
        await self.case.connect("berlin")
        self.assertEqual(await self.case.states(run.id), ["sent"])

    async def test_no_result_in_time(self) -> None:
        run_id, link = await self.a_run(1, timeout=100)
        await self.case.wait(165)
        self.assertEqual(await self.case.states(run_id), ["unknown"])
        await self.case.give("berlin", result_of(self.case.ids()[0], 0, "late"))
        (known,) = await self.case.invocations(run_id)
        self.assertEqual((known.state, known.former_end), ("succeeded", "unknown"))
        run = await self.case.run(run_id)
        self.assertEqual((run.state, run.counts), ("succeeded", {"succeeded": 1}))
        self.assertEqual([c.data for c in await self.store.read(read_output, known.id, "stdout")], [b"late"])
        await self.case.lose(link)

    async def test_a_clock_that_is_set_ends_nothing(self) -> None:
        run_id, _ = await self.a_run(1, timeout=100)
        self.case.set_ahead = 10**13
        await self.case.wait(10)
        self.assertEqual(await self.case.states(run_id), ["sent"])

    async def test_a_relay_that_is_away_has_longer(self) -> None:
        run_id, link = await self.a_run(1, timeout=100)
        await self.case.lose(link)
        await self.case.wait(1000)
        self.assertEqual(await self.case.states(run_id), ["sent"])
        await self.case.wait(90_000)
        self.assertEqual(await self.case.states(run_id), ["unknown"])

    async def test_what_a_result_contradicts(self) -> None:
        """A relay has run what it said it had not; that is told as it is, and the former end is kept."""
        run_id, _ = await self.a_run(1)
        first = self.case.ids()[0]
        self.case.engine.refused("berlin", first, "no\x07")
        await self.case.wait(70)
        self.assertEqual(await self.case.states(run_id), ["refused"])
        await self.case.give("berlin", result_of(first, 0))
        (known,) = await self.case.invocations(run_id)
        self.assertEqual((known.state, known.former_end), ("succeeded", "refused"))

    # What persons do

    async def test_pause_and_resume(self) -> None:
        run_id, _ = await self.a_run(3, concurrency=1)
        await self.control("pause", run_id)
        await self.case.give("berlin", result_of(self.case.ids()[0]))
        self.assertEqual(await self.case.states(run_id), ["succeeded", "waiting", "waiting"])
        self.assertEqual((await self.case.run(run_id)).state, "paused")
        await self.control("resume", run_id)
        self.assertEqual(await self.case.states(run_id), ["succeeded", "sent", "waiting"])

    async def fails(self, coroutine: Coroutine[Any, Any, Any], error: type[Exception]) -> None:
        await self.assertFailure(Deferred.fromCoroutine(coroutine), error)

    async def control(self, verb: str, name: str) -> None:
        waiting = getattr(self.case.engine, verb)(name)
        await self.case.settle()
        await waiting

    async def test_cancel(self) -> None:
        run_id, _ = await self.a_run(3, concurrency=1)
        await self.control("cancel", run_id)
        self.assertEqual(await self.case.states(run_id), ["sent", "cancelled", "cancelled"])
        first = self.case.ids()[0]
        self.assertEqual(self.case.links.asked, [("cancel", "berlin", first)])
        self.assertEqual((await self.case.run(run_id)).state, "cancelling")
        error = {"code": "cancelled", "phase": "run", "executed": "yes", "retriable": False}
        await self.case.give("berlin", result_of(first, 1, error=error))
        self.assertEqual((await self.case.run(run_id)).state, "cancelled")
        await self.fails(self.control("cancel", run_id), NotNow)
        await self.fails(self.control("pause", "nothing"), NotFound)

    async def test_cancel_one(self) -> None:
        run_id, _ = await self.a_run(3, concurrency=1)
        second = (await self.case.invocations(run_id))[1].id
        await self.control("cancel_invocation", second)
        self.assertEqual(await self.case.states(run_id), ["sent", "cancelled", "waiting"])
        await self.fails(self.control("cancel_invocation", second), NotNow)

    async def test_error_budget(self) -> None:
        run_id, _ = await self.a_run(4, concurrency=1, max_errors=1)
        await self.case.give("berlin", result_of(self.case.ids()[0], 1))
        await self.case.give("berlin", result_of(self.case.ids()[1], 1))
        self.assertEqual(await self.case.states(run_id), ["failed", "failed", "not-executed", "not-executed"])
        self.assertEqual((await self.case.run(run_id)).state, "stopped")

    async def test_rerun(self) -> None:
        run_id, _ = await self.a_run(3)
        for command_id, exit_code in zip(self.case.ids(), (0, 1, 2), strict=True):
            await self.case.give("berlin", result_of(command_id, exit_code))
        self.case.inventory.remove("h1")
        waiting = self.case.engine.rerun(run_id, Rerun.FAILED, "user:ann")
        await self.case.settle()
        run = await waiting
        self.assertEqual((run.size, run.rerun_of), (1, run_id))
        (known,) = await self.case.invocations(run.id)
        self.assertEqual((known.host_name, known.rerun_of), ("h2", self.case.ids()[2]))
        for which in (Rerun.UNKNOWN, Rerun.CERTAINLY_NOT_RUN):
            waiting = self.case.engine.rerun(run_id, which, "user:ann")
            await self.case.settle()
            await self.assertFailure(waiting, NoHosts)
        await self.assertFailure(self.case.engine.rerun(run.id, Rerun.ALL, "user:ann"), NotNow)

    # Output

    async def test_output_as_it_arrives(self) -> None:
        run_id, _ = await self.a_run(1)
        first = self.case.ids()[0]
        for offset, text in ((0, "one\n"), (4, "two\n")):
            self.case.engine.output(
                "berlin", CommandOutput(command_id=first, stream="stdout", offset=offset, data=text)
            )
        await self.case.settle()
        self.assertEqual(await self.case.states(run_id), ["accepted"])
        self.assertEqual([c.data for c in await self.store.read(read_output, first, "stdout")], [b"one\n", b"two\n"])
        await self.case.give("berlin", result_of(first, 0, "one\ntwo\n"))
        self.assertEqual([c.data for c in await self.store.read(read_output, first, "stdout")], [b"one\n", b"two\n"])

    async def test_output_with_a_gap_comes_anew(self) -> None:
        _, _ = await self.a_run(1)
        first = self.case.ids()[0]
        self.case.engine.output("berlin", CommandOutput(command_id=first, stream="stdout", offset=0, data="one\n"))
        self.case.engine.output("berlin", CommandOutput(command_id=first, stream="stdout", offset=8, data="three\n"))
        await self.case.settle()
        await self.case.give("berlin", result_of(first, 0, "one\ntwo\nthree\n"))
        chunks = await self.store.read(read_output, first, "stdout")
        self.assertEqual([(chunk.offset, chunk.data) for chunk in chunks], [(0, b"one\ntwo\nthree\n")])

    async def test_output_has_a_bound(self) -> None:
        run_id, _ = await self.a_run(1, output_limit=10)
        first = self.case.ids()[0]
        await self.case.give("berlin", result_of(first, 0, "x" * 25))
        (known,) = await self.case.invocations(run_id)
        self.assertEqual((known.stdout_kept, known.stdout_size), (10, 25))

    # A hub that is killed

    async def test_a_killed_hub_goes_on(self) -> None:
        run_id, _ = await self.a_run(4, concurrency=2, env={"A": "b"})
        first, second = self.case.ids()
        self.case.engine.accepted("berlin", first)
        await self.case.restart()
        self.assertEqual(await self.case.states(run_id), ["accepted", "sent", "waiting", "waiting"])
        self.assertEqual(len(self.case.ids()), 2)
        await self.case.connect("berlin")
        self.assertEqual(self.case.ids(), [first, second, second])
        await self.case.give("berlin", result_of(first, 0, "x"))
        await self.case.give("berlin", result_of(second, 0, "x"))
        self.assertEqual(await self.case.states(run_id), ["succeeded", "succeeded", "sent", "sent"])
        self.assertEqual(self.case.links.sent[-1][1].env, (("A", "b"),))

    async def test_a_killed_hub_sends_nothing_twice_to_another_program(self) -> None:
        run_id, _ = await self.a_run(1, journal="", timeout=100)
        await self.case.restart()
        await self.case.connect("berlin", "")
        self.assertEqual(len(self.case.ids()), 1)
        await self.case.wait(200)
        self.assertEqual(await self.case.states(run_id), ["unknown"])

    async def test_relays_have_time_to_come_back_after_a_restart(self) -> None:
        run_id, _ = await self.a_run(2, concurrency=1)
        await self.case.restart()
        first = self.case.ids()[0]
        await self.case.connect("paris")
        self.assertEqual(await self.case.states(run_id), ["sent", "waiting"])
        await self.case.connect("berlin")
        await self.case.give("berlin", result_of(first))
        self.assertEqual(await self.case.states(run_id), ["succeeded", "sent"])

    async def test_cancelled_while_the_relay_is_away(self) -> None:
        run_id, link = await self.a_run(1)
        await self.case.lose(link)
        await self.control("cancel", run_id)
        await self.case.restart()
        self.assertEqual((await self.case.run(run_id)).state, "cancelling")
        self.case.links.states[self.case.ids()[0]] = CommandState.UNKNOWN
        await self.case.connect("berlin")
        self.assertEqual(len(self.case.ids()), 1)
        self.assertEqual(await self.case.states(run_id), ["cancelled"])

    async def test_a_run_that_was_stored_and_not_taken_up(self) -> None:
        """Whatever went wrong between the two: it is found."""
        run_id, _ = await self.a_run(1)
        await self.case.give("berlin", result_of(self.case.ids()[0]))
        from relayd.hub.store.tables import runs

        def open_again(connection: Any) -> None:
            connection.execute(update(runs).values(state="running", ended_at=None))
            connection.execute(update(invocations).values(state="waiting", sent_at=None, with_result=False))

        await self.store.run(open_again)
        await self.case.wait(61)
        self.assertEqual(await self.case.states(run_id), ["sent"])
