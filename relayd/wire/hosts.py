"""
What main servers send in the field ``host`` that is no host.
"""

from __future__ import annotations

import re

from relayd.language.texts import Text

# Also with the colon of a Chinese keyboard, and an IPv6 address as it stands in a URL
_WITH_PORT = re.compile(r"(?:\[[^\[\]]*\]|[^:：\[\],;@\s]+)[:：] *[0-9]*")


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
