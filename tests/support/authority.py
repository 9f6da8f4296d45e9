"""
An SSH certificate authority, and an ssh-agent: OpenSSH's own tools with throw-away keys.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.support.sshd import make_key


def _run(*argv: str, env: dict[str, str] | None = None, stdin: str = "") -> str:
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=60, env=environment)
    if done.returncode:
        raise AssertionError(f"{argv[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


class Authority:
    """
    Signs keys with ``ssh-keygen -s``.

    :ivar public: its public key, ``TYPE BASE64``.
    """

    def __init__(self, kind: str = "ed25519") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="relayd-test-authority-")
        folder = Path(self._folder.name)
        private, self.public = make_key(kind)
        self._key = folder / "authority"
        self._key.touch(mode=0o600)
        self._key.write_text(private)
        self._subject = folder / "subject.pub"

    def close(self) -> None:
        self._folder.cleanup()

    def sign(self, public: str, *options: str) -> str:
        """
        The certificate of a public key, ``TYPE BASE64 COMMENT``.

        :param options: of ssh-keygen: ``-h`` for a host, ``-n`` principals, ``-V`` validity, ``-O`` option, ``-t`` how
            to sign with RSA.
        """
        self._subject.write_text(public + "\n")
        _run("ssh-keygen", "-q", "-s", str(self._key), "-I", "of a test", *options, str(self._subject))
        return self._subject.with_name("subject-cert.pub").read_text()


class SSHAgent:
    """
    A real ssh-agent.

    :ivar path: of its socket.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="relayd-test-agent-")
        self.path = str(Path(self._folder.name) / "socket")
        shown = _run("ssh-agent", "-s", "-a", self.path)
        found = re.search(r"SSH_AGENT_PID=(\d+)", shown)
        if found is None:
            raise AssertionError("ssh-agent did not tell its process")
        self._pid = int(found[1])

    def close(self) -> None:
        os.kill(self._pid, signal.SIGTERM)
        self._folder.cleanup()

    def add(self, private: str, certificate: str | None = None, *options: str) -> None:
        """Give it a private key, and its certificate."""
        path = Path(self._folder.name) / "key"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(private)
        beside = path.with_name("key-cert.pub")
        beside.unlink(missing_ok=True)
        if certificate is not None:
            beside.write_text(certificate)
        _run("ssh-add", "-q", *options, str(path), env={"SSH_AUTH_SOCK": self.path})
        path.unlink()

    def lock(self) -> None:
        """As ``ssh-add -x`` does, which asks a person for the password (ssh-agent protocol, section 3.7)."""
        message = bytes((22,)) + (4).to_bytes(4, "big") + b"lock"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(self.path)
            connection.sendall(len(message).to_bytes(4, "big") + message)
            if connection.recv(5)[4:] != bytes((6,)):
                raise AssertionError("ssh-agent was not locked")
