"""
Tests of commands that leave something on a real SSH server.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.sshd import OpenSSHServer

#: Seconds that anything here may take.
PATIENCE = 60


class ScratchCase(TestCase):
    """
    An SSH server, as ``sshd``, and a folder in which its user may write, as ``scratch``. What comes after it in `start`
    can use both.
    """

    timeout = 3 * PATIENCE

    def setUp(self) -> Deferred[Any]:  # type: ignore[override]
        return Deferred.fromCoroutine(self.start())

    async def start(self) -> None:
        self.sshd = OpenSSHServer()
        self.addCleanup(self.sshd.stop)
        await self.sshd.start()
        self.scratch = Path(tempfile.mkdtemp(prefix="relayd-scratch-"))
        self.addCleanup(shutil.rmtree, self.scratch)
        self.scratch.chmod(0o777)

    def make_order(self, command_id: str, text: str = "true", **fields: Any) -> ExecuteCommand:
        """The order to run *text*, which leaves a sign of each time that it runs."""
        return ExecuteCommand(
            command_id=command_id,
            host=self.sshd.host,
            port=self.sshd.port,
            username=self.sshd.user,
            private_key=Secret(self.sshd.key),
            command=f"echo ran >> {self.scratch / command_id}; {text}",
            timeout=float(PATIENCE),
            **fields,
        )

    def runs(self, command_id: str) -> int:
        """How often that ran."""
        sign = self.scratch / command_id
        return len(sign.read_text().splitlines()) if sign.exists() else 0


def outcome_of(result: CommandResult) -> tuple[str, str]:
    """The id of a command, and the code of its error or its exit code."""
    return result.command_id, str((result.details.error or {}).get("code", result.exit_code))
