"""
What a dialect of the uplink does (`IDialect`), and the events that it gives its caller, whichever dialect it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from zope.interface import Attribute, Interface


class HandshakeReceived(Struct, frozen=True):
    """
    The main server described the connection.

    :ivar heartbeat: seconds of silence after which the link is dead; ``None``: the WebSocket's own pings tell.
    """

    heartbeat: float | None


class Connected(Struct, frozen=True):
    """
    Events can flow.  Main servers check the key only after this, so it is no proof of having been accepted.
    """


class EventReceived(Struct, frozen=True):
    """
    The peer sent an event.

    :ivar data: decoded JSON: the first argument, ``None`` where there is none.  Where the wire has bytes too, these are
        in it, or `relayd.wire.messages.Unsent` in their place.
    :ivar ack_id: the peer wants `IDialect.acknowledge` called with this number.
    """

    name: str
    data: object
    ack_id: int | None = None

    def __repr__(self) -> str:  # the data of a command holds secrets
        return f"<EventReceived {self.name!r} ack_id={self.ack_id}>"


class AckReceived(Struct, frozen=True):
    """The peer acknowledged our event number *ack_id*; *data* is its first argument."""

    ack_id: int
    data: object


class AttachmentsDue(Struct, frozen=True):
    """
    An event came whose bytes are to follow.

    :ivar number: of that event, for `IDialect.abandon`.
    """

    number: int


class Broken(Struct, frozen=True):
    """
    After what was told before, the peer breaks the rules: the connection should be closed, as for a `ProtocolError`.
    """

    reason: str


class HeartbeatReceived(Struct, frozen=True):
    """The peer is alive."""


class Disconnected(Struct, frozen=True):
    """
    The peer ends the conversation, and says so in the dialect's own terms.

    :ivar refused: whether it turned us away rather than closed.
    """

    reason: str
    refused: bool


class Ignored(Struct, frozen=True):
    """
    Something that relayd has no use for: another namespace, a text that is no event.

    :ivar what: one of a few texts, none of which the peer has made.
    :ivar strange: whether an operator should hear of it once: it may be meant for relayd.
    """

    what: str
    strange: bool = False


DialectEvent = (
    HandshakeReceived
    | Connected
    | EventReceived
    | AckReceived
    | AttachmentsDue
    | Broken
    | HeartbeatReceived
    | Disconnected
    | Ignored
)


class IDialect(Interface):
    """
    How events are framed on one uplink connection: a codec with no I/O, made new for each connection.

    Both roles share it: the *relay* opens the WebSocket, the *main server* accepts it.  After each call the caller
    writes what `frames_to_send` gives.
    """

    name: str = Attribute("``socketio`` or ``native``.")
    max_payload: int = Attribute("The largest text frame, in bytes, that the peer takes; huge where no limit is known.")

    def opened() -> Sequence[DialectEvent]:
        """
        The WebSocket is open.

        :return: what that means already.
        """

    def receive_text(text: str) -> Sequence[DialectEvent]:
        """
        One text message arrived.

        :raises ProtocolError: when it means nothing; the connection should be closed.
        """

    def receive_binary(data: bytes) -> Sequence[DialectEvent]:
        """
        One binary message arrived: a part of an event, or an event, as suits the wire.

        :raises ProtocolError: when the connection should be closed for it.
        """

    def abandon(number: int) -> Sequence[DialectEvent]:
        """
        What was to follow the event *number* (`AttachmentsDue`) has not come in time.

        :return: the event as far as it came; nothing where it is complete.
        """

    def send_event(name: str, data: object) -> None:
        """Queue one event for the peer."""

    def acknowledge(ack_id: int, data: object | None) -> None:
        """Queue the answer to an event that asked for one (`EventReceived.ack_id`); ``None`` is an empty answer."""

    def ping() -> None:
        """Queue a heartbeat, where it is ours to send; otherwise nothing."""

    def close() -> None:
        """Queue a polite good-bye, where the wire has one."""

    def frames_to_send() -> list[str]:
        """The text messages queued since the last call, in order."""
