"""
Processes whose events are checked, whatever program they are: see tests/support/watching.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

WATCHING = Path(__file__).with_name("watching").resolve()
#: What there is where a command is run.
ROUND_TRIP = frozenset(("execute_command", "command_result", "command_result_received"))


class Watched:
    """
    Collects what such processes find.

    :ivar environ: the variables that they need; other folders of ``PYTHONPATH`` go behind the one in it.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="relayd-watched-"))
        self.environ = {"PYTHONPATH": str(WATCHING), "WATCHED_EVENTS": str(self._folder)}

    def finish(self) -> tuple[set[str], list[str]]:
        """Once they have ended: the kinds of events that they checked, and each event that does not fit its schema."""
        lines = [line for file in self._folder.iterdir() for line in file.read_text("utf-8").splitlines()]
        shutil.rmtree(self._folder)
        events = {line.removeprefix("event ") for line in lines if line.startswith("event ")}
        return events, [line for line in lines if not line.startswith("event ")]
