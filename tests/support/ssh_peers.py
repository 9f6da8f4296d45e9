"""
SSH servers that others wrote, each in a process of its own: one way to start any of them by its name.

`started` gives a server that goes on until this process ends, so that all tests of a module share it. A server whose
packages could not be brought is not among `BROUGHT`; a module then defines no test for it, and ``tests/bootstrap.sh
peers`` has said so.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from relayd.ssh.target import Credential, Target
from tests.support.account import ensure_account, keyed_account, privileged, run_privileged
from tests.support.node import DIRECTORY as NODE
from tests.support.process import PeerFailed
from tests.support.sshd import free_port, make_key

HERE = Path(__file__).resolve().parent
#: Where ``tests/bootstrap.sh peers`` puts the programs that it builds.
BUILT = HERE.parents[1] / "build" / "peers"
#: Has FakeNOS, which wants other versions of libraries than the tests.
FAKENOS = HERE.parents[1] / "build" / "fakenos" / "bin" / "python"
#: What the server ``fakenos`` imitates: each is at the next port.
PLATFORMS = ("cisco_ios", "arista_eos", "huawei_vrp", "hp_comware", "juniper_junos", "mikrotik_routeros")
#: Seconds that a server may take to listen.
PATIENCE = 60.0


class SSHPeer(Struct, frozen=True):
    """
    A server that listens.

    :ivar settings: what a client needs for it, as fields of `relayd.ssh.settings.SSHSettings`.
    :ivar log: the path of what it writes on its standard error.
    """

    name: str
    port: int
    user: str
    credential: Credential
    settings: dict[str, Any]
    log: Path

    def target(self, **changes: Any) -> Target:
        """Its account; *changes* are fields of `relayd.ssh.target.Target`."""
        fields: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "username": self.user,
            "credential": self.credential,
            **changes,
        }
        return Target(**fields)


class Kind(Struct, frozen=True):
    """
    How one kind of server is started.

    :ivar needs: programs that must be there, by name or path.
    :ivar start: gives the user, the credential, the command line, and the port, or 0 where the server says it.
    :ivar as_root: whether it changes to the user who logs in.
    :ivar settings: see `SSHPeer`.
    """

    needs: Sequence[str]
    start: Callable[[Path], tuple[str, Credential, list[str], int]]
    as_root: bool = False
    settings: dict[str, Any] = {}


_Started = tuple[str, Credential, list[str], int]


def _tinysshd(directory: Path) -> _Started:
    account, key = keyed_account()
    keys = directory / "keys"
    _run("tinysshd-makekey", str(keys))
    port = free_port()
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr"
    return account.user, Credential(private_key=key), ["socat", listen, f"EXEC:tinysshd -v {keys}"], port


def _lshd(directory: Path) -> _Started:
    account = ensure_account()
    seed, key = directory / "seed", directory / "key"
    seed.write_bytes(os.urandom(32))
    seed.chmod(0o600)
    env = {**os.environ, "LSH_YARROW_SEED_FILE": str(seed)}
    raw = subprocess.run(
        ["lsh-keygen", "-a", "rsa", "-l", "2048"], env=env, capture_output=True, check=True, timeout=60
    )
    writes = ["lsh-writekey", "--server", "-c", "none", "-o", str(key)]
    subprocess.run(writes, env=env, input=raw.stdout, capture_output=True, check=True, timeout=60)
    port = free_port()
    argv = ["env", f"LSH_YARROW_SEED_FILE={seed}", "lshd", "-h", str(key), "-p", str(port), "--interface=127.0.0.1"]
    return account.user, Credential(password=account.password), [*argv, "--no-syslog", "--no-tcpwrappers"], port


def _erlang(directory: Path) -> _Started:
    user, password = _own_user()
    (directory / "ssh_host_rsa_key").write_text(make_key("rsa")[0])
    (directory / "ssh_host_ed25519_key").write_text(make_key()[0])
    argv = ["escript", str(HERE / "servers" / "erlang.escript"), str(directory), user, password]
    return user, Credential(password=password), argv, 0


def _go(name: str) -> Callable[[Path], _Started]:
    return lambda directory: _configured(directory, [str(BUILT / name)])


def _ssh2(directory: Path) -> _Started:
    return _configured(directory, ["node", str(NODE / "ssh2_server.js")])


def _asyncssh(directory: Path) -> _Started:
    return _configured(directory, [sys.executable, str(HERE / "asyncssh_server.py")])


def _paramiko(directory: Path) -> _Started:
    return _configured(directory, [sys.executable, str(HERE / "paramiko_server.py")])


def _libssh(directory: Path) -> _Started:
    user, password = _own_user()
    key = directory / "host_key"
    key.touch(mode=0o600)
    key.write_text(make_key()[0])
    port = free_port()
    argv = [str(BUILT / "libssh"), "-p", str(port), "-k", str(key), "-u", user, "-P", password, "127.0.0.1"]
    return user, Credential(password=password), argv, port


def _conch(directory: Path) -> _Started:
    account, key = keyed_account()
    private, public = make_key()
    (directory / "ssh_host_ed25519_key").write_text(private)
    (directory / "ssh_host_ed25519_key.pub").write_text(public)
    port = free_port()
    argv = [sys.executable, "-m", "twisted", "conch", "--data", str(directory), "--moduli", str(directory)]
    argv += ["--auth", "sshkey", "-p", f"tcp:{port}:interface=127.0.0.1"]
    return account.user, Credential(private_key=key), argv, port


def _fakenos(directory: Path) -> _Started:
    argv = [str(FAKENOS), str(HERE / "servers" / "network_devices.py"), str(free_port()), *PLATFORMS]
    return "admin", Credential(password="admin"), argv, 0


def _configured(directory: Path, argv: list[str]) -> _Started:
    """A server that reads what `tests.support.asyncssh_server` reads."""
    user, password = _own_user()
    path = directory / "config.json"
    path.write_text(json.dumps({"host_key": make_key()[0], "users": {user: {"passwords": [password], "keys": []}}}))
    return user, Credential(password=password), [*argv, str(path)], 0


def _own_user() -> tuple[str, str]:
    """An account that the server has for itself: its commands run as the user who runs the tests."""
    return "peer", "pass word of a peer"


KINDS = {
    "tinysshd": Kind(("tinysshd", "tinysshd-makekey", "socat"), _tinysshd, as_root=True),
    "lsh": Kind(("lshd", "lsh-keygen", "lsh-writekey"), _lshd, as_root=True, settings={"algorithms": "legacy"}),
    "erlang": Kind(("escript",), _erlang),
    "go": Kind((str(BUILT / "crypto"),), _go("crypto")),
    "gliderlabs": Kind((str(BUILT / "gliderlabs"),), _go("gliderlabs")),
    "libssh": Kind((str(BUILT / "libssh"),), _libssh),
    "conch": Kind((), _conch, as_root=True),
    "ssh2": Kind(("node",), _ssh2),
    "asyncssh": Kind((), _asyncssh),
    "paramiko": Kind((), _paramiko),
    "fakenos": Kind((str(FAKENOS),), _fakenos),
}
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
#: The servers that are there, by name.
BROUGHT = frozenset(
    name for name, kind in KINDS.items() if all(shutil.which(program, path=_PATH) for program in kind.needs)
)


@cache
def started(name: str) -> SSHPeer:
    """
    The server of this name, which goes on until this process ends.

    :param name: one of `KINDS`.
    :raises PeerFailed: when it does not start.
    """
    kind = KINDS[name]
    folder = tempfile.TemporaryDirectory(prefix=f"relayd-{name}-", ignore_cleanup_errors=True)
    directory = Path(folder.name)
    directory.chmod(0o755)
    user, credential, argv, port = kind.start(directory)
    log = directory / "log"
    argv = ["setpriv", "--pdeathsig", "TERM", *argv]  # where this process is killed
    with log.open("wb") as errors:
        process = subprocess.Popen(
            privileged(argv) if kind.as_root else argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if port else subprocess.PIPE,
            stderr=errors,
            cwd=directory,
            env={**os.environ, "PATH": _PATH, "HOME": str(directory)},
            start_new_session=True,  # as whatever starts servers does
        )

    def end() -> None:
        if process.poll() is None:
            if kind.as_root:
                run_privileged(["kill", str(process.pid)])
            else:
                process.terminate()
            process.wait(PATIENCE)
        folder.cleanup()

    atexit.register(end)
    if not port:
        assert process.stdout is not None
        said, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if said else b""
        port = int(json.loads(line)["listening"]) if line else 0
    _wait_until_it_listens(name, process, port, log)
    return SSHPeer(name, port, user, credential, kind.settings, log)


def _wait_until_it_listens(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while port and process.poll() is None and time.monotonic() < end:
        try:
            with closing(socket.create_connection(("127.0.0.1", port), 1.0)):
                return
        except OSError:
            time.sleep(0.05)
    said = " / ".join(log.read_text(errors="replace").splitlines()[-20:])
    raise PeerFailed(f"{name} does not listen; it ended with {process.poll()}: {said}")


def _run(*argv: str) -> None:
    subprocess.run(argv, env={**os.environ, "PATH": _PATH}, capture_output=True, check=True, timeout=60)
