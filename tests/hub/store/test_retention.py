"""
What is too old or too large is removed, in steps that hold up nobody.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, Table, func, select
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from relayd.hub.store import retention as module
from relayd.hub.store.errors import StoreUnavailable
from relayd.hub.store.ids import new_id
from relayd.hub.store.retention import Retention, RetentionSettings
from relayd.hub.store.tables import invocations, output_chunks, runs
from tests.hub.store.test_store import add
from tests.support.databases import OnBothStores

DAY = 86400 * 1_000_000
NOW = 1000 * DAY
CHUNK = 1000


def make_run(connection: Connection, name: str, ended_at: int | None, hosts: int = 3, chunks: int = 4) -> None:
    """A run with output of *hosts* times *chunks* pieces."""
    connection.execute(
        runs.insert().values(
            id=name,
            created_by="user:a",
            created_at=1,
            state="running" if ended_at is None else "succeeded",
            command="{}",
            selector="all",
            rollout="{}",
            output_limit=1,
            size=hosts,
            ended_at=ended_at,
        )
    )
    rows = [
        {"id": f"{name}-{number}", "run_id": name, "position": number, "host_id": "h", "host_name": "h", "host": "{}"}
        | {"state": "succeeded", "change": 1, "stdout_kept": CHUNK * chunks}
        for number in range(hosts)
    ]
    connection.execute(invocations.insert(), rows)
    pieces = [
        {"invocation_id": row["id"], "sequence": number, "stream": "stdout", "offset": CHUNK * number, "run_id": name}
        | {"data": b"x" * CHUNK, "change": number}
        for row in rows
        for number in range(chunks)
    ]
    connection.execute(output_chunks.insert(), pieces)


def count(connection: Connection, table: Table, run_id: str) -> int:
    column = runs.c.id if table is runs else table.c.run_id
    return connection.execute(select(func.count()).select_from(table).where(column == run_id)).scalar_one()


class RetentionTests(OnBothStores):
    async def start(self) -> None:
        await super().start()
        self.patch(module, "PAUSE", 0)

    def retention(self, clock: Any = None, **settings: Any) -> Retention:
        from twisted.internet import reactor

        none = {"output_age": None, "output_bytes": None, "run_age": None}
        return Retention(self.store, RetentionSettings(**none | settings), clock or reactor, lambda: NOW)

    async def left(self, *names: str) -> dict[str, tuple[int, int, int]]:
        """For each run, how much there is of the run, its invocations and its output."""
        found = {}
        for name in names:
            counts = [await self.store.read(count, table, name) for table in (runs, invocations, output_chunks)]
            found[name] = (counts[0], counts[1], counts[2])
        return found

    async def test_old_outputs(self) -> None:
        for name, ended_at in {"old": NOW - 11 * DAY, "new": NOW - 9 * DAY, "open": None}.items():
            await self.store.run(make_run, name, ended_at)
        with patch.object(module, "FIRST_ROWS", 2):
            await self.retention(output_age=10).sweep()
        whole = (1, 3, 12)
        self.assertEqual(await self.left("old", "new", "open"), {"old": (1, 3, 0), "new": whole, "open": whole})
        deleted = select(runs.c.id).where(runs.c.output_deleted_at == NOW)
        self.assertEqual(await self.store.read(lambda connection: connection.execute(deleted).scalars().all()), ["old"])

    async def test_too_much_output(self) -> None:
        """The run that ended first goes first, whatever its id, and no more than has to."""
        for name, ended_at in {"b": NOW - 3, "a": NOW - 2, "c": NOW - 1, "open": None}.items():
            await self.store.run(make_run, name, ended_at)
        retention = self.retention(output_bytes=12 * CHUNK + 1)
        await retention.sweep()
        whole, without = (1, 3, 12), (1, 3, 0)
        self.assertEqual(
            await self.left("a", "b", "c", "open"), {"b": without, "a": without, "c": whole, "open": whole}
        )
        self.assertEqual(await self.store.read(module.bytes_kept), 12 * CHUNK)
        retention.settings = RetentionSettings(output_age=None, output_bytes=0, run_age=None)
        await retention.sweep()
        self.assertEqual(await self.left("c", "open"), {"c": without, "open": whole})

    async def test_old_runs(self) -> None:
        for name, ended_at in {"old": NOW - 11 * DAY, "new": NOW - 9 * DAY, "open": None}.items():
            await self.store.run(make_run, name, ended_at)
        with patch.object(module, "FIRST_ROWS", 2):
            await self.retention(run_age=10).sweep()
        whole = (1, 3, 12)
        self.assertEqual(await self.left("old", "new", "open"), {"old": (0, 0, 0), "new": whole, "open": whole})

    async def test_for_ever(self) -> None:
        await self.store.run(make_run, "old", 1)
        await self.retention().sweep()
        self.assertEqual(await self.left("old"), {"old": (1, 3, 12)})

    async def test_others_go_on_meanwhile(self) -> None:
        """Between two steps others change something, and lists are read."""
        await self.store.run(make_run, "old", 1, 20, 50)
        self.patch(module, "MOST_ROWS", 10)
        sweeping = Deferred.fromCoroutine(self.retention(run_age=10).sweep())
        seen = set()
        written = 0
        while not sweeping.called:
            await self.store.run(add, f"c{written}")
            written += 1
            seen.add(await self.store.read(count, output_chunks, "old"))
        await sweeping
        self.assertGreater(len(seen), 20, "little was removed at a time")
        self.assertEqual(await self.left("old"), {"old": (0, 0, 0)})

    async def test_a_step_is_as_large_as_there_is_time(self) -> None:
        await self.store.run(make_run, "old", 1, 20, 50)
        sizes = []

        def step(connection: Connection, rows: int, took: float) -> bool:
            sizes.append(rows)
            return len(sizes) < 4

        for took, expected in ((0.0, [32, 64, 128, 256]), (1.0, [32, 16, 8, 4]), (0.015, [32, 32, 32, 32])):
            sizes.clear()
            times = [value for number in range(4) for value in (number * 10, number * 10 + took)]
            with patch.object(module.time, "monotonic", side_effect=times):
                await self.retention()._repeat(step, took)
            self.assertEqual(sizes, expected)

    async def test_goes_on_where_it_ended(self) -> None:
        """A hub that is stopped in the middle leaves nothing half done that the next one does not see."""
        await self.store.run(make_run, "old", 1, 3, 10)
        self.patch(module, "FIRST_ROWS", 2)
        for _ in range(3):
            await self.store.run(module.remove_old_output, 2, NOW, NOW)
        self.assertEqual(await self.left("old"), {"old": (1, 3, 24)})
        await self.store.close()
        self.store = await self.opened(self.place)
        await self.retention(run_age=1).sweep()
        self.assertEqual(await self.left("old"), {"old": (0, 0, 0)})

    async def test_the_service(self) -> None:
        """It looks at its start and once a minute, and goes on after the database was away."""
        clock = Clock()
        retention = self.retention(clock, output_age=10)
        self.patch(module, "deferLater", lambda *_: _done())
        await self.store.run(make_run, "a", 1)
        retention.startService()
        await retention._looking
        self.assertEqual((await self.left("a"))["a"][2], 0)
        await self.store.run(make_run, "b", 1)
        run = self.store.run
        self.patch(self.store, "run", lambda *_: _fails())
        clock.advance(module.INTERVAL)
        await retention._looking
        self.patch(self.store, "run", run)
        clock.advance(module.INTERVAL)
        await retention._looking
        self.assertEqual((await self.left("b"))["b"][2], 0)
        self.assertIs(retention.stopService(), None)  # nothing is under way
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_stopped_in_the_middle(self) -> None:
        await self.store.run(make_run, "old", 1, 20, 50)
        self.patch(module, "MOST_ROWS", 1)
        self.patch(module, "FIRST_ROWS", 1)
        retention = self.retention(output_age=10)
        retention.startService()
        await self.store.run(add, "c")
        await retention.stopService()
        self.assertGreater((await self.left("old"))["old"][2], 0)

    async def test_room_is_given_back(self) -> None:
        await self.store.run(make_run, "old", 1, 10, 10)
        if self.postgresql:
            self.assertFalse(await self.store.run(module.give_back, 1))
            return
        self.patch(module, "_SPARE", 4)
        self.patch(module, "_PAGES", 8)
        pages = "PRAGMA page_count"
        before = await self.store.read(lambda connection: connection.exec_driver_sql(pages).scalar_one())
        await self.retention(run_age=10).sweep()
        after = await self.store.read(lambda connection: connection.exec_driver_sql(pages).scalar_one())
        self.assertLess(after, before - 8)

    async def test_looked_up_in_indexes(self) -> None:
        """However much history there is."""
        for function, args in (
            (module.remove_old_output, (2, NOW, NOW)),
            (module.remove_oldest_output, (2, NOW)),
            (module.count_output, (2,)),
            (module.remove_old_runs, (2, NOW)),
        ):
            await self.assert_indexed(remade, function, args)


def remade(connection: Connection, function: Any, args: tuple[Any, ...]) -> None:
    """Until nothing is left, so that each statement is seen."""
    make_run(connection, new_id(1), 1)
    while function(connection, *args):
        pass


async def _done() -> None:
    return None


async def _fails() -> None:
    raise StoreUnavailable(reason="on purpose")
