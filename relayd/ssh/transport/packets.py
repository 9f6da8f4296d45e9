"""
The binary packet protocol: from the bytes that a server sends to messages, and from messages to bytes. No I/O.

Source: RFC 4253, section 6.
"""

from __future__ import annotations

from typing import Protocol

from relayd.language.texts import Text
from relayd.ssh.transport.ciphers import MAX_PACKET, BadPacket, HiddenFault, Opener, Plain, Sealer
from relayd.ssh.transport.pacing import COST_SHIFT, PACKET, SLICE, Pacer
from relayd.ssh.transport.version_exchange import VersionReader

_MASK32 = 0xFFFFFFFF


class MessageHandler(Protocol):
    """What gets the messages that a `PacketReader` finds."""

    def version_received(self, version: bytes) -> None:
        """The server has sent its version; packets follow."""

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """The server has sent a message; *payload* is without its number."""


class PacketReader:
    """
    Reads what a server sends: the line with its version, then packets.

    :param pace: each packet is charged to it, and it ends a turn that takes too long.
    :ivar sequence: the number of the next packet (section 6.4).
    :ivar bytes_with_keys: bytes of packets read since the keys were changed.
    :ivar stopped: set to read nothing more; what follows a failure or the server's good-bye is not for us.
    """

    __slots__ = (
        "_opener", "_pace", "_packet_size", "_rest", "_version", "_wanted", "bytes_with_keys", "sequence", "stopped",
    )  # fmt: skip

    def __init__(self, pace: Pacer) -> None:
        self.sequence = 0
        self.bytes_with_keys = 0
        self.stopped = False
        self._pace = pace
        self._version: VersionReader | None = VersionReader()
        self._opener: Opener = Plain()
        self._rest = bytearray()  # the beginning of a packet, and what comes while the connection has to wait
        self._wanted = 1  # bytes of it that are needed to go on
        self._packet_size = 0  # of the packet that it begins with; 0: not known yet

    def last_words(self) -> Text | None:
        """What the server has sent instead of its version; ``None``: its version has come."""
        return None if self._version is None else self._version.last_words()

    def use(self, opener: Opener, *, restart_numbers: bool) -> None:
        """Read all packets that follow with new keys."""
        self._opener = opener
        self.bytes_with_keys = 0
        if restart_numbers:
            self.sequence = 0

    def keep(self, data: bytes) -> None:
        """Keep *data* for the next call of `read`."""
        self._rest += data

    def read(self, data: bytes | bytearray, handler: MessageHandler) -> bool:
        """
        Read *data*, after what is left of earlier calls.

        :return: whether the turn of this connection ended before the data did.
        :raises NoVersion: when the server does not speak SSH 2.
        :raises BadPacket: when a packet was damaged or forged, or has an impossible length.
        """
        if self._rest:
            self._rest += data
            data = self._rest
        if len(data) < self._wanted:
            if data is not self._rest:
                self._rest = bytearray(data)
            return False
        self._rest = bytearray()
        start = 0
        if self._version is not None:
            found = self._version.read(data)
            if found is None:
                return False
            version, start = found
            self._version = None
            handler.version_received(version)
        return self._read_packets(data, start, handler)

    def _read_packets(self, data: bytes | bytearray, start: int, handler: MessageHandler) -> bool:
        """Hand on each complete packet, and keep the rest. Only the payload of a packet is copied."""
        view = memoryview(data)
        end = len(data)
        pace = self._pace
        most_owed = pace.owed + SLICE
        more = False
        while not self.stopped:
            opener = self._opener
            try:
                size = self._packet_size
                if not size:
                    body = start + opener.header_size
                    if body > end:
                        self._wanted = opener.header_size
                        break
                    size = opener.packet_size(self.sequence, view[start:body])
                following = start + size
                if following > end or pace.owed > most_owed:
                    more = following <= end
                    self._packet_size = self._wanted = size
                    break
                plain = opener.open(self.sequence, view[start:following])
                padding = plain[0]
                if not 4 <= padding < len(plain) - 1:
                    raise BadPacket("bad padding")
            except BadPacket as fault:
                self._packet_size = self._hide(fault)
                continue
            start = following
            pace.owed += PACKET + (size >> COST_SHIFT)
            self._packet_size = 0
            self.bytes_with_keys += size
            self.sequence = (self.sequence + 1) & _MASK32
            handler.dispatchMessage(plain[1], plain[2:-padding])
        if start < end:
            self._rest = bytearray(view[start:])
        return more

    def _hide(self, fault: BadPacket) -> int:
        """
        Read on where the sender must not learn what was wrong (`BadPacket.hide`).

        :return: the bytes after which it may, from the beginning of the packet.
        """
        if not fault.hide:
            raise fault
        self._opener = HiddenFault(fault)
        return MAX_PACKET


class PacketWriter:
    """
    Makes packets of the messages for a server.

    :ivar bytes_with_keys: bytes of packets made since the keys were changed.
    """

    __slots__ = ("_sealer", "_sequence", "bytes_with_keys")

    def __init__(self) -> None:
        self.bytes_with_keys = 0
        self._sequence = 0
        self._sealer: Sealer = Plain()

    def use(self, sealer: Sealer, *, restart_numbers: bool) -> None:
        """Protect all packets that follow with new keys."""
        self._sealer = sealer
        self.bytes_with_keys = 0
        if restart_numbers:
            self._sequence = 0

    def packet(self, message: int, payload: bytes = b"") -> bytes:
        """The packet with a message, ready to be sent after all before it."""
        packet = self._sealer.seal(self._sequence, bytes((message,)) + payload)
        self._sequence = (self._sequence + 1) & _MASK32
        self.bytes_with_keys += len(packet)
        return packet
