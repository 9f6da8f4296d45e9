"""
One connection to an SSH server, from its first byte to its last: the client side of the SSH transport protocol.

Source: RFC 4253; RFC 8308 (extensions).

Conch asks for services and starts them. All else is ours: what Conch does not have (authenticated ciphers,
encrypt-then-MAC, strict key exchange, errors with a name), and the path of each packet. Of Conch's code, only `getNS`
reads what a server sends.

`packets.PacketReader` finds the messages in what arrives, `ClientTransport.dispatchMessage` hands each to the part that
it is for: `key_exchange.KeyExchange`, this module, or the service of the moment. What is sent goes through
`packets.PacketWriter`. This module is long as the path of a packet is in it from end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, runtime_checkable

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import DISCONNECT_BY_APPLICATION, SSHClientTransport
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer, IReactorTime, ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.language.texts import Text, printable_bytes
from relayd.network.joined_writes import join_writes
from relayd.ssh.errors import SSHError
from relayd.ssh.host_keys.verifier import HostKeyVerifier
from relayd.ssh.transport.algorithms import AlgorithmPolicy, prefer_known
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.extensions import read_extensions
from relayd.ssh.transport.faults import KNOWN_FAULTS, MAX_SHOWN, error_of, error_of_close
from relayd.ssh.transport.flood_limit import FloodLimit
from relayd.ssh.transport.key_exchange import KeyExchange
from relayd.ssh.transport.numbers import (
    FIRST_KEX_METHOD,
    FIRST_SERVICE_MESSAGE,
    LAST_KEX_METHOD,
    MSG_DEBUG,
    MSG_DISCONNECT,
    MSG_EXT_INFO,
    MSG_IGNORE,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_UNIMPLEMENTED,
)
from relayd.ssh.transport.pacing import MAX_OWED, MAX_SAVED, READ, Pacer
from relayd.ssh.transport.packets import PacketReader, PacketWriter
from relayd.ssh.transport.version_exchange import CLIENT_VERSION

_log = Logger("relayd.ssh")

#: Bytes in one direction after which the keys are renewed (RFC 4253, section 9).
REKEY_BYTES = 1 << 30
#: A server has a reason to renew the keys after so many bytes from it, or so many seconds.
RENEWAL_BYTES = 16384
RENEWAL_SECONDS = 1.0
#: Bytes of a ``DEBUG`` that are looked at.
MAX_DEBUG = 4096
_MASK32 = 0xFFFFFFFF


@implementer(IPushProducer)
class Backpressure:
    """
    Notes whether the server takes what is sent to it.

    An object of its own: registered as a producer, it is asked to pause when too much waits to be written.

    :ivar full: whether the server does not read: 64 KiB wait to be written.
    :ivar on_drained: called when the server has taken what waited.
    """

    __slots__ = ("full", "on_drained")

    def __init__(self) -> None:
        self.full = False
        self.on_drained: Callable[[], None] | None = None

    def pauseProducing(self) -> None:
        self.full = True

    def resumeProducing(self) -> None:
        self.full = False
        if self.on_drained is not None:
            self.on_drained()

    def stopProducing(self) -> None:
        """The connection is gone."""


@runtime_checkable
class Abortable(Protocol):
    """A transport that can be closed without a peer's help: TCP, and a channel of another SSH connection."""

    def abortConnection(self) -> None:
        """Close at once."""


class ClientTransport(SSHClientTransport):
    """
    One connection to an SSH server. It exchanges keys, and starts the services that are asked for: login, connection.

    More than 25 methods, as each message of the transport layer has one.

    :ivar secure: fires with ``None`` when the host has proved that it has its key, and all that follows is encrypted;
        fails with an `SSHError`.
    :ivar on_failure: called with the error that ended the connection after that.
    :ivar on_unimplemented: called when the server says that it does not know a message of ours.
    :ivar lost_reason: why the connection ended, in words, once it has.
    :ivar told_to_leave: whether the server said that it closes the connection. Nothing that it sends later is read.
    :ivar forced_command: whether the server said that it runs a command of its own instead of any other.
    :ivar pace: what the server's bytes have cost.
    :ivar heard: messages of this layer that came, such as ``IGNORE``.
    :ivar flood_limit: counts what the server makes us answer.
    :ivar backpressure: whether the server reads what is sent to it.
    """

    #: The service that `requestService` asked for, until it is started.
    instance: SSHService | None = None  # type: ignore[assignment]  # Conch's has no value before that

    def __init__(
        self, clock: IReactorTime, host: str, port: int, known_hosts: HostKeyVerifier, policy: AlgorithmPolicy
    ) -> None:
        self.clock = clock
        self.host = host
        self.port = port
        self.policy = policy
        self.secure: Deferred[None] = Deferred()
        self.on_failure: Callable[[SSHError], None] | None = None
        self.on_unimplemented: Callable[[], None] | None = None
        self.lost_reason: str = Text("the connection was closed")
        self.told_to_leave = False
        self.forced_command = False
        self.pace = Pacer(clock, self)
        self.heard = 0
        self.flood_limit = FloodLimit()
        self.backpressure = Backpressure()
        self._failure: SSHError | None = None
        self._reader = PacketReader(self.pace)
        self._writer = PacketWriter()
        offered = prefer_known(policy, known_hosts.key_types(host, port))
        self._key_exchange = KeyExchange(
            policy, offered, partial(known_hosts.verify, host, port), self._reader, self._writer
        )
        self._renewed = clock.seconds()
        self._warned_of: frozenset[bytes] = frozenset()
        self._blocked: list[tuple[int, bytes]] = []  # what must not be sent during a key exchange
        self._extensions_at = 0  # the number of the packet that may hold extensions

    def __repr__(self) -> str:
        return f"<ClientTransport to {self.host}:{self.port}>"

    # What services and the pool ask for

    def local_port(self) -> int:
        """The port of this machine that the connection comes from; 0 behind a jump host, where it has none."""
        return int(getattr(self.transport.getHost(), "port", 0)) if self.transport is not None else 0

    def last_words(self) -> Text:
        """How far the server has come in the key exchange, for the error when it takes too long."""
        instead = self._reader.last_words()
        if instead is not None:
            return instead
        return Text("its version is {version}", version=printable_bytes(self.otherVersionString, MAX_SHOWN))

    def disconnect(self, reason: str) -> None:
        """Say good-bye and close."""
        self.lost_reason = reason
        self.sendPacket(MSG_DISCONNECT, DISCONNECT_BY_APPLICATION.to_bytes(4, "big") + NS(b"") + NS(b""))
        if self.transport is not None:
            if IConsumer.providedBy(self.transport):
                self.transport.unregisterProducer()  # it would keep the connection open
            self.transport.loseConnection()

    def abort(self) -> None:
        """Close at once, without waiting for a server that may be gone."""
        if isinstance(self.transport, Abortable):
            self.transport.abortConnection()
        elif self.transport is not None:
            self.transport.loseConnection()

    @property
    def at_fault(self) -> bool:
        """Whether this side closed the connection because of an error."""
        return self._failure is not None

    def failed(self, error: SSHError) -> None:
        """Close the connection because of *error*, which those who wait for the connection get."""
        self._reader.stopped = True
        if self._failure is None:
            self._failure = error
            reason = error.fields.get("reason")
            self.lost_reason = reason if isinstance(reason, str) else error.text
        self.abort()

    def reset_flood_limit(self) -> None:
        """
        Forget the requests of the server until now, as time has passed or a command is sent.

        Not while our answers to them still wait to be sent.
        """
        if not self.backpressure.full and not self._key_exchange.running:
            self.flood_limit.reset()

    def renew_keys(self) -> None:
        """Exchange keys again. Other messages wait until that is done."""
        if not self._key_exchange.running:
            self._write(self._key_exchange.begin())

    # What the pacer asks for

    def hold(self, on: bool) -> None:
        """Read no more from the network, or read again."""
        if IPushProducer.providedBy(self.transport):
            if on:
                self.transport.pauseProducing()
            elif not self._reader.stopped:
                self.transport.resumeProducing()

    def read_on(self) -> None:
        """Read what has arrived already."""
        if not self._reader.stopped:
            self._take(b"")

    # Hooks of Protocol

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            # A command is a few small packets, each of which waits for the answer to the one before.
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
            join_writes(self.transport)
        if IConsumer.providedBy(self.transport):
            self.transport.registerProducer(self.backpressure, True)
        self._write(CLIENT_VERSION + b"\r\n")
        self._write(self._key_exchange.begin())

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.pace.stop()
        error = self._failure or error_of_close(
            self.host,
            self.port,
            self.lost_reason,
            instead=self._reader.last_words(),
            secured=self._key_exchange.secured,
        )
        service, self.service = self.service, None
        if service is not None:
            service.serviceStopped()
        if not self.secure.called:
            self.secure.errback(error)
        elif self.on_failure is not None:
            self.on_failure(error)

    def dataReceived(self, data: bytes) -> None:
        if self._reader.stopped:
            return
        self.pace.owed += READ
        if self.pace.holding:
            self._reader.keep(data)
        else:
            self._take(data)

    # Receiving

    def _take(self, data: bytes) -> None:
        """Read *data*, after what is left of earlier reads, until the turn of this connection ends."""
        reader = self._reader
        pace = self.pace
        more = False
        try:
            more = reader.read(data, self)
            if reader.bytes_with_keys >= REKEY_BYTES or self._writer.bytes_with_keys >= REKEY_BYTES:
                self.renew_keys()
        except Exception as fault:
            if not isinstance(fault, KNOWN_FAULTS):
                # What a peer sends must never end in a traceback. The log names the kind of error, and not the data.
                kind = type(fault).__name__
                _log.debug("{host}:{port} broke the protocol: {kind}", host=self.host, port=self.port, kind=kind)
            self.failed(error_of(fault, self.host, self.port, secured=self._key_exchange.secured))
        if pace.owed < -MAX_SAVED:
            pace.owed = -MAX_SAVED
        if (more or pace.owed > MAX_OWED) and self._failure is None:
            pace.settle(more)

    def version_received(self, version: bytes) -> None:
        """See `relayd.ssh.transport.packets.MessageHandler`."""
        self.otherVersionString = version
        self.gotVersion = True
        self._key_exchange.version_received(version)

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if messageNum >= FIRST_SERVICE_MESSAGE:
            if not self._key_exchange.secured:
                raise Breach("message {number} before the end of the key exchange", number=messageNum)
            service = self.service
            if service is not None:
                service.packetReceived(messageNum, payload)
            return
        self.heard += 1
        if messageNum == MSG_KEXINIT:
            self._kexinit_received(payload)
        elif messageNum == MSG_NEWKEYS:
            self._newkeys_received()
        elif FIRST_KEX_METHOD <= messageNum <= LAST_KEX_METHOD:
            self._write(self._key_exchange.method_message_received(messageNum, payload))
        elif not self._key_exchange.allows(messageNum):
            raise Breach("message {number} in a key exchange", number=messageNum)
        elif messageNum == MSG_DISCONNECT:
            self._disconnect_received(payload)
        elif messageNum == MSG_SERVICE_ACCEPT:
            self._service_accepted(payload)
        elif messageNum == MSG_EXT_INFO:
            # Later ones are not read: they come too late to be of use. Some servers send one with all new keys.
            if self._reader.sequence == self._extensions_at:
                self.peerExtensions = read_extensions(payload)
        elif messageNum == MSG_DEBUG:
            self._debug_received(payload)
        elif messageNum == MSG_UNIMPLEMENTED:
            if self.on_unimplemented is not None:
                self.on_unimplemented()
        elif messageNum != MSG_IGNORE:
            # Conch would log it, whatever it holds.
            self.flood_limit.count_request()
            self.sendPacket(MSG_UNIMPLEMENTED, ((self._reader.sequence - 1) & _MASK32).to_bytes(4, "big"))

    def _kexinit_received(self, payload: bytes) -> None:
        exchange = self._key_exchange
        exchange.negotiate(payload)
        if exchange.algorithms is not None:
            self.warn_of(exchange.algorithms.names())
        if not exchange.running:
            # A key exchange is expensive. A server that begins many has to wait, and without time or data between them
            # its connection is closed. A KEXINIT may have thousands of names.
            self.pace.owed += exchange.price + (len(payload) >> 5)
            early = self.clock.seconds() - self._renewed < RENEWAL_SECONDS
            if early and self._reader.bytes_with_keys < RENEWAL_BYTES:
                self.flood_limit.count_key_exchange()
        self._write(exchange.respond())

    def warn_of(self, algorithms: Iterable[bytes]) -> None:
        """Log those of *algorithms* that are outdated and about to be used, each once a connection."""
        used = self.policy.outdated.intersection(algorithms) - self._warned_of
        if used:
            self._warned_of |= used
            names = printable_bytes(b", ".join(sorted(used)), MAX_SHOWN)
            _log.warn("{host}:{port} uses outdated algorithms: {names}", host=self.host, port=self.port, names=names)

    def _newkeys_received(self) -> None:
        exchange = self._key_exchange
        first = not exchange.secured
        exchange.finish()
        self._renewed = self.clock.seconds()
        blocked, self._blocked = self._blocked, []
        for message, payload in blocked:
            self.sendPacket(message, payload)
        if first:
            self.sessionID = exchange.session_id
            self._extensions_at = self._reader.sequence + 1  # RFC 8308, section 2.4
            self.secure.callback(None)

    # Sending

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self._key_exchange.running and not _allowed_in_exchange(messageType):
            self._blocked.append((messageType, payload))
            return
        packet = self._writer.packet(messageType, payload)
        if self.transport is not None:
            self.transport.write(packet)

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    # Messages that this module reads

    def _service_accepted(self, packet: bytes) -> None:
        requested, self.instance = self.instance, None
        if requested is None or getNS(packet)[0] != requested.name:
            raise Breach("the start of a service that was not asked for")
        self.setService(requested)

    def _disconnect_received(self, payload: bytes) -> None:
        code, description = int.from_bytes(payload[:4], "big"), getNS(payload[4:])[0]
        text = printable_bytes(description, MAX_SHOWN)
        self.told_to_leave = self._reader.stopped = True
        self.lost_reason = (
            Text("it said “{words}”", words=text) if text else Text("it disconnected with code {code}", code=code)
        )
        # It may not read any more what was sent to it.
        self.abort()

    def _debug_received(self, payload: bytes) -> None:
        # OpenSSH sends after the login, for example, "/home/u/.ssh/authorized_keys:1: key options: command no-pty"
        _file, found, options = getNS(payload[1:MAX_DEBUG])[0].partition(b" key options: ")
        if found and b"command" in options.split():
            self.forced_command = True


def _allowed_in_exchange(message: int) -> bool:
    """Whether a message may be sent during a key exchange (RFC 4253, section 7.1)."""
    if message >= FIRST_SERVICE_MESSAGE:
        return False
    return message not in (MSG_SERVICE_REQUEST, MSG_SERVICE_ACCEPT, MSG_EXT_INFO)
