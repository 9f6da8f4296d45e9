"""
`relayd.hub.links.links.Links` by the real protocols over loopback: who may connect, what is learned, how it ends.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater

from relayd.hub import HubSettings
from relayd.hub.errors import CommandRefused, NoPolicyCheck, RelayOffline
from relayd.hub.links.identity import RelayIdentity
from relayd.hub.links.links import Links
from relayd.hub.links.protocol import RelayConnection
from relayd.network.patterns import read_network
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import Disconnected, EventReceived
from relayd.wire.messages import CommandOutput, CommandResult, File, JumpHost, Secret
from relayd.wire.parsing import parse_execute_command
from relayd.wire.policy_answer import PolicyAnswer
from tests.hub.test_server import DIALECTS, KEY, HubTestCase, command, result
from tests.support.schemas import TO_MAIN_SERVER, malformed
from tests.wire.test_relay_info import info

JOURNAL = "5ca1ab1e" * 4


def told(**changes: Any) -> dict[str, Any]:
    """The answer of a relay to ``relay_info``."""
    wire = info().to_wire(10_000)
    assert wire is not None
    return wire | {"journalId": JOURNAL, "features": ["check_command", "cwd"]} | changes


class Observer:
    """
    Notes what it is told.

    :ivar recording: what the next results wait for.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.recording: list[Deferred[object]] = []

    def relay_connected(self, link: RelayConnection) -> None:
        self.calls.append(("connected", link.proxy_id, link.program.journal_id))

    def relay_lost(self, link: RelayConnection) -> None:
        self.calls.append(("lost", link.proxy_id))

    def accepted(self, proxy_id: str, command_id: str) -> None:
        self.calls.append(("accepted", proxy_id, command_id))

    def refused(self, proxy_id: str, command_id: str, error: str) -> None:
        self.calls.append(("refused", proxy_id, command_id, error))

    def result(self, proxy_id: str, result: CommandResult) -> Deferred[object] | None:
        self.calls.append(("result", proxy_id, result.command_id))
        return self.recording.pop(0) if self.recording else None

    def output(self, proxy_id: str, output: CommandOutput) -> None:
        raise ZeroDivisionError


class LinksTestCase(HubTestCase):
    """Links on a free port of loopback."""

    settings = HubSettings(answer_timeout=30.0)
    learns = True

    async def start(self) -> None:
        self.observer = Observer()
        self.asked: list[tuple[str, str, str]] = []
        self.answers: list[Deferred[RelayIdentity | None]] = []
        self.hub: Any = Links(reactor, self.authenticate, self.observer, self.settings, learns=self.learns)
        self.links: Links = self.hub
        self.clients = []
        self.addCleanup(self.stop)
        port = await self.links.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        self.port = port.getHost().port  # type: ignore[attr-defined]

    def authenticate(self, proxy_id: str, api_key: str, address: str) -> Deferred[RelayIdentity | None]:
        self.asked.append((proxy_id, api_key, address))
        if self.answers:
            return self.answers.pop(0)
        return succeed(RelayIdentity(proxy_id, "key 1") if api_key == KEY else None)

    async def relay(self, dialect: Any = socketio, proxy_id: str = "r1", key: str = KEY) -> Any:
        client = await self.dial(dialect, proxy_id, key)
        await client.joined()
        await self.until(lambda: proxy_id in self.links.relays)
        return client

    async def told(self, *calls: tuple[Any, ...]) -> None:
        """Wait until the observer was told this, and nothing else."""
        await self.until(lambda: len(self.observer.calls) >= len(calls))
        self.assertEqual(self.observer.calls, list(calls))
        self.observer.calls.clear()

    async def known(self, dialect: Any = socketio, **changes: Any) -> Any:
        """A relay that has said what it is."""
        client = await self.dial(dialect)
        await client.joined()
        self.answer(client, await client.next(EventReceived), told(**changes))
        await self.told(("connected", "r1", changes.get("journalId", JOURNAL)))
        return client

    def answer(self, client: Any, event: EventReceived, data: object) -> None:
        if event.ack_id is None:
            client.send(event.name, data)
        else:
            client.acknowledge(event, data)


class KeyTests(LinksTestCase):
    """A key that is looked up somewhere else, which takes a while."""

    learns = False
    settings = HubSettings(trusted_proxies=(read_network("127.0.0.0/8"),))

    async def test_nothing_is_taken_before_the_key_is_checked(self) -> None:
        for dialect in DIALECTS:
            looked_up: Deferred[RelayIdentity | None] = Deferred()
            self.answers = [looked_up]
            client = await self.dial(dialect)
            await self.until(lambda: bool(self.asked))
            self.assertEqual(self.asked.pop(), ("r1", KEY, "127.0.0.1"))
            await deferLater(reactor, 0.02)
            self.assertEqual((client.events.pending, client.state), ([], client.STATE_CONNECTING))
            looked_up.callback(RelayIdentity("r1"))
            await client.joined()
            await self.told(("connected", "r1", ""))
            await self.leave(client)
            await self.told(("lost", "r1"))

    async def test_who_does_not_wait(self) -> None:
        """Its connection ends before there is an answer, whatever that is."""
        for answer in (RelayIdentity("r1"), None, ZeroDivisionError()):
            looked_up: Deferred[Any] = Deferred()
            self.answers = [looked_up]
            client = await self.dial(native)
            await self.until(lambda: bool(self.asked))
            self.asked.clear()
            (connection,) = self.links.factory.connections
            connection.drop("as a test wants it")
            await client.closed
            await self.until(lambda: not self.links.factory.connections)
            looked_up.callback(answer) if not isinstance(answer, Exception) else looked_up.errback(answer)
        self.assertEqual(self.observer.calls, [])

    async def test_more_requests_while_the_first_one_waits(self) -> None:
        """They are no requests: there is one on a connection."""
        looked_up: Deferred[RelayIdentity | None] = Deferred()
        self.answers = [looked_up]
        client = await self.dial(native)
        await self.until(lambda: bool(self.asked))
        (connection,) = self.links.factory.connections
        for _ in range(3):
            connection.dataReceived(b"GET /proxy?proxyId=r2&apiKey=x HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertEqual(len(self.asked), 1)
        connection.dataReceived(b"x" * 20_000)
        await client.closed
        looked_up.callback(RelayIdentity("r1"))

    async def test_a_store_that_does_not_answer(self) -> None:
        """It is no word about the key: a relay comes again soon, in both dialects."""
        for dialect in DIALECTS:
            self.answers = [Deferred()]
            self.answers[0].errback(OSError("disk full: hunter2"))
            client = await self.dial(dialect)
            _, reason = await client.closed
            self.assertIn("[503]", str(reason))
        self.answers = [Deferred()]
        self.answers[0].errback(OSError("disk full: hunter2"))
        said = await self.http(
            "GET /proxy?proxyId=r1&apiKey=x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.assertIn("\r\nRetry-After: 5\r\n", said)
        self.assertNotIn("hunter2", said)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 3)

    async def test_where_it_comes_from(self) -> None:
        client = await self.dial(native, headers={"X-Forwarded-For": "192.0.2.66, 198.51.100.7"})
        await client.joined()
        self.assertEqual(self.asked.pop()[2], "198.51.100.7")
        await self.until(lambda: "r1" in self.links.relays)
        link = self.links.relays["r1"]
        self.assertEqual(link.address, "198.51.100.7")
        self.assertRegex(link.shown_peer, "^198.51.100.7 through tcp4:127.0.0.1:")

    async def test_a_revoked_key(self) -> None:
        client = await self.relay()
        self.assertFalse(self.links.disconnect("r1", "revoked", "key 2"))
        self.assertTrue(self.links.disconnect("r1", "revoked", "key 1"))
        await client.next(Disconnected)
        self.assertEqual((await client.closed)[0], 1000)
        await self.until(lambda: not self.links.relays)
        self.assertFalse(self.links.disconnect("r1", "revoked"))


class ProgramTests(LinksTestCase):
    """What the program at the other end is."""

    async def test_relayd(self) -> None:
        for dialect in DIALECTS:
            client = await self.known(dialect)
            program = self.links.relays["r1"].program
            self.assertTrue(program.joins_duplicates)
            self.assertTrue(program.has("cwd"))
            self.assertIn("stream", program.lacks)
            self.assertNotIn("cwd", program.lacks)
            await self.leave(client)
            await self.told(("lost", "r1"))

    async def test_one_that_refuses_or_answers_with_something_else(self) -> None:
        large = told(labels={"x": "y" * 70_000})
        for answer in ({"error": "no such event"}, malformed({"version": 1}, "relay_info.ack", TO_MAIN_SERVER), large):
            client = await self.dial(socketio)
            self.answer(client, await client.next(EventReceived), answer)
            await self.told(("connected", "r1", ""))
            program = self.links.relays["r1"].program
            self.assertFalse(program.joins_duplicates)
            self.assertTrue(program.refusal)
            self.assertEqual(len(program.refusal.splitlines()), 1)
            await self.leave(client)
            await self.told(("lost", "r1"))

    async def test_one_that_leaves_without_an_answer(self) -> None:
        client = await self.dial(native)
        await client.joined()
        await client.next(EventReceived)
        await self.leave(client)
        self.assertEqual(self.observer.calls, [], "the observer did not know of it")

    async def test_what_its_rules_say(self) -> None:
        order = command("q1", passphrase=Secret("p"), env=(("A", "hunter2"),), stdin=b"hunter2", via=(
            JumpHost(host="j", username="u", password=Secret("hunter2")),
        ), files=(File(path="/f", content=b"hunter2"),))  # fmt: skip
        for dialect in DIALECTS:
            client = await self.known(dialect)
            for answer in (
                {"commandId": "q1", "allowed": True},
                {"commandId": "q1", "allowed": False, "code": "forbidden-user", "reason": "no"},
            ):
                asked = self.links.check("r1", order)
                event = await client.next(EventReceived)
                self.assertEqual(event.name, "check_command")
                self.assertNotIn("hunter2", str(event.data))
                parsed = parse_execute_command(event.data)
                self.assertEqual((parsed.password, parsed.files[0].path), (None, "/f"))
                self.answer(client, event, answer)
                said = await asked
                self.assertEqual(said.to_wire(), answer)
                self.assertIsInstance(said, PolicyAnswer)
            await self.leave(client)
            await self.told(("lost", "r1"))
        await self.assertFailure(self.links.check("r1", order), RelayOffline)
        client = await self.known()
        asked = self.links.check("r1", order)
        self.answer(client, await client.next(EventReceived), {"error": "port is wrong"})
        await self.assertFailure(asked, CommandRefused)

    async def test_one_that_does_not_know_the_question(self) -> None:
        """It is not asked."""
        client = await self.known(features=["cwd"])
        await self.assertFailure(self.links.check("r1", command()), NoPolicyCheck)
        self.links.send("r1", command("c9"))
        self.assertEqual((await client.next(EventReceived)).data["commandId"], "c9")

    async def test_nothing_is_sent_to_a_newer_link_that_is_not_known_yet(self) -> None:
        """The observer would take it for the program before, and its journal for the one that has the command."""
        await self.known()
        newer = await self.dial(socketio)
        await newer.joined()
        asked = await newer.next(EventReceived)
        await self.told(("lost", "r1"))
        self.assertIn("r1", self.links.relays)
        self.assertFalse(self.links.send("r1", command()))
        self.answer(newer, asked, told(journalId="another"))
        await self.told(("connected", "r1", "another"))
        self.assertTrue(self.links.send("r1", command()))

    async def test_what_becomes_of_commands(self) -> None:
        client = await self.known()
        self.assertFalse(self.links.send("r2", command()))
        for command_id in ("c1", "c2", "c3"):
            self.assertTrue(self.links.send("r1", command(command_id)))
        events = [await client.next(EventReceived) for _ in range(3)]
        client.acknowledge(events[0], None)
        client.acknowledge(events[1], {"error": "no room"})
        client.send("command_output", {"commandId": "c1", "stream": "stdout", "offset": 0, "data": "x"})
        client.send_result(result("c3"))
        self.assertEqual((await client.next(EventReceived)).data, {"success": True, "commandId": "c3"})
        client.acknowledge(events[2], {"error": "too late"})
        await self.told(("accepted", "r1", "c1"), ("refused", "r1", "c2", "no room"), ("result", "r1", "c3"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1, "what the observer raises stops nothing")


class SilentProgramTests(LinksTestCase):
    """A program that does not know ``relay_info``, or is slow."""

    settings = HubSettings(answer_timeout=0.05)

    async def test_it_can_be_sent_commands_and_may_answer_late(self) -> None:
        for dialect in DIALECTS:
            client = await self.dial(dialect)
            event = await client.next(EventReceived)
            await self.told(("connected", "r1", ""))
            self.assertFalse(self.links.relays["r1"].program.joins_duplicates)
            self.answer(client, event, told())
            await self.told(("connected", "r1", JOURNAL))
            await self.leave(client)
            await self.told(("lost", "r1"))


class SharedNameTests(LinksTestCase):
    """Two programs with one name."""

    learns = False

    async def test_they_take_turns(self) -> None:
        clients = [await self.relay(native)]
        for _ in range(3):
            self.assertIsNone(self.links.shared_name("r1"))
            clients.append(await self.dial(native))
            await clients[-2].closed
        await self.until(lambda: self.links.shared_name("r1") is not None)
        shared = self.links.shared_name("r1")
        assert shared is not None
        self.assertEqual((shared.turns, shared.addresses), (3, ("127.0.0.1",)))
        # and what each was sent, it may still deliver
        clients[-1].send_result(result("c1"))
        await clients[-1].next(EventReceived)
        self.assertIn(("result", "r1", "c1"), self.observer.calls)

    async def test_a_connection_that_was_dead(self) -> None:
        """It does not answer the good-bye, and so is no second program."""
        self.links.factory.setProtocolOptions(closeHandshakeTimeout=0)  # its timer would outlive the test
        for _ in range(4):
            old = await self.relay(native)
            old.transport.pauseProducing()
            new = await self.dial(native)
            await new.joined()
            await self.until(lambda: len(self.links.factory.connections) == 2)
            old.transport.abortConnection()
            await old.closed
            await self.leave(new)
        self.assertIsNone(self.links.shared_name("r1"))


class RestartTests(LinksTestCase):
    """A main server that stops."""

    learns = False

    async def test_results_that_are_being_recorded_are_confirmed_first(self) -> None:
        clients = [await self.relay(socketio, "r1"), await self.relay(native, "r2")]
        recorded: list[Deferred[object]] = [Deferred(), Deferred()]
        self.observer.recording = [*recorded]
        for number, client in enumerate(clients):
            client.send_result(result(f"c{number}"))
        await self.until(lambda: not self.observer.recording)
        closed = Deferred.fromCoroutine(self.links.close())
        for each in recorded:
            await deferLater(reactor, 0.01)
            self.assertFalse(closed.called)
            each.callback(None)
        await closed
        for number, client in enumerate(clients):
            self.assertEqual((await client.next(EventReceived)).data, {"success": True, "commandId": f"c{number}"})
            self.assertEqual((await client.closed)[0], 1012)
            # common clients of Socket.IO do not come again after that
            self.assertEqual([each for each in client.events.pending if isinstance(each, Disconnected)], [])
