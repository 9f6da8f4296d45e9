"""
The Socket.IO dialect: Socket.IO protocol 5 inside Engine.IO protocol 4, over a WebSocket from the first byte.

Sources: the Engine.IO and Socket.IO protocol documents (socketio/engine.io-protocol, socketio/socket.io-protocol).  The
Socket.IO packets are read and written by python-socketio; the Engine.IO layer is one leading digit, handled here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from itertools import count
from typing import Any, Final

import msgspec
from socketio import packet as sio
from zope.interface import implementer

from relayd.errors import ProtocolError
from relayd.language.texts import printable
from relayd.wire.dialects.attachments import Attachments
from relayd.wire.dialects.codec import MAX_NAME, NO_LIMIT, PROXY_PATH, Outbox, StrictJSON, websocket_url
from relayd.wire.dialects.events import (
    AckReceived,
    AttachmentsDue,
    Broken,
    Connected,
    DialectEvent,
    Disconnected,
    EventReceived,
    HandshakeReceived,
    HeartbeatReceived,
    IDialect,
    Ignored,
)

NAME: Final = "socketio"
NAMESPACE: Final = PROXY_PATH

#: Engine.IO's transports.
WEBSOCKET: Final = "websocket"
POLLING: Final = "polling"

#: ``maxPayload`` of a main server that does not say: engine.io's default ``maxHttpBufferSize``.
DEFAULT_MAX_PAYLOAD: Final = 1_000_000
#: Longest silence that a main server may ask us to put up with, in seconds.
MAX_HEARTBEAT: Final = 86_400.0
#: Most attachments that python-socketio reads of a packet.
_MOST_ANNOUNCED: Final = 10**9
#: Largest number that a JavaScript peer can have meant by an acknowledgement id.
MAX_ACK_ID: Final = 2**53

#: Characters of a connect error.
MAX_WORDS: Final = 2000
#: Characters of an open packet.
MAX_OPEN: Final = 16 * 1024
#: Events that may come before the namespace's CONNECT answer, and the size of their packets, in characters; a single
#: one may be larger.
MAX_EARLY: Final = 100
MAX_EARLY_SIZE: Final = 1 << 20

#: Parameters of Engine.IO that a new session has none of, or that are made for each request.
_OF_SESSIONS: Final = ("sid", "t")

_OPEN, _CLOSE, _PING, _PONG, _MESSAGE, _UPGRADE, _NOOP = "0123456"


def url(server: str, proxy_id: str, api_key: str, transport: str = WEBSOCKET, **more: str) -> str:
    """
    The URL to dial, straight to the websocket transport. It holds the key: log the server's URL instead.

    :param transport: another of Engine.IO's.
    :param more: parameters of a session.
    :raises ConfigError: when *server* is no http(s) or ws(s) URL.
    """
    parameters = {"EIO": "4", "transport": transport, "proxyId": proxy_id, "apiKey": api_key} | more
    return websocket_url(server, "/socket.io/", parameters, _OF_SESSIONS)


class _Packet(sio.Packet):  # type: ignore[misc]  # python-socketio carries no types
    json = StrictJSON


class Open(msgspec.Struct, rename="camel"):
    """
    The payload of Engine.IO's open packet. Times in milliseconds, the size in bytes; ``null`` is JavaScript's Infinity.
    """

    sid: str
    ping_interval: float
    ping_timeout: float
    max_payload: int | float | None = DEFAULT_MAX_PAYLOAD
    upgrades: list[str] = []


#: How an answer to polling begins in Engine.IO 3: a length, and the open packet.
_OPEN_BEFORE: Final = re.compile(r"[0-9]{1,9}:0\{")

_open_decoder = msgspec.json.Decoder(Open)


def read_open(packet: str) -> Open:
    """
    :param packet: the first of a session.
    :raises ProtocolError: when it is no open packet.
    """
    if _OPEN_BEFORE.match(packet):
        raise ProtocolError(reason="it speaks Engine.IO 3, as Socket.IO 2 servers do, and relayd speaks Engine.IO 4")
    if packet[:1] != _OPEN:
        raise ProtocolError(reason="the first packet is no Engine.IO open packet")
    if len(packet) > 1 + MAX_OPEN:
        raise ProtocolError(reason=f"an open packet of more than {MAX_OPEN} characters")
    handshake: Open = StrictJSON.loads(packet[1:], _open_decoder)
    return handshake


class _Stage(Enum):
    OPENING = auto()  # no Engine.IO open packet yet
    JOINING = auto()  # Engine.IO is open, the namespace is not
    JOINED = auto()  # events flow
    OVER = auto()  # one side said good-bye: what still arrives means nothing


class SocketIODialect(Outbox):
    """What both roles do alike: events, acknowledgements, good-byes, and the guards on all of them."""

    name = NAME
    max_payload = NO_LIMIT

    def __init__(self) -> None:
        super().__init__()
        self._stage = _Stage.OPENING
        #: The binary event whose attachments are to come; and binary messages to come that nobody wants any more.
        self._incomplete: Attachments | None = None
        self._unwanted = 0
        self._binary_events = count()
        self._number = -1

    def receive_text(self, text: str) -> Sequence[DialectEvent]:
        """
        One text message: an Engine.IO packet.

        :raises ProtocolError: when it means nothing, or nothing at this stage.
        """
        if self._stage is _Stage.JOINED:
            return self._packet(text)
        if self._stage is _Stage.OVER:
            return (Ignored("a packet after the good-bye"),)
        if self._stage is _Stage.OPENING:
            return self._engine_open(text)
        return self._early(self._packet(text), len(text))

    def _packet(self, text: str) -> Sequence[DialectEvent]:
        kind = text[:1]
        if kind == _MESSAGE:
            if self._incomplete is None:
                return self._message(text[1:])
            # No more attachments will come: the event is told as far as it came, so that it is not left unanswered.
            return (*self._give_up(self._incomplete), *self._message_or_break(text[1:]))
        if kind == _PING:
            self._frames.append(_PONG + ("probe" if text[1:] == "probe" else ""))
            return (HeartbeatReceived(),)
        if kind == _PONG:
            return (HeartbeatReceived(),)
        if kind in (_UPGRADE, _NOOP):
            return (Ignored("an Engine.IO upgrade or noop packet"),)
        if kind == _CLOSE:
            cut_off = () if self._incomplete is None else self._give_up(self._incomplete)
            self._stage = _Stage.OVER
            return (*cut_off, Disconnected("it closed the Engine.IO session", refused=False))
        raise ProtocolError(reason="an Engine.IO packet of unknown type")

    def receive_binary(self, data: bytes) -> Sequence[DialectEvent]:
        """
        One binary message: the next attachment of the binary event before it.

        :raises ProtocolError: when none was announced.
        """
        if self._stage is _Stage.OVER:
            return (Ignored("a packet after the good-bye"),)
        event = self._incomplete
        if event is not None and self._stage is _Stage.JOINING:
            return self._early(self._attachment(data), event.size)
        return self._attachment(data)

    def _attachment(self, data: bytes) -> Sequence[DialectEvent]:
        event = self._incomplete
        if event is None:
            if not self._unwanted:
                raise ProtocolError(reason="a binary message that no packet announced")
            self._unwanted -= 1
            return (Ignored("a binary attachment"),)
        event.add(data)
        if event.hopeless:
            return self._give_up(event)
        return () if event.missing else self._complete(event)

    def abandon(self, number: int) -> Sequence[DialectEvent]:
        """See `IDialect.abandon`."""
        if self._incomplete is None or number != self._number or self._stage is _Stage.OVER:
            return ()
        size, events = self._incomplete.size, self._give_up(self._incomplete)
        return self._early(events, size) if self._stage is _Stage.JOINING else events

    def _give_up(self, event: Attachments) -> Sequence[DialectEvent]:
        """Tell *event* as far as it came; what still comes for it is dropped."""
        self._unwanted = event.missing
        return self._complete(event)

    def _complete(self, event: Attachments) -> Sequence[DialectEvent]:
        self._incomplete = None
        event.complete()
        return self._event(event.packet)

    def _message_or_break(self, text: str) -> Sequence[DialectEvent]:
        try:
            return self._message(text)
        except ProtocolError as error:
            return (Broken(str(error.fields["reason"])),)

    def send_event(self, name: str, data: object) -> None:
        """Queue one event for the peer."""
        self._send(sio.EVENT, [name, data])

    def acknowledge(self, ack_id: int, data: object | None) -> None:
        """Queue the answer to an event that asked for one; ``None`` is an empty answer."""
        self._send(sio.ACK, [] if data is None else [data], ack_id)

    def close(self) -> None:
        """Queue the disconnect packet, where there is a namespace to leave."""
        if self._stage is _Stage.JOINED:
            self._send(sio.DISCONNECT)
        self._stage = _Stage.OVER

    def _send(self, kind: int, data: object = None, packet_id: int | None = None, namespace: str = NAMESPACE) -> None:
        # binary=False: python-socketio would search all of the data for bytes, which JSON cannot hold anyway
        packet = _Packet(kind, data, namespace, packet_id, binary=False)
        self._frames.append(_MESSAGE + packet.encode())

    # Engine.IO's open packet, Socket.IO's CONNECT, and what comes before that, mean different things to the two roles

    def _early(self, events: Sequence[DialectEvent], size: int) -> Sequence[DialectEvent]:
        """What came while the namespace was not joined, perhaps to join it, in a message of *size*."""
        if any(isinstance(event, EventReceived | AckReceived) for event in events):
            raise ProtocolError(reason="an event before the namespace was joined")
        return events

    def _engine_open(self, packet: str) -> Sequence[DialectEvent]:
        raise NotImplementedError

    def _connect(self, packet: _Packet) -> Sequence[DialectEvent]:
        raise NotImplementedError

    def _foreign(self, packet: _Packet) -> Sequence[DialectEvent]:
        """A packet of another namespace."""
        return (Ignored("a packet of another namespace"),)

    def _message(self, text: str) -> Sequence[DialectEvent]:
        if not text:  # python-socketio would take it for an event
            raise ProtocolError(reason="an empty Socket.IO packet")
        try:
            packet = _Packet(encoded_packet=text)
        except ValueError:  # the number of a type, an id or an attachment count; ProtocolError passes through
            raise ProtocolError(reason="a malformed Socket.IO packet") from None
        kind = packet.packet_type
        if kind > sio.BINARY_ACK:
            raise ProtocolError(reason="a Socket.IO packet of unknown type")
        binary = kind in (sio.BINARY_EVENT, sio.BINARY_ACK)
        if packet.attachment_count and not binary:
            raise ProtocolError(reason="attachments on a packet that cannot have any")
        if packet.id is not None and packet.id > MAX_ACK_ID:
            raise ProtocolError(reason="an acknowledgement id beyond 53 bits")
        if len(packet.namespace or "") > MAX_NAME:
            raise ProtocolError(reason=f"a namespace of more than {MAX_NAME} characters")
        if binary and packet.attachment_count:
            return self._with_attachments(packet)
        if packet.namespace != NAMESPACE:
            return self._foreign(packet)
        if kind in (sio.EVENT, sio.BINARY_EVENT):
            return self._event(packet)
        if kind == sio.CONNECT:
            return self._connect(packet)
        if kind == sio.ACK:
            return self._ack(packet)
        if kind == sio.DISCONNECT:
            self._stage = _Stage.OVER
            return (Disconnected(_reason_of(packet.data), refused=False),)
        if kind == sio.CONNECT_ERROR:
            self._stage = _Stage.OVER
            return (Disconnected(_message_of(packet.data), refused=True),)
        return (Ignored("a binary acknowledgement"),)

    def _with_attachments(self, packet: _Packet) -> Sequence[DialectEvent]:
        wanted = packet.namespace == NAMESPACE and packet.packet_type == sio.BINARY_EVENT
        # Nobody could tell the attachments of two events apart.
        late, self._unwanted = self._unwanted, min(self._unwanted + packet.attachment_count, _MOST_ANNOUNCED)
        if not wanted:
            return (Ignored("a binary packet that is no event for the relay"),)
        self._arguments(packet)
        event = Attachments(packet, packet.attachment_count)
        if late:
            event.complete()
            reason = "a binary event before all attachments of the one before it"
            return (*self._event(packet), Broken(reason))
        self._unwanted = 0
        if event.hopeless:
            return self._give_up(event)
        self._incomplete, self._number = event, next(self._binary_events)
        return (AttachmentsDue(self._number),)

    def _event(self, packet: _Packet) -> Sequence[DialectEvent]:
        arguments = self._arguments(packet)
        if not arguments:
            raise ProtocolError(reason="an event without a name")
        name = arguments[0]
        if not isinstance(name, str):
            return (Ignored("an event whose name is no string"),)
        if len(name) > MAX_NAME:
            return (Ignored(f"an event whose name has more than {MAX_NAME} characters"),)
        return (EventReceived(name, arguments[1] if len(arguments) > 1 else None, packet.id),)

    def _ack(self, packet: _Packet) -> Sequence[DialectEvent]:
        arguments = self._arguments(packet)
        if packet.id is None:
            raise ProtocolError(reason="an acknowledgement without an id")
        return (AckReceived(packet.id, arguments[0] if arguments else None),)

    def _arguments(self, packet: _Packet) -> list[Any]:
        if not isinstance(packet.data, list):
            raise ProtocolError(reason="an event whose arguments are no array")
        return packet.data


@implementer(IDialect)
class RelayDialect(SocketIODialect):
    """
    The role that dials.

    :param auth: says what to show in CONNECT, beside the query of the URL: some servers look here, and some there. It
        is asked when the packet is sent; nothing is shown where it says nothing.
    """

    max_payload = DEFAULT_MAX_PAYLOAD

    def __init__(self, auth: Callable[[], Mapping[str, str]] = dict) -> None:
        super().__init__()
        self._auth = auth
        #: Events that came before the namespace was joined, and the size of their packets.
        self._kept: list[DialectEvent] = []
        self._kept_size = 0

    def opened(self) -> Sequence[DialectEvent]:
        """Nothing yet: the main server speaks first."""
        return ()

    def ping(self) -> None:
        """Nothing: in Engine.IO 4 the main server pings."""

    def _engine_open(self, packet: str) -> Sequence[DialectEvent]:
        handshake = read_open(packet)
        heartbeat = (handshake.ping_interval + handshake.ping_timeout) / 1000
        if handshake.ping_interval <= 0 or handshake.ping_timeout < 0 or heartbeat > MAX_HEARTBEAT:
            raise ProtocolError(reason="an open packet with an impossible pingInterval or pingTimeout")
        max_payload = handshake.max_payload or NO_LIMIT  # 0 is none to the WebSockets of engine.io
        if max_payload < 0:
            raise ProtocolError(reason="an open packet with an impossible maxPayload")
        self.max_payload = int(min(max_payload, NO_LIMIT))
        self._stage = _Stage.JOINING
        self._send(sio.CONNECT, self._auth() or None)
        return (HandshakeReceived(heartbeat),)

    def _connect(self, packet: _Packet) -> Sequence[DialectEvent]:
        if self._stage is _Stage.JOINED:
            return (Ignored("a second answer to CONNECT"),)
        if not isinstance(packet.data, dict) or not isinstance(packet.data.get("sid"), str):
            raise ProtocolError(reason="an answer to CONNECT without a sid: it may be a Socket.IO 2 server")
        self._stage = _Stage.JOINED
        kept, self._kept = self._kept, []
        return (Connected(), *kept)

    def _early(self, events: Sequence[DialectEvent], size: int) -> Sequence[DialectEvent]:
        """
        Keep events until the namespace is joined, as socket.io-client does: python-socketio, and so Flask-SocketIO,
        sends what its connect handler emits before the answer to CONNECT.
        """
        if self._stage is not _Stage.JOINING:  # this packet has changed that; an event before it was not complete
            return tuple(sorted(events, key=lambda event: not isinstance(event, Connected)))
        if not any(isinstance(event, EventReceived) for event in events):
            return super()._early(events, size)
        self._kept += events
        self._kept_size += size
        if len(self._kept) > 1 and (len(self._kept) > MAX_EARLY or self._kept_size > MAX_EARLY_SIZE):
            raise ProtocolError(reason="too many events before the namespace was joined")
        return (Ignored("an event before the namespace was joined: it is kept until then"),)


@implementer(IDialect)
class ServerDialect(SocketIODialect):
    """
    The role that is dialled.

    :param ping_interval: seconds between two calls of `ping` by the caller.
    :param ping_timeout: seconds that the relay has to answer one.
    :param accepts: bytes in the largest message that the caller takes.
    """

    def __init__(
        self, *, ping_interval: float = 25.0, ping_timeout: float = 20.0, accepts: int = DEFAULT_MAX_PAYLOAD
    ) -> None:
        super().__init__()
        self._open = Open(
            sid=_new_sid(), ping_interval=ping_interval * 1000, ping_timeout=ping_timeout * 1000, max_payload=accepts
        )
        self._ack_ids = count()
        self._refusal: str | None = None

    def opened(self) -> Sequence[DialectEvent]:
        """Queue the open packet."""
        self._stage = _Stage.JOINING
        self._frames.append(_OPEN + StrictJSON.dumps(self._open))
        return (HandshakeReceived((self._open.ping_interval + self._open.ping_timeout) / 1000),)

    def ping(self) -> None:
        """Queue a heartbeat."""
        self._frames.append(_PING)

    def request(self, name: str, data: object) -> int | None:
        """
        Queue an event that asks for an acknowledgement.

        :return: its number, which `AckReceived` will carry.
        """
        ack_id = next(self._ack_ids)
        self._send(sio.EVENT, [name, data], ack_id)
        return ack_id

    def refuse(self, reason: str) -> None:
        """
        Turn the relay away: with a connect error when it asks to join, or with a disconnect where it already has.

        :param reason: told in the connect error; a disconnect has no words.
        """
        if self._stage is _Stage.JOINED:
            self.close()
        else:
            self._refusal = reason

    def _engine_open(self, packet: str) -> Sequence[DialectEvent]:
        raise ProtocolError(reason="a packet before the session was opened")

    def _connect(self, packet: _Packet) -> Sequence[DialectEvent]:
        if self._stage is _Stage.JOINED:
            return (Ignored("a second CONNECT"),)
        if self._refusal is not None:
            self._stage = _Stage.OVER
            self._send(sio.CONNECT_ERROR, {"message": self._refusal})
            return (Disconnected("it was refused", refused=True),)
        self._stage = _Stage.JOINED
        self._send(sio.CONNECT, {"sid": _new_sid()})
        return (Connected(),)

    def _foreign(self, packet: _Packet) -> Sequence[DialectEvent]:
        if packet.packet_type == sio.CONNECT:
            self._send(sio.CONNECT_ERROR, {"message": "Invalid namespace"}, namespace=packet.namespace or "/")
        return super()._foreign(packet)


def _new_sid() -> str:
    return secrets.token_urlsafe(15)


def _reason_of(data: object) -> str:
    """Why the namespace is left: of python-socketio, with ``always_connect``, with what a connect error would say."""
    words = "it disconnected the namespace"
    return words if data is None else f"{words}: {_message_of(data)}"


def _message_of(data: object) -> str:
    """The words of a connect error: ``{"message": …, "data": …}``, or, from older servers, the text alone."""
    message, details = (data.get("message"), data.get("data")) if isinstance(data, dict) else (data, None)
    words = message if isinstance(message, str) and message else "without a reason"
    if details is not None:
        words += f" ({details if isinstance(details, str) else StrictJSON.dumps(details)})"
    return printable(words, MAX_WORDS)
