"""
What a program that uses this package can choose.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from relayd.network.host_rules import NOTHING_SAID, HostTable

HostKeyPolicy = Literal["accept-new", "strict", "ignore"]
PolicyName = Literal["modern", "compatible", "legacy"]


class LiveSettings(Struct, frozen=True, kw_only=True):
    """
    What may change while connections are open (`relayd.ssh.client.SSHClient.configure`).

    :ivar host_keys: what to do with a host that is not among the known ones: take and remember its key, refuse it, or
        not look.
    :ivar algorithms: which algorithms to offer: those that are sound, those that many servers have, or those that very
        old ones need.
    :ivar connect_timeout: seconds for each of TCP, key exchange and login.
    :ivar idle_timeout: seconds until a connection without sessions is closed.
    :ivar keepalive_interval: seconds between probes of a silent server; two without an answer end a connection, unless
        its server never answered one.
    :ivar max_output: bytes kept of stdout and of stderr.
    :ivar no_exit_status_hosts: patterns (`relayd.network.patterns.covers_host`) of hosts that never say how a command
        ended: a session that they close in good order stands for status 0.
    :ivar hosts: what is said of single hosts, before all of these.
    """

    host_keys: HostKeyPolicy = "accept-new"
    algorithms: PolicyName = "modern"
    connect_timeout: float = 15.0
    idle_timeout: float = 300.0
    keepalive_interval: float = 15.0
    max_output: int = 8 * 1024 * 1024
    no_exit_status_hosts: tuple[str, ...] = ()
    hosts: HostTable = HostTable()


def settings_for(settings: LiveSettings, host: str, port: int, user: str) -> LiveSettings:
    """The settings for one login: what is said of its host, and for the rest *settings* themselves."""
    said = settings.hosts.of(host, port, user)
    if said is NOTHING_SAID:
        return settings
    return replace(
        settings,
        host_keys=said.host_keys or settings.host_keys,
        algorithms=said.ssh_algorithms or settings.algorithms,
        connect_timeout=said.connect_timeout or settings.connect_timeout,
        keepalive_interval=said.keepalive_interval or settings.keepalive_interval,
    )


class SSHSettings(LiveSettings, frozen=True, kw_only=True):
    """
    All that can be chosen, with what stays as it was when the client was made.

    :ivar known_hosts: path of the file of known host keys, in OpenSSH's format.
    :ivar max_sessions: sessions at a time on one connection, at most; what a host allows is learned.
    :ivar max_connections: connections to one target at a time.
    :ivar max_total_connections: connections at a time in all; for one more, the one that was idle longest is closed.
    :ivar max_connection_age: seconds for which a connection is given new work.
    """

    known_hosts: str
    max_sessions: int = 10
    max_connections: int = 4
    max_total_connections: int = 1000
    max_connection_age: float = 4 * 3600.0
