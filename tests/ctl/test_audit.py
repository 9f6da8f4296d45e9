"""
Tests of `relayd.ctl.audit`: what ``relayctl audit`` says, and with which exit code.
"""

from __future__ import annotations

import builtins
import errno
import gzip
import io
import os
import resource
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.heads import head_path
from relayd.audit.key import command_digest, read_key
from relayd.audit.lines import encode_line
from relayd.ctl.main import main
from tests.support.auditing import directory, edit, entries, files, write

_open = open


def deny(path: Any, *arguments: Any, **more: Any) -> Any:
    """``open`` of somebody who may read the log, and nothing of the state directory."""
    if os.path.basename(os.path.dirname(str(path))) == "state":
        raise PermissionError(errno.EACCES, "Permission denied", path)
    return _open(path, *arguments, **more)


class AuditCase(SynchronousTestCase):
    """Has a log of several files, and a configuration that names it."""

    def setUp(self) -> None:
        self.directory = directory(self)
        self.path = self.directory / "audit.log"
        self.config = self.directory / "relayd.toml"
        self.config.write_text('audit-log = "audit.log"\nstate-dir = "state"\n')
        write(self.path, 12, max_size=1200)
        self.files = files(self.path)
        self.hash = str(entries(self.path)[-1]["hash"])

    def relayctl(self, *words: object, stdin: str = "") -> tuple[int, str]:
        """Its exit code, and all that it says, without the directory."""
        self.patch(sys, "stdin", io.StringIO(stdin))
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            try:
                code = main(["audit", *map(str, words)])
            except SystemExit as exit:
                code = int(str(exit.code))
        return code, said.getvalue().replace(f"{self.directory}/", "")

    def verify(self, *words: object) -> tuple[int, str]:
        return self.relayctl("verify", "--config", self.config, *words)


class VerifyTests(AuditCase):
    """``relayctl audit verify``."""

    def test_no_fault(self) -> None:
        code, said = self.verify()
        lines = said.splitlines()
        self.assertEqual(code, 0)
        self.assertEqual(len(lines), len(self.files) + 2)
        first = entries(self.files[0])
        self.assertEqual(
            lines[0],
            f"{self.files[0].name}: {len(first)} lines, 1–{len(first)}, {first[0]['time']} to {first[-1]['time']}",
        )
        self.assertEqual(lines[-2:], [f"head: line {entries(self.path)[-1]['seq']}, {self.hash}", "no fault"])

    def test_a_fault(self) -> None:
        edit(self.files[0], lambda lines: [lines[0], *lines[2:]])
        code, said = self.verify()
        self.assertEqual(code, 1)
        self.assertIn(f"{self.files[0].name}:2: comes after lines that are missing: 2–2\n", said)
        self.assertTrue(said.endswith("1 fault\n"))

    def test_lines_removed_from_the_end(self) -> None:
        seq = entries(self.path)[-1]["seq"]
        edit(self.path, lambda lines: lines[:-1])
        for words in ((), self.files):
            code, said = self.verify(*words)
            self.assertEqual(code, 1)
            self.assertIn(f"audit.log.head: lines {seq}–{seq} were removed from the end\n", said)

    def test_the_last_file_is_gone(self) -> None:
        for empty in (self.path.write_bytes, lambda _: self.path.unlink()):
            empty(b"")
            code, said = self.verify()
            self.assertEqual(code, 1)
            self.assertIn("were removed from the end\n", said)

    def test_another_last_line(self) -> None:
        head = Path(head_path(str(self.path)))
        head.write_text(head.read_text().replace(self.hash, "0" * 64))
        code, said = self.verify()
        self.assertEqual(code, 1)
        self.assertIn("is not the one that was written\n", said)

    def test_the_head_is_gone(self) -> None:
        Path(head_path(str(self.path))).unlink()
        code, said = self.verify()
        self.assertEqual(code, 1)
        self.assertIn("audit.log.head: is missing or unreadable", said)
        self.assertEqual(self.verify(*self.files)[0], 0)  # copies come without it

    def test_a_forged_line(self) -> None:
        """It has hashes that are right; who may not read the seal is told that such lines are not found."""
        last = entries(self.path)[-1]
        forged = encode_line(last["seq"] + 1, 1e9, "accepted", {}, last["hash"], b"k" * 32)[0]
        edit(self.path, lambda lines: [*lines, forged])
        code, said = self.verify()
        number = len(entries(self.path))
        self.assertEqual((code, said.splitlines()[-1]), (1, "1 fault"))
        self.assertIn(f"audit.log:{number}: was not written by this relay: its seal is wrong\n", said)
        code, said = self.verify(*self.files)
        self.assertEqual(code, 0)
        self.assertIn("no seal: lines that were forged together with all their hashes cannot be detected\n", said)
        seal = self.directory / "state" / "audit-seal"
        self.assertEqual(self.verify("--seal", seal, *self.files)[0], 1)
        self.patch(builtins, "open", deny)
        code, said = self.verify()
        self.assertEqual(code, 0)
        self.assertIn("state/audit-seal: Permission denied\nno seal: ", said)
        builtins.open = _open
        write(self.path, 1)
        code, said = self.verify(*self.files)
        self.assertEqual(code, 1)
        self.assertIn("says that somebody else wrote lines before it", said)

    def test_a_seal_that_is_none(self) -> None:
        (self.directory / "state" / "audit-seal").write_text("no seal")
        code, said = self.verify()
        self.assertEqual((code, said), (2, "relayctl audit: it is not a seal: a key, a number and a hash\n"))

    def test_removed_from_the_end_with_the_head_beside_the_log(self) -> None:
        """The state directory has another one."""
        head = Path(head_path(str(self.path)))
        before = self.path.read_bytes(), head.read_bytes()
        write(self.path, 3)
        self.path.write_bytes(before[0])
        head.write_bytes(before[1])
        code, said = self.verify()
        self.assertEqual(code, 1)
        self.assertIn("state/audit-head: lines ", said)
        self.assertIn("were removed from the end\n", said)
        self.patch(builtins, "open", deny)
        code, said = self.verify("--audit-log", self.path)
        self.assertEqual(code, 0)
        self.assertIn("Permission denied, so it is not checked\n", said)

    def test_lines_after_the_head(self) -> None:
        """A relay that runs has written more since the head was read."""
        head = Path(head_path(str(self.path)))
        before = head.read_bytes()
        write(self.path, 3)
        head.write_bytes(before)
        self.assertEqual(self.verify()[0], 0)

    def test_a_noted_head(self) -> None:
        noted = entries(self.files[1])[0]["hash"]
        code, said = self.verify("--head", noted)
        self.assertEqual(code, 0)
        self.assertIn(f"{self.files[1].name}:1: is the line with the hash of --head\n", said)
        code, said = self.verify("--head", "0" * 64)
        self.assertEqual(code, 1)
        self.assertIn("--head: no line has this hash", said)

    def test_a_log_that_was_rewritten_as_a_whole(self) -> None:
        """Only a head that was noted elsewhere tells."""
        for path in (*self.files, Path(head_path(str(self.path)))):
            path.unlink()
        write(self.path, 12)
        self.assertEqual(self.verify()[0], 0)
        self.assertEqual(self.verify("--head", self.hash)[0], 1)

    def test_files_in_any_order(self) -> None:
        packed = Path(f"{self.path}-20260301.gz")
        packed.write_bytes(gzip.compress(self.files[0].read_bytes()))
        code, said = self.verify(*reversed([packed, *self.files[1:]]))
        self.assertEqual(code, 0, said)
        self.files[0].unlink()
        self.assertEqual(self.verify()[0], 0)

    def test_a_torn_line_is_told_and_is_no_fault(self) -> None:
        edit(self.path, lambda lines: [*lines, b'{"seq'])
        write(self.path, 1)
        code, said = self.verify()
        self.assertEqual(code, 0)
        self.assertIn("is torn: relayd or its machine died while it wrote\n", said)

    def test_what_cannot_be_looked_at(self) -> None:
        self.config.write_text("")
        code, said = self.verify()
        self.assertEqual((code, said.count("\n")), (2, 1))
        self.assertIn("the settings name no audit log", said)
        self.assertEqual(self.verify("--audit-log", self.path)[0], 0)
        self.assertEqual(self.verify(self.directory / "none")[0], 2)
        self.assertEqual(self.verify("--nothing")[0], 2)
        damaged = self.directory / "audit.gz"
        damaged.write_bytes(gzip.compress(self.path.read_bytes())[:-20])
        self.assertEqual(self.verify(damaged)[0], 2)

    def test_memory(self) -> None:
        """A log of any size, and lines without end."""
        os.truncate(self.path, 300 << 20)
        script = "import sys; from relayd.ctl.main import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", script, "audit", "verify", *map(str, self.files)],
            capture_output=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (250 << 20, 250 << 20)),
        )
        self.assertEqual((done.returncode, done.stderr), (1, b""))


class DigestTests(AuditCase):
    """``relayctl audit digest``."""

    def test_a_command_is_found_by_it(self) -> None:
        key = read_key(str(self.directory / "state" / "audit-key"), make=True)
        said = self.relayctl("digest", "--config", self.config, stdin="uptime")
        self.assertEqual(said, (0, command_digest(key, "uptime") + "\n"))

    def test_without_a_key(self) -> None:
        code, said = self.relayctl("digest", "--config", self.config)
        self.assertEqual(code, 2)
        self.assertIn("No such file or directory", said)
        self.assertFalse((self.directory / "state" / "audit-key").exists())
