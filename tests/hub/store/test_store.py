"""
The store: transactions in threads, on both databases.
"""

from __future__ import annotations

from threading import Event
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, event, func, select
from sqlalchemy.exc import IntegrityError
from twisted.internet.defer import CancelledError, gatherResults

from relayd.hub.store import database as database_module
from relayd.hub.store import store as store_module
from relayd.hub.store.errors import Conflict, StillReferred, StoreBusy, StoreClosed, StoreError, Unstorable
from relayd.hub.store.ids import new_id
from relayd.hub.store.tables import credentials, hosts
from tests.support.databases import OnBothStores

#: Seconds, which no test takes.
PATIENCE = 600.0


def add(connection: Connection, name: str) -> str:
    connection.execute(credentials.insert().values(id=new_id(1), name=name, method="password", created_at=1))
    return name


def fail(connection: Connection, name: str) -> None:
    add(connection, name)
    raise KeyError(name)


def count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(credentials)).scalar_one()


class StoreTests(OnBothStores):
    """What is asked for in one turn shares a transaction, and fails alone."""

    async def names(self) -> list[str]:
        query = select(credentials.c.name).order_by(credentials.c.name)
        return list(await self.store.read(lambda connection: connection.execute(query).scalars().all()))

    async def test_one_failure_fails_alone(self) -> None:
        names = [f"c{number}" for number in range(10)]
        waiting: list[Any] = [self.store.run(add, name) for name in [*names, "c3"]]
        waiting.append(self.store.run(fail, "gone"))
        await self.assertFailure(waiting.pop(), KeyError)
        refused = await self.assertFailure(waiting.pop(), Conflict)
        self.assertEqual((refused.table, refused.columns), ("credentials", ("name",)))
        self.assertEqual(str(refused), "There is already an entry in credentials with the same name.")
        self.assertEqual(await gatherResults(waiting), names)
        self.assertEqual(await self.names(), names)

    async def test_alone(self) -> None:
        await self.assertFailure(self.store.run(fail, "gone"), KeyError)
        await self.store.run(add, "c")
        await self.assertFailure(self.store.run(add, "c"), Conflict)
        self.assertEqual(await self.names(), ["c"])

    async def test_one_turn_is_one_transaction(self) -> None:
        self.patch(database_module, "LONGEST", PATIENCE)
        commits: list[Connection] = []
        event.listen(self.store._database._writer, "commit", commits.append)
        await gatherResults([self.store.run(add, f"c{number}") for number in range(20)])
        self.assertEqual(len(commits), 1)
        self.assertEqual(await self.store.read(count), 20)

    async def test_long_ones_share_no_transaction(self) -> None:
        """Nobody waits for all that was asked for in the same turn."""
        with patch.object(database_module, "LONGEST", 0.0):
            waiting = [self.store.run(add, f"c{number}") for number in range(3)]
            await waiting[0]
            self.assertFalse(waiting[2].called)
            await gatherResults(waiting[1:])
        self.assertEqual(await self.names(), ["c0", "c1", "c2"])

    async def test_in_order(self) -> None:
        order: list[int] = []
        await gatherResults([self.store.run(lambda _, number=number: order.append(number)) for number in range(600)])
        self.assertEqual(order, list(range(600)))

    async def test_what_is_committed_is_seen(self) -> None:
        for number in range(20):
            await self.store.run(add, f"c{number}")
            self.assertEqual(await self.store.read(count), number + 1)

    async def test_a_read_changes_nothing(self) -> None:
        error = await self.assertFailure(self.store.read(add, "c"), StoreError)
        self.assertIn("what only reads wanted to change something", str(error))
        self.assertEqual(await self.store.read(count), 0)

    async def test_a_read_sees_one_moment(self) -> None:
        """It goes on while others change something, and sees nothing of that."""
        seen: list[int] = []

        from twisted.internet import reactor

        go_on = Event()

        def look_twice(connection: Connection) -> None:
            seen.append(count(connection))
            reactor.callFromThread(write)  # type: ignore[attr-defined]
            self.assertTrue(go_on.wait(60))
            seen.append(count(connection))

        def write() -> None:
            self.store.run(add, "meanwhile").addCallback(lambda _: go_on.set())

        await self.store.read(look_twice)
        self.assertEqual(seen, [0, 0])
        self.assertEqual(await self.store.read(count), 1)

    async def test_what_is_referred_to_stays(self) -> None:
        def use(connection: Connection) -> None:
            add(connection, "c")
            used = connection.execute(select(credentials.c.id)).scalar_one()
            connection.execute(
                hosts.insert().values(id="h", name="h", address="a", port=22, credential_id=used, created_at=1)
            )

        await self.store.run(use)
        error = await self.assertFailure(
            self.store.run(lambda connection: connection.execute(credentials.delete())), StillReferred
        )
        self.assertIsInstance(error, Conflict)
        self.assertEqual(await self.names(), ["c"])

    async def test_a_failure_that_is_swallowed_commits_nothing(self) -> None:
        """PostgreSQL would take all back, and say that it is committed."""

        def swallow(connection: Connection) -> None:
            add(connection, "first")
            try:
                add(connection, "c")
            except IntegrityError:
                return

        await self.store.run(add, "c")
        if not self.postgresql:  # only the statement fails there
            await self.store.run(swallow)
            self.assertEqual(await self.names(), ["c", "first"])
            return
        for with_others in (False, True):
            waiting = self.store.run(swallow)
            other = self.store.run(add, f"other {with_others}") if with_others else None
            error = await self.assertFailure(waiting, StoreError)
            self.assertIn("went on after a statement of its own had failed", str(error))
            if other is not None:
                await other
        self.assertEqual(await self.names(), ["c", "other True"])

    async def test_errors_hold_nothing_of_what_was_written(self) -> None:
        def wrong(connection: Connection, **values: Any) -> None:
            connection.execute(hosts.insert().values({"id": "x", "created_at": 1, **values}))

        for values in (
            {"name": "canary"},  # others are missing
            {"name": "n", "address": "canary", "port": 22, "credential_id": "canary"},
            {"name": "canary", "address": "canary", "port": "canary" if self.postgresql else None},
        ):
            error = await self.assertFailure(self.store.run(wrong, **values), StoreError)
            told = [str(error), repr(error), repr(error.args), repr(error.__cause__), repr(error.__context__)]
            self.assertNotIn("canary", "".join(told))

    async def test_what_cannot_be_stored(self) -> None:
        error = await self.assertFailure(self.store.run(add, "half \ud800"), Unstorable)
        self.assertIn("surrogate", str(error))
        if self.postgresql:
            error = await self.assertFailure(self.store.run(add, "a\0b"), Unstorable)
            self.assertIn("NUL", str(error))

    async def test_cancelled_before_it_began(self) -> None:
        waiting = [self.store.run(add, name) for name in ("a", "b", "c")]
        waiting[1].cancel()
        await self.assertFailure(waiting[1], CancelledError)
        await gatherResults([waiting[0], waiting[2]])
        self.assertEqual(await self.names(), ["a", "c"])

    async def test_all_cancelled(self) -> None:
        waiting = self.store.run(add, "a")
        waiting.cancel()
        await self.assertFailure(waiting, CancelledError)
        await self.store.run(add, "b")
        self.assertEqual(await self.names(), ["b"])

    async def test_more_than_may_wait(self) -> None:
        with patch.object(store_module, "MOST_WAITING", 3):
            waiting = [self.store.run(add, f"c{number}") for number in range(4)]
            error = await self.assertFailure(waiting.pop(), StoreBusy)
        self.assertTrue(error.retriable)
        self.assertIn("3 changes wait already", str(error))
        await gatherResults(waiting)

    async def test_close_does_what_was_asked_for(self) -> None:
        waiting = [self.store.run(add, f"c{number}") for number in range(5)]
        reading = self.store.read(count)
        closed = self.store.close()
        await self.assertFailure(self.store.run(add, "late"), StoreClosed)
        await self.assertFailure(self.store.read(count), StoreClosed)
        await closed
        self.assertEqual([each.called for each in (*waiting, reading)], [True] * 6)
        await self.store.close()  # once more is once too often, and harmless
        again = await self.opened(self.place)
        self.assertEqual(await again.read(count), 5)
