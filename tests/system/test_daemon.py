"""
twistd's ways to run a relay as a daemon: process id file, umask, user and group; and log files that others rotate.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[2]
TWISTD = str(Path(sys.executable).with_name("twistd"))
#: The deadline of anything here, in seconds.
PATIENCE = 60


class DaemonCase(SynchronousTestCase):
    """Has a directory, and a relay in it whose main server is away."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.state = self.directory / "state"
        self.state.mkdir()
        self.pid_file, self.log_file = self.state / "relayd.pid", self.state / "relayd.log"
        self.key = self.directory / "key"
        self.key.touch(mode=0o600)
        self.key.write_text("k" * 40)
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        self.environ["PYTHONPATH"] = str(ROOT)

    def relay(self) -> list[str]:
        words = ["relayd", "--server", "ws://127.0.0.1:9", "--proxy-id", "p", "--api-key-file", str(self.key)]
        return [*words, "--state-dir", str(self.state), "--reconnect-delay", "500ms"]

    def daemon(self, *options: str) -> int:
        """A relay that runs as a daemon; gives its process id."""
        words = [TWISTD, f"--pidfile={self.pid_file}", f"--logfile={self.log_file}", *options, *self.relay()]
        done = subprocess.run(words, env=self.environ, capture_output=True, text=True, check=False, timeout=PATIENCE)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        self.until(self.pid_file.exists)
        pid = int(self.pid_file.read_text())
        self.addCleanup(self.kill, pid)
        self.until(lambda: "Next attempt in" in self.log_file.read_text())
        return pid

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline:
                self.fail(f"not in {PATIENCE} s: {self.log_file.exists() and self.log_file.read_text()}")
            time.sleep(0.05)

    def kill(self, pid: int) -> None:
        if self.alive(pid):
            os.kill(pid, signal.SIGKILL)

    def alive(self, pid: int) -> bool:
        """Whether the process lives, and is still this relay."""
        try:
            return str(self.state).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False

    def stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        self.until(lambda: not self.alive(pid))
        log = self.log_file.read_text()
        self.assertIn("relayd has stopped", log)
        self.assertNotIn("Traceback", log)

    def status(self, pid: int) -> dict[str, str]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class DaemonTests(DaemonCase):
    """Options of twistd."""

    def test_daemon(self) -> None:
        """It is a child of nobody here, its files are private, and its process id file goes with it."""
        pid = self.daemon()
        status = self.status(pid)
        self.assertNotEqual(status["PPid"], str(os.getpid()))
        self.assertEqual(status["Umask"], "0077")
        self.check_sigusr1(pid)
        self.check_a_second_one_does_not_start()
        self.stop(pid)
        self.assertFalse(self.pid_file.exists())

    def check_sigusr1(self, pid: int) -> None:
        """It moves the log of twistd aside."""
        os.kill(pid, signal.SIGUSR1)
        aside = self.log_file.with_name("relayd.log.1")
        self.until(lambda: aside.exists() and self.log_file.exists() and "Next attempt" in self.log_file.read_text())
        self.assertIn("starts as p", aside.read_text())
        self.assertNotIn("starts as p", self.log_file.read_text())

    def check_a_second_one_does_not_start(self) -> None:
        words = [TWISTD, f"--pidfile={self.pid_file}", f"--logfile={self.log_file}", *self.relay()]
        done = subprocess.run(words, env=self.environ, capture_output=True, text=True, check=False, timeout=PATIENCE)
        self.assertEqual(done.returncode, 1)
        self.assertIn("Another twistd server is running", done.stdout + done.stderr)

    def test_user_and_group_and_umask(self) -> None:
        """All that it writes is that user's, who owns the state directory and can read the key."""
        nobody = pwd.getpwnam("nobody")
        os.chmod(self.directory, 0o711)
        for path in (self.state, self.key):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        pid = self.daemon("--uid", str(nobody.pw_uid), "--gid", str(nobody.pw_gid), "--umask", "027")
        status = self.status(pid)
        self.assertEqual(status["Uid"].split(), [str(nobody.pw_uid)] * 4)
        self.assertEqual(status["Gid"].split(), [str(nobody.pw_gid)] * 4)
        self.assertEqual(set(status["CapEff"]), {"0"})
        self.assertEqual(status["Umask"], "0027")
        self.stop(pid)
        self.assertFalse(self.pid_file.exists())
        owners = {path.name: path.owner() for path in self.state.rglob("*") if path != self.log_file}
        self.assertEqual(set(owners.values()), {"nobody"}, owners)
        modes = {path.name: path.stat().st_mode & 0o777 for path in (self.state / "journal").iterdir()}
        self.assertEqual({mode & 0o007 for mode in modes.values()}, {0}, modes)


class RotationTests(DaemonCase):
    """What goes with which kind of log."""

    def test_logrotate_with_standard_output(self) -> None:
        """As ``StandardOutput=append:`` has it: after the file was emptied, it goes on at its beginning."""
        rules = self.directory / "rules"
        text = (ROOT / "packaging" / "logrotate" / "relayd").read_text()
        self.assertIn("\n/var/log/relayd/relayd.log {", text)
        text = text.replace("/var/log/relayd/relayd.log", str(self.log_file))
        rules.touch(mode=0o600)
        rules.write_text(text)
        with self.log_file.open("ab") as log:
            relay = subprocess.Popen([TWISTD, "-n", "--pidfile=", *self.relay()], env=self.environ, stdout=log)
        self.addCleanup(relay.wait)
        self.addCleanup(relay.kill)
        self.until(lambda: "Next attempt in" in self.log_file.read_text())
        words = ["logrotate", "--force", "--state", str(self.directory / "memory"), str(rules)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.until(lambda: "Next attempt in" in self.log_file.read_text())
        relay.terminate()
        self.assertEqual(relay.wait(PATIENCE), 0)
        log_text, aside = self.log_file.read_text(), self.log_file.with_name("relayd.log.1").read_text()
        self.assertIn("starts as p", aside)
        self.assertNotIn("starts as p", log_text)
        self.assertIn("relayd has stopped", log_text)
        self.assertNotIn("\0", log_text)
