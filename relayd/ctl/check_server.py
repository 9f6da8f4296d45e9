"""
What ``relayctl check`` finds on the way to the main server: name, TCP, TLS, and whether the relay is accepted.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from threading import Thread
from typing import Any, Final

from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import connectProtocol
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.config.options import Config
from relayd.ctl.findings import Report
from relayd.errors import ConfigError, InvalidMessage, UplinkError
from relayd.interfaces import Acknowledge, Blame, ICommandReceiver, ILink
from relayd.language.texts import span
from relayd.network.spelling import loopback_addresses, read_address
from relayd.network.tls import is_verified, verify_error_of
from relayd.settings import uplink_settings_of
from relayd.uplink.connection import UplinkConnection
from relayd.uplink.endpoint import describe, make_endpoint, unused_proxy
from relayd.uplink.service import UplinkService
from relayd.uplink.settings import ServerAddress, UplinkSettings
from relayd.uplink.stages import Timing
from relayd.wire.messages import CommandState, ExecuteCommand, Receipt

#: Seconds for the look-up of the name, and for the TLS handshake; TCP has its own limit in `relayd.uplink.endpoint`.
PATIENCE: Final = 15.0
#: Seconds for the main server to accept the relay: three attempts of a round, each with its longest time.
DIAL_PATIENCE: Final = 210.0
#: Seconds that a main server may take over the key: a relay that is turned away later just dials again, while here the
#: answer has to be right.
PROBATION: Final = 6.0
#: Days before the end of a certificate from which on it is worth a warning.
SOON: Final = 14


async def check_server(reactor: Any, config: Config, report: Report, holder: str | None, *, dial: bool = False) -> None:
    """
    Go the way to the main server as far as it leads.

    :param holder: the process id of a relay that runs, which must not be disturbed by a connection under its name;
        ``None``: there is none.
    :param dial: connect all the same.
    """
    try:
        settings = uplink_settings_of(config)
        if settings.server is None:
            report("skipped", "main server", "--server is not set")
            return
        address = ServerAddress.of(settings.server)
        make_endpoint(reactor, address, settings)  # which reads the files that TLS needs
        _check_certificate(settings, report)
    except (UplinkError, ConfigError) as error:
        report("fault", "TLS files", str(error))
        return
    if unused := unused_proxy(address, settings):
        report("warning", "proxy", unused)
    for step in (_check_name, _check_connection):
        if not await step(reactor, address, settings, report):
            report("skipped", "main server", "the way to it has to work first")
            return
    if holder is not None and not dial:
        process = f" (process {holder})" if holder else ""
        text = f"a relay runs{process}, and could lose its connection to a second one: --dial connects all the same"
        report("skipped", "main server", text)
    elif settings.proxy_id is None or config.api_key_file is None:
        report("skipped", "main server", "without --proxy-id and --api-key-file it accepts nobody")
    else:
        # A relay that runs comes back soon, and may push this connection out, which says nothing of the key.
        await _dial(reactor, settings, report, Timing() if holder is not None else Timing(probation=PROBATION))


def _check_certificate(settings: UplinkSettings, report: Report) -> None:
    """Ours, which can be used, as `make_endpoint` has found."""
    if settings.tls_cert is not None:
        with open(settings.tls_cert, "rb") as file:
            certificate = x509.load_pem_x509_certificates(file.read())[0]
        _report_end(certificate, settings.tls_cert, "TLS files", report)


def _report_end(certificate: x509.Certificate, whose: str, what: str, report: Report) -> None:
    end = certificate.not_valid_after_utc
    days = (end - datetime.now(UTC)).days
    if days < 0:
        report("fault", what, f"{whose} has expired on {end:%Y-%m-%d}: have a new one")
    elif days < SOON:
        report("warning", what, f"{whose} expires on {end:%Y-%m-%d}: have a new one")
    else:
        report("ok", what, f"{whose} is good until {end:%Y-%m-%d}")


async def _check_name(reactor: Any, address: ServerAddress, settings: UplinkSettings, report: Report) -> bool:
    """The name of what is dialled, which is the proxy where there is one."""
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

    # Not in the reactor's pool: the process would wait at its end for a name server that does not answer.
    Thread(target=look_up, daemon=True).start()
    try:
        result = await found.addTimeout(PATIENCE, reactor)
    except TimeoutError:
        result = OSError(0, f"no answer within {span(PATIENCE)}")
    if isinstance(result, OSError):
        hint = "look at --server and at the name service of this machine"
        report("fault", "name", f"{first.host} cannot be looked up ({result.strerror}); {hint}")
        return False
    report("ok", "name", f"{first.host} is {', '.join(result)}")
    return True


@implementer(IHandshakeListener)
class _Probe(Protocol):
    """
    Says nothing; waits for TLS.

    :param host: who has to be at its other end.
    :ivar secured: fires when TLS is up, and fails with what `connectionLost` is told.
    """

    transport: Any

    def __init__(self, host: str) -> None:
        self._host = host
        self.secured: Deferred[None] = Deferred()
        self.verify_error = ""

    def handshakeCompleted(self) -> None:
        """As the relay itself does it, before it says anything."""
        if is_verified(self.transport, self._host):
            self.secured.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.verify_error = verify_error_of(self.transport)
        if not self.secured.called:
            self.secured.errback(reason)


async def _check_connection(reactor: Any, address: ServerAddress, settings: UplinkSettings, report: Report) -> bool:
    """TCP, through the proxy where there is one, and TLS; without a word of HTTP."""
    through = "" if settings.http_proxy is None else f" through {ServerAddress.of(settings.http_proxy)}"
    probe = _Probe(address.host)
    try:
        await connectProtocol(make_endpoint(reactor, address, settings), probe)
    except CancelledError:
        raise
    except Exception as error:
        report("fault", "TCP", f"{address}{through} cannot be reached: {describe(error)}")
        return False
    report("ok", "TCP", f"{address}{through} can be reached")
    try:
        if not address.secure:
            report("ok", "TLS", "is not used")
            return True
        await probe.secured.addTimeout(PATIENCE, reactor)
        certificate = probe.transport.getPeerCertificate().to_cryptography()
        _report_end(certificate, "the main server's certificate", "TLS", report)
        return True
    except TimeoutError:
        report(
            "fault", "TLS", f"no answer within {span(PATIENCE)}; does TLS belong there? Look at the port in --server"
        )
    except CancelledError:
        raise
    except Exception as error:
        report("fault", "TLS", describe(error, probe.verify_error))
    finally:
        probe.secured.addErrback(lambda _: None)
        probe.transport.abortConnection()
    return False


@implementer(ICommandReceiver)
class _Nobody:
    """
    Takes no order, and is told of none: the connection closes before. An answer of any kind would tell the main server
    that the order is taken, refused or unknown, while it is for the relay.
    """

    def command_received(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        """Not acknowledged."""

    def invalid_received(self, error: InvalidMessage, acknowledge: Acknowledge) -> None:
        """Not acknowledged."""

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        """Nothing was sent that it could be for."""

    def cancel_received(self, command_id: str) -> CommandState:
        return CommandState.UNKNOWN

    def status_asked(self, command_id: str) -> CommandState:
        return CommandState.UNKNOWN

    def link_ready(self, link: ILink) -> None:
        """There is nothing to send."""

    def link_lost(self, link: ILink, blame: Blame) -> None:
        """There was nothing to send."""


async def _dial(reactor: Any, settings: UplinkSettings, report: Report, timing: Timing) -> None:
    """
    As the relay does, with its key and under its name, until the main server has accepted it or not.

    A main server that gives an order has accepted it: this leaves then, too, without an answer to the order. A main
    server that keeps orders until they are acknowledged or done gives it again to the relay; to any other it is as if
    the relay had lost its connection: nothing is told that is not so.
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
