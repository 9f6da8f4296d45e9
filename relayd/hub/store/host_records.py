"""
Hosts of the inventory, and its credentials without what is secret, as values.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

#: How a credential logs in.
Method = Literal["password", "key", "certificate", "at-the-site"]


class Host(Struct, frozen=True, kw_only=True, rename="camel"):
    """
    A host as people write it down; `relayd.hub.inventory.checks` makes it from what they wrote.

    :ivar name: its name in the inventory, which no other host has.
    :ivar address: name or address of the SSH server.
    :ivar port: its TCP port.
    :ivar user: who logs in; empty: nobody said.
    :ivar relays: names of the relays that reach it, in the order in which they are tried.
    :ivar labels: a group is a label with an empty value.
    :ivar via: jump hosts, see `relayd.network.credential_rules.parse_via`; empty: none. A hop may be the name of
        another host of the inventory.
    :ivar host_key: the fingerprint that its key must have, with or without the type before it; empty: the relay's known
        hosts decide.
    :ivar credential: the name of its credential; ``None``: it has none.
    """

    name: str
    address: str
    port: int = 22
    user: str = ""
    relays: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    via: str = ""
    host_key: str = ""
    credential: str | None = None


class StoredHost(Host, frozen=True, kw_only=True, rename="camel"):
    """
    A host that the hub has.

    :ivar id: stays, whatever is changed.
    :ivar version: grows with each change; the ``ETag``.
    :ivar created_at: microseconds since 1970, UTC.
    :ivar credential_id: of its credential, whose name may change.
    """

    id: str
    version: int
    created_at: int
    credential_id: str | None = None


class LabelCount(Struct, frozen=True, rename="camel"):
    """How many hosts have a label with a value."""

    key: str
    value: str
    hosts: int


class SealedCredential(Struct, frozen=True, kw_only=True):
    """
    A credential with what is secret of it, which only `relayd.hub.inventory.credentials.opened` can read.

    :ivar sealed: ``None``: the site has it.
    """

    id: str
    name: str
    method: Method
    sealed: bytes | None

    def __repr__(self) -> str:
        return f"<SealedCredential {self.name}>"


class StoredCredential(Struct, frozen=True, kw_only=True, rename="camel"):
    """
    A credential that the hub has, without what is secret.

    :ivar hosts: how many hosts use it.
    :ivar version: grows with each change; the ``ETag``.
    :ivar created_at: microseconds since 1970, UTC.
    """

    id: str
    name: str
    method: Method
    hosts: int
    version: int
    created_at: int
