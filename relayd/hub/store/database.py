"""
What is done in the threads of a store: transactions that many share, and the errors of databases told in our own words.

`relayd.hub.store.sqlite` and `relayd.hub.store.postgresql` are the two kinds.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from relayd.hub.store.errors import StoreError, Unstorable
from relayd.language.texts import Text

#: Seconds after which what waits for the same transaction is left to the next one: all of it is committed together.
LONGEST: Final = 0.1

#: Something to do with a connection.
Call = Callable[[Connection], Any]


class Raised(Struct, frozen=True):
    """The outcome of a call that failed."""

    error: Exception


class _Spoiled(Exception):
    """The transaction is gone, and with it what others did in it."""


class Database(ABC):
    """
    A database, for the threads of a store: one of them writes, `readers` of them read.

    :ivar place: what it is and where, for people, without a password.
    """

    place: str
    readers: int
    _writer: Engine
    _reader: Engine

    @abstractmethod
    def open(self) -> None:
        """
        Connect, and bring the tables to the version of this relayd.

        :raises StoreTooNew: when they are of a newer one.
        :raises StoreError: when the database cannot be used.
        """

    def close(self) -> None:
        """Disconnect.  No other method is called meanwhile or afterwards."""
        self._writer.dispose()
        self._reader.dispose()

    def read(self, call: Call) -> Any:
        """What *call* gives, in a transaction that changes nothing; or a `Raised`."""
        try:
            with self._reader.connect() as connection, connection.begin():
                return call(connection)
        except Exception as error:
            return Raised(self._in_our_words(error))

    def write(self, calls: Sequence[Call]) -> list[Any]:
        """
        Make *calls*, and commit as many of them together as there is time for.  One that fails fails alone.

        :return: what the first of them gave, or a `Raised` each; the others are still to be made.
        """
        if len(calls) == 1:
            return [self._write_alone(calls[0])]
        try:
            return self._write_together(calls)
        except _Spoiled:
            # The disk may be nearly full, and still take what is small.
            return list(map(self._write_alone, calls))

    def _write_alone(self, call: Call) -> Any:
        committing = False
        try:
            with self._writer.connect() as connection, connection.begin() as transaction:
                outcome = call(connection)
                committing = True
                transaction.commit()
        except Exception as error:
            return Raised(self._in_our_words(error, committing=committing))
        return outcome

    def _write_together(self, calls: Sequence[Call]) -> list[Any]:
        """
        :raises _Spoiled: when nothing was changed, and each should be tried alone.
        """
        outcomes: list[Any] = []
        committing = False
        try:
            with self._writer.connect() as connection, connection.begin() as transaction:
                until = time.monotonic() + LONGEST
                for call in calls:
                    outcomes.append(self._within(connection, call))
                    if time.monotonic() >= until:
                        break
                committing = True
                transaction.commit()
        except _Spoiled:
            raise
        except Exception as error:
            if outcomes and not self._is_lost(error):
                raise _Spoiled from None
            return [Raised(self._in_our_words(error, committing=committing))] * len(calls)
        return outcomes

    def _within(self, connection: Connection, call: Call) -> Any:
        """Make a call in a savepoint."""
        self._execute(connection, "SAVEPOINT one")
        try:
            outcome = call(connection)
        except Exception as error:
            if self._is_lost(error):
                raise
            if self._is_over(connection):
                raise _Spoiled from None
            self._execute(connection, "ROLLBACK TO SAVEPOINT one")
            outcome = Raised(self._in_our_words(error))
        self._execute(connection, "RELEASE SAVEPOINT one")
        return outcome

    @abstractmethod
    def _execute(self, connection: Connection, statement: str) -> None:
        """Execute a statement that gives nothing, with no more work than it needs."""

    @abstractmethod
    def _is_over(self, connection: Connection) -> bool:
        """Whether the database itself has ended the transaction."""

    @staticmethod
    def _is_lost(error: BaseException) -> bool:
        """Whether the connection is lost, and with it whatever was not committed."""
        return isinstance(error, DBAPIError) and error.connection_invalidated

    def _in_our_words(self, error: Exception, *, committing: bool = False) -> Exception:
        """
        An error of the database as one of ours; one that a call raised itself stays as it is.

        It has the traceback, and neither text nor cause of the other: these may hold what was to be written.
        """
        told: StoreError
        if isinstance(error, DBAPIError) or (
            isinstance(error, SQLAlchemyError) and not isinstance(error, StatementError)
        ):
            told = self._translate(error, committing=committing)
        elif isinstance(error, UnicodeEncodeError):
            told = Unstorable(reason=Text("a text has characters that UTF-8 cannot hold"))
        elif isinstance(error, OverflowError):
            told = Unstorable(reason=Text("a number is too large"))
        else:
            return error
        return told.with_traceback(error.__traceback__)

    @abstractmethod
    def _translate(self, error: SQLAlchemyError, *, committing: bool) -> StoreError:
        """An error of the database in our words."""
