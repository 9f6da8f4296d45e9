"""
A server that sends more than its window, in memory: its connection ends, and nothing else does.
"""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.internet.defer import Deferred, gatherResults

from relayd.ssh.channels.channel import MAX_PACKET, WINDOW
from relayd.ssh.errors import OutcomeUnknown
from relayd.ssh.testing import MemoryHost, ServerConnection
from tests.ssh.testing.test_host import HostCase, answer


class Floods(ServerConnection):
    """
    Sends output and takes no notice of the window.

    :cvar packets: how many, of the largest size.
    """

    packets: ClassVar[int] = 0

    def exec_requested(self, channel: int, command: bytes) -> None:
        self.accept(channel)
        for _ in range(self.packets):
            self.output(channel, bytes(MAX_PACKET))


class WindowTests(HostCase):
    async def outcome(self, packets: int) -> Any:
        """What becomes of a command whose reader takes nothing, beside one on another host."""
        self.patch(Floods, "packets", packets)
        self.host.factory.protocol = Floods
        other = self.network.add(MemoryHost("db2.example", run=answer))
        deadline = self.clock.seconds() + 10
        flooded = self.client.run(self.host.target(), b"x", deadline, reader=lambda _is_stderr, _data: Deferred())
        beside = self.client.run(other.target(), b"slow", deadline)
        done, good = await self.passing(gatherResults([flooded, beside]))
        self.assertEqual((good.error, good.stdout.text()), (None, "slow!"))
        return done

    async def test_more_than_the_window(self) -> None:
        """One packet too much is let pass."""
        done = await self.outcome(WINDOW // MAX_PACKET + 2)
        self.assertIsInstance(done.error, OutcomeUnknown)
        self.assertIn("it sent more data than it may send", str(done.error))
        self.assertEqual(len(self.host.factory.connections), 0)

    async def test_the_whole_window(self) -> None:
        """The connection is used again: that command runs out of time."""
        done = await self.outcome(WINDOW // MAX_PACKET)
        self.assertEqual(done.error.code, "timeout")
        self.assertEqual(len(self.host.factory.connections), 1)
