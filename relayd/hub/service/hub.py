"""
The hub as a service: what it opens when it starts, and in which order it closes that.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from relayd import __version__
from relayd.config.reload import Changes, compare_options
from relayd.config.state_directory import StateDirectory
from relayd.errors import ConfigError
from relayd.hub.config.options import HUB_TABLE, HubConfig
from relayd.hub.service.certificate import ServerCertificate
from relayd.hub.service.listening import Ports
from relayd.hub.service.one_port import OnePort
from relayd.hub.service.parts import (
    Parts,
    audit_of,
    make_parts,
    open_database,
    place_of,
    retention_of,
    sealer_of,
    shown_place,
)
from relayd.hub.store.errors import StoreError
from relayd.process.systemd import Condition

_log = Logger("relayd.hub")

#: Seconds between two attempts to read the runs that have not ended.
AGAIN: Final = 5.0


class HubService(Service):
    """
    One hub. It stops from the outside in: no new connections, the API finishes what it began, relays are told that it
    restarts once their results are stored; then the store and the audit log close.
    """

    def __init__(self, reactor: Any, config: HubConfig) -> None:
        self.setName("hub")
        self._reactor = reactor
        self._config = config
        self._state = StateDirectory(config.state_dir, "hub")
        self._parts: Parts | None = None
        self._ports: Ports | None = None
        self._beginning: Deferred[None] | None = None
        self._opened: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    def startService(self) -> None:
        """
        Open what is on this machine and the database, then the ports.

        :raises ConfigError: when one of them cannot be used.
        """
        self._state.claim()
        try:
            self._open()
        except ConfigError:
            self._undo()
            self._state.release()
            raise
        super().startService()
        self._beginning = Deferred.fromCoroutine(self._begin())
        config = self._config
        _log.info(
            "relayd-hub {version} listens at {addresses}; its database is {database}, its state is in {state_dir}",
            version=__version__,
            addresses=" and ".join(map(str, config.addresses)),
            database=shown_place(place_of(config)),
            state_dir=config.state_dir,
        )

    def _open(self) -> None:
        config, certificate = self._config, None
        if config.tls_cert is not None and config.tls_key is not None:
            certificate = ServerCertificate(self._reactor, config.tls_cert, config.tls_key)
            certificate.read()
        sealer = sealer_of(config, make=True)
        audit = audit_of(self._reactor, config)
        audit.start()
        self._opened.append(("close the audit log", audit.close))
        store = open_database(self._reactor, config)
        self._opened.append(("close the database", store.close))
        parts = make_parts(self._reactor, config, store, audit, sealer)
        self._ports = ports = Ports(self._reactor, certificate)
        self._opened.append(("stop listening", ports.close))
        parts.access.start()
        parts.presence.startService()
        parts.retention.startService()
        self._parts = parts
        for option, address, factory in self._listeners(parts):
            ports.open(option, address, factory)
        # Nobody is let in before what a former process left is known: see `_begin`.
        ports.pause()

    async def _begin(self) -> None:
        """Go on with the runs that a former process left, and then let people and relays in."""
        parts, ports = self._parts, self._ports
        if parts is None or ports is None:
            return
        while self.running:
            try:
                await parts.engine.start()
                break
            except StoreError as error:
                _log.error(
                    "The runs that have not ended cannot be read, and nobody is let in yet: {error}", error=str(error)
                )
                await deferLater(self._reactor, AGAIN)
        if self.running:
            ports.resume()

    def _listeners(self, parts: Parts) -> list[tuple[str, Any, ServerFactory]]:
        config = self._config
        if len(config.addresses) == 1:
            return [("--listen", config.listen, OnePort(self._reactor, parts.relays, parts.api))]
        return [("--listen", config.listen, parts.relays), ("--api-listen", config.api_listen, parts.api)]

    def _undo(self) -> None:
        """Close what was opened before something failed; nobody waits for it, as the process ends."""
        if self._parts is not None:
            self._parts.presence.stopService()
            self._parts.retention.stopService()
            self._parts.access.stop()
        for what, close in reversed(self._opened):
            Deferred.fromCoroutine(self._step(what, close))

    # For the process

    def condition(self, stopping: bool) -> Condition:
        """What the service manager is told."""
        parts = self._parts
        relays = 0 if parts is None else len(parts.links.relays)
        what = "stopping" if stopping else "running"
        return Condition(
            bool(self.running), f"{what}: {relays} {'relay is' if relays == 1 else 'relays are'} connected"
        )

    def active(self) -> int:
        """How much is held in memory, for the collection of garbage: requests that are being answered."""
        return 0 if self._parts is None else self._parts.api.answering

    @property
    def drain_timeout(self) -> float:
        """Seconds that requests have to finish when the hub stops."""
        return self._config.drain_timeout

    def apply(self, config: HubConfig) -> Changes:
        """
        Use *config* from now on, as far as that is possible while running.

        :return: what changed, and what waits for a restart.
        """
        taken, changes = compare_options(HUB_TABLE, self._config, config)
        self._config = dataclasses.replace(self._config, **taken)
        if self._parts is not None:
            self._parts.retention.settings = retention_of(self._config)
        return Changes(tuple(changes))

    def stopService(self) -> Deferred[None]:
        """
        Close everything, from the outside in.

        :return: fires when everything is closed; it never fails.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        parts, ports, timeout = self._parts, self._ports, self.drain_timeout
        if parts is None or ports is None:  # it has never started
            return
        await self._step("stop listening", ports.close)
        if self._beginning is not None:
            await self._step("end the start", self._end_beginning)
        await self._step("finish requests", lambda: parts.api.stop(timeout))
        await self._step("close the links to relays", parts.links.close)
        await self._step("store what runs have left", parts.engine.stop)
        await self._step("stop retention", lambda: maybeDeferred(parts.retention.stopService))
        await self._step("note which relays were connected", lambda: maybeDeferred(parts.presence.stopService))
        parts.access.stop()
        await self._step("close the database", parts.store.close)
        await self._step("close the audit log", parts.audit.close)
        self._state.release()
        _log.info("relayd-hub has stopped")

    async def _end_beginning(self) -> None:
        """A start that waits for the database waits no longer."""
        beginning = self._beginning
        if beginning is not None and not beginning.called:
            beginning.cancel()
            with contextlib.suppress(CancelledError):
                await beginning

    async def _step(self, what: str, act: Callable[[], Awaitable[object]]) -> None:
        """Close one part; a failure must not keep the next part open."""
        try:
            await act()
        except CancelledError:
            raise
        except Exception:
            _log.failure("Could not {what}", what=what)
