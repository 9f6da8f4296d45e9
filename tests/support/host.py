"""
Stands in for an SSH server's process for one connection: starts commands, then a shell that looks for them.

    python host.py '{"commands": [[ARG…]…], "shell": [PROGRAM, ARG…], "path": "…", "environment": {…}, "sessions": …}'

:param path: where the shell finds programs.
:param sessions: whether each is the leader of a session of its own, as with OpenSSH; if not, all are in this
    process's, as with dropbear.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys


def main() -> None:
    """Runs until the shell ends; without one, until it is ended."""
    told = json.loads(sys.argv[1])
    environment, sessions = told["environment"], told["sessions"]
    if not sessions:
        os.setsid()
    for argv in told["commands"]:
        subprocess.Popen(
            argv, env=environment, start_new_session=sessions, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
    if told["shell"]:
        program, *argv = told["shell"]
        environment["PATH"] = told["path"]
        subprocess.run(argv, executable=program, env=environment, start_new_session=sessions, check=False)
    else:
        signal.pause()


if __name__ == "__main__":
    main()
