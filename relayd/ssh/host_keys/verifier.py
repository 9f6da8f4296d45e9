"""
The check of a host's key, as the transport asks for it, and the simplest one: that of a fingerprint.
"""

from __future__ import annotations

from typing import Protocol

from relayd.ssh.errors import HostKeyUnexpected
from relayd.ssh.keys.certificates import certified_key
from relayd.ssh.keys.public import fingerprint


class HostKeyVerifier(Protocol):
    """Decides whether a key is that of a host."""

    def key_types(self, host: str, port: int) -> frozenset[bytes]:
        """The types of keys to ask the host for first, with those of certificates where it may show one."""

    def verify(self, host: str, port: int, blob: bytes) -> None:
        """
        Check the key or the certificate that a host showed. It has proved that it has the private key.

        :raises SSHError: when it must not be trusted.
        """


class ExpectedHostKey:
    """
    One key, by its fingerprint, whatever any file says.

    :param expected: ``SHA256:…`` as OpenSSH shows it, after the type of key and a blank where that is known.
    """

    def __init__(self, expected: str) -> None:
        self._type, _, self._digest = expected.rpartition(" ")

    def key_types(self, host: str, port: int) -> frozenset[bytes]:
        """See `HostKeyVerifier.key_types`."""
        return frozenset((self._type.encode("utf-8"),)) if self._type else frozenset()

    def verify(self, host: str, port: int, blob: bytes) -> None:
        """
        See `HostKeyVerifier.verify`.

        :raises HostKeyUnexpected: when it is another key.
        """
        shown = fingerprint(certified_key(blob))  # ssh-keygen(1) shows that of a certificate, too
        if shown.rpartition(" ")[2] != self._digest.rstrip("="):
            raise HostKeyUnexpected(host=host, port=port, expected=f"{self._type} {self._digest}".strip(), shown=shown)
