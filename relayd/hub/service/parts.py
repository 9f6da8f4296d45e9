"""
Makes the parts of a hub, and joins them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from twisted.internet.protocol import ServerFactory

from relayd.audit.keeping import Keeping
from relayd.config.option import DAY
from relayd.errors import ConfigError
from relayd.hub.access.access import Access, time_of_day
from relayd.hub.access.audit import Actor, HubAudit, HubAuditSettings, default_path
from relayd.hub.api.all_routes import ROUTES
from relayd.hub.api.application import ApiSettings, Application
from relayd.hub.api.gate import AccessGate
from relayd.hub.api.hub import Hub
from relayd.hub.api.metrics import RequestCounts
from relayd.hub.api.routes import Router
from relayd.hub.api.server import ApiFactory
from relayd.hub.api.translation import problem_of
from relayd.hub.config.options import HubConfig
from relayd.hub.config.values import without_password
from relayd.hub.decisions.selectors import parse as parse_selector
from relayd.hub.inventory.errors import SealingKeysUnusable
from relayd.hub.inventory.sealing import KeyFile, Sealer
from relayd.hub.links.links import Links
from relayd.hub.relays.administration import RelayAdministration
from relayd.hub.relays.authentication import Refused, RelayAuthenticator
from relayd.hub.relays.enrolment import Enrolment
from relayd.hub.relays.presence import Presence
from relayd.hub.runs.engine import Engine
from relayd.hub.runs.stored_inventory import StoredInventory
from relayd.hub.service.observers import Observers
from relayd.hub.settings import HubSettings
from relayd.hub.store.errors import StoreError
from relayd.hub.store.retention import Retention, RetentionSettings
from relayd.hub.store.store import Store, database_at
from relayd.language.texts import printable

#: The file of the SQLite database, in the state directory.
DATABASE: Final = "hub.sqlite3"
#: Files of the audit log: one is moved aside at that size; this many stay, and more for that time.
AUDIT: Final = Keeping(max_size=64 * 1024**2, keep=10, keep_for=366 * 86400.0, max_total=16 * 1024**3)


#: What a hub goes by on its own machine, such as for probes of its health.
_OWN_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """
    The parts of a running hub.

    :ivar api: makes the connections of people and programs.
    """

    store: Store
    audit: HubAudit
    access: Access
    links: Links
    engine: Engine
    presence: Presence
    retention: Retention
    api: ApiFactory

    @property
    def relays(self) -> ServerFactory:
        """What makes the connections of relays."""
        return self.links.factory


def place_of(config: HubConfig) -> str:
    """
    Where the database is: the path of an SQLite file, or a URL with its password.

    :raises ConfigError: when ``--database-file`` holds no URL.
    """
    url = config.database_of()
    return os.path.join(config.state_dir, DATABASE) if url is None else url.reveal()


def shown_place(place: str) -> str:
    """A `place_of` for people, without its password."""
    return without_password(place) if "://" in place else place


def open_database(reactor: Any, config: HubConfig) -> Store:
    """
    The store, with its tables as this relayd has them. It waits for the database.

    :raises ConfigError: when it cannot be used.
    """
    place = place_of(config)
    option = "--state-dir" if "://" not in place else "--database" if config.database else "--database-file"
    try:
        database = database_at(place)
        database.open()
    except StoreError as error:
        raise ConfigError(option=option, reason=str(error)) from None
    return Store(reactor, database)


def sealer_of(config: HubConfig, *, make: bool) -> Sealer:
    """
    What seals secrets.

    :param make: whether the file of keys is made where there is none.
    :raises ConfigError: when the file cannot be used.
    """
    keys = KeyFile(config.secrets_file, os.environ)
    try:
        if make:
            keys.make()
        keys.keys()
    except SealingKeysUnusable as error:
        raise ConfigError(option="--secrets-file", reason=str(error)) from None
    return Sealer(keys)


def audit_of(reactor: Any, config: HubConfig) -> HubAudit:
    """The audit log, in the state directory."""
    settings = HubAuditSettings(
        path=default_path(config.state_dir),
        state_dir=config.state_dir,
        keeping=AUDIT,
        hub=config.public_url or socket.gethostname(),
    )
    return HubAudit(reactor, settings)


def make_parts(reactor: Any, config: HubConfig, store: Store, audit: HubAudit, sealer: Sealer) -> Parts:
    """
    All parts.

    :param store: an open one.
    :param audit: one that is started.
    """
    access = Access(reactor, store, audit, parse_selector)
    observers = Observers()
    authenticator = RelayAuthenticator(store, time_of_day, reactor.seconds, _refused(audit))
    settings = HubSettings(trusted_proxies=config.trusted_proxies)
    links = Links(reactor, authenticator.authenticate, observers, settings)
    observers.presence = presence = Presence(reactor, store, links, time_of_day)
    observers.runs = engine = Engine(reactor, store, StoredInventory(sealer), sealer, time_of_day)
    engine.links = links
    registry, counts = CollectorRegistry(), RequestCounts()
    registry.register(counts)
    hub = Hub(
        reactor=reactor,
        now=time_of_day,
        store=store,
        access=access,
        sealer=sealer,
        relays=RelayAdministration(store, links, time_of_day),
        enrolment=Enrolment(store, time_of_day),
        public_url=config.public_url,
        engine=engine,
        obstacles=_obstacles(audit),
        registry=registry,
    )
    return Parts(
        store=store,
        audit=audit,
        access=access,
        links=links,
        engine=engine,
        presence=presence,
        retention=Retention(store, retention_of(config), reactor, time_of_day),
        api=_make_api(hub, config, counts),
    )


def _make_api(hub: Hub, config: HubConfig, counts: RequestCounts) -> ApiFactory:
    access = hub.access
    application = Application(
        clock=hub.reactor,
        hub=hub,
        router=Router(ROUTES),
        gate=AccessGate(access.doorkeeper, access.audit),
        problem_of=problem_of,
        settings=_api_settings(config),
        counts=counts,
    )
    return ApiFactory(hub.reactor, application)


def _refused(audit: HubAudit) -> Refused:
    """Records that a relay was refused."""

    def refused(proxy_id: str, address: str, reason: str) -> None:
        audit.refused(Actor(f"relay:{printable(proxy_id, 80) or '?'}", address), "relay-connect", reason, {})

    return refused


def retention_of(config: HubConfig) -> RetentionSettings:
    """How long what is kept."""
    return RetentionSettings(
        output_age=config.keep_output / DAY, output_bytes=config.max_output_size, run_age=config.keep_runs / DAY
    )


def _api_settings(config: HubConfig) -> ApiSettings:
    names: frozenset[str] = frozenset()
    if config.public_url is not None:
        names = frozenset({urlsplit(config.public_url).hostname or "", *_OWN_NAMES})
    return ApiSettings(names=names, proxies=config.trusted_proxies)


def _obstacles(audit: HubAudit) -> Callable[[], list[str]]:
    def obstacles() -> list[str]:
        return [] if audit.available else ["audit-log"]

    return obstacles
