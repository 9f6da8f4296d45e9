"""
Who asks: by the session in a cookie, or the token in a header; and what the audit log has of it.
"""

from __future__ import annotations

from typing import Final

from relayd.hub.access.audit import Actor, Entry, HubAudit
from relayd.hub.access.permissions import Principal
from relayd.hub.access.secret_texts import session_in_cookies, token_in_authorization
from relayd.hub.access.sessions import Doorkeeper
from relayd.hub.api.application import Head
from relayd.hub.api.guards import check_origin
from relayd.hub.api.problems import NotAuthenticated
from relayd.hub.api.routes import SAFE
from relayd.language.texts import Text

#: What the audit log calls who is not known.
NOBODY: Final = "user:?"


class AccessGate:
    """See `relayd.hub.api.application.Gate`."""

    def __init__(self, doorkeeper: Doorkeeper, audit: HubAudit) -> None:
        self._doorkeeper = doorkeeper
        self._audit = audit

    async def authenticate(self, head: Head) -> Principal | None:
        """
        Whose session or token the request has.  A token goes before a cookie, which browsers send without being asked.

        :raises NotAuthenticated: when it has one that is none.
        """
        authorization = head.headers.get("authorization")
        if authorization is not None:
            token = token_in_authorization(authorization)
            if token is None:
                raise NotAuthenticated(reason=Text("the header Authorization has no API token of a hub"))
            return await self._doorkeeper.by_token(token, head.address)
        session = session_in_cookies(head.headers.get("cookie", ""), head.secure)
        if session is None:
            return None
        check_origin(head.headers, head.authority, head.secure)
        return await self._doorkeeper.by_session(
            session, head.address, changes=head.route.method not in SAFE, csrf=head.headers.get("x-csrf-token")
        )

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
