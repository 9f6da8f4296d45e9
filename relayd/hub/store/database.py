"""
What is done in the threads of a store: transactions that many share, and the errors of databases told in our own words.

`relayd.hub.store.sqlite` and `relayd.hub.store.postgresql` are the two kinds.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from relayd.hub.store.errors import StoreError, Unstorable
from relayd.language.texts import Text

#: Seconds after which what waits for the same transaction is left to the next one: all of it is committed together.
LONGEST: Final = 0.1

#: What is wrong with the program that asked for it.
CHANGED_BY_READ: Final = Text("an internal error: what only reads wanted to change something")

_WENT_ON: Final = Text("an internal error: a function went on after a statement of its own had failed")

#: Something to do with a connection.
Call = Callable[[Connection], Any]


class Raised(Struct, frozen=True):
    """The outcome of a call that failed."""

    error: Exception


class Stage(Enum):
    """How far a transaction had come when it failed."""

    BEGINNING = auto()
    READING = auto()
    CHANGING = auto()
    COMMITTING = auto()


class Health(Enum):
    """How a transaction is: good, failed but for what a savepoint saves, or taken back by the database itself."""

    GOOD = auto()
    FAILED = auto()
    GONE = auto()


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
            return Raised(self._in_our_words(error, Stage.READING))

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
        stage = Stage.CHANGING
        try:
            with self._writer.connect() as connection, connection.begin() as transaction:
                outcome = call(connection)
                if self._health(connection) is not Health.GOOD:
                    raise StoreError(reason=_WENT_ON)  # to commit would take all back, and say nothing
                stage = Stage.COMMITTING
                transaction.commit()
        except Exception as error:
            return Raised(self._in_our_words(error, stage))
        return outcome

    def _write_together(self, calls: Sequence[Call]) -> list[Any]:
        """
        :raises _Spoiled: when nothing was changed, and each should be tried alone.
        """
        outcomes: list[Any] = []
        stage = Stage.BEGINNING
        try:
            with self._writer.connect() as connection, connection.begin() as transaction:
                stage = Stage.CHANGING
                until = time.monotonic() + LONGEST
                for call in calls:
                    outcomes.append(self._within(connection, call))
                    if time.monotonic() >= until:
                        break
                stage = Stage.COMMITTING
                transaction.commit()
        except _Spoiled:
            raise
        except Exception as error:
            # Where it could not begin, or the connection is lost, each alone would only wait for the same.
            if stage is not Stage.BEGINNING and not self._is_lost(error):
                raise _Spoiled from None
            told = Raised(self._in_our_words(error, stage))
            return [told] * len(outcomes if stage is Stage.COMMITTING else calls)
        return outcomes

    def _within(self, connection: Connection, call: Call) -> Any:
        """Make a call in a savepoint."""
        self._execute(connection, "SAVEPOINT one")
        try:
            outcome = call(connection)
            if self._health(connection) is not Health.GOOD:
                raise StoreError(reason=_WENT_ON)
        except Exception as error:
            if self._is_lost(error):
                raise
            if self._health(connection) is Health.GONE:
                raise _Spoiled from None
            self._execute(connection, "ROLLBACK TO SAVEPOINT one")
            outcome = Raised(self._in_our_words(error, Stage.CHANGING))
        self._execute(connection, "RELEASE SAVEPOINT one")
        return outcome

    @abstractmethod
    def _execute(self, connection: Connection, statement: str) -> None:
        """Execute a statement that gives nothing, with no more work than it needs."""

    @abstractmethod
    def _health(self, connection: Connection) -> Health:
        """How the transaction of *connection* is."""

    @staticmethod
    def _is_lost(error: BaseException) -> bool:
        """Whether the connection is lost, and with it whatever was not committed."""
        return isinstance(error, DBAPIError) and error.connection_invalidated

    def _in_our_words(self, error: Exception, stage: Stage) -> Exception:
        """
        An error of the database as one of ours; one that a call raised itself stays as it is.

        It has the traceback, and neither text nor cause of the other: these may hold what was to be written.
        """
        told: StoreError
        if isinstance(error, DBAPIError) or (
            isinstance(error, SQLAlchemyError) and not isinstance(error, StatementError)
        ):
            told = self._translate(error, stage)
        elif isinstance(error, UnicodeEncodeError):
            told = Unstorable(reason=Text("a text has half of a surrogate pair, which UTF-8 cannot hold"))
        elif isinstance(error, OverflowError):
            told = Unstorable(reason=Text("a number has more than 64 bits"))
        else:
            return error
        return told.with_traceback(error.__traceback__)

    @abstractmethod
    def _translate(self, error: SQLAlchemyError, stage: Stage) -> StoreError:
        """An error of the database in our words."""
