"""
Where relayd's own HTTP server listens, as an operator writes it: ``tcp:127.0.0.1:9180``, ``unix:/run/relayd/status``.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from msgspec import Struct

_EXPECTED: Final = "tcp:127.0.0.1:PORT or unix:/PATH"
#: The default mode of a UNIX socket: its user and group may connect.
_MODE: Final = "660"
_TCP: Final = re.compile(r"tcp:(\[[0-9A-Fa-f:.]+\]|[0-9.]+|localhost):([0-9]{1,5})")
_TCP_INTERFACE: Final = re.compile(r"tcp6?:([0-9]{1,5})(?::interface=((?:[0-9A-Fa-f.]|\\:)+|localhost))?")
_UNIX: Final = re.compile(r"unix:(?:address=)?(/[^:]+)(?::mode=([0-7]{3,4}))?")


class ListenAddress(Struct, frozen=True, kw_only=True):
    """
    An address to listen at: TCP or a UNIX socket.

    :ivar host: a literal address; empty for a UNIX socket.
    :ivar path: path of the UNIX socket; empty for TCP.
    :ivar mode: permissions of the UNIX socket.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    mode: int = 0

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return bool(self.path) or ip_address(self.host).is_loopback

    def __str__(self) -> str:
        """As `listen_address` reads it."""
        if self.path:
            return f"unix:{self.path}" + ("" if self.mode == int(_MODE, 8) else f":mode={self.mode:o}")
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


def listen_address(value: str) -> ListenAddress:
    """
    ``tcp:HOST:PORT``, or Twisted's own spelling of it, ``tcp:PORT:interface=HOST``; or ``unix:PATH[:mode=660]``.

    HOST is a literal address, by default 127.0.0.1: an operator who wants to listen everywhere has to say so.
    """
    value = value.strip()
    if match := _UNIX.fullmatch(value):
        return ListenAddress(path=match[1], mode=int(match[2] or _MODE, 8))
    if match := _TCP.fullmatch(value):
        host, port = match[1].strip("[]"), int(match[2])
    elif match := _TCP_INTERFACE.fullmatch(value):
        host, port = (match[2] or "").replace("\\:", ":"), int(match[1])
    else:
        raise ValueError(_EXPECTED)
    host = "127.0.0.1" if host in ("", "localhost") else host
    try:
        ip_address(host)
    except ValueError:
        raise ValueError(_EXPECTED) from None
    if not 0 < port < 65536:
        raise ValueError(f"{_EXPECTED}, with a port from 1 to 65535")
    return ListenAddress(host=host, port=port)
