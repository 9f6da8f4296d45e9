"""
The known host keys: OpenSSH's ``known_hosts`` file, asked about the keys that hosts show, and added to.

Source: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"; certificates: OpenSSH's PROTOCOL.certkeys.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

from relayd.language.texts import Text
from relayd.network.descriptors import words_of
from relayd.network.spelling import canonical_host
from relayd.ssh.errors import (
    HostCertificateInvalid,
    HostKeyChanged,
    HostKeyRevoked,
    HostKeyUnknown,
    KnownHostsUnusable,
    SSHError,
)
from relayd.ssh.host_keys.file import Added, NoFile, Stamp, append, read_lines, stamp, strike
from relayd.ssh.host_keys.known_hosts_lines import KnownHostLine, KnownHostLines, host_name, parse_known_hosts
from relayd.ssh.keys.certificates import Certificate, fault_of_host_certificate, parse_certificate
from relayd.ssh.keys.public import fingerprint
from relayd.ssh.keys.types import HOST_CERTIFICATE_TYPES, is_certified, key_type
from relayd.ssh.settings import HostKeyPolicy

#: Characters that make a pattern, a list, a marker or a comment of a name.
_NOT_IN_NAMES = frozenset("*?!,|#@[]")
#: How often a file may be replaced while a line is added to it.
_ATTEMPTS = 5


class _Content:
    """What was read of the file, when it was as *stamp* says."""

    __slots__ = ("line_count", "lines", "stamp")

    def __init__(self) -> None:
        self.lines = KnownHostLines(())
        self.line_count = 0
        self.stamp: Stamp | None = None


class KnownHosts:
    """
    The host keys in one file, with a policy for keys that are not in it.

    The file is read again when it has changed. Several processes may add to it, and replace it.

    :param path: need not exist yet.
    :param now: gives the time of day, in Unix time.
    """

    def __init__(self, path: str, policy: HostKeyPolicy, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self.policy = policy
        self._now = now
        self._content = _Content()

    def under(self, policy: HostKeyPolicy) -> KnownHosts:
        """The same file under another policy; what was read of it is shared."""
        if policy == self.policy:
            return self
        other = KnownHosts(self.path, policy, self._now)
        other._content = self._content
        return other

    def key_types(self, host: str, port: int) -> frozenset[bytes]:
        """
        The types of keys known for a host, with those of certificates where the file has an authority for it.

        :raises KnownHostsUnusable: when the file cannot be read.
        """
        if self.policy == "ignore":
            return frozenset()
        types = frozenset(entry.key_type for entry in self._lines_of(host, port))
        if any(entry.marker == "@cert-authority" and entry.covers(host, port) for entry in self._load().marked):
            return types | HOST_CERTIFICATE_TYPES
        return types

    def verify(self, host: str, port: int, blob: bytes, detour: str = "") -> None:
        """
        Check the key that a host showed; remember it where the policy says so.

        A certificate of an authority that the file does not have for this host is worth no more than its key.

        :param blob: the public key (RFC 4253, section 6.6), or a certificate.
        :param detour: see `relayd.ssh.target.Target.detour`. A new key is remembered for this way alone, under
            ``HOST/DETOUR``, which no host can be called.
        :raises HostCertificateInvalid: when the file has its authority, but the certificate is not valid for this host
            now, and its key is not known by itself.
        :raises BadCertificate: when it cannot be read.
        :raises HostKeyChanged: when other keys are known for the host.
        :raises HostKeyUnknown: when none is and the policy is strict.
        :raises HostKeyRevoked: when the file revokes this key.
        :raises KnownHostsUnusable: when the file cannot be read or added to.
        """
        if self.policy == "ignore":
            return
        if is_certified(key_type(blob)):
            certificate = parse_certificate(blob)
            blob = certificate.key
            self._refuse_revoked(host, port, blob)
            if self._is_vouched_for(host, port, certificate):
                return
        name = f"{host}/{detour}" if detour else host
        if self._known(host, port, blob) or (detour and self._known(name, port, blob)):
            return
        if self.policy == "strict":
            raise HostKeyUnknown(host=host, port=port, shown=fingerprint(blob), file=self.path)
        self._add(name, port, blob)

    def _refuse_revoked(self, host: str, port: int, blob: bytes) -> None:
        for entry in self._load().marked:
            if entry.marker == "@revoked" and entry.blob == blob and entry.covers(host, port):
                raise HostKeyRevoked(host=host, port=port, shown=fingerprint(blob), line=entry.line, file=self.path)

    def _is_vouched_for(self, host: str, port: int, certificate: Certificate) -> bool:
        self._refuse_revoked(host, port, certificate.authority)
        for entry in self._load().marked:
            if entry.marker != "@cert-authority" or entry.blob != certificate.authority:
                continue
            if not entry.covers(host, port):
                continue
            fault = fault_of_host_certificate(certificate, host, self._now())
            if fault is None:
                return True
            # OpenSSH would go on with the plain key even when that is new. But a host for which somebody set up an
            # authority is not trusted on first use because its certificate is invalid.
            if certificate.key in (line.blob for line in self._lines_of(host, port)):
                return False
            raise HostCertificateInvalid(
                host=host,
                port=port,
                reason=fault,
                line=entry.line,
                file=self.path,
                shown=fingerprint(certificate.key),
            )
        return False

    def _lines_of(self, host: str, port: int) -> list[KnownHostLine]:
        """The plain keys that are known for a host."""
        return self._load().plain(host_name(host, port))

    def _known(self, host: str, port: int, blob: bytes) -> bool:
        self._refuse_revoked(host, port, blob)
        others = self._lines_of(host, port)
        known = blob in (entry.blob for entry in others)
        if others and not known:
            # The known types were asked for first: a key of another type means that the known key is gone.
            same_type = [entry for entry in others if entry.key_type == key_type(blob)]
            raise self._changed(host, port, blob, (same_type or others)[0])
        return known

    def _changed(self, host: str, port: int, blob: bytes, known: KnownHostLine) -> HostKeyChanged:
        return HostKeyChanged(
            host=host,
            port=port,
            known=fingerprint(known.blob),
            shown=fingerprint(blob),
            line=known.line,
            file=self.path,
        )

    def _load(self) -> KnownHostLines:
        content = self._content
        try:
            if stamp(self.path) != content.stamp:
                texts, read_at = read_lines(self.path)
                lines = KnownHostLines(parse_known_hosts(iter(texts)))
                content.lines, content.line_count, content.stamp = lines, len(texts), read_at
        except FileNotFoundError:
            content.lines, content.line_count, content.stamp = KnownHostLines(()), 0, None
        except (OSError, NoFile) as error:
            raise self._unusable(error) from None
        return content.lines

    def _unusable(self, error: OSError | NoFile) -> KnownHostsUnusable:
        reason = error.text if isinstance(error, NoFile) else words_of(error)
        return KnownHostsUnusable(file=self.path, reason=reason)

    def _add(self, host: str, port: int, blob: bytes) -> None:
        spelt = canonical_host(host)
        if not spelt or set(spelt) & _NOT_IN_NAMES or any(char.isspace() for char in spelt):
            raise KnownHostsUnusable(file=self.path, reason=Text("it cannot hold a host with such a name"))
        line = f"{host_name(host, port)} {key_type(blob).decode('ascii')} {base64.b64encode(blob).decode('ascii')}\n"
        for _ in range(_ATTEMPTS):
            # Another process may have met the host in the meantime.
            if self._known(host, port, blob):
                return
            try:
                added = append(self.path, line)
                if added is not None and self._is_first(host, port, blob, added):
                    return
            except (OSError, NoFile) as error:
                raise self._unusable(error) from None
        raise KnownHostsUnusable(file=self.path, reason=Text("other programs keep replacing it"))

    def _is_first(self, host: str, port: int, blob: bytes, added: Added) -> bool:
        """
        Whether the added line is the first one of its host; ``False``: it is not there any more.

        :raises HostKeyChanged: when another process was faster and saw another key; our line is struck out.
        """
        content = self._content
        as_read = added.before[1] == 0 if content.stamp is None else added.before == content.stamp
        if added.alone and as_read:
            # Nobody else wrote, and to read 10,000 lines again would take 30 ms.
            content.line_count += 1
            name = host_name(host, port)
            content.lines.add(
                KnownHostLine(line=content.line_count, marker="", names=name, key_type=key_type(blob), blob=blob)
            )
            content.stamp = added.after
            return True
        try:
            self._refuse_revoked(host, port, blob)
            others = self._lines_of(host, port)
            if others and others[0].blob != blob:
                raise self._changed(host, port, blob, others[0])
        except SSHError:
            strike(self.path, added)
            raise
        return bool(others)
