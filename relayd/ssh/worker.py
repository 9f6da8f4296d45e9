"""
A thread for one kind of work, which is done one piece after another.

Work that may take seconds, or hang, such as reading a file on a server that does not answer, must not fill the
reactor's thread pool, which is needed for looking up names.
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
    One thread and its queue.

    :param reactor: gets the results, in its own thread.
    :param name: of the thread, which is started with the first work, and does not keep the process from ending.
    """

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = False

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """
        Call *function* in the thread.

        :return: fires with what it returned, or fails with what it raised. What is cancelled before its turn comes is
            not called.
        """
        if not self._started:
            Thread(target=self._work, name=self._name, daemon=True).start()
            self._started = True
        done: Deferred[Any] = Deferred()
        self._queue.put((done, function, args))
        return done

    def close(self) -> None:
        """End the thread when its work is done."""
        if self._started:
            self._started = False
            self._queue.put(None)

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Do one piece; a function of its own, so that no variable keeps it, with its secrets, until the next one."""
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
    What *function* returned, or a `Failure`. That is in no variable: a failure that is held by its own frames keeps all
    that these hold until garbage is collected.
    """
    try:
        return function(*args)
    except BaseException:  # whatever it is, it belongs to the caller
        return Failure()


def _finish(done: Deferred[Any], result: Any) -> None:
    if not done.called:
        done.callback(result)
