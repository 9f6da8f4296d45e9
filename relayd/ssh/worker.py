"""
A thread of its own for one kind of work, which is done one after another.

What may take seconds, or hang, such as a file on a server that does not answer, must not fill the reactor's thread
pool: without that no name is looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_Job = tuple["Deferred[Any]", Callable[..., Any], tuple[Any, ...]]


class Worker:
    """
    :param reactor: is told in its own thread what came of the work.
    :param name: of the thread, which is started with the first work, and does not keep the process from ending.
    """

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = False

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """
        Have *function* called; what is cancelled before its turn comes is never called.

        :return: fires with what it returned, or fails with what it raised.
        """
        if not self._started:
            Thread(target=self._work, name=self._name, daemon=True).start()
            self._started = True
        done: Deferred[Any] = Deferred()
        self._queue.put((done, function, args))
        return done

    def close(self) -> None:
        """End the thread when it has done what it was given."""
        if self._started:
            self._started = False
            self._queue.put(None)

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """A function of its own, so that no variable keeps the last work, which may hold secrets, until the next."""
        job = self._queue.get()
        if job is None:
            return False
        done, function, args = job
        if done.called:
            return True
        self._reactor.callFromThread(_finish, done, _outcome(function, args))
        return True


def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """
    What it returned, or a `Failure`; in no variable, as a failure that its own frames hold keeps all that these have
    until garbage is collected.
    """
    try:
        return function(*args)
    except BaseException:  # it is not for this thread to judge
        return Failure()


def _finish(done: Deferred[Any], result: Any) -> None:
    if not done.called:
        done.callback(result)
