"""
An SSH server on asyncssh: runs commands in /bin/sh, and says who logged in how on each connection and what ran there.

``asyncssh_server.py CONFIG``: a JSON file with ``host_key`` (private, PEM text) and ``users``: by name, those that may
log in, each with ``passwords`` and ``keys`` (public ones, ``TYPE BASE64``).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
from pathlib import Path
from typing import Any

import asyncssh

_numbers = itertools.count()


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


class Server(asyncssh.SSHServer):
    """One connection."""

    def __init__(self, users: dict[str, dict[str, list[str]]]) -> None:
        self._users = users
        self._number = next(_numbers)

    def connection_made(self, conn: Any) -> None:
        conn.set_extra_info(number=self._number)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: Any) -> bool:
        text = " ".join(key.export_public_key().decode().split()[:2])
        good = text in self._users.get(username, {}).get("keys", ())
        say(connection=self._number, user=username, tried=text, good=good)
        return good

    def validate_password(self, username: str, password: str) -> bool:
        good = password in self._users.get(username, {}).get("passwords", ())
        say(connection=self._number, user=username, tried=password, good=good)
        return good


async def run(process: Any) -> None:
    """Run the command of one session."""
    say(connection=process.get_extra_info("number"), user=process.get_extra_info("username"), ran=process.command)
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec("/bin/sh", "-c", process.command, stdin=null, stdout=pipe, stderr=pipe)
    await asyncio.gather(copy(child.stdout, process.stdout), copy(child.stderr, process.stderr))
    code = await child.wait()
    if code < 0:
        process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
    else:
        process.exit(code)


async def copy(source: Any, target: Any) -> None:
    while data := await source.read(32768):
        target.write(data)
        await target.drain()


async def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: Server(config["users"]),
        server_host_keys=[asyncssh.import_private_key(config["host_key"])],
        process_factory=run,
        sftp_factory=True,
        encoding=None,
    )
    say(listening=server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


asyncio.run(main())
