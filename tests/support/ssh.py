"""
What the tests of the SSH client share: a client beside a real sshd, keys of every format, recording transports.
"""

from __future__ import annotations

import secrets
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from relayd.ssh import Completed, SSHClient
from relayd.ssh.errors import SSHError
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Credential, Target
from relayd.ssh.transport.algorithms import MODERN
from relayd.ssh.transport.flood_limit import FloodLimit
from relayd.ssh.transport.pacing import Pacer
from relayd.ssh.transport.transport import Backpressure, ClientTransport
from tests.support.account import USER, privileged
from tests.support.sshd import OpenSSHServer, make_key

#: Seconds in which anything on loopback must have happened, on a slow machine too.
DEADLINE = 60.0

#: What a test may say of a credential.
CREDENTIAL = ("password", "private_key", "passphrase", "certificate", "agent")

Error = TypeVar("Error", bound=BaseException)


def tool(*argv: str, stdin: str = "") -> str:
    """Run a program that has to succeed, and give what it wrote."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise AssertionError(f"{argv[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


@cache
def key_pair(kind: str = "ed25519") -> tuple[str, str]:
    """A key pair that all tests of this process share, as `make_key` gives it."""
    return make_key(kind)


def blob_of(public: str) -> bytes:
    """The wire form of a public key line."""
    blob: bytes = Key.fromString(public.encode()).blob()
    return blob


def shown(failure: Failure) -> str:
    """Everything that any logger might write of a failure."""
    error = cast(BaseException, failure.value)
    parts = [
        repr(error),
        str(error),
        repr(error.args),
        repr(failure),
        failure.getTraceback(),
        failure.getErrorMessage(),
    ]
    parts += [failure.getBriefTraceback(), failure.getTraceback(detail="verbose", elideFrameworkCode=False)]
    while True:
        parts += traceback.format_exception(error)
        following = error.__cause__ or error.__context__
        if following is None:
            return "\n".join(parts)
        error = following
        parts += [repr(error), str(error), repr(error.args)]


class LogTestCase(SynchronousTestCase):
    """Collects everything that is logged while a test runs."""

    def setUp(self) -> None:
        self.logged: list[LogEvent] = []
        observer = cast(ILogObserver, self.logged.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def assert_not_logged(self, *secrets: str) -> None:
        """None of *secrets* stands in any event, formatted or in a field of it."""
        texts = [eventAsText(event) + repr(event) for event in self.logged]
        for secret in secrets:
            self.assertFalse([text for text in texts if secret in text])


@implementer(ITCPTransport)
class MemoryTCP(FakeTransport):
    """One end of a pipe in memory that passes for TCP, which is what the client asks of a transport to abort it."""


@implementer(ITCPTransport)
class RecordingTCP(StringTransport):
    """Keeps what is written, and knows whether it was asked to close."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """ITCPTransport."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """ITCPTransport."""

    def getTcpNoDelay(self) -> bool:
        """ITCPTransport."""
        return True

    def getTcpKeepAlive(self) -> bool:
        """ITCPTransport."""
        return True

    def loseWriteConnection(self) -> None:
        """ITCPTransport."""

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


def pump(server: Any, client: Any) -> IOPump:
    """Connect two protocols in memory; nothing moves until the first ``flush``."""
    server_side, client_side = MemoryTCP(server, isServer=True), MemoryTCP(client, isServer=False)
    client.makeConnection(client_side)
    server.makeConnection(server_side)
    return IOPump(client, server, client_side, server_side, False, Clock())


class PacketRecorder:
    """Stands in for a `ClientTransport` below a service: keeps each packet sent, and what the service asks for."""

    def __init__(self) -> None:
        self.packets: list[tuple[int, bytes]] = []
        self.sessionID = b"session identifier of this test!"
        self.peerExtensions: dict[bytes, bytes] = {}
        self.policy = MODERN
        self.lost_reason = "the connection was closed"
        self.told_to_leave = False
        self.at_fault = False
        self.otherVersionString = b"SSH-2.0-Test"
        self.aborted = False
        self.disconnected = ""
        self.renewals = 0
        self.warned_of: set[bytes] = set()
        self.flood_limit = FloodLimit()
        self.backpressure = Backpressure()
        self.pace = Pacer(Clock(), cast(ClientTransport, self))
        self.heard = 0
        self.transport: object = None
        self.on_unimplemented: Callable[[], None] | None = None

    def sendPacket(self, message: int, payload: bytes) -> None:
        self.packets.append((message, payload))

    def take(self) -> list[tuple[int, bytes]]:
        """The packets since the last call."""
        packets, self.packets = self.packets, []
        return packets

    def abort(self) -> None:
        self.aborted = True

    def warn_of(self, algorithms: Iterable[bytes]) -> None:
        self.warned_of |= self.policy.outdated.intersection(algorithms)

    def disconnect(self, reason: str) -> None:
        self.disconnected = reason

    def reset_flood_limit(self) -> None:
        self.flood_limit.reset()

    def renew_keys(self) -> None:
        self.renewals += 1

    def failed(self, error: SSHError) -> None:
        self.lost_reason = str(error)
        self.aborted = True


class ServerTestCase(TestCase):
    """Runs commands through an `SSHClient` on real servers; what a test starts is gone when it ends."""

    timeout = 3 * DEADLINE

    def setUp(self) -> None:
        from twisted.internet import reactor  # trial's, which is chosen before any test runs

        self.reactor: Any = reactor
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-ssh-"))
        self.addCleanup(tool, "rm", "-rf", str(self.directory))
        self.addCleanup(end_marked_sleeps)
        self.known_hosts = self.directory / "known_hosts"

    async def start_server(
        self,
        *config_lines: str,
        host_key_types: Sequence[str] = ("ed25519",),
        user: str = USER,
        pam: Sequence[str] = (),
    ) -> OpenSSHServer:
        """A new sshd."""
        server = OpenSSHServer(config_lines, host_key_types, user, pam)
        await server.start()
        self.addCleanup(server.stop)
        return server

    def make_client(self, **settings: Any) -> SSHClient:
        """A new client; it is closed when the test ends."""
        client = SSHClient(self.reactor, SSHSettings(known_hosts=str(self.known_hosts), **settings))
        self.addCleanup(client.close)
        return client

    def target(self, server: OpenSSHServer, **changes: Any) -> Target:
        """The account of *server*, with its key, or with what *changes* says of the credential or the target."""
        credential = {name: changes.pop(name) for name in CREDENTIAL if name in changes}
        fields: dict[str, Any] = {"host": server.host, "port": server.port, "username": server.user, **changes}
        return Target(credential=Credential(**(credential or {"private_key": server.key})), **fields)

    def run_command(
        self, client: SSHClient, target: Target, command: str, timeout: float = DEADLINE
    ) -> Deferred[Completed]:
        """Run one command with a limit in seconds from now."""
        return client.run(target, command.encode(), self.reactor.seconds() + timeout)

    async def sleep(self, seconds: float) -> None:
        """Let the reactor run."""
        await deferLater(self.reactor, seconds)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until *condition* holds; fail when it does not within `DEADLINE`."""
        end = self.reactor.seconds() + DEADLINE
        while not condition():
            if self.reactor.seconds() > end:
                self.fail(f"still not so after {DEADLINE:g} s: {what}")
            await self.sleep(0.02)

    async def error_of(self, running: Deferred[Any], kind: type[Error]) -> Error:
        """The error that *running* fails with, which has to be of *kind*."""
        error = (await self.failure_of(running)).value
        if not isinstance(error, kind):
            self.fail(f"it failed with {error!r}")
        return error

    async def failure_of(self, running: Deferred[Any]) -> Failure:
        """The failure that *running* ends with."""
        failures: list[Failure] = []
        result = await running.addErrback(failures.append)
        if not failures:
            self.fail(f"it succeeded: {result!r}")
        return failures[0]


_markers: list[str] = []


def processes(marker: str) -> list[int]:
    """The processes on this machine whose command line has the argument *marker*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended meanwhile
            if marker.encode() in arguments:
                found.append(int(entry.name))
    return found


def marked_sleep() -> tuple[str, str]:
    """A length of sleep that no other process uses, so that it can be found, and the command for it."""
    marker = f"3{secrets.randbelow(10**9):09d}"
    _markers.append(marker)
    return marker, f"sleep {marker}"


def end_marked_sleeps() -> None:
    """End what is left of them: a command outlives an SSH server that is killed."""
    while _markers:
        left = processes(_markers.pop())
        if left:
            # One of them may end by itself meanwhile, which is no failure.
            subprocess.run(privileged(["kill", *map(str, left)]), capture_output=True, check=False, timeout=20)
