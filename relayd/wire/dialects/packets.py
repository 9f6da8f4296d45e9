"""
Socket.IO packets: python-socketio reads and writes them, and what it would let pass is checked here.

Source: the Socket.IO protocol document, revision 5 (socketio/socket.io-protocol).
"""

from __future__ import annotations

from typing import Any, Final

from socketio import packet as sio

from relayd.errors import ProtocolError
from relayd.language.texts import printable
from relayd.wire.dialects.codec import MAX_NAME, StrictJSON

#: The largest number that a JavaScript peer can have meant by an acknowledgement id.
MAX_ACK_ID: Final = 2**53
#: Characters of a connect error.
MAX_WORDS: Final = 2000

#: The types of packets that may have attachments.
_BINARY: Final = (sio.BINARY_EVENT, sio.BINARY_ACK)


class Packet(sio.Packet):  # type: ignore[misc]  # python-socketio carries no types
    """python-socketio's packet, with a stricter JSON."""

    json = StrictJSON

    @property
    def arguments(self) -> list[Any]:
        """
        What an event or an acknowledgement carries.

        :raises ProtocolError: when that is not an array.
        """
        if not isinstance(self.data, list):
            raise ProtocolError(reason="an event whose arguments are not an array")
        return self.data

    @property
    def is_binary(self) -> bool:
        """Whether it is of a type that may have attachments."""
        return self.packet_type in _BINARY

    @property
    def reason(self) -> str:
        """Why a disconnect packet leaves the namespace: python-socketio may put a connect error there."""
        words = "it disconnected the namespace"
        return words if self.data is None else f"{words}: {self.message}"

    @property
    def message(self) -> str:
        """The words of a connect error: ``{"message": …, "data": …}``, or, from older servers, the text alone."""
        data = self.data
        message, details = (data.get("message"), data.get("data")) if isinstance(data, dict) else (data, None)
        words = message if isinstance(message, str) and message else "without a reason"
        if details is not None:
            words += f" ({details if isinstance(details, str) else StrictJSON.dumps(details)})"
        return printable(words, MAX_WORDS)


def read_packet(text: str) -> Packet:
    """
    Read the Socket.IO packet in an Engine.IO message.

    :raises ProtocolError: when it is malformed, or breaks a limit.
    """
    if not text:  # python-socketio would take it for an event
        raise ProtocolError(reason="an empty Socket.IO packet")
    try:
        packet = Packet(encoded_packet=text)
    except ValueError:  # the number of a type, an id or an attachment count; ProtocolError passes through
        raise ProtocolError(reason="a malformed Socket.IO packet") from None
    if packet.packet_type > sio.BINARY_ACK:
        raise ProtocolError(reason="a Socket.IO packet of unknown type")
    if packet.attachment_count and not packet.is_binary:
        raise ProtocolError(reason="attachments on a packet that cannot have any")
    if packet.id is not None and packet.id > MAX_ACK_ID:
        raise ProtocolError(reason="an acknowledgement id beyond 53 bits")
    if len(packet.namespace or "") > MAX_NAME:
        raise ProtocolError(reason=f"a namespace of more than {MAX_NAME} characters")
    return packet
