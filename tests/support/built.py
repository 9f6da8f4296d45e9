"""
What is built of this source, once for all processes that run tests, and kept until the source changes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from hashlib import sha256
from pathlib import Path

from tests.support.relays import ROOT

#: The deadline of any process here, in seconds.
PATIENCE = 300
NOT_SOURCE = (
    *(".*_cache", ".git", ".hypothesis", ".venv*", "*.egg-info", "__pycache__", "_trial_temp*", "build", "dist"),
    *("dropin.cache", "node_modules"),
)
#: Seconds after which what was built of another source is removed: no run takes so long.
KEPT = 24 * 3600


def run(*words: str, cwd: Path) -> str:
    """Run a command that must succeed, without this process's own search path; gives what it printed."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    done = subprocess.run(words, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Built:
    """A copy of the source, which nobody may change, and what was built from it."""

    source: Path
    sdist: Path
    wheel: Path


@cache
def built() -> Built:
    """Built by the first who asks; the others wait for it."""
    directory = _once("packages", _build)
    return Built(directory / "source", *directory.glob("*.tar.gz"), *directory.glob("*.whl"))


@cache
def site() -> tuple[Path, str]:
    """The site of the documents, made by the first who asks, and what its making printed."""
    directory = _once("site", _build_site)
    return directory / "site", (directory / "said").read_text("utf-8")


def _once(name: str, build: Callable[[Path], None]) -> Path:
    """What *build* makes in a directory of this source, whole or not at all, once for all processes."""
    place = ROOT / "build" / "tests" / name
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = place / _digest()
        if not directory.exists():
            with tempfile.TemporaryDirectory(dir=place, prefix="unfinished-") as unfinished:
                made = Path(unfinished, "made")
                made.mkdir()
                build(made)
                made.rename(directory)
            for other in place.iterdir():
                if other.is_dir() and other.stat().st_mtime < time.time() - KEPT:
                    shutil.rmtree(other)
    return directory


def _build(made: Path) -> None:
    source = made / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    for kind in ("sdist", "wheel"):
        script = f"import setuptools.build_meta as backend; backend.build_{kind}({str(made)!r})"
        run(sys.executable, "-c", script, cwd=source)


def _build_site(made: Path) -> None:
    """As ``make docs`` does."""
    words = (sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-b", "html")
    argv = [*words, "-d", f"{made}/doctrees", str(ROOT / "docs"), f"{made}/site"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    said = done.stdout + done.stderr + (f"status {done.returncode}" if done.returncode else "")
    (made / "said").write_text(said, "utf-8")


def _digest() -> str:
    """Of names, sizes and times of all that is source."""
    digest = sha256()
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if _is_source(name))
        for name in sorted(filter(_is_source, files)):
            path = Path(folder, name)
            status = path.lstat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def _is_source(name: str) -> bool:
    return not any(fnmatch(name, pattern) for pattern in NOT_SOURCE)
