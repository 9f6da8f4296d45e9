"""
A real relay under twistd whose main server goes and comes: readiness, its log, and ``relayctl status``.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from relayd.config.listen_address import listen_address
from relayd.ctl.main import main
from relayd.ctl.status import _connector
from relayd.errors import MISTAKES
from relayd.hub import Hub
from relayd.wire.messages import ExecuteCommand, Secret
from tests.status.test_server import free_port
from tests.support.process import ChildProcess
from tests.support.relays import Relayd
from tests.support.sshd import OpenSSHServer


class StatusProcessTests(TestCase):
    """``twistd relayd --status``."""

    timeout = 60

    async def ask(self, endpoint: str, path: str) -> tuple[int, str]:
        """One GET, in a thread: status and body."""

        def get() -> tuple[int, str]:
            connection = _connector(listen_address(endpoint))()
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
            finally:
                connection.close()

        return await deferToThread(get)

    async def when(self, endpoint: str, code: int) -> str:
        """Wait until ``/readyz`` says so; gives its words."""
        while True:
            try:
                got, text = await self.ask(endpoint, "/readyz")
            except OSError:
                got, text = 0, ""
            if got == code:
                return text
            await deferLater(reactor, 0.05)

    async def listen(self, port: int) -> Hub:
        hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)})
        await hub.listen(TCP4ServerEndpoint(reactor, port, interface="127.0.0.1"))
        self.addCleanup(lambda: Deferred.fromCoroutine(hub.close()))
        return hub

    async def relayctl(self, *words: str) -> tuple[str, str, int]:
        """Its output, errors and exit code, without a process."""
        self.patch(os, "environ", {**os.environ, "COLUMNS": "90"})
        output, errors = io.StringIO(), io.StringIO()

        def run() -> int:
            try:
                return main(["status", *words])
            except SystemExit as end:
                return int(str(end.code))

        with redirect_stdout(output), redirect_stderr(errors):
            code = await deferToThread(run)
        return output.getvalue(), errors.getvalue(), code

    async def relayctl_process(self, *words: str) -> tuple[str, str, int]:
        program = str(Path(sys.executable).with_name("relayctl"))
        output, errors, code = await getProcessOutputAndValue(program, ["status", *words], env={"COLUMNS": "90"})
        return output.decode(), errors.decode(), code

    def relay(self, url: str, *options: str) -> Relayd:
        relay = Relayd(url, "--reconnect-delay", "200ms", *options)
        self.addCleanup(relay.remove)
        relay.start()
        return relay

    async def test_readiness_follows_the_main_server(self) -> None:
        port, endpoint = free_port(), f"tcp:127.0.0.1:{free_port()}"
        relay = self.relay(f"ws://127.0.0.1:{port}", "--status", endpoint)
        self.assertIn("the main server has not accepted it", await self.when(endpoint, 503))
        self.assertEqual((await self.ask(endpoint, "/healthz"))[0], 200)
        for _ in range(2):
            hub = await self.listen(port)
            await self.when(endpoint, 200)
            output, _, code = await self.relayctl("--status", endpoint)
            self.assertEqual((code, output.split()[:2]), (0, ["proxy-1", "ready"]), output)
            await hub.close()
            await self.when(endpoint, 503)
            output, _, code = await self.relayctl("--status", endpoint)
            self.assertEqual(code, 1)
            self.assertIn("proxy-1  NOT READY", output)
        self.assertEqual(await relay.signal(signal.SIGTERM), 0)
        output, errors, code = await self.relayctl("--status", endpoint)
        where = endpoint.removeprefix("tcp:")
        self.assertEqual(
            (output, errors, code),
            ("", f"relayctl: The relay's status cannot be read from {where}: Connection refused.\n", 1),
        )

    async def test_a_command_from_its_receipt_to_its_confirmation(self) -> None:
        sshd = OpenSSHServer()
        await sshd.start()
        self.addCleanup(sshd.stop)
        port = free_port()
        hub = await self.listen(port)
        relay = self.relay(f"ws://127.0.0.1:{port}", "--log-format", "json", "--log-level", "debug")
        endpoint = f"unix:{relay.directory}/status"
        await relay.stop()
        relay._argv += ["--status", endpoint]
        relay.output.clear()
        relay.start()
        await self.when(endpoint, 200)

        def execute(command_id: str, text: str) -> Deferred[Any]:
            order = ExecuteCommand(
                command_id=command_id, server_id=1, host=sshd.host, port=sshd.port, username=sshd.user,
                command=text, password=Secret(sshd.password), timeout=60,
            )  # fmt: skip
            return hub.execute(Relayd.proxy_id, order)

        await execute("c-1", "echo canary-output")
        running = execute("c-2", "echo canary-output; sleep 30")
        running.addErrback(lambda _: None)
        document: dict[str, Any] = {}
        while [row["state"] for row in document.get("active", [])] != ["running"] or not document["recent"]:
            document = json.loads((await self.ask(endpoint, "/status"))[1])
            await deferLater(reactor, 0.1)
        self.assertEqual((document["active"][0]["id"], document["recent"][0]["id"]), ("c-2", "c-1"))
        self.assertEqual(document["hosts"][0]["connections"], 1)
        output, _, code = await self.relayctl_process("--url", endpoint)
        self.assertEqual(code, 0)
        self.assertEqual([line for line in output.splitlines() if len(line) > 90], [])
        self.assertIn("c-2", output)
        ended = relay.signal(signal.SIGTERM)
        self.assertIn("it is shutting down", await self.when(endpoint, 503))
        relay.signal(signal.SIGKILL)
        await ended
        lines = [json.loads(line) for line in relay.output]
        steps = [line["event"] for line in lines if line.get("id") == "c-1" and "event" in line]
        self.assertEqual(steps, ["accepted", "started", "sent", "finished", "confirmed"])
        self.assertNotIn("canary-output", relay.log)
        finished = next(line for line in lines if line.get("event") == "finished")
        self.assertEqual((finished["outcome"], finished["exit"], finished["stdout_bytes"]), ("ok", 0, 14))

    async def test_mistakes_are_one_line(self) -> None:
        relay = self.relay("ws://127.0.0.1:1", "--status", "tcp:0.0.0.0")
        self.assertEqual(await relay.ended(), MISTAKES)
        self.assertEqual(
            relay.output, ['relayd: --status: expected tcp:127.0.0.1:PORT or unix:/PATH, not "tcp:0.0.0.0"']
        )
        relay = self.relay("ws://127.0.0.1:1", "--status", "unix:/proc/status")
        self.assertEqual(await relay.ended(), 1)
        lines = [line for line in relay.output if "relayd: --status: cannot listen at unix:/proc/status: " in line]
        self.assertEqual(lines, relay.output[-1:], relay.log)

    async def test_relayctl_is_not_asked_properly(self) -> None:
        for words, said in (
            ((), "where is the relay?"),
            (("--url", "ftp://x"), "expected http://HOST:PORT or unix:/PATH"),
            (("--watch", "0"), "expected seconds"),
        ):
            _, errors, code = await self.relayctl(*words)
            self.assertEqual(code, 2, words)
            self.assertIn(said, errors)
            self.assertEqual(errors.count("\n"), 1)

    async def test_watching(self) -> None:
        """Each look stands for itself: a relay that is gone is waited for."""
        program = str(Path(sys.executable).with_name("relayctl"))
        looks: list[str] = []
        twice: Deferred[None] = Deferred()

        def on_line(_: int, line: str) -> None:
            looks.append(line)
            if len(looks) == 2:
                twice.callback(None)

        watcher = ChildProcess(on_line)
        watcher.start([program, "status", "--url", "http://127.0.0.1:1", "--watch", "0.5"])
        self.addCleanup(watcher.terminate)
        await twice
        watcher.transport.signalProcess("INT")
        self.assertEqual(await watcher.when_ended(), 1)
        self.assertIn("cannot be read from 127.0.0.1:1: Connection refused", looks[1])

    def test_a_relay_that_says_something_else(self) -> None:
        self.assertEqual(main(["status", "--url", "unix:/nowhere/at/all"]), 1)
