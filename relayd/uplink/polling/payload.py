"""
Payloads of Engine.IO's HTTP long-polling, without I/O: packets with separators between them, the binary ones in base64.

Source: the Engine.IO protocol document, revision 4, "HTTP long-polling".
"""

from __future__ import annotations

from base64 import b64decode
from collections import deque
from collections.abc import Iterator
from typing import Final

from relayd.errors import FrameTooLarge, ProtocolError

#: Stands between packets: JSON has to escape it.
SEPARATOR: Final = b"\x1e"
#: Packets in one payload: python-engineio ends the session when more come.
MOST_PACKETS: Final = 16
_BINARY: Final = b"b"


class Splitter:
    """
    Splits payloads into packets, as they come.

    :param limit: bytes that a packet may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: One buffer, and not a list: for a packet in millions of pieces, a list is many times as large as the packet.
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[str | bytes]:
        """
        The packets that *data* completes: text, or the bytes of a binary one.

        :raises ProtocolError: when one is too large or malformed.
        """
        *complete, rest = data.split(SEPARATOR)
        for part in complete:
            self._add(part)
            yield self._packet()
        self._add(rest)

    def finish(self) -> Iterator[str | bytes]:
        """The last packet of the payload, which is over. An empty payload has none."""
        if self._rest:
            yield self._packet()

    def _add(self, part: bytes) -> None:
        self._rest += part
        # A third more, for base64: only the first byte shows whether the packet is binary.
        if len(self._rest) > self._limit + self._limit // 3 + 4:
            raise FrameTooLarge(size=len(self._rest), limit=self._limit)

    def _packet(self) -> str | bytes:
        packet, self._rest = bytes(self._rest), bytearray()
        if packet[:1] == _BINARY:
            try:
                return b64decode(packet[1:], validate=True)
            except ValueError:
                raise ProtocolError(reason="a binary packet that is not base64") from None
        if len(packet) > self._limit:
            raise FrameTooLarge(size=len(packet), limit=self._limit)
        try:
            return packet.decode()
        except UnicodeDecodeError:
            raise ProtocolError(reason="a packet that is not UTF-8") from None


def take_payload(packets: deque[bytes], limit: int) -> bytes:
    """
    Take the first of *packets*, and those after it that fit, into one payload.

    :param limit: bytes that the payload may have; a single packet may have more.
    """
    taken = [packets.popleft()]
    size = len(taken[0])
    while packets and len(taken) < MOST_PACKETS and size + 1 + len(packets[0]) <= limit:
        taken.append(packets.popleft())
        size += 1 + len(taken[-1])
    return SEPARATOR.join(taken)
