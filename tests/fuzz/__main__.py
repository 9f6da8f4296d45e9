"""
``python -m tests.fuzz TARGET [SECONDS [DIRECTORY]]`` fuzzes one parser and sums up; ``replay TARGET FILE`` gives it one
input again.  Without arguments it names the targets.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.engine import MODULES, load

_STATUS = re.compile(r"#(\d+)\s.*?cov: (\d+)")


def fuzz(name: str, seconds: str = "60", directory: str = "") -> int:
    """Run the engine, show what it writes, and sum up: executions, executions in a second, edges, findings."""
    place = directory or tempfile.mkdtemp(prefix=f"relayd-fuzz-{name}-")
    count, edges, found, span = 0, 0, 0, "ended early"
    command = [sys.executable, "-m", "tests.fuzz.engine", name, seconds, place]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as engine:
        assert engine.stderr is not None
        for line in engine.stderr:
            print(line, end="", flush=True)
            status = _STATUS.match(line)
            if status:
                count, edges = max(count, int(status[1])), int(status[2])
            elif line.startswith("DONE "):
                count = int(line.split()[1])
                span = f"{seconds} s, {count / float(seconds):.0f} executions a second"
            found += line.startswith("FOUND ")
    print(f"{name}: {span}; {count} executions, {edges} edges, {found} found; see {place}")
    return engine.returncode


def replay(name: str, path: str) -> int:
    """One input, and the traceback of what it breaks."""
    load(name).run(Path(path).read_bytes())
    return 0


def main(arguments: list[str]) -> int:
    """The exit status."""
    if arguments[:1] == ["replay"]:
        return replay(*arguments[1:])
    if not arguments or arguments[0] not in MODULES:
        print("targets:", *MODULES)
        return 2 if arguments else 0
    return fuzz(*arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
