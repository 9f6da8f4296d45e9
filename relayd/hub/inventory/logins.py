"""
How a host of the inventory is reached: its way as a run keeps it, and the fields of ``execute_command`` that say it.

Source: docs/protocol.rst, "Jump hosts": a jump host needs its own password or key, and the site's credentials go only
the site's own way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from relayd.hub.inventory.credentials import Login, opened
from relayd.hub.inventory.sealing import Sealer
from relayd.hub.store.host_records import SealedCredential, StoredHost
from relayd.language.texts import Fault
from relayd.network.credential_rules import Hop, parse_via
from relayd.network.spelling import canonical_host
from relayd.wire.fields import MAX_HOPS
from relayd.wire.hosts import spelling_of_host
from relayd.wire.messages import JumpHost


class NoWay(Fault):
    """A host cannot be reached as the inventory has it; the argument says why."""


class Server(Struct, frozen=True, kw_only=True):
    """
    An SSH server, with who logs in there.

    :ivar credential_id: ``None``: the site has the credential.
    """

    host: str
    port: int
    user: str
    host_key: str = ""
    credential_id: str | None = None


class Way(Struct, frozen=True, kw_only=True):
    """
    The way to a host, as a run keeps it: later changes of the inventory do not change it.

    :ivar relays: names, in the order in which they are tried.
    :ivar via: jump hosts, the first one nearest to the relay.
    """

    server: Server
    relays: tuple[str, ...]
    via: tuple[Server, ...] = ()

    @property
    def credential_ids(self) -> frozenset[str]:
        """Of all credentials that it needs."""
        servers = (self.server, *self.via)
        return frozenset(each.credential_id for each in servers if each.credential_id is not None)


class Snapshot(Struct, frozen=True, kw_only=True):
    """
    What a run keeps of a host.

    :ivar relays: names, in the order in which they are tried.
    :ivar way: ``None``: it cannot be reached.
    :ivar problem: why not.
    """

    relays: tuple[str, ...]
    way: Way | None = None
    problem: str = ""


class Inventory:
    """Hosts by the names and addresses that jump hosts may be given by."""

    def __init__(self, hosts: Iterable[StoredHost]) -> None:
        self._by_name: dict[str, StoredHost] = {}
        self._by_place: dict[tuple[str, int], list[StoredHost]] = {}
        for host in hosts:
            self._by_name[host.name] = host
            self._by_place.setdefault((canonical_host(host.address), host.port), []).append(host)

    def jump_host(self, hop: Hop, user: str) -> StoredHost | None:
        """
        The host of the inventory that a hop means: by its name, or by its address and port.

        :param user: who logs in there; where several hosts have the same address, theirs decides.
        """
        named = self._by_name.get(hop.looked_up or hop.host)
        if named is not None and (hop.port in (22, named.port)):
            return named
        there = self._by_place.get((hop.host, hop.port), [])
        return next((host for host in there if host.user == user), there[0] if len(there) == 1 else None)


def way_to(host: StoredHost, inventory: Inventory) -> Way:
    """
    The way to a host.

    :raises NoWay: when no user is set, or a jump host is not in the inventory with a credential of its own.
    """
    if not host.user:
        raise NoWay("the host {host} has no user; set one", host=host.name)
    if not host.relays:
        raise NoWay("the host {host} has no relay that reaches it; set one", host=host.name)
    hops = _hops(host, inventory, MAX_HOPS)
    if hops and host.credential_id is None:
        raise NoWay(
            "the host {host} has jump hosts and no credential: a credential of the site goes only the site's own way; "
            "leave via out, or set a credential",
            host=host.name,
        )
    return Way(server=_server(host), relays=host.relays, via=hops)


def snapshot_of(host: StoredHost, inventory: Inventory) -> Snapshot:
    """What a run keeps of a host, whether it can be reached or not."""
    try:
        return Snapshot(relays=host.relays, way=way_to(host, inventory))
    except NoWay as problem:
        return Snapshot(relays=host.relays, problem=str(problem))


class Opener:
    """
    Makes the fields of commands, and opens each credential once.  Do not keep it, nor what it gives.

    :param credentials: those of `Way.credential_ids` (`relayd.hub.store.credentials.sealed_credentials`).
    """

    def __init__(self, credentials: Mapping[str, SealedCredential], sealer: Sealer) -> None:
        self._credentials = credentials
        self._sealer = sealer
        self._logins: dict[str, Login] = {}

    def fields(self, way: Way) -> dict[str, Any]:
        """
        The fields of `relayd.wire.messages.ExecuteCommand` that say where to log in, and with what.

        :raises NoWay: when a credential is gone, or the site would have to have that of a jump host.
        :raises SealingError: when one cannot be opened.
        """
        found = self._of(way.server, way)
        if way.via:
            found["via"] = tuple(JumpHost(**self._of(hop, way)) for hop in way.via)
        return found

    def _of(self, server: Server, way: Way) -> dict[str, Any]:
        login = None if server.credential_id is None else self._login(server.credential_id, server)
        if way.via and (login is None or login.method == "at-the-site"):
            raise NoWay(
                "{host} is on a way with jump hosts, and its credential is at the site, which goes only the site's own "
                "way; leave via out, or give the hub a credential",
                host=server.host,
            )
        return _fields(server, login)

    def _login(self, credential_id: str, server: Server) -> Login:
        if credential_id not in self._credentials:
            raise NoWay("the credential of {host} was deleted", host=server.host)
        if credential_id not in self._logins:
            self._logins[credential_id] = opened(self._sealer, self._credentials[credential_id])
        return self._logins[credential_id]


def _server(host: StoredHost) -> Server:
    return Server(
        host=host.address, port=host.port, user=host.user, host_key=host.host_key, credential_id=host.credential_id
    )


def _hops(host: StoredHost, inventory: Inventory, left: int) -> tuple[Server, ...]:
    """The jump hosts before a host; the nearest of them may have others before it, in its own entry."""
    hops = parse_via(host.via)
    if len(hops) > left:
        raise NoWay("the jump hosts of {host} lead in a circle, or are more than {most}", host=host.name, most=MAX_HOPS)
    found: tuple[Server, ...] = ()
    for hop in hops:
        known = inventory.jump_host(hop, hop.username or host.user)
        if known is None or known.credential_id is None:
            raise NoWay(
                "the jump host {hop} of {host} is not in the inventory with a credential; add it there",
                hop=str(hop),
                host=host.name,
            )
        if not found:
            found = _hops(known, inventory, left - len(hops))
        found += (replace(_server(known), user=hop.username or known.user or host.user),)
    return found


def _fields(server: Server, login: Login | None) -> dict[str, Any]:
    host, written = spelling_of_host(server.host)
    found: dict[str, Any] = {"host": host, "written": written, "port": server.port, "username": server.user}
    if server.host_key:
        found["host_key"] = server.host_key
    if login is not None:
        values = {
            "password": login.password,
            "private_key": login.private_key,
            "passphrase": login.passphrase,
            "certificate": login.certificate,
        }
        found |= {name: value for name, value in values.items() if value is not None}
    return found
