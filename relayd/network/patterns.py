"""
Patterns of hosts and users: names and addresses, with wildcards, networks and exceptions.

A command may spell its host and user in any way, so all spellings must match the same patterns.
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

#: A pattern of digits, dots and wildcards is for addresses only: ``10.1.*`` does not match ``10.1.example.com``.
_ADDRESS_LIKE = re.compile(r"[0-9.*?]*[0-9][0-9.*?]*")
#: A pattern that may match addresses: ``fe*`` is for names, and does not match ``fe80::1``.
_FOR_ADDRESSES = re.compile(r"[0-9.*?]*|.*:.*")
_WITH_PORT = re.compile(r"\[([^\[\]]+)\]:(\d{1,5})")
#: Visible ASCII characters without a special meaning.
_VISIBLE = re.compile(r"((?![!@\[\],#|])[!-~])+")
#: One of the four numbers of an IPv4 address, as it is usually written, or with wildcards.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,2}|[0-9]*[*?][0-9*?]*")
#: A port without brackets (``db:22``), or brackets without a port.
_WRONG_BRACKETS = re.compile(r"[^:]*:[0-9]+|.*[\[\]].*")
#: An IPv6 address with wildcards, without an IPv4 address in it: such addresses are IPv4 addresses here.
_OF_VERSION_6 = re.compile(r"[0-9A-Fa-f:*?]+")
#: Zeros before a number of an IPv6 address.
_LEADING_ZEROS = re.compile(r"(?<![0-9a-f*?])0+(?=[0-9a-f])")
#: Separators between a user's name and what else servers, directories and bastions accept there, such as a domain.
_SEPARATORS = re.compile(f"([{re.escape(''.join(set(punctuation) - set('._-$*?')))}])")


def covers_host(patterns: Iterable[str], host: str, port: int) -> bool:
    """
    Whether *patterns* match a host, and none with ``!`` does. No name is looked up.

    :param patterns: names and addresses with ``*`` and ``?``, networks such as ``10.1.0.0/16``, each also as
        ``[PATTERN]:PORT`` for one port only; with ``!`` before an exception.
    """
    address = read_address(host)
    # An exception for an IPv4 address is also one for IPv6 addresses that lead to it.
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
    Whether *patterns* match a user, and none with ``!`` does; ``*`` and ``?`` are wildcards.

    A server may take a part of the name for the user: ``CORP\\root``, ``root@corp``, ``root+c`` (docs/ssh.rst, "User
    names"). So a wildcard does not match such separators, except for ``*`` alone, and an exception also holds for each
    part of a name, in capitals or not.
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
    Check that a pattern of hosts can match one, and is not a mistake for another pattern.

    :param pattern: without ``!``.
    :raises ValueError: with what was expected, and the pattern.
    """
    plain, port = split_port(pattern)
    address_like = ":" in plain or looks_like_address(plain) or read_address(plain) is not None
    if _WRONG_BRACKETS.fullmatch(plain) or (port is not None and not 0 < port < 65536):
        raise ValueError("a network, an address, a name, or [PATTERN]:PORT for one port", pattern)
    if "/" in plain and not _is_network(plain):
        raise ValueError("a network like 10.1.0.0/16, without bits beyond its length", pattern)
    if "%" in plain and ":" in plain:
        raise ValueError("an address without its zone (%…): a rule is for all network interfaces", pattern)
    if "*" in plain or "?" in plain:
        if address_like and not _is_wild_address(plain):
            raise ValueError("an address with wildcards like 10.1.* or fd00:*, or a network like 10.1.0.0/16", pattern)
        usable = _VISIBLE.fullmatch(plain)  # a whole name in another script is looked up in ASCII, a part cannot be
    else:
        if address_like and not _is_network(plain):
            raise ValueError("an address as it is usually written, like 10.1.2.3 or fd00::1, or a network", pattern)
        usable = _VISIBLE.fullmatch(lookup_name(plain)) if address_like or is_host(plain) else None
    if usable is None:
        raise ValueError("a network, an address, a name, or [PATTERN]:PORT for one port", pattern)


def check_user_pattern(pattern: str) -> None:
    """
    Check that a pattern of users can match one.

    :param pattern: without ``!``.
    :raises ValueError: with what was expected, and the pattern.
    """
    if not pattern or not pattern.isprintable() or fault_of_username(pattern):
        raise ValueError("a user name or a pattern of user names, without : and /", pattern)


def matches_host(pattern: str, host: str, port: int) -> bool:
    """Whether one pattern of `covers_host`, without ``!``, matches a host."""
    wanted, network, for_names, for_addresses, expression = _read_pattern(pattern)
    if wanted not in (None, port):
        return False
    address = read_address(host)
    if address is None:
        return for_names and expression.fullmatch(_name(host)) is not None
    if network is not None:
        return address in network
    if not for_addresses or (address.version == 6 and "." in pattern):  # `_spellings` has none with dots
        return False
    return any(map(expression.fullmatch, _spellings(address)))


def split_port(pattern: str) -> tuple[str, int | None]:
    """Pattern and port of ``[PATTERN]:PORT``; ``None``: it is for all ports."""
    found = _WITH_PORT.fullmatch(pattern)
    return (found[1], int(found[2])) if found else (pattern, None)


def means_addresses(pattern: str) -> bool:
    """Whether a pattern is for addresses: a name can only be compared with it after the look-up."""
    pattern = split_port(pattern)[0]
    return "/" in pattern or _FOR_ADDRESSES.fullmatch(pattern) is not None


def read_network(text: str) -> Network:
    """
    Read a network, or an address as a network of its own.

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
    """Port, network, whether it is for names, whether it is for addresses, and a regular expression for them."""
    pattern, port = split_port(pattern)
    pattern = _name(pattern)
    try:
        network = read_network(pattern)
    except ValueError:
        network = None
    if ":" in pattern:
        pattern = _LEADING_ZEROS.sub("", pattern)
    # A command chooses the host: `translate` makes several wildcards safe, where each ".*" would try all others anew.
    expression = re.compile(translate(pattern.replace("[", "[[]")))
    for_names = _ADDRESS_LIKE.fullmatch(pattern) is None
    return port, network, for_names, _FOR_ADDRESSES.fullmatch(pattern) is not None, expression


@lru_cache(4096)
def _spellings(address: Address) -> tuple[str, ...]:
    """
    All ways to write an address without its zone, for patterns with its beginning or its end.

    In IPv6, any zeros in a row may be left out: ``fd00:0:*`` and ``fd00::*`` both match ``fd00::1``.
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
    """Whether a text with wildcards may match an address."""
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
