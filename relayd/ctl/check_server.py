"""
What ``relayctl check`` checks on the way to the main server: name, TCP, TLS, and whether the relay is accepted.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from threading import Thread
from typing import Any, Final

from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.config.options import Config
from relayd.ctl.findings import Report
from relayd.ctl.status import read_status
from relayd.errors import ConfigError, InvalidMessage, NoStatus, RelayError, ShuttingDown, UplinkError
from relayd.interfaces import Acknowledge, Blame, ICommandReceiver, ILink
from relayd.language.texts import printable, span
from relayd.network.spelling import loopback_addresses, read_address
from relayd.network.tls import explain, is_verified
from relayd.settings import uplink_settings_of
from relayd.uplink.connection import UplinkConnection
from relayd.uplink.endpoint import describe, make_endpoint, unused_proxy
from relayd.uplink.quoting import Quoting
from relayd.uplink.service import UplinkService
from relayd.uplink.settings import ServerAddress, UplinkSettings
from relayd.uplink.stages import Timing
from relayd.wire.messages import CommandState, ExecuteCommand, Receipt

#: Seconds for looking up the name, and for the TLS handshake; TCP has its own limit in `relayd.uplink.endpoint`.
PATIENCE: Final = 15.0
#: Seconds for the main server to accept the relay: the three attempts of one round, each taking its longest time.
DIAL_PATIENCE: Final = 210.0
#: Seconds that a main server may take to check the key. A relay that is turned away later just dials again, but here
#: the answer has to be right.
PROBATION: Final = 6.0
#: Days before a certificate expires at which a warning starts.
SOON: Final = 14
#: The most characters that are shown of what a relay's status says.
_MOST_QUOTED: Final = 1000


async def check_server(reactor: Any, config: Config, report: Report, holder: str | None, *, dial: bool = False) -> None:
    """
    Report on each step of the way to each main server, up to the first that fails.

    :param holder: the process id of a running relay, which a connection under its name would disturb; ``None``: no
        relay is running.
    :param dial: connect anyway.
    """
    for each in config.each_server:
        await _check_one(reactor, each, report, holder, dial=dial)


async def _check_one(reactor: Any, config: Config, report: Report, holder: str | None, *, dial: bool) -> None:
    try:
        settings = uplink_settings_of(config)
        if settings.server is None:
            report("skipped", "main server", "--server is not set")
            return
        address = ServerAddress.of(settings.server)
        make_endpoint(reactor, address, settings)  # reads the files that TLS needs
        _check_certificate(settings, report)
    except (UplinkError, ConfigError) as error:
        report("fault", "TLS files", str(error))
        return
    if unused := unused_proxy(address, settings):
        report("warning", "proxy", unused)
    for step in (_check_name, _check_connection):
        if not await step(reactor, address, settings, report):
            report("skipped", "main server", "the steps before must succeed first")
            return
    if holder is not None and not dial and not _report_running(config, holder, str(address), report):
        dial = True  # the relay has no connection that it could lose
    if holder is not None and not dial:
        pass  # reported above
    elif settings.proxy_id is None or config.api_key_file is None:
        report("skipped", "main server", "--proxy-id and --api-key-file are not set")
    else:
        # A running relay reconnects soon and may displace this connection, which says nothing about the key.
        await _dial(reactor, settings, report, Timing() if holder is not None else Timing(probation=PROBATION))


def _report_running(config: Config, holder: str, server: str, report: Report) -> bool:
    """Report on the relay that is running; returns false if the main server does not accept it now."""
    process = f" (process {holder})" if holder else ""
    try:  # something else than a relay may answer there
        uplink = None if config.status is None else read_status(config.status)["uplink"]
    except NoStatus as error:
        report("fault", "status", str(error))
        uplink = None
    if uplink is None:
        text = f"a relay is running{process} and could lose its connection to a second one; --dial connects anyway"
        report("skipped", "main server", text)
    elif uplink["accepted"] and uplink.get("server", server) != server:
        other = printable(str(uplink["server"]), _MOST_QUOTED)
        text = f"the relay that is running{process} is with {other}; --dial connects to {server} anyway"
        report("skipped", "main server", text)
    elif uplink["accepted"]:
        dialect = printable(str(uplink["dialect"]), _MOST_QUOTED)
        report("ok", "main server", f"{server} accepts the relay that is running{process} ({dialect})")
    else:
        why = printable(str(uplink.get("lastError") or "it is connecting"), _MOST_QUOTED)
        report("warning", "relay", f"the relay that is running{process} is not accepted: {why}")
        return False
    return True


def _check_certificate(settings: UplinkSettings, report: Report) -> None:
    """Report on our own certificate; `make_endpoint` has found it usable."""
    if settings.tls_cert is not None:
        with open(settings.tls_cert, "rb") as file:
            certificate = x509.load_pem_x509_certificates(file.read())[0]
        _report_end(certificate.not_valid_after_utc, settings.tls_cert, "TLS files", report)


def _report_end(end: datetime, whose: str, what: str, report: Report) -> None:
    now = datetime.now(UTC)
    days = (end - now).days
    if days < 0:
        clock = f"the clock of this machine says {now:%Y-%m-%d}"
        report("fault", what, f"{whose} expired on {end:%Y-%m-%d}, and {clock}: renew it, or set the clock")
    elif days < SOON:
        report("warning", what, f"{whose} expires on {end:%Y-%m-%d}: renew it")
    else:
        report("ok", what, f"{whose} is valid until {end:%Y-%m-%d}")


async def _check_name(reactor: Any, address: ServerAddress, settings: UplinkSettings, report: Report) -> bool:
    """Look up the name that is dialled: that of the proxy, if there is one."""
    first = address if settings.http_proxy is None else ServerAddress.of(settings.http_proxy)
    if read_address(first.host) is not None:
        report("ok", "name", f"{first.host} is an address")
        return True
    if local := loopback_addresses(first.host):
        report("ok", "name", f"{first.host} is this machine: {', '.join(map(str, local))}")
        return True
    found: Deferred[list[str] | OSError] = Deferred()

    def look_up() -> None:
        try:
            entries = socket.getaddrinfo(first.host, first.port, type=socket.SOCK_STREAM)
            result: list[str] | OSError = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except OSError as error:
            result = error
        except UnicodeError:
            result = OSError(0, "a part of it has more than 63 characters")
        reactor.callFromThread(lambda: None if found.called else found.callback(result))

    # Not in the reactor's thread pool: at its end the process would wait for a name server that does not answer.
    Thread(target=look_up, daemon=True).start()
    try:
        result = await found.addTimeout(PATIENCE, reactor)
    except TimeoutError:
        result = OSError(0, f"no answer within {span(PATIENCE)}")
    if isinstance(result, OSError):
        hint = "check --server and this machine's DNS settings"
        report("fault", "name", f"{first.host} cannot be looked up ({result.strerror}); {hint}")
        return False
    report("ok", "name", f"{first.host} is {', '.join(result)}")
    return True


@implementer(IHandshakeListener)
class _Probe(Protocol):
    """
    A connection that sends nothing and waits for TLS.

    :param host: the name that the certificate must be for.
    :ivar secured: fires when TLS is up; fails when the connection is lost before.
    """

    transport: Any

    def __init__(self, host: str) -> None:
        self._host = host
        self.secured: Deferred[None] = Deferred()

    def handshakeCompleted(self) -> None:
        """Verify the certificate, as the relay does before it sends anything."""
        if is_verified(self.transport, self._host):
            self.secured.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.secured.called:
            self.secured.errback(explain(self.transport, reason.value or ConnectionLost()))


def _quoting(settings: UplinkSettings) -> Quoting:
    """Quotes the main server, which may know the key, without it."""
    try:
        return Quoting(settings.read_api_key().reveal())
    except UplinkError:
        return Quoting()


async def _check_connection(reactor: Any, address: ServerAddress, settings: UplinkSettings, report: Report) -> bool:
    """Connect by TCP, through the proxy if there is one, and by TLS, without sending any HTTP."""
    through = "" if settings.http_proxy is None else f" through {ServerAddress.of(settings.http_proxy)}"
    probe = _Probe(address.host)
    ends: list[float] = []
    try:
        await connectProtocol(make_endpoint(reactor, address, settings, ends.append), probe)
    except CancelledError:
        raise
    except Exception as error:
        report("fault", "TCP", f"{address.netloc}{through} cannot be reached: {describe(error)}")
        return False
    report("ok", "TCP", f"{address.netloc}{through} can be reached")
    try:
        if not address.secure:
            report("ok", "TLS", "is not used")
            return True
        await probe.secured.addTimeout(PATIENCE, reactor)
        certificate = probe.transport.getPeerCertificate().to_cryptography()
        end = datetime.fromtimestamp(ends[-1], UTC) if ends else certificate.not_valid_after_utc
        own = end == certificate.not_valid_after_utc
        whose = "the main server's certificate" if own else "a certificate that the main server's depends on"
        _report_end(end, whose, "TLS", report)
        return True
    except TimeoutError:
        report("fault", "TLS", f"no answer within {span(PATIENCE)}; is it a TLS port? Check the port in --server")
    except CancelledError:
        raise
    except Exception as error:
        report("fault", "TLS", describe(error, _quoting(settings)))
    finally:
        probe.secured.addErrback(lambda _: None)
        probe.transport.abortConnection()
    return False


@implementer(ICommandReceiver)
class _Nobody:
    """
    A receiver that takes no command: the connection closes before. An answer of any kind would tell the main server
    that the command is accepted, refused or unknown, but the command is for the relay.
    """

    def command_received(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        """Not acknowledged."""

    def invalid_received(self, error: InvalidMessage, acknowledge: Acknowledge) -> None:
        """Not acknowledged."""

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        """Nothing was sent, so there is nothing to confirm."""

    def cancel_received(self, command_id: str) -> CommandState:
        return CommandState.UNKNOWN

    def status_asked(self, command_id: str) -> CommandState:
        return CommandState.UNKNOWN

    def check_asked(self, command: ExecuteCommand) -> RelayError | None:
        """Not for this process to say: the relay may have other rules by then."""
        return ShuttingDown()

    def link_ready(self, link: ILink) -> None:
        """Nothing to send."""

    def link_lost(self, link: ILink, blame: Blame) -> None:
        """Nothing was sent."""


async def _dial(reactor: Any, settings: UplinkSettings, report: Report, timing: Timing) -> None:
    """
    Connect as the relay does, under its name and with its key, until the main server has accepted or refused it.

    A main server that sends a command has accepted the relay: then, too, this leaves, without answering the command. A
    main server that keeps commands until they are acknowledged or done sends it to the relay again. To any other it
    looks as if the relay had lost its connection, which is true enough.
    """
    dialect = ""

    def leave(connection: UplinkConnection) -> None:
        nonlocal dialect
        dialect = connection.dialect.name
        connection.close()

    uplink = UplinkService(reactor, _Nobody(), settings, leave, timing)
    uplink.startService()
    deadline = reactor.seconds() + DIAL_PATIENCE
    try:
        while not (dialect or uplink.status.losses) and reactor.seconds() < deadline:
            await deferLater(reactor, 0.05)
        if dialect:
            report("ok", "main server", f"{ServerAddress.of(settings.server)} accepts {settings.proxy_id} ({dialect})")
        else:
            text = uplink.status.last_error or f"no answer within {span(DIAL_PATIENCE)}"
            report("fault", "main server", text)
    finally:
        await uplink.stopService()
