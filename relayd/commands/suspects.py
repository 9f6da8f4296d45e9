"""
Results that may be why the main server closes its connections: which they are, and how they travel alone.

A lost connection proves little: proxies cut connections, servers restart.  A loss is held against a result only where
the result can be its cause: it was sent a short while before, and the main server did not name another reason for
closing the connection.  A result to which that happened twice travels alone, with a WebSocket ping behind it.  The
answer to the ping shows that the main server has read the result, and acquits it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from relayd.commands.in_flight import InFlight
from relayd.commands.undelivered import ResultKey
from relayd.errors import Undeliverable
from relayd.interfaces import Blame
from relayd.language.texts import Translate
from relayd.wire.failure_results import describe_error
from relayd.wire.messages import CommandResult

#: Seconds after a result was sent in which it can be the cause of a loss.
BLAME_FOR: Final = 10.0
#: Links lost with a result in flight, after which it may be the cause and travels alone.
SUSPECT_AFTER: Final = 2
#: Links lost while it travelled alone and was not read, after which it is not sent any more.
CONVICT_AFTER: Final = 3
#: Seconds after its beginning in which a link carries no suspect with which the main server turned the relay away: it
#: turns relays away for a wrong key, too, a moment after it has let them in.
TURNED_AWAY_FOR: Final = 3.0
#: Seconds for which a result that travels alone is watched, where the main server does not show that it was read.
ALONE_FOR: Final = 10.0
#: Seconds for which it is watched after that: a main server may read it, and break on it a moment later.
AFTERMATH: Final = 1.0
#: Links lost in that time, after which the result has to wait on each further link.  It is not given up: it was read.
PUT_OFF_AFTER: Final = 3
#: Seconds of that wait: the first one, and the longest. Each is twice as long as the one before.
FIRST_PAUSE: Final = 60.0
LONGEST_PAUSE: Final = 3600.0


class _Alone:
    """
    A result that is the only one in flight on its link.

    :ivar over: fires when others may follow.
    """

    __slots__ = ("key", "over")

    def __init__(self, key: ResultKey) -> None:
        self.key = key
        self.over: Deferred[None] = Deferred()

    def end(self) -> None:
        """Let others follow."""
        if not self.over.called:
            self.over.callback(None)


class Suspects:
    """
    The results with which links were lost, and how often.

    :param results_read: called with a link and the number of a sending, when the main server has read all up to that.
    """

    def __init__(self, clock: IReactorTime, results_read: Callable[[InFlight, int], None]) -> None:
        self._clock = clock
        self._results_read = results_read
        self._losses: dict[ResultKey, int] = {}
        self._alone_unread: dict[ResultKey, int] = {}
        self._alone_read: dict[ResultKey, int] = {}
        self._turned_away: set[ResultKey] = set()
        self._alone: dict[InFlight, _Alone] = {}

    def is_suspect(self, key: ResultKey) -> bool:
        """Whether the result has to travel alone."""
        return self._losses.get(key, 0) >= SUSPECT_AFTER

    def pause(self, key: ResultKey) -> float:
        """Seconds for which the result waits on a new link before it is sent."""
        times = self._alone_read.get(key, 0) - PUT_OFF_AFTER
        return 0.0 if times < 0 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(times, 16))

    def acquit(self, key: ResultKey) -> None:
        """Hold nothing against the result any more."""
        for charges in (self._losses, self._alone_unread, self._alone_read):
            charges.pop(key, None)
        self._turned_away.discard(key)
        if self._alone:
            for alone in [alone for alone in self._alone.values() if alone.key == key]:
                alone.end()

    def forget(self, is_gone: Callable[[ResultKey], bool]) -> None:
        """Forget the results that are held no more: a main server could make any number of them."""
        for key in [key for key in {*self._losses, *self._alone_unread, *self._alone_read} if is_gone(key)]:
            self.acquit(key)

    def link_lost(self, in_flight: InFlight, blame: Blame) -> ResultKey | None:
        """
        A link was lost.

        :param blame: whether what was sent on it may be the cause.
        :return: the result that certainly is the cause; ``None`` where none certainly is.
        """
        alone = self._alone.pop(in_flight, None)
        if blame is Blame.REFUSED:
            self._turned_away |= self._blame_unread(in_flight)
            return None
        self._turned_away.clear()
        if blame is Blame.NONE:
            return None
        if alone is not None and in_flight.read == in_flight.last:
            self._alone_read[alone.key] = self._alone_read.get(alone.key, 0) + 1
            self._losses[alone.key] = SUSPECT_AFTER
            return None
        self._blame_unread(in_flight)
        if alone is None:
            return None
        self._alone_unread[alone.key] = times = self._alone_unread.get(alone.key, 0) + 1
        return alone.key if times >= CONVICT_AFTER else None

    def _blame_unread(self, in_flight: InFlight) -> set[ResultKey]:
        """Hold the loss of a link against what was sent on it a short while ago, and was not read."""
        keys = in_flight.unread(self._clock.seconds() - BLAME_FOR)
        for key in keys:
            self._losses[key] = self._losses.get(key, 0) + 1
        return keys

    async def send_alone(self, in_flight: InFlight, key: ResultKey, send: Callable[[], None]) -> None:
        """
        Send a result alone.  Returns when others may follow; does not return where the link is lost before.

        :param send: sends it.
        """
        while key in self._turned_away and (left := in_flight.since + TURNED_AWAY_FOR - self._clock.seconds()) > 0:
            await deferLater(self._clock, left)
        await in_flight.link.probe()  # what went before is read: it is not to blame for what happens now
        in_flight.mark_read(in_flight.last)
        alone = self._alone[in_flight] = _Alone(key)
        send()
        await self._watch_alone(in_flight, alone)
        if in_flight.read >= in_flight.last:
            self.acquit(key)
        self._alone.pop(in_flight, None)  # not where the link is lost: `link_lost` has to know

    async def _watch_alone(self, in_flight: InFlight, alone: _Alone) -> None:
        """Wait for an answer to what was sent alone, or a sign that it was read, but not for ever."""
        last = in_flight.last
        alarm = self._clock.callLater(ALONE_FOR, alone.end)

        def was_read(_: None) -> None:
            in_flight.mark_read(last)
            # What others held against it is refuted, and a main server without receipts has it now.
            self._losses.pop(alone.key, None)
            self._alone_unread.pop(alone.key, None)
            self._results_read(in_flight, last)
            if alarm.active():
                alarm.reset(min(AFTERMATH, alarm.getTime() - self._clock.seconds()))

        probe = in_flight.link.probe()
        probe.addCallbacks(was_read, lambda _: None)
        try:
            await alone.over
        finally:
            probe.cancel()
            if alarm.active():
                alarm.cancel()


def without_output(result: CommandResult, translate: Translate) -> CommandResult:
    """
    The result that goes out in the place of one that breaks links.

    Its exit code stays: it may have arrived all the same, and a command that succeeded must not become one that failed.
    """
    error = Undeliverable(exit_code=result.exit_code)
    details = msgspec.structs.replace(
        result.details, error=result.details.error or describe_error(error), truncated=True, encoding=None
    )
    return msgspec.structs.replace(result, stdout="", stderr=error.text.within(translate), details=details)
