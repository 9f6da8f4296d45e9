"""
Patterns of hosts: names and addresses as somebody wrote them, with wildcards, networks and exceptions.

Who orders a command chooses how the host is spelt, so every spelling of an address must mean the same here.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

#: A pattern with digits, dots and wildcards only means addresses: ``10.1.*`` is not for ``10.1.example.com``.
_ADDRESS_LIKE = re.compile(r"[0-9.*?]*[0-9][0-9.*?]*")
_WITH_PORT = re.compile(r"\[([^\[\]]+)\]:(\d{1,5})")


def covers_host(patterns: Iterable[str], host: str, port: int) -> bool:
    """
    Whether a host is one that *patterns* name, and none that one of them leaves out. No name is looked up.

    :param patterns: names and addresses with ``*`` and ``?``, networks such as ``10.1.0.0/16``, each with ``!`` before
        it for what is left out, or as ``[PATTERN]:PORT`` for one port only.
    """
    name = host.lower().rstrip(".")
    address = read_address(name)
    hits = [pattern.startswith("!") for pattern in patterns if _matches(pattern.removeprefix("!"), name, address, port)]
    return bool(hits) and not any(hits)


def read_address(text: str) -> Address | None:
    """
    The address that *text* spells, in any way that a resolver understands; ``None`` for a name.

    An IPv4 address within IPv6 (``::ffff:10.1.2.3``) is the IPv4 address.
    """
    try:
        address = ip_address(text)
    except ValueError:
        try:  # "10.258", "0x0a010203", "167838211": inet_aton(3)
            return IPv4Address(socket.inet_aton(text))
        except (OSError, ValueError):
            return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def read_network(text: str) -> IPv4Network | IPv6Network:
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


def _matches(pattern: str, name: str, address: Address | None, port: int) -> bool:
    pattern = pattern.lower()
    with_port = _WITH_PORT.fullmatch(pattern)
    if with_port is not None:
        pattern, wanted = with_port[1], int(with_port[2])
        if wanted != port:
            return False
    if address is not None:
        try:
            return address in read_network(pattern)
        except ValueError:
            name = str(address)  # however it was spelt
    elif _ADDRESS_LIKE.fullmatch(pattern):
        return False
    return re.fullmatch(re.escape(pattern.rstrip(".")).replace(r"\*", ".*").replace(r"\?", "."), name) is not None
