"""
The versions of the tables, on both databases.
"""

from __future__ import annotations

import os
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from relayd.hub.store.errors import StoreTooNew, StoreUnusable
from relayd.hub.store.migrations import FOLDER, KNOWN, VERSION_TABLE
from relayd.hub.store.store import database_at
from relayd.hub.store.tables import metadata
from tests.support.databases import OnBothStores


def differences(connection: Connection) -> list[Any]:
    """What tables.py has otherwise than the database, as Alembic sees it."""
    found = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    return [each for each in found if not (each[0] == "remove_table" and each[1].name == VERSION_TABLE)]


def snapshot(connection: Connection) -> set[str]:
    """All that a database tells of its tables: Alembic does not compare defaults, or the conditions of indexes."""
    inspector = inspect(connection)
    return {
        f"{table}: {part}"
        for table in metadata.tables
        for part in (
            *map(str, inspector.get_columns(table)),
            *map(str, inspector.get_foreign_keys(table)),
            *map(str, inspector.get_unique_constraints(table)),
            str(inspector.get_pk_constraint(table)),
            *_indexes(connection, table),
        )
    }


def _indexes(connection: Connection, table: str) -> list[str]:
    if connection.dialect.name == "postgresql":
        query = f"SELECT indexdef FROM pg_indexes WHERE tablename = '{table}'"
    else:
        query = f"SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = '{table}'"
    return [" ".join(words.split()) for words in connection.execute(text(query)).scalars()]


class MigrationTests(OnBothStores):
    """All are refused in words, and nothing of what was there is touched."""

    async def start(self) -> None:
        self.place = self.new_place(empty=True)

    def test_the_last_version_is_known(self) -> None:
        scripts = ScriptDirectory(str(FOLDER))
        self.assertEqual(scripts.get_heads(), [KNOWN])
        self.assertEqual(sorted(script.revision for script in scripts.walk_revisions())[-1], KNOWN)

    async def test_tables_are_what_the_code_says(self) -> None:
        store = await self.opened(self.place)
        self.assertEqual(await store.read(differences), [])
        made = await store.read(snapshot)

        def remake(connection: Connection) -> set[str]:
            metadata.drop_all(connection)
            metadata.create_all(connection)
            return snapshot(connection)

        self.assertEqual(sorted(made ^ await store.run(remake)), [])

    async def test_a_difference_is_found(self) -> None:
        """The check above can fail."""
        store = await self.opened(self.place)

        def change(connection: Connection) -> Any:
            connection.execute(text("ALTER TABLE hosts ADD COLUMN of_nobody INTEGER"))
            connection.execute(text("DROP INDEX ix_invocations_due"))
            return differences(connection)

        self.assertEqual(len(await store.run(change)), 2)

    async def test_texts_are_sorted_by_their_bytes(self) -> None:
        store = await self.opened(self.place)
        if self.postgresql:
            query = (
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
                f" AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C' AND table_name != '{VERSION_TABLE}'"
            )
            wrong = await store.read(lambda connection: connection.execute(text(query)).all())
            self.assertEqual(wrong, [])

    async def test_opened_again(self) -> None:
        store = await self.opened(self.place)
        await store.close()
        again = await self.opened(self.place)
        self.assertEqual(await again.read(differences), [])

    async def test_newer(self) -> None:
        store = await self.opened(self.place)
        await store.run(lambda connection: connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'")))
        await store.close()
        error = await self.assertFailure(self.opened_later(), StoreTooNew)
        self.assertEqual(
            str(error),
            f"The hub's database has version 0999 of its tables, and this relayd knows none after {KNOWN}: a newer"
            " relayd wrote it. Install that version of relayd again, or restore a backup that this one made.",
        )
        self.assertFalse(error.retriable)

    def opened_later(self) -> Any:
        from twisted.internet.defer import Deferred

        return Deferred.fromCoroutine(self.opened(self.place))

    async def test_tables_of_another_program(self) -> None:
        database = database_at(self.place)
        database.open()

        def make_foreign(connection: Connection) -> None:
            connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))

        database.write([make_foreign])
        database.close()
        error = await self.assertFailure(self.opened_later(), StoreUnusable)
        self.assertIn("it has tables of another program (api_tokens, ", str(error))
        self.assertIn("give the hub a database of its own", str(error))

    async def test_what_fails_leaves_nothing(self) -> None:
        """As a process that is killed: the tables of a version are all there, or none."""
        database = database_at(self.place)
        self.patch(metadata, "tables", metadata.tables)
        import relayd.hub.store.migrations as module

        def fail(connection: Connection) -> None:
            real(connection)
            raise KeyError("on purpose")

        real = module._apply
        self.patch(module, "_apply", fail)
        self.assertRaises(KeyError, database.open)
        self.patch(module, "_apply", real)
        store = await self.opened(self.place)
        self.assertEqual(await store.read(differences), [])

    async def test_two_at_once(self) -> None:
        """One waits for the other on PostgreSQL; an SQLite file is for one hub alone."""
        if not self.postgresql:
            return
        databases = [database_at(self.place) for _ in range(4)]
        await gatherResults([deferToThread(database.open) for database in databases])
        for database in databases:
            database.close()
        store = await self.opened(self.place)
        self.assertEqual(await store.read(differences), [])
        names = await store.read(lambda connection: inspect(connection).get_table_names())
        self.assertEqual(sorted(names), sorted([*metadata.tables, VERSION_TABLE]))

    def test_the_files_are_packaged(self) -> None:
        """Every folder of them is a package, which setup.py finds."""
        for folder, _, files in os.walk(FOLDER):
            if any(name.endswith(".py") for name in files):
                self.assertIn("__init__.py", files, folder)
