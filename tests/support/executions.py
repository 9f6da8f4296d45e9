"""
Counts what really ran on a host: each command of a test appends its id to a file there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path


class Executions:
    """The file, in a directory that every account can write to."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-runs-"))
        self.directory.chmod(0o777)
        self._file = self.directory / "ran"
        self._file.touch()
        self._file.chmod(0o666)

    def command(self, command_id: str, rest: str = "true") -> str:
        """A command that leaves its mark, and then does *rest*."""
        # one write of a short line to a file opened for appending is not torn apart
        return f"echo {command_id} >> {self._file}; {rest}"

    def counts(self) -> Counter[str]:
        """How often each ran."""
        return Counter(self._file.read_text().split())

    def twice(self) -> list[str]:
        """Those that ran more than once."""
        return [command_id for command_id, times in self.counts().items() if times > 1]

    def remove(self) -> None:
        """Remove the file."""
        shutil.rmtree(self.directory, ignore_errors=True)
