"""
relayctl as a process: what becomes of its output, and of an interruption.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

RELAYCTL = str(Path(sys.executable).with_name("relayctl"))


class OutputTests(SynchronousTestCase):
    """Where it cannot be written, or not all of it."""

    def run_into(self, output: int, *words: str) -> tuple[int, str]:
        """Exit code and errors of relayctl with its output to that descriptor."""
        # argparse takes no notice of what it cannot write, so nothing must be written before the end.
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            [RELAYCTL, *words], stdout=output, stderr=subprocess.PIPE, text=True, check=False, timeout=60, env=environ
        )
        return done.returncode, done.stderr

    def test_a_reader_that_has_seen_enough(self) -> None:
        """``| head`` ends it without a word: whether all of it is written at the end, or much before that."""
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        key = Path(directory, "api-key")
        key.write_text("k" * 40)
        key.chmod(0o600)
        read, write = os.pipe()
        os.close(read)
        self.addCleanup(os.close, write)
        settings = ("--server", "wss://m", "--proxy-id", "p", "--api-key-file", str(key), "--state-dir", directory)
        for words in (("--help",), ("--version",), ("status", "--help"), ("config", *settings)):
            self.assertEqual(self.run_into(write, *words), (128 + signal.SIGPIPE, ""), words)

    def test_a_full_disk(self) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, full)
        self.assertEqual(self.run_into(full, "--version"), (1, "relayctl: [Errno 28] No space left on device\n"))

        done = self.run_into(full, "check", "--server", "wss://m")
        self.assertEqual(done, (1, "relayctl: [Errno 28] No space left on device\n"))

    def test_streams_that_are_closed(self) -> None:
        """As with ``>&-``: what would be written there goes nowhere, and no file gets the number of one of them."""
        for words, code in (("--version", 0), ("bogus", 2), ("config --server wss://m", 1), ("status --url unix:/", 1)):
            shell = f"'{RELAYCTL}' {words} <&- >&-"
            done = subprocess.run(["sh", "-c", shell], stderr=subprocess.PIPE, text=True, check=False, timeout=60)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertNotIn("Traceback", done.stderr)

    def test_characters_that_the_locale_does_not_have(self) -> None:
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        settings = ("--server", "wss://m", "--proxy-id", "密码", "--api-key-file", "/k", "--state-dir", directory)
        environ = {**os.environ, "PYTHONIOENCODING": "latin-1"}
        done = subprocess.run(
            [RELAYCTL, "config", *settings], capture_output=True, check=False, timeout=60, env=environ
        )
        self.assertNotIn(b"Traceback", done.stderr)
        self.assertRegex(done.stdout, rb"proxy-id +\?\? ")

    def test_ctrl_c(self) -> None:
        """While a relay, or what is in its place, takes its time to answer."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            asking = subprocess.Popen([RELAYCTL, "status", "--url", url], stderr=subprocess.PIPE)
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                asking.send_signal(signal.SIGINT)
                _, errors = asking.communicate(timeout=60)
        self.assertEqual((asking.returncode, errors), (128 + signal.SIGINT, b""))
