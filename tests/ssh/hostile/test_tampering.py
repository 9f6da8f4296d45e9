"""
Somebody between the client and a real server changes what it sends: he is found out before a credential is sent.
"""

from __future__ import annotations

from twisted.conch.ssh.common import NS

from relayd.ssh.errors import KeyExchangeFailed, OutcomeUnknown, ProtocolBroken, SSHError
from relayd.ssh.transport.numbers import MSG_IGNORE, MSG_KEXINIT, MSG_NEWKEYS
from tests.support.evil import plain_packet
from tests.support.middle import Middle, MiddleServer
from tests.support.ssh import ServerTestCase
from tests.support.sshd import OpenSSHServer

#: Ciphers under which CVE-2023-48795 worked: nothing but the number of a packet tells that one before it is missing.
EXPOSED = (
    ("Ciphers chacha20-poly1305@openssh.com",),
    ("Ciphers aes256-ctr", "MACs hmac-sha2-256-etm@openssh.com"),
)


class PrefixTruncation(Middle):
    """
    CVE-2023-48795: one packet more before the keys, one less after them, and the numbers are right again.

    What OpenSSH sends first after its NEWKEYS, and before it has heard anything else, is EXT_INFO alone.
    """

    dropped = False

    def plain(self, packet: bytes) -> bytes:
        return plain_packet(MSG_IGNORE, NS(b"")) + packet if packet[5] == MSG_NEWKEYS else packet

    def after_keys(self, data: bytes) -> bytes:
        if self.dropped:
            return data
        self.dropped = True
        return b""


class PrefixTruncationAtOnce(PrefixTruncation):
    """Likewise, with the additional packet before everything else."""

    def plain(self, packet: bytes) -> bytes:
        return plain_packet(MSG_IGNORE, NS(b"")) + packet if packet[5] == MSG_KEXINIT else packet


class DropsFirst(PrefixTruncation):
    """Merely takes a packet away."""

    def plain(self, packet: bytes) -> bytes:
        return packet


class FlipsBit(Middle):
    """Changes the last byte of what the server sends first after the keys: a part of a MAC or a tag."""

    done = False

    def after_keys(self, data: bytes) -> bytes:
        if self.done:
            return data
        self.done = True
        return data[:-1] + bytes([data[-1] ^ 1])


class HugeLength(FlipsBit):
    """Changes the length of a packet, where that is in clear."""

    def after_keys(self, data: bytes) -> bytes:
        if self.done:
            return data
        self.done = True
        return b"\x7f" + data[1:]


class FlipsBitLater(FlipsBit):
    """Changes the output of a command."""

    def after_keys(self, data: bytes) -> bytes:
        if len(data) < 4096:
            return data
        return super().after_keys(data)


class Downgrades(Middle):
    """Takes what he dislikes out of the list of the server's algorithms, at the same length."""

    def plain(self, packet: bytes) -> bytes:
        return packet.replace(b"kex-strict-s-v00@openssh.com", b"kex-strict-s-v99@openssh.com")


class OtherVersion(Middle):
    """Pretends that the server is an older one, as one would to be given what old ones need."""

    def version(self, line: bytes) -> bytes:
        return b"SSH-2.0-OpenSSH_5.3\r\n"


class TamperingTests(ServerTestCase):
    """Nothing that he does can be undone by him, so it ends the connection."""

    async def through(self, kind: type[Middle], server: OpenSSHServer, command: str) -> SSHError | None:
        """The error of a command that is sent through *kind*."""
        middle = MiddleServer(self.reactor, kind, server.port)
        self.addCleanup(middle.stop)
        client = self.make_client(host_keys="ignore", connect_timeout=30.0)
        target = self.target(server, port=middle.port)
        outcome = await self.run_command(client, target, command).addErrback(lambda failure: failure.value)
        await client.close()
        await self.until(lambda: not middle.connections, "the connection is closed")
        return outcome if isinstance(outcome, SSHError) else outcome.error

    def logins(self, server: OpenSSHServer) -> list[str]:
        return [line for line in server.log_lines if "Accepted" in line or "Failed" in line or "userauth" in line]

    async def test_prefix_truncation(self) -> None:
        for settings in EXPOSED:
            server = await self.start_server(*settings)
            for kind in (PrefixTruncation, PrefixTruncationAtOnce):
                error = await self.through(kind, server, "true")
                self.assertIs(type(error), KeyExchangeFailed, error)
            error = await self.through(DropsFirst, server, "true")
            self.assertIs(type(error), ProtocolBroken, error)
            error = await self.through(Downgrades, server, "true")
            self.assertIs(type(error), KeyExchangeFailed, error)
            self.assertIn("signature", str(error))
            self.assertEqual(self.logins(server), [])
            self.assertIsNone(await self.through(Middle, server, "true"))  # it is not for the one in the middle
            self.assertNotEqual(self.logins(server), [])
            await server.stop()

    async def test_packets(self) -> None:
        for settings in (("Ciphers aes256-gcm@openssh.com",), *EXPOSED, ("Ciphers aes256-ctr", "MACs hmac-sha2-512")):
            server = await self.start_server(*settings)
            for kind in (FlipsBit, HugeLength):
                error = await self.through(kind, server, "true")
                self.assertIs(type(error), ProtocolBroken, (settings, error))
            self.assertEqual(self.logins(server), [])
            error = await self.through(FlipsBitLater, server, "head -c 1000000 /dev/zero")
            self.assertIs(type(error), OutcomeUnknown, (settings, error))
            self.assertIn("it sent a packet with a bad", str(error))
            await server.stop()

    async def test_another_version(self) -> None:
        server = await self.start_server()
        error = await self.through(OtherVersion, server, "true")
        self.assertIs(type(error), KeyExchangeFailed, error)
        self.assertEqual(self.logins(server), [])
