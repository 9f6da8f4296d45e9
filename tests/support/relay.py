"""
The relay as its operator runs it: ``twistd -n relayd`` in a process and a directory of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred

from tests.support.process import ChildProcess

ROOT = Path(__file__).resolve().parent.parent.parent


class RelayProcess:
    """
    One ``twistd -n relayd``.

    :param server: URL of the main server.
    :param options: more command line options, as ``--max-commands``, ``8``.
    :ivar log_lines: what it logged so far.
    """

    proxy_id = "proxy-1"
    api_key = "test-key-" * 5

    def __init__(self, server: str, *options: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-relay-"))
        self.log_lines: list[str] = []
        key = self.directory / "api-key"
        key.touch(mode=0o600)
        key.write_text(self.api_key + "\n")
        self._words = ["--server", server, "--proxy-id", self.proxy_id, "--api-key-file", str(key), *options]
        self._process = ChildProcess(lambda _, line: self.log_lines.append(line))

    @property
    def log(self) -> str:
        """All that it logged so far."""
        return "\n".join(self.log_lines)

    def start(self) -> None:
        """Start it; whether it has reached the main server is for that to say."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        environ.update(PYTHONPATH=str(ROOT), RELAYD_STATE_DIR=str(self.directory / "state"))
        script = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
        argv = [sys.executable, "-c", script, "-n", "relayd", *self._words]
        self._process.start(argv, cwd=str(self.directory), env=environ)

    def signal(self, number: signal.Signals) -> Deferred[int]:
        """Send it a signal; fires with its exit code once it has ended."""
        ended = self._process.when_ended()
        if self._process.exit_code is None:
            self._process.transport.signalProcess(number.value)
        return ended

    def stop(self) -> Deferred[int]:
        """End it, drained or not, and remove its directory; fires with its exit code."""

        def remove(code: int) -> int:
            shutil.rmtree(self.directory, ignore_errors=True)
            return code

        return self.signal(signal.SIGKILL).addCallback(remove)
