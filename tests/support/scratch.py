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
