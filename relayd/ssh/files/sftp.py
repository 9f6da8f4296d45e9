"""
The channel on which a host serves SFTP, and the requests that are under way on it.

Source: RFC 4254, section 6.5; `relayd.ssh.files.packets` has the packets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred, fail

from relayd.language.texts import Text
from relayd.ssh.channels.channel import State, WithoutCommand
from relayd.ssh.files.packets import Answer, NotSFTP, Reader, Version, hello, request

_SUBSYSTEM: Final = NS(b"subsystem") + b"\1" + NS(b"sftp")


class NoSFTP(Exception):
    """The host serves no SFTP."""


class ChannelGone(Exception):
    """The channel has closed before all was answered."""


class SFTPChannel(WithoutCommand):
    """
    See `relayd.ssh.channels.channel.ChannelUser`.

    :param on_end: called once when the channel has closed.
    :ivar ready: fires with what the server says of itself; fails with `NoSFTP`, `NotSFTP` or `ChannelGone`.
    :ivar answered: whether the server has shown that it serves SFTP.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        super().__init__()
        self.ready: Deferred[Version] = Deferred()
        self.answered = False
        self._on_end = on_end
        self._reader = Reader()
        self._broken: Exception | None = None
        self._number = 0
        self._waiting: dict[int, Deferred[Answer]] = {}

    def ask(self, kind: int, *fields: bytes) -> Deferred[Answer]:
        """
        Send a request; fires with its answer.

        :return: fails with `NotSFTP` or `ChannelGone`.
        """
        if self._broken is not None:
            return fail(self._broken)
        self._number += 1
        answer: Deferred[Answer] = Deferred()
        self._waiting[self._number] = answer
        if self._connection is not None:
            self._connection.write(self, request(kind, self._number, *fields))
        return answer

    def finish(self) -> None:
        """No request follows: the server ends when it has done those that it has."""
        if self._connection is not None:
            self._connection.finish(self)

    def abandon(self) -> None:
        """Tell of no answer to what was asked so far; more may be asked."""
        if not self.ready.called:
            self._fail(ChannelGone())
            return
        waiting, self._waiting = self._waiting, {}
        for number, each in waiting.items():
            # Its answer may come yet.
            unheard = self._waiting[number] = Deferred()
            unheard.addErrback(lambda _: None)
            each.errback(ChannelGone())

    def opened(self) -> list[bytes]:
        """See `relayd.ssh.channels.channel.ChannelUser`, for this and the following methods."""
        self.state = State.RUNNING
        return [_SUBSYSTEM]

    def exec_answered(self, accepted: bool) -> bool:
        if accepted and self._connection is not None:
            self._connection.write(self, hello())
        return super().exec_answered(accepted)

    def received(self, data: bytes, is_stderr: bool) -> Deferred[None] | None:
        if is_stderr or self._broken is not None:
            return None
        try:
            for each in self._reader.feed(data):
                self._take(each)
        except NotSFTP as error:
            self._fail(error)
            if self._connection is not None:
                self._connection.close(self)
        return None

    def _take(self, each: Version | tuple[int, Answer]) -> None:
        if isinstance(each, Version):
            self.answered = True
            self.ready.callback(each)
            return
        number, answer = each
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            raise NotSFTP(Text("an answer to something that it was not asked"))
        waiting.callback(answer)

    def ended(self) -> None:
        # Where the connection was lost, the pool has said so already.
        self.state = State.ENDED
        self._connection = None
        self._fail(NoSFTP() if self._refused else ChannelGone())
        on_end, self._on_end = self._on_end, _nothing
        on_end()

    def let_go(self) -> None:
        """Its owner hears nothing of it any more."""
        self._on_end = _nothing

    def _fail(self, error: Exception) -> None:
        if self._broken is None:
            self._broken = error
        waiting, self._waiting = self._waiting, {}
        if not self.ready.called:
            self.ready.errback(error)
        for each in waiting.values():
            each.errback(error)


def _nothing() -> None:
    pass
