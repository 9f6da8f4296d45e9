"""
Where a request came from, behind reverse proxies that say so in ``X-Forwarded-For``.  Decisions only, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from relayd.network.patterns import Network
from relayd.network.spelling import Address


def client_address(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """
    The address of a client: the nearest one that is not a proxy of ours.

    Each proxy adds the address that it was called from at the end, so what stands before an address that is not
    trusted was written by the client, and is not read.

    :param peer: the address at the other end of the connection; anything else, such as the path of a Unix socket, is no
        address and is not trusted.
    :param forwarded: the values of all ``X-Forwarded-For``, with commas between; empty where there is none.
    :param trusted: the networks of the proxies.
    :return: its canonical spelling; empty where a proxy that is trusted names no address.
    """
    named = [part.strip() for part in forwarded.split(",")] if forwarded.strip() else []
    nearest = peer
    while is_within(nearest, trusted) and named:
        nearest = named.pop()
    address = address_in(nearest)
    return "" if address is None else str(address)


def is_within(address: str, networks: Sequence[Network]) -> bool:
    """Whether *address* is one, and in one of *networks*."""
    read = address_in(address)
    return read is not None and any(read in network for network in networks)


def address_in(text: str) -> Address | None:
    """
    The address in *text*, also in brackets or with a port; ``None``: there is none.

    An IPv4 address within an IPv6 one (``::ffff:10.0.0.1``), as sockets for both kinds have it, is that IPv4 address.
    """
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        read = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return read.ipv4_mapped or read if isinstance(read, IPv6Address) else read
