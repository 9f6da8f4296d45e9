"""
Processes of Python that need not import what they run: children of this process that `tests.support.fork_server` forks.

Each has its own process id, is waited for and signalled as any other child, and behaves as if it had been started
with execve(2), but for what ``/proc/PID/cmdline`` shows.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IProcessProtocol
from twisted.internet.process import Process

from tests.support.fork_server import LARGEST, can_fork

ROOT = Path(__file__).resolve().parent.parent.parent
#: What an interpreter, or a library that it loads, reads when it starts and never again.
_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_", "GLIBC_", "OPENSSL_", "SSL_")
#: Those need a process that starts as all others do.
_NEVER = ("COVERAGE_", "WATCHED_")


def can_spawn(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether a fork can become this process: a script that this same Python runs, with the same settings of Python."""
    return (
        can_fork()
        and _is_script(argv[0])
        and not any(name.startswith(_NEVER) for name in environ)
        and _at_start(environ) == _at_start(usual_environ())
    )


@cache
def usual_environ() -> dict[str, str]:
    """What processes of tests have in their environment: no option of relayd, and the folder that has relayd."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
    return environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))}


class ForkedProcess(Process):
    """As what ``reactor.spawnProcess`` returns, for a script of Python, ``argv[0]``."""

    def __init__(
        self, reactor: Any, protocol: IProcessProtocol, argv: Sequence[str], environ: Mapping[str, str], cwd: str | None
    ) -> None:
        super().__init__(reactor, argv[0], list(argv), dict(environ), cwd, protocol)

    def _fork(
        self, path: str | None, uid: None, gid: None, executable: str, args: Any, environment: Any, **kwargs: Any
    ) -> None:
        request = {
            "argv": args,
            "environ": environment,
            "cwd": path or os.getcwd(),
            "umask": _umask(),
            "limits": [(number, resource.getrlimit(number)) for number in _LIMITS],
        }
        self.pid = _ask(json.dumps(request).encode(), [kwargs["fdmap"][number] for number in range(3)])
        self.status = -1


_LIMITS = {value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}


def _ask(request: bytes, descriptors: list[int]) -> int:
    assert len(request) < LARGEST
    server = _server()
    socket.send_fds(server, [request], descriptors)
    answer = server.recv(4)
    if not answer:
        raise RuntimeError("the fork server has ended")
    return int.from_bytes(answer, "big")


def _is_script(program: str) -> bool:
    try:
        with open(program, "rb") as file:
            return file.readline(1000) == b"#!%s\n" % os.fsencode(sys.executable)
    except OSError:
        return False


def _at_start(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(_AT_START)}


@cache
def _server() -> socket.socket:
    """The socket of the server, which goes on until this process ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=usual_environ(),
            pass_fds=(theirs.fileno(),),
        )

    def end() -> None:
        ours.close()
        process.communicate()

    atexit.register(end)
    return ours


def _umask() -> int:
    """Of this process; os.umask(2) cannot tell without changing it."""
    found = re.search(r"^Umask:\s*(\d+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1], 8)
