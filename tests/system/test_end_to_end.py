"""
The whole of it: ``twistd relayd --dialect auto``, npm's socket.io and ws as main servers, real SSH servers.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.support.node import SharedNodeServer
from tests.support.relays import Relayd
from tests.support.ssh import end_marked_sleeps, marked_sleep, processes
from tests.support.sshd import OpenSSHServer


class EndToEndCase(TestCase):
    """Every test has a main server, an SSH server and a relay of its own."""

    timeout = 90

    async def begin(self, script: str, *options: str) -> None:
        self.sshd = OpenSSHServer()
        await self.sshd.start()
        self.addCleanup(self.sshd.stop)
        self.server = SharedNodeServer(script, json.dumps({"apiKey": Relayd.api_key}))
        self.addCleanup(self.stop_server)
        port = await self.server.start()
        self.relay = Relayd(f"http://127.0.0.1:{port}", "--dialect", "auto", *options)
        self.addCleanup(self.relay.remove)
        self.relay.start()
        await self.server.wait_for(lambda line: line.get("connected") == Relayd.proxy_id)

    def stop_server(self) -> Deferred[int]:
        """The one of the moment: a test may have put another in its place."""
        return self.server.stop()

    def data(self, command_id: str, command: str, **changes: Any) -> dict[str, Any]:
        """Of an ``execute_command``, for the SSH server."""
        return {
            "commandId": command_id,
            "serverId": 1,
            "host": self.sshd.host,
            "port": self.sshd.port,
            "username": self.sshd.user,
            "privateKey": self.sshd.key,
            "command": command,
            "timeout": 30_000,
        } | changes

    def order(self, command_id: str, command: str, **changes: Any) -> None:
        self.server.send({"op": "execute", "ack": True, "data": self.data(command_id, command, **changes)})

    def socketio_result(self, command_id: str, timeout: float = 40) -> Deferred[dict[str, Any]]:
        return self.server.wait_for(lambda line: line.get("result") == command_id, timeout)


class EndToEnd(EndToEndCase):
    """The specification."""

    async def test_socketio(self) -> None:
        """One command, more output than the link takes, and many at a time."""
        await self.begin("socketio_server.js")
        self.order("c1", "pwd; id -un; echo oops >&2; exit 3")
        acknowledged = await self.server.wait_for(lambda line: line.get("ack") == "c1")
        self.assertEqual(acknowledged["answer"], [])
        result = await self.socketio_result("c1")
        self.assertEqual((result["stdout"], result["stderr"], result["exitCode"]), (f"/\n{self.sshd.user}", "oops", 3))
        await self.check_more_output_than_the_link_takes()
        await self.check_64_at_a_time("MaxSessions 10")
        await self.check_64_at_a_time("MaxSessions 2")

    async def check_more_output_than_the_link_takes(self) -> None:
        """3 MB to a socket.io server with its default maxHttpBufferSize of 1 MB."""
        self.order("big", "head -c 3000000 /dev/zero | tr '\\0' x")
        result = await self.socketio_result("big")
        self.assertEqual(result["exitCode"], 0)
        self.assertLess(result["length"], 1_000_000)
        self.assertGreater(result["length"], 900_000)
        self.assertRegex(result["cut"], r"relayd: 2,\d{3},\d{3} bytes cut")
        self.order("next", "echo still here")
        self.assertEqual((await self.socketio_result("next"))["stdout"], "still here")
        self.assertNotIn("disconnected", str(self.server.lines))

    async def check_64_at_a_time(self, limit: str) -> None:
        """At another host."""
        sshd = OpenSSHServer([limit])
        self.addCleanup(sshd.stop)
        await sshd.start()
        names = [f"{limit} {number}" for number in range(64)]
        for name in names:
            self.order(name, f"echo {name}; sleep 0.1", port=sshd.port, privateKey=sshd.key)
        results = await gatherResults([self.socketio_result(name, 60) for name in names])
        self.assertEqual([(result["stdout"], result["exitCode"]) for result in results], [(name, 0) for name in names])

    async def test_native(self) -> None:
        await self.begin("ws_server.js")
        self.order("c1", "pwd; id -un; echo oops >&2; exit 3")
        line = await self.server.wait_for(lambda line: line.get("event") == "command_result", 40)
        result = {"stdout": f"/\n{self.sshd.user}", "stderr": "oops", "exitCode": 3}
        self.assertEqual(line["data"], {"commandId": "c1", "result": result})
        await self.check_stream_on_plain_websockets()

    async def check_stream_on_plain_websockets(self) -> None:
        del self.server.lines[:]
        self.order("c2", "echo one; echo two >&2", stream=True)
        await self.server.wait_for(lambda line: line.get("event") == "command_result", 40)
        pieces = [line["data"] for line in self.server.lines if line.get("event") == "command_output"]
        self.assertEqual(
            sorted((piece["stream"], piece["offset"], piece["data"]) for piece in pieces),
            [("stderr", 0, "two\n"), ("stdout", 0, "one\n")],
        )

    async def test_main_server_restarted(self) -> None:
        """The relay is back by itself, and the result of a command that ended meanwhile is not lost."""
        await self.begin("socketio_server.js")
        self.order("c1", "sleep 2; echo survived")
        await self.server.wait_for(lambda line: line.get("ack") == "c1")
        port = self.server.port
        await self.server.kill()
        self.server = SharedNodeServer("socketio_server.js", json.dumps({"apiKey": Relayd.api_key, "port": port}))
        await self.server.start()
        restarted = reactor.seconds()
        await self.server.wait_for(lambda line: line.get("connected") == Relayd.proxy_id)
        self.assertLess(reactor.seconds() - restarted, 15)  # the specification's 5 s, and jitter
        self.assertEqual((await self.socketio_result("c1"))["stdout"], "survived")
        await self.check_sigterm()

    async def check_sigterm(self) -> None:
        """What runs is finished and delivered; what comes then is refused; the exit code is 0."""
        del self.sshd.log_lines[:]
        self.order("d1", "echo started; sleep 3; echo finished")
        await self.server.wait_for(lambda line: line.get("ack") == "d1")
        while not any("Starting session" in line for line in self.sshd.log_lines):
            await deferLater(reactor, 0.05)
        ended = self.relay.signal(signal.SIGTERM)
        await deferLater(reactor, 0.5)
        self.order("d2", "echo too late")
        refused = await self.server.wait_for(lambda line: line.get("ack") == "d2")
        self.assertIn("shutting down", refused["answer"][0]["error"])
        self.assertEqual((await self.socketio_result("d1"))["stdout"], "started\nfinished")
        self.assertEqual(await ended, 0, self.relay.log)
        self.assertNotIn("Traceback", self.relay.log)


class RequestsEndToEnd(EndToEndCase):
    """What a main server may ask for beyond the specification."""

    async def test_requests(self) -> None:
        await self.begin("socketio_server.js")
        self.addCleanup(end_marked_sleeps)
        await self.check_stream()
        await self.check_timeout()
        await self.check_cancel()

    async def check_stream(self) -> None:
        self.order("c1", "echo one; sleep 1; printf '\\303'; sleep 1; printf '\\244\\n'", stream=True)
        await self.server.wait_for(lambda line: line.get("output") == "c1")
        self.assertNotIn("result", str(self.server.lines))
        result = await self.socketio_result("c1")
        self.assertEqual((result["stdout"], result["more"]), ("one\nä", {}))
        pieces = [line for line in self.server.lines if line.get("output") == "c1"]
        self.assertEqual([(piece["offset"], piece["data"]) for piece in pieces], [(0, "one\n"), (4, "ä\n")])

    async def check_timeout(self) -> None:
        """It is gone from the host, children and all, and the result says what is known of that."""
        mark, sleep = marked_sleep()
        self.order("c2", f"echo so far; ({sleep}) & {sleep}", timeout=3000, extended=True)
        result = await self.socketio_result("c2")
        self.assertEqual((result["stdout"], result["exitCode"]), ("so far", 1))
        self.assertEqual(result["more"]["error"]["code"], "timeout")
        self.assertIn(result["more"]["killed"], ("confirmed", "unconfirmed"))
        self.assertIn("The command timed out after 3 s", result["stderr"])
        while processes(mark):
            await deferLater(reactor, 0.1)

    async def check_cancel(self) -> None:
        mark, sleep = marked_sleep()
        self.order("c3", sleep)
        while not processes(mark):
            await deferLater(reactor, 0.05)
        self.server.send({"op": "emit", "name": "cancel_command", "data": {"commandId": "c3"}})
        result = await self.socketio_result("c3")
        self.assertIn("was cancelled while it ran", result["stderr"])
        while processes(mark):
            await deferLater(reactor, 0.1)

    async def test_no_secret_and_a_jump_host(self) -> None:
        """Both are the site's: the order names the host and the user."""
        jump = OpenSSHServer()
        await jump.start()
        self.addCleanup(jump.stop)
        folder = Path(tempfile.mkdtemp(prefix="relayd-test-site-"))
        self.addCleanup(shutil.rmtree, folder)
        for server, name in ((jump, "jump"), (host := OpenSSHServer(), "host")):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(server.key)
        await host.start()
        self.addCleanup(host.stop)
        (folder / "relayd.toml").write_text(
            f"""
            [[credentials]]
            hosts = ["[{jump.host}]:{jump.port}"]
            key-file = "jump"

            [[credentials]]
            hosts = ["127.0.0.0/8"]
            users = ["{host.user}"]
            key-file = "host"
            via = "{jump.host}:{jump.port}"
            """
        )
        await self.begin("socketio_server.js", "--config", str(folder / "relayd.toml"))
        self.order("c1", "echo ok", port=host.port, privateKey=None)
        result = await self.socketio_result("c1")
        self.assertEqual((result["stdout"], result["stderr"]), ("ok", ""))
        self.assertEqual((jump.connection_count(), host.connection_count()), (1, 1))
        self.order("c2", "true", port=host.port, privateKey=None, username="somebody")
        result = await self.socketio_result("c2")
        self.assertIn("no credential of its own for somebody@127.0.0.1", result["stderr"])
