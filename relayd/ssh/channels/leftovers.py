"""
Notices commands that have ended though their channels stay open: something that they left running holds their output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.ssh.channels.channel import Channel
from relayd.ssh.channels.session import Session

#: Seconds without output after which the end of a command that has a status counts as its end.
LEFT_AFTER = 2.0
#: Seconds between two looks. One timer serves a whole connection, and runs only while commands end.
LOOK_AFTER = 1.0


class Leftovers:
    """
    The watch over the commands of one connection.

    :param executing: its commands; the connection keeps this up to date.
    :param probe: asks the server for an answer.
    :param held: says whether something that has arrived waits to be read.
    :ivar answered: whether an answer came since the last look; set by the connection.
    """

    __slots__ = ("_call", "_clock", "_executing", "_held", "_known", "_probe", "answered")

    def __init__(
        self,
        clock: IReactorTime,
        executing: Mapping[Session, Channel],
        probe: Callable[[], None],
        held: Callable[[], bool],
    ) -> None:
        self.answered = False
        self._clock = clock
        self._executing = executing
        self._probe = probe
        self._held = held
        # The bytes that had come of each, and since when no more
        self._known: dict[Session, tuple[int, float]] = {}
        self._call: IDelayedCall | None = None

    def expect(self) -> None:
        """A command has a status: its channel should close soon."""
        if self._call is None:
            self._call = self._clock.callLater(LOOK_AFTER, self._look)

    def stop(self) -> None:
        """The connection is gone."""
        self._known.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self._call = None
        now, before, answered = self._clock.seconds(), self._known, self.answered
        self._known, self.answered = {}, False
        for session, channel in list(self._executing.items()):
            if not session.exit.known or channel.close_sent:
                continue
            arrived = session.stdout.total + session.stderr.total
            seen, since = before.get(session, (-1, now))
            if arrived != seen or channel.unread or self._held():
                since = now  # more may have arrived already: a slow reader holds it back, not the server
            # An answer proves that nothing sent before it is still on its way, however slow the network is.
            if answered and now - since >= LEFT_AFTER:
                session.left(channel.eof)
            else:
                self._known[session] = (arrived, since)
        if self._known:
            self._probe()
            self.expect()
