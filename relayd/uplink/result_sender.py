"""
Sends results, each cut to what the main server takes; long ones are encoded in a thread, and keep their place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from secrets import token_hex
from typing import Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.language.texts import Translate, english, without_surrogates
from relayd.uplink.cutting import Envelope, cut_to, encoded, envelope, fit, with_files_cut
from relayd.uplink.wire import Pieces
from relayd.wire.dialects.events import IDialect
from relayd.wire.messages import COMMAND_RESULT, CommandResult

_log = Logger("relayd.uplink")

#: Runs a function in another thread.
DeferToThread = Callable[..., Deferred[Any]]

#: Characters of output from which on a result is encoded in a thread.
LARGE: Final = 256 * 1024
#: Stand for the outputs while the rest of a result is encoded. Nothing of a peer's can hold them.
_STDOUT, _STDERR = token_hex(16), token_hex(16)

#: JSON in pieces.
_Json = list[bytes | memoryview]


class ResultSender:
    """
    The results of one connection.

    :param limit: gives the bytes that a frame may have at this moment.
    :param send_frame: sends the frame of a result.
    :param translate: to the language of the mark where output was cut.
    """

    def __init__(
        self,
        dialect: IDialect,
        defer_to_thread: DeferToThread,
        limit: Callable[[], int],
        send_frame: Callable[[bytes | Pieces], None],
        translate: Translate = english,
    ) -> None:
        self._dialect = dialect
        self._send_frame = send_frame
        self._defer_to_thread = defer_to_thread
        self._limit = limit
        self._translate = translate
        self._waiting: deque[CommandResult | Callable[[], None]] = deque()
        self._idle: list[Deferred[None]] = []
        self._preparing: Deferred[Any] | None = None
        self._ended = False

    def send_result(self, result: CommandResult) -> None:
        """Send *result*, after those before it."""
        if self._preparing is None and not _is_large(result):
            self._send_frame(self._small(result))
        else:
            self._waiting.append(result)
            self._send_waiting()

    def after_results(self, step: Callable[[], None]) -> None:
        """Take *step* when all results so far have been sent."""
        if self._preparing is None:
            step()
        else:
            self._waiting.append(step)

    @property
    def busy(self) -> bool:
        """Whether a result is being encoded: later ones would wait here, and should rather wait where they are."""
        return self._preparing is not None

    def when_idle(self) -> Deferred[None]:
        """A Deferred that fires when no result is being encoded, or the connection is over. It may be cancelled."""
        idle: Deferred[None] = Deferred(self._idle.remove)
        self._idle.append(idle)
        return idle

    def end(self) -> None:
        """The connection is over: results that wait are dropped here."""
        self._ended = True
        self._waiting.clear()
        self._tell_idle()

    def _tell_idle(self) -> None:
        while self._idle and (self._ended or not self.busy):
            self._idle.pop(0).callback(None)

    def _send_waiting(self) -> None:
        while self._waiting and self._preparing is None:
            following = self._waiting.popleft()
            if not isinstance(following, CommandResult):
                following()
            elif _is_large(following):
                self._prepare(following)
            else:
                self._send_frame(self._small(following))

    def _small(self, result: CommandResult) -> bytes:
        try:
            frame = self._frame(result)
        except UnicodeEncodeError:  # half a surrogate pair, from a text that was not decoded strictly
            result = _whole_characters(result)
            frame = self._frame(result)
        limit = self._limit()
        if len(frame) <= limit:
            return frame
        cut = fit(result, self._measure, limit, self._translate)
        self._warn(result, limit)
        return self._frame(cut)

    def _prepare(self, result: CommandResult) -> None:
        limit = self._limit()
        whole, result = result, with_files_cut(result, self._measure, limit)
        work = partial(_ready, result, envelope(result, self._measure, limit), limit, self._translate)
        preparing: Deferred[Any] = maybeDeferred(self._defer_to_thread, work)
        self._preparing = preparing
        preparing.addCallback(self._prepared, result, limit, files_cut=whole is not result)
        preparing.addErrback(self._failed, result)
        preparing.addCallback(self._done)

    def _prepared(
        self, ready: tuple[CommandResult, _Json, _Json], result: CommandResult, limit: int, *, files_cut: bool
    ) -> None:
        cut, stdout, stderr = ready
        if self._ended:
            return
        if files_cut or (cut.details.truncated and not result.details.truncated):
            self._warn(result, limit)
        self._send_frame(self._in_pieces(cut, stdout, stderr))

    def _failed(self, failure: Failure, result: CommandResult) -> None:
        if failure.check(CancelledError):
            failure.raiseException()
        _log.failure("Internal error: the result of {id} could not be sent", failure, id=result.command_id)

    def _done(self, _: object) -> None:
        self._preparing = None
        self._send_waiting()
        self._tell_idle()

    def _measure(self, result: CommandResult) -> int:
        return len(self._frame(result))

    def _frame(self, result: CommandResult) -> bytes:
        return self._dialect.event_frame(COMMAND_RESULT, result.to_wire())

    def _in_pieces(self, result: CommandResult, stdout: _Json, stderr: _Json) -> Pieces:
        """The frame of *result*, around the JSON of its outputs."""
        frame = self._frame(msgspec.structs.replace(result, stdout=_STDOUT, stderr=_STDERR))
        before, _, rest = frame.partition(b'"%b"' % _STDOUT.encode())
        between, _, after = rest.partition(b'"%b"' % _STDERR.encode())
        return Pieces([before, *stdout, between, *stderr, after])

    def _warn(self, result: CommandResult, limit: int) -> None:
        _log.warn(
            "The output of {command_id} is larger than the {limit} bytes that the link takes; some of it is cut",
            command_id=result.command_id,
            limit=limit,
        )


def _is_large(result: CommandResult) -> bool:
    return result.length > LARGE


def _ready(
    result: CommandResult, around: Envelope, limit: int, translate: Translate
) -> tuple[CommandResult, _Json, _Json]:
    """What of *result* fits, and its outputs as JSON."""
    try:
        cut = cut_to(result, around, limit, translate)
        return cut, encoded(cut.stdout), encoded(cut.stderr)
    except UnicodeEncodeError:
        return _ready(_whole_characters(result), around, limit, translate)


def _whole_characters(result: CommandResult) -> CommandResult:
    return msgspec.structs.replace(
        result, stdout=without_surrogates(result.stdout), stderr=without_surrogates(result.stderr)
    )
