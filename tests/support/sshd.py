"""
A real OpenSSH server on a free loopback port, with throw-away keys and its own configuration.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tests.support.account import USER, ensure_account, privileged, put_file, run_privileged
from tests.support.process import ChildProcess, PeerFailed, needed

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") or "/usr/sbin/sshd"
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def make_key(kind: str = "ed25519") -> tuple[str, str]:
    """
    A new key pair.

    :param kind: ``ed25519``, ``ecdsa``, ``ecdsa-384``, ``ecdsa-521`` or ``rsa``.
    :return: the private key as OpenSSH PEM text, the public key as ``TYPE BASE64``.
    """
    key: PrivateKey
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    elif kind.startswith("ecdsa"):
        curves = {"ecdsa": ec.SECP256R1(), "ecdsa-384": ec.SECP384R1(), "ecdsa-521": ec.SECP521R1()}
        key = ec.generate_private_key(curves[kind])
    else:
        key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


class OpenSSHServer:
    """
    One ``sshd -D -e``; it lets one account of `ensure_account` in by password and by `key`.

    :param config_lines: lines of sshd_config; they win over the ones written here.
    :param host_key_types: as `make_key` takes them.
    :param user: the account; ``root`` gets in by `key` alone, where *config_lines* say so.
    :param pam: lines of a service of PAM, which it uses instead of the system's.
    :ivar log_lines: what it logged so far, line by line.
    :ivar key: a private key, OpenSSH PEM text, that it accepts.
    :ivar host_keys: its public host keys, ``TYPE BASE64``.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        config_lines: Sequence[str] = (),
        host_key_types: Sequence[str] = ("ed25519",),
        user: str = USER,
        pam: Sequence[str] = (),
    ) -> None:
        self.log_lines: list[str] = []
        self.port = 0
        self.user = user
        self.password = ""
        self.key, public_key = make_key()
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-sshd-"))
        self.directory.chmod(0o755)  # sshd reads authorized_keys as the user who logs in
        self.host_keys: list[str] = []
        self._config_lines = list(config_lines)
        self._host_key_types = list(host_key_types)
        self._process: ChildProcess | None = None
        self._program = SSHD
        self._pam_service = Path()
        if pam:
            self._use_pam(pam)
        self.authorize(public_key)
        self.make_host_keys()

    def authorize(self, *public_keys: str) -> None:
        """Let the account in with these public keys, lines of authorized_keys (``[OPTIONS] TYPE BASE64``), as well."""
        path = self.directory / "authorized_keys"
        with path.open("a") as file:
            file.writelines(f"{key}\n" for key in public_keys)
        path.chmod(0o644)

    def _use_pam(self, lines: Sequence[str]) -> None:
        # sshd asks PAM for the service of its own name; that of another program may be anybody's.
        name = f"sshd-{self.directory.name}"
        self._program = str(self.directory / name)
        Path(self._program).symlink_to(SSHD)
        self._pam_service = Path("/etc/pam.d", name)
        put_file(str(self._pam_service), "\n".join(lines) + "\n")
        self._config_lines.insert(0, "UsePAM yes")
        if _version() >= (9, 8):
            self._config_lines.insert(0, f"PAMServiceName {name}")

    def make_host_keys(self) -> None:
        """New host keys, used from the next start on."""
        self.host_keys = []
        for kind in self._host_key_types:
            private, public = make_key(kind)
            path = self._host_key_path(kind)
            path.touch(mode=0o600)
            path.write_text(private)
            self.host_keys.append(public)

    def show_certificates(self, sign: Callable[[str], str]) -> None:
        """From the next start on, show for each host key the certificate that *sign* makes of its public key."""
        for kind, public in zip(self._host_key_types, self.host_keys, strict=True):
            path = self.directory / f"host_{kind}-cert.pub"
            path.write_text(sign(public))
            self._config_lines = [line for line in self._config_lines if line != f"HostCertificate {path}"]
            self._config_lines.append(f"HostCertificate {path}")

    @property
    def host_key_line(self) -> str:
        """The first host key as a line of a known_hosts file."""
        return f"[{self.host}]:{self.port} {self.host_keys[0]}"

    async def _start(self) -> None:
        if not Path(SSHD).exists():
            raise PeerFailed(f"{SSHD} is missing; tests/bootstrap.sh installs an OpenSSH server")
        if self.user != "root":  # whose password is none of ours
            self.password = ensure_account(self.user).password
        if not Path("/run/sshd").exists():
            run_privileged(["mkdir", "-p", "/run/sshd"])  # Debian's sshd wants it, and only its service makes it
        for attempt in range(5):  # somebody else may take the free port before sshd does
            self.port = self.port or free_port()
            try:
                return await self._run()
            except PeerFailed:
                if attempt == 4 or not any("Address already in use" in line for line in self.log_lines):
                    raise
                self.port = 0

    def start(self) -> Deferred[None]:
        """Fires when it listens, and fails with `PeerFailed` when it cannot."""
        return Deferred.fromCoroutine(self._start())

    def stop(self) -> Deferred[None]:
        """End it and all its connections; its directory goes as well."""

        def remove(_: None) -> None:
            shutil.rmtree(self.directory, ignore_errors=True)
            if self._pam_service.name:
                run_privileged(["rm", "-f", str(self._pam_service)])

        return self._end().addCallback(remove)

    async def _restart(self) -> None:
        await self._end()
        await self._start()

    def restart(self) -> Deferred[None]:
        """End it and all its connections, and start it again on the same port."""
        return Deferred.fromCoroutine(self._restart())

    def drop_connections(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the processes of all connections, and with them the connections; it goes on listening."""
        if self._process is not None and self._process.exit_code is None:
            _signal(_descendants(self._pid()), number)

    def connection_count(self) -> int:
        """How many connections it holds now."""
        return len(_children().get(self._pid(), ()))

    def _end(self) -> Deferred[None]:
        if self._process is None or self._process.exit_code is not None:
            ended: Deferred[int] = Deferred()
            ended.callback(0)
        else:
            ended = self._process.when_ended()
            pid = self._pid()
            children = _descendants(pid)  # they outlive the listening process, so look first
            _signal([pid], signal.SIGTERM)
            _signal(children, signal.SIGKILL)
        return ended.addCallback(lambda _: None)

    def _run(self) -> Deferred[None]:
        config = self.directory / "sshd_config"
        config.write_text("\n".join(self._configuration()) + "\n")
        listening: Deferred[None] = Deferred()

        def on_line(_: int, line: str) -> None:
            self.log_lines.append(line)
            if line.startswith("Server listening on") and not listening.called:
                listening.callback(None)

        first = len(self.log_lines)
        process = self._process = ChildProcess(on_line)
        process.start(privileged([self._program, "-D", "-e", "-f", str(config)]))
        process.when_ended().addCallback(
            lambda code: needed(listening, f"sshd ended with {code}: {' / '.join(self.log_lines[first:])}")
        )
        return listening.addTimeout(60, _reactor())

    def _configuration(self) -> list[str]:
        """sshd takes the first value of each setting, so the test's own lines come first."""
        # What comes after a Match is part of it, so that has to be last.
        first = next((at for at, line in enumerate(self._config_lines) if line.startswith("Match ")), None)
        lines = [
            *self._config_lines[:first],
            f"ListenAddress {self.host}:{self.port}",
            *(f"HostKey {self._host_key_path(kind)}" for kind in self._host_key_types),
            f"AuthorizedKeysFile {self.directory / 'authorized_keys'}",
            f"AllowUsers {self.user}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",  # the temporary directory has parents that anybody may write to
            "UseDNS no",
            "PrintMotd no",
            "PrintLastLog no",
            "PasswordAuthentication yes",
            "KbdInteractiveAuthentication no",
            "LogLevel VERBOSE",
        ]
        if _version() >= (9, 8):
            lines.append("PerSourcePenalties no")  # a test with a wrong password must not lock the others out
        return lines + ([] if first is None else self._config_lines[first:])

    def _host_key_path(self, kind: str) -> Path:
        return self.directory / f"host_{kind}"

    def _pid(self) -> int:
        """Of the listening sshd itself, which may run below sudo."""
        if self._process is None:
            raise PeerFailed("sshd was not started")
        pid = int(self._process.transport.pid)
        below = _children()
        while os.geteuid() != 0 and not _command(pid).startswith("sshd") and below.get(pid):
            pid = below[pid][0]
        return pid


def _reactor() -> IReactorTime:
    from twisted.internet import reactor

    return reactor


def free_port() -> int:
    """One that nobody uses at the moment, at loopback."""
    with socket.socket() as probe:
        probe.bind((OpenSSHServer.host, 0))
        return int(probe.getsockname()[1])


@cache
def _version() -> tuple[int, int]:
    shown = subprocess.run([SSHD, "-V"], capture_output=True, text=True, check=False, timeout=20)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", shown.stderr + shown.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    if not pids:
        return
    if os.geteuid() != 0:
        subprocess.run(
            privileged(["kill", f"-{number.value}", *map(str, pids)]), capture_output=True, check=False, timeout=20
        )
        return
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it ended by itself meanwhile


def _stat(pid: int) -> tuple[str, int]:
    """Command name and parent of a process (proc(5), /proc/PID/stat); ``("", 0)`` for one that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", 0
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, int(rest.split()[1])


def _command(pid: int) -> str:
    return _stat(pid)[0]


def _children() -> dict[int, list[int]]:
    below: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            below.setdefault(_stat(int(entry))[1], []).append(int(entry))
    return below


def _descendants(pid: int) -> list[int]:
    below = _children()
    found: list[int] = []
    queue = [pid]
    while queue:
        children = below.get(queue.pop(), [])
        found += children
        queue += children
    return found
