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
import venv
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from hashlib import sha256
from itertools import chain
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
    """
    A copy of the source, which nobody may change, and what was built from it.

    :ivar wheel_of_sdist: what the sdist builds, once it is unpacked somewhere else.
    """

    source: Path
    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


@cache
def built() -> Built:
    """Built by the first who asks; the others wait for it."""
    directory = once("packages", _build)
    wheels = (*directory.glob("*.whl"), *directory.glob("of-sdist/*.whl"))
    return Built(directory / "source", *directory.glob("*.tar.gz"), *wheels)


@cache
def installed() -> Path:
    """An environment in which pip has installed the wheel, and nothing else; nobody may change it."""
    return once("installed", _install)


@cache
def site() -> tuple[Path, str]:
    """The site of the documents, made by the first who asks, and what its making printed."""
    directory = once("site", _build_site, "docs", "relayd")
    return directory / "site", (directory / "said").read_text("utf-8")


def once(name: str, build: Callable[[Path], None], *folders: str) -> Path:
    """
    What *build* makes in a directory of this source, whole or not at all, once for all processes.

    :param folders: all that it is made of, by default everything.
    """
    place = ROOT / "build" / "tests" / name
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = place / _digest(*folders or (".",))
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
    _build_one("sdist", source, made)
    _build_one("wheel", source, made)
    with tempfile.TemporaryDirectory(dir=made) as unpacked:
        (sdist,) = made.glob("*.tar.gz")
        shutil.unpack_archive(sdist, unpacked)
        (folder,) = Path(unpacked).iterdir()
        (made / "of-sdist").mkdir()
        _build_one("wheel", folder, made / "of-sdist")


def _build_one(kind: str, source: Path, to: Path) -> None:
    script = f"import setuptools.build_meta as backend; backend.build_{kind}({str(to)!r})"
    run(sys.executable, "-c", script, cwd=source)


def _install(made: Path) -> None:
    venv.create(made, with_pip=False, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", str(made / "bin" / "python"))
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(built().wheel), cwd=made)


def _build_site(made: Path) -> None:
    """As ``make docs`` does."""
    words = (sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-b", "html")
    argv = [*words, "-d", f"{made}/doctrees", str(ROOT / "docs"), f"{made}/site"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    said = done.stdout + done.stderr + (f"status {done.returncode}" if done.returncode else "")
    (made / "said").write_text(said, "utf-8")


def _digest(*folders_of_root: str) -> str:
    """Of names, sizes and times of all that is source there."""
    digest = sha256()
    for folder, folders, files in chain.from_iterable(os.walk(ROOT / each) for each in folders_of_root):
        folders[:] = sorted(name for name in folders if _is_source(name))
        for name in sorted(filter(_is_source, files)):
            path = Path(folder, name)
            status = path.lstat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def _is_source(name: str) -> bool:
    return not any(fnmatch(name, pattern) for pattern in NOT_SOURCE)
