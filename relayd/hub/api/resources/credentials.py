"""
Credentials: their secrets go in, and never come out.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from msgspec import UNSET, UnsetType
from sqlalchemy import Connection

from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Answer, Call, NoQuery
from relayd.hub.api.conditions import entity_tag, expected_version
from relayd.hub.api.hub import Hub
from relayd.hub.api.routes import Precondition, Route
from relayd.hub.api.shapes import Given, Listing, Name, PageQuery, Shape, listing, moment
from relayd.hub.inventory.checks import checked_name
from relayd.hub.inventory.credentials import checked_login, seal_login, sealed_credential
from relayd.hub.store import credentials
from relayd.hub.store.errors import BadCursor, Changed, Conflict, NotFound, StillReferred
from relayd.hub.store.host_records import Method, StoredCredential
from relayd.hub.store.ids import new_id
from relayd.network.threads import in_pool
from relayd.wire.secret import Secret

_SECRETS: Final = {
    "password": "password",
    "private_key": "privateKey",
    "passphrase": "passphrase",
    "certificate": "certificate",
}


class CredentialShape(Shape, frozen=True, kw_only=True):
    """
    A credential, without what is secret.

    :ivar hosts: how many hosts use it.
    """

    id: str
    name: str
    method: Method
    hosts: int
    created_at: datetime
    version: int


class NewCredential(Given, frozen=True, kw_only=True):
    """
    A credential to be added.

    :ivar method: ``at-the-site``: the relay's own table has it, and nothing is given here.
    """

    name: Name
    method: Method
    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None
    certificate: Secret | None = None


class CredentialPatch(Given, frozen=True, kw_only=True):
    """
    What of a credential is to change.

    :ivar method: with it, all that this method needs has to be given.
    """

    name: Name | UnsetType = UNSET
    method: Method | UnsetType = UNSET
    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None
    certificate: Secret | None = None


def _shape(credential: StoredCredential) -> CredentialShape:
    return CredentialShape(
        id=credential.id,
        name=credential.name,
        method=credential.method,
        hosts=credential.hosts,
        created_at=moment(credential.created_at),
        version=credential.version,
    )


def _answer(credential: StoredCredential, **more: Any) -> Answer:
    return Answer(body=_shape(credential), etag=entity_tag(credential.version), **more)


def _given(body: NewCredential | CredentialPatch) -> dict[str, str]:
    secrets = {name: getattr(body, attribute) for attribute, name in _SECRETS.items()}
    return {name: secret.reveal() for name, secret in secrets.items() if secret is not None}


async def list_credentials(hub: Hub, call: Call[PageQuery, None]) -> Listing[CredentialShape]:
    """By name."""
    page = await hub.store.read(credentials.page_of_credentials, cursor=call.query.cursor, limit=call.query.limit)
    return listing(page, _shape)


async def add_credential(hub: Hub, call: Call[NoQuery, NewCredential]) -> Answer:
    """It is sealed at once."""
    body, now = call.body, hub.now()
    checked_name(body.name)
    login = await in_pool(hub.reactor, checked_login, body.method, _given(body), now / 1e6)
    sealed = sealed_credential(hub.sealer, login, credential_id=new_id(now), name=body.name)
    added = await hub.store.run(credentials.add_credential, sealed, now)
    return _answer(added, headers={"Location": f"/api/v1/credentials/{added.name}"}, record={"name": added.name})


async def get_credential(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """Without what is secret."""
    return _answer(await hub.store.read(credentials.credential_named, call.parameters["name"]))


async def change_credential(hub: Hub, call: Call[NoQuery, CredentialPatch]) -> Answer:
    """Another secret is given whole: nothing of the old one is kept."""
    body, name = call.body, call.parameters["name"]
    version = expected_version(call.headers.get("if-match"))
    if body.name is not UNSET:
        checked_name(body.name)
    before = await hub.store.read(credentials.credential_named, name)
    given = _given(body)
    changes: dict[str, Any] = {"new_name": None if body.name is UNSET else body.name}
    if given or body.method is not UNSET:
        method = before.method if body.method is UNSET else body.method
        login = await in_pool(hub.reactor, checked_login, method, given, hub.now() / 1e6)
        changes |= {"method": login.method, "sealed": seal_login(hub.sealer, login, before.id)}
    return _answer(await hub.store.run(_change, name, before.id, version, changes))


def _change(
    connection: Connection, name: str, credential_id: str, version: int | None, changes: dict[str, Any]
) -> StoredCredential:
    if credentials.credential_named(connection, name).id != credential_id:
        raise Changed(what="credential", name=name)  # another one of that name: the secret was sealed for the first
    return credentials.change_credential(connection, name, version=version, **changes)


async def delete_credential(hub: Hub, call: Call[NoQuery, None]) -> None:
    """One that no host uses."""
    version = expected_version(call.headers.get("if-match"))
    await hub.store.run(credentials.delete_credential, call.parameters["name"], version)


_READ: Final = Permission.INVENTORY_READ
_WRITE: Final = Permission.INVENTORY_WRITE

ROUTES: Final = (
    Route(
        method="GET",
        path="/credentials",
        handler=list_credentials,
        permission=_READ,
        summary="Credentials by name, without what is secret",
        query=PageQuery,
        answers=Listing[CredentialShape],
        refusals=(BadCursor,),
    ),
    Route(
        method="POST",
        path="/credentials",
        handler=add_credential,
        permission=_WRITE,
        act="credential-add",
        summary="Add a credential",
        takes=NewCredential,
        answers=CredentialShape,
        status=201,
        refusals=(Conflict,),
    ),
    Route(
        method="GET",
        path="/credentials/{name}",
        handler=get_credential,
        permission=_READ,
        summary="A credential, without what is secret",
        answers=CredentialShape,
        refusals=(NotFound,),
    ),
    Route(
        method="PATCH",
        path="/credentials/{name}",
        handler=change_credential,
        permission=_WRITE,
        act="credential-change",
        summary="Rename a credential, or replace what is secret",
        takes=CredentialPatch,
        answers=CredentialShape,
        precondition=Precondition.REQUIRED,
        refusals=(NotFound, Changed, Conflict),
    ),
    Route(
        method="DELETE",
        path="/credentials/{name}",
        handler=delete_credential,
        permission=_WRITE,
        act="credential-remove",
        summary="Delete a credential that no host uses",
        status=204,
        precondition=Precondition.REQUIRED,
        refusals=(NotFound, Changed, StillReferred),
    ),
)
