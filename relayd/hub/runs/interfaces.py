"""
What the engine needs of other parts of the hub: the inventory, the keys that seal secrets, and the links to relays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from relayd.language.texts import Text
from relayd.wire.messages import CommandStatus, ExecuteCommand, JumpHost, Secret


class InventoryHost(Struct, frozen=True, kw_only=True):
    """
    A host of the inventory, as runs need it.

    :ivar relays: the names of the relays that reach it, in the order in which they are tried.
    :ivar snapshot: JSON of all that `Inventory.logins` needs, without what is secret.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    relays: tuple[str, ...]
    snapshot: str


class Login(Struct, frozen=True, kw_only=True):
    """Where and as whom a command runs: fields of `ExecuteCommand`, which has what they mean."""

    host: str
    port: int
    username: str
    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None
    certificate: str | None = None
    host_key: str | None = None
    via: tuple[JumpHost, ...] = ()


class Inventory(Protocol):
    """The hosts; its methods are called in the store's threads."""

    def hosts(self, connection: Connection) -> Sequence[InventoryHost]:
        """All hosts, by name."""

    def logins(self, connection: Connection, snapshots: Sequence[str]) -> Sequence[Login | Text]:
        """
        How to log in to hosts, with their credentials as they are now.

        :param snapshots: of `InventoryHost`.
        :return: for each of them its login, or why there is none.
        """

    def relays_of(self, snapshot: str) -> tuple[str, ...]:
        """The relays in a snapshot."""


class SecretContent(Protocol):
    """What was sealed."""

    def reveal(self) -> bytes:
        """The content."""


class Sealing(Protocol):
    """Seals secrets: `relayd.hub.inventory.sealing.Sealer`."""

    def seal(self, content: bytes, context: str) -> bytes:
        """Seal a secret for *context*."""

    def open(self, sealed: bytes, context: str) -> SecretContent:
        """Open it again."""


class RelayLink(Protocol):
    """A link of a relay: `relayd.hub.links.protocol.RelayConnection`."""

    @property
    def proxy_id(self) -> str:
        """The relay's name."""

    @property
    def program(self) -> Any:
        """What it tells of itself: `relayd.hub.links.identity.RelayProgram`."""


class RelayLinks(Protocol):
    """The relays: `relayd.hub.links.links.Links`."""

    def send(self, proxy_id: str, command: ExecuteCommand) -> bool:
        """
        Send a command.

        :return: whether the relay is connected.
        :raises ValueError: when it cannot be written as JSON.
        """

    def cancel(self, proxy_id: str, command_id: str) -> Deferred[CommandStatus | None]:
        """Have a relay end a command; ``None``: it does not say how far that had come."""

    def status(self, proxy_id: str, command_id: str) -> Deferred[CommandStatus]:
        """Ask how far a command has come."""

    def check(self, proxy_id: str, command: ExecuteCommand) -> Deferred[Any]:
        """Ask what the relay's rules say of a command: a `relayd.wire.policy_answer.PolicyAnswer`."""
