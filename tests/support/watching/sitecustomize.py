"""
Python runs this as it starts, where ``PYTHONPATH`` names this folder: a relay or a main server, installed or not, then
has its events checked (`tests.support.schemas`).

``WATCHED_EVENTS`` names a folder: each such process writes a file there, with a line ``event NAME`` for each kind of
event that it checked, and a line for each fault.
"""

import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[3]
#: By how they are started: as scripts, and by ``python -m``.
SCRIPTS, MODULES = ("relayd", "twistd", "twist"), ("relayd.hub", "relayd.demo")


def is_watched(argv: list[str]) -> bool:
    """Whether a command line is that of a relay or a main server."""
    script, *rest = [*argv[1:], ""]
    return os.path.basename(script) in SCRIPTS or (script == "-m" and rest[0] in MODULES)


def watch(folder: Path) -> None:
    """From now on, check all events of this process."""
    # Not all of `tests`, which a program should not have on its path, and which takes long to import.
    package = ModuleType("tests")
    package.__path__ = [str(ROOT / "tests")]
    sys.modules["tests"] = package
    from tests.support import schemas

    # A relay may go on as another user, or as a daemon.
    file = (folder / str(os.getpid())).open("a", buffering=1, encoding="utf-8")
    seen: set[str] = set()
    check = schemas.check

    def noting(direction: str, name: str, data: object) -> None:
        if name not in seen:
            seen.add(name)
            file.write(f"event {name}\n")
        check(direction, name, data)

    schemas.check = noting
    schemas.report = lambda fault: print(fault, file=file)
    schemas.watch()


if "WATCHED_EVENTS" in os.environ and is_watched(sys.orig_argv):
    watch(Path(os.environ["WATCHED_EVENTS"]))
