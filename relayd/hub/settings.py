"""
What the user of a main server may set.
"""

from __future__ import annotations

from msgspec import Struct

from relayd.network.patterns import Network


class HubSettings(Struct, frozen=True, kw_only=True):
    """
    Times and limits of a main server.

    :ivar ping_interval: seconds between two heartbeats.
    :ivar ping_timeout: seconds within which a relay must show a sign of life after a heartbeat.
    :ivar write_timeout: seconds for which a relay may read nothing of what is sent to it.
    :ivar join_timeout: seconds within which a connection must have joined as a relay.
    :ivar max_joining: connections at a time that have not joined yet.
    :ivar max_payload: bytes in the largest message accepted from a relay.
    :ivar result_timeout: seconds to wait for a result where neither caller nor command names a timeout.
    :ivar grace: seconds added to each timeout, for the way to the relay and back.
    :ivar answer_timeout: seconds to wait for the answer to a question.
    :ivar trusted_proxies: the networks of reverse proxies, whose ``X-Forwarded-For`` says where a relay comes from.
    """

    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    write_timeout: float = 120.0
    join_timeout: float = 10.0
    max_joining: int = 1000
    max_payload: int = 16 * 2**20
    result_timeout: float = 30.0
    grace: float = 5.0
    answer_timeout: float = 10.0
    trusted_proxies: tuple[Network, ...] = ()
