"""
The spelling of hosts and users. A command chooses its spelling, and must gain nothing by it.

One spelling of each host stands for all of its spellings. A user name is accepted only if every server sees the same
user in it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final
from unicodedata import category, normalize

from msgspec import Struct

from relayd.language.texts import Text

Address = IPv4Address | IPv6Address

#: The longest name of a host, in characters (RFC 1035, section 2.3.4).
MAX_NAME: Final = 255
#: The longest user name, in characters: Linux has 32, Windows 20, and a directory with its domain some 100.
MAX_USERNAME: Final = 256

#: IPv6 networks whose addresses contain an IPv4 address, and the number of bits after it.
_EMBEDDING: Final = (
    (IPv6Network("::/96"), 0),  # IPv4-compatible, RFC 4291, section 2.5.5.1
    (IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped, section 2.5.5.2
    (IPv6Network("::ffff:0:0:0/96"), 0),  # IPv4-translated, RFC 2765, section 2.1
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052, section 2.1
    (IPv6Network("64:ff9b:1::/48"), 0),  # local-use NAT64, RFC 8215
    (IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056, section 2
)
_LOCALHOST: Final[tuple[Address, ...]] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
#: ``HOST``, ``HOST:PORT`` or ``[HOST]:PORT``; the last for an IPv6 address, which has colons.
_PLACE: Final = re.compile(
    r"(?:\[(?P<bracketed>[^\[\]\s/@,;*?!|#]{1,255})\]|(?P<plain>[^\[\]:\s/@,;*?!|#]{1,255}))(?::(?P<port>[0-9]{1,5}))?"
)
#: The characters of a name in ASCII.
_PLAIN: Final = re.compile(r"[a-z0-9_.-]+")
_DIGITS: Final = frozenset("0123456789")
#: Printable characters that a directory ignores (RFC 4518, section 2.2) and nobody sees: a hyphen, the place of an
#: object, the fillers of Hangul. All others are marks, or not printable.
_NOTHING: Final = frozenset("\u1806\ufffc\u115f\u1160")


class CanonicalHost(Struct, frozen=True):
    """
    What a spelling of a host means: the host, and where a connection to it goes.

    :ivar name: the one spelling that stands for all spellings of the host. Rules, known keys and limits use it. An
        address is as `ipaddress` writes it, and an IPv4 address within IPv6 (``::ffff:10.1.2.3``) is IPv4; a name is in
        ASCII and lower case, without a dot at its end.
    :ivar dialled: what is looked up or connected to. It is *name*, with two exceptions where the difference may lead to
        another machine: a name with a dot at its end, for which no search domains are tried, keeps the dot, and a
        link-local address (``fe80::1%eth0``) keeps its network interface.
    """

    name: str
    dialled: str


@lru_cache(4096)  # commands are for the same hosts again and again
def read_host(text: str) -> CanonicalHost:
    """The host that a name or an address in any spelling means."""
    address = read_address(text)
    if address is None:
        name = lookup_name(text)
        return CanonicalHost(name.rstrip("."), name.rstrip(".") + "." if name.endswith(".") else name)
    dialled = str(address)
    return CanonicalHost(dialled.partition("%")[0], dialled)


def canonical_host(text: str) -> str:
    """The spelling that stands for all of a host, see `CanonicalHost.name`."""
    return read_host(text).name


def dialled_host(text: str) -> str | None:
    """What is looked up or connected to for a host; ``None``: its `canonical_host`."""
    host = read_host(text)
    return None if host.dialled == host.name else host.dialled


@lru_cache(4096)
def read_address(text: str) -> Address | None:
    """
    Read an address in any spelling that a resolver accepts; ``None``: it is a name.

    An IPv4 address within IPv6 (``::ffff:10.1.2.3``) is the IPv4 address. Only a link-local address keeps its zone: the
    system ignores that of others.
    """
    text = lookup_name(text).rstrip(".")
    if ":" not in text:
        return _read_version_4(text)
    try:
        address = IPv6Address(text)
    except ValueError:
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.scope_id is None:
        return address
    if not address.is_link_local:
        return IPv6Address(int(address))
    # Not in lower case: "eth0" and "ETH0" are two interfaces. The number of an interface may begin with zeros.
    zone = address.scope_id
    zone = (zone.lstrip("0") or "0") if zone.isascii() and zone.isdigit() else zone
    return IPv6Address(f"{IPv6Address(int(address))}%{zone}")


def loopback_addresses(host: str) -> tuple[Address, ...]:
    """
    The loopback addresses of *host*, whatever a name server says; empty: it is another host.

    ``localhost`` and the names below it always mean this machine, and are not looked up (RFC 6761, section 6.3).
    """
    name = canonical_host(host)
    if name == "localhost" or name.endswith(".localhost"):
        return _LOCALHOST
    address = read_address(host)
    return (address,) if address is not None and address.is_loopback else ()


def embedded_addresses(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that an IPv6 address may lead to."""
    if isinstance(address, IPv6Address) and int(address) > 1:  # not ::1
        for network, bits in _EMBEDDING:
            if address in network:
                yield IPv4Address(int(address) >> bits & 0xFFFFFFFF)


def _read_version_4(text: str) -> IPv4Address | None:
    # inet_aton(3) accepts "10.258", "0x0a010203" and "167838211", too. It ignores what follows a blank.
    if text[:1] not in _DIGITS or not text.isascii() or not text.isprintable() or " " in text:
        return None
    try:
        return IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None


def lookup_name(name: str) -> str:
    """
    A name as it is looked up: in ASCII and lower case.

    UTS #46 turns letters, digits and dots of other scripts into those of ASCII (``db．internal``, ``１0.1.2.3``), or
    into ``xn--`` (``bücher``). A name for which that is not possible cannot be looked up, and stays as it is. A zone
    (``fe80::1%eth0``) keeps its capitals.
    """
    if not name.isascii() and len(name) <= MAX_NAME:
        with suppress(UnicodeError):
            name = _in_ascii(name)
    name, percent, zone = name.partition("%")
    return name.lower() + percent + zone


def _in_ascii(name: str) -> str:
    import idna  # its tables take a megabyte, and most sites never need them

    def in_ascii(label: str) -> str:
        if label.isascii():
            return label
        try:
            return idna.encode(label).decode("ascii")
        except UnicodeError:
            # IDNA 2008 does not have it, such as a picture; Python's resolver uses IDNA 2003.
            return label.encode("idna").decode("ascii")

    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except UnicodeError:
        # One label may not be of IDNA, such as "my_host": encode each by itself.
        found = ".".join(map(in_ascii, idna.uts46_remap(name, std3_rules=False).split(".")))
    if not _PLAIN.fullmatch(found):  # a slash or a star in another width has become one
        raise UnicodeError
    return found


def is_host(text: str) -> bool:
    """
    Whether *text* is an address, or can be a name.

    A text with dots and no letters (``10.1.2.300``, ``10.1.0.1-10.1.0.9``), or with a colon, looks like an address. If
    it is none, it is a mistake.
    """
    if read_address(text) is not None:
        return True
    name = lookup_name(text)
    labels = name.removesuffix(".").split(".")
    return name.isascii() and all(labels) and ":" not in name and "%" not in name and not looks_like_address(name)


class Destination(Struct, frozen=True):
    """
    Where to log in, as ssh(1) takes it.

    :ivar host: as it was written, without brackets.
    :ivar username: ``None``: it was not named.
    """

    host: str
    port: int
    username: str | None


def read_destination(text: str) -> Destination:
    """
    Read ``[USER@]HOST[:PORT]``; an IPv6 address stands in brackets.

    :raises ValueError: for anything else.
    """
    username, at, place = text.rpartition("@")
    found = _PLACE.fullmatch(place)
    if found is None or (at and (not username or fault_of_username(username))):
        raise ValueError("not of the form [user@]host[:port]")
    host = found["bracketed"] or found["plain"]
    port = int(found["port"] or 22)
    if not is_host(host) or not 0 < port < 65536:
        raise ValueError("not of the form [user@]host[:port]")
    return Destination(host, port, username or None)


def looks_like_address(name: str) -> bool:
    """Whether a text has a dot and no letter: no name is like that."""
    return "." in name.rstrip(".") and not any(char.isalpha() for char in name)


def fault_of_username(name: str) -> Text | None:
    """
    Why a user name is not accepted; ``None``: it is.

    Of such a name, some servers would take a part for the user, and rules for users would be asked about another name
    (docs/ssh.rst, "User names").
    """
    if len(name) > MAX_USERNAME:
        return Text("is longer than {most} characters", most=MAX_USERNAME)
    if ":" in name or "/" in name:
        # OpenSSH logs in the part before them: user:style, and with SELinux user/role.
        return Text("contains : or /, where some servers end the name")
    if name != name.strip():
        return Text("begins or ends with a blank")
    return None


@lru_cache(4096)
def folded_username(name: str) -> str:
    """
    A user name as the laxest servers compare it: without capitals, width, accents and invisible characters.

    A directory may take each of ``Root``, ``ｒｏｏｔ``, ``röot`` and ``root`` with U+FE0F for ``root``.
    """
    whole = normalize("NFKD", normalize("NFKD", name).casefold())
    return "".join(char for char in whole if char not in _NOTHING and not category(char).startswith("M"))
