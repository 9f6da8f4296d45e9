"""
Who asks: by the session in a cookie, or the token in a header; and what the audit log has of it.
"""

from __future__ import annotations

from typing import Final

from relayd.hub.access.audit import Actor, Entry, HubAudit
from relayd.hub.access.permissions import Principal
from relayd.hub.access.sessions import Doorkeeper
from relayd.hub.api.application import Head
from relayd.hub.api.guards import check_origin
from relayd.hub.api.principals import principal_of
from relayd.hub.api.routes import SAFE

#: What the audit log calls who is not known.
NOBODY: Final = "user:?"


class AccessGate:
    """See `relayd.hub.api.application.Gate`."""

    def __init__(self, doorkeeper: Doorkeeper, audit: HubAudit) -> None:
        self._doorkeeper = doorkeeper
        self._audit = audit

    async def authenticate(self, head: Head) -> Principal | None:
        """
        Whose session or token the request has.

        :raises DescribedError: when what it has is not good.
        """
        changes = head.route.method not in SAFE
        found = await principal_of(self._doorkeeper, head.headers, head.address, head.secure, changes=changes)
        if found is None:
            return None
        principal, by_cookie = found
        if by_cookie:
            check_origin(head.headers, head.authority, head.secure)
        return principal

    async def begin(self, head: Head, principal: Principal) -> Entry:
        """
        Record an act before it is done.

        :raises AuditUnavailable: when it cannot be.
        """
        return await self._audit.begin(_actor(head, principal), head.route.act, _fields(head))

    def refused(self, head: Head, principal: Principal | None, code: str) -> None:
        """Record an act that is not done."""
        self._audit.refused(_actor(head, principal), head.route.act, code, _fields(head))


def _actor(head: Head, principal: Principal | None) -> Actor:
    return Actor(NOBODY if principal is None else principal.name, head.address)


def _fields(head: Head) -> dict[str, str | int | bool | list[str] | None]:
    return {**head.parameters, "request": head.request_id}
