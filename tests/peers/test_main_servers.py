"""
The uplink against real main servers: npm's socket.io and ws in Node.js, TLS, and a proxy.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from relayd.errors import Overloaded, RelayError
from relayd.uplink import connection, server_profile
from relayd.uplink.retry import JITTER
from relayd.uplink.service import UplinkService
from relayd.uplink.settings import UplinkSettings
from relayd.uplink.stages import Timing
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.flask_server import FlaskServer
from tests.support.node import NodeServer, SharedNodeServer
from tests.support.python_socketio_server import PythonSocketIOServer
from tests.support.receiver import RecordingReceiver, echo
from tests.support.schemas import malformed

KEY = "k3y-" + "x" * 40
WRONG = "wr0ng-" + "y" * 40


def order(command_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "commandId": command_id,
        "serverId": 1,
        "host": "192.0.2.1",
        "port": 22,
        "username": "root",
        "password": "hunter2",
        "privateKey": None,
        "command": "uname",
    } | changes


class PeerCase(TestCase):
    """
    A test with uplinks and Node servers, which all end with it.

    :cvar timing: of its uplinks.
    """

    timeout = 60
    timing = Timing()

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    async def serve(self, script: str, **options: Any) -> NodeServer:
        server = SharedNodeServer(script, json.dumps(options))
        self.addCleanup(server.stop)
        await server.start()
        return server

    def dial(
        self,
        url: str,
        answer: Callable[[ExecuteCommand], CommandResult | RelayError] | None = echo,
        key: str = KEY,
        **settings: Any,
    ) -> RecordingReceiver:
        receiver = RecordingReceiver(answer)
        chosen: dict[str, Any] = {"reconnect_delay": 0.2, "proxy_id": "proxy 1"} | settings
        uplink_settings = UplinkSettings(server=url, read_api_key=lambda: Secret(key), **chosen)
        self.uplink = UplinkService(reactor, receiver, uplink_settings, timing=self.timing)
        self.uplink.startService()
        self.addCleanup(self.uplink.stopService)
        return receiver

    def be_quick(self) -> None:
        """Wait less for main servers that do not answer, which takes 5 s each time otherwise."""
        self.patch(server_profile, "SHORT", 1.0)
        self.patch(connection, "CLOSE_TIMEOUT", 0.5)

    def logged(self) -> list[str]:
        """What relayd's uplink logged, at any level."""
        return [formatEvent(event) for event in self.events if event.get("log_namespace") == "relayd.uplink"]

    def tearDown(self) -> None:
        everything = "\n".join(repr(event) + formatEvent(event) for event in self.events)
        for secret in (KEY, WRONG, "hunter2"):
            self.assertNotIn(secret, everything)

    async def until_logged(self, words: str) -> str:
        for _ in range(400):
            for line in self.logged():
                if words in line:
                    return line
            await deferLater(reactor, 0.05)
        raise AssertionError(f"{words!r} was not logged, but {self.logged()[-5:]}")


def said(**fields: Any) -> Callable[[Any], bool]:
    """A predicate for lines of a Node server that have these fields."""
    return lambda line: isinstance(line, dict) and all(line.get(name) == value for name, value in fields.items())


def has(*names: str) -> Callable[[Any], bool]:
    return lambda line: isinstance(line, dict) and all(name in line for name in names)


class SocketIO(PeerCase):
    async def test_commands(self) -> None:
        """With and without an acknowledgement callback; the receipt comes back; other events do no harm."""
        server = await self.serve("socketio_server.js", apiKey=KEY)
        receiver = self.dial(f"http://127.0.0.1:{server.port}")
        await server.wait_for(said(connected="proxy 1"))
        self.assertEqual(server.lines[1], {"upgrade": True, "key": True, "extensions": None})
        if receiver.link is None:  # the main server may be the first to say so
            await receiver.next("ready")
        connection: Any = receiver.link
        self.assertTrue(connection.wire.transport.getTcpNoDelay(), "Nagle would cost 40 ms a command")
        strange = malformed({"online": True}, "proxy_status_update")
        server.send({"op": "emit", "name": "proxy_status_update", "data": strange})
        server.send({"op": "execute", "ack": True, "data": order("c1")})
        self.assertEqual((await server.wait_for(said(ack="c1")))["answer"], [])
        result = await server.wait_for(said(result="c1"))
        self.assertEqual((result["stdout"], result["exitCode"]), ("ran uname", 0))
        receipt = receiver.next("receipt")
        server.send({"op": "execute", "data": order("c2", port="22", timeout=None)})
        await server.wait_for(said(result="c2"))
        self.assertTrue((await receipt).success)
        self.assertEqual(receiver.words().count("command"), 2)

    async def test_refusals(self) -> None:
        """A command that is refused has an error in its acknowledgement, which the main server takes for a failure."""
        server = await self.serve("socketio_server.js", apiKey=KEY)
        self.dial(f"http://127.0.0.1:{server.port}/", lambda command: Overloaded(running=64, queued=256))
        await server.wait_for(has("connected"))
        server.send({"op": "execute", "ack": True, "data": order("c1")})
        (answer,) = (await server.wait_for(said(ack="c1")))["answer"]
        self.assertIn("relayd is full: 64 commands are running", answer["error"])
        server.send({"op": "execute", "ack": True, "data": malformed(order("c2", port=99999))})
        (answer,) = (await server.wait_for(said(ack="c2")))["answer"]
        self.assertIn("port", answer["error"])
        self.assertEqual((await server.wait_for(said(result="c2")))["exitCode"], 1)
        server.send({"op": "binary"})  # an event of which relayd has no use
        server.send({"op": "execute", "ack": True, "data": order("c3")})
        await server.wait_for(said(ack="c3"))

    async def test_buffers(self) -> None:
        """What Node.js reads from a file is a Buffer, and makes a binary event."""
        server = await self.serve("socketio_server.js", apiKey=KEY)
        receiver = self.dial(f"http://127.0.0.1:{server.port}")
        await server.wait_for(has("connected"))
        data = order("c1", privateKey="-----BEGIN ключ", command="echo é", stdin="two\nlines")
        server.send({"op": "execute", "ack": True, "data": data, "buffers": ["privateKey", "command", "stdin"]})
        self.assertEqual((await server.wait_for(said(ack="c1")))["answer"], [])
        self.assertEqual((await server.wait_for(said(result="c1")))["stdout"], "ran echo é")
        command = next(value for word, value in receiver.calls if word == "command")
        self.assertEqual((command.private_key.reveal(), command.stdin), ("-----BEGIN ключ", b"two\nlines"))
        spoilt = {"op": "execute", "data": order("c2", privateKey="ff"), "buffers": ["privateKey"], "coding": "hex"}
        server.send(spoilt)
        self.assertIn("privateKey came as bytes", (await server.wait_for(said(result="c2")))["stderr"])
        server.send({"op": "execute", "data": order("c3")})
        await server.wait_for(said(result="c3"))
        self.assertNotIn("lost", receiver.words())

    async def test_numbers(self) -> None:
        server = await self.serve("socketio_server.js", apiKey=KEY)
        self.dial(f"http://127.0.0.1:{server.port}")
        await server.wait_for(has("connected"))
        for number in (7, 1.5, 2**53 - 1, -3, 0):
            server.send({"op": "execute", "data": order(number, serverId="web-1", port=None)})  # type: ignore[arg-type]
            result = await server.wait_for(said(result=number))
            self.assertNotIsInstance(result["result"], str)
        server.send({"op": "execute", "data": malformed(order(9, port="x"))})  # type: ignore[arg-type]
        self.assertEqual((await server.wait_for(said(result=9)))["exitCode"], 1)

    async def test_large_result(self) -> None:
        """3 MB reach a server that takes 1 MB: cut, saying so; and the link lives."""
        output = "".join(f"{number:07}\n" for number in range(393_216))

        def large(command: ExecuteCommand) -> CommandResult:
            if command.command != "large":
                return echo(command)
            return CommandResult(command_id=command.command_id, stdout=output, stderr="é\x01" * 9, exit_code=3)

        server = await self.serve("socketio_server.js", apiKey=KEY)
        receiver = self.dial(f"http://127.0.0.1:{server.port}", large)
        await server.wait_for(has("connected"))
        server.send({"op": "execute", "data": order("c1", command="large")})
        result = await server.wait_for(said(result="c1"))
        self.assertTrue(result["stdout"].startswith("0000000\n0000001\n"))
        self.assertTrue(result["stdout"].endswith("0393214\n0393215\n"))
        self.assertEqual((result["stderr"], result["exitCode"]), ("é\x01" * 9, 3))
        self.assertRegex(result["cut"], r"^\[relayd: 2,[0-9,]+ bytes cut here to fit the link; see --max-output\]$")
        self.assertGreater(result["length"], 800_000)
        server.send({"op": "execute", "data": order("c2")})
        await server.wait_for(said(result="c2"))
        self.assertNotIn("lost", receiver.words())
        self.assertFalse(any("disconnected" in line for line in server.lines))

    async def test_next_to_no_room(self) -> None:
        """``maxHttpBufferSize`` below what any other Socket.IO client would be happy with."""

        def large(command: ExecuteCommand) -> CommandResult:
            return CommandResult(command_id=command.command_id, stdout="x" * 50_000, stderr="y", exit_code=3)

        for buffer in (4000, 1000, 200):
            server = await self.serve("socketio_server.js", apiKey=KEY, buffer=buffer)
            receiver = self.dial(f"http://127.0.0.1:{server.port}", large)
            await server.wait_for(has("connected"))
            for command_id in ("c1", "c2"):
                server.send({"op": "execute", "ack": True, "data": order(command_id)})
                result = await server.wait_for(said(result=command_id))
                self.assertEqual(result["exitCode"], 3)
                self.assertGreater(result["length"], buffer // 3 - 60)
            self.assertNotIn("lost", receiver.words())
            await self.uplink.stopService()

    async def test_query(self) -> None:
        """Of a URL that was copied out of a browser: what is Engine.IO's is ours, the rest is kept."""
        for transports, transport in ((["polling"], "polling"), (["polling", "websocket"], "websocket")):
            server = await self.serve("socketio_server.js", apiKey=KEY, transports=transports)
            self.dial(f"http://127.0.0.1:{server.port}?EIO=3&transport=x&sid=old&t=1&tenant=a%20b")
            query = (await server.wait_for(said(connected="proxy 1")))["query"]
            query.pop("t", None)
            wanted = {"EIO": "4", "transport": transport, "tenant": "a b", "proxyId": "proxy 1"}
            self.assertEqual(query, wanted)
            await self.uplink.stopService()

    async def test_a_server_that_reads_auth(self) -> None:
        server = await self.serve("socketio_server.js", apiKey=KEY, auth=True, refuse=True)
        self.dial(f"http://127.0.0.1:{server.port}")
        await server.wait_for(said(connected="proxy 1"))
        self.dial(f"http://127.0.0.1:{server.port}", key=WRONG)
        self.assertIn("refused this relay (Invalid credentials)", await self.until_logged("Next attempt"))

    async def test_wrong_key(self) -> None:
        """Let in and then thrown out: the log names the likely cause, and the delay grows."""
        server = await self.serve("socketio_server.js", apiKey=KEY)
        receiver = self.dial(f"http://127.0.0.1:{server.port}", key=WRONG, reconnect_delay=0.4)
        for _ in range(3):
            await receiver.next("lost")
        attempts: list[Any] = []
        while len(attempts) < 3:  # the loss is told before the third delay
            await deferLater(reactor, 0.01)
            attempts = [event for event in self.events if "Next attempt" in formatEvent(event)]
        self.assertIn("compare --proxy-id and the file of --api-key-file", formatEvent(attempts[0]))
        delays = [event["delay"] for event in attempts]  # of which the text has three digits
        for delay, middle in zip(delays[:3], (0.4, 0.8, 1.6), strict=True):
            self.assertTrue(middle * (1 - JITTER) <= delay <= middle * (1 + JITTER), delays)
        self.assertNotIn("connected", [next(iter(line)) for line in server.lines])

    async def test_connect_error(self) -> None:
        """Newer gateways refuse the namespace instead."""
        server = await self.serve("socketio_server.js", apiKey=KEY, refuse=True)
        receiver = self.dial(f"http://127.0.0.1:{server.port}", key=WRONG)
        line = await self.until_logged("Next attempt")
        self.assertIn("refused this relay (Invalid credentials)", line)
        self.assertEqual(receiver.words(), [])

    async def test_restart(self) -> None:
        """A main server that dies and comes back is found again."""
        server = await self.serve("socketio_server.js", apiKey=KEY)
        receiver = self.dial(f"http://127.0.0.1:{server.port}")
        await server.wait_for(has("connected"))
        lost = receiver.next("lost")
        await server.kill()
        await lost
        await self.until_logged("connection refused")
        again = await self.serve("socketio_server.js", apiKey=KEY, port=server.port)
        await again.wait_for(has("connected"))
        again.send({"op": "execute", "data": order("c1")})
        await again.wait_for(said(result="c1"))
        self.assertEqual(receiver.words()[:4], ["ready", "lost", "ready", "command"])  # perhaps a receipt, too

    async def test_stop(self) -> None:
        """Leave is taken in the dialect's words."""
        server = await self.serve("socketio_server.js", apiKey=KEY)
        receiver = self.dial(f"http://127.0.0.1:{server.port}")
        await server.wait_for(has("connected"))
        if receiver.link is None:  # the main server may be the first to say so
            await receiver.next("ready")
        await self.uplink.stopService()
        self.assertEqual(receiver.words(), ["ready", "lost"])
        gone = await server.wait_for(has("disconnected"))
        self.assertEqual(gone["disconnected"], "client namespace disconnect")


class PythonSocketIO(PeerCase):
    """A server on python-socketio sends what its connect handler emits before the answer to CONNECT."""

    async def serve_python(self, **options: Any) -> PythonSocketIOServer:
        server = PythonSocketIOServer(apiKey=KEY, **options)
        self.addCleanup(server.stop)
        await server.start()
        return server

    async def test_greeting(self) -> None:
        """An event of no use, and then a command: it is run, once, and the link lives."""
        server = await self.serve_python(greet=[["welcome", {"to": "you"}], ["execute_command", order("c1")]])
        receiver = self.dial(f"http://127.0.0.1:{server.port}")
        self.assertTrue((await server.wait_for(has("connected")))["known"])
        self.assertEqual((await server.wait_for(said(result="c1")))["stdout"], "ran uname")
        server.send(["execute_command", order("c2")])
        await server.wait_for(said(result="c2"))
        self.assertEqual(receiver.words().count("command"), 2)
        self.assertNotIn("lost", receiver.words())
        await self.uplink.stopService()
        await server.wait_for(has("disconnected"))

    async def test_numbers_that_are_none(self) -> None:
        """NaN is what Python's json makes of an empty cell of a table, and an infinity of a time-out without an end."""
        server = await self.serve_python()
        receiver = self.dial(f"http://127.0.0.1:{server.port}")
        await server.wait_for(has("connected"))
        empty = {name: math.nan for name in ("serverId", "port", "privateKey", "timeout", "load")}
        server.send(["execute_command", order("c1", **empty)])
        self.assertEqual((await server.wait_for(said(result="c1")))["stdout"], "ran uname")
        command = next(value for word, value in receiver.calls if word == "command")
        self.assertEqual((command.port, command.private_key, command.timeout), (22, None, None))
        for number, (field, value) in enumerate({"timeout": math.inf, "port": -math.inf, "host": math.nan}.items()):
            server.send(["execute_command", malformed(order(f"wrong-{number}", **{field: value}))])
            self.assertIn(field, (await server.wait_for(said(result=f"wrong-{number}")))["stderr"])
        self.assertNotIn("lost", receiver.words())

    async def test_refusal(self) -> None:
        """What was emitted before a refusal is not handled, and does not hide it."""
        server = await self.serve_python(greet=[["execute_command", order("c1")]], refuse="unknown relay")
        receiver = self.dial(f"http://127.0.0.1:{server.port}")
        await self.until_logged("refused this relay (unknown relay)")
        self.assertEqual(receiver.words(), [])


class Flask(PeerCase):
    """Flask-SocketIO, by WebSocket and by HTTP long-polling."""

    async def check(self, **options: Any) -> dict[str, Any]:
        """
        A command in the connect handler, and more after it, all in order.

        :return: the query that the main server saw.
        """
        server = FlaskServer(apiKey=KEY, greet=[["execute_command", order("c0")]], **options)
        self.addCleanup(server.stop)
        await server.start()
        self.be_quick()
        receiver = self.dial(f"http://127.0.0.1:{server.port}?EIO=3&transport=x&sid=old&t=1&tenant=a%20b")
        query: dict[str, Any] = (await server.wait_for(said(connected="proxy 1")))["query"]
        self.assertEqual((await server.wait_for(said(result="c0")))["stdout"], "ran uname")
        for number in range(1, 30):
            server.send(["execute_command", order(f"c{number}")])
        await server.wait_for(lambda line: sum("result" in line for line in server.lines) == 30)
        self.assertEqual([v.command_id for w, v in receiver.calls if w == "command"], [f"c{n}" for n in range(30)])
        self.assertNotIn("lost", receiver.words())
        self.dial(f"http://127.0.0.1:{server.port}", key=WRONG)
        await self.until_logged("refused this relay")
        return query

    async def test_websocket(self) -> None:
        """What stands in the query of ``--server``, and is ours, is sent once: the first one counts here."""
        query = await self.check()
        wanted = {"EIO": ["4"], "transport": ["websocket"], "tenant": ["a b"], "proxyId": ["proxy 1"]}
        self.assertEqual(query, wanted)

    async def test_polling(self) -> None:
        query = await self.check(transports=["polling"])
        self.assertEqual((query["EIO"], query["transport"]), (["4"], ["polling"]))
        self.assertEqual((len(query["t"]), query["tenant"]), (1, ["a b"]))


class Native(PeerCase):
    async def test_auto(self) -> None:
        """Socket.IO is tried first and refused; native works, and is remembered."""
        self.be_quick()
        server = await self.serve("ws_server.js", apiKey=KEY)
        self.dial(f"ws://127.0.0.1:{server.port}/proxy")
        self.assertEqual(await server.wait_for(has("connected")), {"connected": "proxy 1", "extensions": ""})
        server.send({"op": "execute", "data": order("c1")})
        result = await server.wait_for(said(event="command_result"))
        self.assertEqual(
            result["data"], {"commandId": "c1", "result": {"stdout": "ran uname", "stderr": "", "exitCode": 0}}
        )
        self.assertFalse(result["isBinary"])
        await server.kill()
        again = await self.serve("ws_server.js", apiKey=KEY, port=server.port)
        await again.wait_for(has("connected"))
        self.assertEqual([line["upgrade"] for line in server.lines if "upgrade" in line], ["/socket.io/", "/proxy"])
        self.assertEqual([line["upgrade"] for line in again.lines if "upgrade" in line], ["/proxy"])

    async def test_another_path(self) -> None:
        """With a query, which comes before our own parameters; no other path is tried in this dialect."""
        self.be_quick()
        server = await self.serve("ws_server.js", apiKey=KEY, path="/base/relay/ws/")
        url = f"ws://127.0.0.1:{server.port}/base?tenant=a%20b&empty="
        self.dial(url, native_path="/relay/ws/")
        query = (await server.wait_for(has("query")))["query"]
        self.assertEqual(query, [["tenant", "a b"], ["empty", ""], ["proxyId", "proxy 1"]])
        self.assertEqual([line["upgrade"] for line in server.lines if "upgrade" in line][-1], "/base/relay/ws/")
        server.send({"op": "execute", "data": order("c1")})
        await server.wait_for(said(event="command_result"))

    async def test_auto_when_other_paths_hang(self) -> None:
        """A server that never answers the Socket.IO request is tried in native before long."""
        self.be_quick()
        server = await self.serve("ws_server.js", apiKey=KEY, silent=True)
        self.dial(f"ws://127.0.0.1:{server.port}")
        await server.wait_for(has("connected"))

    async def test_wrong_key(self) -> None:
        server = await self.serve("ws_server.js", apiKey=KEY)
        self.dial(f"ws://127.0.0.1:{server.port}", key=WRONG, dialect="native")
        line = await self.until_logged("Next attempt")
        self.assertIn("refused this relay (it closed the WebSocket with code 4401: who are you)", line)

    async def test_malformed(self) -> None:
        """A frame that is no JSON ends the connection, with the code for that, and a new one is made."""
        server = await self.serve("ws_server.js", apiKey=KEY)
        self.dial(f"ws://127.0.0.1:{server.port}", dialect="native")
        await server.wait_for(has("connected"))
        server.send({"op": "execute", "data": order("c1")})
        await server.wait_for(has("event"))
        server.send({"op": "raw", "text": '{"event": "hunter2', "repeat": "x", "times": 100_000})
        self.assertEqual((await server.wait_for(has("disconnected")))["disconnected"], 1002)
        await self.until_logged("malformed JSON")

    async def test_text_that_is_not_utf8(self) -> None:
        """It ends the connection with the code for that (RFC 6455, section 8.1), however long it is."""
        server = await self.serve("ws_server.js", apiKey=KEY)
        self.dial(f"ws://127.0.0.1:{server.port}", dialect="native")
        for start in (b"x" * 200_000, b""):
            await server.wait_for(has("connected"))
            server.send({"op": "bytes as text", "base64": b64encode(start + b"\xe6\xb1").decode()})
            self.assertEqual((await server.wait_for(has("disconnected")))["disconnected"], 1007)
        await self.until_logged("a text message that is not UTF-8")

    async def test_small_talk(self) -> None:
        """Greetings and texts that are no events are ignored, once in the log, and in the figures."""
        server = await self.serve("ws_server.js", apiKey=KEY)
        receiver = self.dial(f"ws://127.0.0.1:{server.port}", dialect="native")
        await server.wait_for(has("connected"))
        for text in ("ping", "ping", "Welcome!", '{"type": "hello"}', "[1]", '{"event": "hunter2', ""):
            server.send({"op": "raw", "text": text})
        server.send({"op": "raw", "text": "\ufeff" + json.dumps({"event": "execute_command", "data": order("c1")})})
        await server.wait_for(has("event"))
        told = [event for event in self.events if "which is not an event" in formatEvent(event)]
        self.assertEqual([event["log_level"].name for event in told], ["info"] * 3)
        self.assertEqual(self.uplink.ignored, 7)
        self.assertNotIn("lost", receiver.words())

    async def test_bytes(self) -> None:
        """JSON in a binary message; a Buffer within JSON; a number for an id, and no port."""
        server = await self.serve("ws_server.js", apiKey=KEY)
        receiver = self.dial(f"ws://127.0.0.1:{server.port}", dialect="native")
        await server.wait_for(has("connected"))
        data = order(5, port=None, privateKey="ключ")  # type: ignore[arg-type]
        server.send({"op": "execute", "data": data, "buffers": ["privateKey"], "binary": True})
        result = await server.wait_for(said(event="command_result"))
        self.assertEqual((result["data"]["commandId"], result["isBinary"]), (5, False))
        command = next(value for word, value in receiver.calls if word == "command")
        self.assertEqual((command.private_key.reveal(), command.port), ("ключ", 22))

    async def test_text_as_other_languages_write_it(self) -> None:
        """Lines of one message as in Go, UTF-16 as in C# and Java, a zero at the end as in C, and GBK."""
        server = await self.serve("ws_server.js", apiKey=KEY)
        receiver = self.dial(f"ws://127.0.0.1:{server.port}", dialect="native")
        await server.wait_for(has("connected"))
        texts = [
            json.dumps({"event": "execute_command", "data": order(f"c{number}", command="echo 文")}, ensure_ascii=False)
            for number in range(6)
        ]
        server.send({"op": "raw", "text": "\n".join(texts[:2])})
        server.send({"op": "raw", "text": texts[2] + "\0"})
        for text, coding in zip(texts[3:], ("utf-16-le", "utf-16", "gbk"), strict=True):
            server.send({"op": "raw", "base64": b64encode(text.encode(coding)).decode(), "binary": True})
        for number, told in enumerate(["ran echo 文"] * 5 + [""]):
            result = await server.wait_for(lambda line, n=number: line.get("data", {}).get("commandId") == f"c{n}")
            self.assertEqual(result["data"]["result"]["stdout"], told)
        self.assertIn("command came as bytes that are not UTF-8", result["data"]["result"]["stderr"])
        self.assertEqual((self.uplink.ignored, receiver.words().count("lost")), (0, 0))

    async def test_ids_that_are_not_valid(self) -> None:
        server = await self.serve("ws_server.js", apiKey=KEY)
        self.dial(f"ws://127.0.0.1:{server.port}", dialect="native")
        await server.wait_for(has("connected"))
        for sent, named in (("a\nb\x07", "a\nb\x07"), ("x" * 300, "x" * 255 + "…")):
            server.send({"op": "execute", "data": malformed(order(sent))})
            result = await server.wait_for(lambda line, named=named: line.get("data", {}).get("commandId") == named)
            self.assertIn("commandId", result["data"]["result"]["stderr"])

    async def test_large_frame(self) -> None:
        """A frame beyond our limit ends the connection too; one within it does not."""
        server = await self.serve("ws_server.js", apiKey=KEY)
        self.dial(f"ws://127.0.0.1:{server.port}", dialect="native", max_frame=200_000)
        await server.wait_for(has("connected"))
        server.send({"op": "execute", "data": order("c1", command="x" * 199_000)})
        result = await server.wait_for(has("event"))
        self.assertEqual(len(result["data"]["result"]["stdout"]), 199_004)
        server.send({"op": "execute", "data": order("c2", command="x" * 200_000)})
        self.assertEqual((await server.wait_for(has("disconnected")))["disconnected"], 1009)
        await self.until_logged("relayd takes at most 200000")

    async def test_large_result(self) -> None:
        """What we send may be larger than what we take, and native names no limit."""
        server = await self.serve("ws_server.js", apiKey=KEY)
        self.dial(
            f"ws://127.0.0.1:{server.port}",
            lambda command: CommandResult(command_id=command.command_id, stdout="€" * 900_000, stderr="", exit_code=0),
            dialect="native",
            max_frame=200_000,
        )
        await server.wait_for(has("connected"))
        server.send({"op": "execute", "data": order("c1")})
        result = await server.wait_for(has("event"))
        self.assertEqual(result["data"]["result"]["stdout"], "€" * 900_000)

    async def test_limit_that_shows_when_it_is_hit(self) -> None:
        """With 1009, which names no limit here, or by a connection that is dropped."""

        def large(command: ExecuteCommand) -> CommandResult:
            return CommandResult(command_id=command.command_id, stdout="x" * 300_000, stderr="y", exit_code=3)

        for rude, tries in ((False, 2), (True, 3)):
            server = await self.serve("ws_server.js", apiKey=KEY, maxPayload=131_072, rude=rude)
            self.dial(f"ws://127.0.0.1:{server.port}", large, dialect="native")
            for number in range(tries):
                await server.wait_for(has("connected"))
                del server.lines[:]
                server.send({"op": "execute", "data": order(f"c{number}")})
                await server.wait_for(has("disconnected" if number < tries - 1 else "event"))
            result = (await server.wait_for(has("event")))["data"]["result"]
            self.assertIn("bytes cut here to fit the link; see --max-output", result["stdout"])
            self.assertEqual((result["stderr"], result["exitCode"]), ("y", 3))
            self.assertGreater(len(result["stdout"]), 120_000)
            await self.until_logged("drops the connection when a large" if rude else "with code 1009")
            await self.until_logged("messages are cut to 125000 bytes")
            await self.uplink.stopService()

    async def test_ping(self) -> None:
        """The main server's pings are answered."""
        server = await self.serve("ws_server.js", apiKey=KEY)
        self.dial(f"ws://127.0.0.1:{server.port}", dialect="native")
        await server.wait_for(has("connected"))
        server.send({"op": "ping"})
        await server.wait_for(has("pong"))
