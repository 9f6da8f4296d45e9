"""
The lines of OpenSSH's ``known_hosts`` file: read, and found by the host that they are for. No I/O.

Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hmac
from collections.abc import Iterable, Iterator

from msgspec import Struct

from relayd.network.spelling import canonical_host, read_address
from relayd.ssh.keys.types import key_type

#: Characters that make the first column more than a list of names.
_PATTERN = frozenset("*?!|")
#: Salt and digest of a hashed name.
_Hash = tuple[bytes, bytes]
#: Names for which the matching patterns are remembered.
_MAX_NAMES = 10_000


class KnownHostLine(Struct, frozen=True):
    """
    One line of the file, which holds a key.

    :ivar line: its number.
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
        """Whether this line is for *name*, which is ``host`` or ``[host]:port``."""
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
        Whether this line, which has a marker, is for a host.

        It may name the host without its port: so OpenSSH reads authorities for ports other than 22, too.
        """
        return self.matches(host_name(host, port)) or self.matches(canonical_host(host))


class KnownHostLines:
    """
    The lines of a file, by the names in them: a host among thousands is found without a look at each line.

    :ivar marked: the lines with a marker.
    """

    def __init__(self, entries: Iterable[KnownHostLine]) -> None:
        self.marked: list[KnownHostLine] = []
        self._by_name: dict[str, list[KnownHostLine]] = {}
        self._patterns: list[KnownHostLine] = []
        self._hashed: list[tuple[_Hash, KnownHostLine]] = []
        #: The patterns and hashes that match a name: to compare it with 10,000 hashes takes some 30 ms.
        self._matching: dict[str, list[KnownHostLine]] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: KnownHostLine) -> None:
        """Add a line after the others."""
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

    def plain(self, name: str) -> list[KnownHostLine]:
        """The lines without a marker that are for *name*, in their order."""
        found = self._matching.get(name)
        if found is None:
            if len(self._matching) >= _MAX_NAMES:
                self._matching.clear()
            spellings = _hashed_spellings(name)
            found = [entry for entry in self._patterns if entry.matches(name)]
            found += [entry for hashed, entry in self._hashed if _is_of(hashed, spellings)]
            self._matching[name] = found
        return sorted([*self._by_name.get(name, ()), *found], key=lambda entry: entry.line)


def host_name(host: str, port: int) -> str:
    """The name of a host in the file: its canonical spelling, with the port where that is not 22."""
    name = canonical_host(host)
    return name if port == 22 else f"[{name}]:{port}"


def _canonical_name(text: str) -> str:
    """
    The `host_name` for a name in the file, or for a pattern.

    Earlier versions, other programs and people write other spellings of a host; their lines count, too.
    """
    host, bracket, port = text[1:].rpartition("]:") if text.startswith("[") else (text, "", "")
    if not bracket:
        return canonical_host(text)
    return f"[{canonical_host(host)}]:{port}"


def _hashed_spellings(name: str) -> list[bytes]:
    """
    How a name may have been spelt before it was hashed: as it is now, or in the other common way.

    That is a dot at the end of a name, and ``::ffff:`` before an IPv4 address, as IPv6 sockets show it.
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


def parse_known_hosts(lines: Iterator[str]) -> Iterator[KnownHostLine]:
    """The lines that hold a key. Comments, and lines that are not of the format, are skipped, as by OpenSSH."""
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
            yield KnownHostLine(line=number, marker=marker, names=fields[0], key_type=key_type(blob), blob=blob)


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
