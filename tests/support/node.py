"""
A real Node.js server as peer: a script of tests/node/ that talks in JSON lines on its standard streams.
"""

from __future__ import annotations

import atexit
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from tests.support.process import PeerFailed
from tests.support.script import ScriptServer

DIRECTORY = Path(__file__).resolve().parent.parent / "node"


def _node() -> str:
    node = shutil.which("node")
    if node is None or not (DIRECTORY / "node_modules").is_dir():
        raise PeerFailed("node or its packages are missing; tests/bootstrap.sh installs them")
    return node


class NodeServer(ScriptServer):
    """``node tests/node/SCRIPT ARGS…``"""

    def __init__(self, script: str, *args: str) -> None:
        super().__init__([_node(), str(DIRECTORY / script), *args], str(DIRECTORY))


class SharedNodeServer(NodeServer):
    """The same in a process that all of these share: a script that has servers of HTTP and HTTPS and nothing else."""

    def make_process(self) -> Any:
        return _Part(self._on_line)


@cache
def _shared() -> str:
    """The path of the socket of ``many.js``, which goes on until this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="relayd-node-")
    path = f"{folder.name}/socket"
    process = subprocess.Popen(
        [_node(), str(DIRECTORY / "many.js"), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=DIRECTORY
    )
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline() != b"listening\n":
        raise PeerFailed(f"many.js ended with {process.wait()}")

    def end() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    return path


class _Part(LineOnlyReceiver):
    """
    One script in the shared process, which is to its user as a `tests.support.process.ChildProcess`.

    :param on_line: called with 1, for standard output, and each line.
    """

    delimiter = b"\n"
    MAX_LENGTH = 1 << 26
    transport: Any

    def __init__(self, on_line: Callable[[int, str], None]) -> None:
        self.exit_code: int | None = None
        self._on_line = on_line
        self._waiting: list[Deferred[int]] = []
        self._begun: Deferred[Any] | None = None

    def start(self, argv: Sequence[str], *, cwd: str | None = None) -> None:
        """Run it; *argv* is as for a process of its own."""
        from twisted.internet import reactor  # trial's, which is chosen before any test runs

        first = json.dumps({"script": argv[1], "argv": argv[2:]}).encode()
        self._begun = connectProtocol(UNIXClientEndpoint(reactor, _shared()), self)
        self._begun.addCallbacks(lambda _: self.sendLine(first), lambda _: self.connectionLost())

    def write_line(self, text: str) -> None:
        """Give it a line."""
        self.sendLine(text.encode())

    def lineReceived(self, line: bytes) -> None:
        self._on_line(1, line.decode("utf-8", "replace"))

    def when_ended(self) -> Deferred[int]:
        """Fires with 0."""
        if self.exit_code is not None or self._begun is None:
            return succeed(0)
        waiting: Deferred[int] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def terminate(self) -> Deferred[int]:
        """End it, and all that is connected to its servers; fires once it has ended."""
        if self.exit_code is None and self._begun is not None:
            self._begun.addCallback(lambda _: self.transport.loseWriteConnection())
        return self.when_ended()

    kill = terminate

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.exit_code = 0
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(0)
