"""
An SSH server on paramiko: runs commands in /bin/sh.  See asyncssh_server.py for its argument; beside that,
``no_keys_of``: types of key that it does not take.
"""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import paramiko


class Server(paramiko.ServerInterface):  # type: ignore[misc]
    """One connection."""

    def __init__(self, users: dict[str, dict[str, list[str]]]) -> None:
        self._users = users

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,password"

    def check_auth_password(self, username: str, password: str) -> int:
        good = password in self._users.get(username, {}).get("passwords", ())
        return int(paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED)

    def check_auth_publickey(self, username: str, key: Any) -> int:
        good = f"{key.get_name()} {key.get_base64()}" in self._users.get(username, {}).get("keys", ())
        return int(paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        wanted = kind == "session"
        return int(paramiko.OPEN_SUCCEEDED if wanted else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)

    def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
        threading.Thread(target=run, args=(channel, command), daemon=True).start()
        return True


def run(channel: Any, command: bytes) -> None:
    """Run the command of one session."""
    pipe = subprocess.PIPE
    child = subprocess.Popen([b"/bin/sh", b"-c", command], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    assert child.stdout is not None and child.stderr is not None
    errors = threading.Thread(target=copy, args=(child.stderr, channel.sendall_stderr))
    errors.start()
    copy(child.stdout, channel.sendall)
    errors.join()
    code = child.wait()
    channel.send_exit_status(code if code >= 0 else 128 - code)
    channel.close()


def copy(source: IO[bytes], send: Callable[[bytes], None]) -> None:
    while data := source.read(32768):
        send(data)


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    host_key = paramiko.Ed25519Key.from_private_key(io.StringIO(config["host_key"]))
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    print(json.dumps({"listening": listener.getsockname()[1]}), flush=True)
    while True:
        disabled = {"pubkeys": config.get("no_keys_of", [])}
        transport = paramiko.Transport(listener.accept()[0], disabled_algorithms=disabled)
        transport.add_server_key(host_key)
        # With an event it does not wait for the key exchange here, where the others would wait for it too.
        transport.start_server(event=threading.Event(), server=Server(config["users"]))


main()
