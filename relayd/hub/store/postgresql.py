"""
The hub's database on a PostgreSQL server.

What was under way when the server went away fails; the next call connects again.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, PrimaryKeyConstraint, UniqueConstraint, create_engine, event, make_url
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from relayd.hub.store.database import CHANGED_BY_READ, Database, Health, Stage
from relayd.hub.store.errors import (
    CommitUnknown,
    Conflict,
    StillReferred,
    StoreError,
    StoreUnavailable,
    StoreUnusable,
    Unstorable,
)
from relayd.hub.store.migrations import migrate
from relayd.hub.store.tables import metadata
from relayd.language.texts import Text, printable

#: Connections that read.
READERS: Final = 3
#: Seconds that a statement waits for a lock that somebody else holds.
LOCK_TIMEOUT: Final = 10
#: The number of the lock that one of several hubs holds while it brings the tables to its version: "rlhb".
_MIGRATING: Final = 0x726C6862

#: libpq's parameters: a server that is gone without a word is noticed within a minute, and not after hours.
_CONNECT: Final[dict[str, Any]] = {
    "application_name": "relayd-hub",
    "client_encoding": "utf8",
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 50_000,
}

#: Errors (PostgreSQL's documentation, appendix A) after which the same may succeed later: by code or by class of codes.
_UNAVAILABLE: Final = {
    "08": Text("the connection to the server is lost"),
    "57P": Text("the server stops or starts"),
    "53100": Text("the disk of the server is full; make room"),
    "53200": Text("the server has no memory left"),
    "53300": Text("the server takes no more connections; raise its max_connections, or end others"),
    "53": Text("the server has not enough resources"),
    "55P03": Text("somebody else holds a lock for too long; look into pg_stat_activity"),
    "40": Text("somebody else changed the same at the same time"),
    "25006": Text("the server takes no changes: it is a standby, or set to read-only"),
    "57014": Text("the server ended a statement, at its time-out or by order of a person"),
}
_UNUSABLE: Final = {
    "28": Text("the server does not let this user in; look at the name, the password and pg_hba.conf"),
    "3D": Text("the server has no such database; create it"),
    "42501": Text("this user may not do that in the database; make it the owner"),
    "XX001": Text("the server found damaged data; restore a backup"),
    "XX002": Text("the server found a damaged index; restore a backup, or REINDEX"),
}


class PostgreSQLDatabase(Database):
    """
    A database on a PostgreSQL server.

    :param url: ``postgresql://user:password@host:port/name?option=value``, with libpq's options.
    :raises StoreUnusable: when that cannot be understood.
    """

    readers = READERS

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise _not_a_url() from None
        if parsed.drivername not in ("postgresql", "postgres") or "@" in (parsed.host or ""):
            raise _not_a_url()
        self.place = _place_of(parsed)
        # In the query it would be seen wherever the URL is shown.
        secret = parsed.query.get("password", parsed.password)
        self._url = parsed.difference_update_query(["password"]).set(
            drivername="postgresql+psycopg", password=secret if isinstance(secret, str) else None
        )

    def open(self) -> None:
        """See `Database.open`."""
        self._writer = self._engine(1, "READ COMMITTED", only_reads=False)
        self._reader = self._engine(READERS, "REPEATABLE READ", only_reads=True)
        try:
            with self._writer.begin() as connection:
                _check_encoding(connection)
                connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
                migrate(connection)
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                raise self._in_our_words(error, Stage.BEGINNING) from None
            raise

    def _engine(self, connections: int, isolation: IsolationLevel, *, only_reads: bool) -> Engine:
        engine = create_engine(
            self._url,
            connect_args=_CONNECT,
            pool_size=connections,
            max_overflow=0,
            pool_pre_ping=True,
            isolation_level=isolation,
            hide_parameters=True,
        )

        def prepare(connection: psycopg.Connection[Any], _: object) -> None:
            connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}s'")
            connection.commit()
            if only_reads:
                connection.read_only = True

        event.listen(engine, "connect", prepare)
        return engine

    def _execute(self, connection: Connection, statement: str) -> None:
        connection.exec_driver_sql(statement)

    def _health(self, connection: Connection) -> Health:
        status = connection.connection.driver_connection.info.transaction_status  # type: ignore[union-attr]
        return Health.FAILED if status == TransactionStatus.INERROR else Health.GOOD

    def _translate(self, error: SQLAlchemyError, stage: Stage) -> StoreError:
        if not isinstance(error, DBAPIError) or not isinstance(error.orig, psycopg.Error):
            return StoreError(reason=Text("an internal error, {error}", error=type(error).__name__))
        cause = error.orig
        state = cause.sqlstate or ""
        later = _found(_UNAVAILABLE, state)
        if error.connection_invalidated:
            reason = later or _UNAVAILABLE["08"]
            return CommitUnknown(reason=reason) if stage is Stage.COMMITTING else StoreUnavailable(reason=reason)
        if state.startswith("23"):
            return _broken_constraint(cause)
        if state == "25006" and stage is Stage.READING:
            return StoreError(reason=CHANGED_BY_READ)
        if later is not None:
            return StoreUnavailable(reason=later)
        if (never := _found(_UNUSABLE, state)) is not None:
            return StoreUnusable(reason=never)
        if isinstance(cause, psycopg.DataError):
            return Unstorable(reason=_unstorable(cause))
        if not state and isinstance(cause, psycopg.OperationalError):  # there is no connection
            return StoreUnavailable(reason=self._without_password(str(cause)))
        if not state and stage is Stage.BEGINNING:  # an option of the connection that libpq does not know
            return StoreUnusable(reason=self._without_password(str(cause)))
        # A mistake in a statement, which holds no values.
        words = cause.diag.message_primary if isinstance(cause, psycopg.ProgrammingError) else None
        return StoreError(reason=Text("PostgreSQL says {error}", error=words or state or type(cause).__name__))

    def _without_password(self, text: str) -> str:
        if self._url.password:
            text = text.replace(self._url.password, "***")
        return printable(" ".join(text.split()), 400)


def _found(reasons: dict[str, Text], state: str) -> Text | None:
    return next((reasons[key] for key in (state, state[:3], state[:2]) if key in reasons), None)


def _not_a_url() -> StoreUnusable:
    # It is not quoted: it may hold a password.
    return StoreUnusable(
        reason=Text(
            "its address cannot be understood; write it as postgresql://user:password@host:port/name, and signs such "
            "as @ in the password as %40"
        )
    )


def _place_of(url: URL) -> str:
    host = url.host or url.query.get("host") or "localhost"
    port = f":{url.port}" if url.port else ""
    return f"PostgreSQL {host}{port}/{url.database or ''}"


def _unstorable(error: psycopg.DataError) -> Text:
    if "NUL" in str(error):
        return Text("a text has a NUL character, which PostgreSQL cannot hold")
    return Text("PostgreSQL says {error}", error=error.sqlstate or type(error).__name__)


def _broken_constraint(error: psycopg.Error) -> StoreError:
    table, name = error.diag.table_name or "", error.diag.constraint_name or ""
    if error.sqlstate == "23505":
        return Conflict(table=table, columns=_columns_of(table, name))
    if error.sqlstate in ("23503", "23001"):
        return StillReferred(table=table)
    words = f"{error.diag.message_primary or error.sqlstate}"
    return StoreError(reason=Text("PostgreSQL says {error}", error=words))


def _columns_of(table: str, name: str) -> list[str]:
    """The columns of a constraint; its name, if it is none of ours."""
    for constraint in metadata.tables[table].constraints if table in metadata.tables else ():
        if constraint.name == name and isinstance(constraint, (PrimaryKeyConstraint, UniqueConstraint)):
            return [column.name for column in constraint.columns]
    return [name]


def _check_encoding(connection: Connection) -> None:
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise StoreUnusable(
            reason=Text("it holds texts in {encoding}; create it with ENCODING 'UTF8'", encoding=encoding)
        )
