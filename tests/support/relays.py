"""
Relays as real processes: relayd under twistd, and the specification's example on Node.js.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.internet.defer import Deferred

from tests.support.process import ChildProcess

ROOT = Path(__file__).resolve().parent.parent.parent


def relayd_command(url: str, proxy_id: str, key_file: Path, state: Path, options: Sequence[str] = ()) -> list[str]:
    """
    The command line of relayd under twistd, which logs to ``twistd.log`` in *state*.

    :param state: a directory for its known hosts and its journal.
    :param options: further options of relayd.
    """
    twistd = Path(sys.executable).with_name("twistd")  # not resolved: in a virtual environment that is a link
    uplink = ["--server", url, "--proxy-id", proxy_id, "--api-key-file", str(key_file)]
    local = ["--state-dir", str(state), "--host-keys", "accept-new"]
    return [str(twistd), "-n", "--pidfile=", f"--logfile={state / 'twistd.log'}", "relayd", *uplink, *local, *options]


def example_command(url: str, proxy_id: str, key_file: Path) -> list[str]:
    """The command line of the specification's example relay."""
    script = ROOT / "benchmarks" / "peers" / "example_relay.js"
    return [shutil.which("node") or "node", str(script), url, proxy_id, str(key_file)]


class RelayProcess:
    """
    One relay as a child process.

    :ivar output: what it wrote to its standard streams so far, line by line.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.output: list[str] = []
        self._argv = list(argv)
        self._process = ChildProcess(lambda _, line: self.output.append(line))

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._process.transport.pid)

    def start(self) -> None:
        """Start it; the main server tells when it has connected."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process.start(self._argv, env={**os.environ, "PYTHONPATH": path})

    def stop(self) -> Deferred[int]:
        """End it; fires with its exit code."""
        return self._process.terminate()
