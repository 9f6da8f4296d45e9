"""
Somebody sets the system's clock: a real relay under libfaketime, whose time of day jumps while commands run and wait.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from relayd.hub import Hub, HubSettings
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.relays import Relayd
from tests.support.sshd import OpenSSHServer

LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
DAY = 86_400


def libfaketime() -> str:
    """Debian's package ``faketime`` has it."""
    return next(str(path) for folder in LIBRARIES if (path := Path(folder, "faketime/libfaketime.so.1")).exists())


class ClockTests(TestCase):
    """The time of day is the relay's only: main server and SSH server go by the real one."""

    timeout = 60

    async def begin(self) -> None:
        self.sshd = OpenSSHServer()
        await self.sshd.start()
        self.addCleanup(self.sshd.stop)
        # heartbeats every second, so that they are due around each jump
        self.hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)}, HubSettings(ping_interval=1, ping_timeout=2))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.hub.close()))
        port: Any = await self.hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        url = f"ws://127.0.0.1:{port.getHost().port}"
        self.relay = Relayd(url, "--dialect", "socketio", "--max-commands", "2", "--connect-timeout", "5s")
        self.offset = self.relay.directory / "offset"
        self.set_time(0)
        self.addCleanup(self.relay.remove)
        self.relay.start(
            LD_PRELOAD=libfaketime(),
            FAKETIME_TIMESTAMP_FILE=str(self.offset),
            FAKETIME_NO_CACHE="1",
            # two spellings of two versions: nobody can set the steady clock, so libfaketime shall not either
            FAKETIME_DONT_FAKE_MONOTONIC="1",
            DONT_FAKE_MONOTONIC="1",
        )
        await self.hub.when_connected(Relayd.proxy_id)

    def set_time(self, seconds: int) -> None:
        """Set the relay's clock, as in one step: it must never read half a file."""
        new = self.offset.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        os.replace(new, self.offset)

    def execute(self, command_id: str, command: str, timeout: float = 20) -> Deferred[CommandResult]:
        order = ExecuteCommand(
            command_id=command_id,
            server_id=1,
            host=self.sshd.host,
            port=self.sshd.port,
            username=self.sshd.user,
            command=command,
            private_key=Secret(self.sshd.key),
            timeout=timeout,
            extended=True,
        )
        return self.hub.execute(Relayd.proxy_id, order)

    async def jump(self, seconds: int) -> None:
        """The clock is set while one command runs into its timeout, one runs, and two wait for their turn."""
        await self.begin()
        await self.execute("first", "true")
        link = self.hub.relays[Relayd.proxy_id]
        late = self.execute("late", "sleep 30", timeout=5)
        done = [self.execute(f"c{number}", f"sleep 4; echo {number}") for number in range(3)]
        await deferLater(reactor, 1)
        self.set_time(seconds)
        began = reactor.seconds()
        result = await late
        self.assertEqual((result.details.error or {}).get("code"), "timeout", self.relay.log)
        self.assertLess(2, reactor.seconds() - began, "it ended early")
        self.assertLess(reactor.seconds() - began, 15, "it ended late")
        outputs = [(result.stdout, result.exit_code) for result in await gatherResults(done)]
        self.assertEqual(outputs, [(str(number), 0) for number in range(3)], self.relay.log)
        self.assertEqual((await self.execute("next", "echo still here")).stdout, "still here")
        self.assertIs(self.hub.relays[Relayd.proxy_id], link, "the connection did not survive")
        self.assertNotIn("Traceback", self.relay.log)
        # the log goes by the time of day: it shows that the relay was really told another one
        days = {line[:10] for line in self.relay.output if line.startswith("20")}
        self.assertGreater(len(days), 1, self.relay.log)

    async def test_a_day_forward(self) -> None:
        await self.jump(DAY)

    async def test_a_day_back(self) -> None:
        await self.jump(-DAY)
