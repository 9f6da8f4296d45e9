"""
Relays: who may connect, how they stand, their keys, and enrolment.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, UnsetType, field

from relayd.hub.access.audit import DONE, Actor
from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Answer, Call, NoQuery
from relayd.hub.api.conditions import entity_tag, expected_version
from relayd.hub.api.hub import Hub
from relayd.hub.api.routes import Anyone, Precondition, Route
from relayd.hub.api.shapes import Given, Listing, Name, Note, PageQuery, Shape, listing, moment, moment_or_none
from relayd.hub.relays.administration import RelayView
from relayd.hub.relays.enrolment import settings_text
from relayd.hub.relays.errors import BadRelay, EnrolmentRefused
from relayd.hub.store.errors import BadCursor, Changed, Conflict, NotFound, StillReferred
from relayd.wire.secret import Secret

Networks = Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=100)]


class KeyShape(Shape, frozen=True, kw_only=True):
    """
    A key of a relay, without its text.

    :ivar expires_at: ``null``: never.
    """

    id: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class RelayShape(Shape, frozen=True, kw_only=True):
    """
    A relay.

    :ivar allowed_networks: where it may come from; empty: from anywhere.
    :ivar online: whether it is connected now.
    :ivar relayd_version: ``null``: it is another program, or did not tell.
    :ivar lacks: the extensions that its program does not have, as far as is known.
    :ivar shared_by: the addresses of two programs that take turns with its name now; absent where there is one.
    :ivar keys: absent in lists.
    """

    name: str
    enabled: bool
    allowed_networks: list[str]
    note: str
    online: bool
    last_seen_at: datetime | None
    last_address: str | None
    last_dialect: str | None
    relayd_version: str | None
    lacks: list[str]
    created_at: datetime
    version: int
    shared_by: list[str] | UnsetType = UNSET
    keys: list[KeyShape] | UnsetType = UNSET


class NewRelay(Given, frozen=True, kw_only=True):
    """A relay to be added; it has no key yet."""

    name: Name
    enabled: bool = True
    allowed_networks: Networks = field(default_factory=list)
    note: Note = ""


class RelayPatch(Given, frozen=True, kw_only=True):
    """What of a relay is to change."""

    enabled: bool | UnsetType = UNSET
    allowed_networks: Networks | UnsetType = UNSET
    note: Note | UnsetType = UNSET


class Invitation(Shape, frozen=True, kw_only=True):
    """
    An enrolment token.

    :ivar token: shown only here; good once, and until it expires.
    """

    token: str
    expires_at: datetime


class RelayKeyMade(Shape, frozen=True, kw_only=True):
    """
    A new key; the older ones are good for a week.

    :ivar key: shown only here.
    """

    id: str
    key: str


class Enrolment(Given, frozen=True, kw_only=True):
    """What a relay has to show."""

    token: Secret


class Enrolled(Shape, frozen=True, kw_only=True):
    """
    What a relay needs to connect.

    :ivar relay: its name, the ``proxyId``.
    :ivar url: of the hub.
    :ivar settings: a ``relayd.toml``.
    """

    relay: str
    key: str
    url: str
    settings: str


def _shape(view: RelayView, keys: bool = False) -> RelayShape:
    entry = view.entry
    return RelayShape(
        name=entry.name,
        enabled=entry.enabled,
        allowed_networks=list(entry.allowed_networks),
        note=entry.note,
        online=view.online,
        last_seen_at=moment_or_none(entry.last_seen_at),
        last_address=entry.last_address,
        last_dialect=entry.last_dialect,
        relayd_version=entry.last_version,
        lacks=list(view.lacks),
        created_at=moment(entry.created_at),
        version=entry.version,
        shared_by=UNSET if view.shared_name is None else list(view.shared_name.addresses),
        keys=[_key(key) for key in view.keys] if keys else UNSET,
    )


def _key(key: Any) -> KeyShape:
    return KeyShape(
        id=key.id,
        created_at=moment(key.created_at),
        expires_at=moment_or_none(key.expires_at),
        revoked_at=moment_or_none(key.revoked_at),
        last_used_at=moment_or_none(key.last_used_at),
    )


def _answer(view: RelayView, **more: Any) -> Answer:
    return Answer(body=_shape(view), etag=entity_tag(view.entry.version), **more)


async def list_relays(hub: Hub, call: Call[PageQuery, None]) -> Listing[RelayShape]:
    """By name."""
    page = await hub.relays.fetch(call.query.cursor, call.query.limit)
    return listing(page, _shape)


async def add_relay(hub: Hub, call: Call[NoQuery, NewRelay]) -> Answer:
    """An enrolment gives it a key."""
    new = call.body
    view = await hub.relays.add(new.name, allowed_networks=new.allowed_networks, note=new.note, enabled=new.enabled)
    return _answer(view, headers={"Location": f"/api/v1/relays/{new.name}"}, record={"name": new.name})


async def get_relay(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """With its keys; its ETag is for changes of the relay, and not of how it stands."""
    view = await hub.relays.get(call.parameters["name"])
    return Answer(body=_shape(view, keys=True), etag=entity_tag(view.entry.version), volatile=True)


async def change_relay(hub: Hub, call: Call[NoQuery, RelayPatch]) -> Answer:
    """A connection that would be refused now is ended."""
    patch = call.body
    view = await hub.relays.change(
        call.parameters["name"],
        expected_version(call.headers.get("if-match")),
        enabled=None if patch.enabled is UNSET else patch.enabled,
        allowed_networks=None if patch.allowed_networks is UNSET else patch.allowed_networks,
        note=None if patch.note is UNSET else patch.note,
    )
    return _answer(view)


async def delete_relay(hub: Hub, call: Call[NoQuery, None]) -> None:
    """With its keys; its connection is ended."""
    await hub.relays.remove(call.parameters["name"], expected_version(call.headers.get("if-match")))


async def invite(hub: Hub, call: Call[NoQuery, None]) -> Invitation:
    """An earlier one that was not used is good no more."""
    token = await hub.enrolment.invite(call.parameters["name"], call.who.name)
    return Invitation(token=token.token.reveal(), expires_at=moment(token.expires_at))


async def rotate(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """The older keys are good for a while."""
    made = await hub.enrolment.rotate(call.parameters["name"])
    return Answer(body=RelayKeyMade(id=made.id, key=made.key.reveal()), record={"key": made.id})


async def revoke(hub: Hub, call: Call[NoQuery, None]) -> None:
    """A connection that was made with it is ended."""
    await hub.relays.revoke(call.parameters["name"], call.parameters["id"])


async def enrol(hub: Hub, call: Call[NoQuery, Enrolment]) -> Enrolled:
    """The token is all that a relay has to show."""
    made = await hub.enrolment.enrol(call.body.token.reveal())
    hub.access.audit.put(
        Actor(f"relay:{made.relay}", call.address), "relay-enrol", DONE, {"key": made.id, "request": call.request_id}
    )
    url = hub.public_url or f"{'https' if call.secure else 'http'}://{call.headers.get('host', '')}"
    return Enrolled(relay=made.relay, key=made.key.reveal(), url=url, settings=settings_text(made.relay, url))


_READ: Final = Permission.RELAYS_READ
_WRITE: Final = Permission.RELAYS_WRITE

ROUTES: Final = (
    Route(
        method="GET",
        path="/relays",
        handler=list_relays,
        permission=_READ,
        summary="Relays by name",
        query=PageQuery,
        answers=Listing[RelayShape],
        refusals=(BadCursor,),
    ),
    Route(
        method="POST",
        path="/relays",
        handler=add_relay,
        permission=_WRITE,
        act="relay-add",
        summary="Add a relay",
        takes=NewRelay,
        answers=RelayShape,
        status=201,
        refusals=(Conflict, BadRelay),
    ),
    Route(
        method="GET",
        path="/relays/{name}",
        handler=get_relay,
        permission=_READ,
        summary="A relay with its keys",
        answers=RelayShape,
        refusals=(NotFound,),
    ),
    Route(
        method="PATCH",
        path="/relays/{name}",
        handler=change_relay,
        permission=_WRITE,
        act="relay-change",
        summary="Change a relay; a connection that would be refused now is ended",
        takes=RelayPatch,
        answers=RelayShape,
        precondition=Precondition.REQUIRED,
        refusals=(NotFound, Changed, BadRelay),
    ),
    Route(
        method="DELETE",
        path="/relays/{name}",
        handler=delete_relay,
        permission=_WRITE,
        act="relay-remove",
        summary="Delete a relay with its keys; its connection is ended",
        status=204,
        precondition=Precondition.REQUIRED,
        refusals=(NotFound, Changed, Conflict, StillReferred),
    ),
    Route(
        method="POST",
        path="/relays/{name}/enrolment",
        handler=invite,
        permission=_WRITE,
        act="relay-invite",
        summary="Make an enrolment token for a relay",
        answers=Invitation,
        status=201,
        refusals=(NotFound,),
    ),
    Route(
        method="POST",
        path="/relays/{name}/keys",
        handler=rotate,
        permission=_WRITE,
        act="relay-key-add",
        summary="Make a new key for a relay; the older ones are good for a week",
        answers=RelayKeyMade,
        status=201,
        refusals=(NotFound,),
    ),
    Route(
        method="DELETE",
        path="/relays/{name}/keys/{id}",
        handler=revoke,
        permission=_WRITE,
        act="relay-key-revoke",
        summary="Revoke a key; a connection that was made with it is ended",
        status=204,
        refusals=(NotFound,),
    ),
    Route(
        method="POST",
        path="/enrol",
        handler=enrol,
        permission=Anyone.PUBLIC,
        act="relay-enrol",
        recorded_below=True,
        summary="Give a relay its key for an enrolment token",
        takes=Enrolment,
        max_body=4096,
        answers=Enrolled,
        refusals=(EnrolmentRefused,),
    ),
)
