"""
How hosts and users are spelt: whoever orders a command chooses the spelling, and gains nothing by it.

Of all spellings of one host, one stands for them all. A user name is taken only if servers see the same in it as we do.
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

#: Longest name of a host, in characters (RFC 1035, section 2.3.4).
MAX_NAME: Final = 255
#: Longest user name taken, in characters: Linux has 32, Windows 20, and a directory's with its domain some 100.
MAX_USERNAME: Final = 256

#: IPv6 networks in which an IPv4 address stands, and how many bits after it.
_EMBEDDING: Final = (
    (IPv6Network("::/96"), 0),  # IPv4-compatible, RFC 4291, section 2.5.5.1
    (IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped, section 2.5.5.2
    (IPv6Network("::ffff:0:0:0/96"), 0),  # IPv4-translated, RFC 2765, section 2.1
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052, section 2.1
    (IPv6Network("64:ff9b:1::/48"), 0),  # NAT64 of one's own, RFC 8215
    (IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056, section 2
)
_LOCALHOST: Final[tuple[Address, ...]] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
#: ``HOST``, ``HOST:PORT`` or ``[HOST]:PORT``; the last for an IPv6 address, which has colons.
_PLACE: Final = re.compile(
    r"(?:\[(?P<bracketed>[^\[\]\s/@,;*?!|#]{1,255})\]|(?P<plain>[^\[\]:\s/@,;*?!|#]{1,255}))(?::(?P<port>[0-9]{1,5}))?"
)
#: What a name has that was put into ASCII.
_PLAIN: Final = re.compile(r"[a-z0-9_.-]+")
_DIGITS: Final = frozenset("0123456789")
#: What can be shown, and is nothing to a directory (RFC 4518, section 2.2), nor to the eye: hyphens that are not shown,
#: the place of an object, the fillers of Hangul. Others are marks, or cannot be shown.
_NOTHING: Final = frozenset("\u1806\ufffc\u115f\u1160")


class CanonicalHost(Struct, frozen=True):
    """
    What a spelling of a host means: the host, and where a connection to it goes.

    :ivar name: the one spelling that stands for all of this host's: rules, known keys, limits and guards go by it. An
        address is as `ipaddress` writes it, an IPv4 address within IPv6 (``::ffff:10.1.2.3``) as IPv4; a name is in
        ASCII and lower case, without a dot at its end.
    :ivar dialled: what is looked up, or connected to. That is *name*, but for two kinds, where the difference may lead
        to another machine: a name with a dot at its end, for which no search domains are tried, keeps the dot, and an
        address that belongs to one network interface (``fe80::1%eth0``) keeps the interface.
    """

    name: str
    dialled: str


@lru_cache(4096)  # the same few hosts come again and again
def read_host(text: str) -> CanonicalHost:
    """What a name or an address means, however it is spelt."""
    address = read_address(text)
    if address is None:
        name = lookup_name(text)
        return CanonicalHost(name.rstrip("."), name.rstrip(".") + "." if name.endswith(".") else name)
    dialled = str(address)
    return CanonicalHost(dialled.partition("%")[0], dialled)


def canonical_host(text: str) -> str:
    """The one spelling of a host, see `CanonicalHost.name`."""
    return read_host(text).name


def dialled_host(text: str) -> str | None:
    """What is looked up or connected to for a host, where that is not its `canonical_host`."""
    host = read_host(text)
    return None if host.dialled == host.name else host.dialled


@lru_cache(4096)
def read_address(text: str) -> Address | None:
    """
    The address that *text* spells, in any way that a resolver understands; ``None`` for a name.

    An IPv4 address within IPv6 (``::ffff:10.1.2.3``) is the IPv4 address. A link-local address keeps its zone; others
    have none, whatever is written there: the system passes over it.
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
    # Not in lower case: "eth0" and "ETH0" are two interfaces. The number of one may have zeros before it.
    zone = address.scope_id
    zone = (zone.lstrip("0") or "0") if zone.isascii() and zone.isdigit() else zone
    return IPv6Address(f"{IPv6Address(int(address))}%{zone}")


def loopback_addresses(host: str) -> tuple[Address, ...]:
    """
    The addresses of this machine that *host* stands for, whatever a name server says; none for any other host.

    ``localhost`` and the names below it are nobody else's, and looked up nowhere (RFC 6761, section 6.3).
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
    # inet_aton(3) takes "10.258", "0x0a010203" and "167838211" too. It would not look at what follows a blank.
    if text[:1] not in _DIGITS or not text.isascii() or not text.isprintable() or " " in text:
        return None
    try:
        return IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None


def lookup_name(name: str) -> str:
    """
    A name as it is looked up, in lower case: of letters, digits and dots of other scripts UTS #46 makes those of ASCII
    (``db．internal``, ``１0.1.2.3``), or ``xn--`` (``bücher``). What cannot be written so cannot be looked up either,
    and stays as it is.

    A zone (``fe80::1%eth0``) keeps its capitals.
    """
    if not name.isascii() and len(name) <= MAX_NAME:
        with suppress(UnicodeError):
            name = _in_ascii(name)
    name, percent, zone = name.partition("%")
    return name.lower() + percent + zone


def _in_ascii(name: str) -> str:
    import idna  # its tables take a megabyte, which most sites never need

    def in_ascii(label: str) -> str:
        if label.isascii():
            return label
        try:
            return idna.encode(label).decode("ascii")
        except UnicodeError:
            # What IDNA of 2008 has not, such as a picture, that of 2003 has, as Python's resolver writes it.
            return label.encode("idna").decode("ascii")

    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except UnicodeError:
        # A label that is none there, such as "my_host", leaves the others as they are without it.
        found = ".".join(map(in_ascii, idna.uts46_remap(name, std3_rules=False).split(".")))
    if not _PLAIN.fullmatch(found):  # a slash or a star in another width has become one
        raise UnicodeError
    return found


def is_host(text: str) -> bool:
    """
    Whether *text* is an address, or can be a name.

    What has no letters but dots (``10.1.2.300``, ``10.1.0.1-10.1.0.9``), or a colon, looks like an address: it is one,
    or a mistake.
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
    """Whether there is no letter in it, but a dot: numbers and signs, as no name has them."""
    return "." in name.rstrip(".") and not any(char.isalpha() for char in name)


def fault_of_username(name: str) -> Text | None:
    """
    Why a name is none that a user may have here: some server would take a part of it for the name, so that rules about
    users would be asked about another one; docs/ssh.rst, "User names", has who does what.
    """
    if len(name) > MAX_USERNAME:
        return Text("is longer than {most} characters", most=MAX_USERNAME)
    if ":" in name or "/" in name:
        # OpenSSH logs in what stands before them: user:style, and with SELinux user/role.
        return Text("contains : or /, before which servers end the name")
    if name != name.strip():
        return Text("begins or ends with a blank")
    return None


@lru_cache(4096)
def folded_username(name: str) -> str:
    """
    A user name as the laxest servers compare it: without regard to capitals, width, accents and what nobody sees. A
    directory may take each of ``Root``, ``ｒｏｏｔ``, ``röot`` and ``root`` with U+FE0F for ``root``.
    """
    whole = normalize("NFKD", normalize("NFKD", name).casefold())
    return "".join(char for char in whole if char not in _NOTHING and not category(char).startswith("M"))
