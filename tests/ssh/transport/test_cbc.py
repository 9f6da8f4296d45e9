"""
CBC with a MAC over what is not encrypted: where a packet went wrong cannot be told from when the connection ends.

Source: CVE-2008-5161; OpenSSH, ``ssh_packet_start_discard``.
"""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.common import NS

from relayd.ssh.transport.ciphers import MAX_PACKET, PacketCipher, packet_cipher
from relayd.ssh.transport.numbers import MSG_IGNORE
from tests.ssh.transport.test_pacing import SecuredCase


def cipher(name: bytes, mac: bytes) -> PacketCipher:
    return packet_cipher(name, mac, lambda use, size: use[:1].encode() * size)


class HidingTests(SecuredCase):
    """A client that receives what somebody on the way has changed."""

    def use(self, name: bytes, mac: bytes) -> None:
        self.setUp()
        self.client._reader.use(cipher(name, mac), restart_numbers=True)
        self.server = cipher(name, mac)

    def taken(self, data: bytes, step: int = 1000) -> int:
        """How much of *data* is taken before the connection ends; all of it where it does not."""
        for at in range(0, len(data), step):
            while self.held:
                self.clock.advance(1)
            self.receive(data[at : at + step])
            if self.client._failure is not None:
                return at + step
        return len(data)

    def ends_after(self, name: bytes, mac: bytes, size: int, flip: int, bit: int) -> int:
        self.use(name, mac)
        good = self.server.seal(0, bytes((MSG_IGNORE,)) + NS(bytes(100)))
        bad = bytearray(self.server.seal(1, bytes((MSG_IGNORE,)) + NS(bytes(size))))
        bad[flip % len(bad)] ^= 1 << bit
        self.receive(good)
        self.assertIsNone(self.client._failure)
        return self.taken(bytes(bad) + os.urandom(2 * MAX_PACKET))

    @settings(max_examples=60)
    @given(st.integers(0, 60_000), st.integers(0, 80_000), st.integers(0, 7))
    def test_always_after_the_same_number_of_bytes(self, size: int, flip: int, bit: int) -> None:
        after = self.ends_after(b"aes256-cbc", b"hmac-sha2-256", size, flip, bit)
        self.assertEqual(after, -(-MAX_PACKET // 1000) * 1000)

    def test_a_length_beyond_all_bounds(self) -> None:
        for name, mac in ((b"aes128-cbc", b"hmac-sha1"), (b"3des-cbc", b"hmac-md5-96")):
            after = self.ends_after(name, mac, 500, 0, 7)
            self.assertEqual(after, -(-MAX_PACKET // 1000) * 1000)
            self.assertIn("a packet with a bad", self.client.lost_reason)

    def test_nothing_that_follows_counts(self) -> None:
        self.use(b"aes256-cbc", b"hmac-sha2-256")
        seen: list[int] = []
        self.client.dispatchMessage = lambda number, payload: seen.append(number)  # type: ignore[method-assign]
        packets = [self.server.seal(number, bytes((MSG_IGNORE,)) + NS(bytes(1000))) for number in range(400)]
        packets[1] = packets[1][:-1] + bytes((packets[1][-1] ^ 1,))
        self.taken(b"".join(packets))
        self.assertEqual(seen, [MSG_IGNORE])

    def test_the_others_end_at_once(self) -> None:
        # What is wrong there is known only to who has the keys, or no secret.
        for name, mac in (
            (b"aes256-ctr", b"hmac-sha2-256"), (b"aes256-cbc", b"hmac-sha2-256-etm@openssh.com"),
            (b"aes256-gcm@openssh.com", b""), (b"chacha20-poly1305@openssh.com", b""),
        ):  # fmt: skip
            self.assertLess(self.ends_after(name, mac, 500, 300, 0), 3000, name)
