"""
A process that has imported what a relay needs, and whose forks become relays: ``python -m tests.support.fork_server``.

To import all of it is most of what a start costs.  What asks for a child is `tests.support.forks`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import runpy
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

#: The greatest size of one request, in bytes; it is sent as one message.
LARGEST = 128 * 1024
#: clone(2): the child's parent is that of the caller, which waits for it as for any other child of its own.
_CLONE_PARENT = 0x8000
_CLONE = {"x86_64": 56, "aarch64": 220}
#: None of them installs a reactor or starts a thread.
_MODULES = (
    "twisted.internet.epollreactor",
    "twisted.scripts.twistd",
    "relayd.tap",
    "relayd.service",
    "relayd.audit.log",
    "relayd.audit.keeping",
    "relayd.journal.durable",
    "relayd.journal.store",
    "relayd.network.loop_turns",
    "relayd.process.systemd",
    "relayd.status.server",
    "relayd.status.sources",
)


def can_fork() -> bool:
    """Whether this machine can do it."""
    return sys.platform == "linux" and os.uname().machine in _CLONE


def _fork() -> int:
    """fork(2) with another parent: it returns the process id, and 0 in the child."""
    number, flags, nothing = map(ctypes.c_long, (_CLONE[os.uname().machine], _CLONE_PARENT | signal.SIGCHLD, 0))
    system = ctypes.PyDLL(None, use_errno=True)  # which keeps the interpreter's lock
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = system.syscall(number, flags, nothing, nothing, nothing, nothing)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")
    return pid


def _warm_up() -> None:
    gc.disable()  # as a start does: relayd.process.garbage
    for name in _MODULES:
        import_module(name)
    from twisted.application.service import IServiceMaker
    from twisted.plugin import getPlugins

    list(getPlugins(IServiceMaker))
    if "twisted.internet.reactor" in sys.modules:
        raise RuntimeError("a reactor is installed, which no two processes can share")
    gc.freeze()
    gc.enable()


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork at each request. This returns in a child, with its request, and at the end, with nothing."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, LARGEST, 3)
        if not message:
            return None
        pid = _fork()
        if pid == 0:
            requests.close()
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
            os.closerange(3, 1 << 20)
            return dict(json.loads(message))
        for descriptor in descriptors:
            os.close(descriptor)
        requests.sendall(pid.to_bytes(4, "big", signed=True))


def _become(request: dict[str, Any]) -> None:
    """Go on as ``python ARGV``, as if it had just been started."""
    argv: list[str] = request["argv"]
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    for number, limits in request["limits"]:
        if resource.getrlimit(number) != tuple(limits):
            resource.setrlimit(number, tuple(limits))
    sys.orig_argv[:] = [sys.executable, *argv]
    sys.argv[:] = argv
    Path("/proc/self/comm").write_text(os.path.basename(argv[0])[:15])  # which programs in messages are named after
    sys.path[0] = os.path.dirname(argv[0])
    runpy.run_path(argv[0], run_name="__main__")


def main() -> None:
    """Serve until the process that started this has closed its socket; each child runs its script."""
    _warm_up()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        _become(request)


if __name__ == "__main__":
    main()
