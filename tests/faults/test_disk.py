"""
The disk under the state directory: full, read-only, its journal damaged or removed, and used by two relays at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.internet.threads import deferToThread

from tests.support.account import run_privileged
from tests.support.ledger_case import LedgerCase
from tests.support.relays import Relayd


class DiskTests(LedgerCase):
    """Each is told in clear words, and nothing runs that cannot be recorded."""

    async def one(self, command_id: str) -> str:
        """Run a command; gives what its result says."""
        self.order(command_id, f"echo {command_id}")
        await self.ledger.until(lambda: command_id in self.ledger.results)
        result = self.ledger.results[command_id][0]
        return str(result["stdout"] or result["stderr"])

    async def begin_on_small_disk(self) -> Path:
        """The state directory is a file system of 2 MB."""
        await self.begin(relay=False)
        disk = Path(tempfile.mkdtemp(prefix="relayd-test-disk-"))
        owner = f"uid={os.geteuid()},gid={os.getegid()},mode=700"
        run_privileged(["mount", "-t", "tmpfs", "-o", f"size=2m,{owner}", "tmpfs", str(disk)])

        def unmount() -> None:
            run_privileged(["umount", "-l", str(disk)])
            disk.rmdir()

        self.addCleanup(unmount)
        await self.begin_relay("--state-dir", str(disk))
        return disk

    def fill(self, disk: Path) -> Path:
        """Leave no room on *disk*; gives the file that takes it."""
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        return filler

    async def checked(self) -> str:
        """What ``relayctl check`` says of the relay's settings."""
        script = "import sys; from relayd.ctl.main import main; sys.exit(main())"
        relayctl = [sys.executable, "-c", script, "check", *self.relay.options()]
        done = await deferToThread(subprocess.run, relayctl, capture_output=True, text=True, check=False, timeout=120)
        return str(done.stdout)

    async def test_full_at_the_start(self) -> None:
        """One line says so, whatever is there already, and relayctl check tells before; with room it goes on."""
        disk = await self.begin_on_small_disk()
        self.assertEqual(await self.one("c1"), "c1")
        await self.kill_relay()
        for missing in ("journal", "fingerprint-key", "lock"):
            if missing == "journal":
                shutil.rmtree(disk / missing)
            else:
                (disk / missing).unlink()
            filler = self.fill(disk)
            before = len(self.relay.output)
            self.relay.start()
            self.assertEqual(await self.relay.ended(), 1, missing)
            self.assertNotIn("Traceback", "\n".join(self.relay.output[before:]))
            line = self.relay.output[-1]
            self.assertRegex(line, "relayd: --state-dir: .* cannot be used: .*(No space left on device|disk is full)")
            found = await self.checked()
            self.assertRegex(found, "fault +state directory +cannot write to .*: No space left on device; make room")
            self.assertEqual(list(disk.glob("fingerprint-key?*")), [], "each start would leave one")
            filler.unlink()
        self.assertRegex(await self.checked(), "ok +state directory")
        self.relay.start()
        await self.ledger.ready()
        self.assertEqual(await self.one("c2"), "c2")

    async def test_full(self) -> None:
        disk = await self.begin_on_small_disk()
        self.assertEqual(await self.one("c1"), "c1")
        filler = self.fill(disk)
        # The file system has set some room aside for the journal; long ids use it up soon.
        answers = [await self.one(f"full{number}-{'x' * 200}") for number in range(50)]
        refused = [answer for answer in answers if "accepts no new ones: the disk is full; make room" in answer]
        self.assertGreater(len(refused), 10, answers)
        self.assertEqual(self.executions.counts().total(), 1 + len(answers) - len(refused))
        filler.unlink()
        self.assertEqual(await self.one("c2"), "c2")
        self.check_books()
        self.assert_logged("The journal can be written again")
        self.assertNotIn("Traceback", self.relay.log)

    async def test_read_only(self) -> None:
        disk = await self.begin_on_small_disk()
        self.assertEqual(await self.one("c1"), "c1")
        # A file system with files open for writing cannot be made read-only; taking its place can.
        run_privileged(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)])
        self.addCleanup(run_privileged, ["umount", "-l", str(disk)])
        self.assertIn("somebody removed or replaced its file", await self.one("c2"))
        self.assertEqual(self.executions.counts().total(), 1)
        await self.relay.signal(signal.SIGKILL)
        before = len(self.relay.output)
        self.relay.start()
        self.assertEqual(await self.relay.ended(), 78)
        self.assertEqual(
            self.relay.output[before:],
            [
                f"relayd: --state-dir: {disk} cannot be used: this user cannot write to {disk}; name a directory that "
                "it can write to; under systemd, leave --state-dir out"
            ],
        )

    async def test_damaged(self) -> None:
        """Overwritten in the middle: what can be read is not forgotten, and it is told."""
        await self.begin()
        for number in range(40):
            self.order(f"c{number}", f"echo {number}")
        await self.ledger.until(lambda: len(self.ledger.results) == 40)
        await self.relay.signal(signal.SIGTERM)
        journal = self.relay.directory / "journal" / "journal.sqlite3"
        content = bytearray(journal.read_bytes())
        middle = len(content) // 4096 // 2 * 4096
        content[middle : middle + 4096] = os.urandom(4096)
        journal.write_bytes(content)
        self.relay.start()
        await self.ledger.ready()
        self.assertEqual(await self.one("new"), "new")
        self.assert_logged("The journal was damaged. It is kept as ")
        self.assertTrue(list(journal.parent.glob("*.damaged-*")))
        known = 0
        for number in range(40):
            self.ledger.order(f"c{number}", **self.ledger.ordered[f"c{number}"])
        await self.ledger.until(lambda: all(len(self.ledger.acked[f"c{number}"]) == 2 for number in range(40)))
        await self.settled()
        ran = self.executions.counts()
        known = sum(ran[f"c{number}"] == 1 for number in range(40))
        self.assertGreater(known, 10, "saved from the damaged file")

    async def test_removed_while_it_runs(self) -> None:
        await self.begin()
        self.assertEqual(await self.one("c1"), "c1")
        shutil.rmtree(self.relay.directory / "journal")
        self.assertIn("somebody removed or replaced its file; restart relayd", await self.one("c2"))
        self.assertEqual(self.executions.counts().total(), 1)

    async def test_two_relays_on_one_directory(self) -> None:
        await self.begin()
        second = Relayd(self.ledger.url, "--state-dir", str(self.relay.directory))
        self.addCleanup(second.remove)
        second.start()
        self.assertEqual(await second.ended(), 1)
        self.assertRegex(
            second.output[-1],
            rf"relayd: --state-dir: .* is in use by another relayd \(process {self.relay.pid}\); give each relay",
        )
        self.assertNotIn("Traceback", second.log)
        self.assertEqual(await self.one("c1"), "c1")
        self.assertEqual(self.ledger.connections, 1)
        # A crash leaves no lock behind.
        await self.kill_relay()
        second.start()
        await self.ledger.ready()
        self.assertEqual(await self.one("c2"), "c2")
