"""
Relays, their keys and their enrolment tokens: queries.  The store has digests, and no key or token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Row, delete, select, update

from relayd.hub.store.errors import Changed, NotFound
from relayd.hub.store.keyset import fetch_page
from relayd.hub.store.paging import USUAL, Page
from relayd.hub.store.tables import enrolment_tokens, relay_keys, relays


class Relay(Struct, frozen=True, kw_only=True):
    """
    A relay that may connect; times are microseconds since 1970.

    :ivar name: its ``proxyId``.
    :ivar enabled: whether it may connect now.
    :ivar allowed_networks: where it may come from (CIDR); empty: from anywhere.
    :ivar last_seen_at: to a minute; ``None``: it was never connected.
    :ivar last_address: where it came from.
    :ivar last_dialect: ``socketio`` or ``native``.
    :ivar last_version: of relayd; ``None``: it is another program, or does not tell.
    :ivar last_info: JSON of its answer to ``relay_info``.
    """

    id: str
    name: str
    enabled: bool = True
    allowed_networks: tuple[str, ...] = ()
    note: str = ""
    last_seen_at: int | None = None
    last_address: str | None = None
    last_dialect: str | None = None
    last_version: str | None = None
    last_info: str | None = None
    created_at: int
    version: int = 1


class RelayKey(Struct, frozen=True, kw_only=True):
    """
    A key of a relay, without its text; times are microseconds since 1970.

    :ivar expires_at: ``None``: never.
    :ivar revoked_at: ``None``: it is not revoked.
    :ivar last_used_at: to a minute; ``None``: never.
    """

    id: str
    relay_id: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None

    def is_good(self, now: int) -> bool:
        """Whether a relay may connect with it."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class EnrolmentToken(Struct, frozen=True, kw_only=True):
    """
    A token for which a relay gets a key, once, without its text; times are microseconds since 1970.

    :ivar created_by: whose act it was.
    :ivar used_at: ``None``: it was not used.
    """

    id: str
    relay_id: str
    created_by: str
    created_at: int
    expires_at: int
    used_at: int | None = None


# Relays --------------------------------------------------------------------------------------------------------------


def add(connection: Connection, relay: Relay) -> None:
    """
    Add a relay.

    :raises Conflict: when there is one of that name.
    """
    connection.execute(
        relays.insert().values(
            id=relay.id,
            name=relay.name,
            enabled=relay.enabled,
            allowed_networks=_as_json(relay.allowed_networks),
            note=relay.note,
            created_at=relay.created_at,
        )
    )


def find(connection: Connection, name: str) -> Relay:
    """
    The relay of that name.

    :raises NotFound: when there is none.
    """
    row = connection.execute(select(relays).where(relays.c.name == name)).first()
    if row is None:
        raise NotFound(what="relay", name=name)
    return _relay_of(row)


def fetch(connection: Connection, cursor: str | None = None, limit: int = USUAL) -> Page[Relay]:
    """
    A page of the relays, by their names.

    :raises BadCursor: when *cursor* is not one of this list.
    """
    return fetch_page(connection, select(relays), [relays.c.name], _relay_of, name="relays", cursor=cursor, limit=limit)


def change(
    connection: Connection,
    name: str,
    version: int | None,
    *,
    enabled: bool | None = None,
    allowed_networks: Sequence[str] | None = None,
    note: str | None = None,
) -> Relay:
    """
    Change what is given of a relay.

    :param version: the one that it must have; ``None``: any.
    :raises NotFound: when there is none of that name.
    :raises Changed: when it has another version.
    """
    relay = _in_version(connection, name, version)
    networks = None if allowed_networks is None else _as_json(allowed_networks)
    given = {"enabled": enabled, "allowed_networks": networks, "note": note}
    values = {column: value for column, value in given.items() if value is not None}
    connection.execute(update(relays).where(relays.c.id == relay.id).values(**values, version=relay.version + 1))
    return find(connection, name)


def remove(connection: Connection, name: str, version: int | None = None) -> Relay:
    """
    Delete a relay with its keys and tokens.

    :param version: the one that it must have; ``None``: any.
    :return: as it was.
    :raises NotFound: when there is none of that name.
    :raises Changed: when it has another version.
    :raises Conflict: when hosts name it.
    """
    relay = _in_version(connection, name, version)
    connection.execute(delete(relays).where(relays.c.id == relay.id))
    return relay


def note_seen(connection: Connection, seen: Sequence[tuple[str, str]], now: int) -> None:
    """
    Note that relays are connected.

    :param seen: the name of each, and the id of the key that it has shown.
    """
    names = sorted(name for name, _ in seen)
    keys = sorted(key_id for _, key_id in seen)
    for part in _parts(names):
        connection.execute(update(relays).where(relays.c.name.in_(part)).values(last_seen_at=now))
    for part in _parts(keys):
        connection.execute(update(relay_keys).where(relay_keys.c.id.in_(part)).values(last_used_at=now))


def note_connection(
    connection: Connection,
    name: str,
    now: int,
    *,
    address: str,
    dialect: str,
    version: str | None,
    info: str | None,
) -> None:
    """Note what a relay that has connected is; a relay that was deleted meanwhile stays so."""
    values = {"last_address": address, "last_dialect": dialect, "last_version": version, "last_info": info}
    connection.execute(update(relays).where(relays.c.name == name).values(last_seen_at=now, **values))


# Keys ----------------------------------------------------------------------------------------------------------------


def add_key(connection: Connection, key: RelayKey, digest: bytes) -> None:
    """Add a key."""
    connection.execute(
        relay_keys.insert().values(
            id=key.id, relay_id=key.relay_id, digest=digest, created_at=key.created_at, expires_at=key.expires_at
        )
    )


def end_other_keys(connection: Connection, relay_id: str, key_id: str, expires_at: int) -> None:
    """Let all keys of a relay but that one end then, as far as they do not end earlier."""
    connection.execute(
        update(relay_keys)
        .where(
            relay_keys.c.relay_id == relay_id,
            relay_keys.c.id != key_id,
            relay_keys.c.expires_at.is_(None) | (relay_keys.c.expires_at > expires_at),
        )
        .values(expires_at=expires_at)
    )


def keys_of(connection: Connection, relay_id: str) -> list[RelayKey]:
    """The keys of a relay, the oldest first."""
    query = select(relay_keys).where(relay_keys.c.relay_id == relay_id).order_by(relay_keys.c.id)
    return [_key_of(row) for row in connection.execute(query)]


def revoke_key(connection: Connection, relay_id: str, key_id: str, now: int) -> RelayKey:
    """
    Revoke a key; one that is revoked stays so.

    :raises NotFound: when the relay has no such key.
    """
    mine = (relay_keys.c.relay_id == relay_id, relay_keys.c.id == key_id)
    connection.execute(update(relay_keys).where(*mine, relay_keys.c.revoked_at.is_(None)).values(revoked_at=now))
    row = connection.execute(select(relay_keys).where(*mine)).first()
    if row is None:
        raise NotFound(what="key", name=key_id)
    return _key_of(row)


def find_by_digests(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, tuple[Relay, RelayKey]]:
    """The keys with these digests, good or not, each with its relay."""
    found: dict[bytes, tuple[Relay, RelayKey]] = {}
    for part in _parts(digests):
        rows = connection.execute(select(relay_keys).where(relay_keys.c.digest.in_(part))).all()
        owners = {
            row.id: _relay_of(row)
            for row in connection.execute(select(relays).where(relays.c.id.in_({each.relay_id for each in rows})))
        }
        found |= {row.digest: (owners[row.relay_id], _key_of(row)) for row in rows if row.relay_id in owners}
    return found


# Enrolment -----------------------------------------------------------------------------------------------------------


def add_token(connection: Connection, token: EnrolmentToken, digest: bytes) -> None:
    """Add an enrolment token; earlier ones of the relay, which were not used, are good no more."""
    unused = (enrolment_tokens.c.relay_id == token.relay_id, enrolment_tokens.c.used_at.is_(None))
    connection.execute(delete(enrolment_tokens).where(*unused))
    connection.execute(
        enrolment_tokens.insert().values(
            id=token.id,
            relay_id=token.relay_id,
            digest=digest,
            created_by=token.created_by,
            created_at=token.created_at,
            expires_at=token.expires_at,
        )
    )


def use_token(connection: Connection, digest: bytes, now: int) -> bool:
    """
    Use a token.

    :return: whether it was good: true once for each token, also when two ask at the same time.
    """
    good = (
        enrolment_tokens.c.digest == digest,
        enrolment_tokens.c.used_at.is_(None),
        enrolment_tokens.c.expires_at > now,
    )
    return connection.execute(update(enrolment_tokens).where(*good).values(used_at=now)).rowcount == 1


def find_token(connection: Connection, digest: bytes) -> tuple[EnrolmentToken, Relay] | None:
    """The token with that digest, good or not, and its relay; ``None``: there is none."""
    row = connection.execute(select(enrolment_tokens).where(enrolment_tokens.c.digest == digest)).first()
    if row is None:
        return None
    owner = connection.execute(select(relays).where(relays.c.id == row.relay_id)).one()
    values = {name: getattr(row, name) for name in EnrolmentToken.__struct_fields__}
    return EnrolmentToken(**values), _relay_of(owner)


# Ours ----------------------------------------------------------------------------------------------------------------

#: Values in one condition: SQLite takes 32,766 of them, and a database plans each length anew.
_PART = 500


def _parts(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + _PART] for start in range(0, len(values), _PART)]


def _as_json(networks: Sequence[str]) -> str:
    return msgspec.json.encode(list(networks)).decode()


def _in_version(connection: Connection, name: str, version: int | None) -> Relay:
    # On PostgreSQL, whoever changes it at the same time waits, and then sees the new version.
    row = connection.execute(select(relays).where(relays.c.name == name).with_for_update()).first()
    if row is None:
        raise NotFound(what="relay", name=name)
    relay = _relay_of(row)
    if version is not None and relay.version != version:
        raise Changed(what="relay", name=name)
    return relay


def _relay_of(row: Row[Any]) -> Relay:
    fields = {name: row._mapping[name] for name in Relay.__struct_fields__ if name != "allowed_networks"}
    return Relay(**fields, allowed_networks=msgspec.json.decode(row.allowed_networks, type=tuple[str, ...]))


def _key_of(row: Row[Any]) -> RelayKey:
    return RelayKey(**{name: row._mapping[name] for name in RelayKey.__struct_fields__})
