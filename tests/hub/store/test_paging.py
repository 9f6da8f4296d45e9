"""
Pages of lists and their cursors.
"""

from __future__ import annotations

import subprocess
import sys

from sqlalchemy import Connection, select
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.store.errors import BadCursor
from relayd.hub.store.keyset import fetch_page
from relayd.hub.store.paging import Page, decode_cursor, encode_cursor
from relayd.hub.store.tables import host_labels, hosts
from tests.support.databases import OnBothStores
from tests.support.relays import ROOT


class CursorTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        key = ("web-1 \N{SNOWMAN}", -(2**63), "")
        self.assertEqual(decode_cursor("hosts", encode_cursor("hosts", key), [str, int, str]), key)

    def test_what_is_none(self) -> None:
        good = encode_cursor("hosts", ("web-1",))
        typed = [
            good[:position] + ("A" if good[position] != "A" else "B") + good[position + 1 :] for position in range(6)
        ]
        for cursor in ["", "x", good[:-1], good + "A", good + "!", f"{good}\n", "\N{SNOWMAN}", "A" * 10**6, *typed]:
            error = self.assertRaises(BadCursor, decode_cursor, "hosts", cursor, [str])
            self.assertIn("leave it out", str(error))
        self.assertRaises(BadCursor, decode_cursor, "runs", good, [str])
        self.assertRaises(BadCursor, decode_cursor, "hosts", good, [int])
        self.assertRaises(BadCursor, decode_cursor, "hosts", good, [str, str])


class ImportTests(SynchronousTestCase):
    def test_no_database_for_errors_ids_and_cursors(self) -> None:
        """Those who only name them, and the small main server in memory, do without SQLAlchemy."""
        script = (
            "import sys, relayd.hub, relayd.hub.store.errors, relayd.hub.store.ids, relayd.hub.store.paging;"
            "print([name for name in ('sqlalchemy', 'alembic', 'psycopg') if name in sys.modules])"
        )
        argv = [sys.executable, "-c", script]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        self.assertEqual(done.stdout, "[]\n")


#: How no language sorts.
NAMES = sorted(
    ["a", "B", "_", "a-b", "ab", "a b", "Z", "z", "\N{LATIN SMALL LETTER A WITH DIAERESIS}", "中", "a1", "a10"]
)


def fill(connection: Connection) -> None:
    for name in reversed(NAMES):
        connection.execute(hosts.insert().values(id=f"id {name}", name=name, address="a", port=22, created_at=1))
        for key in ("env", "role"):
            connection.execute(host_labels.insert().values(host_id=f"id {name}", key=key, value=name))


def page_of_names(connection: Connection, cursor: str | None, limit: int, descending: bool) -> Page[str]:
    query = select(hosts.c.name, hosts.c.address)
    return fetch_page(
        connection,
        query,
        [hosts.c.name],
        lambda row: str(row.name),
        name="hosts",
        cursor=cursor,
        limit=limit,
        descending=descending,
    )


def page_of_labels(connection: Connection, cursor: str | None, limit: int, descending: bool) -> Page[tuple[str, str]]:
    return fetch_page(
        connection,
        select(host_labels),
        [host_labels.c.host_id, host_labels.c.key],
        lambda row: (row.host_id, row.key),
        name="labels",
        cursor=cursor,
        limit=limit,
        descending=descending,
    )


class PageTests(OnBothStores):
    async def walk(self, list_of: object, limit: int, descending: bool) -> list[object]:
        found: list[object] = []
        cursor: str | None = None
        while True:
            page = await self.store.read(list_of, cursor, limit, descending)  # type: ignore[arg-type]
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def test_every_item_once_in_order(self) -> None:
        """By the bytes of texts, on both databases, also by a key of two columns."""
        await self.store.run(fill)
        names = sorted(NAMES, key=lambda name: name.encode())
        labels = [(f"id {name}", key) for name in names for key in ("env", "role")]
        for limit in (1, 5, len(NAMES), 1000):
            for descending in (False, True):
                step = -1 if descending else 1
                self.assertEqual(await self.walk(page_of_names, limit, descending), names[::step])
                self.assertEqual(await self.walk(page_of_labels, limit, descending), labels[::step])

    async def test_what_is_new_shifts_nothing(self) -> None:
        await self.store.run(fill)
        page = await self.store.read(page_of_names, None, 3, False)
        await self.store.run(
            lambda connection: connection.execute(hosts.delete().where(hosts.c.name == page.items[-1]))
        )
        rest = await self.store.read(page_of_names, page.next_cursor, 1000, False)
        self.assertEqual([*page.items, *rest.items], NAMES)

    async def test_limits(self) -> None:
        await self.store.run(fill)
        self.assertEqual(len((await self.store.read(page_of_names, None, 0, False)).items), 1)
        self.assertEqual(len((await self.store.read(page_of_names, None, 10**9, False)).items), len(NAMES))

    async def test_a_cursor_of_another_list(self) -> None:
        await self.store.run(fill)
        page = await self.store.read(page_of_labels, None, 3, False)
        await self.assertFailure(self.store.read(page_of_names, page.next_cursor, 3, False), BadCursor)

    async def test_looked_up_in_an_index(self) -> None:
        await self.store.run(fill)
        cursor = (await self.store.read(page_of_names, None, 3, False)).next_cursor
        labels = (await self.store.read(page_of_labels, None, 3, False)).next_cursor
        for descending in (False, True):
            await self.assert_indexed(page_of_names, cursor, 3, descending)
            await self.assert_indexed(page_of_labels, labels, 3, descending)

    async def test_what_is_not_looked_up_is_found(self) -> None:
        """The check above can fail."""

        def by_address(connection: Connection) -> object:
            return connection.execute(select(hosts).order_by(hosts.c.address).limit(3)).all()

        def without_order(connection: Connection) -> object:
            return connection.execute(select(hosts).where(hosts.c.port == 1)).all()

        for wrong in (by_address, without_order):
            failed = False
            try:
                await self.assert_indexed(wrong)
            except self.failureException:
                failed = True
            self.assertTrue(failed)
