"""
Joins the parts of a relay: uplink, dispatcher, journal, SSH runner. No other module knows them all.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace
from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger

from relayd import __version__
from relayd.commands.dispatcher import Dispatcher
from relayd.config.option import Effect
from relayd.config.options import Config
from relayd.config.reload import Changes, compare
from relayd.config.site_policy import policy_of
from relayd.config.state_directory import StateDirectory
from relayd.config.values import is_private, without_query
from relayd.errors import ConfigError
from relayd.journal.memory import MemoryJournal
from relayd.language.catalogues import translator
from relayd.language.texts import Translate
from relayd.network.descriptors import connections_within, limit
from relayd.process.event_loop import LagMonitor
from relayd.process.garbage import spare_present_objects
from relayd.process.systemd import Standing
from relayd.settings import (
    credentials_of,
    limits_of,
    live_ssh_settings_of,
    live_uplink_settings_of,
    relay_info_of,
    runner_settings_of,
    ssh_settings_of,
    uplink_settings_of,
)
from relayd.ssh_runner import SSHCommandRunner
from relayd.uplink.servers import Failover
from relayd.uplink.service import UplinkService
from relayd.uplink.settings import ServerAddress
from relayd.wire.relay_info import RelayInfo

if TYPE_CHECKING:  # otherwise imported below, for relays whose settings need them
    from relayd.audit.log import AuditLog
    from relayd.journal.durable import DurableJournal

_log = Logger("relayd")

#: The note of the journal that names it, for main servers.
_JOURNAL_ID: Final = "id"


class Parts(Struct, frozen=True, kw_only=True):
    """
    The parts of a relay.

    :ivar audit: ``None`` without an audit log.
    :ivar status: ``None`` where the status is not served.
    """

    state: StateDirectory
    uplink: UplinkService
    dispatcher: Dispatcher
    runner: SSHCommandRunner
    journal: MemoryJournal | DurableJournal
    lag: LagMonitor
    audit: AuditLog | None = None
    status: IService | None = None


def make_relay(reactor: Any, config: Config) -> RelayService:
    """
    The relay that *config* describes. It touches neither network nor disk before its ``startService``.

    :param reactor: the clock and network of all its parts.
    """
    state = StateDirectory(config.state_dir)
    translate = translator(config.language)
    journal = _make_journal(reactor, config, translate)
    policy = policy_of(config)
    settings = runner_settings_of(config)
    allows = policy.allows_address
    runner = SSHCommandRunner(reactor, ssh_settings_of(config), settings, credentials_of(config), allows, translate)
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
        servers=[str(ServerAddress.of(each.url)) for each in config.each_server] if _is_to_origin(config) else (),
    )
    started = reactor.seconds()

    def describe() -> RelayInfo | None:
        return relay.describe(reactor.seconds() - started)

    parts = Parts(
        state=state,
        uplink=_make_uplink(reactor, config, dispatcher, describe),
        dispatcher=dispatcher,
        runner=runner,
        journal=journal,
        lag=LagMonitor(reactor),
        audit=audit,
    )
    relay: RelayService = RelayService(config, replace(parts, status=_make_status(reactor, config, parts)))
    return relay


def _is_to_origin(config: Config) -> bool:
    """Whether each result goes to the main server that ordered the command."""
    return config.results_to == "origin"


def _make_uplink(
    reactor: Any, config: Config, dispatcher: Dispatcher, describe: Callable[[], RelayInfo | None]
) -> UplinkService:
    first, *others = [replace(uplink_settings_of(each), describe=describe) for each in config.each_server]
    failover = Failover(delay=config.failover_delay, visits=_is_to_origin(config), claims=dispatcher.claims_of)
    return UplinkService(reactor, dispatcher, first, others=others, failover=failover)


def _make_status(reactor: Any, config: Config, parts: Parts) -> IService | None:
    if config.status is None:
        return None
    from relayd.status.server import StatusServer
    from relayd.status.sources import StatusSources

    sources = StatusSources(
        clock=reactor,
        started=reactor.seconds(),
        server=without_query(config.url),
        proxy_id=config.proxy_id,
        max_sessions=config.max_sessions,
        max_total_connections=connections_within(config.max_total_connections),
        uplink=parts.uplink,
        commands=parts.dispatcher,
        journal=parts.journal,
        hosts=parts.runner.client,
        lag=parts.lag,
        audit=parts.audit,
    )
    return StatusServer(reactor, config.status, sources)


def _make_journal(reactor: Any, config: Config, translate: Translate) -> MemoryJournal | DurableJournal:
    if config.journal == "memory":
        return MemoryJournal()
    from relayd.journal.durable import DurableJournal
    from relayd.journal.index import JournalLimits
    from relayd.journal.store import journal_file

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
    from relayd.audit.keeping import Keeping
    from relayd.audit.log import AuditLog, AuditSettings

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
        server=without_query(config.url),
        proxy_id=config.proxy_id,
    )
    return AuditLog(reactor, settings)


class RelayService(Service):
    """
    One relay. It stops from the outside in: the dispatcher drains while the uplink still delivers results; then the
    uplink, the SSH connections, the journal and the audit log close.
    """

    def __init__(self, config: Config, parts: Parts) -> None:
        self.setName("relay")
        self._config = config
        self._state = parts.state
        self._uplink = parts.uplink
        self._dispatcher = parts.dispatcher
        self._runner = parts.runner
        self._journal = parts.journal
        self._audit = parts.audit
        self._lag = parts.lag
        self._status = parts.status
        self._journal_id = ""

    def startService(self) -> None:
        """
        Open what is on this machine, then dial the main server.

        :raises ConfigError: when the state directory or its journal cannot be used, the audit log cannot be written, or
            the status cannot be served.
        """
        self._state.claim()
        try:
            self._open()
        except ConfigError:
            self._state.release()
            raise
        super().startService()
        _log.info(
            "relayd {version} starts as {proxy_id} for {server}; its state is in {state_dir}",
            version=__version__,
            proxy_id=self._config.proxy_id,
            server=", ".join(without_query(each.url) for each in self._config.each_server),
            state_dir=self._config.state_dir,
        )
        self._warn_of_few_descriptors()
        spare_present_objects()
        self._lag.startService()
        self._uplink.startService()

    def _open(self) -> None:
        if self._status is not None:
            self._status.startService()
        if self._audit is not None:
            self._audit.start()
        for command_id, code in self._journal.open():
            if self._audit is not None:
                self._audit.record_recovered(command_id, code, self._dispatcher.origin_of(command_id))
        # A new journal, also in place of a damaged one, gets another: what the relay was sent before is not known then.
        noted = self._journal.noted(_JOURNAL_ID)
        self._journal_id = noted or secrets.token_hex(16)
        if noted is None:
            self._journal.note(_JOURNAL_ID, self._journal_id)

    def _warn_of_few_descriptors(self) -> None:
        most = self._config.max_total_connections
        fewer = connections_within(most)
        if fewer < most:
            _log.warn(
                "This process may open only {limit} files, too few for --max-total-connections {most}: it keeps at "
                "most {fewer} connections to hosts open. Raise LimitNOFILE= in its unit, or ulimit -n",
                limit=limit(),
                most=most,
                fewer=fewer,
            )

    def standing(self) -> Standing:
        """The status, for the service manager."""
        status = self._uplink.status
        return Standing(
            server=self._uplink.current.address.netloc,
            accepted=status.accepted,
            since=status.since,
            last_error=status.last_error,
            running=self._dispatcher.running,
            undelivered=self._dispatcher.undelivered,
        )

    def describe(self, uptime: float) -> RelayInfo | None:
        """
        What it tells of itself when the main server asks; ``None``: nothing.

        :param uptime: seconds since it started.
        """
        return relay_info_of(self._config, uptime, self._journal_id)

    def active(self) -> int:
        """The number of commands that run or wait, or whose result waits."""
        return self._dispatcher.running + self._dispatcher.queued + self._dispatcher.undelivered

    @property
    def drain_timeout(self) -> float:
        """Seconds that running commands have to finish when the relay stops."""
        return self._config.drain_timeout

    def apply(self, config: Config) -> Changes:
        """
        Use *config* for new commands, as far as that is possible while running.

        :return: what changed, and what waits for a restart.
        :raises ConfigError: when the key of the audit log's digests is not available, or the API key would be sent
            unencrypted because a part of *config* waits for a restart; nothing is changed then.
        """
        effective, changes = compare(self._config, config)
        private = all(is_private(each.url, each.http_proxy) for each in effective.each_server)
        if not (effective.allow_plaintext or private):
            reason = "the new settings only fit the new main server, which takes effect after a restart: restart relayd"
            raise ConfigError(option="--server", reason=reason)
        policy = policy_of(effective)
        credentials = credentials_of(effective)
        if self._audit is not None:
            self._audit.tell_commands(effective.audit_commands)
        # From here on nothing can fail, and no command comes in between.
        self._config = effective
        self._runner.configure(
            live_ssh_settings_of(effective), runner_settings_of(effective), credentials, policy.allows_address
        )
        if changes.of(Effect.HOSTS):
            # The addresses and keys of open connections were checked by the old rules, and a command is judged by the
            # name of its host alone.
            self._runner.client.retire_all()
        self._dispatcher.configure(limits_of(effective), policy)
        first, *others = map(live_uplink_settings_of, effective.each_server)
        self._uplink.configure(first, *others, failover_delay=effective.failover_delay)
        return changes

    def stopService(self) -> Deferred[None]:
        """
        Let running commands finish, within the drain timeout, and close everything.

        :return: fires when everything is closed; it never fails.
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
        if (status := self._status) is not None:  # last, so that it shows how the rest ends
            await self._step("close the status server", lambda: maybeDeferred(status.stopService))
        self._state.release()
        self._lag.stopService()
        _log.info("relayd has stopped")

    async def _step(self, what: str, act: Callable[[], Awaitable[object]]) -> None:
        """Close one part; a failure must not keep the next part open."""
        try:
            await act()
        except CancelledError:
            raise
        except Exception:
            _log.failure("Could not {what}", what=what)
