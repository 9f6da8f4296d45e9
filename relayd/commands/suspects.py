"""
Results that may be what the main server closes its connections for: which they are, and how they travel alone.

A connection that is lost proves little: proxies cut them, servers restart.  A loss counts against a result only where
the result can be its cause: it was sent a short while before, and the main server did not say why it closed the
connection, or not so that it means something else.  A result with which that happened twice travels alone, with a
WebSocket ping behind it.  The answer to that shows that the main server has read the result: then it is acquitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from relayd.commands.in_flight import Key, Sendings
from relayd.errors import Undeliverable
from relayd.interfaces import Blame
from relayd.language.texts import Translate
from relayd.wire.messages import CommandResult, describe_error

#: Seconds after a result was sent in which it can be the cause of a loss.
BLAME_FOR: Final = 10.0
#: Links lost with a result under way, after which it may be the cause and travels alone.
SUSPECT_AFTER: Final = 2
#: Links lost while it travelled alone and was not read, after which it is not sent any more.
CONVICT_AFTER: Final = 3
#: Seconds from its start for which a link carries no suspect with which the main server turned the relay away: it does
#: that for a wrong key, too, a moment after it has let the relay in.
TURNED_AWAY_FOR: Final = 3.0
#: Seconds for which a result that travels alone is watched, where the main server does not show that it was read.
ALONE_FOR: Final = 10.0
#: Seconds for which it is watched after that: a main server may read it, and break on it a moment later.
AFTERMATH: Final = 1.0
#: Links lost in that time, after which the result has to wait on each further link: so many seconds, and twice as many
#: each time.  It is not given up, for it was read.
PUT_OFF_AFTER: Final = 3
FIRST_PAUSE: Final = 60.0
LONGEST_PAUSE: Final = 3600.0


class Suspects:
    """
    What is held against results.

    :param read: called with a link and the number of a sending, when all up to that one is known to be read.
    """

    def __init__(self, clock: IReactorTime, read: Callable[[Sendings, int], None]) -> None:
        self._clock = clock
        self._read = read
        self._losses: dict[Key, int] = {}
        self._alone_unread: dict[Key, int] = {}
        self._alone_read: dict[Key, int] = {}
        self._turned_away: set[Key] = set()

    def is_suspect(self, key: Key) -> bool:
        """Whether it has to travel alone."""
        return self._losses.get(key, 0) >= SUSPECT_AFTER

    def pause(self, key: Key) -> float:
        """Seconds that it waits on a new link before it is sent."""
        times = self._alone_read.get(key, 0) - PUT_OFF_AFTER
        return 0.0 if times < 0 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(times, 16))

    def clear(self, key: Key) -> None:
        """Nothing is held against it any more."""
        for charges in (self._losses, self._alone_unread, self._alone_read):
            charges.pop(key, None)
        self._turned_away.discard(key)

    def forget(self, gone: Callable[[Key], bool]) -> None:
        """Clear what is held no more: a main server could make any number of such results."""
        for key in [key for key in {*self._losses, *self._alone_unread, *self._alone_read} if gone(key)]:
            self.clear(key)

    def link_lost(self, state: Sendings, blame: Blame) -> Key | None:
        """
        A link was lost.

        :param blame: whether what was sent on it may be the cause.
        :return: the result that certainly is it.
        """
        if blame is Blame.REFUSED:
            for key in state.unread(self._clock.seconds() - BLAME_FOR):
                self._losses[key] = self._losses.get(key, 0) + 1
                self._turned_away.add(key)
            return None
        self._turned_away.clear()
        if blame is Blame.NONE:
            return None
        alone = state.alone
        if alone is not None and state.read == state.last:
            self._alone_read[alone] = self._alone_read.get(alone, 0) + 1
            self._losses[alone] = SUSPECT_AFTER
            return None
        for key in state.unread(self._clock.seconds() - BLAME_FOR):
            self._losses[key] = self._losses.get(key, 0) + 1
        if alone is None:
            return None
        self._alone_unread[alone] = times = self._alone_unread.get(alone, 0) + 1
        return alone if times >= CONVICT_AFTER else None

    async def send_alone(self, state: Sendings, key: Key, send: Callable[[], None]) -> None:
        """
        Send a result alone.  Returns when others may follow; where the link is lost before, ``state.alone`` stays.

        :param send: sends it.
        """
        while key in self._turned_away and (left := state.ready + TURNED_AWAY_FOR - self._clock.seconds()) > 0:
            await deferLater(self._clock, left)
        await state.link.probe()  # what went before is read: it is not to blame for what happens now
        state.read = state.last
        state.alone = key
        over: Deferred[None] = Deferred()
        state.alone_over = over
        send()
        call = self._clock.callLater(ALONE_FOR, state.end_alone)

        def was_read(_: None, last: int) -> None:
            state.read = max(state.read, last)
            # What others held against it is refuted, and a main server without receipts has it now.
            self._losses.pop(key, None)
            self._alone_unread.pop(key, None)
            self._read(state, last)
            if call.active():
                call.reset(min(AFTERMATH, call.getTime() - self._clock.seconds()))

        probe = state.link.probe()
        probe.addCallbacks(was_read, lambda _: None, callbackArgs=(state.last,))
        try:
            await over
        finally:
            probe.cancel()
            if call.active():
                call.cancel()
        if state.read >= state.last:
            self.clear(key)
        state.alone = None  # not where the link was lost meanwhile: `link_lost` has to know


def without_output(result: CommandResult, translate: Translate) -> CommandResult:
    """
    What goes out in the place of a result that breaks links.

    Its exit code stays: it may have arrived all the same, and a command that succeeded must not become one that failed.
    """
    error = Undeliverable(exit_code=result.exit_code)
    details = msgspec.structs.replace(
        result.details, error=result.details.error or describe_error(error), truncated=True, encoding=None
    )
    return msgspec.structs.replace(result, stdout="", stderr=error.text.within(translate), details=details)
