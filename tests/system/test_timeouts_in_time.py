"""
Timeouts at the known main server, which waits as long as it ordered and no longer: answers arrive before that.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from tests.support.relays import Relayd
from tests.support.ssh import end_marked_sleeps, marked_sleep, processes
from tests.system.test_end_to_end import EndToEndCase

#: Milliseconds.
TIMEOUT = 5000


class InTimeTests(EndToEndCase):
    """A real relay, and a real sshd."""

    async def begin_at_gateway(self, *options: str) -> None:
        self.addCleanup(end_marked_sleeps)
        await self.begin("gateway.js", "--dialect", "socketio", *options)

    def give(self, command_id: str, command: str, **changes: Any) -> Any:
        data = self.data(command_id, command, **{"timeout": TIMEOUT, **changes})
        self.server.send({"proxyId": Relayd.proxy_id, "data": data})
        return self.server.wait_for(lambda line: line.get("answer") == command_id, 60)

    async def test_fifty(self) -> None:
        """Ten at a time, with what they wrote until then; and in the end nothing of them is left on the host."""
        await self.begin_at_gateway()
        marker, sleep = marked_sleep()
        answers = []
        for number in range(50):
            answers.append(self.give(f"c{number}", f"echo begun {number}; {sleep}"))
            if number % 10 == 9:
                await deferLater(reactor, 1)
        told = await gatherResults(answers)
        for number, answer in enumerate(told):
            self.assertNotIn("error", answer, f"too late; {self.relay.log[-2000:]}")
            self.assertEqual((answer["stdout"], answer["exitCode"]), (f"begun {number}", 1))
            self.assertIn("timed out after 5 s", answer["stderr"])
            self.assertGreater(answer["left"], 0)
        self.assertFalse([line for line in self.server.lines if "late" in line])
        while processes(marker):
            await deferLater(reactor, 0.1)

    async def test_beside_a_flood(self) -> None:
        """
        A command that writes without an end and does not heed the signal: its result is long and in time as well, and
        makes none of the others late. The margin is a tenth of the timeout at most: with less than a second of it, all
        were 20 to 100 ms late in some runs on two processors that had other work as well.
        """
        await self.begin_at_gateway("--timeout-margin", "1500ms")
        marker, sleep = marked_sleep()
        answers = [self.give("flood", f"trap '' TERM; yes & {sleep}; {sleep}", timeout=15_000)]
        answers += [self.give(f"c{number}", f"echo begun; {sleep}", timeout=15_000) for number in range(10)]
        told = await gatherResults(answers)
        self.assertFalse([answer for answer in told if "error" in answer], self.relay.log[-2000:])
        self.assertGreater(len(told[0]["stdout"]), 500_000)  # what Socket.IO takes by default
        self.assertEqual({answer["stdout"] for answer in told[1:]}, {"begun"})
        while processes(marker):
            await deferLater(reactor, 0.1)

    async def test_what_does_not_run(self) -> None:
        """In the queue of a host, or waiting for one that does not answer: told in time as well."""
        await self.begin_at_gateway()
        _, sleep = marked_sleep()
        answers = [self.give(f"c{number}", sleep, timeout=5000) for number in range(60)]
        listening = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        for timeout in (3000, 5000):
            silent = {"host": "127.0.0.1", "port": listening.getHost().port, "timeout": timeout}
            answers.append(self.give(f"silent{timeout}", "true", **silent))
        for answer in await gatherResults(answers):
            self.assertNotIn("error", answer, answer)
            self.assertIn("timed out after", answer["stderr"])
        self.assertFalse([line for line in self.server.lines if "late" in line])
