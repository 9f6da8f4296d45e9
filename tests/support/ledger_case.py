"""
What tests with a `Ledger` share: a relay process, an SSH server, and the count of what was lost and what ran twice.
"""

from __future__ import annotations

import signal
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.support.executions import Executions
from tests.support.ledger import Ledger
from tests.support.relays import Relayd
from tests.support.sshd import OpenSSHServer


class LedgerCase(TestCase):
    """
    Every test has all parts of its own.

    :ivar options: further options of the relay.
    """

    timeout = 600
    options: tuple[str, ...] = ("--reconnect-delay", "100ms")

    async def begin(self, *options: str, relay: bool = True, **settings: Any) -> None:
        """
        Start everything.

        :param relay: whether the relay too.
        :param settings: of the `Ledger`.
        """
        self.executions = Executions()
        self.addCleanup(self.executions.remove)
        self.sshd = OpenSSHServer(("MaxSessions 100", "MaxStartups 100:30:200"))
        await self.sshd.start()
        self.addCleanup(self.sshd.stop)
        self.ledger = Ledger(**settings)
        self.ledger.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.ledger.stop()))
        if relay:
            await self.begin_relay(*options)

    async def begin_relay(self, *options: str) -> None:
        """Start the relay, and wait until it has connected."""
        self.relay = Relayd(
            self.ledger.url, "--dialect", "native" if self.ledger.native else "socketio", *self.options, *options
        )
        self.addCleanup(self.relay.remove)
        self.relay.start()
        await self.ledger.ready()

    def order(self, command_id: str, rest: str = "true", **data: Any) -> None:
        """A command that leaves its mark on the host, and then does *rest*."""
        self.ledger.order(
            command_id,
            **{
                "host": self.sshd.host,
                "port": self.sshd.port,
                "username": self.sshd.user,
                "privateKey": self.sshd.key,
                "command": self.executions.command(command_id, rest),
                "timeout": 60_000,
                **data,
            },
        )

    async def kill_relay(self) -> None:
        """SIGKILL, and wait until it is gone."""
        await self.relay.signal(signal.SIGKILL)
        await self.ledger.until(lambda: self.ledger.link is None)

    async def settled(self) -> None:
        """Wait until every command that was acknowledged has a result."""
        await self.ledger.until(lambda: not self.ledger.without_result())

    def assert_logged(self, text: str) -> None:
        """The relay's log says so."""
        if text not in self.relay.log:
            raise self.failureException(f"{text!r} is not in the log of {len(self.relay.output)} lines")

    def check_books(self) -> None:
        """Nothing lost, nothing run twice, and the same result each time."""
        self.assertEqual(self.ledger.without_result(), [])
        self.assertEqual(self.executions.twice(), [])
        ran = self.executions.counts()
        for command_id, results in self.ledger.results.items():
            self.assertTrue(all(each == results[0] for each in results), results)
            if results[0]["exitCode"] == 0:
                self.assertEqual(ran[command_id], 1, command_id)
            if any(words in results[0]["stderr"] for words in ("before it ran", "it was not run")):
                self.assertEqual(ran[command_id], 0, command_id)
