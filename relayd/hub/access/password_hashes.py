"""
Passwords at rest: argon2id (RFC 9106), computed in one thread of its own, so that a flood of logins takes no more than
one processor and the memory of one computation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from msgspec import Struct
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from relayd.hub.access.errors import LoginsBusy
from relayd.hub.access.password_rules import normalized
from relayd.wire.secret import Secret

T = TypeVar("T")

#: Computations that wait at most, beside the one that runs: a few seconds' worth.
MOST_WAITING: Final = 16
#: Seconds after which somebody who found no place may try again.
_TRY_AGAIN: Final = 5


class HashingCost(Struct, frozen=True):
    """
    What one password costs whoever guesses it, and us: the second choice of RFC 9106, section 4 (64 MiB, three times),
    in one lane, as there is one thread.  OWASP's least are 19 MiB, twice.  About a quarter of a second.

    :ivar passes: over the memory.
    :ivar kib: memory, in KiB.
    """

    passes: int = 3
    kib: int = 64 * 1024


class PasswordHashes:
    """
    Makes and checks the hashes of passwords.

    :param reactor: provides the way back from the thread.
    :param cost: of new hashes; those that cost another amount are still checked, and `is_outdated`.
    """

    def __init__(self, reactor: Any, cost: HashingCost | None = None) -> None:
        self._reactor = reactor
        self._cost = cost or HashingCost()
        self._hasher = PasswordHasher(time_cost=self._cost.passes, memory_cost=self._cost.kib, parallelism=1)
        #: Takes the place of the hash of a user who does not exist, so that the answer takes as long as for one who
        #: does.
        self._nobody = self._hasher.hash("nobody has this password")
        self._pool = ThreadPool(minthreads=0, maxthreads=1, name="hub-passwords")
        self._waiting = 0

    def start(self) -> None:
        """Take passwords from now on."""
        self._pool.start()

    def stop(self) -> None:
        """Take no more; waits for the one that is being computed."""
        self._pool.stop()

    def make(self, password: Secret) -> Deferred[str]:
        """
        The hash of a password, in the PHC format.

        :return: fails with `LoginsBusy` when too many wait.
        """
        return self._in_thread(lambda: self._hasher.hash(normalized(password)))

    def matches(self, password: Secret, hashed: str | None) -> Deferred[bool]:
        """
        Whether a password is the right one.

        :param hashed: ``None``: there is no such user.  That takes as long, and is wrong.
        :return: fails with `LoginsBusy` when too many wait.
        """
        return self._in_thread(lambda: self._matches(password, hashed))

    def is_outdated(self, hashed: str) -> bool:
        """Whether a hash costs another amount than new ones."""
        return self._hasher.check_needs_rehash(hashed)

    def _matches(self, password: Secret, hashed: str | None) -> bool:
        try:
            right = self._hasher.verify(hashed or self._nobody, normalized(password))
        except (VerificationError, InvalidHashError):
            return False
        return right and hashed is not None

    def _in_thread(self, function: Callable[[], T]) -> Deferred[T]:
        if self._waiting > MOST_WAITING:
            return fail(LoginsBusy(seconds=_TRY_AGAIN))
        self._waiting += 1
        running: Deferred[T] = deferToThreadPool(self._reactor, self._pool, function)
        # What gave up waiting still has its place until it was computed.
        result: Deferred[T] = Deferred()

        def done(outcome: Any) -> None:
            self._waiting -= 1
            if not result.called:
                result.callback(outcome)

        running.addBoth(done)
        return result
