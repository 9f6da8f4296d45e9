"""
The uplink against Django Channels, which answers 500 at every path that it has no route for.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.peers.test_main_servers import KEY, WRONG, PeerCase
from tests.support.script import ScriptServer

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "channels_server.py"


class Channels(PeerCase):
    async def start(self, key: str) -> None:
        server = ScriptServer([sys.executable, str(SCRIPT), KEY], str(SCRIPT.parent))
        self.addCleanup(server.stop)
        port = await server.start()
        self.server = server
        self.dial(f"http://127.0.0.1:{port}", key=key)

    async def test_reached(self) -> None:
        await self.start(KEY)
        result = await self.server.wait_for(
            lambda line: isinstance(line, dict) and line.get("event") == "command_result"
        )
        self.assertEqual(result["data"]["commandId"], "c1")
        self.assertEqual(self.uplink.status.dialect, "native")

    async def test_wrong_key(self) -> None:
        """Both ends are told."""
        await self.start(WRONG)
        line = await self.until_logged("accepts this relay in neither dialect")
        self.assertIn("it answers HTTP 500", line)
        self.assertIn("refused this relay (HTTP 403", line)
