"""
Audit logs for tests: what is in one, what is wrong with it, and a disk that is soon full.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.chain import Chain, head_path, parse_head
from relayd.audit.log import AuditSettings
from relayd.audit.verify import Fault, Verifier, in_order


def directory(test: SynchronousTestCase) -> Path:
    """A directory until the end of *test*."""
    path = Path(tempfile.mkdtemp())
    test.addCleanup(shutil.rmtree, path)
    return path


def small_disk(test: SynchronousTestCase) -> Path:
    """A file system of 64 KiB, until the end of *test*."""
    path = directory(test)
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size=64k,uid={os.geteuid()},mode=0700"
    subprocess.run([*sudo, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    test.addCleanup(subprocess.run, [*sudo, "umount", "-l", str(path)], check=True)
    return path


def fill(disk: Path) -> Path:
    """A file that takes all that is free on *disk*."""
    path = disk / "filler"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 1024)
        except OSError:
            return path


def settings(path: Path, **more: Any) -> AuditSettings:
    """Of a log at *path*; its key is beside it."""
    chosen: dict[str, Any] = {"commands": "digest", "max_size": 0, "keep": 0}
    return AuditSettings(
        path=str(path), key_file=f"{path}.key", server="wss://main.example", proxy_id="site-1", **(chosen | more)
    )


def write(path: Path, count: int, *, max_size: int = 0, keep: int = 0) -> None:
    """One life of a relay: *count* events, one at a time."""
    chain = Chain(str(path), max_size, keep, {"proxyId": "site-1"})
    chain.open("1.0")
    try:
        for number in range(count):
            chain.prepare()
            chain.append([(1e9 + number, "accepted", {"commandId": f"c{number}"})])
    finally:
        chain.close()


def entries(*paths: Path) -> list[dict[str, Any]]:
    """All lines, decoded."""
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def faults(*paths: Path, harmless: bool = False) -> list[str]:
    """What is wrong with files of one log: line number and text; and whether the head that is noted is in it."""
    heads = [parse_head(Path(head_path(str(path))).read_bytes()) for path in paths if Path(f"{path}.head").exists()]
    wanted = [head[1] for head in heads if head is not None]
    verifier = Verifier(wanted)
    found = [
        f"{each.number} {each.text}"
        for path in in_order(map(str, paths))
        for each in verifier.read(path)
        if isinstance(each, Fault) and (harmless or not each.harmless)
    ]
    return found + [f"no line has the hash {head}" for head in wanted if head not in verifier.found]


def files(path: Path) -> list[Path]:
    """The log and its rotated files."""
    others = {Path(head_path(str(path))), Path(f"{path}.key")}
    return [Path(each) for each in in_order(map(str, set(path.parent.glob(f"{path.name}*")) - others))]


def edit(path: Path, change: Callable[[list[bytes]], Iterable[bytes]]) -> None:
    """Let *change* have its way with the lines."""
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
