"""
Audit logs for tests: one that is being written, what is in one, what is wrong with it, and a disk that is soon full.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relayd.audit.chain import Chain, Findings
from relayd.audit.heads import head_path, own_head_path, parse_head
from relayd.audit.keeping import Keeping
from relayd.audit.lines import decode_line, encode_line
from relayd.audit.log import AuditLog, AuditSettings
from relayd.audit.seal import read_seal, seal_file
from relayd.audit.verify import AuditFault, Verifier, in_order


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


def state(path: Path) -> Path:
    """The state directory of a relay whose log is at *path*."""
    directory = path.parent / "state"
    with suppress(FileNotFoundError):
        directory.mkdir(exist_ok=True)
    return directory


def settings(path: Path, *, max_size: int = 0, keep: int = 0, **more: Any) -> AuditSettings:
    """Of a log at *path*."""
    chosen: dict[str, Any] = {
        "commands": "digest",
        "keeping": Keeping(max_size=max_size, keep=keep),
        "server": "wss://main.example",
        "proxy_id": "site-1",
    }
    return AuditSettings(path=str(path), state_dir=str(state(path)), **(chosen | more))


def chain(path: Path, **keeping: Any) -> Chain:
    """The log at *path*, not open yet."""
    common = {"server": "wss://main.example", "proxyId": "site-1"}
    return Chain(str(path), str(state(path)), Keeping(**keeping), common)


def write(path: Path, count: int, **keeping: Any) -> Findings:
    """One life of a relay: *count* events, one at a time."""
    log = chain(path, **keeping)
    findings = log.open("1.0")
    try:
        for number in range(count):
            log.prepare()
            log.append([(1e9 + number, "accepted", {"commandId": f"c{number}"})])
    finally:
        log.close()
    return findings


def entries(*paths: Path) -> list[dict[str, Any]]:
    """All lines, decoded."""
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def faults(*paths: Path, harmless: bool = False, sealed: bool = True) -> list[str]:
    """What is wrong with files of one log: line number and text; and whether the head that is noted is in it."""
    heads = [parse_head(Path(head_path(str(path))).read_bytes()) for path in paths if Path(f"{path}.head").exists()]
    wanted = [head.hash for head in heads if head is not None]
    verifier = Verifier(wanted, read_seal(seal_file(str(state(paths[0])))) if sealed else None)
    found = [
        f"{each.number} {each.text}"
        for path in in_order(map(str, paths))
        for each in verifier.check_file(path)
        if isinstance(each, AuditFault) and (harmless or not each.harmless)
    ]
    return found + [f"no line has the hash {head}" for head in wanted if head not in verifier.found]


def files(path: Path) -> list[Path]:
    """The log and its rotated files."""
    others = {Path(head_path(str(path)))}
    return [Path(each) for each in in_order(map(str, set(path.parent.glob(f"{path.name}*")) - others))]


def edit(path: Path, change: Callable[[list[bytes]], Iterable[bytes]]) -> None:
    """Let *change* have its way with the lines."""
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


class AuditCase(TestCase):
    """Has a log that is being written."""

    def setUp(self) -> None:
        self.path = directory(self) / "audit.log"

    def start(self, path: Path | None = None, **chosen: Any) -> AuditLog:
        log = AuditLog(reactor, settings(path or self.path, **chosen), retry=0.01)
        log.start()
        return log

    async def until(self, holds: Any) -> None:
        for _ in range(1000):
            if holds():
                return
            await deferLater(reactor, 0.01)
        self.fail("it did not come")


#: Not the relay's.
FORGED_KEY = b"k" * 32


class ForgeryCase(SynchronousTestCase):
    """Has the log of a relay that is stopped: six lines."""

    def setUp(self) -> None:
        self.path = directory(self) / "audit.log"
        write(self.path, 4)
        self.heads = [Path(head_path(str(self.path))), Path(own_head_path(str(state(self.path))))]

    def ids(self) -> list[str]:
        """The commands in the log, by lines that are the relay's."""
        seal = read_seal(seal_file(str(state(self.path))))
        assert seal is not None
        found = []
        for content in self.path.read_bytes().splitlines():
            line = decode_line(content)
            if line is not None and seal.holds(content, line) and line.event == "accepted":
                found.append(json.loads(content)["commandId"])
        return found

    def forge(self, count: int = 1) -> list[bytes]:
        """Lines that go on where the log ends, with hashes that are right."""
        last = entries(self.path)[-1]
        seq, prev, forged = last["seq"], last["hash"], []
        for number in range(count):
            line, prev = encode_line(seq + 1 + number, 1e9, "accepted", {"commandId": "forged"}, prev, FORGED_KEY)
            forged.append(line)
        return forged

    def append(self, *lines: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(lines))
