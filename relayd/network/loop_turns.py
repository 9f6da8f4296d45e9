"""
The turns of the event loop: work that waits for the end of a turn, and a cheaper way to handle what the socket brings.
For any part of relayd; it knows nothing of what is done.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINTR
from select import EPOLLIN
from threading import get_ident
from typing import Any, Final
from weakref import WeakKeyDictionary

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionFdescWentAway
from twisted.python import log

#: As in `twisted.internet.posixbase`: somebody else closed the socket.
_CLOSED = ConnectionFdescWentAway("File descriptor lost")

#: Descriptors that one turn handles; the next one begins with the others, as epoll(7) keeps them in their order. 200
#: connections that are refused at once would otherwise take a turn of 50 ms.
MOST_EVENTS: Final = 16


class LoopTurns:
    """
    Calls what asked for it at the end of a turn of the event loop: all events are handled, and the loop begins to wait.

    It takes the place of the reactor's ``doIteration``, which each turn calls once. Twisted's own calls each handler in
    a context of its log (``twisted.python.context``), a dozen calls deep. Here only a handler that fails gets one, and
    the log has the same lines.

    :param reactor: the one that runs.
    """

    def __init__(self, reactor: EPollReactor) -> None:
        self._due: list[Callable[[], None]] = []
        #: What can wait longest, such as the log.
        self._last: list[Callable[[], None]] = []
        #: Calls a function once, at the end of this turn.
        self.call_at_end: Callable[[Callable[[], None]], None] = self._due.append
        self._reactor: Any = reactor
        self._thread = 0
        vars(reactor)["doIteration"] = self._iterate

    def try_at_end(self, function: Callable[[], None]) -> bool:
        """
        Call *function* once, after all else at the end of this turn, if there is one: the loop runs, in this thread.

        :return: whether it will be called.
        """
        if not self._reactor.running or get_ident() != self._thread:
            return False
        self._last.append(function)
        return True

    def _iterate(self, timeout: float | None) -> None:
        """One turn: wait for events, for *timeout* seconds at most, and handle them."""
        self._thread = get_ident()
        reactor = self._reactor
        if self._due or self._last:
            self._end_turn()
            if reactor._newTimedCalls:  # what was done last may have made one that is due before all others
                timeout = reactor.running and reactor.timeout()
        selectables = reactor._selectables
        try:
            events = reactor._poller.poll(-1 if timeout is None else timeout, MOST_EVENTS)
        except OSError as error:
            if error.errno == EINTR:
                return
            raise
        for fd, event in events:
            selectable = selectables.get(fd)
            if selectable is None:
                continue
            if event != EPOLLIN:
                log.callWithLogger(selectable, reactor._doReadOrWrite, selectable, fd, event)
                continue
            # What _doReadOrWrite does where there is something to read, and nothing else
            try:
                why = _CLOSED if selectable.fileno() == -1 else selectable.doRead()
            except BaseException as error:
                why = error
                log.callWithLogger(selectable, log.err)
            if why:
                log.callWithLogger(selectable, reactor._disconnectSelectable, selectable, why, True)

    def _end_turn(self) -> None:
        while self._due or self._last:
            due = self._due or self._last
            for function in due:  # they may append more
                try:
                    function()
                except Exception:
                    log.err(None, "Internal error: a step at the end of a turn of the event loop failed")
            due.clear()


_turns: WeakKeyDictionary[object, LoopTurns] = WeakKeyDictionary()


def turns_of(reactor: object) -> LoopTurns | None:
    """The turns of *reactor*; ``None``: it is not of the kind that tells when one ends."""
    if type(reactor) is not EPollReactor:
        return None
    turns = _turns.get(reactor)
    if turns is None:
        turns = _turns[reactor] = LoopTurns(reactor)
    return turns
