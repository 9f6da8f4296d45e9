"""
What the site allows for one target; what its host allows is learned.
"""

from __future__ import annotations

from sys import maxsize
from typing import Final

from msgspec import Struct

from relayd.network.host_rules import HostSettings


class Bounds(Struct, frozen=True, kw_only=True):
    """
    The numbers for one target.

    :ivar max_sessions: on one connection at a time.
    :ivar max_connections: at a time.
    :ivar commands: sessions on one connection until it is closed.
    """

    max_sessions: int = maxsize
    max_connections: int = maxsize
    commands: int = maxsize


#: Everything is allowed.
NO_BOUNDS: Final = Bounds()


def bounds_of(said: HostSettings, max_sessions: int, max_connections: int) -> Bounds:
    """The numbers for a target of which *said* is said; where nothing is, those for all targets."""
    return Bounds(
        max_sessions=said.max_sessions or max_sessions,
        max_connections=said.max_connections or max_connections,
        commands=said.commands_per_connection or maxsize,
    )
