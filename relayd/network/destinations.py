"""
Destinations as ssh takes them: ``[USER@]HOST[:PORT]``, alone, or several as jump hosts.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from relayd.network.spelling import canonical_host, dialled_host, fault_of_username, is_host

#: Signs that no host's name has, although a resolver may take them.
_FOREIGN: Final = frozenset("/@,;*?!|#[]")


class Hop(Struct, frozen=True):
    """
    One jump host.

    :ivar host: its one spelling, see `relayd.network.spelling.Host.name`.
    :ivar username: ``None``: the user of the host behind it.
    :ivar looked_up: what is dialled, where that is not *host*.
    """

    host: str
    port: int = 22
    username: str | None = None
    looked_up: str | None = None

    def __str__(self) -> str:
        """It as `parse_via` reads it."""
        host = self.looked_up or self.host
        place = f"[{host}]" if ":" in host else host
        user = "" if self.username is None else f"{self.username}@"
        return f"{user}{place}" + ("" if self.port == 22 else f":{self.port}")


def split_destination(text: str) -> tuple[str | None, str, str | None]:
    """
    User, host and port of ``[USER@]HOST[:PORT]``, as they are written there; ``None`` for what is not.

    An IPv6 address keeps its brackets. Whether the three are sound is for the caller to see.
    """
    user, at, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, colon, port = place, "", ""
    return user if at else None, host, port if colon else None


def parse_via(text: str) -> tuple[Hop, ...]:
    """
    Jump hosts as ``ssh -J`` takes them: ``[USER@]HOST[:PORT]``, separated by commas, the nearest first; none in an
    empty text.

    :raises ValueError: for a text of another form.
    """
    return tuple(_read_hop(part.strip()) for part in text.split(",")) if text else ()


def _read_hop(text: str) -> Hop:
    user, host, port = split_destination(text)
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    number = int(port) if port is not None and port.isascii() and port.isdigit() and len(port) <= 5 else 0
    sound = (
        is_host(host)
        and not _FOREIGN & set(host)
        and not any(map(str.isspace, host))
        and (bracketed or ":" not in host)
        and (port is None or 0 < number < 65536)
        and (user is None or (user != "" and not fault_of_username(user)))
    )
    if not sound:
        raise ValueError("via is not of the form [user@]host[:port], with commas between several")
    return Hop(canonical_host(host), number or 22, user, dialled_host(host))
