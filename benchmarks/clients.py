"""
The SSH clients that benchmarks/ssh.py measures, and the SSH servers that they are measured on.

Each client is a process of its own (benchmarks/peers/ssh_*), given the path of a JSON file with ``user``,
``key``, ``known_hosts``, ``targets``, ``command``, ``keepalive`` and ``sessions`` (that a connection may have).  It
writes ``{"ready": true}``, and then answers each line of its standard input with one line: ``{"do": "work", "count",
"concurrency"}`` by `Tally.report` of benchmarks/peers/tally.py, ``{"do": "settle"}`` (collect garbage) by ``{}``.  Its
first work for a target opens the connection.  Its CPU time and memory are read from outside.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater

from benchmarks.run import awaiting, cpu_seconds
from tests.support.process import ChildProcess, PeerFailed
from tests.support.sshd import OpenSSHServer

HERE = Path(__file__).resolve().parent
#: What commands are, and seconds between two probes of a connection.
COMMAND, KEEPALIVE = "echo hello", 15
#: How each is called, with ``{}`` for the path of the setup.
PEERS = {
    "relayd": [sys.executable, "ssh_relayd.py", "{}"],
    "conch": [sys.executable, "ssh_conch.py", "{}"],
    "conch-quiet": [sys.executable, "ssh_conch.py", "{}", "quiet"],
    "asyncssh": [sys.executable, "ssh_asyncssh.py", "{}"],
    "ssh2": ["node", "--expose-gc", "ssh_ssh2.js", "{}"],
    "openssh": [sys.executable, "ssh_openssh.py", "{}"],
}
#: Sessions on one connection that sshd allows by default.
DEFAULT_SESSIONS = 10
#: Seconds that a client may take for what it is asked.
PATIENCE = 1800
#: Seconds until one that does not end by itself is ended.
STOP_GRACE = 10


class Driver:
    """
    One client under measurement.

    :param setup: path of what it reads first.
    """

    def __init__(self, reactor: Any, name: str, setup: Path) -> None:
        program, *arguments = PEERS[name]
        self.name = name
        self._reactor = reactor
        self._argv = [shutil.which(program) or program, *(argument.format(setup) for argument in arguments)]
        self._process = ChildProcess(self._on_line)
        self._errors: list[str] = []
        self._waiting: Deferred[dict[str, Any]] | None = None

    def start(self) -> Deferred[dict[str, Any]]:
        """Fires when it is ready."""
        ready = self._expect()
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        self._process.start(self._argv, cwd=str(HERE / "peers"), env=os.environ | {"PYTHONPATH": path})
        self._process.when_ended().addCallback(self._ended)
        return ready

    async def stop(self) -> None:
        """End it: by the end of its requests, or else by force."""
        if self._process.exit_code is None:
            self._process.transport.closeStdin()
            try:
                await self._process.when_ended().addTimeout(STOP_GRACE, self._reactor)
            except TimeoutError:
                await self._process.terminate()

    async def work(self, count: int, concurrency: int, **more: Any) -> dict[str, Any]:
        """
        Have it run *count* commands, *concurrency* at a time.

        :return: its report, with ``cpu``: the seconds of CPU time that it took.
        """
        before = cpu_seconds(self._pid)
        report = await self._ask({"do": "work", "count": count, "concurrency": concurrency, **more})
        return {"cpu": cpu_seconds(self._pid) - before} | report

    async def memory_kilobytes(self) -> int:
        """What it holds for itself alone, without garbage (proc(5), ``/proc/PID/smaps_rollup``)."""
        await self._ask({"do": "settle"})
        text = Path(f"/proc/{self._pid}/smaps_rollup").read_text()
        return sum(int(size) for size in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.MULTILINE))

    async def idle(self, seconds: float) -> float:
        """Leave it alone for so long; gives its CPU seconds."""
        before = cpu_seconds(self._pid)
        await deferLater(self._reactor, seconds)
        return cpu_seconds(self._pid) - before

    @property
    def _pid(self) -> int:
        return int(self._process.transport.pid)

    def _ask(self, request: dict[str, Any]) -> Deferred[dict[str, Any]]:
        answer = self._expect()
        self._process.write_line(json.dumps(request))
        return answer

    def _expect(self) -> Deferred[dict[str, Any]]:
        waiting: Deferred[dict[str, Any]] = Deferred()
        self._waiting = waiting
        return waiting.addTimeout(PATIENCE, self._reactor)

    def _on_line(self, descriptor: int, line: str) -> None:
        if descriptor == 1:
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                waiting.callback(json.loads(line))
        else:
            self._errors.append(line)

    def _ended(self, code: int) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(PeerFailed("\n".join([f"{self.name} ended with {code}", *self._errors[-20:]])))


class Hosts(OpenSSHServer):
    """
    A real SSH server that logs no more than it does by default.

    :param addresses: of loopback, on which it listens: to a client each is a host of its own.
    """

    def __init__(self, addresses: Sequence[str], config_lines: Sequence[str] = ()) -> None:
        super().__init__(["LogLevel INFO", *config_lines])
        self.host = addresses[0]
        self.addresses = addresses

    def _configuration(self) -> list[str]:
        more = [f"ListenAddress {address}:{self.port}" for address in self.addresses[1:]]
        return [*super()._configuration(), *more]


async def start_hosts(
    stack: AsyncExitStack,
    count: int,
    *,
    each: int = 1,
    sessions: int = DEFAULT_SESSIONS,
    config_lines: Sequence[str] = (),
) -> Path:
    """
    Start servers that are *count* hosts; *stack* ends them.

    :param each: how many hosts one server is.
    :param sessions: how many they allow on one connection.
    :return: the path of the setup for drivers.
    """
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relayd-bench-")))
    targets: list[tuple[str, int]] = []
    known_hosts: list[str] = []
    key, authorized = "", ""
    addresses = [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]
    for start in range(0, count, each):
        server = Hosts(addresses[start : start + each], [f"MaxSessions {sessions}", *config_lines])
        stack.push_async_callback(awaiting(server.stop))
        if not key:
            key, authorized = server.key, (server.directory / "authorized_keys").read_text().strip()
        server.authorize(authorized)  # one key opens them all
        await server.start()
        targets += [(address, server.port) for address in server.addresses]
        known_hosts += [f"[{address}]:{server.port} {server.host_keys[0]}\n" for address in server.addresses]
    (directory / "known_hosts").write_text("".join(known_hosts))
    (directory / "key").touch(mode=0o600)
    (directory / "key").write_text(key)
    setup = {
        "user": server.user,
        "key": str(directory / "key"),
        "known_hosts": str(directory / "known_hosts"),
        "targets": targets,
        "command": COMMAND,
        "keepalive": KEEPALIVE,
        "sessions": sessions,
    }
    (directory / "setup.json").write_text(json.dumps(setup))
    return directory / "setup.json"
