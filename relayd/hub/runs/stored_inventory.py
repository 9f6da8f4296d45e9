"""
The inventory as runs need it: the hosts of the store, and how to log in to them with the credentials that are sealed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from relayd.hub.inventory.errors import SealingError
from relayd.hub.inventory.logins import Inventory as KnownHosts
from relayd.hub.inventory.logins import NoWay, Opener, Snapshot, snapshot_of
from relayd.hub.inventory.sealing import Sealer
from relayd.hub.runs.interfaces import InventoryHost, Login
from relayd.hub.store.credentials import sealed_credentials
from relayd.hub.store.hosts import all_hosts
from relayd.language.texts import Text


class StoredInventory:
    """
    See `relayd.hub.runs.interfaces.Inventory`.

    :param sealer: opens the credentials.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def hosts(self, connection: Connection) -> Sequence[InventoryHost]:
        """All hosts, by name."""
        found = all_hosts(connection)
        known = KnownHosts(found)
        return [
            InventoryHost(
                id=host.id,
                name=host.name,
                labels=host.labels,
                relays=host.relays,
                snapshot=msgspec.json.encode(snapshot_of(host, known)).decode(),
            )
            for host in found
        ]

    def logins(self, connection: Connection, snapshots: Sequence[str]) -> Sequence[Login | Text]:
        """How to log in to hosts, with their credentials as they are now; or why that cannot be."""
        read = [msgspec.json.decode(snapshot, type=Snapshot) for snapshot in snapshots]
        ids = {each for snapshot in read if snapshot.way is not None for each in snapshot.way.credential_ids}
        opener = Opener(sealed_credentials(connection, ids), self._sealer)
        return [_login(snapshot, opener) for snapshot in read]

    def relays_of(self, snapshot: str) -> tuple[str, ...]:
        """The relays in a snapshot."""
        return msgspec.json.decode(snapshot, type=Snapshot).relays


def _login(snapshot: Snapshot, opener: Opener) -> Login | Text:
    if snapshot.way is None:
        return Text(snapshot.problem)
    try:
        fields = opener.fields(snapshot.way)
        written = fields.pop("written")  # to be sent as people wrote it: the relay finds the host that it means
        return Login(**{**fields, "host": written or fields["host"]})
    except NoWay as problem:
        return problem.text
    except SealingError as error:
        return error.text
