"""
Which tables of the site never apply, as earlier ones say all that they say for all that they are for.

Nothing is flagged by mistake; some that never apply are not found, such as one that two earlier ones share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from string import ascii_lowercase
from typing import Final

from msgspec import Struct

from relayd.network.patterns import covers_user, matches_host, means_addresses, read_network, split_port
from relayd.network.spelling import lookup_name

_WILD: Final = frozenset("*?")
#: Whether the first pattern matches all that the second one matches.
_Includes = Callable[[str, str], bool]


class Claim(Struct, frozen=True):
    """
    What a table is for.

    :ivar hosts: its patterns of hosts.
    :ivar users: its patterns of users.
    :ivar says: the names of its settings.
    """

    hosts: tuple[str, ...]
    users: tuple[str, ...]
    says: frozenset[str]


def shadowed(claims: Sequence[Claim]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """
    The claims that never apply, of those in which the first that says something wins.

    :return: for each the number, from 0, and those of the earlier ones that win.
    """
    for number, claim in enumerate(claims):
        wider = [at for at, other in enumerate(claims[:number]) if _is_wider(other, claim)]
        winners = {name: next((at for at in wider if name in claims[at].says), None) for name in claim.says}
        found = tuple(sorted({at for at in winners.values() if at is not None}))
        if found and None not in winners.values():
            yield number, found


def _is_wider(wide: Claim, narrow: Claim) -> bool:
    return _takes(wide.hosts, narrow.hosts, _host_includes) and _takes(wide.users, narrow.users, _user_includes)


def _takes(wide: Sequence[str], narrow: Sequence[str], includes: _Includes) -> bool:
    """Whether the first patterns match all that the others match, exceptions (``!``) included."""
    if not {each for each in wide if each.startswith("!")} <= set(narrow):
        return False
    return all(
        any(includes(each, pattern) for each in wide if not each.startswith("!"))
        for pattern in narrow
        if not pattern.startswith("!")
    )


def _user_includes(wide: str, narrow: str) -> bool:
    return wide in ("*", narrow) or (not _WILD & set(narrow) and covers_user((wide,), narrow))


def _host_includes(wide: str, narrow: str) -> bool:
    (wide_text, wide_port), (text, port) = split_port(wide), split_port(narrow)
    if wide_port not in (None, port):
        return False
    if wide_text == "*" or lookup_name(wide_text) == lookup_name(text):
        return True
    if "/" in text:
        return _network_includes(wide_text, text)
    if not _WILD & set(text):
        return matches_host(wide_text, text, 22)
    if means_addresses(text):
        return False
    # Few names stand for all: what matches a long run of a letter that neither has does so by a wildcard.
    letter = next(each for each in ascii_lowercase if each not in (wide_text + text).lower())
    runs = ("", letter, letter * 2, letter * (len(wide_text) + 1))
    return all(matches_host(wide_text, text.replace("*", run).replace("?", letter), 22) for run in runs)


def _network_includes(wide: str, narrow: str) -> bool:
    try:
        outer, inner = read_network(wide), read_network(narrow)
    except ValueError:
        return False
    if isinstance(outer, IPv4Network) and isinstance(inner, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and isinstance(inner, IPv6Network) and inner.subnet_of(outer)
