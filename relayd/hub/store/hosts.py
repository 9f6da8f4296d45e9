"""
Hosts in the store: listed, looked up, changed one by one, and by an import all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from msgspec.structs import asdict, replace
from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from relayd.hub.decisions.selectors import Selector
from relayd.hub.store.errors import Changed, NotFound
from relayd.hub.store.host_records import Host, LabelCount, StoredHost
from relayd.hub.store.ids import new_id
from relayd.hub.store.keyset import fetch_page
from relayd.hub.store.paging import MOST, USUAL, Page, decode_cursor, encode_cursor
from relayd.hub.store.tables import credentials, host_labels, host_relays, hosts, relays
from relayd.language.texts import Text

#: Values of one statement.
_AT_ONCE: Final = 500
_LIST: Final = "hosts"


def add_host(connection: Connection, host: Host, now: int) -> StoredHost:
    """
    Add a host.

    :param now: microseconds since 1970, UTC.
    :raises Conflict: when there is one of that name.
    :raises NotFound: when a relay or the credential is not there.
    """
    names = _Names(connection)
    added = _new(host, names, now)
    _insert(connection, [added], names)
    return added


def host_named(connection: Connection, name: str) -> StoredHost:
    """
    The host of that name.

    :raises NotFound: when there is none.
    """
    found = _read(connection, _QUERY.where(hosts.c.name == name))
    if not found:
        raise NotFound(what=Text("host"), name=name)
    return found[0]


def hosts_named(connection: Connection, names: Sequence[str]) -> list[StoredHost]:
    """
    The hosts of these names, in the order of *names*; a name that is there twice gives one.

    :raises NotFound: for the first name that no host has.
    """
    found: dict[str, StoredHost] = {}
    wanted = list(dict.fromkeys(names))
    for start in range(0, len(wanted), _AT_ONCE):
        query = _QUERY.where(hosts.c.name.in_(wanted[start : start + _AT_ONCE]))
        found |= {host.name: host for host in _read(connection, query)}
    for name in wanted:
        if name not in found:
            raise NotFound(what=Text("host"), name=name)
    return [found[name] for name in wanted]


def all_hosts(connection: Connection) -> list[StoredHost]:
    """All hosts, by name."""
    return _read(connection, _QUERY.order_by(hosts.c.name), every=True)


def selected_hosts(connection: Connection, selector: Selector) -> list[StoredHost]:
    """
    The hosts that a selector means, by name.

    :raises NoHostSelected: when it means none.
    """
    return selector.select(all_hosts(connection))


def page_of_hosts(
    connection: Connection, *, selector: Selector | None = None, cursor: str | None = None, limit: int = USUAL
) -> Page[StoredHost]:
    """
    A page of hosts, by name.

    :param selector: only the hosts that it means.
    :raises BadCursor: when *cursor* is not one of this list.
    """
    if selector is not None:
        return _page_of_selected(connection, selector, cursor, limit)
    page = fetch_page(connection, _QUERY, [hosts.c.name], lambda row: row, name=_LIST, cursor=cursor, limit=limit)
    return Page(_with_parts(connection, page.items), page.next_cursor)


def change_host(connection: Connection, name: str, host: Host, version: int | None = None) -> StoredHost:
    """
    Make the host *name* as *host* says; it may get another name.

    :param version: that it must have; ``None``: any.
    :raises NotFound: when it is not there, or a relay or the credential is not.
    :raises Changed: when it has another version.
    :raises Conflict: when another host has the new name.
    """
    old = _checked(connection, name, version)
    names = _Names(connection)
    new = StoredHost(
        **_fields(host),
        id=old.id,
        version=old.version,
        created_at=old.created_at,
        credential_id=names.credential(host.credential),
    )
    return _update(connection, [(old, new)], names)[0]


def delete_host(connection: Connection, name: str, version: int | None = None) -> StoredHost:
    """
    Delete a host; runs keep what they have of it.

    :param version: that it must have; ``None``: any.
    :return: it, as it was.
    :raises NotFound: when it is not there.
    :raises Changed: when it has another version.
    """
    old = _checked(connection, name, version)
    connection.execute(delete(hosts).where(hosts.c.id == old.id))
    return old


def labels_of_hosts(connection: Connection) -> list[LabelCount]:
    """All labels that hosts have, by key and value."""
    query = (
        select(host_labels.c.key, host_labels.c.value, func.count())
        .group_by(host_labels.c.key, host_labels.c.value)
        .order_by(host_labels.c.key, host_labels.c.value)
    )
    return [LabelCount(*row) for row in connection.execute(query)]


def names_of_relays(connection: Connection) -> set[str]:
    """The names that hosts may give as relays."""
    return set(connection.scalars(select(relays.c.name)))


def inventory_version(connection: Connection) -> str:
    """A text that is another one after any host was added, changed or deleted."""
    digest = sha256()
    for row in connection.execute(select(hosts.c.id, hosts.c.version).order_by(hosts.c.id)):
        digest.update(f"{row[0]} {row[1]}\n".encode())
    return digest.hexdigest()[:32]


def apply_import(
    connection: Connection,
    add: Iterable[Host],
    change: Sequence[tuple[StoredHost, StoredHost]],
    remove: Iterable[StoredHost],
    now: int,
) -> None:
    """
    Change many hosts at once.

    :param change: each host as it is, and as it shall be.
    :raises Changed: when one that is changed or removed is not any more as it was.
    """
    names = _Names(connection)
    for each in remove:
        gone = connection.execute(delete(hosts).where(hosts.c.id == each.id, hosts.c.version == each.version))
        if gone.rowcount != 1:
            raise Changed(what=Text("host"), name=each.name)
    _update(connection, change, names)
    _insert(connection, [_new(host, names, now) for host in add], names)


_QUERY: Final[Select[Any]] = select(hosts, credentials.c.name.label("credential")).outerjoin(
    credentials, hosts.c.credential_id == credentials.c.id
)


class _Names:
    """The ids of relays and credentials by their names."""

    def __init__(self, connection: Connection) -> None:
        self._relays: dict[str, str] = dict(connection.execute(select(relays.c.name, relays.c.id)).tuples().all())
        found = connection.execute(select(credentials.c.name, credentials.c.id)).tuples()
        self._credentials: dict[str, str] = dict(found.all())

    def relay(self, name: str) -> str:
        if name not in self._relays:
            raise NotFound(what=Text("relay"), name=name)
        return self._relays[name]

    def credential(self, name: str | None) -> str | None:
        if name is None:
            return None
        if name not in self._credentials:
            raise NotFound(what=Text("credential"), name=name)
        return self._credentials[name]


def _fields(host: Host) -> dict[str, Any]:
    """What a person may say of a host."""
    return {name: value for name, value in asdict(host).items() if name in Host.__struct_fields__}


def _new(host: Host, names: _Names, now: int) -> StoredHost:
    credential = names.credential(host.credential)
    return StoredHost(**_fields(host), id=new_id(now), version=1, created_at=now, credential_id=credential)


def _checked(connection: Connection, name: str, version: int | None) -> StoredHost:
    found = host_named(connection, name)
    if version is not None and found.version != version:
        raise Changed(what=Text("host"), name=name)
    return found


def _row(host: StoredHost, names: _Names) -> dict[str, Any]:
    return {
        "name": host.name,
        "address": host.address,
        "port": host.port,
        "user": host.user,
        "via": host.via,
        "host_key": host.host_key,
        "credential_id": names.credential(host.credential),
    }


def _insert(connection: Connection, added: Sequence[StoredHost], names: _Names) -> None:
    if added:
        rows = [{**_row(host, names), "id": host.id, "created_at": host.created_at, "version": 1} for host in added]
        connection.execute(insert(hosts), rows)
        _insert_parts(connection, added, names)


def _insert_parts(connection: Connection, changed: Iterable[StoredHost], names: _Names) -> None:
    """Their labels and relays."""
    labels = [
        {"host_id": host.id, "key": key, "value": value}
        for host in changed
        for key, value in host.labels.items()
    ]  # fmt: skip
    if labels:
        connection.execute(insert(host_labels), labels)
    orders = [
        {"host_id": host.id, "position": position, "relay_id": names.relay(relay)}
        for host in changed
        for position, relay in enumerate(host.relays)
    ]
    if orders:
        connection.execute(insert(host_relays), orders)


def _update(
    connection: Connection, changes: Sequence[tuple[StoredHost, StoredHost]], names: _Names
) -> list[StoredHost]:
    ids = [old.id for old, _ in changes]
    for old, new in changes:
        values = {**_row(new, names), "version": old.version + 1}
        done = connection.execute(update(hosts).where(hosts.c.id == old.id, hosts.c.version == old.version), values)
        if done.rowcount != 1:
            raise Changed(what=Text("host"), name=old.name)
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        connection.execute(delete(host_labels).where(host_labels.c.host_id.in_(some)))
        connection.execute(delete(host_relays).where(host_relays.c.host_id.in_(some)))
    _insert_parts(connection, [new for _, new in changes], names)
    return [replace(new, version=old.version + 1) for old, new in changes]


def _read(connection: Connection, query: Select[Any], *, every: bool = False) -> list[StoredHost]:
    return _with_parts(connection, connection.execute(query).all(), every=every)


def _with_parts(connection: Connection, rows: Sequence[Row[Any]], *, every: bool = False) -> list[StoredHost]:
    """
    Hosts of rows of `_QUERY`, with labels and relays.

    :param every: whether *rows* are all hosts, so that all labels are read without asking for each host.
    """
    labels: dict[str, dict[str, str]] = {}
    orders: dict[str, list[str]] = {}
    of_labels = select(host_labels.c.host_id, host_labels.c.key, host_labels.c.value)
    of_labels = of_labels.order_by(host_labels.c.host_id, host_labels.c.key)
    of_relays = select(host_relays.c.host_id, relays.c.name).join(relays, host_relays.c.relay_id == relays.c.id)
    of_relays = of_relays.order_by(host_relays.c.host_id, host_relays.c.position)
    ids = [row.id for row in rows]
    for start in range(0, 1 if every else len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        first = of_labels if every else of_labels.where(host_labels.c.host_id.in_(some))
        for host_id, key, value in connection.execute(first):
            labels.setdefault(host_id, {})[key] = value
        second = of_relays if every else of_relays.where(host_relays.c.host_id.in_(some))
        for host_id, name in connection.execute(second):
            orders.setdefault(host_id, []).append(name)
    return [_made(row._mapping, labels.get(row.id, {}), tuple(orders.get(row.id, ()))) for row in rows]


def _made(row: Mapping[Any, Any], labels: dict[str, str], orders: tuple[str, ...]) -> StoredHost:
    return StoredHost(
        id=row["id"],
        name=row["name"],
        address=row["address"],
        port=row["port"],
        user=row["user"],
        relays=orders,
        labels=labels,
        via=row["via"],
        host_key=row["host_key"],
        credential=row["credential"],
        credential_id=row["credential_id"],
        version=row["version"],
        created_at=row["created_at"],
    )


def _page_of_selected(connection: Connection, selector: Selector, cursor: str | None, limit: int) -> Page[StoredHost]:
    # Labels are matched here and not by the database: all 3,000 hosts of an inventory are read in some 30 ms.
    name = f"{_LIST} {selector.text}"
    after = "" if cursor is None else str(decode_cursor(name, cursor, [str])[0])
    limit = max(1, min(limit, MOST))
    found = [host for host in all_hosts(connection) if host.name > after and selector.matches(host)]
    items = found[:limit]
    return Page(items, encode_cursor(name, (items[-1].name,)) if len(found) > limit else None)
