"""
The client's transport against Conch's server in memory: key exchange, services, renewal of keys.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from relayd.ssh.errors import (
    ConnectionDropped,
    HostKeyChanged,
    HostKeyUnknown,
    KeyExchangeFailed,
    OutdatedInCommon,
    SSHError,
)
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.keys.public import fingerprint
from relayd.ssh.settings import HostKeyPolicy
from relayd.ssh.transport.algorithms import COMPATIBLE, MODERN, AlgorithmPolicy
from relayd.ssh.transport.key_exchange_methods import modp_prime
from relayd.ssh.transport.numbers import MSG_SERVICE_ACCEPT, MSG_SERVICE_REQUEST
from relayd.ssh.transport.transport import ClientTransport
from tests.support.ssh import LogTestCase, blob_of, key_pair, pump
from tests.support.sshd import make_key

SERVICE = b"ssh-userauth"


class EchoService(SSHService):
    """Keeps the packets that arrive, on either side."""

    name = SERVICE

    def __init__(self) -> None:
        self.started = self.stopped = 0
        self.packets: list[tuple[int, bytes]] = []

    def serviceStarted(self) -> None:
        self.started += 1

    def serviceStopped(self) -> None:
        self.stopped += 1

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        self.packets.append((messageNum, packet))


class Server(SSHServerTransport):
    """Conch's server, which notes the number of each message that arrives."""

    def __init__(self, *private_keys: str) -> None:
        self.messages: list[int] = []
        self.factory = SSHFactory()
        keys = [Key.fromString(private.encode()) for private in private_keys]
        self.factory.privateKeys = {key.sshType(): key for key in keys}
        self.factory.publicKeys = {key.sshType(): key.public() for key in keys}
        self.factory.services = {SERVICE: EchoService}
        self.factory.primes = {2048: [(2, modp_prime(2048))]}
        names = [b"rsa-sha2-512" if key.sshType() == b"ssh-rsa" else key.sshType() for key in keys]
        self.supportedPublicKeys = names

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        self.messages.append(messageNum)
        super().dispatchMessage(messageNum, payload)


class TransportTestCase(LogTestCase):
    """One connection in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.known_hosts = Path(tempfile.mkdtemp(prefix="relayd-test-transport-")) / "known_hosts"
        self.addCleanup(self.known_hosts.parent.rmdir)
        self.addCleanup(self.known_hosts.unlink, missing_ok=True)
        self.private, self.public = key_pair()

    def begin(
        self, server: Any, host_keys: HostKeyPolicy = "accept-new", policy: AlgorithmPolicy = COMPATIBLE
    ) -> ClientTransport:
        """Connect a client to *server*; `results` gets what becomes of its key exchange."""
        self.server = server
        self.results: list[Any] = []
        self.client = ClientTransport(Clock(), "host", 22, KnownHosts(str(self.known_hosts), host_keys), policy)
        self.client.secure.addBoth(self.results.append)
        self.pump = pump(server, self.client)
        self.pump.flush()
        return self.client

    def assert_secure(self) -> None:
        self.assertEqual(self.results, [None])

    def failure(self, kind: type[SSHError]) -> SSHError:
        """The error of the key exchange, after which the connection is closed and nothing was asked for."""
        (result,) = self.results
        self.assertIsInstance(result, Failure)
        self.assertIs(type(result.value), kind, result.value)
        self.assertTrue(self.pump.clientIO.disconnecting)
        self.assertEqual(self.flushLoggedErrors(), [])
        return result.value  # type: ignore[no-any-return]

    def start_services(self) -> tuple[EchoService, EchoService]:
        ours = EchoService()
        self.client.requestService(ours)
        self.pump.flush()
        theirs = self.server.service
        assert isinstance(theirs, EchoService)
        self.assertEqual(ours.started, 1)
        return ours, theirs


class KeyExchangeTests(TransportTestCase):
    """The way to a secure connection."""

    def test_secure(self) -> None:
        self.begin(Server(self.private))
        self.assert_secure()
        self.assertTrue(self.server.otherVersionString.startswith(b"SSH-2.0-relayd"))
        self.assertEqual(self.known_hosts.read_text(), f"host {self.public}\n")
        ours, theirs = self.start_services()
        self.client.sendPacket(90, b"to the server")
        self.server.sendPacket(91, b"to the client")
        self.pump.flush()
        self.assertEqual((theirs.packets, ours.packets), ([(90, b"to the server")], [(91, b"to the client")]))

    def test_each_algorithm_that_conch_has(self) -> None:
        kinds = {
            "supportedKeyExchanges": COMPATIBLE.key_exchanges,
            "supportedCiphers": COMPATIBLE.ciphers,
            "supportedMACs": COMPATIBLE.macs,
        }
        tried = 0
        for kind, names in kinds.items():
            for name in names:
                server = Server(self.private)
                if name in getattr(server, kind) and not name.startswith(b"mlkem"):
                    setattr(server, kind, [name])
                    self.begin(server)
                    self.assertEqual(self.results, [None], name)
                    tried += 1
        self.assertGreater(tried, 8)

    def test_each_type_of_host_key(self) -> None:
        for kind in ("ed25519", "ecdsa", "rsa"):
            self.known_hosts.unlink(missing_ok=True)
            private, public = key_pair(kind)
            self.begin(Server(private))
            self.assert_secure()
            self.assertIn(public, self.known_hosts.read_text())

    def test_asks_for_the_known_type_first(self) -> None:
        self.known_hosts.write_text(f"host {key_pair('rsa')[1]}\n")
        self.begin(Server(self.private, key_pair("rsa")[0]), "strict")
        self.assert_secure()

    def test_every_byte_by_itself(self) -> None:
        self.begin(Server(self.private))
        clock = Clock()
        wire = ClientTransport(clock, "host", 22, KnownHosts(str(self.known_hosts), "strict"), COMPATIBLE)
        whole = wire.dataReceived

        def one_by_one(data: bytes) -> None:
            for at in range(len(data)):
                whole(data[at : at + 1])

        wire.dataReceived = one_by_one  # type: ignore[method-assign]
        server = Server(self.private)
        self.client, self.server, self.pump = wire, server, pump(server, wire)
        self.pump.flush()
        ours, _ = self.start_services()
        server.sendPacket(91, b"x" * 10_000)
        self.pump.flush()
        clock.pump([1.0] * 10)  # each byte has its price
        self.assertEqual(ours.packets, [(91, b"x" * 10_000)])

    def test_nothing_in_common(self) -> None:
        for kind, attribute, theirs, ours in (
            ("key exchange", "supportedKeyExchanges", b"diffie-hellman-group1-sha1", "curve25519-sha256"),
            ("host key type", "supportedPublicKeys", b"ssh-dss", "ssh-ed25519"),
            ("cipher", "supportedCiphers", b"3des-cbc", "aes256-ctr"),
            ("MAC", "supportedMACs", b"hmac-md5", "hmac-sha2-256"),
        ):
            server = Server(self.private)
            if kind == "MAC":
                server.supportedCiphers = [b"aes256-ctr"]
            setattr(server, attribute, [theirs])
            self.begin(server)
            text = str(self.failure(OutdatedInCommon))
            for part in (f"no {kind} in common", theirs.decode(), ours, "host:22"):
                self.assertIn(part, text)

    def test_modern_offers_no_more_than_is_sound(self) -> None:
        server = Server(self.private)
        self.begin(server, policy=MODERN)
        offer = server.otherKexInitPayload
        for weak in (b"sha1", b"cbc", b"md5", b"ssh-dss", b"ssh-rsa", b"group1-", b"arcfour", b"none,"):
            self.assertNotIn(weak, offer)


class HostKeyTests(TransportTestCase):
    """Nothing is asked of a host that has not proved who it is."""

    def assert_nothing_asked(self) -> None:
        self.assertNotIn(MSG_SERVICE_REQUEST, self.server.messages)
        self.assertFalse([message for message in self.server.messages if message >= 50])

    def test_changed(self) -> None:
        other = make_key()[1]
        self.known_hosts.write_text(f"host {other}\n")
        self.begin(Server(self.private))
        text = str(self.failure(HostKeyChanged))
        for part in (fingerprint(blob_of(other)), fingerprint(blob_of(self.public)), "line 1"):
            self.assertIn(part, text)
        self.assert_nothing_asked()

    def test_unknown(self) -> None:
        self.begin(Server(self.private), "strict")
        self.failure(HostKeyUnknown)
        self.assert_nothing_asked()

    def test_wrong_signature_is_refused_and_its_key_not_remembered(self) -> None:
        # Somebody in the middle shows the real host's key, which he does not have.
        for host_keys in ("accept-new", "ignore"):
            server = Server(self.private)
            server.factory.privateKeys = {b"ssh-ed25519": Key.fromString(make_key()[0].encode())}
            self.begin(server, host_keys)
            self.assertIn("signature", str(self.failure(KeyExchangeFailed)))
            self.assertFalse(self.known_hosts.exists())
            self.assert_nothing_asked()

    def test_key_of_another_type_than_agreed(self) -> None:
        server = Server(self.private)
        rsa = Key.fromString(key_pair("rsa")[0].encode())

        class AnyAlgorithm(Key):
            def sign(self, data: bytes, signatureType: bytes | None = None) -> bytes:
                signature: bytes = rsa.sign(data, signatureType=b"rsa-sha2-512")
                return signature

        server.factory.publicKeys = {b"ssh-ed25519": rsa.public()}
        server.factory.privateKeys = {b"ssh-ed25519": AnyAlgorithm(rsa._keyObject)}
        self.begin(server)
        self.failure(KeyExchangeFailed)
        self.assertFalse(self.known_hosts.exists())

    def test_signature_of_a_retired_kind(self) -> None:
        server = Server(key_pair("rsa")[0])
        rsa = Key.fromString(key_pair("rsa")[0].encode())

        class SHA1(Key):
            def sign(self, data: bytes, signatureType: bytes | None = None) -> bytes:
                signature: bytes = rsa.sign(data, signatureType=b"ssh-rsa")
                return signature

        server.factory.privateKeys = {b"ssh-rsa": SHA1(rsa._keyObject)}
        self.begin(server)
        self.failure(KeyExchangeFailed)


class ServiceTests(TransportTestCase):
    """What happens once it is secure."""

    def setUp(self) -> None:
        super().setUp()
        self.begin(Server(self.private))
        self.errors: list[SSHError] = []
        self.client.on_failure = self.errors.append

    def test_keys_renewed_by_the_server_twice(self) -> None:
        ours, theirs = self.start_services()
        for number in range(2):
            self.server.sendKexInit()
            self.client.sendPacket(90, b"during %d" % number)
            self.pump.flush()
            self.client.sendPacket(90, b"after %d" % number)
            self.server.sendPacket(91, b"back %d" % number)
            self.pump.flush()
        self.assertEqual([text for _, text in theirs.packets], [b"during 0", b"after 0", b"during 1", b"after 1"])
        self.assertEqual([text for _, text in ours.packets], [b"back 0", b"back 1"])
        self.assertEqual((ours.started, ours.stopped, self.results), (1, 0, [None]))

    def test_keys_renewed_by_us(self) -> None:
        ours, theirs = self.start_services()
        for number in range(2):
            self.client.renew_keys()
            self.client.renew_keys()  # once is enough
            self.client.sendPacket(90, b"during %d" % number)
            self.server.sendPacket(91, b"back %d" % number)
            self.pump.flush()
        self.assertEqual([text for _, text in theirs.packets], [b"during 0", b"during 1"])
        # RFC 4253, section 7.1: between KEXINIT and NEWKEYS nothing else may be sent.
        self.assertEqual(self.server.messages[-8:], [20, 30, 21, 90] * 2)
        self.assertEqual([text for _, text in ours.packets], [b"back 0", b"back 1"])

    def test_another_host_key_when_keys_are_renewed(self) -> None:
        self.start_services()
        other = Key.fromString(make_key()[0].encode())
        self.server.factory.privateKeys = {b"ssh-ed25519": other}
        self.server.factory.publicKeys = {b"ssh-ed25519": other.public()}
        self.server.sendKexInit()
        self.pump.flush()
        self.assertIsInstance(self.errors[0], KeyExchangeFailed)
        self.assertTrue(self.pump.clientIO.disconnecting)

    def test_closed_during_the_login(self) -> None:
        ours, _ = self.start_services()
        self.server.transport.loseConnection()
        self.pump.flush()
        self.assertIsInstance(self.errors[0], ConnectionDropped)
        self.assertIn("login", str(self.errors[0]))
        self.assertEqual((self.errors[0].phase, ours.stopped), ("login", 1))

    def test_what_the_server_says_when_it_hangs_up(self) -> None:
        self.start_services()
        self.server.sendDisconnect(11, b"too \x1b[2J many")
        self.pump.flush()
        self.assertIn("too ?[2J many", str(self.errors[0]))

    def test_accept_of_another_service(self) -> None:
        ours = EchoService()
        self.client.requestService(ours)
        self.server.sendPacket(MSG_SERVICE_ACCEPT, NS(b"ssh-connection"))
        self.pump.flush()
        self.assertEqual(ours.started, 0)
        self.assertEqual(len(self.errors), 1)

    def test_accept_of_nothing(self) -> None:
        self.server.sendPacket(MSG_SERVICE_ACCEPT, NS(SERVICE))
        self.pump.flush()
        self.assertEqual(len(self.errors), 1)

    def test_accept_twice_does_not_start_over(self) -> None:
        ours, _ = self.start_services()
        following = EchoService()
        self.client.setService(following)  # as after a login
        self.server.sendPacket(MSG_SERVICE_ACCEPT, NS(SERVICE))
        self.pump.flush()
        self.assertEqual(ours.started, 1)
        closed = self.pump.clientIO.disconnecting
        self.assertEqual(following.stopped, 1 if closed else 0)

    @settings(max_examples=60)
    @given(st.integers(0, 10**6), st.integers(0, 7))
    def test_a_flipped_bit_ends_it(self, at: int, bit: int) -> None:
        self.setUp()
        ours, _ = self.start_services()
        self.server.sendPacket(91, b"pay 10 to Alice")
        wire = bytearray(self.pump.serverIO.getOutBuffer())
        wire[at % len(wire)] ^= 1 << bit
        self.client.dataReceived(bytes(wire) + bytes(2**20))
        self.assertEqual(ours.packets, [])
        self.assertTrue(self.pump.clientIO.disconnecting)
        self.doCleanups()
