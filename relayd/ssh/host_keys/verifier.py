"""
The known host keys: OpenSSH's ``known_hosts`` file, read and added to.

Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"; certificates: OpenSSH's PROTOCOL.certkeys.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from msgspec import Struct

from relayd.language.texts import Text
from relayd.network.descriptors import words_of
from relayd.network.spelling import canonical_host, read_address
from relayd.ssh.errors import (
    HostCertificateInvalid,
    HostKeyChanged,
    HostKeyRevoked,
    HostKeyUnexpected,
    HostKeyUnknown,
    KnownHostsUnusable,
    SSHError,
)
from relayd.ssh.host_keys.file import Added, NoFile, Stamp, append, read_lines, stamp, strike
from relayd.ssh.keys.certificates import Certificate, certified_key, fault_of_host_certificate, parse_certificate
from relayd.ssh.keys.types import HOST_CERTIFICATE_TYPES, is_certified, key_type
from relayd.ssh.settings import HostKeyPolicy

#: What would make a pattern, a list, a marker or a comment of a name.
_NOT_IN_NAMES = frozenset("*?!,|#@[]")
#: What makes more of a first column than a list of names.
_PATTERN = frozenset("*?!|")
#: Salt and digest of a hashed name.
_Hash = tuple[bytes, bytes]
#: How often a file may be replaced while a line is added to it.
_ATTEMPTS = 5
#: Names for which it is remembered which patterns match them.
_MOST_NAMES = 10_000


class KnownHost(Struct, frozen=True):
    """
    One line of the file.

    :ivar marker: ``@revoked``, ``@cert-authority`` or empty.
    :ivar names: the first column: patterns with commas between, or one hashed name.
    :ivar blob: the public key (RFC 4253, section 6.6).
    """

    line: int
    marker: str
    names: str
    key_type: bytes
    blob: bytes

    def matches(self, name: str) -> bool:
        """Whether this line speaks of *name*, which is ``host`` or ``[host]:port``."""
        if self.names.startswith("|1|"):
            hashed = _read_hash(self.names)
            return hashed is not None and _is_of(hashed, _hashed_spellings(name))
        found = False
        for pattern in self.names.split(","):
            negated = pattern.startswith("!")
            # fnmatch would read brackets as a set of characters; here they surround a host.
            expression = _canonical_name(pattern.removeprefix("!")).replace("[", "[[]")
            if fnmatch.fnmatchcase(name, expression):
                if negated:
                    return False
                found = True
        return found

    def covers(self, host: str, port: int) -> bool:
        """
        Whether this line, which has a marker, speaks of a host: with its port, or, as OpenSSH reads authorities for
        ports other than 22 too, without.
        """
        return self.matches(host_name(host, port)) or self.matches(canonical_host(host))


class _Lines:
    """
    What a file holds, so that a host among thousands is found without a look at each of them.

    :ivar marked: the lines with a marker.
    """

    def __init__(self, entries: Iterable[KnownHost]) -> None:
        self.marked: list[KnownHost] = []
        self._by_name: dict[str, list[KnownHost]] = {}
        self._patterns: list[KnownHost] = []
        self._hashed: list[tuple[_Hash, KnownHost]] = []
        #: What of these matches a name: to look through 10,000 hashed names takes some 30 ms.
        self._matching: dict[str, list[KnownHost]] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: KnownHost) -> None:
        """One more line, after the others."""
        if entry.marker:
            self.marked.append(entry)
        elif _PATTERN.isdisjoint(entry.names):
            for name in set(map(_canonical_name, entry.names.split(","))):
                self._by_name.setdefault(name, []).append(entry)
        else:
            hashed = _read_hash(entry.names)
            if hashed is not None:
                self._hashed.append((hashed, entry))
            else:
                self._patterns.append(entry)
            self._matching.clear()

    def plain(self, name: str) -> list[KnownHost]:
        """The lines without a marker that speak of *name*, in their order."""
        found = self._matching.get(name)
        if found is None:
            if len(self._matching) >= _MOST_NAMES:
                self._matching.clear()
            spellings = _hashed_spellings(name)
            found = [entry for entry in self._patterns if entry.matches(name)]
            found += [entry for hashed, entry in self._hashed if _is_of(hashed, spellings)]
            self._matching[name] = found
        return sorted([*self._by_name.get(name, ()), *found], key=lambda entry: entry.line)


class HostKeyVerifier(Protocol):
    """Knows which key a host should have."""

    def key_types(self, host: str, port: int) -> frozenset[bytes]:
        """The types of key to ask the host for first, and those of certificates, where it may show one."""

    def verify(self, host: str, port: int, blob: bytes) -> None:
        """
        Check the key or the certificate that a host showed, and proved to have the private key of.

        :raises SSHError: when it must not be trusted.
        """


class ExpectedHostKey:
    """
    One key, by its fingerprint: whatever any file says.

    :param fingerprint: ``SHA256:…`` as OpenSSH shows it, after the type of key and a blank where that is known.
    """

    def __init__(self, fingerprint: str) -> None:
        self._type, _, self._digest = fingerprint.rpartition(" ")

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


class KnownHosts:
    """
    The host keys that one file holds, under a policy for those that it does not hold.

    The file is read again when it has changed; several processes may add to it, and replace it.

    :param path: need not exist yet.
    :param now: gives the time of day, in Unix time.
    :ivar policy: may be changed at any time.
    """

    def __init__(self, path: str, policy: HostKeyPolicy, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self.policy = policy
        self._now = now
        self._lines = _Lines(())
        self._line_count = 0
        self._stamp: Stamp | None = None

    def key_types(self, host: str, port: int) -> frozenset[bytes]:
        """
        The types of key known for a host; those of certificates too, where the file has an authority for it.

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

        A certificate of an authority that the file does not have for this host counts for no more than its key.

        :param blob: the public key (RFC 4253, section 6.6), or a certificate.
        :param detour: see `relayd.ssh.target.Target.detour`: a new key is remembered for this way alone, under
            ``HOST/DETOUR``, which is no name that a host can have.
        :raises HostCertificateInvalid: when the file has its authority, but it is not good for this host now, and its
            key is not known by itself.
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
            # OpenSSH would go on with the plain key even when that is new; where an authority was set up for the host,
            # a certificate that does not hold is no reason to trust on first use.
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

    def _lines_of(self, host: str, port: int) -> list[KnownHost]:
        """The plain keys that are known for a host."""
        return self._load().plain(host_name(host, port))

    def _known(self, host: str, port: int, blob: bytes) -> bool:
        self._refuse_revoked(host, port, blob)
        others = self._lines_of(host, port)
        known = blob in (entry.blob for entry in others)
        if others and not known:
            # The types known were asked for first, so a key of another type means that the known one is gone.
            same_type = [entry for entry in others if entry.key_type == key_type(blob)]
            raise self._changed(host, port, blob, (same_type or others)[0])
        return known

    def _changed(self, host: str, port: int, blob: bytes, known: KnownHost) -> HostKeyChanged:
        return HostKeyChanged(
            host=host,
            port=port,
            known=fingerprint(known.blob),
            shown=fingerprint(blob),
            line=known.line,
            file=self.path,
        )

    def _load(self) -> _Lines:
        try:
            if stamp(self.path) != self._stamp:
                lines, read = read_lines(self.path)
                self._lines, self._line_count, self._stamp = _Lines(parse_known_hosts(iter(lines))), len(lines), read
        except FileNotFoundError:
            self._lines, self._line_count, self._stamp = _Lines(()), 0, None
        except (OSError, NoFile) as error:
            raise self._unusable(error) from None
        return self._lines

    def _unusable(self, error: OSError | NoFile) -> KnownHostsUnusable:
        reason = error.text if isinstance(error, NoFile) else words_of(error)
        return KnownHostsUnusable(file=self.path, reason=reason)

    def _add(self, host: str, port: int, blob: bytes) -> None:
        spelt = canonical_host(host)
        if not spelt or set(spelt) & _NOT_IN_NAMES or any(char.isspace() for char in spelt):
            raise KnownHostsUnusable(file=self.path, reason=Text("a host of such a name cannot stand in it"))
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
        raise KnownHostsUnusable(file=self.path, reason=Text("it is being replaced all the time"))

    def _is_first(self, host: str, port: int, blob: bytes, added: Added) -> bool:
        """
        Whether the line that was added is the first of its host; ``False``: it is not there any more.

        :raises HostKeyChanged: when another process was faster, and was shown another key; the line is taken back.
        """
        as_read = added.before[1] == 0 if self._stamp is None else added.before == self._stamp
        if added.alone and as_read:
            # Nobody else wrote: to read 10,000 lines again for this one would take 30 ms.
            self._line_count += 1
            name = host_name(host, port)
            self._lines.add(KnownHost(line=self._line_count, marker="", names=name, key_type=key_type(blob), blob=blob))
            self._stamp = added.after
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


def host_name(host: str, port: int) -> str:
    """How the file names a host: by the spelling that stands for all of its; the port only when it is not 22."""
    name = canonical_host(host)
    return name if port == 22 else f"[{name}]:{port}"


def _canonical_name(text: str) -> str:
    """
    What `host_name` would have made of a name of the file, or of a pattern. Former versions, other programs and people
    write hosts as somebody spelt them; what is known by such a line stays known.
    """
    host, bracket, port = text[1:].rpartition("]:") if text.startswith("[") else (text, "", "")
    if not bracket:
        return canonical_host(text)
    return f"[{canonical_host(host)}]:{port}"


def _hashed_spellings(name: str) -> list[bytes]:
    """
    How a name may have been spelt before it was hashed, which nobody can tell: as it is now, or in the one other way
    that is common, a name with a dot at its end and an IPv4 address as sockets of IPv6 show it.
    """
    host, bracket, port = name[1:].rpartition("]:") if name.startswith("[") else (name, "", "")
    host = host if bracket else name
    address = read_address(host)
    if address is None:
        other = f"{host}."
    elif address.version == 4:
        other = f"::ffff:{address}"
    else:
        return [name.encode("utf-8")]
    return [name.encode("utf-8"), (f"[{other}]:{port}" if bracket else other).encode("utf-8")]


def fingerprint(blob: bytes) -> str:
    """A public key as OpenSSH shows it: type and ``SHA256:…``."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")
    return f"{key_type(blob).decode('ascii', 'replace')} SHA256:{digest}"


def parse_known_hosts(lines: Iterator[str]) -> Iterator[KnownHost]:
    """The lines that hold a key; comments, and lines that are not of the format, are passed over as OpenSSH does."""
    for number, text in enumerate(lines, start=1):
        fields = text.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked", "@cert-authority"):
            continue
        try:
            blob = base64.b64decode(fields[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        if key_type(blob) == fields[1].encode("utf-8"):
            yield KnownHost(line=number, marker=marker, names=fields[0], key_type=key_type(blob), blob=blob)


def _read_hash(names: str) -> _Hash | None:
    """Salt and digest of ``|1|SALT|DIGEST``, which stands for a name (ssh-keygen(1), option ``-H``: HMAC-SHA1)."""
    try:
        _, kind, salt, digest = names.split("|")
        return (base64.b64decode(salt), base64.b64decode(digest)) if kind == "1" else None
    except (binascii.Error, ValueError):
        return None


def _is_of(hashed: _Hash, spellings: list[bytes]) -> bool:
    salt, digest = hashed
    return digest in [hmac.digest(salt, spelt, "sha1") for spelt in spellings]
