"""
What a run would do: on which hosts, through which relay, and what that relay's own rules say of the command.
"""

from __future__ import annotations

from collections.abc import Sequence

from relayd.hub.api.shapes import Shape
from relayd.hub.runs.dry_run import Planned


class DryHost(Shape, frozen=True, kw_only=True):
    """
    A host that a run would be on.

    :ivar relay: to which it would be sent; ``null``: none reaches it.
    :ivar connected: whether that relay is connected now.
    :ivar allowed: what its rules say; ``null``: it was not asked, or has not said.
    :ivar code: of the rule that refuses it, or why there is no answer.
    """

    host: str
    relay: str | None
    connected: bool
    allowed: bool | None
    code: str | None
    reason: str | None


class DryRun(Shape, frozen=True, kw_only=True):
    """
    What a run would do.

    :ivar size: how many hosts.
    :ivar items: each of them.
    """

    size: int
    items: list[DryHost]


def dry_run_shape(plans: Sequence[Planned]) -> DryRun:
    """What the engine says."""
    items = [
        DryHost(
            host=plan.host,
            relay=plan.relay,
            connected=plan.connected,
            allowed=plan.allowed,
            code=plan.code,
            reason=plan.reason,
        )
        for plan in plans
    ]
    return DryRun(size=len(items), items=items)
