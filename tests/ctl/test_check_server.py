"""
relayctl check on its way to main servers: real ones, silent ones, and ones with certificates that are not good.
"""

from __future__ import annotations

import io
import os
import socket
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from relayd.config.reading import read
from relayd.ctl import check_server
from relayd.ctl.check import check
from relayd.ctl.settings import Place
from relayd.network import tls
from tests.peers.test_main_servers import KEY, WRONG, has, order
from tests.peers.test_tls import TLSCase
from tests.support.certificates import Authority, Certificate
from tests.support.node import NodeServer
from tests.support.schemas import malformed


class ServerCase(TLSCase):
    """Has main servers, which turn a relay away at once or never, and what is found of them."""

    def setUp(self) -> None:
        super().setUp()
        self.probation = check_server.PROBATION
        self.patch(check_server, "PROBATION", 0.5)

    async def look(self, server: str, key: str = KEY, holder: str | None = None, **options: str) -> dict[str, str]:
        """What is found, as ``level text`` by what was looked at."""
        self.directory.mkdir(exist_ok=True)
        file = self.directory / "api-key"
        file.touch(mode=0o600)
        file.write_text(key)
        argv: dict[str, str | bool | None] = {
            "server": server,
            "proxy-id": "proxy-1",
            "api-key-file": str(file),
            "state-dir": str(self.directory / "state"),
        }
        reading = read(argv | {name.replace("_", "-"): value for name, value in options.items()}, {})
        assert reading.config is not None, reading.mistakes
        found: dict[str, str] = {}

        def report(level: str, what: str, text: str) -> None:
            found[what] = f"{level} {text}"

        await check_server.check_server(reactor, reading.config, report, holder)
        self.assertNotIn(key, repr(found))
        self.assertNotIn("\n", "".join(found.values()))
        return found


class PlainTests(ServerCase):
    """Without TLS."""

    async def test_accepted_by_socketio(self) -> None:
        server = await self.serve("socketio_server.js", apiKey=KEY)
        found = await self.look(f"ws://127.0.0.1:{server.port}")
        self.assertEqual(found["main server"], f"ok ws://127.0.0.1:{server.port} accepts proxy-1 (socketio)")
        self.assertEqual({text.split()[0] for text in found.values()}, {"ok"})

    async def test_accepted_by_ws(self) -> None:
        server = await self.serve("ws_server.js", apiKey=KEY)
        found = await self.look(f"ws://localhost:{server.port}", dialect="native")
        self.assertIn("accepts proxy-1 (native)", found["main server"])
        self.assertIn("127.0.0.1", found["name"])

    async def test_a_wrong_key(self) -> None:
        server = await self.serve("socketio_server.js", apiKey=KEY)
        found = await self.look(f"ws://127.0.0.1:{server.port}", WRONG)
        self.assertTrue(found["main server"].startswith("fault "), found)
        self.assertIn("refused this relay", found["main server"])

    async def test_a_main_server_that_looks_at_the_key_for_a_while(self) -> None:
        """Three seconds, which is longer than a relay waits before it takes silence for consent."""
        self.patch(check_server, "PROBATION", self.probation)

        class Slow(WebSocketServerProtocol):
            def onOpen(self) -> None:
                self.factory.reactor.callLater(3, self.sendClose, 4401, "no such key")

        factory = WebSocketServerFactory()
        factory.protocol = Slow
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        found = await self.look(f"ws://127.0.0.1:{port.getHost().port}", dialect="native")
        self.assertIn("fault The main server", found["main server"])
        self.assertIn("code 4401: no such key", found["main server"])

    async def test_a_proxy_that_is_not_used(self) -> None:
        self.patch(os, "environ", {**os.environ, "HTTP_PROXY": "http://u:hunter2@p"})
        server = await self.serve("socketio_server.js", apiKey=KEY)
        found = await self.look(f"ws://127.0.0.1:{server.port}")
        self.assertIn("warning HTTP_PROXY is set and not used", found["proxy"])
        self.assertNotIn("hunter2", found["proxy"])

    async def test_a_relay_that_runs_is_not_disturbed(self) -> None:
        server = await self.serve("socketio_server.js", apiKey=KEY)
        found = await self.look(f"ws://127.0.0.1:{server.port}", holder="77")
        self.assertIn("skipped a relay is running (process 77)", found["main server"])
        self.assertEqual([line for line in server.lines if "connected" in line], [])

    async def test_a_relay_that_runs_says_whether_it_is_accepted(self) -> None:
        """If it is, that is the answer; if not, it has nothing to lose, and this connects to see why."""
        server = await self.serve("socketio_server.js", apiKey=KEY)
        url, asked = f"ws://127.0.0.1:{server.port}", "tcp:127.0.0.1:9180"
        uplink = {"accepted": True, "dialect": "socketio", "lastError": None}
        self.patch(check_server, "read_status", lambda address: {"uplink": uplink})
        found = await self.look(url, WRONG, holder="77", status=asked)
        self.assertEqual(found["main server"], f"ok {url} accepts the relay that is running (process 77) (socketio)")
        self.assertEqual([line for line in server.lines if "connected" in line], [])
        uplink["server"] = "wss://standby.example.com"
        found = await self.look(url, WRONG, holder="77", status=asked)
        self.assertIn("skipped the relay that is running (process 77) is with wss://standby.", found["main server"])
        uplink |= {"accepted": False, "lastError": "Another relay may use the same name."}
        found = await self.look(url, WRONG, holder="77", status=asked)
        self.assertIn("fault The main server", found["main server"])
        self.assertIn("refused this relay", found["main server"])
        self.assertEqual(
            found["relay"],
            "warning the relay that is running (process 77) is not accepted: Another relay may use the same name.",
        )
        uplink["lastError"] = "\x1b[2J\n" * 1000  # it need not be a relay that answers
        found = await self.look(url, WRONG, holder="77", status=asked)
        self.assertTrue(found["relay"].isprintable(), found["relay"])
        self.assertLess(len(found["relay"]), 2000)
        del uplink["lastError"]
        found = await self.look(url, WRONG, holder="77", status=asked)
        self.assertIn("is not accepted: it is connecting", found["relay"])

    async def test_a_relay_that_runs_and_does_not_answer(self) -> None:
        server = await self.serve("socketio_server.js", apiKey=KEY)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            asked = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
            found = await self.look(f"ws://127.0.0.1:{server.port}", holder="77", status=asked)
        self.assertIn(f"fault The relay's status cannot be read from {asked.removeprefix('tcp:')}", found["status"])
        self.assertIn("skipped a relay is running", found["main server"])

    async def test_nobody_there(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            found = await self.look(f"ws://127.0.0.1:{taken.getsockname()[1]}")
        self.assertIn("connection refused", found["TCP"])
        self.assertTrue(found["main server"].startswith("skipped "))

    async def test_no_such_name(self) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        self.patch(socket, "getaddrinfo", fail)
        found = await self.look("wss://main.example")
        self.assertIn("main.example cannot be looked up (Name or service not known)", found["name"])
        self.assertEqual(set(found), {"name", "main server"})

    async def test_a_name_server_that_does_not_answer(self) -> None:
        answer = Event()
        self.addCleanup(answer.set)
        self.patch(socket, "getaddrinfo", lambda *_, **__: answer.wait(60) and [])
        self.patch(check_server, "PATIENCE", 0.1)
        found = await self.look("wss://main.example")
        self.assertIn("no answer within 0.1 s", found["name"])

    async def test_a_server_that_says_nothing(self) -> None:
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Protocol))
        self.addCleanup(port.stopListening)
        self.patch(check_server, "PATIENCE", 0.2)
        self.patch(check_server, "DIAL_PATIENCE", 0.5)
        url = f"127.0.0.1:{port.getHost().port}"
        self.assertIn("fault no answer within 0.2 s; is it a TLS port?", (await self.look(f"wss://{url}"))["TLS"])
        self.assertEqual((await self.look(f"ws://{url}"))["main server"], "fault no answer within 0.5 s")


class TLSTests(ServerCase):
    """Certificates."""

    async def look_at(self, certificate: Certificate, **options: str) -> dict[str, str]:
        server: NodeServer = await self.serve_tls(certificate)
        return await self.look(f"wss://localhost:{server.port}", **options)

    async def test_good(self) -> None:
        found = await self.look_at(self.authority.issue("localhost", timedelta(days=90)), tls_ca=self.authority.path)
        self.assertTrue(found["TLS"].startswith("ok the main server's certificate is valid until 20"), found)
        self.assertIn("accepts proxy-1", found["main server"])

    async def test_about_to_expire(self) -> None:
        found = await self.look_at(self.authority.issue("localhost", timedelta(days=3)), tls_ca=self.authority.path)
        self.assertTrue(found["TLS"].startswith("warning the main server's certificate expires on 20"), found)
        self.assertIn("accepts proxy-1", found["main server"])

    async def test_one_that_it_depends_on_is_about_to_expire(self) -> None:
        between = Authority(self.directory, "between", issuer=self.authority, lifetime=timedelta(days=3))
        certificate = between.issue("localhost", timedelta(days=90))
        with open(certificate.cert, "a") as file:
            file.write(Path(between.path).read_text())
        found = await self.look_at(certificate, tls_ca=self.authority.path)
        words = "warning a certificate that the main server's depends on expires on 20"
        self.assertTrue(found["TLS"].startswith(words), found)

    async def test_a_client_certificate_is_wanted(self) -> None:
        """In TLS 1.3 the main server says so only when it is asked for something."""
        server = await self.serve_tls(self.authority.issue("localhost"), ca=self.authority.path)
        found = await self.look(f"wss://localhost:{server.port}", tls_ca=self.authority.path)
        words = (
            "it asked for a client certificate, relayd has none, and it ended TLS with the alert certificate_required"
        )
        self.assertIn(words, found["main server"])

    async def test_no_tls(self) -> None:
        """What the main server says is quoted, and without the key, which it may know."""
        port = await self.answer_with(b"220 mail.example " + KEY.encode() + b"\r\n")
        found = await self.look(f"wss://localhost:{port}")
        words = 'fault it does not speak TLS there: its answer begins with "220 mail.example [redacted]"; look at'
        self.assertIn(words, found["TLS"])

    async def test_bad_ones(self) -> None:
        between = Authority(self.directory, "between", issuer=self.authority)
        for certificate, words in (
            (self.authority.issue("localhost", begins=timedelta(hours=9)), "not yet valid: it is valid from 20"),
            (between.issue("localhost"), "it sends no other certificate; if that is an intermediate authority"),
            (self.authority.issue("localhost", timedelta(days=-1)), "certificate has expired"),
            (self.authority.issue("other.example"), "certificate is for another name"),
            (self.authority.issue("localhost", names=None), "it needs the subject alternative name localhost"),
            (self.authority.issue("localhost", self_signed=True), "certificate is self-signed"),
        ):
            found = await self.look_at(certificate, tls_ca=self.authority.path)
            self.assertTrue(found["TLS"].startswith("fault "), found)
            self.assertIn(words, found["TLS"])
            self.assertTrue(found["main server"].startswith("skipped "))

    async def test_the_second_look(self) -> None:
        """What Twisted's own callback takes for good is a fault all the same."""
        self.patch(tls, "_verify", lambda *_: True)
        found = await self.look_at(self.authority.issue("localhost", names=None), tls_ca=self.authority.path)
        self.assertIn("it needs the subject alternative name localhost", found["TLS"])
        self.assertTrue(found["main server"].startswith("skipped "))

    async def test_our_own(self) -> None:
        ours = self.authority.issue("relay.example", timedelta(days=3))
        found = await self.look_at(
            self.authority.issue("localhost"), tls_ca=self.authority.path, tls_cert=ours.cert, tls_key=ours.key
        )
        self.assertTrue(found["TLS files"].startswith(f"warning {ours.cert} expires on "), found)
        ours = self.authority.issue("relay.example", timedelta(days=-3))
        found = await self.look("wss://localhost:9", tls_cert=ours.cert, tls_key=ours.key)
        words = (
            f"fault {ours.cert} expired on \\S+, and the clock of this machine says \\S+: renew it, or set the clock"
        )
        self.assertRegex(found["TLS files"], words)
        nonsense = Path(self.directory / "nonsense.pem")
        nonsense.write_text("nonsense")
        found = await self.look("wss://localhost:9", tls_cert=ours.cert, tls_key=str(nonsense))
        self.assertEqual(set(found), {"TLS files"})
        self.assertIn("holds no unencrypted PEM key", found["TLS files"])


class OrderTests(ServerCase):
    """What a main server orders while it is only asked whether it would: it stays with the main server."""

    async def unanswered(self, script: str, dialect: str, event: str, data: Any) -> NodeServer:
        """A check finds a main server that has *event* for the relay at once, and says nothing to it."""
        server = await self.serve(script, apiKey=KEY, greet=[event, data])
        found = await self.look(f"ws://127.0.0.1:{server.port}", dialect=dialect)
        self.assertEqual(
            found["main server"], f"ok ws://127.0.0.1:{server.port} accepts proxy-1 ({dialect})", server.lines
        )
        await server.wait_for(has("disconnected"))
        answers = [line for line in server.lines if {"ack", "result", "event"} & set(line)]
        self.assertEqual(answers, [])
        return server

    async def test_an_order_is_left_to_the_relay(self) -> None:
        for script, dialect in (("socketio_server.js", "socketio"), ("ws_server.js", "native")):
            server = await self.unanswered(script, dialect, "execute_command", order("c1"))
            receiver = self.dial(f"ws://127.0.0.1:{server.port}", dialect=dialect)
            while "ready" not in receiver.words():
                await deferLater(reactor, 0.01)
            server.send({"op": "again"})
            await server.wait_for(lambda line: line.get("result", line.get("data", {}).get("commandId")) == "c1")
            self.assertEqual(receiver.words().count("command"), 1)
            await self.uplink.stopService()

    async def test_nothing_is_told_of_any_command(self) -> None:
        """It would say that it is unknown, or refuse an order for the relay to mend."""
        for event, data in (
            ("execute_command", malformed(order("c1", port=99999))),
            ("command_status", {"commandId": "c1"}),
            ("cancel_command", {"commandId": "c1"}),
        ):
            for script, dialect in (("socketio_server.js", "socketio"), ("ws_server.js", "native")):
                await self.unanswered(script, dialect, event, data)


class PlaintextTests(ServerCase):
    """Settings with which relayd does not start end the check before the network."""

    async def connections(self, **options: str) -> tuple[int, str]:
        """How many a main server has met that listens without TLS, and what was printed."""
        factory: Any = Factory.forProtocol(Protocol)
        met: list[Any] = []
        factory.buildProtocol = met.append
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        self.directory.mkdir(exist_ok=True)
        file = self.directory / "api-key"
        file.touch(mode=0o600)
        file.write_text(KEY)
        argv = {"proxy-id": "proxy-1", "api-key-file": str(file), "state-dir": str(self.directory / "state")}
        argv |= {name: value.replace("PORT", str(port.getHost().port)) for name, value in options.items()}
        output = io.StringIO()
        with redirect_stdout(output):
            self.assertGreater(await check(reactor, read(argv, {}), Place({}), dial=True), 0)
        return len(met), output.getvalue()

    async def test_plaintext(self) -> None:
        """The name would be looked up as this machine's."""
        self.patch(socket, "getaddrinfo", lambda *_, **__: self.fail("a name was looked up"))
        for options in (
            {"server": "ws://0.0.0.0:PORT"},
            {"server": "ws://main.example:PORT"},
            {"server": "ws://localhost:PORT", "http-proxy": "http://127.0.0.1:PORT"},
            {"server": "ws://localhost:PORT", "default-timeout": "2d"},
        ):
            met, printed = await self.connections(**options)
            self.assertEqual(met, 0, options)
            self.assertIn("fault    settings", printed)
            self.assertIn("skipped  main server       fix the settings first", printed)
