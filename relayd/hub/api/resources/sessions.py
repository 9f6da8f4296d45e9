"""
Logging in and out, and who one is.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, UnsetType

from relayd.hub.access.errors import LoginFailed, LoginInsecure, LoginsBusy, LoginThrottled, NoSuchSession
from relayd.hub.access.permissions import Permission, Principal, Role
from relayd.hub.access.secret_texts import (
    csrf_token,
    may_send_password,
    no_session_cookie,
    session_cookie,
    session_in_cookies,
)
from relayd.hub.api.calls import Answer, Call, NoQuery
from relayd.hub.api.hub import Hub
from relayd.hub.api.problems import NotAuthenticated
from relayd.hub.api.routes import Anyone, Route
from relayd.hub.api.shapes import Given, Listing, Shape, moment
from relayd.language.texts import Text
from relayd.wire.secret import Secret


class Login(Given, frozen=True, kw_only=True):
    """Who logs in."""

    user: Annotated[str, Meta(max_length=255)]
    password: Secret


class Me(Shape, frozen=True, kw_only=True):
    """
    Who asks.

    :ivar name: as audit log and runs have it.
    :ivar token: name of the token; absent with a session.
    :ivar scopes: all that it may do now.
    :ivar selectors: of the hosts that it may run commands on; ``null``: all.
    :ivar must_change_password: whether it may do nothing but choose a password.
    :ivar csrf_token: of the session, for the header ``X-CSRF-Token``; absent with a token.
    """

    name: str
    user: str
    role: Role
    scopes: list[Permission]
    selectors: list[str] | None
    must_change_password: bool
    token: str | UnsetType = UNSET
    csrf_token: str | UnsetType = UNSET


class SessionShape(Shape, frozen=True, kw_only=True):
    """A session of one's own."""

    id: str
    address: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    current: bool


async def log_in(hub: Hub, call: Call[NoQuery, Login]) -> Answer:
    """The session is in a cookie, the CSRF token in the answer."""
    if not may_send_password(call.secure, call.address):
        raise LoginInsecure
    previous = session_in_cookies(call.headers.get("cookie", ""), call.secure)
    made = await hub.access.logins.log_in(call.body.user, call.body.password, call.address, previous)
    return Answer(body=_me(made.principal, made.csrf), cookies=(session_cookie(made.session_id, call.secure),))


async def log_out(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """The cookie goes, too."""
    await hub.access.logins.log_out(_session_of(call), call.who)
    return Answer(cookies=(no_session_cookie(call.secure),))


async def me(hub: Hub, call: Call[NoQuery, None]) -> Me:
    """A page that is loaded again gets its CSRF token here."""
    return _me(call.who, csrf_token(_session_of(call)) if call.who.has_session else None)


async def list_own(hub: Hub, call: Call[NoQuery, None]) -> Listing[SessionShape]:
    """A user has few."""
    found = await hub.access.logins.list_sessions(call.who, _session_of(call))
    return Listing(
        items=[
            SessionShape(
                id=each.handle,
                address=each.address,
                created_at=moment(each.created_at),
                last_used_at=moment(each.last_used_at),
                expires_at=moment(each.expires_at),
                current=each.current,
            )
            for each in found
        ]
    )


async def end_own(hub: Hub, call: Call[NoQuery, None]) -> None:
    """Such as one that was left open elsewhere."""
    _session_of(call)
    await hub.access.logins.end_session(call.who, call.parameters["id"])


def _session_of(call: Call[Any, Any]) -> Secret:
    session = session_in_cookies(call.headers.get("cookie", ""), call.secure) if call.who.has_session else None
    if session is None:
        raise NotAuthenticated(reason=Text("this is for sessions, not for tokens"))
    return session


def _me(principal: Principal, csrf: str | None) -> Me:
    return Me(
        name=principal.name,
        user=principal.user,
        role=principal.role,
        scopes=sorted(principal.scopes),
        selectors=None if principal.limits is None else list(principal.limits),
        must_change_password=principal.must_change_password,
        token=UNSET if principal.token is None else principal.token,
        csrf_token=UNSET if csrf is None else csrf,
    )


ROUTES: Final = (
    Route(
        method="POST",
        path="/session",
        handler=log_in,
        permission=Anyone.PUBLIC,
        act="login",
        recorded_below=True,
        summary="Log in",
        takes=Login,
        max_body=4096,
        answers=Me,
        refusals=(LoginFailed, LoginThrottled, LoginsBusy, LoginInsecure),
    ),
    Route(
        method="DELETE",
        path="/session",
        handler=log_out,
        permission=Anyone.AUTHENTICATED,
        act="logout",
        recorded_below=True,
        summary="Log out",
        status=204,
    ),
    Route(method="GET", path="/me", handler=me, permission=Anyone.AUTHENTICATED, summary="Who asks", answers=Me),
    Route(
        method="GET",
        path="/me/sessions",
        handler=list_own,
        permission=Anyone.AUTHENTICATED,
        summary="One's own sessions",
        answers=Listing[SessionShape],
    ),
    Route(
        method="DELETE",
        path="/me/sessions/{id}",
        handler=end_own,
        permission=Anyone.AUTHENTICATED,
        act="session-end",
        recorded_below=True,
        summary="End one of one's own sessions",
        status=204,
        refusals=(NoSuchSession,),
    ),
)
