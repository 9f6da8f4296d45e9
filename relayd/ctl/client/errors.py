"""
What goes wrong between ``relayctl`` and a hub.
"""

from __future__ import annotations

from relayd.language.errors import DescribedError


class HubError(DescribedError):
    """The hub at {url} did not do it."""

    code = "hub"


class NoLogin(HubError):
    """No hub is known here: log in with relayctl login URL, or give --hub URL and --token-file FILE."""

    code = "no-login"


class Unreachable(HubError):
    """The hub at {url} cannot be reached: {reason}"""

    code = "hub-unreachable"


class Refused(HubError):
    """The hub refuses it: {reason}"""

    code = "hub-refused"

    def __init__(self, *, status: int, kind: str, reason: str) -> None:
        super().__init__(reason=reason)
        #: The status of HTTP.
        self.status = status
        #: The end of the problem's type, such as ``not-found``; empty where the answer was no problem document.
        self.kind = kind


class LoginUnusable(HubError):
    """The stored login cannot be used: {reason}"""

    code = "login-unusable"
