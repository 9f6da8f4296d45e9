"""
relayd installed from its Debian package in the machine of ``machine.sh``, with a main server and an SSH host beside it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from cryptography.x509 import DNSName, SubjectAlternativeName
from msgspec import Struct
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue

from relayd.hub import Hub
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.certificates import Authority, Certificate
from tests.support.sshd import OpenSSHServer

#: The package under test.
PACKAGE = "PACKAGE_UNDER_TEST"
UNIT = "relayd.service"
#: What the main server is called; /etc/hosts of the machine has it.
MAIN_SERVER = "main.example.test"
PROXY_ID = "site-1"
API_KEY = "a-key-of-forty-characters-for-the-tests-"
ETC = Path("/etc/relayd")
STATE = Path("/var/lib/private/relayd")
LOGS = Path("/var/log/private/relayd")


class Done(Struct, frozen=True):
    """What a program said, and the code it ended with."""

    code: int
    output: str


async def run(*argv: str, check: bool = False) -> Done:
    """
    Run a program to its end, while the main server of this process goes on.

    :param check: whether to fail when the program does.
    """
    environ = {**os.environ, "SYSTEMD_PAGER": "cat", "SYSTEMD_COLORS": "0", "COLUMNS": "400"}
    out, err, code = await getProcessOutputAndValue(argv[0], argv[1:], env=environ)
    done = Done(code, out.decode() + err.decode())
    if check and code:
        raise AssertionError(f"{' '.join(argv)} ended with {code}: {done.output}")
    return done


async def until(there: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until *there* gives something, or awaits to something, and return that; its last answer after *seconds*."""
    deadline = reactor.seconds() + seconds
    while True:
        found = there()
        if hasattr(found, "__await__"):
            found = await found
        if found or reactor.seconds() > deadline:
            return found
        await deferLater(reactor, 0.1)


class MainServer:
    """
    A main server on `relayd.hub`, with ports for every kind of certificate.

    :ivar ports: by kind of certificate: ``good``, ``expired``, ``self-signed``, ``other-name``; ``plain``: without TLS.
    """

    def __init__(self, directory: Path) -> None:
        from datetime import timedelta

        self.authority = Authority(directory, "authority")
        names = SubjectAlternativeName([DNSName(MAIN_SERVER)])
        self.certificates = {
            "good": self.authority.issue(MAIN_SERVER, timedelta(days=60), names=names),
            "expired": self.authority.issue(MAIN_SERVER, timedelta(days=-3), names=names),
            "self-signed": self.authority.issue(MAIN_SERVER, timedelta(days=60), self_signed=True, names=names),
            "other-name": self.authority.issue("other.example.test", timedelta(days=60)),
        }
        self.ports: dict[str, int] = {}
        self.hub = Hub(reactor, {PROXY_ID: Secret(API_KEY)})

    async def start(self) -> None:
        """Listen on all ports."""
        for kind, certificate in self.certificates.items():
            port = await self.hub.listen(SSL4ServerEndpoint(reactor, 0, _context(certificate), interface="127.0.0.1"))
            self.ports[kind] = port.getHost().port  # type: ignore[attr-defined]
        port = await self.hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        self.ports["plain"] = port.getHost().port  # type: ignore[attr-defined]

    def url(self, kind: str = "good") -> str:
        """Where relays find it."""
        return f"{'ws' if kind == 'plain' else 'wss'}://{MAIN_SERVER}:{self.ports[kind]}"

    def stop(self) -> Deferred[None]:
        """Close all ports and connections."""
        return Deferred.fromCoroutine(self.hub.close())


def _context(certificate: Certificate) -> Any:
    return ssl.DefaultOpenSSLContextFactory(certificate.key, certificate.cert)


class Installation:
    """
    The package, configured as the documents say, and what the operator's tools say of it.

    :param server: the main server that it is configured for.
    :param host: the SSH host that `execute` sends commands to.
    """

    #: Whether the package is installed in this machine, and the configuration files that it brings.
    installed = False
    _defaults: ClassVar[dict[str, str]] = {}

    def __init__(self, server: MainServer, host: OpenSSHServer) -> None:
        self.server = server
        self.host = host
        self._commands = 0
        self._cursor = ""
        self._repairs: list[Callable[[], object]] = []

    async def install(self, *, again: bool = False) -> None:
        """
        Install the package, unless it is.

        :param again: install it over itself, as an upgrade does.
        """
        if not Installation.installed:
            # What there is of relayd on this system is no part of a new machine.
            await run("dpkg", "--purge", "relayd")
            for folder in ("/etc/relayd", "/opt/relayd", "/var/lib/relayd", "/var/log/relayd", "/var/lib/private"):
                shutil.rmtree(folder, ignore_errors=True)
            Path("/etc/hosts").write_text(f"127.0.0.1 localhost {MAIN_SERVER}\n")
        if again or not Installation.installed:
            await run("dpkg", "--install", os.environ[PACKAGE], check=True)
            Installation.installed = True
        for name in ("/etc/relayd/relayd.toml", "/etc/default/relayd"):
            self._defaults.setdefault(name, Path(name).read_text())

    async def configure(self) -> None:
        """Stop the relay, forget what it knew, and make the configuration that works."""
        await run("systemctl", "stop", UNIT)
        await run("systemctl", "reset-failed", UNIT)
        dropins = Path(f"/etc/systemd/system/{UNIT}.d")
        if dropins.exists():
            shutil.rmtree(dropins)
            await run("systemctl", "daemon-reload", check=True)
        for folder in ("lib", "log"):
            shutil.rmtree(f"/var/{folder}/private/relayd", ignore_errors=True)
            Path(f"/var/{folder}/relayd").unlink(missing_ok=True)
        shutil.rmtree(ETC, ignore_errors=True)
        ETC.mkdir()
        for name, text in self._defaults.items():
            Path(name).write_text(text)
        self.set_options()
        key = ETC / "api-key"
        key.touch(mode=0o600)
        key.write_text(API_KEY + "\n")
        shutil.copy(self.server.authority.path, ETC / "ca.pem")
        (ETC / "ca.pem").chmod(0o644)
        self._cursor = (await run("journalctl", "-n0", "--show-cursor")).output.split("-- cursor: ")[1].strip()

    def on_repair(self, act: Callable[[], object]) -> None:
        """Have `repair` do this, too."""
        self._repairs.append(act)

    async def repair(self) -> None:
        """End what a fault has begun, and stop the relay."""
        while self._repairs:
            self._repairs.pop()()
        await run("systemctl", "stop", UNIT)
        for folder in (STATE, LOGS):
            if folder.is_mount():
                await run("umount", str(folder), check=True)

    def set_options(self, extra: str = "", **options: str | None) -> None:
        """
        Write relayd.toml.

        :param extra: TOML text that follows the options.
        :param options: options beyond those that are always set, as TOML; ``None``: not set.
        """
        values = {
            "server": f'"{self.server.url()}"',
            "proxy_id": f'"{PROXY_ID}"',
            "tls_ca": '"/etc/relayd/ca.pem"',
            "status": '"unix:/run/relayd/status.sock"',
            **options,
        }
        lines = [f"{name.replace('_', '-')} = {value}" for name, value in values.items() if value is not None]
        names = "|".join(name.replace("_", "-") for name in values)
        text = re.sub(f"(?m)^(?:{names}) = .*\n", "", self._defaults["/etc/relayd/relayd.toml"])
        (ETC / "relayd.toml").write_text(text + "\n".join(lines) + "\n" + extra + "\n")

    async def drop_in(self, text: str) -> None:
        """A drop-in for the unit, as ``systemctl edit`` makes it."""
        path = Path(f"/etc/systemd/system/{UNIT}.d/override.conf")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        await run("systemctl", "daemon-reload", check=True)

    async def start(self, *, wait: bool = True) -> Done:
        """``systemctl start``; without *wait* it returns at once."""
        return await run("systemctl", "start", *([] if wait else ["--no-block"]), UNIT)

    async def property(self, name: str) -> str:
        """One property of the unit."""
        return (await run("systemctl", "show", "-P", name, UNIT, check=True)).output.strip()

    async def entries(self, *match: str) -> list[dict[str, Any]]:
        """What the journal of systemd has of the unit since `configure`, entry by entry."""
        done = await run(
            "journalctl", "-u", UNIT, "-o", "json", "--all", f"--after-cursor={self._cursor}", *match, check=True
        )
        return [json.loads(line) for line in done.output.splitlines()]

    async def log(self) -> list[str]:
        """The lines of the unit in the journal of systemd since `configure`: of relayd, and of systemd about it."""
        return [str(entry["MESSAGE"]) for entry in await self.entries()]

    async def execute(self, **fields: Any) -> CommandResult:
        """Have the main server send a command, ``echo done`` unless *fields* say otherwise."""
        self._commands += 1
        values = {
            "command_id": f"c{self._commands}",
            "server_id": 1,
            "host": self.host.host,
            "port": self.host.port,
            "username": self.host.user,
            "command": "echo done",
            "password": Secret(self.host.password),
            "timeout": 20,
            "extended": True,
            **fields,
        }
        return await self.server.hub.execute(PROXY_ID, ExecuteCommand(**values))
