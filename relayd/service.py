"""
Joins the parts of a relay: uplink, dispatcher, journal and SSH runner; the only module that knows them all.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger

from relayd import __version__
from relayd.audit.keeping import Keeping
from relayd.audit.log import AuditLog, AuditSettings
from relayd.commands.dispatcher import Dispatcher, Limits
from relayd.config.options import Config
from relayd.config.reload import HOST_RULES, Changes, compare
from relayd.config.state_directory import StateDirectory
from relayd.config.values import is_private, without_query
from relayd.errors import ConfigError
from relayd.interfaces import IJournal
from relayd.journal.durable import DurableJournal
from relayd.journal.index import JournalLimits
from relayd.journal.memory import MemoryJournal
from relayd.journal.store import journal_file
from relayd.language.catalogues import translator
from relayd.language.texts import Translate
from relayd.network.descriptors import connections_within, limit
from relayd.policy.rules import Policy
from relayd.process.event_loop import LagMonitor
from relayd.process.systemd import Standing
from relayd.settings import credentials_of, limits_of, policy_of, ssh_settings_of, uplink_settings_of
from relayd.ssh_runner import SSHCommandRunner
from relayd.status.server import StatusServer
from relayd.status.sources import Bounds as StatusBounds
from relayd.status.sources import Sources
from relayd.uplink.service import UplinkService
from relayd.uplink.settings import ServerAddress


class Commands(Protocol):
    """What `RelayService` asks of a dispatcher."""

    @property
    def running(self) -> int:
        """Commands that run now."""

    @property
    def queued(self) -> int:
        """Commands that wait for their turn now."""

    def configure(self, limits: Limits, policy: Policy) -> None:
        """From now on these count."""

    def drain(self, timeout: float) -> Deferred[None]:
        """Take no more commands; fires when those taken have ended and been confirmed, or after *timeout* seconds."""


def make_relay(reactor: Any, config: Config) -> RelayService:
    """
    The relay that *config* describes.  It touches neither network nor disk before its ``startService``.

    :param reactor: the clock and network of all its parts.
    """
    state = StateDirectory(config.state_dir)
    translate = translator(config.language)
    journal = _make_journal(reactor, config, translate)
    policy = policy_of(config)
    runner = SSHCommandRunner(
        reactor, ssh_settings_of(config), credentials_of(config), policy.allows_address, translate
    )
    audit = _make_audit(reactor, config)
    dispatcher = Dispatcher(
        reactor,
        runner,
        journal,
        limits_of(config),
        None if config.journal == "memory" else state.fingerprint_key,
        policy=policy,
        audit=audit,
        translate=translate,
    )
    uplink = UplinkService(reactor, dispatcher, uplink_settings_of(config))
    lag = LagMonitor(reactor)
    status: IService | None = None
    if config.status is not None:
        sources = Sources(
            clock=reactor,
            started=reactor.seconds(),
            server=without_query(config.server),
            proxy_id=config.proxy_id,
            bounds=StatusBounds(
                max_sessions=config.max_sessions,
                max_total_connections=connections_within(config.max_total_connections),
            ),
            uplink=uplink,
            commands=dispatcher,
            journal=journal,
            hosts=runner.client,
            lag=lag,
            audit=audit,
        )
        status = StatusServer(reactor, config.status, sources)
    return RelayService(config, state, uplink, dispatcher, runner, journal, lag, audit, status)


def _make_journal(reactor: Any, config: Config, translate: Translate) -> MemoryJournal | DurableJournal:
    if config.journal == "memory":
        return MemoryJournal()
    return DurableJournal(
        reactor,
        journal_file(config.state_dir),
        durable=config.journal == "full",
        limits=JournalLimits(max_bytes=config.journal_max_size, retention=config.journal_retention),
        translate=translate,
    )


def _make_audit(reactor: Any, config: Config) -> AuditLog | None:
    if config.audit_log is None:
        return None
    settings = AuditSettings(
        path=config.audit_log,
        state_dir=config.state_dir,
        commands=config.audit_commands,
        keeping=Keeping(
            max_size=config.audit_max_size,
            keep=config.audit_keep,
            keep_for=config.audit_keep_for,
            max_total=config.audit_max_total,
        ),
        server=without_query(config.server),
        proxy_id=config.proxy_id,
    )
    return AuditLog(reactor, settings)


class RelayService(Service):
    """
    One relay.  It stops from the outside in: the dispatcher drains while the uplink still delivers results, and only
    then do the uplink, the SSH connections, the journal and the audit log close.
    """

    _log = Logger("relayd")

    def __init__(
        self,
        config: Config,
        state: StateDirectory,
        uplink: UplinkService,
        dispatcher: Commands,
        runner: SSHCommandRunner,
        journal: IJournal,
        lag: LagMonitor,
        audit: AuditLog | None = None,
        status: IService | None = None,
    ) -> None:
        self.setName("relay")
        self._config = config
        self._state = state
        self._uplink = uplink
        self._dispatcher = dispatcher
        self._runner = runner
        self._journal = journal
        self._audit = audit
        self._lag = lag
        self._status = status

    def startService(self) -> None:
        """
        Dial the main server.

        :raises ConfigError: when the state directory or the journal in it cannot be used, the audit log cannot be
            written, or its status cannot be served.
        """
        self._state.claim()
        try:
            if self._status is not None:
                self._status.startService()
            if self._audit is not None:
                self._audit.start()
            for command_id, code in self._journal.open():
                if self._audit is not None:
                    self._audit.record_recovered(command_id, code)
        except ConfigError:
            self._state.release()
            raise
        super().startService()
        self._log.info(
            "relayd {version} starts as {proxy_id} for {server}; its state is in {state_dir}",
            version=__version__,
            proxy_id=self._config.proxy_id,
            server=without_query(self._config.server),
            state_dir=self._config.state_dir,
        )
        most = self._config.max_total_connections
        if (fewer := connections_within(most)) < most:
            self._log.warn(
                "This process may have {limit} files open, too few for --max-total-connections {most}: at most {fewer} "
                "connections to hosts are open at a time. Raise LimitNOFILE= of its unit, or ulimit -n",
                limit=limit(),
                most=most,
                fewer=fewer,
            )
        # What was made until now stays: collecting garbage need not look through it again and again.
        gc.collect()
        gc.freeze()
        self._lag.startService()
        self._uplink.startService()

    def standing(self) -> Standing:
        """How things stand, for the service manager."""
        status = self._uplink.status
        return Standing(
            server=ServerAddress.of(self._config.server).netloc,
            accepted=status.accepted,
            since=status.since,
            last_error=status.last_error,
            running=self._dispatcher.running,
        )

    def at_hand(self) -> int:
        """How many commands run or wait."""
        return self._dispatcher.running + self._dispatcher.queued

    @property
    def drain_timeout(self) -> float:
        """Seconds that running commands have when it stops."""
        return self._config.drain_timeout

    def apply(self, config: Config) -> Changes:
        """
        Have *config* count from now on, as far as that is possible while running: for commands that are still to come.

        :raises ConfigError: when the key of the audit log's digests cannot be had, or the API key would be sent
            unencrypted because not all of *config* counts yet; nothing is changed then.
        """
        effective, changes = compare(self._config, config)
        if not (effective.allow_plaintext or is_private(effective.server, effective.http_proxy)):
            reason = "what is set goes with a main server that needs a restart to count: restart relayd"
            raise ConfigError(option="--server", reason=reason)
        policy = policy_of(effective)
        credentials = credentials_of(effective)
        if self._audit is not None:
            self._audit.tell_commands(effective.audit_commands)
        # Nothing of this can fail, and no command comes in between.
        self._config = effective
        self._runner.configure(ssh_settings_of(effective), credentials, policy.allows_address)
        if changes.applied.keys() & HOST_RULES:
            # Their addresses and keys were checked by other rules, and commands that name them are judged by the name
            # alone.
            self._runner.client.retire_all()
        self._dispatcher.configure(limits_of(effective), policy)
        self._uplink.configure(uplink_settings_of(effective))
        return changes

    def stopService(self) -> Deferred[None]:
        """
        Finish what runs, within the drain timeout, and close.

        :return: fires when all is closed; it never fails.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        timeout = self.drain_timeout
        await self._step("drain commands", lambda: self._dispatcher.drain(timeout))
        await self._step("close the uplink", lambda: maybeDeferred(self._uplink.stopService))
        await self._step("close SSH connections", self._runner.close)
        await self._step("close the journal", self._journal.close)
        if self._audit is not None:
            await self._step("close the audit log", self._audit.close)
        if (status := self._status) is not None:  # the last, so that it shows how the rest ends
            await self._step("close the status server", lambda: maybeDeferred(status.stopService))
        self._state.release()
        self._lag.stopService()
        self._log.info("relayd has stopped")

    async def _step(self, what: str, act: Callable[[], Awaitable[object]]) -> None:
        """One part that fails to close must not keep the next one open."""
        try:
            await act()
        except CancelledError:
            raise
        except Exception:
            self._log.failure("Could not {what}", what=what)
