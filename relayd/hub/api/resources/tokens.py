"""
API tokens: one's own, and, for administrators, everybody's.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta

from relayd.hub.access.errors import Forbidden, NoSuchToken, TokenExists, TooManyTokens, Unusable
from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Call, NoQuery
from relayd.hub.api.hub import Hub
from relayd.hub.api.routes import Anyone, Route
from relayd.hub.api.shapes import Given, Listing, Name, PageQuery, Shape, listing, microseconds, moment, moment_or_none
from relayd.hub.store.api_tokens import ApiToken
from relayd.hub.store.errors import BadCursor


class TokenShape(Shape, frozen=True, kw_only=True):
    """
    A token, without its text.

    :ivar user_id: id of its user.
    :ivar expires_at: ``null``: never.
    :ivar last_used_at: to a minute; ``null``: never.
    """

    id: str
    name: str
    user_id: str
    scopes: list[Permission]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class MadeToken(Shape, frozen=True, kw_only=True):
    """
    A token that was made.

    :ivar text: the token itself, which is shown only here.
    """

    token: TokenShape
    text: str


class NewToken(Given, frozen=True, kw_only=True):
    """
    A token to be made.

    :ivar scopes: some of what the one who makes it may do.
    :ivar expires_at: ``null``: never.
    """

    name: Name
    scopes: Annotated[list[Permission], Meta(min_length=1, max_length=20)]
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class TokenQuery(PageQuery, frozen=True, kw_only=True):
    """Whose tokens."""

    everybody: Annotated[bool, Meta(description="Those of all users, for administrators.")] = False


def _shape(token: ApiToken) -> TokenShape:
    return TokenShape(
        id=token.id,
        name=token.name,
        user_id=token.user_id,
        scopes=[Permission(each) for each in token.scopes],
        created_at=moment(token.created_at),
        expires_at=moment_or_none(token.expires_at),
        last_used_at=moment_or_none(token.last_used_at),
        revoked_at=moment_or_none(token.revoked_at),
    )


async def list_tokens(hub: Hub, call: Call[TokenQuery, None]) -> Listing[TokenShape]:
    """In the order in which they were made."""
    query = call.query
    page = await hub.access.tokens.list_page(
        call.who, everybody=query.everybody, cursor=query.cursor, limit=query.limit
    )
    return listing(page, _shape)


async def make_token(hub: Hub, call: Call[NoQuery, NewToken]) -> MadeToken:
    """Its text is shown once."""
    new = call.body
    expires_at = None if new.expires_at is None else microseconds(new.expires_at)
    token, text = await hub.access.tokens.make(call.who, new.name, new.scopes, expires_at)
    return MadeToken(token=_shape(token), text=text.reveal())


async def revoke_token(hub: Hub, call: Call[NoQuery, None]) -> None:
    """It stays in the list."""
    await hub.access.tokens.revoke(call.who, call.parameters["id"])


ROUTES: Final = (
    Route(
        method="GET",
        path="/tokens",
        handler=list_tokens,
        permission=Anyone.AUTHENTICATED,
        summary="Tokens in the order in which they were made",
        query=TokenQuery,
        answers=Listing[TokenShape],
        refusals=(Forbidden, BadCursor),
    ),
    Route(
        method="POST",
        path="/tokens",
        handler=make_token,
        permission=Anyone.AUTHENTICATED,
        act="token-add",
        recorded_below=True,
        summary="Make a token of one's own",
        takes=NewToken,
        answers=MadeToken,
        status=201,
        refusals=(Forbidden, Unusable, TokenExists, TooManyTokens),
    ),
    Route(
        method="DELETE",
        path="/tokens/{id}",
        handler=revoke_token,
        permission=Anyone.AUTHENTICATED,
        act="token-revoke",
        recorded_below=True,
        summary="Revoke a token",
        status=204,
        refusals=(NoSuchToken,),
    ),
)
