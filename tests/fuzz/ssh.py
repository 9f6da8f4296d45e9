"""
The bytes of an SSH server: its greeting, packets and key exchange; then what it says to the login, and on channels.

Nobody guesses a signature.  So in ``ssh-services`` the host key is taken unseen and no packet is encrypted, and the
login, the channels and further key exchanges are within reach.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, cast

from twisted.conch.ssh.common import NS
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from relayd.ssh.channels.channel import State
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.errors import SSHError
from relayd.ssh.login.identities import Identities, Identity
from relayd.ssh.login.login import LoginService
from relayd.ssh.target import Credential
from relayd.ssh.target import Target as SSHTarget
from relayd.ssh.transport.algorithms import LEGACY, MODERN
from relayd.ssh.transport.ciphers import Plain
from relayd.ssh.transport.key_exchange import KeyExchange
from relayd.ssh.transport.key_exchange_methods import Agreed
from relayd.ssh.transport.numbers import MSG_NEWKEYS
from relayd.ssh.transport.session_keys import KeySchedule
from relayd.ssh.transport.transport import ClientTransport
from tests.fuzz.engine import CANARY, Target, check, check_words, grow
from tests.support.ssh import RecordingTCP

#: Bits of the first byte of ``ssh-transport``: the rest are packets, each after two bytes of its size, behind a
#: greeting; the host offers old algorithms too; bytes come one by one.
_PACKETS, _OLD, _PIECES = 1, 2, 4
#: Bits of the first byte of ``ssh-services``: the key exchange is done; the login too; commands wait for leave.
_SECURE, _LOGGED_IN, _LEAVE, _PROMPTS = 1, 2, 4, 8

_MOST_OUTPUT = 4096
_MOST_SENT = 1 << 20

_GREETING = b"SSH-2.0-fuzz\r\n"
_BLOB = NS(b"ssh-ed25519") + NS(bytes(range(32)))


class _Unchecked:
    """Takes every host key."""

    def key_types(self, host: str, port: int) -> frozenset[bytes]:
        return frozenset()

    def verify(self, host: str, port: int, blob: bytes) -> None:
        """Fine."""


class _TrustingExchange(KeyExchange):
    """Asks for no proof, and encrypts nothing."""

    def _check_host(self, agreed: Agreed, digest: bytes) -> None:
        """Any will do."""

    def _use_keys(self, keys: KeySchedule) -> bytes:
        self._next_opener = Plain()
        newkeys = self._writer.packet(MSG_NEWKEYS)
        self._writer.use(Plain(), restart_numbers=self.strict)
        return newkeys


class _Trusting(ClientTransport):
    """Exchanges keys like that."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._key_exchange.__class__ = _TrustingExchange


class _Owner:
    """Whose connection it is."""

    def __init__(self) -> None:
        self.lost = 0

    def connection_answers(self, connection: ClientConnection) -> None:
        pass

    def session_refused(self, connection: ClientConnection, session: Any, code: int, reason: str) -> None:
        check(session.state is State.WAITING, "a refused session that does not wait")
        check_words(reason)

    def exec_refused(self, connection: ClientConnection, session: Any) -> bool:
        return False

    def not_usable(self, connection: ClientConnection, session: Any, max_packet: int) -> None:
        check(session.state is State.WAITING, "a session that cannot be used, and does not wait")

    def session_closed(self, connection: ClientConnection, session: Any) -> None:
        """Its place is free."""

    def connection_lost(self, connection: ClientConnection, interrupted: list[Any], reason: str) -> None:
        self.lost += 1
        check_words(reason)


def packet(payload: bytes) -> bytes:
    """As it is on the wire before there are keys."""
    padding = 8 - (len(payload) + 5) % 8
    padding += 8 if padding < 4 else 0
    return struct.pack(">LB", len(payload) + 1 + padding, padding) + payload + bytes(padding)


def _packets(data: bytes) -> Iterator[bytes]:
    """Payloads, each after two bytes of its size."""
    at = 0
    while at + 2 < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        yield data[at + 2 : at + 2 + size]
        at += 2 + size


def _join(*payloads: bytes) -> bytes:
    return b"".join(len(payload).to_bytes(2, "big") + payload for payload in payloads)


def _finish(client: ClientTransport, tcp: RecordingTCP, failures: list[SSHError]) -> None:
    check(len(tcp.value()) <= _MOST_SENT, "too much is sent")
    check(len(client._reader._rest) <= 1 << 19, "what was received piles up")
    client.connectionLost(Failure(ConnectionDone()))
    for error in failures:
        check_words(error)
    check_words(client.lost_reason)
    check(client.secure.called, "nobody is told of the end")


def _client(kind: type[ClientTransport], old: bool) -> tuple[ClientTransport, RecordingTCP, list[SSHError]]:
    client, tcp = kind(Clock(), "host", 22, _Unchecked(), LEGACY if old else MODERN), RecordingTCP()
    failures: list[SSHError] = []

    def note(failure: Any) -> None:
        failures.append(failure.value)

    client.secure.addErrback(note)
    client.on_failure = failures.append
    client.makeConnection(tcp)
    return client, tcp, failures


def _run_transport(data: bytes) -> None:
    if not data:
        return
    flags, data = data[0], grow(data[1:])
    client, tcp, failures = _client(ClientTransport, bool(flags & _OLD))
    if flags & _PACKETS:
        data = _GREETING + b"".join(packet(payload) for payload in _packets(data))
    step = max(1, len(data) // 64) if flags & _PIECES else len(data) + 1
    for start in range(0, len(data), step):
        client.dataReceived(data[start : start + step])
    _finish(client, tcp, failures)
    check(len(failures) == 1, "it fails not once")
    check(isinstance(failures[0], SSHError), "it fails with an error that is not ours")


def _run_services(data: bytes) -> None:
    if not data:
        return
    flags, data = data[0], grow(data[1:])
    client, tcp, failures = _client(_Trusting, False)
    clock: Any = Clock()
    owner, sessions = _Owner(), []
    connection = ClientConnection(clock, owner, 15.0)

    def begin() -> None:
        client.setService(connection)
        for number in range(3):
            session = Session(
                Command(
                    b"true",
                    _MOST_OUTPUT,
                    stdin=b"x" * 300 if number else b"",
                    env=[("A", b"b")] if number else [],
                ),
                lambda: None,
                lambda: None,
            )
            sessions.append(session)
            connection.start(session)

    def signs(data: bytes, algorithm: bytes) -> bytes:
        return NS(algorithm) + NS(b"signature")

    identities = Identities((Identity(_BLOB, signs), Identity(_BLOB, signs, "agent", ask_first=True)))
    login = LoginService(SSHTarget("host", 22, "user", Credential(CANARY)), identities, begin, client.failed)
    client.secure.addCallback(lambda _: client.requestService(login))
    client.dataReceived(_GREETING)
    if flags & (_SECURE | _LOGGED_IN):
        for payload in (*_EXCHANGE, _ACCEPTED, *([bytes((52,))] if flags & _LOGGED_IN else [])):
            client.dataReceived(packet(payload))
        check(bool(sessions) == bool(flags & _LOGGED_IN), "the handshake of the harness itself")
    for number, payload in enumerate(_packets(data)):
        client.dataReceived(packet(payload))
        if number % 16 == 0:
            clock.advance(1)
        for session in sessions:
            check(_held(session) <= 3 * 65536 + 2 * _MOST_OUTPUT, "output piles up")
    if sessions and flags & _LEAVE:
        connection.close(sessions[0])
        clock.advance(20)
    _finish(client, tcp, failures)
    # TCP is gone: its secret was for the host alone
    check(owner.lost == bool(sessions), "the owner is told of the end not once")
    check(not clock.getDelayedCalls(), "a timer is left")
    for session in sessions:
        check(session.state is not State.OPENING, "a session that waits for a connection that is gone")


def _held(session: Session) -> int:
    """Bytes of output in memory."""
    return sum(len(each._head) + each._tail_size for each in (session.stdout, session.stderr))


_LISTS = (
    (MODERN, b"curve25519-sha256", b"ssh-ed25519", b"aes128-gcm@openssh.com"),
    (LEGACY, b"diffie-hellman-group-exchange-sha256", b"rsa-sha2-512", b"aes128-ctr"),
    (LEGACY, b"ecdh-sha2-nistp256,kex-strict-s-v00@openssh.com", b"ecdsa-sha2-nistp256", b"aes256-cbc"),
    (LEGACY, b"diffie-hellman-group14-sha256", b"ssh-rsa", b"chacha20-poly1305@openssh.com"),
)
_MAC = b"hmac-sha2-256,hmac-sha1,hmac-sha2-256-etm@openssh.com"


def _kexinit(kex: bytes, host_key: bytes, cipher: bytes) -> bytes:
    lists = (kex, host_key, cipher, cipher, _MAC, _MAC, b"none", b"none", b"", b"")
    return bytes((20,)) + bytes(16) + b"".join(map(NS, lists)) + bytes(5)


def _reply(value: bytes, signature_type: bytes = b"ssh-ed25519") -> bytes:
    return bytes((31,)) + NS(_BLOB) + NS(value) + NS(NS(signature_type) + NS(bytes(64)))


_EXCHANGE = (_kexinit(*_LISTS[0][1:]), _reply(b"\x09" + bytes(31)), bytes((21,)))
_ACCEPTED = bytes((6,)) + NS(b"ssh-userauth")


def _numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}L", *values)


def _channel_packets() -> Iterator[bytes]:
    """A whole command on channel 1, and what else a server may say."""
    yield bytes((91,)) + _numbers(1, 101, 1 << 21, 32768)
    yield bytes((99,)) + _numbers(1)
    yield bytes((94,)) + _numbers(1) + NS(b"output")
    yield bytes((95,)) + _numbers(1, 1) + NS(b"error")
    yield bytes((93,)) + _numbers(1, 1000)
    yield bytes((98,)) + _numbers(1) + NS(b"exit-status") + b"\0" + _numbers(3)
    yield bytes((98,)) + _numbers(1) + NS(b"exit-signal") + b"\1" + NS(b"TERM") + b"\0" + NS(b"words") + NS(b"")
    yield bytes((96,)) + _numbers(1)
    yield bytes((97,)) + _numbers(1)
    yield bytes((92,)) + _numbers(0, 4) + NS(b"resource shortage") + NS(b"")
    yield bytes((91,)) + _numbers(2, 102, 100, 256)
    yield bytes((100,)) + _numbers(2)
    yield bytes((90,)) + NS(b"forwarded-tcpip") + _numbers(5, 6, 7)
    yield bytes((80,)) + NS(b"hostkeys-00@openssh.com") + b"\1"
    yield bytes((82,))


def _login_packets() -> Iterator[bytes]:
    failure = bytes((51,)) + NS(b"publickey,password,keyboard-interactive")
    yield bytes((53,)) + NS(b"banner") + NS(b"")
    yield failure + b"\0"
    yield failure + b"\0"
    yield bytes((60,)) + NS(b"ssh-ed25519") + NS(_BLOB)
    yield bytes((51,)) + NS(b"keyboard-interactive") + b"\1"
    yield bytes((60,)) + NS(b"name") + NS(b"") + NS(b"") + _numbers(1) + NS(b"Password: ") + b"\0"
    yield bytes((60,)) + NS(b"") + NS(b"expired") + NS(b"") + _numbers(1) + NS(b"New password: ") + b"\0"
    yield bytes((52,))


_OTHERS = (
    bytes((1,)) + _numbers(2) + NS(b"too many") + NS(b""),
    bytes((2,)) + NS(b"ignored"),
    bytes((3,)) + _numbers(1),
    bytes((4, 1)) + NS(b"/x:1: key options: command no-pty") + NS(b""),
    bytes((7,)) + _numbers(1) + NS(b"server-sig-algs") + NS(b"ssh-ed25519,rsa-sha2-512"),
    bytes((192,)) + b"unknown",
)


def _seeds_transport() -> Iterator[bytes]:
    yield bytes((0,)) + _GREETING
    yield bytes((_PIECES,)) + b"Welcome\r\nSSH-1.99-old\n" + b"".join(map(packet, _EXCHANGE))
    yield bytes((0,)) + b"HTTP/1.1 400 Bad\r\n\r\n"
    yield bytes((0,)) + b"SSH-1.5-x\n"
    yield bytes((0,)) + b"notice\n" + bytes((0, 6, 13, 0xFF))
    yield bytes((0,)) + _GREETING + struct.pack(">LB", 35001, 4) + bytes(40)
    for policy, kex, host_key, cipher in _LISTS:
        flags = _PACKETS | (_OLD if policy is LEGACY else 0)
        for value in (b"\x09" + bytes(31), b"\x04" + bytes(64), b"\0\xff" + bytes(254)):
            yield bytes((flags,)) + _join(_kexinit(kex, host_key, cipher), _reply(value, host_key), bytes((21,)))
    prime = b"\0" + b"\xff" * 256
    group = bytes((31,)) + NS(prime) + NS(b"\2")
    done = bytes((33,)) + NS(_BLOB) + NS(b"\5") + NS(NS(b"rsa-sha2-512") + NS(bytes(64)))
    yield bytes((_PACKETS | _OLD,)) + _join(_kexinit(*_LISTS[1][1:]), group, done)
    yield bytes((_PACKETS,)) + _join(*_OTHERS, *_EXCHANGE)


def _seeds_services() -> Iterator[bytes]:
    yield bytes((0,)) + _join(*_EXCHANGE, _ACCEPTED, *_login_packets(), *_channel_packets())
    yield bytes((_SECURE,)) + _join(*_login_packets())
    yield bytes((_LOGGED_IN | _LEAVE,)) + _join(*_channel_packets())
    yield bytes((_LOGGED_IN,)) + _join(*_OTHERS[1:], *_EXCHANGE, *_channel_packets())
    for each in (*_OTHERS, *_channel_packets()):
        yield bytes((_LOGGED_IN,)) + _join(*list(_channel_packets())[:3], each)
    for each in _login_packets():
        yield bytes((_SECURE,)) + _join(bytes((51,)) + NS(b"password,keyboard-interactive") + b"\0", each)
    yield bytes((_LOGGED_IN,)) + _join(*list(_channel_packets())[:3]) + bytes((28, 12, 13, 0xFF))


_WORDS = (
    *(name for policy in (LEGACY,) for name in (*policy.key_exchanges, *policy.host_keys, *policy.ciphers)),
    *(b"kex-strict-s-v00@openssh.com", b"ext-info-s", b"none", b"SSH-2.0-", b"SSH-1.99-", b"\r\n", b"publickey"),
    *(b"password", b"keyboard-interactive", b"exit-status", b"exit-signal", b"server-sig-algs", b"ssh-userauth"),
    *(bytes((0, 0, 0, number)) for number in range(9)),
    *(b"\xff\xff\xff\xff", b"\x80\0\0\0", b"New password: ", b"Password: ", b"key options: command"),
    *(b"".join((bytes((0, 5)), bytes((number,)), bytes((0, 0, 0, 1)))) for number in (91, 94, 96, 97, 99, 100)),
)

TARGETS = {
    "ssh-transport": Target(_run_transport, _seeds_transport, cast(Any, _WORDS)),
    "ssh-services": Target(_run_services, _seeds_services, cast(Any, _WORDS)),
}
