"""
What can be wrong with relays at the hub, in words that say what to do.
"""

from __future__ import annotations

from relayd.errors import RelayError


class BadRelay(RelayError):
    """The {field} of a relay is not valid: {reason}."""

    code = "bad-relay"


class EnrolmentRefused(RelayError):
    """No key is given for this token: {reason}."""

    code = "enrolment-refused"
