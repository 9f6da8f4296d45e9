"""
What a dialect of the uplink does (`IDialect`), and the events that it gives its caller; they are the same in each.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from zope.interface import Attribute, Interface


class HandshakeReceived(Struct, frozen=True):
    """
    The main server described the connection.

    :ivar heartbeat: seconds of silence after which the link is dead; ``None``: only WebSocket pings can show that.
    """

    heartbeat: float | None


class Connected(Struct, frozen=True):
    """
    Events can flow.  Main servers check the key only after this, so it does not prove that the relay is accepted.
    """


class EventReceived(Struct, frozen=True):
    """
    The peer sent an event.

    :ivar data: the first argument, decoded from JSON; ``None`` without one.  A dialect with binary messages puts bytes
        into it, or `relayd.wire.unsent.Unsent` in their place.
    :ivar ack_id: the number with which the peer wants `IDialect.acknowledge` called; ``None``: it wants none.
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
    An event came whose attachments are still to come.

    :ivar number: of that event, for `IDialect.abandon`.
    """

    number: int


class Broken(Struct, frozen=True):
    """
    After the events before this one, the peer breaks the rules: close the connection, as for a `ProtocolError`.
    """

    reason: str


class HeartbeatReceived(Struct, frozen=True):
    """The peer is alive."""


class Disconnected(Struct, frozen=True):
    """
    The peer ends the conversation with a message of the dialect.

    :ivar refused: whether it turned this end away, rather than closed.
    """

    reason: str
    refused: bool


class Ignored(Struct, frozen=True):
    """
    The peer sent something that relayd does not use: for another namespace, or a text that is not an event.

    :ivar what: one of a few texts, none of which comes from the peer.
    :ivar strange: whether to log it once, since it may be meant for relayd.
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
    The codec that frames the events of one uplink connection, without I/O.

    Both ends have one: the *relay* opens the WebSocket, the *main server* accepts it.  After each call the caller sends
    what `frames_to_send` gives.
    """

    name: str = Attribute("``socketio`` or ``native``.")
    max_payload: int = Attribute("The largest text frame, in bytes, that the peer takes; huge where no limit is known.")

    def opened() -> Sequence[DialectEvent]:
        """
        The WebSocket is open.

        :return: the events that this brings about.
        """

    def receive_text(text: str) -> Sequence[DialectEvent]:
        """
        Read one text message.

        :raises ProtocolError: when it breaks the rules: close the connection.
        """

    def receive_binary(data: bytes) -> Sequence[DialectEvent]:
        """
        Read one binary message: a part of an event, or an event, depending on the dialect.

        :raises ProtocolError: when it breaks the rules: close the connection.
        """

    def abandon(number: int) -> Sequence[DialectEvent]:
        """
        Wait no longer for the attachments of the event *number* (`AttachmentsDue`).

        :return: the event as far as it came; nothing if it is complete.
        """

    def send_event(name: str, data: object) -> None:
        """Queue one event for the peer."""

    def event_frame(name: str, data: object) -> bytes:
        """The text message, in UTF-8, that `send_event` would queue."""

    def acknowledge(ack_id: int, data: object | None) -> None:
        """Queue the answer to an event that asked for one (`EventReceived.ack_id`); ``None`` is an empty answer."""

    def ping() -> None:
        """Queue a heartbeat, in a dialect in which this end sends it."""

    def close() -> None:
        """Queue the message that ends the conversation, in a dialect that has one."""

    def frames_to_send() -> list[str]:
        """The text messages queued since the last call, in order."""
