"""
Relays as real processes: relayd under twistd, and the specification's example on Node.js.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from twisted.internet.defer import Deferred

from tests.support.forks import usual_environ
from tests.support.process import ChildProcess

ROOT = Path(__file__).resolve().parent.parent.parent


def relayd_command(
    url: str, proxy_id: str, key_file: Path, state: Path, options: Sequence[str] = (), *, log_file: str = "twistd.log"
) -> list[str]:
    """
    The command line of relayd under twistd.

    :param state: a directory for its known hosts and its journal.
    :param options: further options of relayd.
    :param log_file: in *state*; ``-`` is standard output.
    """
    twistd = Path(sys.executable).with_name("twistd")  # not resolved: in a virtual environment that is a link
    uplink = ["--server", url, "--proxy-id", proxy_id, "--api-key-file", str(key_file)]
    local = ["--state-dir", str(state), "--host-keys", "accept-new"]
    return [
        str(twistd),
        "-n",
        "--pidfile=",
        f"--logfile={log_file if log_file == '-' else state / log_file}",
        "relayd",
        *uplink,
        *local,
        *options,
    ]


def example_command(url: str, proxy_id: str, key_file: Path) -> list[str]:
    """The command line of the specification's example relay."""
    script = ROOT / "benchmarks" / "peers" / "example_relay.js"
    return [shutil.which("node") or "node", str(script), url, proxy_id, str(key_file)]


class RelayProcess:
    """
    One relay as a child process.

    :ivar output: what it wrote to its standard streams so far, line by line.
    :ivar may_fork: whether a fork may become it, rather than a new process: not where the start itself is tested, or
        what is in its memory and under ``/proc``.
    """

    may_fork = True

    def __init__(self, argv: Sequence[str]) -> None:
        self.output: list[str] = []
        self._argv = list(argv)
        self._process = ChildProcess(lambda _, line: self.output.append(line))

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._process.transport.pid)

    def start(self, **environment: str) -> None:
        """
        Start it, for the first time or again, with more variables in its environment; the main server tells when it
        has connected.
        """
        if self._process.exit_code is not None:
            self._process = ChildProcess(lambda _, line: self.output.append(line))
        self._process.start(self._argv, env=usual_environ() | environment, may_fork=self.may_fork)

    def signal(self, number: signal.Signals) -> Deferred[int]:
        """Send it a signal; fires with its exit code once it has ended."""
        ended = self._process.when_ended()
        if self._process.exit_code is None:
            self._process.transport.signalProcess(number.value)
        return ended

    def ended(self) -> Deferred[int]:
        """Fires with its exit code once it has ended by itself."""
        return self._process.when_ended()

    def stop(self) -> Deferred[int]:
        """End it; fires with its exit code."""
        return self._process.terminate()


class Relayd(RelayProcess):
    """
    ``twistd -n relayd`` in a directory of its own.

    :param server: URL of the main server.
    :param options: more command line options, as ``--max-commands``, ``8``.
    """

    proxy_id = "proxy-1"
    api_key = "test-key-" * 5

    def __init__(self, server: str, *options: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-relay-"))
        key = self.directory / "api-key"
        key.touch(mode=0o600)
        key.write_text(self.api_key + "\n")
        super().__init__(relayd_command(server, self.proxy_id, key, self.directory, options, log_file="-"))

    def limit_descriptors(self, most: int) -> None:
        """Let it have so few, whatever it asks for."""
        self._argv = ["sh", "-c", f'ulimit -n {most}; exec "$@"', "sh", *self._argv]

    def options(self) -> list[str]:
        """Its own command line options, behind the name of the service."""
        return self._argv[self._argv.index("relayd") + 1 :]

    @property
    def log(self) -> str:
        """All that it logged so far."""
        return "\n".join(self.output)

    def remove(self) -> Deferred[int]:
        """End it, drained or not, and remove its directory; fires with its exit code."""

        def clear(code: int) -> int:
            shutil.rmtree(self.directory, ignore_errors=True)
            return code

        return self.signal(signal.SIGKILL).addCallback(clear)
