"""
Tests of `relayd.hub.runs.changes`: what becomes of runs while the database takes nothing, or not one thing.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost

from relayd.hub.runs import engine
from relayd.hub.runs.changes import Work, do_work
from relayd.hub.store.errors import CommitUnknown, StoreBusy, StoreError, StoreUnavailable, Unstorable
from relayd.hub.store.output import read_output
from tests.support.databases import OnBothStores
from tests.support.hub_runs import EngineCase, result_of


class FailingStoreTests(OnBothStores):
    async def start(self) -> None:
        await super().start()
        self.case = EngineCase(self.store)
        await self.case.engine.start()
        #: What the database says to each transaction of runs; ``None``: it takes it.
        self.says: Any = lambda work: None
        self.asked = 0
        real = self.store.run

        def run(function: Any, *arguments: Any) -> Deferred[Any]:
            if function is not do_work:
                return real(function, *arguments)
            self.asked += 1
            error = self.says(arguments[0])
            if isinstance(error, CommitUnknown):
                return real(function, *arguments).addCallback(lambda _: fail(error))
            return real(function, *arguments) if error is None else fail(error)

        self.patch(self.store, "run", run)

    def tearDown(self) -> Any:
        return Deferred.fromCoroutine(self.end())

    async def end(self) -> None:
        self.says = lambda work: None
        while self.case.engine._changes._busy:
            self.case.clock.advance(1)
            await self.some_turns()
        await self.case.settle()
        await self.case.engine.stop()

    async def some_turns(self) -> None:
        from twisted.internet import reactor
        from twisted.internet.task import deferLater

        for _ in range(5):
            self.case.clock.advance(0)
            await deferLater(reactor, 0.01, lambda: None)

    async def test_no_receipt_and_no_command_until_it_is_stored(self) -> None:
        for number in range(2):
            self.case.inventory.add(f"h{number}", "berlin")
        await self.case.connect("berlin")
        run = await self.case.order(concurrency=1)
        (first,) = self.case.ids()
        self.says = lambda work: StoreUnavailable(reason="the disk is full")
        stored = self.case.engine.result("berlin", result_of(first, 0, "x"))
        assert stored is not None
        await self.some_turns()
        self.assertNoResult(stored)
        self.assertEqual(self.case.ids(), [first])
        self.says = lambda work: None
        self.case.clock.advance(1)
        await self.case.settle()
        await stored
        self.assertEqual(await self.case.states(run.id), ["succeeded", "sent"])

    async def test_a_commit_of_which_nothing_is_known(self) -> None:
        self.case.inventory.add("h0", "berlin")
        await self.case.connect("berlin")
        run = await self.case.order()
        (first,) = self.case.ids()
        answers: list[Any] = [CommitUnknown(reason="it is gone")]
        self.says = lambda work: answers.pop() if answers else None
        stored = self.case.engine.result("berlin", result_of(first, 0, "x"))
        assert stored is not None
        while not stored.called:  # it is tried again after a second, whenever that begins
            self.case.clock.advance(0.5)
            await self.some_turns()
        await self.case.settle()
        self.assertEqual(self.asked, 3)
        await stored
        self.assertEqual(await self.case.states(run.id), ["succeeded"])
        self.assertEqual(len(await self.store.read(read_output, first, "stdout")), 1)

    async def test_what_can_never_be_stored_fails_alone(self) -> None:
        for number in range(2):
            self.case.inventory.add(f"h{number}", "berlin")
        await self.case.connect("berlin")
        run = await self.case.order()
        first, second = self.case.ids()

        def says(work: Work) -> StoreError | None:
            return Unstorable(reason="too large") if "exit_code" in work.rows.get(first, {}) else None

        self.says = says
        bad = self.case.engine.result("berlin", result_of(first))
        good = self.case.engine.result("berlin", result_of(second))
        await self.case.settle()
        await self.assertFailure(bad, Unstorable)  # type: ignore[arg-type]
        await good  # type: ignore[misc]
        self.assertEqual(await self.case.states(run.id), ["succeeded", "succeeded"])
        self.assertIsNone((await self.case.invocations(run.id))[0].exit_code)
        self.assertEqual((await self.case.run(run.id)).state, "succeeded")

    async def test_results_wait_with_their_relays_when_there_are_too_many(self) -> None:
        self.case.inventory.add("h0", "berlin")
        await self.case.connect("berlin")
        await self.case.order()
        self.patch(engine, "MOST_RESULTS", -1)
        refused = self.case.engine.result("berlin", result_of(self.case.ids()[0]))
        await self.assertFailure(refused, StoreBusy)  # type: ignore[arg-type]

    async def test_another_failure(self) -> None:
        """A fault of our own is no reason to wait for ever."""
        self.case.inventory.add("h0", "berlin")
        await self.case.connect("berlin")
        await self.case.order()
        self.says = lambda work: ConnectionLost()
        stored = self.case.engine.result("berlin", result_of(self.case.ids()[0]))
        await self.case.settle()
        await self.assertFailure(stored, ConnectionLost)  # type: ignore[arg-type]
