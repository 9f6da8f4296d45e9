"""
What goes wrong with what the hub keeps sealed.
"""

from __future__ import annotations

from relayd.errors import RelayError


class SealingError(RelayError):
    """A secret cannot be sealed or opened."""

    code = "sealing"
    phase = "send"


class SealingKeysUnusable(SealingError):
    """The sealing keys in {path} cannot be used: {reason}."""

    code = "sealing-keys-unusable"
    phase = "send"
    retriable = True


class NotOpened(SealingError):
    """A sealed secret cannot be opened: {reason}."""

    code = "secret-not-opened"
    phase = "send"
