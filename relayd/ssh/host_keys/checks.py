"""
The check that the key of a host has to pass: that of the known hosts, that of a fingerprint, or both.
"""

from __future__ import annotations

from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.host_keys.verifier import ExpectedHostKey, HostKeyVerifier
from relayd.ssh.keys.types import uncertified
from relayd.ssh.target import Target


def check_for(target: Target, known_hosts: KnownHosts) -> HostKeyVerifier:
    """The check that a target asks for; see `Target.host_key`, `Target.site` and `Target.detour`."""
    if target.host_key is None:
        return Detour(known_hosts, target.detour) if target.detour else known_hosts
    expected = ExpectedHostKey(target.host_key)
    return KnownAndExpected(expected, known_hosts) if target.site else expected


class KnownAndExpected:
    """Accepts a key that both the known hosts and an expected fingerprint accept."""

    def __init__(self, expected: ExpectedHostKey, known_hosts: KnownHosts) -> None:
        self._expected = expected
        self._known_hosts = known_hosts

    def key_types(self, host: str, port: int) -> frozenset[bytes]:
        """See `HostKeyVerifier.key_types`: the known types, or only the expected one of them where it is named."""
        expected, known = self._expected.key_types(host, port), self._known_hosts.key_types(host, port)
        return frozenset(name for name in known if uncertified(name) in expected) or known or expected

    def verify(self, host: str, port: int, blob: bytes) -> None:
        """
        See `HostKeyVerifier.verify`. The fingerprint is checked first: an unexpected key is not remembered.

        :raises HostKeyUnexpected: when it is another key.
        :raises SSHError: see `KnownHosts.verify`.
        """
        self._expected.verify(host, port, blob)
        self._known_hosts.verify(host, port, blob)


class Detour:
    """
    The known hosts, for a host that is reached by a way that is not the site's own.

    A key that they have for the host is accepted; an unknown key is remembered for this way alone.
    """

    def __init__(self, known_hosts: KnownHosts, way: str) -> None:
        self._known_hosts = known_hosts
        self._way = way

    def key_types(self, host: str, port: int) -> frozenset[bytes]:
        """See `HostKeyVerifier.key_types`."""
        known = self._known_hosts
        return known.key_types(host, port) or known.key_types(f"{host}/{self._way}", port)

    def verify(self, host: str, port: int, blob: bytes) -> None:
        """
        See `HostKeyVerifier.verify`.

        :raises SSHError: see `KnownHosts.verify`.
        """
        self._known_hosts.verify(host, port, blob, self._way)
