"""
What administrators do with relays: add, change, delete, revoke; and how each one stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from relayd.hub.links.links import Links
from relayd.hub.links.shared_names import SharedName
from relayd.hub.relays.authentication import may_come_from
from relayd.hub.relays.errors import BadRelay
from relayd.hub.store import relays
from relayd.hub.store.ids import new_id
from relayd.hub.store.paging import USUAL, Page
from relayd.hub.store.relays import Relay, RelayKey
from relayd.hub.store.store import Store
from relayd.language.texts import Text, printable
from relayd.network.patterns import read_network
from relayd.wire.parsing import FEATURES
from relayd.wire.relay_info import RelayInfo

#: A name stands in URLs, logs and files of settings.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
#: Networks of one relay, and characters of its note.
_MOST_NETWORKS: Final = 100
_MOST_NOTE: Final = 2000


class RelayView(Struct, frozen=True, kw_only=True):
    """
    A relay as people see it.

    :ivar entry: what the store has.
    :ivar keys: the oldest first; empty in lists.
    :ivar online: whether it is connected now.
    :ivar info: what it told of itself the last time; ``None``: nothing.
    :ivar lacks: the extensions that its program does not have, as far as is known; empty for one that never connected.
    :ivar shared_name: two programs take turns with its name now.
    """

    entry: Relay
    keys: tuple[RelayKey, ...] = ()
    online: bool = False
    info: RelayInfo | None = None
    lacks: tuple[str, ...] = ()
    shared_name: SharedName | None = None


class RelayAdministration:
    """
    The relays of a hub.

    A change that takes a right away also ends the connection that has it.

    :param now: the time, in microseconds since 1970.
    """

    def __init__(self, store: Store, links: Links, now: Callable[[], int]) -> None:
        self._store = store
        self._links = links
        self._now = now

    def add(
        self, name: str, *, allowed_networks: Sequence[str] = (), note: str = "", enabled: bool = True
    ) -> Deferred[RelayView]:
        """
        Add a relay, which has no key yet.

        :raises BadRelay: when something of it is not valid.
        :return: fails with `Conflict`, or another `StoreError`.
        """
        if not _NAME.fullmatch(name):
            reason = Text(
                "expected up to 128 letters, digits and . _ : @ -, with a letter or digit first; found {found}",
                found=printable(repr(name), 100),
            )
            raise BadRelay(field="name", reason=reason)
        now = self._now()
        entry = Relay(
            id=new_id(now),
            name=name,
            enabled=enabled,
            allowed_networks=networks_of(allowed_networks),
            note=_note(note),
            created_at=now,
        )
        return self._store.run(relays.add, entry).addCallback(lambda _: self._view(entry))

    def get(self, name: str) -> Deferred[RelayView]:
        """
        A relay with its keys.

        :return: fails with `NotFound`, or another `StoreError`.
        """

        def read(connection: Connection) -> tuple[Relay, list[RelayKey]]:
            entry = relays.find(connection, name)
            return entry, relays.keys_of(connection, entry.id)

        return self._store.read(read).addCallback(lambda found: self._view(*found))

    def fetch(self, cursor: str | None = None, limit: int = USUAL) -> Deferred[Page[RelayView]]:
        """
        A page of the relays, by their names.

        :return: fails with `BadCursor`, or another `StoreError`.
        """

        def view(page: Page[Relay]) -> Page[RelayView]:
            return Page([self._view(entry) for entry in page.items], page.next_cursor)

        return self._store.read(relays.fetch, cursor, limit).addCallback(view)

    def change(
        self,
        name: str,
        version: int | None = None,
        *,
        enabled: bool | None = None,
        allowed_networks: Sequence[str] | None = None,
        note: str | None = None,
    ) -> Deferred[RelayView]:
        """
        Change what is given of a relay.  A connection that would be refused now is ended.

        :param version: the one that it must have; ``None``: any.
        :raises BadRelay: when something of it is not valid.
        :return: fails with `NotFound`, `Changed`, or another `StoreError`.
        """
        networks = None if allowed_networks is None else networks_of(allowed_networks)
        note = None if note is None else _note(note)
        changed = self._store.run(relays.change, name, version, enabled=enabled, allowed_networks=networks, note=note)

        def apply(entry: Relay) -> RelayView:
            link = self._links.relays.get(name)
            if not entry.enabled:
                self._links.disconnect(name, "the relay is disabled")
            elif link is not None and not may_come_from(entry, link.address):
                self._links.disconnect(name, "the relay may not come from there")
            return self._view(entry)

        return changed.addCallback(apply)

    def remove(self, name: str, version: int | None = None) -> Deferred[None]:
        """
        Delete a relay with its keys, and end its connection.

        :param version: the one that it must have; ``None``: any.
        :return: fails with `NotFound`, `Changed`, `Conflict` (hosts name it), or another `StoreError`.
        """

        def apply(_: Relay) -> None:
            self._links.disconnect(name, "the relay is deleted")

        return self._store.run(relays.remove, name, version).addCallback(apply)

    def revoke(self, name: str, key_id: str) -> Deferred[None]:
        """
        Revoke a key, and end the connection that was made with it.

        :return: fails with `NotFound`, or another `StoreError`.
        """
        now = self._now()

        def revoke(connection: Connection) -> None:
            relays.revoke_key(connection, relays.find(connection, name).id, key_id, now)

        def apply(_: None) -> None:
            self._links.disconnect(name, "the key is revoked", key_id)

        return self._store.run(revoke).addCallback(apply)

    def _view(self, entry: Relay, keys: Sequence[RelayKey] = ()) -> RelayView:
        info = None if entry.last_info is None else msgspec.json.decode(entry.last_info, type=RelayInfo)
        has = () if info is None else info.features
        seen = entry.last_seen_at is not None
        return RelayView(
            entry=entry,
            keys=tuple(keys),
            online=entry.name in self._links.relays,
            info=info,
            lacks=tuple(feature for feature in FEATURES if feature not in has) if seen else (),
            shared_name=self._links.shared_name(entry.name),
        )


def networks_of(texts: Sequence[str]) -> tuple[str, ...]:
    """
    Networks in their canonical spelling.

    :raises BadRelay: when one is not valid.
    """
    if len(texts) > _MOST_NETWORKS:
        raise BadRelay(field="allowedNetworks", reason=Text("there may be {most} at most", most=_MOST_NETWORKS))
    found: dict[str, None] = {}
    for text in texts:
        try:
            found[str(read_network(text))] = None
        except ValueError:
            reason = Text(
                "expected an address or a network such as 192.0.2.0/24, without bits after its prefix; found {found}",
                found=printable(repr(text), 60),
            )
            raise BadRelay(field="allowedNetworks", reason=reason) from None
    return tuple(found)


def _note(text: str) -> str:
    if len(text) > _MOST_NOTE:
        raise BadRelay(field="note", reason=Text("it may have {most} characters at most", most=_MOST_NOTE))
    return text
