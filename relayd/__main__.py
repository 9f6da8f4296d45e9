"""
The console scripts ``relayd`` and ``relayd-hub``: the service in the foreground, as
``twistd --nodaemon --pidfile= relayd`` runs it.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module
from typing import Any


def main() -> None:
    """Run relayd until a signal ends it. Its options are those of ``twistd relayd``."""
    _run("relayd", "relayd.tap")


def hub() -> None:
    """Run the hub until a signal ends it. Its options are those of ``twistd relayd-hub``."""
    _run("relayd-hub", "relayd.hub_tap")


def _run(program: str, tap: str) -> None:
    from relayd.process.standard_streams import open_standard_streams

    open_standard_streams()
    arguments = sys.argv[1:]
    if "--help" in arguments or "--version" in arguments:
        _answer(program, tap, arguments)
    gc.disable()  # imports leave almost no garbage, and a look for it takes a tenth of their time
    from twisted.scripts.twistd import run

    gc.freeze()
    gc.enable()
    sys.argv = [program, "--nodaemon", "--pidfile=", program, *arguments]
    run()


def _answer(program: str, tap: str, arguments: list[str]) -> None:
    """Print what was asked for, and end the process; twistd would tell of its own options."""
    asked: Any = import_module(tap).Options()
    asked.synopsis = f"Usage: {program} {asked.synopsis}"
    try:
        try:
            asked.parseOptions(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as with | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


if __name__ == "__main__":
    main()
