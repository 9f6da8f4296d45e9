"""
A real Node.js server as peer: a script of tests/node/ that talks in JSON lines on its standard streams.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.process import PeerFailed
from tests.support.script import ScriptServer

DIRECTORY = Path(__file__).resolve().parent.parent / "node"


class NodeServer(ScriptServer):
    """``node tests/node/SCRIPT ARGS…``"""

    def __init__(self, script: str, *args: str) -> None:
        node = shutil.which("node")
        if node is None or not (DIRECTORY / "node_modules").is_dir():
            raise PeerFailed("node or its packages are missing; tests/bootstrap.sh installs them")
        super().__init__([node, str(DIRECTORY / script), *args], str(DIRECTORY))
