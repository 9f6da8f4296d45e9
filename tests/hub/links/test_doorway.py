"""
What anybody can make the main server take before it knows who that is, and what a relay leaves unread.
"""

from __future__ import annotations

from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub import HubSettings
from relayd.hub.links import intake
from relayd.hub.links.bounded_server import MAX_JOINING, MAX_REQUEST
from relayd.hub.links.doorway import PATIENCE, Doorway, origin_of
from relayd.network.flow import MAX_BEHIND
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import Connected, EventReceived
from tests.hub.test_server import DIALECTS, KEY, HubTestCase, command, result


class DoorwayTests(SynchronousTestCase):
    """Who has to go, with plain numbers for connections."""

    def fill(self, door: Doorway[int], numbers: range, host: str = "10.0.0.1", now: float = 0.0) -> list[int | None]:
        return [door.enter(number, host, now) for number in numbers]

    def test_room(self) -> None:
        door: Doorway[int] = Doorway(3)
        self.assertEqual(self.fill(door, range(3)), [None] * 3)
        door.leave(1)
        door.leave(1)
        self.assertEqual(self.fill(door, range(3, 4)), [None])

    def test_one_address_keeps_no_other_out(self) -> None:
        door: Doorway[int] = Doorway(100)
        self.fill(door, range(100), "10.0.0.1")
        for number in range(49):
            self.assertEqual(door.enter(1000 + number, "10.0.0.2", 0.0), number, "its oldest gives way")
        self.assertEqual(door.enter(2000, "10.0.0.1", 0.0), 2000, "it has most of the places still")

    def test_many_addresses_at_the_same_time_are_let_in_one_after_the_other(self) -> None:
        door: Doorway[int] = Doorway(50)
        leaving = [door.enter(number, f"10.0.1.{number}", 1.0) for number in range(80)]
        self.assertEqual(leaving, [None] * 50 + list(range(50, 80)))
        door.leave(7)
        self.assertIsNone(door.enter(80, "10.0.2.1", 1.0))

    def test_who_waits_for_long_gives_way(self) -> None:
        door: Doorway[int] = Doorway(10)
        self.fill(door, range(10))
        self.assertEqual(self.fill(door, range(10, 11), now=PATIENCE - 0.1), [10])
        self.assertEqual(self.fill(door, range(11, 14), now=PATIENCE), [0, 1, 2])

    def test_addresses(self) -> None:
        for hosts, origin in (
            (["10.0.0.1", "::ffff:10.0.0.1"], "10.0.0.1"),
            (["2001:db8::1", "2001:db8::ffff:1:2:3", "2001:db8:0:0:1::"], "2001:0db8:0000:0000"),
            (["2001:db8:0:1::1"], "2001:0db8:0000:0001"),
            (["fe80::1%eth0", "fe80::2%eth1"], "fe80:0000:0000:0000"),
            ([""], ""),
            (["no address"], "no address"),
        ):
            self.assertEqual({origin_of(host) for host in hosts}, {origin})

    @given(st.integers(1, 8), st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 4))))
    def test_whatever_comes_and_goes(self, most: int, steps: list[tuple[bool, int, int]]) -> None:
        door: Doorway[int] = Doorway(most)
        inside: set[int] = set()
        for time, (enters, number, host) in enumerate(steps):
            if not enters or number in inside:
                door.leave(number)
                inside.discard(number)
                continue
            leaving = door.enter(number, f"10.0.0.{host}", float(time))
            inside.add(number)
            if leaving is not None:
                self.assertEqual(len(inside), most + 1)
                inside.remove(leaving)
            self.assertEqual(set(door._waiting), inside)
            self.assertEqual(sum(map(len, door._by_origin.values())), len(inside))


class Stranger(Protocol):
    """
    Sends what a test says.

    :ivar closed: fires with all that came, when the main server has closed the connection.
    """

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(self.received)


class RequestTests(HubTestCase):
    """The HTTP request, before there is any key in it."""

    settings = HubSettings(join_timeout=20.0, max_joining=5)

    async def stranger(self) -> Stranger:
        factory = Factory.forProtocol(Stranger)
        factory.noisy = False
        stranger = await TCP4ClientEndpoint(reactor, "127.0.0.1", self.port).connect(factory)
        assert isinstance(stranger, Stranger)
        return stranger

    def held(self) -> int:
        return sum(len(connection.data) for connection in self.hub.links.factory.connections)

    async def test_a_header_without_an_end(self) -> None:
        stranger = await self.stranger()
        stranger.transport.write(b"GET /proxy HTTP/1.1\r\n")
        most = 0
        for number in range(500):
            stranger.transport.write(b"X-%d: " % number + b"x" * 100_000 + b"\r\n")
            await deferLater(reactor, 0.001)
            most = max(most, self.held())
            if stranger.closed.called:
                break
        self.assertTrue(stranger.closed.called)
        self.assertLessEqual(most, MAX_REQUEST)

    async def test_it_is_told_why(self) -> None:
        stranger = await self.stranger()
        stranger.transport.write(b"GET /proxy HTTP/1.1\r\nX: ")
        for _ in range(17):
            stranger.transport.write(b"x" * 1000)
            await deferLater(reactor, 0.002)
        self.assertIn(b"HTTP/1.1 431 Request Header Fields Too Large\r\n", await stranger.closed)

    async def test_all_at_once(self) -> None:
        """The end of the header is in what comes, but too far behind."""
        stranger = await self.stranger()
        request = b"GET /proxy?proxyId=r1&apiKey=%s HTTP/1.1\r\nHost: h\r\n" % KEY.encode()
        stranger.transport.write(request + b"X: " + b"x" * MAX_REQUEST + b"\r\n\r\n")
        self.assertIn(b" 431 ", await stranger.closed)

    async def test_a_request_of_that_size_with_more_behind_it(self) -> None:
        stranger = await self.stranger()
        fields = (
            b"Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )
        request = b"GET /proxy?proxyId=r1&apiKey=%s HTTP/1.1\r\n" % KEY.encode() + fields + b"X: "
        request += b"x" * (MAX_REQUEST - len(request) - 4) + b"\r\n\r\n"
        self.assertEqual(len(request), MAX_REQUEST)
        stranger.transport.write(request + b"\x89\x80abcd" * 3000)  # pings, masked
        await self.until(lambda: b" 101 " in stranger.received and "r1" in self.hub.relays)
        stranger.transport.abortConnection()
        await stranger.closed

    async def test_nothing_is_kept_after_the_refusal(self) -> None:
        connection = self.hub.links.factory.buildProtocol(None)
        transport = _Deaf()
        connection.makeConnection(transport)
        for _ in range(50):
            connection.dataReceived(b"x" * 65536)
        self.assertLess(len(connection.data), MAX_REQUEST)
        connection.connectionLost(Failure(connectionDone.value))

    async def test_nothing_is_kept_for_another_turn_either(self) -> None:
        """Where relays have used up this turn of the event loop."""
        self.patch(intake, "SHARE", 1e-9)
        await self.test_nothing_is_kept_after_the_refusal()
        self.assertEqual(self.hub.links.factory.intake._waiting, {})

    async def test_those_that_do_not_join_are_bounded(self) -> None:
        strangers = [await self.stranger() for _ in range(12)]
        await self.until(lambda: sum(stranger.closed.called for stranger in strangers) == 7)
        self.assertEqual(len(self.hub.links.factory.connections), 5)
        strangers[0].transport.abortConnection()
        await strangers[0].closed
        await self.until(lambda: len(self.hub.links.factory.connections) == 4)
        client = await self.relay()
        self.assertEqual(len(self.hub.links.factory.doorway._waiting), 4, "a relay is one no more")
        others = [await self.relay(native, "r2", KEY + "2")]
        for relay in (client, *others):
            relay.sendClose()
            await relay.closed
        for stranger in strangers:
            stranger.transport.abortConnection()
            await stranger.closed

    async def test_who_has_the_wrong_key_counts_until_it_is_gone(self) -> None:
        """It need not answer the good-bye."""
        client = await self.dial(socketio, key="wrong" * 10, closeHandshakeTimeout=0)
        await client.next(Connected)
        self.assertEqual(len(self.hub.links.factory.doorway._waiting), 1)
        await client.closed
        await self.until(lambda: not self.hub.links.factory.connections)
        self.assertEqual(len(self.hub.links.factory.doorway._waiting), 0)


class _Deaf:
    """A transport whose peer keeps it open, as one with TLS can."""

    disconnecting = False

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def getPeer(self) -> object:
        return object()

    getHost = getPeer

    def loseConnection(self) -> None:
        self.disconnecting = True

    abortConnection = loseConnection
    unregisterProducer = loseConnection

    def registerProducer(self, producer: object, streaming: bool) -> None:
        pass


class MessageTests(HubTestCase):
    """Messages of somebody who has not joined, and of relays."""

    async def test_large_ones_before_joining(self) -> None:
        for key in (KEY, "wrong" * 10):
            client = await self.dial(socketio, key=key, mute=True)
            await self.until(lambda client=client: client.state == client.STATE_OPEN)
            client.sendMessage(b"x" * (MAX_JOINING + 1))
            code, _ = await client.closed
            self.assertEqual(code, 1009)

    async def test_large_ones_of_a_relay(self) -> None:
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            done = self.hub.execute("r1", command())
            client.send_result(result(stdout="x" * 1_000_000))
            self.assertEqual(len((await done).stdout), 1_000_000)
            await self.leave(client)

    async def test_a_message_in_many_frames(self) -> None:
        client = await self.relay(native)
        link: Any = self.hub.relays["r1"]
        client.beginMessage()
        for _ in range(3000):
            client.sendMessageFrame(b"")
        await self.until(lambda: link.trafficStats.incomingWebSocketFrames >= 3000)
        held = [value for value in vars(link).values() if isinstance(value, list | bytearray) and len(value) > 100]
        self.assertEqual(held, [])
        client.sendMessageFrame(b"{}")
        client.endMessage()
        await self.leave(client)


class UnreadCase(HubTestCase):
    """A relay that sends and does not read."""

    async def send_some(self, client: Any) -> int:
        for _ in range(200):
            client.send_result(result("c" * 200))
        await deferLater(reactor, 0)
        return 200

    async def unread(self, dialect: Any) -> tuple[Any, Any, int]:
        """A relay that is not read any more, its link, and how many results it has sent."""
        client = await self.relay(dialect)
        link: Any = self.hub.relays["r1"]
        # The system would hold some megabytes between the two, which is a hundred thousand receipts.
        link.transport.getHandle().setsockopt(SOL_SOCKET, SO_SNDBUF, 1 << 14)
        client.transport.getHandle().setsockopt(SOL_SOCKET, SO_RCVBUF, 1 << 14)
        client.transport.pauseProducing()
        sent = 0
        while not link.deaf:
            sent += await self.send_some(client)
            self.assertLess(sent, 200_000, "it is read for ever")
        return client, link, sent


class UnreadTests(UnreadCase):
    """For good."""

    #: A busy machine has time for them: the relay must be too far behind, which takes 0.4 s, before it is dropped.
    settings = HubSettings(ping_interval=2.0, ping_timeout=2.0, write_timeout=6.0)

    async def test_it_is_not_read_and_then_dropped(self) -> None:
        for dialect in DIALECTS:
            client, link, _ = await self.unread(dialect)
            for _ in range(20):
                await self.send_some(client)
            waiting = sum(map(len, link.flow._queue))
            self.assertLess(waiting, 3 * MAX_BEHIND)
            await self.until(lambda: not self.hub.relays)
            client.transport.abortConnection()
            await client.closed

    async def test_what_it_sends_is_read_while_orders_wait(self) -> None:
        """Two ends that have much to say must not both wait for the other to read."""
        for dialect in DIALECTS:
            client = await self.relay(dialect)
            link: Any = self.hub.relays["r1"]
            client.transport.pauseProducing()
            number = 0
            done = []
            while sum(map(len, link.flow._queue)) < 2 * MAX_BEHIND:
                done.append(self.hub.execute("r1", command(f"c{number}", command="x" * 100_000)))
                number += 1
                self.assertLess(number, 1000, "it takes everything")
                await deferLater(reactor, 0)
            client.send_result(result("c0"))
            self.assertEqual((await done[0]).command_id, "c0")
            self.assertFalse(link.deaf)
            for each in done[1:]:
                each.addErrback(lambda _: None).cancel()
            client.transport.abortConnection()
            await client.closed
            await self.until(lambda: not self.hub.relays)


class ReadAgainTests(UnreadCase):
    """For longer than heartbeats take, but not for long."""

    settings = HubSettings(ping_interval=1.0, ping_timeout=1.0, write_timeout=60.0)

    async def test_it_goes_on_when_it_reads_again(self) -> None:
        client, link, sent = await self.unread(native)
        await deferLater(reactor, 3.0)  # longer than a heartbeat
        client.transport.resumeProducing()
        receipts = 0
        while receipts < sent:
            await client.next(EventReceived)
            receipts += 1
        self.assertFalse(link.deaf)
        self.assertIn("r1", self.hub.relays)
        await self.leave(client)
