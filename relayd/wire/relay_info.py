"""
What a relay tells of itself when the main server asks (``relay_info``): its message, and how it is made to fit.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

#: Bytes in the largest answer: the question is short, and may come often.
MAX_INFO: Final = 64 * 1024


class RelayLimits(Struct, frozen=True, kw_only=True, rename="camel"):
    """
    What the relay's operator allows.

    :ivar max_commands: commands that run at a time.
    :ivar max_queue: commands that wait for their turn; more are refused.
    :ivar max_sessions: commands at a time on one connection to a host.
    :ivar max_connections: connections at a time for one host, port, user and credential.
    :ivar max_output: bytes kept of stdout, and of stderr.
    :ivar default_timeout: milliseconds for a command that names no timeout.
    :ivar max_timeout: milliseconds that no command exceeds.
    """

    max_commands: int
    max_queue: int
    max_sessions: int
    max_connections: int
    max_output: int
    default_timeout: int
    max_timeout: int


class KnownHosts(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """
    The hosts of one table of the site.

    :ivar patterns: names, addresses and networks, with * and ? as wildcards and ! before exceptions.
    :ivar name: what the site calls them.
    """

    patterns: tuple[str, ...]
    name: str | None = None


class MainServers(Struct, frozen=True, kw_only=True, rename="camel"):
    """
    How a relay uses several main servers, none of which it names.

    :ivar number: how many it has.
    :ivar results_to: ``origin``: a result goes to the one that ordered the command; ``connected``: to any.
    """

    number: int
    results_to: Literal["origin", "connected"]


class RelayInfo(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """
    What a relay tells of itself.

    :ivar version: the version of relayd.
    :ivar uptime: seconds since the relay started.
    :ivar limits: what its operator allows.
    :ivar features: the extensions that it has: fields of a command, and events.
    :ivar labels: what its operator says of it.
    :ivar hosts: the hosts of which the site has tables. A relay reaches others, too.
    :ivar journal_id: names its journal. A relay with the same one knows each command that it was sent before.
    :ivar main_servers: how it uses its main servers; ``None``: it has one.
    :ivar truncated: whether hosts or labels are missing, as the message would have been too large.
    """

    version: str
    uptime: float
    limits: RelayLimits
    features: tuple[str, ...]
    labels: dict[str, str] = {}
    hosts: tuple[KnownHosts, ...] = ()
    journal_id: str = ""
    main_servers: MainServers | None = None
    truncated: bool = False

    def to_wire(self, most: int) -> dict[str, Any] | None:
        """
        The data of an acknowledgement or event; ``None``: it does not fit.

        :param most: bytes that it may have.
        """
        info = self
        while True:
            wire: dict[str, Any] = msgspec.to_builtins(info)
            if len(msgspec.json.encode(wire)) <= min(most, MAX_INFO):
                return wire
            if info.hosts:
                info = replace(info, hosts=info.hosts[: len(info.hosts) // 2], truncated=True)
            elif info.labels:
                info = replace(info, labels={}, truncated=True)
            else:
                return None
