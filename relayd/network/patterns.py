"""
Patterns of hosts and users: names and addresses as somebody wrote them, with wildcards, networks and exceptions.

Who orders a command chooses how host and user are spelt, so every spelling must mean the same here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import chain
from string import punctuation

from relayd.network.spelling import (
    Address,
    embedded_addresses,
    fault_of_username,
    folded_username,
    is_host,
    looks_like_address,
    lookup_name,
    read_address,
)

Network = IPv4Network | IPv6Network

#: A pattern with digits, dots and wildcards only means addresses: ``10.1.*`` is not for ``10.1.example.com``.
_ADDRESS_LIKE = re.compile(r"[0-9.*?]*[0-9][0-9.*?]*")
#: One that may mean an address: ``fe*`` names hosts, and not what happens to be ``fe80::1``.
_FOR_ADDRESSES = re.compile(r"[0-9.*?]*|.*:.*")
_WITH_PORT = re.compile(r"\[([^\[\]]+)\]:(\d{1,5})")
#: What can be seen of ASCII, without signs that mean something else.
_VISIBLE = re.compile(r"((?![!@\[\],#|])[!-~])+")
#: One of the four numbers of an address, as it is usually written, or what stands for it.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,2}|[0-9]*[*?][0-9*?]*")
#: A port without brackets (``db:22``), or brackets without a port.
_WRONG_BRACKETS = re.compile(r"[^:]*:[0-9]+|.*[\[\]].*")
#: An address of IPv6 with wildcards; one with an IPv4 address in it is that one, and matches nothing that has colons.
_OF_VERSION_6 = re.compile(r"[0-9A-Fa-f:*?]+")
#: Zeros that may stand before a number of such an address.
_LEADING_ZEROS = re.compile(r"(?<![0-9a-f*?])0+(?=[0-9a-f])")
#: What servers, directories and bastions put between a user's name and what else they take there, such as a domain.
_SEPARATORS = re.compile(f"([{re.escape(''.join(set(punctuation) - set('._-$*?')))}])")


def covers_host(patterns: Iterable[str], host: str, port: int) -> bool:
    """
    Whether a host is one that *patterns* name, and none that one of them leaves out. No name is looked up.

    :param patterns: names and addresses with ``*`` and ``?``, networks such as ``10.1.0.0/16``, each with ``!`` before
        it for what is left out, or as ``[PATTERN]:PORT`` for one port only.
    """
    address = read_address(host)
    # What is left out is so by whichever IPv6 address leads to it, too.
    faces = () if address is None else tuple(map(str, embedded_addresses(address)))
    found = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if any(matches_host(pattern[1:], face, port) for face in (host, *faces)):
                return False
        elif not found:
            found = matches_host(pattern, host, port)
    return found


def covers_user(patterns: Iterable[str], user: str) -> bool:
    """
    Whether *patterns* name a user: with ``*`` and ``?``, and ``!`` before those that are left out, wherever.

    A server may take a part of the name for the user: ``CORP\\root``, ``root@corp``, ``root+c`` (docs/ssh.rst, "User
    names"). So a wildcard does not reach beyond such signs, but for ``*`` alone, and what is left out is left out as a
    part too, in capitals or not.
    """
    found = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if _leaves_out(pattern[1:], user):
                return False
        elif not found:
            found = _names_user(pattern, user)
    return found


def check_host_pattern(pattern: str) -> None:
    """
    See that a pattern of hosts means something, and nothing else than who wrote it meant.

    :param pattern: without ``!``.
    :raises ValueError: what was expected, and the pattern.
    """
    plain, port = split_port(pattern)
    address_like = ":" in plain or looks_like_address(plain) or read_address(plain) is not None
    if _WRONG_BRACKETS.fullmatch(plain) or not 0 < (1 if port is None else port) < 65536:
        raise ValueError("a network, an address, a name, or [PATTERN]:PORT for one port", pattern)
    if "/" in plain and not _is_network(plain):
        raise ValueError("a network like 10.1.0.0/16, without bits beyond its length", pattern)
    if "%" in plain and ":" in plain:
        raise ValueError("an address without its zone (%…): a rule is for all network interfaces", pattern)
    if "*" in plain or "?" in plain:
        if address_like and not _is_wild_address(plain):
            raise ValueError("an address with wildcards like 10.1.* or fd00:*, or a network like 10.1.0.0/16", pattern)
        usable = _VISIBLE.fullmatch(plain)  # of other scripts, all of a name is written in another way
    else:
        if address_like and not _is_network(plain):
            raise ValueError("an address as it is usually written, like 10.1.2.3 or fd00::1, or a network", pattern)
        usable = _VISIBLE.fullmatch(lookup_name(plain)) if address_like or is_host(plain) else None
    if usable is None:
        raise ValueError("a network, an address, a name, or [PATTERN]:PORT for one port", pattern)


def check_user_pattern(pattern: str) -> None:
    """
    See that a pattern of users can match one.

    :param pattern: without ``!``.
    :raises ValueError: what was expected, and the pattern.
    """
    if not pattern or not pattern.isprintable() or fault_of_username(pattern):
        raise ValueError("a user name or a pattern of some, without : and /, which no user name has here", pattern)


def matches_host(pattern: str, host: str, port: int) -> bool:
    """Whether one pattern of `covers_host`, without ``!``, is for a host."""
    wanted, network, for_names, for_addresses, expression = _read_pattern(pattern)
    if wanted not in (None, port):
        return False
    address = read_address(host)
    if address is None:
        return for_names and expression.fullmatch(_name(host)) is not None
    if network is not None:
        return address in network
    if not for_addresses or (address.version == 6 and "." in pattern):  # spellings of ours have no dots: many are saved
        return False
    return any(map(expression.fullmatch, _spellings(address)))


def split_port(pattern: str) -> tuple[str, int | None]:
    """``[PATTERN]:PORT`` as pattern and port; ``None`` where it is for all ports."""
    found = _WITH_PORT.fullmatch(pattern)
    return (found[1], int(found[2])) if found else (pattern, None)


def means_addresses(pattern: str) -> bool:
    """Whether a pattern is for addresses, by which a name cannot be told before it is looked up."""
    pattern = split_port(pattern)[0]
    return "/" in pattern or _FOR_ADDRESSES.fullmatch(pattern) is not None


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
    pattern = _name(pattern)
    try:
        network = read_network(pattern)
    except ValueError:
        network = None
    if ":" in pattern:
        pattern = _LEADING_ZEROS.sub("", pattern)
    # Whoever orders commands chooses the host: of ".*" in a row, each would try anew all that the others tried.
    expression = re.compile(translate(pattern.replace("[", "[[]")))
    for_names = _ADDRESS_LIKE.fullmatch(pattern) is None
    return port, network, for_names, _FOR_ADDRESSES.fullmatch(pattern) is not None, expression


@lru_cache(4096)
def _spellings(address: Address) -> tuple[str, ...]:
    """
    An address as somebody may write its beginning or end before a wildcard, whatever its zone: of IPv6, any zeros in a
    row may be left out, so that ``fd00:0:*`` and ``fd00::*`` are both for ``fd00::1``.
    """
    if address.version == 4:
        return (str(address),)
    groups = [f"{int(address) >> shift & 0xFFFF:x}" for shift in range(112, -1, -16)]
    found = [":".join(groups)]
    for begin in range(8):
        for end in range(begin + 1, 9):
            if groups[end - 1] != "0":
                break
            found.append(f"{':'.join(groups[:begin])}::{':'.join(groups[end:])}")
    return tuple(found)


@lru_cache(4096)
def _name(text: str) -> str:
    return lookup_name(text).rstrip(".")


def _is_network(text: str) -> bool:
    try:
        read_network(text)
    except ValueError:
        return False
    return True


def _is_wild_address(text: str) -> bool:
    """Whether some address may match a text with wildcards."""
    if ":" in text:
        return _OF_VERSION_6.fullmatch(text) is not None
    numbers = text.split(".")
    if not all(map(_NUMBER.fullmatch, numbers)) or len(numbers) > 4:
        return False
    return all(number.strip("0123456789") or int(number) < 256 for number in numbers)


def _names_user(pattern: str, user: str) -> bool:
    if pattern == "*":
        return True
    wanted, found = _SEPARATORS.split(pattern), _SEPARATORS.split(user)
    return len(wanted) == len(found) and all(map(fnmatchcase, found, wanted))


def _leaves_out(pattern: str, user: str) -> bool:
    user, pattern = folded_username(user), folded_username(pattern).replace("[", "[[]")
    return any(fnmatchcase(part, pattern) for part in chain((user,), _SEPARATORS.split(user)[::2]))
