"""
A relay as one would write it with asyncio today: python-socketio and asyncssh, one connection a host.
relayd is measured against it.

    python asyncio_relay.py SERVER_URL PROXY_ID API_KEY_FILE
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncssh
import socketio

Target = tuple[str, int, str]


class Relay:
    """Runs commands over one SSH connection a target, made at first use and again after it was lost."""

    def __init__(self) -> None:
        self._connections: dict[Target, asyncssh.SSHClientConnection] = {}
        self._connecting: defaultdict[Target, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def execute(self, data: dict[str, Any]) -> dict[str, Any]:
        """Run one ``execute_command``; the answer is the ``result`` object of the specification."""
        seconds = (data.get("timeout") or 30000) / 1000
        try:
            async with asyncio.timeout(seconds):
                connection = await self._connection(data)
                ended = await connection.run(
                    f"cd / ; {data['command']}", stdin=asyncssh.DEVNULL, encoding="utf-8", errors="replace"
                )
        except TimeoutError:
            return _failure(f"timed out after {seconds:g} s")
        except (OSError, asyncssh.Error) as error:
            return _failure(str(error))
        return {
            "stdout": str(ended.stdout).strip(),
            "stderr": str(ended.stderr).strip(),
            "exitCode": 1 if ended.exit_status is None else ended.exit_status,
        }

    async def _connection(self, data: dict[str, Any]) -> asyncssh.SSHClientConnection:
        target = data["host"], data["port"], data["username"]
        async with self._connecting[target]:
            connection = self._connections.get(target)
            if connection is None or connection.is_closed():
                password, private_key = data.get("password"), data.get("privateKey")
                connection = await asyncssh.connect(
                    data["host"],
                    data["port"],
                    username=data["username"],
                    password=password,
                    client_keys=[asyncssh.import_private_key(private_key)] if private_key else [],
                    agent_path=None,
                    config=None,
                    known_hosts=None,
                )
                self._connections[target] = connection
        return connection


def _failure(message: str) -> dict[str, Any]:
    return {"stdout": "", "stderr": message, "exitCode": 1}


async def main(server_url: str, proxy_id: str, api_key: str) -> None:
    """Serve one main server for ever."""
    relay = Relay()
    client = socketio.AsyncClient(reconnection_delay=5)
    running: set[asyncio.Task[None]] = set()

    async def execute_and_report(data: dict[str, Any]) -> None:
        result = await relay.execute(data)
        await client.emit("command_result", {"commandId": data["commandId"], "result": result}, namespace="/proxy")

    @client.on("execute_command", namespace="/proxy")  # type: ignore[untyped-decorator]
    async def execute_command(data: dict[str, Any]) -> dict[str, Any]:
        task = asyncio.create_task(execute_and_report(data))
        running.add(task)
        task.add_done_callback(running.discard)
        return {}

    query = urlencode({"proxyId": proxy_id, "apiKey": api_key})
    await client.connect(f"{server_url}?{query}", transports=["websocket"], namespaces=["/proxy"])
    await client.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_text().strip()))
