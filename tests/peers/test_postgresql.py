"""
The hub's store on a real PostgreSQL server that goes away, comes back, refuses, or is slow.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relayd.hub.store import database
from relayd.hub.store import postgresql as module
from relayd.hub.store.errors import CommitUnknown, StoreError, StoreUnavailable, StoreUnusable
from relayd.hub.store.store import Store, database_at, open_store
from tests.hub.store.test_store import add, count
from tests.support.postgresql import PATIENCE, USER, PostgreSQLServer

#: A password that must not be seen.
CANARY = "pw-c4n4ry"


def sleep(connection: Connection) -> None:
    add(connection, "asleep")
    connection.execute(text("SELECT pg_sleep(600)"))


def told(error: BaseException) -> str:
    """All that an error says to whoever logs it."""
    return "\n".join([str(error), repr(error), repr(error.args), repr(error.__cause__), repr(error.__context__)])


class Case(TestCase):
    timeout = 2 * PATIENCE

    def setUp(self) -> None:
        self.server = PostgreSQLServer()
        self.addCleanup(self.server.remove)
        self.server.start()
        self.name = self.server.create()

    def open(self, url: str | None = None) -> Deferred[Store]:
        from twisted.internet import reactor

        return open_store(reactor, url or self.server.url(self.name)).addCallback(self.opened)

    def opened(self, store: Store) -> Store:
        self.addCleanup(store.close)
        return store

    async def asleep(self, least: int = 1) -> None:
        """Until a statement of the hub sleeps."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        with self.server.connect() as connection:
            while (connection.execute(query).fetchone() or (0,))[0] < least:
                await deferToThread(lambda: None)


class RestartTests(Case):
    async def test_restarted(self) -> None:
        """What is asked for meanwhile fails, and can be asked for again; then all is as before."""
        store = await self.open()
        await gatherResults([store.run(add, "before"), store.read(count), store.read(count), store.read(count)])
        self.server.stop()
        waiting = [store.run(add, f"c{number}") for number in range(10)] + [store.read(count)]
        for error in await gatherResults([self.assertFailure(each, StoreUnavailable) for each in waiting]):
            self.assertNotIsInstance(error, CommitUnknown)
            self.assertTrue(error.retriable)
            self.assertRegex(str(error), "^The hub's database cannot be used now: .*Nothing was changed.$")
        self.server.start()
        await store.run(add, "after")
        self.assertEqual(await store.read(count), 2)

    async def test_killed_in_a_transaction(self) -> None:
        """It was not committed, which is said; nor what shares the transaction."""
        self.patch(database, "LONGEST", 600.0)
        store = await self.open()
        reading = store.read(lambda connection: connection.execute(text("SELECT pg_sleep(600)")))
        waiting: list[Any] = [store.run(add, "first"), store.run(sleep), store.run(add, "last"), reading]
        await self.asleep(2)
        self.server.stop(kill=True)
        for error in await gatherResults([self.assertFailure(each, StoreUnavailable) for each in waiting]):
            self.assertNotIsInstance(error, CommitUnknown)
            self.assertEqual(error.executed, "no")
        self.server.start()
        self.assertEqual(await store.read(count), 0)
        await store.run(add, "after")

    async def test_connections_ended_while_nobody_uses_them(self) -> None:
        """Nobody sees that, however many they are."""
        store = await self.open()
        await gatherResults([store.run(add, "before"), *[store.read(count) for _ in range(10)]])
        with self.server.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'relayd-hub'"
            )
        await gatherResults([store.run(add, "after"), *[store.read(count) for _ in range(10)]])
        self.assertEqual(await store.read(count), 2)

    async def test_not_there_at_the_start(self) -> None:
        self.server.stop()
        error = await self.assertFailure(self.open(), StoreUnavailable)
        self.assertIn("Nothing was changed", str(error))
        self.server.start()
        await self.open()


class LostCommitTests(Case):
    """The connection is lost while a transaction is committed: only the database knows what came of it."""

    async def lose(self, *, before: bool) -> tuple[Store, StoreError]:
        from twisted.internet import reactor

        self.patch(database, "LONGEST", 600.0)  # both share a transaction, however slow the machine is
        factory = _Lossy(self.server, before)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        store = await self.open(f"postgresql://{USER}@127.0.0.1:{port.getHost().port}/{self.name}?sslmode=disable")
        await store.run(add, "before")
        factory.armed = True
        waiting = [store.run(add, "a"), store.run(add, "b")]
        errors = await gatherResults([self.assertFailure(each, CommitUnknown) for each in waiting])
        self.assertIs(errors[0], errors[1])
        return store, errors[0]

    async def test_it_was_made(self) -> None:
        store, error = await self.lose(before=False)
        self.assertEqual(await store.read(count), 3)
        self.assertEqual((error.code, error.executed, error.retriable), ("commit-unknown", "unknown", True))
        self.assertIn("Whether it was made is not known; look before you repeat it.", str(error))

    async def test_it_was_not_made(self) -> None:
        store, _ = await self.lose(before=True)
        self.assertEqual(await store.read(count), 1)


class _Lossy(Factory):
    """
    Joins clients to a server, and loses the connection of the next commit.

    :ivar before: whether the server gets that.
    """

    def __init__(self, server: PostgreSQLServer, before: bool) -> None:
        self.server = server
        self.before = before
        self.armed = False

    def buildProtocol(self, address: object) -> Protocol:
        return _Joined(self)


class _Joined(Protocol):
    def __init__(self, factory: _Lossy) -> None:
        self.settings = factory
        self.server: Protocol | None = None
        self.waiting: list[bytes] = []
        self.lost = False

    def connectionMade(self) -> None:
        from twisted.internet import reactor

        endpoint = UNIXClientEndpoint(reactor, f"{self.settings.server.folder}/.s.PGSQL.5432")
        joined = connectProtocol(endpoint, _Answers(self))
        joined.addCallback(self.joined)

    def joined(self, server: Protocol) -> None:
        self.server = server
        for data in self.waiting:
            server.transport.write(data)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        if b"COMMIT\0" in data and self.settings.armed:
            self.settings.armed = False
            self.lost = True
            if self.settings.before:
                self.end()
                return
        if self.server is None:
            self.waiting.append(data)
        else:
            self.server.transport.write(data)  # type: ignore[union-attr]

    def end(self) -> None:
        for end in (self, self.server):
            if end is not None and end.transport is not None:
                end.transport.loseConnection()

    def connectionLost(self, reason: object = None) -> None:
        self.end()


class _Answers(Protocol):
    def __init__(self, client: _Joined) -> None:
        self.client = client

    def dataReceived(self, data: bytes) -> None:
        if self.client.lost:
            self.client.end()
        else:
            self.client.transport.write(data)  # type: ignore[union-attr]

    def connectionLost(self, reason: object = None) -> None:
        self.client.end()


class RefusalTests(Case):
    """What a server or its administrator can have against the hub, in words, and without the password."""

    async def test_locked(self) -> None:
        """Others that share the transaction are not held up for ever, nor fail."""
        self.patch(database, "LONGEST", 600.0)
        self.patch(module, "LOCK_TIMEOUT", 1)
        store = await self.open()
        with self.server.connect(self.name) as connection, connection.transaction():
            connection.execute("LOCK TABLE credentials")
            waiting = store.run(add, "c")
            other = store.run(lambda connection: connection.execute(text("UPDATE hosts SET port = 1")).rowcount)
            error = await self.assertFailure(waiting, StoreUnavailable)
            self.assertIn("somebody else holds a lock for too long", str(error))
            self.assertEqual(await other, 0)
        await store.run(add, "c")

    async def test_read_only(self) -> None:
        store = await self.open()
        with self.server.connect() as connection:
            connection.execute(f"ALTER DATABASE {self.name} SET default_transaction_read_only = on")
        await store.close()
        store = await self.open()
        self.assertEqual(await store.read(count), 0)
        error = await self.assertFailure(store.run(add, "c"), StoreUnavailable)
        self.assertIn("the server takes no changes", str(error))

    async def test_encoding(self) -> None:
        with self.server.connect() as connection:
            connection.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        error = await self.assertFailure(self.open(self.server.url("ascii")), StoreUnusable)
        self.assertIn("it holds texts in SQL_ASCII; create it with ENCODING 'UTF8'", str(error))

    async def test_no_right_to_make_tables(self) -> None:
        with self.server.connect() as connection:
            connection.execute("CREATE ROLE guest LOGIN")
        url = self.server.url(self.name).replace(f"{USER}@", "guest@")
        error = await self.assertFailure(self.open(url), StoreUnusable)
        self.assertIn("this user may not do that in the database; make it the owner", str(error))

    async def test_passwords_are_not_told(self) -> None:
        """Wherever they stand in the URL, and whatever is wrong."""
        with self.server.connect() as connection:
            connection.execute(f"CREATE ROLE hub LOGIN SUPERUSER PASSWORD '{CANARY}'")
        hba = self.server.folder / "data" / "pg_hba.conf"
        hba.write_text("local all all scram-sha-256\n")
        with self.server.connect() as connection:
            connection.execute("SELECT pg_reload_conf()")
        place = f"/{self.name}?host={quote(str(self.server.folder), safe='')}"
        good = [f"postgresql://hub:{CANARY}@{place}", f"postgres://hub@{place}&password={CANARY}"]
        for url in good:
            store = await self.open(url)
            self.assertEqual(store.place, f"PostgreSQL {self.server.folder}/{self.name}")
            self.assertNotIn(CANARY, repr([vars(store), vars(store._database)]))
            await store.close()
        for url in [*(url.replace(CANARY, f"wrong-{CANARY}") for url in good), good[0].replace("hub:", "other:")]:
            error = await self.assertFailure(self.open(url), StoreError)
            self.assertIn("password authentication failed", told(error))
            self.assertNotIn(CANARY, told(error))
        missing = f"postgresql://hub:{CANARY}@/missing?host={quote(str(self.server.folder), safe='')}"
        error = await self.assertFailure(self.open(missing), StoreError)
        self.assertIn('database "missing" does not exist', str(error))
        self.assertNotIn(CANARY, told(error))

    def test_what_is_no_url(self) -> None:
        for url in (
            f"mysql://hub:{CANARY}@h/n",
            f"postgresql+asyncpg://hub:{CANARY}@h/n",
            f"postgresql://hub:{CANARY}@h:port/n",
            f"postgresql://hub:a@{CANARY}@h/n",
            f"://{CANARY}",
        ):
            error = self.assertRaises(StoreUnusable, partial(database_at, url))
            self.assertIn("write it as postgresql://user:password@host:port/name", str(error))
            self.assertNotIn(CANARY, told(error))

    async def test_options_that_nobody_knows(self) -> None:
        error = await self.assertFailure(self.open(f"{self.server.url(self.name)}&sslmod=x"), StoreUnusable)
        self.assertIn('invalid connection option "sslmod"', str(error))
