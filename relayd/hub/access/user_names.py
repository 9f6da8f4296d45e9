"""
Names of users and tokens: no two of them look alike, and none needs to be quoted in a log, a URL or a command line.
"""

from __future__ import annotations

import re
from typing import Final

from relayd.hub.access.errors import Unusable
from relayd.language.texts import Text, printable

_USER: Final = re.compile(r"[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?")
_TOKEN: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?")


def is_user_name(name: str) -> bool:
    """Whether a user can have this name."""
    return _USER.fullmatch(name) is not None


def check_user_name(name: str) -> None:
    """
    Check the name of a new user.

    :raises Unusable: when no user can have it.
    """
    if not is_user_name(name):
        reason = Text(
            "{typed} is not 1 to 64 small letters, digits and . _ @ - that begins and ends with a letter or digit",
            typed=printable(name, 70),
        )
        raise Unusable(field=Text("name of the user"), reason=reason)


def check_token_name(name: str) -> None:
    """
    Check the name of a new token.

    :raises Unusable: when no token can have it.
    """
    if not _TOKEN.fullmatch(name):
        reason = Text(
            "{typed} is not 1 to 64 letters, digits and . _ @ - that begins and ends with a letter or digit",
            typed=printable(name, 70),
        )
        raise Unusable(field=Text("name of the token"), reason=reason)
