"""
API tokens: made, listed and revoked.  The text of a token is shown once, when it is made.

A token does at most what its user may do at that moment, and of that what is in its scopes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection

from relayd.hub.access.audit import HubAudit, Value, actor_of
from relayd.hub.access.errors import NoSuchToken, TokenExists, TooManyTokens, Unusable
from relayd.hub.access.permissions import Permission, Principal, parse_scopes
from relayd.hub.access.secret_texts import digest_of_token, new_api_token
from relayd.hub.access.sessions import Now
from relayd.hub.access.user_names import check_token_name
from relayd.hub.store import api_tokens
from relayd.hub.store.api_tokens import ApiToken
from relayd.hub.store.errors import Conflict
from relayd.hub.store.ids import new_id
from relayd.hub.store.paging import USUAL, Page
from relayd.hub.store.store import Store
from relayd.language.texts import Text
from relayd.wire.secret import Secret

#: Tokens of a user that are in use.
MOST_TOKENS: Final = 100


class Tokens:
    """
    The API tokens of the hub.

    :param now: the time of day.
    """

    def __init__(self, store: Store, audit: HubAudit, now: Now) -> None:
        self._store = store
        self._audit = audit
        self._now = now

    async def list_page(
        self, principal: Principal, *, everybody: bool = False, cursor: str | None = None, limit: int = USUAL
    ) -> Page[ApiToken]:
        """A page of the tokens of *principal*'s user, or, for administrators, of everybody."""
        if everybody:
            principal.require(Permission.ACCESS_ADMIN)
        return await self._store.read(api_tokens.fetch, None if everybody else principal.user_id, cursor, limit)

    async def make(
        self, principal: Principal, name: str, scopes: Iterable[str], expires_at: int | None
    ) -> tuple[ApiToken, Secret]:
        """
        Make a token for *principal*'s user.

        :param scopes: some of what *principal* may do now.
        :param expires_at: microseconds since 1970; ``None``: never.
        :return: the token, and its text.
        :raises Unusable: when a value cannot be used.
        :raises Forbidden: when a scope is not among what *principal* may do.
        :raises TokenExists: when the user has, or had, a token of that name.
        :raises TooManyTokens: when the user has too many.
        """
        check_token_name(name)
        wanted = parse_scopes(scopes)
        if not principal.has_session:
            # Not with whatever a token may: one that is for runs does not multiply, and does not outlive its end.
            principal.require(Permission.ACCESS_ADMIN)
        for scope in sorted(wanted - principal.scopes):
            principal.require(scope)
        now = self._now()
        if expires_at is not None and expires_at <= now:
            raise Unusable(field=Text("end of the token"), reason=Text("it is in the past"))
        text = new_api_token()
        digest = digest_of_token(text)
        assert digest is not None
        token = ApiToken(
            id=new_id(now),
            user_id=principal.user_id,
            name=name,
            scopes=tuple(sorted(wanted)),
            created_at=now,
            expires_at=expires_at,
        )

        async def add() -> None:
            try:
                await self._store.run(_add, token, digest, principal.user, now)
            except Conflict:
                raise TokenExists(user=principal.user, name=name) from None

        fields: dict[str, Value] = {"token": f"{principal.user}/{name}", "scopes": list(token.scopes)}
        await self._audit.perform(actor_of(principal), "token-add", fields, add)
        return token, text

    async def revoke(self, principal: Principal, token_id: str) -> None:
        """
        Revoke a token: one of the own, or, for administrators, anybody's.  Revoked ones stay in the list.

        :raises NoSuchToken: when there is no such token that *principal* may see.
        """
        found = await self._store.read(api_tokens.find_by_id, token_id)
        if found is None:
            raise NoSuchToken
        token, user = found
        # A token may end itself, and no other without ``access:admin``.
        own = user.id == principal.user_id and (principal.has_session or token.name == principal.token)
        if not own and not principal.may(Permission.ACCESS_ADMIN):
            raise NoSuchToken
        await self._audit.perform(
            actor_of(principal),
            "token-revoke",
            {"token": f"{user.name}/{token.name}"},
            lambda: self._store.run(api_tokens.revoke, token.id, self._now()),
        )


def _add(connection: Connection, token: ApiToken, digest: bytes, user: str, now: int) -> None:
    if api_tokens.count_usable(connection, token.user_id, now) >= MOST_TOKENS:
        raise TooManyTokens(user=user, count=MOST_TOKENS)
    api_tokens.add(connection, token, digest)
