"""
Hosts of the inventory.

Everybody who may see the inventory sees all of it, also operators who may run commands on some hosts only.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType, field
from sqlalchemy import Connection

from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Answer, Call, NoQuery
from relayd.hub.api.conditions import entity_tag, expected_version
from relayd.hub.api.hub import Hub
from relayd.hub.api.problems import InvalidQuery
from relayd.hub.api.routes import Precondition, Route
from relayd.hub.api.shapes import Given, Listing, Name, PageQuery, Shape, listing, moment
from relayd.hub.decisions.selectors import MAX_SELECTOR, Selector, parse
from relayd.hub.inventory.checks import FIELDS, checked_host
from relayd.hub.store import hosts
from relayd.hub.store.errors import BadCursor, Changed, Conflict, NotFound
from relayd.hub.store.host_records import LabelCount, StoredHost
from relayd.language.texts import Fault

Labels = Annotated[
    dict[Annotated[str, Meta(max_length=255)], Annotated[str, Meta(max_length=1000)]], Meta(max_length=200)
]
Relays = Annotated[list[Name], Meta(max_length=32)]
Text = Annotated[str, Meta(max_length=16 * 1024)]


class HostShape(Shape, frozen=True, kw_only=True):
    """
    A host.

    :ivar relays: the relays that reach it, in the order in which they are tried.
    :ivar labels: a group is a label with an empty value.
    :ivar via: jump hosts as ``[user@]host[:port]``, with commas between several; empty: none.
    :ivar host_key: the fingerprint that its key must have; empty: the relay's known hosts decide.
    :ivar credential: name of its credential.
    """

    id: str
    name: str
    address: str
    port: int
    user: str
    relays: list[str]
    labels: dict[str, str]
    via: str
    host_key: str
    credential: str | None
    created_at: datetime
    version: int


class NewHost(Given, frozen=True, kw_only=True):
    """
    A host to be added.

    :ivar address: by default its name.
    :ivar labels: a group is a label with an empty value.
    :ivar host_key: a fingerprint, or a public key as in ``known_hosts``.
    """

    name: Name
    address: Name | UnsetType = UNSET
    port: Annotated[int, Meta(ge=1, le=65535)] = 22
    user: Annotated[str, Meta(max_length=255)] = ""
    relays: Relays = field(default_factory=list)
    labels: Labels = field(default_factory=dict)
    via: Text = ""
    host_key: Text = ""
    credential: Name | None = None


class HostPatch(Given, frozen=True, kw_only=True):
    """What of a host is to change; labels and relays are replaced as a whole."""

    name: Name | UnsetType = UNSET
    address: Name | UnsetType = UNSET
    port: Annotated[int, Meta(ge=1, le=65535)] | UnsetType = UNSET
    user: Annotated[str, Meta(max_length=255)] | UnsetType = UNSET
    relays: Relays | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    via: Text | UnsetType = UNSET
    host_key: Text | UnsetType = UNSET
    credential: Name | UnsetType | None = UNSET


class HostQuery(PageQuery, frozen=True, kw_only=True):
    """Which hosts."""

    selector: Annotated[str, Meta(max_length=MAX_SELECTOR, description="Such as env=prod.")] | None = None


def _shape(host: StoredHost) -> HostShape:
    return HostShape(
        id=host.id,
        name=host.name,
        address=host.address,
        port=host.port,
        user=host.user,
        relays=list(host.relays),
        labels=host.labels,
        via=host.via,
        host_key=host.host_key,
        credential=host.credential,
        created_at=moment(host.created_at),
        version=host.version,
    )


def _answer(host: StoredHost, **more: Any) -> Answer:
    return Answer(body=_shape(host), etag=entity_tag(host.version), **more)


async def list_hosts(hub: Hub, call: Call[HostQuery, None]) -> Listing[HostShape]:
    """By name."""
    query = call.query
    selector = None if query.selector is None else _selector(query.selector)
    page = await hub.store.read(hosts.page_of_hosts, selector=selector, cursor=query.cursor, limit=query.limit)
    return listing(page, _shape)


def _selector(text: str) -> Selector:
    try:
        return parse(text)
    except Fault as fault:
        raise InvalidQuery(parameter="selector", reason=fault.text) from None


async def add_host(hub: Hub, call: Call[NoQuery, NewHost]) -> Answer:
    """Its relays and its credential have to be there."""
    host = await hub.store.run(hosts.add_host, checked_host(msgspec.to_builtins(call.body)), hub.now())
    return _answer(host, headers={"Location": f"/api/v1/hosts/{host.name}"}, record={"name": host.name})


async def get_host(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """By its name."""
    return _answer(await hub.store.read(hosts.host_named, call.parameters["name"]))


async def change_host(hub: Hub, call: Call[NoQuery, HostPatch]) -> Answer:
    """It may get another name."""
    version = expected_version(call.headers.get("if-match"))
    return _answer(await hub.store.run(_change, call.parameters["name"], msgspec.to_builtins(call.body), version))


def _change(connection: Connection, name: str, patch: dict[str, Any], version: int | None) -> StoredHost:
    before = msgspec.to_builtins(_shape(hosts.host_named(connection, name)))
    given = {field: before[field] for field in FIELDS} | patch
    return hosts.change_host(connection, name, checked_host(given), version)


async def delete_host(hub: Hub, call: Call[NoQuery, None]) -> None:
    """Runs keep what they have of it."""
    version = expected_version(call.headers.get("if-match"))
    await hub.store.run(hosts.delete_host, call.parameters["name"], version)


async def list_labels(hub: Hub, call: Call[NoQuery, None]) -> Listing[LabelCount]:
    """All of them: they are few beside hosts."""
    return Listing(items=await hub.store.read(hosts.labels_of_hosts))


_READ: Final = Permission.INVENTORY_READ
_WRITE: Final = Permission.INVENTORY_WRITE

ROUTES: Final = (
    Route(
        method="GET",
        path="/hosts",
        handler=list_hosts,
        permission=_READ,
        summary="Hosts by name",
        query=HostQuery,
        answers=Listing[HostShape],
        refusals=(BadCursor,),
    ),
    Route(
        method="POST",
        path="/hosts",
        handler=add_host,
        permission=_WRITE,
        act="host-add",
        summary="Add a host",
        takes=NewHost,
        answers=HostShape,
        status=201,
        refusals=(Conflict, NotFound),
    ),
    Route(
        method="GET",
        path="/hosts/{name}",
        handler=get_host,
        permission=_READ,
        summary="A host",
        answers=HostShape,
        refusals=(NotFound,),
    ),
    Route(
        method="PATCH",
        path="/hosts/{name}",
        handler=change_host,
        permission=_WRITE,
        act="host-change",
        summary="Change a host",
        takes=HostPatch,
        answers=HostShape,
        precondition=Precondition.REQUIRED,
        refusals=(NotFound, Changed, Conflict),
    ),
    Route(
        method="DELETE",
        path="/hosts/{name}",
        handler=delete_host,
        permission=_WRITE,
        act="host-remove",
        summary="Delete a host; runs keep what they have of it",
        status=204,
        precondition=Precondition.REQUIRED,
        refusals=(NotFound, Changed),
    ),
    Route(
        method="GET",
        path="/labels",
        handler=list_labels,
        permission=_READ,
        summary="All labels that hosts have",
        answers=Listing[LabelCount],
    ),
)
