"""
Every command line of the documents is run, page by page and in order, with a real sshd where the page has a host.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.pages import ROOT, Shell, blocks_of
from tests.support.sshd import OpenSSHServer, free_port
from tests.test_packaging import built


class PageTestCase(TestCase):
    """Runs a page."""

    timeout = 300

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-docs-"))
        self.addCleanup(shutil.rmtree, self.directory)

    async def run_page(self, name: str, replace: Mapping[str, str] | None = None, *, start: Path | None = None) -> None:
        shell = Shell(reactor, {**(replace or {}), **self.always}, start=start)
        self.addCleanup(shell.close)
        self.shell = shell
        for path, text in self.files.items():
            file = shell.home / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(text)
        for block in blocks_of(ROOT / name):
            await shell.run(block)

    @property
    def files(self) -> dict[str, str]:
        """What the reader has at home."""
        return {}

    @property
    def always(self) -> dict[str, str]:
        """What is installed from the wheel, and not from a registry."""
        install = f"{sys.executable} {Path(__file__).parent / 'install.py'}"
        return {"~/relayd/bin/pip install .": f"{install} ~/relayd {built().wheel}"}


class TutorialTests(PageTestCase):
    """docs/tutorial.rst."""

    @property
    def files(self) -> dict[str, str]:
        return {".ssh/id_ed25519": self.sshd.key}

    async def test_tutorial(self) -> None:
        self.sshd = OpenSSHServer()
        await self.sshd.start()
        self.addCleanup(self.sshd.stop)
        await deferToThread(built)
        port = free_port()
        place, user = f"{self.sshd.host}:{self.sshd.port}", self.sshd.user
        await self.run_page(
            "docs/tutorial.rst",
            {
                "http://127.0.0.1:8765": f"http://127.0.0.1:{port}",
                "ws://127.0.0.1:8765": f"ws://127.0.0.1:{port}",
                "tcp:8765:": f"tcp:{port}:",
                "-m relayd.hub": f"-m relayd.hub --listen tcp:{port}:interface=127.0.0.1",
                "ssh -i ~/.ssh/id_ed25519 deploy@192.168.1.20": f"ssh -i ~/.ssh/id_ed25519 -p {self.sshd.port} "
                f"-o StrictHostKeyChecking=no -o LogLevel=ERROR {user}@{self.sshd.host}",
                "deploy@192.168.1.20": f"{user}@{place}",
                "deploy@192.168.1.20:1": f"{user}@{self.sshd.host}:1",
                "192.168.1.20:1 ": f"{self.sshd.host}:1 ",
                "192.168.1.20:22": place,
                "nobody@192.168.1.20": f"nobody@{place}",
            },
        )
