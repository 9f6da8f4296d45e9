"""
What a server may ask of a client: channels to it, and global requests such as for port forwarding. None is granted.

Source: RFC 4254, sections 4 and 5.1.
"""

from __future__ import annotations

from twisted.conch.ssh.common import NS, getNS

from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_REQUEST_FAILURE,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
)
from relayd.ssh.transport.transport import ClientTransport

_PROHIBITED = OPEN_ADMINISTRATIVELY_PROHIBITED.to_bytes(4, "big")


def decline_channel(transport: ClientTransport, packet: bytes) -> None:
    """
    Answer ``CHANNEL_OPEN``.

    :raises Breach: when there are too many of them.
    """
    _kind, rest = getNS(packet)
    transport.flood_limit.count_request()
    transport.sendPacket(MSG_CHANNEL_OPEN_FAILURE, rest[:4] + _PROHIBITED + NS(b"not accepted") + NS(b""))


def decline_request(transport: ClientTransport, packet: bytes) -> None:
    """
    Answer ``GLOBAL_REQUEST``, if it wants an answer.

    :raises Breach: when there are too many of them.
    """
    _name, rest = getNS(packet)
    if rest[:1] != b"\0":
        transport.flood_limit.count_request()
        transport.sendPacket(MSG_REQUEST_FAILURE, b"")
