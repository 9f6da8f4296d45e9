"""
The relay is killed, again and again, at any point of a command's life.
"""

from __future__ import annotations

import contextlib  # "suppress" in a module of tests is trial's
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.support.ledger_case import LedgerCase

#: How often it is killed, and how many commands are at some point of their lives then.
KILLS = 12
COMMANDS = 20


class KillTests(LedgerCase):
    """kill -9"""

    async def test_at_random_points_of_a_commands_life(self) -> None:
        source = random.Random(20_26)
        folder = Path(tempfile.mkdtemp(prefix="relayd-test-audit-"))
        self.addCleanup(shutil.rmtree, folder)
        await self.begin("--max-commands", "6", "--audit-log", str(folder / "audit.log"))
        for kill in range(KILLS):
            for number in range(COMMANDS):
                self.order(f"c{kill}-{number}", f"sleep {source.choice(('0', '0', '0.05', '0.2', '5'))}; echo done")
                await deferLater(reactor, source.uniform(0, 0.04))
            await deferLater(reactor, source.uniform(0, 0.3))
            await self.kill_relay()
            self.relay.start()
            await self.ledger.ready()
        await self.settled()
        self.check_books()
        outcomes = Counter(self.outcome(results[0]) for results in self.ledger.results.values())
        # It hit every part of a command's life.
        self.assertEqual(set(outcomes), {"done", "not run", "unknown"}, outcomes)
        self.assertGreaterEqual(len(self.ledger.ordered), 200)
        self.assertEqual(await self.relay.signal(signal.SIGTERM), 0)
        self.check_audit(folder / "audit.log")

    def check_audit(self, path: Path) -> None:
        """The chain is whole in spite of the kills, and what the relay found unfinished has an end there."""
        relayctl = Path(sys.executable).with_name("relayctl")
        seal = self.relay.directory / "audit-seal"
        argv = [str(relayctl), "audit", "verify", "--seal", str(seal), str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        self.assertNotIn("without the seal", done.stdout)
        self.assertNotIn(b'"foreign"', path.read_bytes())  # no kill passes for a forgery
        ended = set()
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # one that a kill tore
                entry = json.loads(line)
                if entry["event"] == "ended":
                    ended.add(entry["commandId"])
        # Of other commands the end may be missing: a kill takes what happened in the last twentieth of a second.
        recovered = {key for key, results in self.ledger.results.items() if self.outcome(results[0]) != "done"}
        self.assertEqual(recovered - ended, set())
        self.assertGreater(len(recovered), 50)

    def outcome(self, result: dict[str, object]) -> str:
        if result["exitCode"] == 0:
            return "done"
        text = str(result["stderr"])
        return "not run" if "before it ran" in text else "unknown" if "is not known" in text else text

    async def test_after_the_result_and_before_the_receipt(self) -> None:
        """The result comes again, the same bytes, and the command does not run again."""
        await self.begin(receipts=lambda _: [])
        for number in range(5):
            command_id = f"c{number}"
            self.order(command_id, "echo done; date +%N")
            await self.ledger.until(lambda: command_id in self.ledger.results)  # noqa: B023  # awaited here
            await self.kill_relay()
            self.relay.start()
            await self.ledger.ready()
            await self.ledger.until(lambda: len(self.ledger.results[command_id]) > 1)  # noqa: B023
        self.check_books()
        self.assertEqual({len(self.ledger.results[f"c{number}"]) for number in range(5)}, {2, 3, 4, 5, 6})

    async def test_command_that_comes_again_after_the_kill(self) -> None:
        """A main server that sends again what it has no result of."""
        await self.begin(receipts=lambda _: [])
        self.order("ran", "echo done")
        self.order("runs", "sleep 60")
        await self.ledger.until(lambda: "ran" in self.ledger.results and self.executions.counts()["runs"])
        await self.kill_relay()
        self.relay.start()
        await self.ledger.ready()
        for command_id in ("ran", "runs"):
            self.ledger.order(command_id, **self.ledger.ordered[command_id])
        await self.ledger.until(lambda: "runs" in self.ledger.results and len(self.ledger.results["ran"]) >= 3)
        self.check_books()
        self.assertIn("is not known", self.ledger.results["runs"][0]["stderr"])
