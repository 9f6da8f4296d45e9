"""
What can be wrong with an order of runs.
"""

from __future__ import annotations

from relayd.errors import RelayError


class RunError(RelayError):
    """The run cannot be ordered: {reason}."""

    code = "run"


class InvalidOrder(RunError):
    """{field}: {reason}"""

    code = "invalid-order"


class NoHosts(RunError):
    """{reason}"""

    code = "no-hosts"


class SecretsGone(RunError):
    """The run {run} had secrets in its order (standard input, variables or a password), which are deleted when a run
    has ended. Order it anew with them."""

    code = "secrets-gone"


class NotNow(RunError):
    """The {what} {name} is {state}; that cannot be done now."""

    code = "not-now"


class TooManyOpen(RunError):
    """{open} invocations have not ended; the hub takes at most {most} at a time. Wait until some have ended, or cancel
    them."""

    code = "too-many-open"
    retriable = True
