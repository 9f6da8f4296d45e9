"""
Socket.IO packets as text: a type, the number of attachments, a namespace, an acknowledgement id, and JSON.

Source: the Socket.IO protocol document, revision 5 (socketio/socket.io-protocol). python-socketio reads and writes the
same, but importing it imports its clients too, and with them an HTTP library: a tenth of the time that a relay takes to
start.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import DecodeError, Struct

from relayd.errors import ProtocolError
from relayd.language.texts import printable
from relayd.wire.dialects.codec import MAX_NAME, MOST_UNCHECKED, PROXY_PATH, plain_decoder, read_json, write_json

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = range(7)

#: The largest number that a JavaScript peer can have meant by an acknowledgement id.
MAX_ACK_ID: Final = 2**53
#: Digits that a number of attachments, and an acknowledgement id, may have.
_COUNT_DIGITS: Final = 10
_ID_DIGITS: Final = len(str(MAX_ACK_ID))
#: Characters of a connect error.
MAX_WORDS: Final = 2000
#: The namespace of a packet that names none.
ROOT: Final = "/"

# No group can match what the one before it matches: reading takes time in proportion to the text, whatever it is.
_HEAD: Final = re.compile(r"([0-9])(?:([0-9]+)-)?(?:(/[^,]*),?)?([0-9]*)")
#: The head of an event in an Engine.IO message, before its array.
_PLAIN_EVENT: Final = re.compile(rf"4{EVENT}{re.escape(PROXY_PATH)},([0-9]*)(?=\[)")
#: The types of packets that may have attachments.
_BINARY: Final = (BINARY_EVENT, BINARY_ACK)


class Packet(Struct):
    """
    One Socket.IO packet.

    :ivar kind: its type, such as `EVENT`.
    :ivar data: what its JSON says; ``None`` without JSON.
    :ivar id: asks for an acknowledgement, or is one.
    :ivar attachment_count: how many binary messages follow that belong to it.
    """

    kind: int
    data: Any = None
    namespace: str = ROOT
    id: int | None = None
    attachment_count: int = 0

    def encode(self) -> str:
        """The text of a packet without attachments."""
        namespace = "" if self.namespace == ROOT else f"{self.namespace},"
        number = "" if self.id is None else self.id
        return f"{self.kind}{namespace}{number}{'' if self.data is None else write_json(self.data)}"

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
        return self.kind in _BINARY

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
            words += f" ({details if isinstance(details, str) else write_json(details)})"
        return printable(words, MAX_WORDS)


def read_packet(text: str) -> Packet:
    """
    Read the Socket.IO packet in an Engine.IO message.

    :raises ProtocolError: when it is malformed, or breaks a limit.
    """
    if not text:
        raise ProtocolError(reason="an empty Socket.IO packet")
    head = _HEAD.match(text)
    if head is None:
        raise ProtocolError(reason="a malformed Socket.IO packet")
    kind, count, namespace, number = head.groups()
    if len(count or "") > _COUNT_DIGITS or len(number) > _ID_DIGITS:
        raise ProtocolError(reason="a malformed Socket.IO packet")
    packet = Packet(
        kind=int(kind),
        namespace=namespace.partition("?")[0] if namespace else ROOT,
        id=int(number) if number else None,
        attachment_count=int(count or 0),
    )
    _check(packet)
    json = text[head.end() :]
    if json:
        packet.data = read_json(json)
    return packet


def plain_event(text: str) -> tuple[str, Any, int | None] | None:
    """
    Read a packet that is an event of the specification's namespace, written as nearly all are.

    :param text: an Engine.IO packet.
    :return: the event's name, its first argument, and the acknowledgement id. ``None``: it is something else, or wrong:
        then `read_packet` says so.
    """
    head = _PLAIN_EVENT.match(text)
    if head is None or len(text) > MOST_UNCHECKED:
        return None
    try:
        arguments = plain_decoder.decode(text[head.end() :])
    except (DecodeError, UnicodeError, RecursionError):
        return None
    name, number = arguments[0] if arguments else None, head[1]
    if not isinstance(name, str) or len(name) > MAX_NAME or len(number) >= _ID_DIGITS:
        return None
    return name, arguments[1] if len(arguments) > 1 else None, int(number) if number else None


def _check(packet: Packet) -> None:
    if packet.kind > BINARY_ACK:
        raise ProtocolError(reason="a Socket.IO packet of unknown type")
    if packet.attachment_count and not packet.is_binary:
        raise ProtocolError(reason="attachments on a packet that cannot have any")
    if packet.id is not None and packet.id > MAX_ACK_ID:
        raise ProtocolError(reason="an acknowledgement id beyond 53 bits")
    if len(packet.namespace) > MAX_NAME:
        raise ProtocolError(reason=f"a namespace of more than {MAX_NAME} characters")
