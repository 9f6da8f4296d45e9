"""
Streaming, cancelling and asking for the state of a command: hub, uplink and dispatcher over loopback, in both dialects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from relayd.commands.dispatcher import Dispatcher, Limits
from relayd.hub import Hub, HubSettings
from relayd.journal.memory import MemoryJournal
from relayd.uplink.service import UplinkService
from relayd.uplink.settings import UplinkSettings
from relayd.wire.dialects import native, socketio
from relayd.wire.messages import (
    Become,
    CommandOutput,
    CommandResult,
    CommandState,
    ExecuteCommand,
    Fetch,
    File,
    JumpHost,
    Pty,
    Script,
    Secret,
)
from tests.support.dispatching import HeldRunner, command

KEY = "k3y-" + "x" * 40
DIALECTS = (socketio.NAME, native.NAME)


class ExtensionTests(TestCase):
    """The runner is the test's; all else is real."""

    timeout = 60.0

    async def begin(self, dialect: str, max_payload: int = 1_000_000) -> None:
        hub = self.hub = Hub(reactor, {"r1": Secret(KEY)}, HubSettings(max_payload=max_payload))
        self.addCleanup(lambda: Deferred.fromCoroutine(hub.close()))
        port = await hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        self.runner = HeldRunner()
        limits = Limits(max_commands=1, max_queue=10, default_timeout=60.0, max_timeout=60.0)
        self.dispatcher = Dispatcher(reactor, self.runner, MemoryJournal(), limits)
        url = f"http://127.0.0.1:{port.getHost().port}"  # type: ignore[attr-defined]
        uplink = self.uplink = UplinkService(
            reactor,
            self.dispatcher,
            UplinkSettings(server=url, proxy_id="r1", read_api_key=lambda: Secret(KEY), dialect=dialect),  # type: ignore[arg-type]
        )
        uplink.startService()
        self.addCleanup(uplink.stopService)
        await hub.when_connected("r1")

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await deferLater(reactor, 0.005)

    def execute(self, order: ExecuteCommand, **keywords: Any) -> Deferred[CommandResult]:
        return self.hub.execute("r1", order, **keywords)

    async def test_every_field_arrives(self) -> None:
        order = command(
            "c1",
            certificate="cert",
            cwd="~/x y",
            env=(("A", "1"), ("B", "")),
            stdin=b"\xff\0",
            encoding="base64",
            stream=True,
            script=Script(interpreter="bash", args=("x",)),
            files=(File(path="/x", content=b"\xff", mode=0o644), File(path="~/y", content=b"x", content_is_text=True)),
            fetch=(Fetch(path="/x", max_bytes=5),),
            pty=Pty(cols=100),
            become=Become(user="app", password=Secret("b")),
            via=(JumpHost(host="gate", port=2222, username="u", password=Secret("p")),),
        )
        for dialect in DIALECTS:
            await self.begin(dialect)
            done = self.execute(order)
            await self.until(lambda: self.runner.runs)
            self.assertEqual(self.runner.runs[0].command, order)
            self.runner.runs[0].finish()
            await done

    async def test_streaming(self) -> None:
        data = "héllo wörld €😀\n".encode() * 20_000
        for dialect in DIALECTS:
            for encoding in ("utf-8", "base64"):
                # only one of the dialects tells how much the main server takes
                await self.begin(dialect, max_payload=20_000 if dialect == socketio.NAME else 1_000_000)
                got: list[CommandOutput] = []
                done = self.execute(command("c1", encoding=encoding), on_output=got.append)
                await self.until(lambda: self.runner.runs)
                run = self.runner.runs[0]
                for start in range(0, len(data), 30_001):
                    waiting = run.write(data[start : start + 30_001], start)
                    if waiting is not None:
                        await waiting
                run.finish("whole")
                self.assertEqual((await done).stdout, "whole")
                ends = 0
                for output in got:
                    self.assertEqual((output.offset, output.stream), (ends, "stdout"))
                    part = msgspec.convert(output.data, bytes) if output.encoding else output.data.encode()
                    self.assertEqual(part, data[ends : ends + len(part)])
                    ends += len(part)
                self.assertEqual(ends, len(data), "all of it has come, before the result")

    async def test_cancelling_and_asking(self) -> None:
        for dialect in DIALECTS:
            await self.begin(dialect)
            running, waiting = self.execute(command("c1", extended=True)), self.execute(command("c2", extended=True))
            await self.until(lambda: self.runner.runs)
            states = [(await self.hub.status("r1", each)).state for each in ("c1", "c2", "c3")]
            self.assertEqual(states, [CommandState.RUNNING, CommandState.QUEUED, CommandState.UNKNOWN])
            answers = [await self.hub.cancel("r1", each) for each in ("c2", "c1", "c3")]
            found = [None if answer is None else answer.state.value for answer in answers]
            self.assertEqual(found, ["queued", "running", "unknown"] if dialect == socketio.NAME else [None] * 3)
            for done, executed in ((waiting, "no"), (running, "unknown")):
                error = (await done).details.error or {}
                self.assertEqual((error["code"], error["executed"]), ("cancelled", executed))
            self.assertEqual((self.runner.ids(), self.runner.cancelled), (["c1"], ["c1"]))
            self.assertEqual((await self.hub.status("r1", "c1")).state, CommandState.FINISHED)

    async def test_output_goes_on_after_a_reconnect(self) -> None:
        for dialect in DIALECTS:
            await self.reconnect(dialect)

    async def reconnect(self, dialect: str) -> None:
        await self.begin(dialect)
        got: list[CommandOutput] = []
        done = self.execute(command("c1"), on_output=got.append)
        await self.until(lambda: self.runner.runs)
        run = self.runner.runs[0]
        run.write(b"one")
        await self.until(lambda: got)
        await self.uplink.stopService()
        run.write(b"lost", 3)
        self.uplink.startService()
        await self.until(lambda: self.dispatcher._streams.link is not None)
        run.write(b"two", 7)
        run.finish("one lost two")
        self.assertEqual((await done).stdout, "one lost two")
        self.assertEqual([(output.offset, output.data) for output in got], [(0, "one"), (7, "two")])
