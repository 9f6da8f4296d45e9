"""
Users, for administrators; and everybody's own password.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, UnsetType

from relayd.hub.access.accounts import AccountChange
from relayd.hub.access.errors import (
    Forbidden,
    LastAdministrator,
    LoginFailed,
    LoginInsecure,
    LoginsBusy,
    LoginThrottled,
    NoSuchUser,
    Unusable,
    UserChanged,
    UserExists,
    WeakPassword,
)
from relayd.hub.access.permissions import Permission, Role
from relayd.hub.access.secret_texts import may_send_password, no_session_cookie
from relayd.hub.api.calls import Answer, Call, NoQuery
from relayd.hub.api.conditions import entity_tag, expected_version
from relayd.hub.api.hub import Hub
from relayd.hub.api.routes import Anyone, Precondition, Route
from relayd.hub.api.shapes import Given, Listing, Name, PageQuery, Shape, listing, moment, moment_or_none
from relayd.hub.store.errors import BadCursor
from relayd.hub.store.users import User
from relayd.wire.secret import Secret

Selectors = Annotated[list[Annotated[str, Meta(max_length=4096)]], Meta(max_length=100)]


class UserShape(Shape, frozen=True, kw_only=True):
    """
    A user.

    :ivar selectors: the hosts that an operator may run commands on; ``null``: all.
    :ivar password_expires_at: until when a temporary password can be used; ``null``: the user chose it.
    """

    name: str
    role: Role
    selectors: list[str] | None
    enabled: bool
    password_expires_at: datetime | None
    created_at: datetime
    version: int


class NewUser(Given, frozen=True, kw_only=True):
    """
    A user to be added.

    :ivar password: temporary: the user chooses another one at the first login, within a week.
    :ivar selectors: needed for an operator; ``null``: all hosts.
    """

    name: Name
    password: Secret
    role: Role
    selectors: Selectors | None = None


class UserPatch(Given, frozen=True, kw_only=True):
    """What of a user is to change."""

    role: Role | UnsetType = UNSET
    selectors: Selectors | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


class NewPassword(Given, frozen=True, kw_only=True):
    """A temporary password for another user."""

    password: Secret


class OwnPassword(Given, frozen=True, kw_only=True):
    """Another password of one's own."""

    current: Secret
    new: Secret


def _shape(user: User) -> UserShape:
    return UserShape(
        name=user.name,
        role=Role(user.role),
        selectors=None if user.selectors is None else list(user.selectors),
        enabled=user.enabled,
        password_expires_at=moment_or_none(user.password_expires_at),
        created_at=moment(user.created_at),
        version=user.version,
    )


def _answer(user: User, **more: Any) -> Answer:
    return Answer(body=_shape(user), etag=entity_tag(user.version), **more)


async def list_users(hub: Hub, call: Call[PageQuery, None]) -> Listing[UserShape]:
    """By name."""
    page = await hub.access.accounts.list_page(call.who, call.query.cursor, call.query.limit)
    return listing(page, _shape)


async def add_user(hub: Hub, call: Call[NoQuery, NewUser]) -> Answer:
    """Its password is temporary."""
    new = call.body
    user = await hub.access.accounts.add(call.who, new.name, new.password, new.role, new.selectors)
    return _answer(user, headers={"Location": f"/api/v1/users/{user.name}"})


async def get_user(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """One's own needs no permission."""
    return _answer(await hub.access.accounts.get(call.who, call.parameters["name"]))


async def change_user(hub: Hub, call: Call[NoQuery, UserPatch]) -> Answer:
    """It ends the user's sessions."""
    patch = call.body
    changes = AccountChange(role=patch.role, selectors=patch.selectors, enabled=patch.enabled)
    version = expected_version(call.headers.get("if-match"))
    return _answer(await hub.access.accounts.change(call.who, call.parameters["name"], changes, version))


async def remove_user(hub: Hub, call: Call[NoQuery, None]) -> None:
    """With the sessions and tokens."""
    version = expected_version(call.headers.get("if-match"))
    await hub.access.accounts.remove(call.who, call.parameters["name"], version)


async def give_password(hub: Hub, call: Call[NoQuery, NewPassword]) -> None:
    """It ends the user's sessions."""
    await hub.access.accounts.give_password(call.who, call.parameters["name"], call.body.password)


async def change_password(hub: Hub, call: Call[NoQuery, OwnPassword]) -> Answer:
    """It ends all sessions of the user, this one too: log in again."""
    if not may_send_password(call.secure, call.address):
        raise LoginInsecure
    await hub.access.accounts.change_password(call.who, call.body.current, call.body.new)
    return Answer(cookies=(no_session_cookie(call.secure),))


_ADMIN: Final = Permission.ACCESS_ADMIN

ROUTES: Final = (
    Route(
        method="GET",
        path="/users",
        handler=list_users,
        permission=_ADMIN,
        summary="Users by name",
        query=PageQuery,
        answers=Listing[UserShape],
        refusals=(BadCursor,),
    ),
    Route(
        method="POST",
        path="/users",
        handler=add_user,
        permission=_ADMIN,
        act="user-add",
        recorded_below=True,
        summary="Add a user with a temporary password",
        takes=NewUser,
        answers=UserShape,
        status=201,
        refusals=(Unusable, WeakPassword, UserExists),
    ),
    Route(
        method="GET",
        path="/users/{name}",
        handler=get_user,
        permission=_ADMIN,
        summary="A user",
        answers=UserShape,
        refusals=(NoSuchUser,),
    ),
    Route(
        method="PATCH",
        path="/users/{name}",
        handler=change_user,
        permission=_ADMIN,
        act="user-change",
        recorded_below=True,
        summary="Change role, hosts, or whether a user is enabled; it ends the user's sessions",
        takes=UserPatch,
        answers=UserShape,
        precondition=Precondition.REQUIRED,
        refusals=(NoSuchUser, Unusable, UserChanged, LastAdministrator),
    ),
    Route(
        method="DELETE",
        path="/users/{name}",
        handler=remove_user,
        permission=_ADMIN,
        act="user-remove",
        recorded_below=True,
        summary="Remove a user with the sessions and tokens",
        status=204,
        precondition=Precondition.REQUIRED,
        refusals=(NoSuchUser, UserChanged, LastAdministrator),
    ),
    Route(
        method="POST",
        path="/users/{name}/password",
        handler=give_password,
        permission=_ADMIN,
        act="password-change",
        recorded_below=True,
        summary="Give another user a temporary password",
        takes=NewPassword,
        max_body=4096,
        status=204,
        refusals=(NoSuchUser, Unusable, WeakPassword),
    ),
    Route(
        method="POST",
        path="/me/password",
        handler=change_password,
        permission=Anyone.AUTHENTICATED,
        act="password-change",
        recorded_below=True,
        summary="Change one's own password; it ends all of one's sessions",
        takes=OwnPassword,
        max_body=8192,
        status=204,
        refusals=(Forbidden, LoginFailed, LoginThrottled, LoginsBusy, LoginInsecure, Unusable, WeakPassword),
    ),
)
