"""
Joins the parts of a relay: uplink, dispatcher, journal and SSH runner; the only module that knows them all.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger

from relayd import __version__
from relayd.config import Config
from relayd.dispatcher import Dispatcher, Limits
from relayd.errors import ConfigError
from relayd.interfaces import ICommandRunner, IJournal
from relayd.journal import MemoryJournal
from relayd.lag import LagMonitor
from relayd.ssh.credentials import CredentialRule, CredentialTable
from relayd.ssh.runner import SSHCommandRunner
from relayd.ssh.settings import SSHSettings
from relayd.uplink.service import UplinkService
from relayd.uplink.settings import UplinkSettings


class Drainable(Protocol):
    """What `RelayService` asks of a dispatcher."""

    def drain(self, timeout: float) -> Deferred[None]:
        """Take no more commands; fires when those taken have ended and been confirmed, or after *timeout* seconds."""


def make_relay(reactor: Any, config: Config) -> RelayService:
    """
    The relay that *config* describes.  It touches neither network nor disk before its ``startService``.

    :param reactor: the clock and network of all its parts.
    """
    journal = MemoryJournal()
    runner = SSHCommandRunner(
        reactor,
        SSHSettings(
            known_hosts=config.known_hosts,
            host_keys=config.host_keys,
            algorithms=config.ssh_algorithms,
            max_sessions=config.max_sessions,
            max_connections=config.max_connections,
            max_total_connections=config.max_total_connections,
            connect_timeout=config.connect_timeout,
            idle_timeout=config.idle_timeout,
            max_output=config.max_output,
            working_directory=config.working_directory,
        ),
        CredentialTable(CredentialRule(**msgspec.structs.asdict(row)) for row in config.credentials),
    )
    dispatcher = Dispatcher(
        reactor,
        runner,
        journal,
        Limits(
            max_commands=config.max_commands,
            max_queue=config.max_queue,
            default_timeout=config.default_timeout,
            max_timeout=config.max_timeout,
        ),
    )
    uplink = UplinkService(
        reactor,
        dispatcher,
        UplinkSettings(
            server=config.server,
            proxy_id=config.proxy_id,
            read_api_key=config.read_api_key,
            dialect=config.dialect,
            reconnect_delay=config.reconnect_delay,
            tls_ca=config.tls_ca,
            tls_cert=config.tls_cert,
            tls_key=config.tls_key,
            http_proxy=config.http_proxy,
        ),
    )
    return RelayService(config, uplink, dispatcher, runner, journal, LagMonitor(reactor))


class RelayService(Service):
    """
    One relay.  It stops from the outside in: the dispatcher drains while the uplink still delivers results, and only
    then do the uplink, the SSH connections and the journal close.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        uplink: IService,
        dispatcher: Drainable,
        runner: ICommandRunner,
        journal: IJournal,
        lag: LagMonitor,
    ) -> None:
        self.setName("relay")
        self._config = config
        self._uplink = uplink
        self._dispatcher = dispatcher
        self._runner = runner
        self._journal = journal
        self._lag = lag

    def startService(self) -> None:
        """
        Dial the main server.

        :raises ConfigError: when the state directory cannot be made.
        """
        _make_private_directory(self._config.state_dir)
        super().startService()
        self._log.info(
            "relayd {version} starts as {proxy_id} for {server}; its state is in {state_dir}",
            version=__version__,
            proxy_id=self._config.proxy_id,
            server=self._config.server,
            state_dir=self._config.state_dir,
        )
        # What was made until now stays: collecting garbage need not look through it again and again.
        gc.collect()
        gc.freeze()
        self._lag.startService()
        self._uplink.startService()

    def stopService(self) -> Deferred[None]:
        """
        Finish what runs, within the drain timeout, and close.

        :return: fires when all is closed; it never fails.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        timeout = self._config.drain_timeout
        await self._step("drain commands", lambda: self._dispatcher.drain(timeout))
        await self._step("close the uplink", lambda: maybeDeferred(self._uplink.stopService))
        await self._step("close SSH connections", self._runner.close)
        await self._step("close the journal", self._journal.close)
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


def _make_private_directory(path: str) -> None:
    """The directory, for this user alone where it has to be made; whatever umask twistd set."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        usable = os.access(path, os.R_OK | os.W_OK | os.X_OK)
        reason = "" if usable else "this user cannot write there"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ConfigError(option="--state-dir", reason=f"{path} cannot be used: {reason}")
