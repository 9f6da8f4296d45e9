"""
Who a request's session or token is: found for each request, and again while a stream goes on.
"""

from __future__ import annotations

from collections.abc import Mapping

from relayd.hub.access.errors import NotAuthenticated as NotKnown
from relayd.hub.access.permissions import Permission, Principal
from relayd.hub.access.secret_texts import session_in_cookies, token_in_authorization
from relayd.hub.access.sessions import Doorkeeper
from relayd.hub.api.problems import NotAuthenticated
from relayd.language.texts import Text


async def principal_of(
    doorkeeper: Doorkeeper, headers: Mapping[str, str], address: str, secure: bool, *, changes: bool
) -> tuple[Principal, bool] | None:
    """
    Whose session or token these headers have, and whether it is a session's.  A token goes before a cookie, which
    browsers send without being asked.  ``None``: they have neither.

    :param changes: whether the request changes something.
    :raises DescribedError: when what they have is not good.
    """
    authorization = headers.get("authorization")
    if authorization is not None:
        token = token_in_authorization(authorization)
        if token is None:
            raise NotAuthenticated(reason=Text("the header Authorization has no API token of a hub"))
        return await doorkeeper.by_token(token, address), False
    session = session_in_cookies(headers.get("cookie", ""), secure)
    if session is None:
        return None
    csrf = headers.get("x-csrf-token")
    return await doorkeeper.by_session(session, address, changes=changes, csrf=csrf), True


async def is_still(
    doorkeeper: Doorkeeper, principal: Principal, headers: Mapping[str, str], secure: bool, permission: Permission
) -> bool:
    """Whether they still are the same one's, who still may do something."""
    try:
        found = await principal_of(doorkeeper, headers, principal.address, secure, changes=False)
    except (NotKnown, NotAuthenticated):
        return False
    return found is not None and found[0].name == principal.name and found[0].may(permission)
