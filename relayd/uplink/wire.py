"""
The wire of a connection, which sends and receives its messages: a WebSocket (`relayd.uplink.websocket`), or Engine.IO's
HTTP long-polling (`relayd.uplink.polling.client`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from relayd.errors import ProtocolError
from relayd.network.flow import Flow
from relayd.uplink.answers import HttpResponse


class Pieces:
    """
    A long text message in pieces, in UTF-8. Nobody joins them for nothing: with many megabytes, that alone holds up the
    event loop.
    """

    __slots__ = ("_size", "pieces")

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        self.pieces = pieces
        self._size = sum(map(len, pieces))

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


class WireListener(Protocol):
    """Hears what happens to a wire. In this order, each at most once except for those about messages."""

    def on_secured(self) -> None:
        """TLS is up and the main server's certificate is verified, or there is no TLS."""

    def on_upgrade_refused(self, response: HttpResponse) -> None:
        """The response to the HTTP request opens nothing."""

    def on_upgraded(self) -> None:
        """Messages can be sent and received."""

    def on_heard(self) -> None:
        """The peer gave a sign of life: a whole frame of any kind, or a good part of a large one."""

    def on_pong(self, payload: bytes) -> None:
        """The peer answered a ping, with its payload."""

    def on_full(self) -> None:
        """More was sent than the peer has taken."""

    def on_taken(self) -> None:
        """The peer has taken some of it."""

    def on_deaf(self, on: bool) -> None:
        """The wire reads nothing (*on*) because the peer does not take its answers, or it reads again."""

    def on_text(self, text: str) -> None:
        """A text message came."""

    def on_binary(self, data: bytes) -> None:
        """A binary message came."""

    def on_broken(self, error: ProtocolError) -> None:
        """The peer breaks the rules of the wire: nothing more is read, and the connection should be closed."""

    def on_close_received(self, code: int | None, reason: str) -> None:
        """The peer begins the closing handshake, or answers ours."""

    def on_closed(self, error: BaseException) -> None:
        """TCP is gone: always called, and last."""


class SessionListener(WireListener, Protocol):
    """Hears what happens to a wire, and to an Engine.IO session that may move to another one."""

    def on_too_large(self, reason: str) -> None:
        """The main server refused a message as too large, with *reason*; the session is lost."""

    def on_moved(self, wire: Wire) -> None:
        """The session goes on over *wire*."""


class Wire(Protocol):
    """
    Sends and receives the messages of one connection.

    :ivar flow: tells whether more can be sent.
    """

    flow: Flow

    def report_to(self, listener: SessionListener) -> None:
        """Tell *listener* what happens from now on."""

    def send_text(self, payload: bytes | Pieces) -> None:
        """Send one text message, where the wire still takes any."""

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping; the answer comes as `WireListener.on_pong`."""

    def hold(self, on: bool) -> None:
        """Stop reading, or read again."""

    def close(self, code: int) -> None:
        """Close politely, in a WebSocket with *code*."""

    def abort(self) -> None:
        """Drop the connection."""


class ReadPause:
    """
    Whether a wire reads: not while its messages wait to be handled, and not while the peer does not take its answers.

    :param apply: called with whether reading is paused, each time that this changes.
    :ivar paused: whether reading is paused.
    :ivar held: whether it is, because messages wait to be handled.
    """

    def __init__(self, apply: Callable[[bool], None]) -> None:
        self.paused = False
        self.held = False
        self._apply = apply
        self._behind = False

    def hold(self, on: bool) -> None:
        """Messages wait to be handled (*on*), or none do."""
        self.held = on
        self._update()

    def fall_behind(self, on: bool) -> None:
        """The peer leaves too many answers (*on*), or has taken them."""
        self._behind = on
        self._update()

    def _update(self) -> None:
        paused = self.held or self._behind
        if paused != self.paused:
            self.paused = paused
            self._apply(paused)


class _Nobody:
    """A listener that ignores everything."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return self._ignore

    @staticmethod
    def _ignore(*args: object) -> None:
        """Do nothing."""


#: Whom a wire reports to before its connection exists, and after its session has ended or moved.
NOBODY: Final[Any] = _Nobody()
