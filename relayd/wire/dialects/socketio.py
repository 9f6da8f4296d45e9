"""
The Socket.IO dialect: Socket.IO protocol 5 inside Engine.IO protocol 4, over a WebSocket from the first byte.

Sources: the Engine.IO and Socket.IO protocol documents (socketio/engine.io-protocol, socketio/socket.io-protocol).  The
Engine.IO layer is one leading digit, handled here; `relayd.wire.dialects.packets` reads what follows it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from itertools import count
from typing import Final

from zope.interface import implementer

from relayd.errors import ProtocolError
from relayd.wire.dialects import engineio
from relayd.wire.dialects import packets as sio
from relayd.wire.dialects.attachments import Attachments, BinaryEvents
from relayd.wire.dialects.codec import (
    MAX_NAME,
    NO_LIMIT,
    PROXY_PATH,
    FrameQueue,
    json_encoder,
    websocket_url,
    write_json,
)
from relayd.wire.dialects.engineio import DEFAULT_MAX_PAYLOAD, MAX_HEARTBEAT, OpenPacket, read_open_packet
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
from relayd.wire.dialects.packets import Packet, plain_event, read_packet

NAME: Final = "socketio"
NAMESPACE: Final = PROXY_PATH

#: The beginnings of events and of acknowledgements in that namespace.
_EVENT: Final = f"{engineio.MESSAGE}{sio.EVENT}{NAMESPACE},".encode()
_ACK: Final = f"{engineio.MESSAGE}{sio.ACK}{NAMESPACE},"

#: Events that may come before the namespace's CONNECT answer, and the size of their packets, in characters; a single
#: one may be larger.
MAX_EARLY: Final = 100
MAX_EARLY_SIZE: Final = 1 << 20


def url(server: str, proxy_id: str, api_key: str, transport: str = engineio.WEBSOCKET, **more: str) -> str:
    """
    The URL to dial, straight to the websocket transport. It holds the key: log the server's URL instead.

    :param transport: another transport of Engine.IO.
    :param more: parameters of a session.
    :raises ConfigError: when *server* is not an http(s) or ws(s) URL.
    """
    parameters = {"EIO": "4", "transport": transport, "proxyId": proxy_id, "apiKey": api_key} | more
    return websocket_url(server, "/socket.io/", parameters, engineio.SESSION_PARAMETERS)


class _Stage(Enum):
    OPENING = auto()  # no Engine.IO open packet yet
    JOINING = auto()  # Engine.IO is open, the namespace is not
    JOINED = auto()  # events flow
    OVER = auto()  # one side has left: what still arrives means nothing


class SocketIODialect(FrameQueue):
    """What both ends do: events, acknowledgements, leaving, and the checks on all of them."""

    name = NAME
    max_payload = NO_LIMIT

    def __init__(self) -> None:
        super().__init__()
        self._stage = _Stage.OPENING
        self._binary = BinaryEvents()

    def receive_text(self, text: str) -> Sequence[DialectEvent]:
        """
        Read one text message: an Engine.IO packet.

        :raises ProtocolError: when it means nothing, or nothing at this stage.
        """
        if self._stage is _Stage.JOINED:
            plain = plain_event(text) if self._binary.incomplete is None else None
            return self._packet(text) if plain is None else (EventReceived(*plain),)
        if self._stage is _Stage.OVER:
            return (Ignored("a packet after the good-bye"),)
        if self._stage is _Stage.OPENING:
            return self._engine_open(text)
        return self._early(self._packet(text), len(text))

    def _packet(self, text: str) -> Sequence[DialectEvent]:
        kind = text[:1]
        if kind == engineio.MESSAGE:
            if self._binary.incomplete is None:
                return self._message(text[1:])
            # No more attachments will come: the event is passed on without them, so that it gets an answer.
            return (*self._finish(self._binary.incomplete), *self._message_or_break(text[1:]))
        if kind == engineio.PING:
            self._frames.append(engineio.PONG + ("probe" if text[1:] == "probe" else ""))
            return (HeartbeatReceived(),)
        if kind == engineio.PONG:
            return (HeartbeatReceived(),)
        if kind in (engineio.UPGRADE, engineio.NOOP):
            return (Ignored("an Engine.IO upgrade or noop packet"),)
        if kind == engineio.CLOSE:
            cut_off = () if self._binary.incomplete is None else self._finish(self._binary.incomplete)
            self._stage = _Stage.OVER
            return (*cut_off, Disconnected("it closed the Engine.IO session", refused=False))
        raise ProtocolError(reason="an Engine.IO packet of unknown type")

    def receive_binary(self, data: bytes) -> Sequence[DialectEvent]:
        """
        Read one binary message: the next attachment of the binary event before it.

        :raises ProtocolError: when none was announced.
        """
        if self._stage is _Stage.OVER:
            return (Ignored("a packet after the good-bye"),)
        event = self._binary.incomplete
        if event is None:
            self._binary.drop_part()
            return (Ignored("a binary attachment"),)
        event.add_part(data)
        events = self._finish(event) if event.hopeless or not event.missing else ()
        return self._early(events, event.size) if self._stage is _Stage.JOINING else events

    def abandon(self, number: int) -> Sequence[DialectEvent]:
        """See `IDialect.abandon`."""
        event = self._binary.incomplete
        if event is None or number != self._binary.number or self._stage is _Stage.OVER:
            return ()
        events = self._finish(event)
        return self._early(events, event.size) if self._stage is _Stage.JOINING else events

    def _finish(self, event: Attachments) -> Sequence[DialectEvent]:
        """Pass *event* on as far as it came; attachments of it that are still to come are dropped."""
        return self._event(self._binary.finish(event))

    def _message_or_break(self, text: str) -> Sequence[DialectEvent]:
        try:
            return self._message(text)
        except ProtocolError as error:
            return (Broken(str(error.fields["reason"])),)

    def send_event(self, name: str, data: object) -> None:
        """Queue one event for the peer."""
        self._send(sio.EVENT, [name, data])

    def event_frame(self, name: str, data: object) -> bytes:
        """See `IDialect.event_frame`."""
        return _EVENT + json_encoder.encode([name, data])

    def acknowledge(self, ack_id: int, data: object | None) -> None:
        """Queue the answer to an event that asked for one; ``None`` is an empty answer."""
        if data is None:
            self._frames.append(f"{_ACK}{ack_id}[]")
        else:
            self._send(sio.ACK, [data], ack_id)

    def close(self) -> None:
        """Queue the disconnect packet, if the namespace was joined."""
        if self._stage is _Stage.JOINED:
            self._send(sio.DISCONNECT)
        self._stage = _Stage.OVER

    def _send(self, kind: int, data: object = None, packet_id: int | None = None, namespace: str = NAMESPACE) -> None:
        self._frames.append(engineio.MESSAGE + Packet(kind, data, namespace, packet_id).encode())

    # Engine.IO's open packet, Socket.IO's CONNECT, and what comes before that, mean different things at the two ends

    def _early(self, events: Sequence[DialectEvent], size: int) -> Sequence[DialectEvent]:
        """Check *events*, which came before the namespace was joined (or join it), in a message of *size*."""
        if any(isinstance(event, EventReceived | AckReceived) for event in events):
            raise ProtocolError(reason="an event before the namespace was joined")
        return events

    def _engine_open(self, packet: str) -> Sequence[DialectEvent]:
        raise NotImplementedError

    def _connect(self, packet: Packet) -> Sequence[DialectEvent]:
        raise NotImplementedError

    def _foreign(self, packet: Packet) -> Sequence[DialectEvent]:
        """A packet of another namespace."""
        return (Ignored("a packet of another namespace"),)

    def _message(self, text: str) -> Sequence[DialectEvent]:
        packet = read_packet(text)
        kind = packet.kind
        if packet.is_binary and packet.attachment_count:
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
            return (Disconnected(packet.reason, refused=False),)
        if kind == sio.CONNECT_ERROR:
            self._stage = _Stage.OVER
            return (Disconnected(packet.message, refused=True),)
        return (Ignored("a binary acknowledgement"),)

    def _with_attachments(self, packet: Packet) -> Sequence[DialectEvent]:
        late = self._binary.announce(packet.attachment_count)
        if packet.namespace != NAMESPACE or packet.kind != sio.BINARY_EVENT:
            return (Ignored("a binary packet that is not an event for the relay"),)
        _ = packet.arguments  # which raises where they are not an array
        event = Attachments(packet, packet.attachment_count)
        if late:
            event.fill_places()
            reason = "a binary event before all attachments of the one before it"
            return (*self._event(packet), Broken(reason))
        if event.hopeless:
            return self._finish(event)
        self._binary.begin(event)
        return (AttachmentsDue(self._binary.number),)

    def _event(self, packet: Packet) -> Sequence[DialectEvent]:
        arguments = packet.arguments
        if not arguments:
            raise ProtocolError(reason="an event without a name")
        name = arguments[0]
        if not isinstance(name, str):
            return (Ignored("an event whose name is not a string"),)
        if len(name) > MAX_NAME:
            return (Ignored(f"an event whose name has more than {MAX_NAME} characters"),)
        return (EventReceived(name, arguments[1] if len(arguments) > 1 else None, packet.id),)

    def _ack(self, packet: Packet) -> Sequence[DialectEvent]:
        arguments = packet.arguments
        if packet.id is None:
            raise ProtocolError(reason="an acknowledgement without an id")
        return (AckReceived(packet.id, arguments[0] if arguments else None),)


@implementer(IDialect)
class SocketIORelayDialect(SocketIODialect):
    """
    The relay's end.

    :param auth: gives the credentials for CONNECT, which some servers read instead of the URL's query. It is called
        when the packet is sent.
    """

    max_payload = DEFAULT_MAX_PAYLOAD

    def __init__(self, auth: Callable[[], Mapping[str, str]] = dict) -> None:
        super().__init__()
        self._auth = auth
        #: Events that came before the namespace was joined, and the size of their packets.
        self._kept: list[DialectEvent] = []
        self._kept_size = 0

    def opened(self) -> Sequence[DialectEvent]:
        """Nothing: the main server speaks first."""
        return ()

    def ping(self) -> None:
        """Nothing: in Engine.IO 4 the main server pings."""

    def _engine_open(self, packet: str) -> Sequence[DialectEvent]:
        opened = read_open_packet(packet)
        if opened.ping_interval <= 0 or opened.ping_timeout < 0 or opened.heartbeat > MAX_HEARTBEAT:
            raise ProtocolError(reason="an open packet with an impossible pingInterval or pingTimeout")
        max_payload = opened.max_payload or NO_LIMIT  # 0 is no limit to the WebSockets of engine.io
        if max_payload < 0:
            raise ProtocolError(reason="an open packet with an impossible maxPayload")
        self.max_payload = int(min(max_payload, NO_LIMIT))
        self._stage = _Stage.JOINING
        self._send(sio.CONNECT, self._auth() or None)
        return (HandshakeReceived(opened.heartbeat),)

    def _connect(self, packet: Packet) -> Sequence[DialectEvent]:
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
class SocketIOServerDialect(SocketIODialect):
    """
    The main server's end.

    :param ping_interval: seconds between two calls of `ping` by the caller.
    :param ping_timeout: seconds that the relay has to answer a ping.
    :param accepts: bytes in the largest message that the caller takes.
    """

    def __init__(
        self, *, ping_interval: float = 25.0, ping_timeout: float = 20.0, accepts: int = DEFAULT_MAX_PAYLOAD
    ) -> None:
        super().__init__()
        self._open = OpenPacket(
            sid=_new_sid(), ping_interval=ping_interval * 1000, ping_timeout=ping_timeout * 1000, max_payload=accepts
        )
        self._ack_ids = count()
        self._refusal: str | None = None

    def opened(self) -> Sequence[DialectEvent]:
        """Queue the open packet."""
        self._stage = _Stage.JOINING
        self._frames.append(engineio.OPEN + write_json(self._open))
        return (HandshakeReceived(self._open.heartbeat),)

    def ping(self) -> None:
        """Queue a heartbeat."""
        self._frames.append(engineio.PING)

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
        Turn the relay away: with a connect error when it asks to join, or with a disconnect if it has joined.

        :param reason: goes into the connect error; a disconnect has no words.
        """
        if self._stage is _Stage.JOINED:
            self.close()
        else:
            self._refusal = reason

    def _engine_open(self, packet: str) -> Sequence[DialectEvent]:
        raise ProtocolError(reason="a packet before the session was opened")

    def _connect(self, packet: Packet) -> Sequence[DialectEvent]:
        if self._stage is _Stage.JOINED:
            return (Ignored("a second CONNECT"),)
        if self._refusal is not None:
            self._stage = _Stage.OVER
            self._send(sio.CONNECT_ERROR, {"message": self._refusal})
            return (Disconnected("it was refused", refused=True),)
        self._stage = _Stage.JOINED
        self._send(sio.CONNECT, {"sid": _new_sid()})
        return (Connected(),)

    def _foreign(self, packet: Packet) -> Sequence[DialectEvent]:
        if packet.kind == sio.CONNECT:
            self._send(sio.CONNECT_ERROR, {"message": "Invalid namespace"}, namespace=packet.namespace)
        return super()._foreign(packet)


def _new_sid() -> str:
    return secrets.token_urlsafe(15)
