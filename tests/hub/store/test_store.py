"""
The store: transactions in threads, on both databases.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select
from twisted.internet.defer import gatherResults

from relayd.hub.store.errors import Conflict
from relayd.hub.store.ids import new_id
from relayd.hub.store.tables import credentials
from tests.support.databases import OnBothStores


def add(connection: Connection, name: str) -> str:
    connection.execute(credentials.insert().values(id=new_id(1), name=name, method="password", created_at=1))
    return name


def count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(credentials)).scalar_one()


class StoreTests(OnBothStores):
    """What is asked for in one turn shares a transaction, and fails alone."""

    async def test_one_failure_fails_alone(self) -> None:
        names = [f"c{number}" for number in range(10)]
        waiting = [self.store.run(add, name) for name in [*names, "c3"]]
        refused = await self.assertFailure(waiting.pop(), Conflict)
        self.assertEqual((refused.table, refused.columns), ("credentials", ("name",)))
        self.assertEqual(await gatherResults(waiting), names)
        self.assertEqual(await self.store.read(count), 10)
