"""
What a relay says of a command that it is asked about and does not run (``check_command``).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from relayd.wire.messages import CommandId


class PolicyAnswer(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """
    Whether the site's rules allow a command.

    :ivar command_id: names the question, not a command.
    :ivar allowed: whether the rules allow it, as far as that is known before the host's name is looked up.
    :ivar code: what refuses it, as in the result of a command that is refused.
    :ivar reason: the words of that refusal.
    """

    command_id: CommandId
    allowed: bool
    code: str | None = None
    reason: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """The data of an acknowledgement or event."""
        wire: dict[str, Any] = msgspec.to_builtins(self)
        return wire
