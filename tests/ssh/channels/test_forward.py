"""
Hosts behind other hosts: the channel to them in memory, and real sshds one behind the other.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.internet.testing import AccumulatingProtocol
from zope.interface.verify import verifyObject

from relayd.ssh.channels.channel import MAX_PACKET, PACKETS, SMALL_WINDOW, WINDOW, State
from relayd.ssh.channels.closes import CLOSE_LINGER
from relayd.ssh.channels.forward import MOST_TINY_UNREAD, MOST_UNREAD, MOST_UNSENT, OPEN_TIMEOUT, Forward
from relayd.ssh.errors import ConnectRefused, ForwardFailed, ForwardProhibited, HostKeyChanged, LoginRefused
from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_WINDOW_ADJUST,
    OPEN_CONNECT_FAILED,
)
from tests.support.ssh import ServerTestCase
from tests.support.ssh_connection import ConnectionTestCase, numbers
from tests.support.sshd import make_key


class ForwardTests(ConnectionTestCase):
    """`Forward`."""

    def setUp(self) -> None:
        super().setUp()
        self.protocol = AccumulatingProtocol()
        self.forward = Forward("db", 22, lambda: self.events.append("open"), lambda: self.events.append("end"))
        self.connection.start(self.forward)

    def open(self) -> None:
        self.confirm()
        self.forward.connect(self.protocol)
        self.transport.take()

    def test_asks_for_the_host(self) -> None:
        self.assertEqual(
            self.transport.take(),
            [
                (
                    MSG_CHANNEL_OPEN,
                    NS(b"direct-tcpip") + numbers(0, SMALL_WINDOW, MAX_PACKET) + NS(b"db") + numbers(22)
                    + NS(b"127.0.0.1") + numbers(0),
                )
            ],
        )  # fmt: skip
        verifyObject(ITransport, self.forward)

    def test_bytes_both_ways(self) -> None:
        self.open()
        self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(b"SSH-2.0-x\r\n"))
        self.protocol.transport.write(b"hello")
        self.assertEqual(self.protocol.data, b"SSH-2.0-x\r\n")
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_DATA, numbers(100) + NS(b"hello"))])

    def test_what_the_jump_host_does_not_take_yet_waits(self) -> None:
        self.receive(MSG_CHANNEL_OPEN_CONFIRMATION, numbers(0, 100, 3, 32768))
        self.forward.connect(self.protocol)
        self.transport.take()
        self.forward.writeSequence([b"abc", b"def"])
        self.receive(MSG_CHANNEL_WINDOW_ADJUST, numbers(0, 2))
        self.assertEqual(
            self.transport.take(),
            [(MSG_CHANNEL_DATA, numbers(100) + NS(b"abc")), (MSG_CHANNEL_DATA, numbers(100) + NS(b"de"))],
        )

    def test_closed_by_the_jump_host(self) -> None:
        self.open()
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertTrue(self.protocol.closed)
        self.protocol.closedReason.trap(ConnectionLost)
        self.assertEqual((self.forward.state, self.events), (State.ENDED, ["open", "end"]))
        self.forward.write(b"too late")
        self.clock.advance(CLOSE_LINGER)
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_CLOSE, numbers(100))])

    def test_closed_by_us(self) -> None:
        self.open()
        self.forward.loseConnection()
        self.forward.loseConnection()
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_CLOSE, numbers(100))])
        self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(b"late"))
        self.assertEqual((self.protocol.data, self.protocol.closed), (b"", False))
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.protocol.closedReason.trap(ConnectionDone)

    def test_abort_waits_for_nobody(self) -> None:
        self.open()
        self.forward.abortConnection()
        self.assertFalse(self.protocol.closed)  # not while its caller is at work
        self.clock.advance(0)
        self.protocol.closedReason.trap(ConnectionAborted)
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual(self.events, ["open", "end"])
        self.assertEqual(self.owner.closed, [self.forward])

    def test_jump_host_that_is_lost(self) -> None:
        self.open()
        self.connection.serviceStopped()
        self.protocol.closedReason.trap(ConnectionLost)
        self.assertEqual((self.events, self.owner.lost[0][0]), (["open", "end"], []))

    def test_refused(self) -> None:
        self.receive(MSG_CHANNEL_OPEN_FAILURE, numbers(0, OPEN_CONNECT_FAILED) + NS(b"no route") + NS(b""))
        self.assertEqual(self.owner.refused, [(self.forward, "no route", State.WAITING)])

    def test_no_answer(self) -> None:
        self.clock.advance(OPEN_TIMEOUT)
        self.assertEqual((self.forward.state, self.events), (State.ENDED, ["end"]))
        self.transport.take()
        self.confirm()
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_CLOSE, numbers(100))])
        self.assertEqual(self.events, ["end"])

    def test_what_comes_while_nobody_reads(self) -> None:
        self.open()
        self.grow()
        self.forward.pauseProducing()
        for _ in range(3 * WINDOW // MAX_PACKET // 4):
            self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(bytes(MAX_PACKET)))
        self.assertEqual(self.protocol.data, b"")
        # The jump host is given no more room than it had.
        self.assertEqual(self.transport.take(), [])
        self.forward.resumeProducing()
        self.assertEqual(len(self.protocol.data), 3 * WINDOW // 4)
        ((message, packet),) = self.transport.take()
        self.assertEqual((message, packet[:4]), (MSG_CHANNEL_WINDOW_ADJUST, numbers(100)))
        self.assertGreaterEqual(int.from_bytes(packet[4:], "big"), WINDOW // 2)

    def grow(self) -> None:
        """The jump host sends so much, in large packets, that it gets a whole window."""
        for _ in range(2 * WINDOW // MAX_PACKET):
            self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(bytes(MAX_PACKET)))
        self.protocol.data = b""
        self.assertGreaterEqual(self.connection._channels.by_number[0].window, WINDOW // 2)
        self.assertLessEqual(self.connection._channels.by_number[0].window, WINDOW)
        self.transport.take()

    def test_small_packets_have_a_small_window(self) -> None:
        self.open()
        self.grow()
        channel = self.connection._channels.by_number[0]
        for _ in range(2 * WINDOW // 100):
            self.protocol.data = b""  # to add to megabytes takes its time
            self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(bytes(100)))
        self.assertLessEqual(channel.window, max(SMALL_WINDOW, 100 * PACKETS))
        self.assertGreaterEqual(channel.window, SMALL_WINDOW // 2)

    def test_the_window_grows_step_by_step(self) -> None:
        self.open()
        self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(bytes(MAX_PACKET)))
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_WINDOW_ADJUST, numbers(100, SMALL_WINDOW + MAX_PACKET))])

    def test_an_end_while_nobody_reads(self) -> None:
        self.open()
        self.forward.pauseProducing()
        self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(b"the last words"))
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertFalse(self.protocol.closed)
        self.forward.resumeProducing()
        self.assertEqual((self.protocol.data, self.protocol.closed), (b"the last words", True))
        self.assertEqual(self.events, ["open", "end"])

    def test_packets_of_a_byte_while_nobody_reads(self) -> None:
        # Millions of them go into a window, and all that the jump host says for others would come behind them.
        self.open()
        self.forward.pauseProducing()
        for _ in range(MOST_TINY_UNREAD + 1):
            self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(b"x"))
        self.assertIn((MSG_CHANNEL_CLOSE, numbers(100)), self.transport.take())
        self.clock.advance(0)
        self.protocol.closedReason.trap(ConnectionAborted)

    def test_many_packets_while_nobody_reads(self) -> None:
        self.open()
        self.grow()
        self.forward.pauseProducing()
        for _ in range(MOST_UNREAD):
            self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(bytes(36)))
        self.assertEqual(self.transport.take(), [])
        self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(bytes(36)))
        self.assertIn((MSG_CHANNEL_CLOSE, numbers(100)), self.transport.take())

    def test_a_writer_is_told_when_the_jump_host_takes_no_more(self) -> None:
        self.receive(MSG_CHANNEL_OPEN_CONFIRMATION, numbers(0, 100, 3, 32768))
        self.forward.connect(self.protocol)
        told: list[str] = []

        class Producer:
            pauseProducing = staticmethod(partial(told.append, "pause"))
            resumeProducing = staticmethod(partial(told.append, "resume"))

        self.forward.registerProducer(cast(IPushProducer, Producer), True)
        for _ in range(3):
            self.forward.write(bytes(MOST_UNSENT))
        self.assertEqual(told, ["pause"])
        self.receive(MSG_CHANNEL_WINDOW_ADJUST, numbers(0, 10 * MOST_UNSENT))
        self.assertEqual(told, ["pause", "resume"])
        verifyObject(IConsumer, self.forward)
        verifyObject(IPushProducer, self.forward)


class JumpTests(ServerTestCase):
    """Real servers, one behind the other."""

    async def test_two_hops(self) -> None:
        first, second, last = [await self.start_server() for _ in range(3)]
        client = self.make_client()
        far = self.target(last, via=self.target(second, via=self.target(first)))
        running = [self.run_command(client, far, f"echo {number}; head -c 3000000 /dev/zero") for number in range(6)]
        for number, each in enumerate(running):
            done = await each
            self.assertEqual((done.stdout.total, done.exit.status), (3_000_002, 0))
            self.assertTrue(done.stdout.text().startswith(f"{number}\n"))
        self.assertEqual(client.counts().connections, 3)
        self.assertEqual([server.connection_count() for server in (first, second, last)], [1, 1, 1])
        pace = {
            connection.transport.port: connection.transport.pace for connection in client._pool._connections.members
        }
        ways = [pace[server.port].way for server in (last, second, first)]
        self.assertEqual(ways, [pace[second.port], pace[first.port], None])

    async def test_many_hosts_share_the_way(self) -> None:
        jump = await self.start_server("MaxSessions 1")
        hosts = [await self.start_server() for _ in range(3)]
        client = self.make_client()
        running = [self.run_command(client, self.target(host, via=self.target(jump)), "echo ok") for host in hosts * 3]
        self.assertEqual([(await each).stdout.text() for each in running], ["ok"] * 9)
        self.assertEqual(jump.connection_count(), 1)

    async def test_way_that_is_not_allowed(self) -> None:
        jump, host = await self.start_server("AllowTcpForwarding no"), await self.start_server()
        error = await self.error_of(
            self.run_command(self.make_client(), self.target(host, via=self.target(jump)), "true"), ForwardProhibited
        )
        self.assertIn(f"{jump.host}:{jump.port}", str(error))

    async def test_nobody_behind_it(self) -> None:
        jump, host = await self.start_server(), await self.start_server()
        target = self.target(host, via=self.target(jump))
        await host.stop()
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), ForwardFailed)
        self.assertIn(f"{host.host}:{host.port}", str(error))
        self.assertIn(f"{jump.host}:{jump.port}", str(error))

    async def test_jump_host_that_is_away(self) -> None:
        jump, host = await self.start_server(), await self.start_server()
        target = self.target(host, via=self.target(jump))
        await jump.stop()
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), ConnectRefused)
        self.assertIn(str(jump.port), str(error))

    async def test_login_that_the_jump_host_refuses(self) -> None:
        jump, host = await self.start_server(), await self.start_server()
        target = self.target(host, via=self.target(jump, private_key=make_key()[0]))
        client = self.make_client()
        error = await self.error_of(self.run_command(client, target, "true"), LoginRefused)
        self.assertIn(str(jump.port), str(error))
        # That is the jump host's business: the host itself, reached in another way, is none the worse.
        done = await self.run_command(client, self.target(host, via=self.target(jump)), "echo ok")
        self.assertEqual(done.stdout.text(), "ok")

    async def test_host_key_behind_it_is_checked(self) -> None:
        jump, host = await self.start_server(), await self.start_server()
        target = self.target(host, via=self.target(jump))
        first = self.make_client()
        await self.run_command(first, target, "true")
        await first.close()
        host.make_host_keys()
        await host.restart()
        await self.error_of(self.run_command(self.make_client(), target, "true"), HostKeyChanged)

    async def test_jump_host_that_is_lost(self) -> None:
        jump, host = await self.start_server(), await self.start_server()
        client = self.make_client()
        target = self.target(host, via=self.target(jump))
        running: Deferred[Any] = self.run_command(client, target, "sleep 30")
        await self.until(lambda: client.counts().sessions, "it runs")
        await self.sleep(0.3)
        jump.drop_connections()
        self.assertEqual((await running).error.code, "outcome-unknown")
        self.assertEqual((await self.run_command(client, target, "echo ok")).stdout.text(), "ok")
