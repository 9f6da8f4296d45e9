"""
The client side of the SSH transport protocol: Conch's, with the key exchange, packets and errors of today.

Source: RFC 4253; RFC 8308 (extensions); OpenSSH's PROTOCOL, section 1.10 (strict key exchange).

What stays Conch's is how services are asked for and started.  What is ours is what Conch does not have (authenticated
ciphers, encrypt-then-MAC, strict key exchange, errors with a name) and the path that each packet takes: no code of
Conch's but `getNS` reads a server's packets.
"""

from __future__ import annotations

from collections.abc import Callable
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
from relayd.ssh.errors import (
    ConnectionDropped,
    KeyExchangeFailed,
    LoginDropped,
    NoCommonAlgorithm,
    NotSSH,
    ProtocolBroken,
    SSHError,
)
from relayd.ssh.host_keys.verifier import HostKeyVerifier
from relayd.ssh.transport.algorithms import AlgorithmPolicy, prefer_known
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.ciphers import MAX_PACKET, BadPacket, Doomed, Opener, Plain, Sealer, packet_cipher
from relayd.ssh.transport.extensions import read_extensions
from relayd.ssh.transport.key_exchange import METHODS, Agreed, KeyExchange
from relayd.ssh.transport.negotiation import Negotiated, NothingInCommon, kexinit
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
from relayd.ssh.transport.pacing import COST_SHIFT, MOST_OWED, MOST_SAVED, PACKET, READ, SLICE, Pacer
from relayd.ssh.transport.server_limits import most_payload
from relayd.ssh.transport.session_keys import BadProof, KeySchedule, check_proof, exchange_hash
from relayd.ssh.transport.version import Greeting, NoVersion

#: Bytes shown of what a server says: lists of algorithms are long.
MAX_SHOWN = 300
#: Bytes in one direction after which the keys are renewed (RFC 4253, section 9).
REKEY_BYTES = 1 << 30
#: What a server may make us do for nothing, as a sum of prices, between two calls of `ClientTransport.forgive`.
MAX_DEMANDS = 1000
#: The price of new keys, and what makes them worth it: so many bytes received with the old ones, or so many seconds.
RENEWAL_PRICE = 100
RENEWAL_BYTES = 16384
RENEWAL_SECONDS = 1.0
#: Bytes of a ``DEBUG`` that are looked at.
MAX_DEBUG = 4096
_MASK32 = 0xFFFFFFFF


@implementer(IPushProducer)
class _Writing:
    """
    Notes for a connection whether the other side takes what is sent to it.

    An object of its own, as what the network calls here a pause of writing is none of reading.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: ClientTransport) -> None:
        self._connection = connection

    def pauseProducing(self) -> None:
        self._connection.stuck = True

    def resumeProducing(self) -> None:
        self._connection.unstuck()

    def stopProducing(self) -> None:
        """The connection is gone."""


@runtime_checkable
class Abortable(Protocol):
    """A transport that can be closed without a peer's help: TCP, and a channel of another SSH connection."""

    def abortConnection(self) -> None:
        """Close at once."""


class ClientTransport(SSHClientTransport):
    """
    One connection to an SSH server, as far as the end of the key exchange; services go on from there.

    :ivar secure: fires with ``None`` when the host has proved its key and everything sent is encrypted; fails with an
        `SSHError`.
    :ivar on_failure: called with what ended the connection after it was secure, unless a service of ours took note.
    :ivar lost_reason: why the connection ended, in words, once it has.
    :ivar told_to_leave: whether the server said that it ends the connection; nothing that it sends after that counts.
    :ivar negotiated: the algorithms in use.
    :ivar forced_command: whether the server said that it runs one command of its own, whatever it is asked to run.
    :ivar pace: what the server's bytes have cost.
    :ivar stuck: whether the server does not take what is sent to it: 64 KiB of it wait.
    :ivar on_unstuck: called when that is over.
    """

    _log = Logger("relayd.ssh")
    ourVersionString = b"SSH-2.0-relayd"

    def __init__(
        self, clock: IReactorTime, host: str, port: int, known_hosts: HostKeyVerifier, policy: AlgorithmPolicy
    ) -> None:
        self.clock = clock
        self.host = host
        self.port = port
        self.secure: Deferred[None] = Deferred()
        self.on_failure: Callable[[SSHError], None] | None = None
        self.lost_reason: str = Text("the connection was closed")
        self.negotiated: Negotiated | None = None
        self.told_to_leave = False
        self.forced_command = False
        self._known_hosts = known_hosts
        self.policy = policy
        self._host_key_algorithms = list(prefer_known(policy, known_hosts.key_types(host, port)))
        self._failure: SSHError | None = None
        self._secured = False
        self._demands = 0
        self.pace = Pacer(clock, self)
        self.stuck = False
        self.on_unstuck: Callable[[], None] | None = None
        self._host_key = b""
        self._requested: SSHService | None = None
        # Packets
        self._sealer: Sealer = Plain()
        self._opener: Opener = Plain()
        self._next_opener: Opener | None = None
        self._greeting: Greeting | None = Greeting()
        self._rest = bytearray()  # the beginning of a packet, and what comes while the connection has to wait
        self._wanted = 1  # so many bytes of it are needed to go on
        self._packet_size = 0
        self._extensions_at = 0  # the number of the packet that may hold extensions
        self._renewed = clock.seconds()
        self._bytes_in = 0
        self._bytes_out = 0
        # Key exchange: from the moment that our KEXINIT is sent until both sides have new keys
        self._exchanging = False
        self._exchange: KeyExchange | None = None
        self._blocked: list[tuple[int, bytes]] = []
        self._strict = False

    def __repr__(self) -> str:
        return f"<ClientTransport to {self.host}:{self.port}>"

    # What services and the pool ask for

    def most_sessions(self) -> int | None:
        """How many sessions at a time the server is known to bear; ``None``: nothing is known."""
        # dropbear 2022.83 loses output and exit status of sessions side by side, and at times dies of an assertion.
        return 1 if self.otherVersionString.startswith(b"SSH-2.0-dropbear") else None

    def most_payload(self) -> int:
        """Bytes of payload in one packet that the server is known to take."""
        return most_payload(self.otherVersionString)

    def local_port(self) -> int:
        """The port that the connection comes from, as far as we know; 0 where it is none of ours."""
        return int(getattr(self.transport.getHost(), "port", 0)) if self.transport is not None else 0

    def disconnect(self, reason: str) -> None:
        """Say good-bye and close."""
        self.lost_reason = reason
        self.sendDisconnect(DISCONNECT_BY_APPLICATION, b"")

    def abort(self) -> None:
        """Close without waiting for a peer that may not be there any more."""
        if isinstance(self.transport, Abortable):
            self.transport.abortConnection()
        elif self.transport is not None:
            self.transport.loseConnection()

    @property
    def at_fault(self) -> bool:
        """Whether we ended the connection, for a fault that has a name."""
        return self._failure is not None

    def failed(self, error: SSHError) -> None:
        """Something ended this connection: close it; whoever waits for it gets *error*."""
        if self._failure is None:
            self._failure = error
            reason = error.fields.get("reason")
            self.lost_reason = reason if isinstance(reason, str) else error.text
        self.abort()

    def demanded(self, price: int = 1) -> None:
        """
        The server asked for something that costs it nothing, such as an answer.

        :raises Breach: when it does so all the time: whoever never reads the answers would fill our memory.
        """
        self._demands += price
        if self._demands > MAX_DEMANDS:
            if price == RENEWAL_PRICE:
                raise Breach("requests for new keys, again and again")
            raise Breach("more requests than any server needs")

    def forgive(self) -> None:
        """
        Some time has passed, or we asked for something: forget what the server demanded until now, unless our answers
        are still here.
        """
        if not self.stuck and not self._exchanging:
            self._demands = 0

    def unstuck(self) -> None:
        """The server takes what is sent again."""
        self.stuck = False
        if self.on_unstuck is not None:
            self.on_unstuck()

    # What the pacer asks for

    def hold(self, on: bool) -> None:
        """Read no more from the network, or read again."""
        if IPushProducer.providedBy(self.transport):
            if on:
                self.transport.pauseProducing()
            elif self._failure is None and not self.told_to_leave:
                self.transport.resumeProducing()

    def read_on(self) -> None:
        """Take what has arrived already."""
        if self._failure is None and not self.told_to_leave:
            self._take(b"")

    # Hooks of Protocol

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            # Each command is a few small packets that wait for each other.
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        if IConsumer.providedBy(self.transport):
            self.transport.registerProducer(_Writing(self), True)
        self._write(self.ourVersionString + b"\r\n")
        self.sendKexInit()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.pace.stop()
        kind = LoginDropped if self._secured else ConnectionDropped
        step = Text("key exchange") if self.gotVersion else Text("first contact")
        error = self._failure or kind(host=self.host, port=self.port, step=step, reason=self.lost_reason)
        service, self.service = self.service, None
        if service is not None:
            service.serviceStopped()
        if not self.secure.called:
            self.secure.errback(error)
        elif self.on_failure is not None:
            self.on_failure(error)

    def dataReceived(self, data: bytes) -> None:
        if self._failure is not None or self.told_to_leave:
            return
        self.pace.owed += READ
        if self.pace.holding:
            self._rest += data
        else:
            self._take(data)

    def _take(self, data: bytes | bytearray) -> None:
        """Go on with *data*, after what is left of earlier ones, until the turn of this connection is over."""
        pace = self.pace
        more = False
        if self._rest:
            self._rest += data
            data = self._rest
        if len(data) >= self._wanted:
            self._rest = bytearray()
            more = self._read(data)
        elif data is not self._rest:
            self._rest = bytearray(data)
        if (more or pace.owed > MOST_OWED or pace.owed < -MOST_SAVED) and self._failure is None:
            pace.settle(more)

    def _read(self, data: bytes | bytearray) -> bool:
        """
        Read the greeting, or packets.

        :return: whether the turn of this connection is over before *data* is.
        """
        try:
            start = 0
            if self._greeting is not None:
                found = self._greeting.read(data)
                if found is None:
                    return False
                self.otherVersionString, start = found
                self.gotVersion = True
                self._greeting = None
            return self._read_packets(data, start)
        except NoVersion as error:
            self.failed(NotSSH(host=self.host, port=self.port, reason=error.text))
        except BadPacket as error:
            self.failed(self._broken(Text("it sent a packet with a {fault}", fault=error.text)))
        except Breach as error:
            self.failed(self._broken(Text("it sent {what}", what=error.text)))
        except Exception as error:
            # What a peer sends must never end in a traceback; what is told of it is the kind of error, not the data.
            self._log.debug(
                "{host}:{port} broke the protocol: {kind}", host=self.host, port=self.port, kind=type(error).__name__
            )
            self.failed(self._broken(Text("it sent a packet that makes no sense")))
        return False

    # Receiving

    def _read_packets(self, data: bytes | bytearray, start: int) -> bool:
        """Hand on every packet that is complete, and keep the rest; nothing is copied for a packet but its payload."""
        view = memoryview(data)
        end = len(data)
        pace = self.pace
        most_owed = pace.owed + SLICE
        more = False
        # What follows a server's good-bye is not for us any more.
        while self._failure is None and not self.told_to_leave:
            opener = self._opener
            size = self._packet_size
            if not size:
                if end - start < opener.header_size:
                    self._wanted = opener.header_size
                    break
                try:
                    size = opener.packet_size(self.incomingPacketSequence, view[start : start + opener.header_size])
                except BadPacket as fault:
                    size = self._hide(fault)
                self._packet_size = size
            if end - start < size:
                self._wanted = size
                break
            if pace.owed > most_owed:
                self._wanted = size
                more = True
                break
            try:
                payload = self._opener.open(self.incomingPacketSequence, view[start : start + size])
            except BadPacket as fault:
                self._packet_size = self._hide(fault)
                continue
            start += size
            pace.owed += PACKET + (size >> COST_SHIFT)
            self._packet_size = 0
            self._bytes_in += size
            self.incomingPacketSequence = (self.incomingPacketSequence + 1) & _MASK32
            self.dispatchMessage(payload[0], payload[1:])
        if start < end:
            self._rest = bytearray(view[start:])
        if self._bytes_in >= REKEY_BYTES or self._bytes_out >= REKEY_BYTES:
            self.renew_keys()
        return more

    def _hide(self, fault: BadPacket) -> int:
        """
        Go on reading where the sender must not learn what was wrong (`BadPacket.hide`).

        :return: the bytes after which it may, from the beginning of the packet.
        """
        if not fault.hide:
            raise fault
        self._opener = Doomed(fault)
        return MAX_PACKET

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if messageNum >= FIRST_SERVICE_MESSAGE:
            if not self._secured:
                raise Breach("message {number} before the end of the key exchange", number=messageNum)
            service = self.service
            if service is not None:
                service.packetReceived(messageNum, payload)
        elif messageNum == MSG_KEXINIT:
            self._kexinit_received(payload)
        elif messageNum == MSG_NEWKEYS:
            self._newkeys_received()
        elif FIRST_KEX_METHOD <= messageNum <= LAST_KEX_METHOD:
            self._exchange_received(messageNum, payload)
        elif not self._secured and (self._strict or messageNum == MSG_EXT_INFO) and messageNum != MSG_DISCONNECT:
            raise Breach("message {number} in a key exchange", number=messageNum)
        elif messageNum == MSG_DISCONNECT:
            self._disconnect_received(payload)
        elif messageNum == MSG_SERVICE_ACCEPT:
            self._service_accepted(payload)
        elif messageNum == MSG_EXT_INFO:
            # Others are not read: they come too late to be of use, as those do that some servers send with new keys.
            if self.incomingPacketSequence == self._extensions_at:
                self.peerExtensions = read_extensions(payload)
        elif messageNum == MSG_DEBUG:
            self._debug_received(payload)
        elif messageNum not in (MSG_IGNORE, MSG_UNIMPLEMENTED):
            # Conch would log it, whatever it holds.
            self.demanded()
            self.sendPacket(MSG_UNIMPLEMENTED, ((self.incomingPacketSequence - 1) & _MASK32).to_bytes(4, "big"))

    # Sending

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self._exchanging and not _allowed_in_exchange(messageType):
            self._blocked.append((messageType, payload))
            return
        packet = self._sealer.seal(self.outgoingPacketSequence, bytes((messageType,)) + payload)
        self.outgoingPacketSequence = (self.outgoingPacketSequence + 1) & _MASK32
        self._bytes_out += len(packet)
        self._write(packet)

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    # Key exchange (RFC 4253, section 7)

    def renew_keys(self) -> None:
        """Exchange keys again; what is sent meanwhile waits."""
        if not self._exchanging:
            self.sendKexInit()

    def sendKexInit(self) -> None:
        payload = kexinit(self.policy, self._host_key_algorithms)
        self.ourKexInitPayload = bytes((MSG_KEXINIT,)) + payload
        self.sendPacket(MSG_KEXINIT, payload)
        self._exchanging = True

    def _kexinit_received(self, payload: bytes) -> None:
        if self._exchange is not None:
            raise Breach("a second KEXINIT")
        try:
            negotiated = Negotiated(payload, self.policy, self._host_key_algorithms)
        except NothingInCommon as error:
            self.failed(
                NoCommonAlgorithm(
                    host=self.host,
                    port=self.port,
                    kind=error.kind,
                    theirs=printable_bytes(b", ".join(error.theirs), MAX_SHOWN),
                    ours=printable_bytes(b", ".join(error.ours), MAX_SHOWN),
                )
            )
            return
        if not self._secured:
            self._strict = negotiated.strict
            if self._strict and self.incomingPacketSequence != 1:
                raise Breach("packets before its KEXINIT in a strict key exchange")
        self._note_doubtful(negotiated)
        self.negotiated = negotiated
        self.otherKexInitPayload = bytes((MSG_KEXINIT,)) + payload
        self._exchange = METHODS[negotiated.key_exchange]()
        if not self._exchanging:
            # Whoever does this all the time has to wait, as it is dear; with nothing in between, it has no reason to.
            # A proof of the longest RSA key costs as much as two exchanges, and a KEXINIT may hold thousands of names.
            self.pace.owed += self._exchange.price + 2 * len(self._host_key) + (len(payload) >> 5)
            if self._bytes_in < RENEWAL_BYTES and self.clock.seconds() - self._renewed < RENEWAL_SECONDS:
                self.demanded(RENEWAL_PRICE)
            self.sendKexInit()
        self.sendPacket(*self._exchange.first())

    def _note_doubtful(self, negotiated: Negotiated) -> None:
        used = self.policy.doubtful.intersection(negotiated.names())
        if used and not self._secured:
            self._log.warn(
                "{host}:{port} uses outdated algorithms: {names}",
                host=self.host,
                port=self.port,
                names=printable_bytes(b", ".join(sorted(used)), MAX_SHOWN),
            )

    def _exchange_received(self, message: int, payload: bytes) -> None:
        if self._exchange is None or self._next_opener is not None:
            raise Breach("message {number} outside a key exchange", number=message)
        outcome = self._exchange.step(message, payload)
        if isinstance(outcome, Agreed):
            self._agreed(self._exchange.hash_name, outcome)
        else:
            self.sendPacket(*outcome)

    def _agreed(self, hash_name: str, agreed: Agreed) -> None:
        greetings = (
            self.ourVersionString, self.otherVersionString, self.ourKexInitPayload, self.otherKexInitPayload
        )  # fmt: skip
        digest = exchange_hash(hash_name, greetings, agreed)
        self.ourKexInitPayload = self.otherKexInitPayload = b""  # up to some KB, of no more use
        error = self._check_host(agreed, digest)
        if error is not None:
            self.failed(error)
            return
        self._host_key = agreed.host_key
        if self.sessionID is None:
            self.sessionID = digest
        self._use_keys(KeySchedule(hash_name, agreed.secret, digest, self.sessionID))

    def _check_host(self, agreed: Agreed, digest: bytes) -> SSHError | None:
        """The host must show the key that we know, and prove that it has it."""
        assert self.negotiated is not None
        try:
            check_proof(agreed, self.negotiated.host_key, digest, self.policy.least_rsa_bits)
        except BadProof as reason:
            return self._exchange_failed(reason.text)
        if self._secured:
            if agreed.host_key != self._host_key:
                return self._exchange_failed(Text("its host key changed while it was connected"))
            return None
        try:
            self._known_hosts.verify(self.host, self.port, agreed.host_key)
        except SSHError as error:
            return error
        return None

    def _use_keys(self, keys: KeySchedule) -> None:
        """New keys for both directions; each is used from its own NEWKEYS on."""
        algorithms = self.negotiated
        assert algorithms is not None
        self._next_opener = packet_cipher(algorithms.cipher_in, algorithms.mac_in, keys.inward)
        self.sendPacket(MSG_NEWKEYS, b"")
        self._sealer = packet_cipher(algorithms.cipher_out, algorithms.mac_out, keys.out)
        self._bytes_out = 0
        if self._strict:
            self.outgoingPacketSequence = 0

    def _newkeys_received(self) -> None:
        if self._next_opener is None:
            raise Breach("NEWKEYS outside a key exchange")
        self._opener, self._next_opener = self._next_opener, None
        self._bytes_in = 0
        if self._strict:
            self.incomingPacketSequence = 0
        self._exchange = None
        self._exchanging = False
        self._renewed = self.clock.seconds()
        blocked, self._blocked = self._blocked, []
        for message, payload in blocked:
            self.sendPacket(message, payload)
        if not self._secured:
            self._secured = True
            self._extensions_at = self.incomingPacketSequence + 1  # RFC 8308, section 2.4
            self.secure.callback(None)

    # Hooks of Conch's transport

    def requestService(self, instance: SSHService) -> None:
        super().requestService(instance)
        self._requested = instance

    def _service_accepted(self, packet: bytes) -> None:
        requested, self._requested = self._requested, None
        if requested is None or getNS(packet)[0] != requested.name:
            raise Breach("the start of a service that was not asked for")
        del self.instance  # Conch's: it would keep the login, which is over soon, as long as the connection
        self.setService(requested)

    def _disconnect_received(self, payload: bytes) -> None:
        code, description = int.from_bytes(payload[:4], "big"), getNS(payload[4:])[0]
        text = printable_bytes(description, MAX_SHOWN)
        self.told_to_leave = True
        self.lost_reason = (
            Text("it said “{words}”", words=text) if text else Text("it disconnected with code {code}", code=code)
        )
        # It may not read any more what we sent.
        self.abort()

    def _debug_received(self, payload: bytes) -> None:
        # What OpenSSH tells after the login, as in "/home/u/.ssh/authorized_keys:1: key options: command no-pty"
        _file, found, options = getNS(payload[1:MAX_DEBUG])[0].partition(b" key options: ")
        if found and b"command" in options.split():
            self.forced_command = True

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        if reason != DISCONNECT_BY_APPLICATION and self._failure is None:
            self._failure = self._exchange_failed(printable_bytes(desc, MAX_SHOWN))
            self.lost_reason = self._failure.text
        self.sendPacket(MSG_DISCONNECT, reason.to_bytes(4, "big") + NS(b"") + NS(b""))
        if self.transport is not None:
            if IConsumer.providedBy(self.transport):
                self.transport.unregisterProducer()  # it would keep the connection open
            self.transport.loseConnection()

    def _exchange_failed(self, reason: str) -> KeyExchangeFailed:
        return KeyExchangeFailed(host=self.host, port=self.port, reason=reason)

    def _broken(self, reason: str) -> SSHError:
        kind = ProtocolBroken if self._secured else KeyExchangeFailed
        return kind(host=self.host, port=self.port, reason=reason)


def _allowed_in_exchange(message: int) -> bool:
    """RFC 4253, section 7.1."""
    if message >= FIRST_SERVICE_MESSAGE:
        return False
    return message not in (MSG_SERVICE_REQUEST, MSG_SERVICE_ACCEPT, MSG_EXT_INFO)
