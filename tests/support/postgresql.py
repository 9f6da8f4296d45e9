"""
A real PostgreSQL server of the tests' own: in a temporary folder, on a Unix socket alone, under an ordinary user.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from glob import glob
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from tests.support.built import once
from tests.support.process import PeerFailed

#: Seconds that the server may take for anything.
PATIENCE = 120
#: The server's first user, and the password that URLs of tests name.
USER = "relayd"
#: Who the server runs as where tests run as root, which it refuses to.
ORDINARY = ("postgres", "nobody")
#: Nothing that the tests write has to survive the machine. The rest is for many small servers side by side, and for
#: plans that do not change while a test runs.
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
}

_numbers = count(1)


class PostgreSQLServer:
    """
    A server.

    :ivar folder: has its socket; its log is ``log`` there.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-postgresql-"))
        self.folder.chmod(0o755)  # for its socket
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copytree(_cluster(), self.folder / "data")
        _give_away(self.folder)

    def start(self) -> None:
        """
        Run it, and wait until it takes connections.

        :raises PeerFailed: when it does not.
        """
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        places = ["-D", f"{self.folder}/data", "-k", str(self.folder)]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                # It ends with this process, however that ends.
                [*_as_ordinary("--pdeathsig", "QUIT"), _program("postgres"), *places, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with self.connect():
                    return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise PeerFailed(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()}") from None
                time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> None:
        """End it: at once, with the connections that there are, or by SIGKILL, also the processes of connections."""
        if self._process is None:
            return
        if kill:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            for pid in [self._process.pid, *map(int, children)]:
                os.kill(pid, signal.SIGKILL)
        else:
            self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE)
        self._process = None

    def remove(self) -> None:
        """End it, and remove all that it has."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, name: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of the tests' own to one of its databases."""
        return psycopg.connect(self.url(name), autocommit=True)

    def url(self, name: str) -> str:
        """The URL of a database, as the hub takes it."""
        return f"postgresql://{USER}@/{name}?host={quote(str(self.folder), safe='')}"

    def create(self, template: str = "template0") -> str:
        """A new database; gives its name."""
        name = f"test_{next(_numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        """Remove a database, with whatever uses it."""
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@cache
def shared_server() -> PostgreSQLServer:
    """The server of this process's tests, which goes on until the process ends."""
    server = PostgreSQLServer()
    atexit.register(server.remove)
    server.start()
    return server


def _cluster() -> Path:
    """What ``initdb`` makes, made once for all processes; it takes some seconds."""
    return once("postgresql", _initialize, "tests/support") / "data"


def _initialize(made: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="relayd-initdb-") as folder:
        _give_away(Path(folder))
        argv = [_program("initdb"), "-D", f"{folder}/data", "-U", USER, "--auth=trust", "--encoding=UTF8"]
        argv += ["--locale=C.UTF-8", "--no-sync", "--wal-segsize=1"]
        done = subprocess.run(
            [*_as_ordinary(), *argv], capture_output=True, text=True, check=False, timeout=PATIENCE, cwd="/"
        )
        if done.returncode:
            raise PeerFailed(f"initdb ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        shutil.copytree(f"{folder}/data", made / "data")


def _program(name: str) -> str:
    """A program of PostgreSQL, of which Debian has most outside of the search path."""
    found = sorted(glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
    program = found[-1] if found else shutil.which(name)
    if program is None:
        raise PeerFailed(f"There is no {name}: install PostgreSQL (sh tests/bootstrap.sh peers does)")
    return program


def _ordinary() -> pwd.struct_passwd | None:
    """Who runs the server: another user, where this one is root."""
    if os.geteuid():
        return None
    return next(entry for name in ORDINARY for entry in pwd.getpwall() if entry.pw_name == name)


def _as_ordinary(*options: str) -> list[str]:
    entry = _ordinary()
    if entry is None:
        return ["setpriv", *options] if options else []
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", *options]


def _give_away(folder: Path) -> None:
    if (entry := _ordinary()) is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, entry.pw_uid, entry.pw_gid)
