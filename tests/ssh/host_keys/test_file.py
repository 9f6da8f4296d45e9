"""
Adding to known_hosts without a lock: beside other processes, beside whoever holds one, and where the file is none.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from threading import Thread

from relayd.ssh.errors import HostKeyChanged, HostKeyRevoked, KnownHostsUnusable, SSHError
from relayd.ssh.host_keys import file as hostfile
from relayd.ssh.host_keys import known_hosts as hostkeys
from relayd.ssh.host_keys.file import MAX_SIZE
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.host_keys.known_hosts_lines import parse_known_hosts
from tests.ssh.host_keys.test_known_hosts import ONE, TWO, KnownHostsTestCase
from tests.support.costly import locked
from tests.support.relays import ROOT
from tests.support.ssh import blob_of

#: Adds hosts with a key of its own, and says which of them it was let.
ADDER = """
import base64, sys
from relayd.ssh.errors import SSHError
from relayd.ssh.host_keys.known_hosts import KnownHosts
known = KnownHosts(sys.argv[1], "accept-new")
for number in range(int(sys.argv[3])):
    try:
        known.verify(f"host{number}", 22, base64.b64decode(sys.argv[2]))
    except SSHError as error:
        print(number, error.code)
    else:
        print(number, "mine")
"""


class HostFileCase(KnownHostsTestCase):
    """With what may block."""

    def in_time(self, function: Callable[[], None]) -> SSHError | None:
        """The error that *function* ends with; it has to end."""
        errors: list[SSHError | None] = []

        def run() -> None:
            try:
                function()
            except SSHError as error:
                errors.append(error)
            else:
                errors.append(None)

        thread = Thread(target=run, daemon=True)
        thread.start()
        thread.join(20)
        self.assertFalse(thread.is_alive(), "it waits for somebody")
        return errors[0]

    def held(self) -> list[tuple[str, bytes]]:
        """The lines that count."""
        with self.path.open() as file:
            return [(entry.names, entry.blob) for entry in parse_known_hosts(iter(file.readlines()))]


class FullTests(HostFileCase):
    """A file that somebody has made grow: who orders commands can name hosts without end."""

    def test_what_is_known_stays_known(self) -> None:
        self.write(f"host {ONE}\n")
        known = self.known("accept-new")
        self.patch(hostfile, "MAX_GROWN", 4096)
        self.patch(hostfile, "MAX_SIZE", 8192)
        errors: list[SSHError] = []
        for number in range(100):
            try:
                known.verify("evil", 22, blob_of(TWO), f"way{number}:22")
            except SSHError as error:
                errors.append(error)
        self.assertTrue(errors)
        self.assertIsInstance(errors[0], KnownHostsUnusable)
        self.assertIn("remove lines that are not needed", str(errors[0]))
        self.assertLessEqual(self.path.stat().st_size, 4096)
        for again in (known, self.known("accept-new"), self.known("strict")):
            again.verify("host", 22, blob_of(ONE))
            self.assertRaises(HostKeyChanged, again.verify, "host", 22, blob_of(TWO))


class BlockedTests(HostFileCase):
    """What would block, if it were waited for."""

    def test_locked_by_somebody_else(self) -> None:
        self.write(f"other {TWO}\n")
        with locked(str(self.path)):
            self.assertIsNone(self.in_time(lambda: self.known("accept-new").verify("host", 22, blob_of(ONE))))
        self.assertTrue(self.accepts("host"))

    def test_a_pipe(self) -> None:
        os.mkfifo(self.path)
        for policy in ("accept-new", "strict"):
            error = self.in_time(lambda policy=policy: self.known(policy).verify("h", 22, blob_of(ONE)))  # type: ignore[misc]
            self.assertIsInstance(error, KnownHostsUnusable)
            self.assertIn("it is not a file", str(error))

    def test_a_device(self) -> None:
        for path in ("/dev/zero", "/dev/tty", "/dev/null"):
            error = self.in_time(lambda path=path: KnownHosts(path, "accept-new").verify("h", 22, blob_of(ONE)))  # type: ignore[misc]
            self.assertIsInstance(error, KnownHostsUnusable, path)

    def test_as_large_as_no_such_file_is(self) -> None:
        with self.path.open("wb") as file:
            file.truncate(MAX_SIZE + 1)
        error = self.in_time(lambda: self.known("accept-new").verify("h", 22, blob_of(ONE)))
        self.assertIsInstance(error, KnownHostsUnusable)
        self.assertIn("it is too large", str(error))
        self.assertEqual(self.path.stat().st_size, MAX_SIZE + 1)


class LeftOpenTests(HostFileCase):
    """Nothing stays open of what cannot be used: a relay asks with each connection."""

    def test_what_is_no_file(self) -> None:
        """A directory is what container engines make of a file to mount that is not there."""
        directory, pipe = self.directory / "directory", self.directory / "pipe"
        directory.mkdir()
        os.mkfifo(pipe)
        for path in (directory, pipe):
            before = os.listdir("/proc/self/fd")
            known = KnownHosts(str(path), "accept-new")
            error = self.assertRaises(KnownHostsUnusable, known.verify, "host", 22, blob_of(ONE))
            self.assertEqual(os.listdir("/proc/self/fd"), before)
            self.assertIn("it is not a file", str(error))


class AtTheSameTimeTests(HostFileCase):
    """Others write to the file between our look at it and our line."""

    def meanwhile(self, function: Callable[[], object]) -> None:
        """Have *function* called once, just before a line is added."""
        append, left = hostfile.append, [function]

        def after(path: str, text: str) -> hostfile.Added | None:
            if left:
                left.pop()()
            return append(path, text)

        self.patch(hostkeys, "append", after)

    def add(self, public: str = ONE) -> None:
        self.known("accept-new").verify("host", 22, blob_of(public))

    def test_another_key_came_first(self) -> None:
        for before in ("", "# a comment", f"other {TWO}\n"):
            self.write(before)
            self.meanwhile(lambda: self.add(TWO))
            error = self.assertRaises(HostKeyChanged, self.add)
            self.assertIn("line", str(error))
            self.assertNotIn(("host", blob_of(ONE)), self.held())
            self.assertEqual(self.held().count(("host", blob_of(TWO))), 1)
            self.assertFalse(self.accepts("host", ONE))
            self.assertTrue(self.accepts("host", TWO))

    def test_the_same_key_came_first(self) -> None:
        self.meanwhile(self.add)
        self.add()
        self.assertTrue(self.accepts("host"))

    def test_another_host_came_first(self) -> None:
        known = self.known("accept-new")
        self.meanwhile(lambda: self.known("accept-new").verify("other", 22, blob_of(TWO)))
        known.verify("host", 22, blob_of(ONE))
        self.assertRaises(HostKeyChanged, known.verify, "other", 22, blob_of(ONE))
        self.assertEqual(self.held(), [("other", blob_of(TWO)), ("host", blob_of(ONE))])

    def test_revoked_meanwhile(self) -> None:
        self.meanwhile(lambda: self.write(f"@revoked * {ONE}\n"))
        self.assertRaises(HostKeyRevoked, self.add)
        self.assertNotIn(("host", blob_of(ONE)), self.held())

    def test_replaced_while_the_line_is_written(self) -> None:
        """As ``ssh-keygen -R`` does: the file that had the line is gone."""
        self.write(f"other {TWO}\n")
        fsync = os.fsync
        replaced: list[int] = []

        def replace(descriptor: int) -> None:
            fsync(descriptor)
            if not replaced:
                replaced.append(1)
                copy = self.directory / "copy"
                copy.write_text(f"other {TWO}\n")
                copy.rename(self.path)

        self.patch(os, "fsync", replace)
        self.add()
        self.assertEqual(self.held(), [("other", blob_of(TWO)), ("host", blob_of(ONE))])

    def test_replaced_for_ever(self) -> None:
        def replace(_descriptor: int) -> None:
            shutil.copy(os.devnull, self.directory / "copy")
            (self.directory / "copy").rename(self.path)

        self.patch(os, "fsync", replace)
        error = self.assertRaises(KnownHostsUnusable, self.add)
        self.assertIn("other programs keep replacing it", str(error))

    def test_a_disk_that_is_full_half_way(self) -> None:
        write = os.write
        for length in range(0, 84, 4):
            self.write("# a comment")
            self.patch(os, "write", lambda to, data, length=length: write(to, data[:length]))
            error = self.assertRaises(KnownHostsUnusable, self.add)
            self.assertIn("No space left on device", str(error))
            self.assertEqual(self.held(), [])
            self.patch(os, "write", write)
            self.add()
            self.assertEqual(self.held(), [("host", blob_of(ONE))])

    def test_many_processes(self) -> None:
        """Each has keys of its own for the same hosts: of each host there is one key in the end, and one winner."""
        hosts = 40
        keys = [base64.b64encode(blob_of(ONE)[:-1] + bytes((number,))).decode() for number in range(4)]
        running = [
            subprocess.Popen(
                [sys.executable, "-c", ADDER, str(self.path), key, str(hosts)],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for key in keys
        ]
        said = [process.communicate(timeout=100)[0].split("\n")[:-1] for process in running]
        for number in range(hosts):
            outcomes = [lines[number].split()[1] for lines in said]
            self.assertEqual(sorted(set(outcomes)), ["host-key-changed", "mine"], outcomes)
            (winner,) = [keys[at] for at, outcome in enumerate(outcomes) if outcome == "mine"]
            held = [blob for names, blob in self.held() if names == f"host{number}"]
            self.assertEqual(held, [base64.b64decode(winner)])
