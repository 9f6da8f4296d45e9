"""
The uplink by HTTP long-polling, against real main servers: where they offer nothing else, and behind what breaks
WebSockets.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from relayd.network import tls
from relayd.uplink.polling import upgrade
from relayd.uplink.stages import Timing
from relayd.wire.messages import CommandResult, ExecuteCommand
from tests.peers.test_main_servers import KEY, WRONG, PeerCase, has, order, said
from tests.peers.test_tls import TLSCase
from tests.support.middlebox import Middlebox
from tests.support.node import NodeServer
from tests.support.python_socketio_server import PythonSocketIOServer
from tests.support.receiver import echo

LONG = "".join(f"{number:07}\n" for number in range(100_000))


def long_or_echo(command: ExecuteCommand) -> CommandResult:
    if command.command != "long":
        return echo(command)
    return CommandResult(command_id=command.command_id, stdout=LONG, stderr="", exit_code=3)


class PollingOnly(PeerCase):
    """npm's socket.io with ``transports: ["polling"]``."""

    async def begin(self, **options: Any) -> None:
        self.server = await self.serve("socketio_server.js", apiKey=KEY, transports=["polling"], **options)
        self.url = f"http://127.0.0.1:{self.server.port}"

    async def test_commands(self) -> None:
        await self.begin()
        receiver = self.dial(self.url)
        await self.server.wait_for(said(connected="proxy 1"))
        self.server.send({"op": "execute", "ack": True, "data": order("c1")})
        self.assertEqual((await self.server.wait_for(said(ack="c1")))["answer"], [])
        result = await self.server.wait_for(said(result="c1"))
        self.assertEqual((result["stdout"], result["exitCode"]), ("ran uname", 0))
        receipt = receiver.next("receipt")
        self.server.send({"op": "execute", "data": order("c2")})
        await self.server.wait_for(said(result="c2"))
        self.assertTrue((await receipt).success)
        link: Any = receiver.link
        await link.probe()
        await self.uplink.stopService()
        gone = await self.server.wait_for(has("disconnected"))
        self.assertEqual(gone["disconnected"], "client namespace disconnect")
        self.assertEqual(receiver.words().count("lost"), 1)

    async def test_many(self) -> None:
        """Order is kept, and nothing is left out or doubled."""
        await self.begin()
        receiver = self.dial(self.url, dialect="socketio")
        await self.server.wait_for(has("connected"))
        names = [f"c{number}" for number in range(300)]
        for name in names:
            self.server.send({"op": "execute", "data": order(name)})
        await self.server.wait_for(said(result=names[-1]))
        results = [line["result"] for line in self.server.lines if "result" in line]
        self.assertEqual(results, names)
        self.assertEqual([value.command_id for word, value in receiver.calls if word == "command"], names)

    async def test_buffers(self) -> None:
        """Binary packets come in base64."""
        await self.begin()
        receiver = self.dial(self.url)
        await self.server.wait_for(has("connected"))
        data = order("c1", privateKey="-----BEGIN ключ", stdin="two\nlines\x1e")
        self.server.send({"op": "execute", "data": data, "buffers": ["privateKey", "stdin"]})
        await self.server.wait_for(said(result="c1"))
        command = next(value for word, value in receiver.calls if word == "command")
        self.assertEqual((command.private_key.reveal(), command.stdin), ("-----BEGIN ключ", b"two\nlines\x1e"))

    async def test_separator_in_a_text(self) -> None:
        await self.begin()
        self.dial(
            self.url,
            lambda command: CommandResult(command_id=command.command_id, stdout="a\x1eb", stderr="", exit_code=0),
        )
        await self.server.wait_for(has("connected"))
        self.server.send({"op": "execute", "data": order("c1", command="echo a\x1eb")})
        self.assertEqual((await self.server.wait_for(said(result="c1")))["stdout"], "a\x1eb")

    async def test_large(self) -> None:
        """Close to the main server's limit, both ways; and a whole POST counts there."""
        await self.begin()
        receiver = self.dial(self.url, long_or_echo)
        await self.server.wait_for(has("connected"))
        self.server.send({"op": "execute", "data": order("c1", command="long", stdin="x" * 3_000_000)})
        self.server.send({"op": "execute", "data": order("c2", command="long")})
        for name in ("c1", "c2"):
            result = await self.server.wait_for(said(result=name))
            self.assertEqual((result["length"], result["cut"], result["exitCode"]), (len(LONG), None, 3))
        self.assertNotIn("lost", receiver.words())

    async def test_little_room(self) -> None:
        await self.begin(buffer=2000)
        receiver = self.dial(self.url, long_or_echo)
        await self.server.wait_for(has("connected"))
        for number in range(20):
            self.server.send({"op": "execute", "ack": True, "data": order(f"c{number}", command="long")})
        await self.server.wait_for(said(result="c19"))
        self.assertEqual(sum("result" in line for line in self.server.lines), 20)
        self.assertNotIn("lost", receiver.words())

    async def test_heartbeat(self) -> None:
        """The main server's pings come in polls and are answered in POSTs, or it would end the session."""
        await self.begin(pingInterval=300, pingTimeout=700)
        receiver = self.dial(self.url)
        await self.server.wait_for(has("connected"))
        await deferLater(reactor, 2.5)
        self.assertNotIn("lost", receiver.words())

    async def test_wrong_key(self) -> None:
        await self.begin()
        self.dial(self.url, key=WRONG)
        self.assertIn("compare --proxy-id and the file of --api-key-file", await self.until_logged("Next attempt"))

    async def test_connect_error(self) -> None:
        """The other dialect is tried as well, and not answered."""
        self.timing = Timing(handshake=2)
        await self.begin(refuse=True)
        receiver = self.dial(self.url, key=WRONG)
        await self.until_logged("refused this relay (Invalid credentials)")
        self.assertEqual(receiver.words(), [])

    async def test_killed(self) -> None:
        """It is lost at once, and polled first when it comes back: no WebSocket is asked for again."""
        self.timing = Timing(probation=0.3)
        await self.begin()
        receiver = self.dial(self.url)
        await self.server.wait_for(has("connected"))
        await self.until_logged("Accepted by")
        lost = receiver.next("lost")
        port = self.server.port
        await self.server.kill()
        await lost
        before = len(self.logged())
        await self.begin(port=port)
        await self.server.wait_for(has("connected"))
        ways = [line.rpartition("(")[2] for line in self.logged()[before:] if line.startswith("Connecting")]
        self.assertEqual(ways[-1], "socketio by HTTP long-polling)")
        self.server.send({"op": "execute", "data": order("c1")})
        await self.server.wait_for(said(result="c1"))

    async def test_forgotten(self) -> None:
        """A main server that does not know the session any more says so, and that is a loss with its words."""
        await self.begin()
        receiver = self.dial(self.url)
        if receiver.link is None:
            await receiver.next("ready")
        link: Any = receiver.link
        link.wire._session.opened.sid = "nobody"
        self.server.send({"op": "execute", "data": order("c1")})
        self.assertIn("Session ID unknown", await self.until_logged("Next attempt"))


class TLS(TLSCase):
    async def serve_polling(self, name: str) -> NodeServer:
        certificate = self.authority.issue(name)
        options = {"cert": certificate.cert, "key": certificate.key}
        return await self.serve("socketio_server.js", apiKey=KEY, transports=["polling"], tls=options)

    async def test_commands(self) -> None:
        server = await self.serve_polling("localhost")
        self.dial(f"https://localhost:{server.port}", tls_ca=self.authority.path)
        await server.wait_for(has("connected"))
        server.send({"op": "execute", "data": order("c1")})
        await server.wait_for(said(result="c1"))

    async def test_wrong_name(self) -> None:
        """Nobody else is asked, even where only our second look at the certificate tells."""
        self.patch(tls, "_verify", lambda *_: True)
        certificate = self.authority.issue("localhost", names=None)
        options = {"cert": certificate.cert, "key": certificate.key}
        server = await self.serve("socketio_server.js", apiKey=KEY, transports=["polling"], tls=options)
        self.dial(f"https://localhost:{server.port}", dialect="socketio", tls_ca=self.authority.path)
        self.uplink.servers[0].profile._polled = True  # its first attempt is made already
        await self.until_logged("Connecting to https://localhost:" + str(server.port) + " as proxy 1 (socketio by HTTP")
        await self.until_logged("it needs the subject alternative name localhost")
        await deferLater(reactor, 0.5)
        self.assertEqual([line for line in server.lines if "connected" in line], [])
        await self.uplink.stopService()
        self.flushLoggedErrors()


class BoxCase(PeerCase):
    """npm's socket.io with all transports, behind a box that breaks WebSockets."""

    async def begin(self, mode: str, **settings: Any) -> None:
        self.server = await self.serve("socketio_server.js", apiKey=KEY)
        self.box = Middlebox(self.server.port, mode)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.box.stop()))
        self.receiver = self.dial(f"http://127.0.0.1:{self.box.port}", **settings)

    async def works(self) -> None:
        await self.server.wait_for(has("connected"))
        for number in range(20):
            self.server.send({"op": "execute", "data": order(f"c{number}")})
        await self.server.wait_for(said(result="c19"))
        results = [line["result"] for line in self.server.lines if "result" in line]
        self.assertEqual(results, [f"c{number}" for number in range(20)])
        self.assertNotIn("lost", self.receiver.words())


class Broken(BoxCase):
    """From the first connection on."""

    async def check_mode(self, mode: str, **settings: Any) -> None:
        self.be_quick()
        await self.begin(mode, **settings)
        await self.works()
        self.assertIn("POST", self.box.polls)
        self.assertGreaterEqual(self.box.upgrades, 1)

    async def test_400(self) -> None:
        await self.check_mode("400")

    async def test_403(self) -> None:
        await self.check_mode("403")

    async def test_200(self) -> None:
        await self.check_mode("200")

    async def test_502(self) -> None:
        await self.check_mode("502", dialect="socketio")

    async def test_dropped(self) -> None:
        await self.check_mode("drop")

    async def test_cut(self) -> None:
        await self.check_mode("cut")

    async def test_closed(self) -> None:
        """Also where the other dialect would be let in and thrown out, which looks like a wrong key."""
        await self.check_mode("close")
        self.assertFalse([line for line in self.logged() if "(native)" in line or "refused" in line])

    async def check_quickly(self, mode: str) -> None:
        """Silence, which takes 20 s otherwise."""
        self.timing = Timing(handshake=0.7)
        await self.check_mode(mode, dialect="socketio")

    async def test_silent(self) -> None:
        await self.check_quickly("silent")

    async def test_deaf(self) -> None:
        await self.check_quickly("deaf")

    async def test_stripped(self) -> None:
        await self.check_mode("strip")

    async def test_upgrade(self) -> None:
        """Where the WebSocket works in the end, the session moves there, and nothing is lost on the way."""
        await self.begin("400")
        await self.works()
        await self.until_logged("Accepted by")
        self.box.mode = "open"
        for near in list(self.box.connections):
            near.transport.abortConnection()
        await self.receiver.next("ready")
        for number in range(100):
            self.server.send({"op": "execute", "data": order(f"d{number}")})
            if number % 20 == 0:
                await deferLater(reactor, 0.01)
        await self.server.wait_for(said(result="d99"))
        results = [line["result"] for line in self.server.lines if str(line.get("result", "")).startswith("d")]
        self.assertEqual(results, [f"d{number}" for number in range(100)])
        link: Any = self.receiver.link
        self.assertIsNotNone(link.upgraded_at)
        polls = len(self.box.polls)
        self.server.send({"op": "execute", "data": order("e1")})
        await self.server.wait_for(said(result="e1"))
        self.assertEqual(len(self.box.polls), polls)
        await link.probe()
        await self.uplink.stopService()
        await self.server.wait_for(said(disconnected="client namespace disconnect"))


class Upgrades(BoxCase):
    """Within a session: what becomes of it where its upgrade fails, or the WebSocket does not live."""

    async def cut(self) -> None:
        """All connections end, and the relay dials again."""
        lost = self.receiver.next("lost")
        for near in list(self.box.connections):
            near.transport.abortConnection()
        await lost
        await self.receiver.next("ready")

    async def session(self, mode: str) -> None:
        """A session by polling, in which *mode* is what becomes of the upgrade."""
        await self.begin("400")
        await self.works()
        await self.until_logged("Accepted by")
        self.box.mode, self.box.upgrades = mode, 0
        await self.cut()

    async def run_commands(self, prefix: str = "d", number: int = 60) -> None:
        """Some commands, spread over a while: each has one result, in order."""
        for each in range(number):
            self.server.send({"op": "execute", "data": order(f"{prefix}{each}")})
            if each % 3 == 0:
                await deferLater(reactor, 0.05)
        await self.server.wait_for(said(result=f"{prefix}{number - 1}"))
        results = [line["result"] for line in self.server.lines if str(line.get("result", "")).startswith(prefix)]
        self.assertEqual(results, [f"{prefix}{each}" for each in range(number)])

    async def check_failure(self, mode: str) -> None:
        self.patch(upgrade, "UPGRADE_TIMEOUT", 0.5)
        await self.session(mode)
        await self.run_commands()
        link: Any = self.receiver.link
        self.assertIsNone(link.upgraded_at)
        self.assertEqual(self.box.upgrades, 1, "it is tried once a session")
        self.assertEqual(self.receiver.words().count("lost"), 1)
        self.assertTrue(any("No upgrade to a WebSocket" in line for line in self.logged()))
        await link.probe()

    async def test_refused(self) -> None:
        await self.check_failure("403")

    async def test_dropped(self) -> None:
        await self.check_failure("drop")

    async def test_cut(self) -> None:
        await self.check_failure("cut")

    async def test_silent(self) -> None:
        await self.check_failure("silent")

    async def test_deaf(self) -> None:
        await self.check_failure("deaf")

    async def test_probed(self) -> None:
        """The probe is answered, so that nothing more is polled, and then it is over."""
        await self.check_failure("probed")
        self.assertEqual(self.box.probed, 1)

    async def test_a_websocket_that_dies_soon(self) -> None:
        """The next sessions stay with polling, and nothing is lost."""
        await self.session("open")
        await self.run_commands("d")
        link: Any = self.receiver.link
        self.assertIsNotNone(link.upgraded_at)
        for prefix in ("e", "f"):
            before = self.box.upgrades
            await self.cut()
            await self.run_commands(prefix)
            link = self.receiver.link
            self.assertIsNone(link.upgraded_at)
            self.assertEqual(self.box.upgrades, before)


class Proxied(TLSCase):
    """Polling through an HTTP proxy: each of its connections is a tunnel."""

    async def check(self, scheme: str, **settings: Any) -> None:
        tunnels = await self.proxy()
        options: dict[str, Any] = {"apiKey": KEY, "transports": ["polling"]}
        if scheme == "https":
            certificate = self.authority.issue("main.example")
            options["tls"] = {"cert": certificate.cert, "key": certificate.key}
        server = await self.serve("socketio_server.js", **options)
        url = f"{scheme}://main.example:{server.port}"
        receiver = self.dial(url, http_proxy=f"http://127.0.0.1:{self.proxy_port}", **settings)
        await server.wait_for(has("connected"))
        for number in range(30):
            server.send({"op": "execute", "data": order(f"c{number}")})
        await server.wait_for(said(result="c29"))
        results = [line["result"] for line in server.lines if "result" in line]
        self.assertEqual(results, [f"c{number}" for number in range(30)])
        self.assertNotIn("lost", receiver.words())
        host = f"main.example:{server.port}"
        self.assertGreaterEqual(len(tunnels.requests), 3, "a WebSocket, which is refused; a GET and a POST at a time")
        self.assertEqual(set(tunnels.requests), {f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"})

    async def test_plain(self) -> None:
        await self.check("http")

    async def test_tls(self) -> None:
        await self.check("https", tls_ca=self.authority.path)


class PythonPolling(PeerCase):
    """python-socketio with polling only."""

    async def test_commands(self) -> None:
        server = PythonSocketIOServer(apiKey=KEY, transports=["polling"], greet=[["execute_command", order("c1")]])
        self.addCleanup(server.stop)
        await server.start()
        receiver = self.dial(f"http://127.0.0.1:{server.port}")
        self.assertTrue((await server.wait_for(has("connected")))["known"])
        self.assertEqual((await server.wait_for(said(result="c1")))["stdout"], "ran uname")
        for number in range(50):
            server.send(["execute_command", order(f"d{number}")])
        await server.wait_for(said(result="d49"))
        self.assertEqual(receiver.words().count("command"), 51)
        self.assertNotIn("lost", receiver.words())
        await self.uplink.stopService()
        await server.wait_for(has("disconnected"))
