"""
A thread that does one thing after the other, and is cheaper to reach than a pool of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

_log = Logger("relayd.process")

_SOME: Final = 4096

_Job = tuple[Callable[[], Any], Callable[[Any], None]]


@implementer(IReadDescriptor)
class Worker:
    """
    A thread of its own.

    What it has done comes back through a pipe that the reactor reads: ``callFromThread`` costs one turn of the reactor
    more, and half as much processor time again.

    :param reactor: reads the pipe.
    :param name: of the thread.
    """

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._stopped: Callable[[None], None]
        self._done: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._reads, False)
        os.set_blocking(self._writes, False)
        reactor.addReader(self)
        # The process need not wait for it: what was not written was not promised.
        Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Call *job* in the thread, and then *then* with what it gave, or the exception it raised, in the reactor's."""
        self._jobs.put((job, then))

    def stop(self, then: Callable[[None], None]) -> None:
        """End the thread when it has done all that it was given, and then call *then*."""
        self._stopped = then
        self._jobs.put(None)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, then = item
            try:
                outcome = job()
            except Exception as error:
                outcome = error
            self._done.append((then, outcome))
            self._wake()
        self._done.append((self._ended, None))
        self._wake()

    def _wake(self) -> None:
        try:  # noqa: SIM105 — to make a context manager takes longer than to write
            os.write(self._writes, b"x")
        except BlockingIOError:  # the pipe is full: the reactor will read it
            pass

    def _ended(self, _: None) -> None:
        self._reactor.removeReader(self)
        os.close(self._reads)
        os.close(self._writes)
        self._stopped(None)

    # IReadDescriptor

    def fileno(self) -> int:
        """See `IReadDescriptor`."""
        return self._reads

    def doRead(self) -> None:
        """See `IReadDescriptor`."""
        os.read(self._reads, _SOME)
        while self._done:
            then, outcome = self._done.popleft()
            try:
                then(outcome)
            except Exception:
                _log.failure("What a thread has done could not be told")

    def connectionLost(self, reason: Any) -> None:
        """See `IReadDescriptor`.  Nobody loses a pipe within the process."""

    def logPrefix(self) -> str:
        """See `ILoggingContext`."""
        return self._name
