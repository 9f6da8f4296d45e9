"""
The layer below Socket.IO: what Engine.IO protocol 4 calls its packets and transports, and the open packet.

Source: the Engine.IO protocol document, revision 4 (socketio/engine.io-protocol).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from relayd.errors import ProtocolError
from relayd.wire.dialects.codec import read_json

#: The transports.
WEBSOCKET: Final = "websocket"
POLLING: Final = "polling"

#: The types of packets: the first character of each.
OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"

#: Parameters of the URL that belong to one session or one request, and so to no URL that begins a session.
SESSION_PARAMETERS: Final = ("sid", "t")

#: ``maxPayload`` of a main server that does not say: engine.io's default ``maxHttpBufferSize``.
DEFAULT_MAX_PAYLOAD: Final = 1_000_000
#: The longest silence that a main server may ask us to accept, in seconds.
MAX_HEARTBEAT: Final = 86_400.0
#: Characters of an open packet.
MAX_OPEN: Final = 16 * 1024


class OpenPacket(msgspec.Struct, rename="camel"):
    """
    The payload of the open packet. Times in milliseconds, the size in bytes; ``null`` is JavaScript's Infinity.
    """

    sid: str
    ping_interval: float
    ping_timeout: float
    max_payload: int | float | None = DEFAULT_MAX_PAYLOAD
    upgrades: list[str] = []

    @property
    def heartbeat(self) -> float:
        """Seconds of silence after which the session is dead."""
        return (self.ping_interval + self.ping_timeout) / 1000


#: How an answer to polling begins in Engine.IO 3: a length, and the open packet.
_ENGINE_IO_3: Final = re.compile(r"[0-9]{1,9}:0\{")

_decoder = msgspec.json.Decoder(OpenPacket)


def read_open_packet(packet: str) -> OpenPacket:
    """
    Read the open packet, with which a main server begins a session.

    :param packet: the first of the session.
    :raises ProtocolError: when it is not an open packet.
    """
    if _ENGINE_IO_3.match(packet):
        raise ProtocolError(reason="it speaks Engine.IO 3, as Socket.IO 2 servers do, and relayd speaks Engine.IO 4")
    if packet[:1] != OPEN:
        raise ProtocolError(reason="the first packet is not an Engine.IO open packet")
    if len(packet) > 1 + MAX_OPEN:
        raise ProtocolError(reason=f"an open packet of more than {MAX_OPEN} characters")
    opened: OpenPacket = read_json(packet[1:], _decoder)
    return opened
