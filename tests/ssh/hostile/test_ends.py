"""
Servers whose connections end, or whose channels stick, at bad moments: the next command has to run all the same.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from relayd.ssh import Completed
from relayd.ssh.errors import ExecRefused, PacketsTooSmall
from tests.support.evil import CHANNEL_EOF, CHANNEL_FAILURE, Evil, EvilServer, EvilTestCase, uint32
from tests.support.ssh import DEADLINE


class DropsAfterEOF(Evil):
    """All but the good-bye of the channel; the connection is gone instead."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.output(channel, b"ok")
        self.status(channel)
        self.sendPacket(CHANNEL_EOF, uint32(channel))
        self.transport.loseConnection()


class RefusesWithoutClosing(Evil):
    """Refuses to run the command, and forgets the channel."""

    def command_requested(self, channel: int) -> None:
        self.sendPacket(CHANNEL_FAILURE, uint32(channel))


class RefusesWhatItRan(Evil):
    """Refuses the command when that has written something already."""

    def command_requested(self, channel: int) -> None:
        self.output(channel, b"ok")
        self.sendPacket(CHANNEL_FAILURE, uint32(channel))


class RefusesWhatHasEnded(Evil):
    """The same, when it has said how the command ended."""

    def command_requested(self, channel: int) -> None:
        self.status(channel)
        self.sendPacket(CHANNEL_FAILURE, uint32(channel))


class TinyPackets(Evil):
    """Takes one byte a packet, and four billion of them."""

    def channel_requested(self, channel: int) -> None:
        self.confirm(channel, window=2**32 - 1, max_packet=1)


class EndTests(EvilTestCase):
    """After the end of a connection."""

    async def test_the_next_command_of_one_whose_connection_ended_with_it(self) -> None:
        server = EvilServer(self.reactor, DropsAfterEOF)
        self.addCleanup(server.stop)
        client = self.make_client(host_keys="ignore")

        def again(done: Completed) -> Deferred[Completed]:
            self.assertEqual((done.stdout.text(), done.exit.status, done.error), ("ok", 0, None))
            return self.run_command(client, server.target, "true", 10)

        done = await self.run_command(client, server.target, "true", 10).addCallback(again)
        self.assertEqual((done.stdout.text(), done.exit.status, done.error), ("ok", 0, None))
        self.assertEqual(server.accepted, 2)
        await self.until(lambda: client.counts().connections == 0, "both connections are gone")

    async def test_a_refused_command_did_not_run(self) -> None:
        server = EvilServer(self.reactor, RefusesWithoutClosing)
        self.addCleanup(server.stop)
        running = self.run_command(self.make_client(host_keys="ignore"), server.target, "true", 2)
        await self.error_of(running, ExecRefused)  # and not: it ran out of time

    async def test_a_refusal_after_output_says_nothing_of_whether_it_ran(self) -> None:
        for kind, expected in ((RefusesWhatItRan, ("ok", None, "unknown")), (RefusesWhatHasEnded, ("", 0, None))):
            server = EvilServer(self.reactor, kind)
            self.addCleanup(server.stop)
            done = await self.run_command(self.make_client(host_keys="ignore"), server.target, "true", 2)
            found = done.stdout.text(), done.exit.status, done.error and done.error.executed
            self.assertEqual(found, expected, kind)

    async def test_tiny_packets_do_not_hold_the_others_up(self) -> None:
        server = EvilServer(self.reactor, TinyPackets)
        self.addCleanup(server.stop)
        client = self.make_client(host_keys="ignore")
        gaps: list[float] = []
        last = self.reactor.seconds()

        def tick() -> None:
            nonlocal last
            now = self.reactor.seconds()
            gaps.append(now - last)
            last = now

        ticking = LoopingCall(tick)
        ticking.start(0.02)
        deadline = self.reactor.seconds() + DEADLINE
        running = client.run(server.target, b"cat", deadline, stdin=bytes(1_000_000))
        try:
            error = await self.error_of(running, PacketsTooSmall)
        finally:
            ticking.stop()
        self.assertFalse(error.retriable)  # the host would say the same again
        self.assertIn("no more than 1 bytes of input in a packet", str(error))
        self.assertLess(max(gaps), 5)
