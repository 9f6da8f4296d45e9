"""
The field ``host`` of main servers: its spelling, and what they send there that is no host.
"""

from __future__ import annotations

import re

from relayd.language.texts import Text
from relayd.network.spelling import canonical_host

# Also with the colon of a Chinese keyboard, and an IPv6 address as it stands in a URL
_WITH_PORT = re.compile(r"(?:\[[^\[\]]*\]|[^:：\[\],;@\s]+)[:：] *[0-9]*")


def spelling_of_host(written: str) -> tuple[str, str | None]:
    """A host in its canonical spelling, and as it is written where that differs."""
    host = canonical_host(written)
    return host, None if written == host else written


def fault_of_host(name: str) -> Text:
    """What a text is that was sent as a host and is none."""
    if "://" in name:
        return Text("is a URL; send the host's name or address alone")
    if _WITH_PORT.fullmatch(name):
        return Text("names a port too; send the port as port")
    if any(char.isspace() or char in ",;" for char in name):
        return Text("has a blank, a comma or a semicolon in it; send one host in each command")
    if "@" in name:
        return Text("names a user too; send the user as username")
    return Text("is neither a host name nor an IP address")
