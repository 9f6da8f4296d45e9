"""
Patterns of hosts and users: names and addresses as somebody wrote them, with wildcards, networks and exceptions.

Who orders a command chooses how the host is spelt, so every spelling of an address must mean the same here.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: A pattern with digits, dots and wildcards only means addresses: ``10.1.*`` is not for ``10.1.example.com``.
_ADDRESS_LIKE = re.compile(r"[0-9.*?]*[0-9][0-9.*?]*")
#: One that may mean an address: ``fe*`` names hosts, and not what happens to be ``fe80::1``.
_FOR_ADDRESSES = re.compile(r"[0-9.*?]*|.*:.*")
_WITH_PORT = re.compile(r"\[([^\[\]]+)\]:(\d{1,5})")


_LOCALHOST: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


def covers_host(patterns: Iterable[str], host: str, port: int) -> bool:
    """
    Whether a host is one that *patterns* name, and none that one of them leaves out. No name is looked up.

    :param patterns: names and addresses with ``*`` and ``?``, networks such as ``10.1.0.0/16``, each with ``!`` before
        it for what is left out, or as ``[PATTERN]:PORT`` for one port only.
    """
    hits = [pattern.startswith("!") for pattern in patterns if matches_host(pattern.removeprefix("!"), host, port)]
    return bool(hits) and not any(hits)


def covers_user(patterns: Iterable[str], user: str) -> bool:
    """Whether *patterns* name a user: with ``*`` and ``?``, and ``!`` before those that are left out, wherever."""
    hits = [
        pattern.startswith("!")
        for pattern in patterns
        if fnmatchcase(user, pattern.removeprefix("!").replace("[", "[[]"))
    ]
    return bool(hits) and not any(hits)


def matches_host(pattern: str, host: str, port: int) -> bool:
    """Whether one pattern of `covers_host`, without ``!``, is for a host."""
    wanted, network, for_names, for_addresses, expression = _read_pattern(pattern)
    if wanted not in (None, port):
        return False
    address = read_address(host)
    if address is None:
        return for_names and expression.fullmatch(_canonical(host)) is not None
    if network is not None:
        return address in network
    return for_addresses and expression.fullmatch(str(address)) is not None  # however it was spelt


def split_port(pattern: str) -> tuple[str, int | None]:
    """``[PATTERN]:PORT`` as pattern and port; ``None`` where it is for all ports."""
    found = _WITH_PORT.fullmatch(pattern)
    return (found[1], int(found[2])) if found else (pattern, None)


def means_addresses(pattern: str) -> bool:
    """Whether a pattern is for addresses, by which a name cannot be told before it is looked up."""
    pattern = split_port(pattern)[0]
    return "/" in pattern or _FOR_ADDRESSES.fullmatch(pattern) is not None


@lru_cache(4096)  # the same few hosts come again and again
def read_address(text: str) -> Address | None:
    """
    The address that *text* spells, in any way that a resolver understands; ``None`` for a name.

    An IPv4 address within IPv6 (``::ffff:10.1.2.3``) is the IPv4 address.
    """
    text = _canonical(text)
    try:
        address = ip_address(text)
    except ValueError:
        if not text.isascii() or not text.isprintable() or " " in text:
            return None  # inet_aton(3) would not look at what follows a blank
        try:  # "10.258", "0x0a010203", "167838211": inet_aton(3)
            return IPv4Address(socket.inet_aton(text))
        except (OSError, ValueError):
            return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def loopback_addresses(host: str) -> tuple[Address, ...]:
    """
    The addresses of this machine that *host* stands for, whatever a name server says; none for any other host.

    ``localhost`` and the names below it are nobody else's, and looked up nowhere (RFC 6761, section 6.3).
    """
    name = _canonical(host)
    if name == "localhost" or name.endswith(".localhost"):
        return _LOCALHOST
    address = read_address(host)
    return (address,) if address is not None and address.is_loopback else ()


def read_network(text: str) -> Network:
    """
    A network, or one address as a network of its own.

    :raises ValueError: for anything else.
    """
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((int(mapped), network.prefixlen - 96))
    return network


@lru_cache(4096)
def _read_pattern(pattern: str) -> tuple[int | None, Network | None, bool, bool, re.Pattern[str]]:
    """Port, network, whether it is for names, whether for addresses, and what these look like."""
    pattern, port = split_port(pattern)
    pattern = _canonical(pattern)
    try:
        network = read_network(pattern)
    except ValueError:
        network = None
    # Whoever orders commands chooses the host: of ".*" in a row, each would try anew all that the others tried.
    expression = re.compile(translate(pattern.replace("[", "[[]")))
    for_names = _ADDRESS_LIKE.fullmatch(pattern) is None
    return port, network, for_names, _FOR_ADDRESSES.fullmatch(pattern) is not None, expression


@lru_cache(4096)
def _canonical(name: str) -> str:
    """
    A name as it is looked up: other scripts have letters and dots of their own, of which ``getaddrinfo`` makes those
    of ASCII (RFC 3490).
    """
    if not name.isascii():
        with suppress(UnicodeError):  # what cannot be written so cannot be looked up either
            name = name.encode("idna").decode("ascii")
    return name.lower().rstrip(".")
