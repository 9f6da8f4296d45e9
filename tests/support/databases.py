"""
Tests that run on both databases of the hub: an SQLite file, and a real PostgreSQL server.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relayd.hub.store.store import Store, database_at, open_store
from tests.support.postgresql import shared_server

#: What is added to the names of tests that run on PostgreSQL.
ON_POSTGRESQL = "_on_postgresql"


class OnBothStores(TestCase):
    """
    Runs each test twice: as it is on SQLite, and with ``_on_postgresql`` at the end of its name on PostgreSQL.

    :ivar store: an empty one, open; closed at the end.
    :ivar place: its path or URL.
    :ivar postgresql: whether it is PostgreSQL.
    """

    store: Store
    place: str
    timeout = 180

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, test in list(vars(cls).items()):
            if name.startswith("test_") and not name.endswith(ON_POSTGRESQL):
                setattr(cls, f"{name}{ON_POSTGRESQL}", _named(test, f"{name}{ON_POSTGRESQL}"))

    @property
    def postgresql(self) -> bool:
        return self._testMethodName.endswith(ON_POSTGRESQL)

    def setUp(self) -> Deferred[Any]:  # type: ignore[override]
        return Deferred.fromCoroutine(self.start())

    async def start(self) -> None:
        """Called before each test; call it first where you have more to do."""
        self.place = self.new_place()
        self.store = await self.opened(self.place)

    async def opened(self, place: str) -> Store:
        """A store that is closed at the end."""
        from twisted.internet import reactor  # trial's, which is chosen before any test runs

        store = await open_store(reactor, place)
        self.addCleanup(store.close)
        return store

    def new_place(self, *, empty: bool = False) -> str:
        """
        The path or URL of a new database, which is removed at the end.

        :param empty: whether it is without the tables of the hub, and not as this relayd makes it.
        """
        if self.postgresql:
            server = shared_server()
            name = server.create("template0" if empty else _postgresql_template())
            self.addCleanup(server.drop, name)
            return server.url(name)
        folder = tempfile.mkdtemp(prefix="relayd-store-")
        self.addCleanup(shutil.rmtree, folder)
        if not empty:
            shutil.copy(_sqlite_template(), f"{folder}/hub.sqlite3")
        return f"{folder}/hub.sqlite3"

    async def assert_indexed(self, function: Callable[..., Any], *args: Any) -> None:
        """
        Fail when a statement of *function* reads whole tables or sorts: it would slow down as the tables grow.

        :param function: as `Store.read` takes it; what it changes is taken back.
        """
        plans = await self.store.run(_plans, function, args)
        wrong = [f"{statement}\n{plan}" for statement, plan in plans if _SLOW.search(plan)]
        self.assertEqual(wrong, [])
        self.assertNotEqual(plans, [])


#: What both databases call it in their plans.
_SLOW = re.compile(r"\bSCAN (?!.* USING )(?!CONSTANT)|TEMP B-TREE|Seq Scan|\bSort\b|Bitmap")


def _plans(connection: Connection, function: Callable[..., Any], args: Any) -> list[tuple[str, str]]:
    """Each statement of *function*, with the plan of the database for it."""
    statements: list[tuple[str, Any]] = []

    def executed(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        if statement.split(maxsplit=1)[0].upper() in ("SELECT", "WITH", "UPDATE", "DELETE"):
            statements.append((statement, parameters[0] if many else parameters))

    event.listen(connection, "before_cursor_execute", executed)
    try:
        with connection.begin_nested() as savepoint:
            function(connection, *args)
            savepoint.rollback()
    finally:
        event.remove(connection, "before_cursor_execute", executed)
    if connection.dialect.name == "postgresql":
        # Its tables are empty, which is quicker to read whole, or to sort.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql("SET LOCAL enable_sort = off")
        connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
    explain = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    found = []
    for statement, parameters in statements:
        rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
        found.append((statement, "\n".join(str(row[-1]) for row in rows)))
    return found


def _named(test: Any, name: str) -> Any:
    """The same test by another name."""

    @wraps(test)
    def again(self: Any) -> Any:
        return test(self)

    again.__name__ = name
    again.__qualname__ = f"{test.__qualname__.rpartition('.')[0]}.{name}"
    return again


@cache
def _postgresql_template() -> str:
    """A database with the tables of the hub."""
    server = shared_server()
    name = server.create()
    _make(server.url(name))
    return name


@cache
def _sqlite_template() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="relayd-store-template-")
    _kept.append(folder)
    _make(f"{folder.name}/hub.sqlite3")
    return Path(folder.name, "hub.sqlite3")


#: Removed when the process ends.
_kept: list[tempfile.TemporaryDirectory[str]] = []


def _make(place: str) -> None:
    database = database_at(place)
    database.open()
    database.close()
