"""
The main job for real, in one process on loopback: a main server, an SSH server, and a relay between them.

``python -m relayd.demo`` sends some commands and shows what came back; ``--ssh HOST`` sends them to a host of yours.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import TimeoutError as WaitedTooLong
from twisted.internet.defer import ensureDeferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import react
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)

from relayd.config import reading
from relayd.demo.ssh_server import ExecutingSSHServer
from relayd.errors import ConfigError, RelayError
from relayd.hub import Hub
from relayd.language.texts import printable, span
from relayd.service import make_relay
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret

LOOPBACK = "127.0.0.1"
PROXY_ID = "demo"
#: Seconds that the relay may take to connect, and those that a command without a timeout of its own may.
CONNECT_TIMEOUT = 20.0
COMMAND_TIMEOUT = 30.0
#: Characters of an output's first line that the table shows, at most; and which of its columns are numbers.
OUTPUT_WIDTH = 100
_NUMBERS = (3, 4)


class Target(Struct, frozen=True, kw_only=True):
    """Where the commands go."""

    host: str
    port: int
    username: str
    password: Secret | None = None
    private_key: Secret | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.username}@{host}:{self.port}"


class Step(Struct, frozen=True, kw_only=True):
    """
    One command of the demonstration, and what should become of it.

    :ivar expected: in words.
    :ivar holds: whether a result is that.
    :ivar timeout: seconds.
    :ivar shown: instead of the command in the table.
    """

    command: str
    expected: str
    holds: Callable[[CommandResult], bool]
    timeout: float = COMMAND_TIMEOUT
    wrong_password: bool = False
    shown: str = ""


class Row(Struct, frozen=True, kw_only=True):
    """One command with its result, as the table shows it."""

    step: Step
    milliseconds: float
    result: CommandResult | None
    failure: str = ""

    @property
    def as_expected(self) -> bool:
        return self.result is not None and self.step.holds(self.result)


def _error_code(result: CommandResult) -> object:
    return (result.details.error or {}).get("code")


STEPS = (
    Step(
        command='echo "hello from $(uname -n)"',
        expected="exit code 0 and a greeting",
        holds=lambda result: result.exit_code == 0 and result.stdout.startswith("hello from "),
    ),
    Step(
        command="echo 'no such thing' >&2; exit 3",
        expected="exit code 3",
        holds=lambda result: result.exit_code == 3 and result.stderr == "no such thing",
    ),
    Step(
        command="echo to stdout; echo to stderr >&2",
        expected="both outputs",
        holds=lambda result: (result.exit_code, result.stdout, result.stderr) == (0, "to stdout", "to stderr"),
    ),
    Step(
        command="echo started; sleep 30",
        expected="a timeout after 1 s, with the output until then",
        holds=lambda result: _error_code(result) == "timeout" and result.stdout == "started",
        timeout=1.0,
        shown="echo started; sleep 30  (timeout 1 s)",
    ),
    Step(
        command="true",
        expected="a refused login",
        holds=lambda result: _error_code(result) == "login-refused",
        wrong_password=True,
        shown="true  (wrong password)",
    ),
)


class Demo:
    """
    Everything that the demonstration runs, and its end.

    :param target: where the commands go; ``None``: to an SSH server made for it, with a user made for it.
    :param directory: for the state of the relay.
    """

    def __init__(self, reactor: Any, dialect: str, target: Target | None, directory: Path) -> None:
        self._reactor = reactor
        self._dialect = dialect
        self._target = target
        self._directory = directory
        self._closers: list[Callable[[], Awaitable[object]]] = []

    async def start(self) -> Target:
        """
        Start the servers and the relay, and wait until the relay is connected.

        :return: where the commands go.
        :raises DemoFailed: when the relay does not connect.
        """
        reactor = self._reactor
        # also when it is interrupted: no process of a command shall outlive the demonstration
        reactor.addSystemEventTrigger("before", "shutdown", lambda: ensureDeferred(self.stop()))
        target = self._target or await self._start_ssh_server()

        key = secrets.token_urlsafe(32)
        self.hub = Hub(reactor, {PROXY_ID: Secret(key)})
        self._closers.append(self.hub.close)
        port: Any = await self.hub.listen(TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK))
        server = f"ws://{LOOPBACK}:{port.getHost().port}"

        key_file = self._directory / "api-key"
        key_file.touch(mode=0o600)
        key_file.write_text(key)
        # no environment: a relay's settings there are not the demonstration's
        options = {
            "server": server,
            "proxy-id": PROXY_ID,
            "api-key-file": str(key_file),
            "state-dir": str(self._directory / "state"),
            "dialect": self._dialect,
            "drain-timeout": "1s",
        }
        relay = make_relay(reactor, reading.load(options, {}))
        relay.startService()
        self._closers.append(lambda: maybeDeferred(relay.stopService))
        try:
            await self.hub.when_connected(PROXY_ID).addTimeout(CONNECT_TIMEOUT, reactor)
        except WaitedTooLong:
            raise DemoFailed(f"the relay did not connect to the main server within {span(CONNECT_TIMEOUT)}") from None
        print(f"main server   {server}")
        print(f"relay         {PROXY_ID}, connected by {self.hub.relays[PROXY_ID].dialect}")
        print(f"SSH host      {target}{'' if self._target else ', a server made for this demonstration'}")
        return target

    async def _start_ssh_server(self) -> Target:
        target = Target(host=LOOPBACK, port=0, username="demo", password=Secret(secrets.token_urlsafe(16)))
        assert target.password is not None
        server = ExecutingSSHServer(self._reactor, {target.username: target.password.reveal()})
        self._closers.append(server.close)
        port: Any = await server.listen(TCP4ServerEndpoint(self._reactor, 0, interface=LOOPBACK))
        return replace(target, port=port.getHost().port)

    async def run(self, number: int, step: Step, target: Target) -> Row:
        """Have the relay run one command, and wait for the result."""
        if step.wrong_password:
            target = replace(target, password=Secret(secrets.token_urlsafe(16)), private_key=None)
        command = ExecuteCommand(
            command_id=f"demo_{number}_{secrets.token_hex(4)}",
            server_id=1,
            host=target.host,
            port=target.port,
            username=target.username,
            password=target.password,
            private_key=target.private_key,
            command=step.command,
            timeout=step.timeout,
            extended=True,  # for the kind of failure
        )
        started = time.perf_counter()
        result, failure = None, ""
        try:
            result = await self.hub.execute(PROXY_ID, command)
        except RelayError as error:
            failure = str(error)
        return Row(step=step, milliseconds=(time.perf_counter() - started) * 1000, result=result, failure=failure)

    async def stop(self) -> None:
        """Stop what was started, last first: the relay before the servers that it uses."""
        while self._closers:
            await self._closers.pop()()


class DemoFailed(Exception):
    """The demonstration cannot go on; says why."""


def table(rows: Sequence[Row], target: Target) -> str:
    """The rows as lines of aligned columns."""
    lines = [("", "COMMAND", "HOST", "EXIT", "TIME", "STDOUT", "STDERR")]
    for row in rows:
        result = row.result
        lines.append(
            (
                "ok" if row.as_expected else "NO",
                row.step.shown or row.step.command,
                str(target),
                "-" if result is None else str(result.exit_code),
                f"{row.milliseconds:.1f} ms",
                _first_line("" if result is None else result.stdout),
                _first_line(row.failure if result is None else result.stderr),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    columns = max(shutil.get_terminal_size((160, 24)).columns, 80)
    aligned = (
        "  ".join(
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(printable(line.rstrip(), columns) for line in aligned)


def _first_line(text: str) -> str:
    first, _, rest = text.partition("\n")
    return printable(first + (" …" if rest else ""), OUTPUT_WIDTH)


def closing_line(rows: Sequence[Row], seconds: float) -> str:
    """Totals and timings."""
    good = sum(row.as_expected for row in rows)
    times = sorted(row.milliseconds for row in rows)
    return (
        f"{len(rows)} commands in {seconds:.2f} s, {good} of {len(rows)} as expected; "
        f"fastest {times[0]:.1f} ms, slowest {times[-1]:.1f} ms"
    )


async def main(reactor: Any, dialect: str, target: Target | None, directory: Path) -> int:
    """
    The whole demonstration.

    :return: the exit status: 1 when something did not go as it should.
    """
    demo = Demo(reactor, dialect, target, directory)
    started = time.perf_counter()
    try:
        where = await demo.start()
        steps = [step for step in STEPS if target is None or not step.wrong_password]
        ran = time.perf_counter()
        rows = [await demo.run(number, step, where) for number, step in enumerate(steps, 1)]
        seconds = time.perf_counter() - ran
    except (DemoFailed, ConfigError, OSError) as error:
        print(f"relayd.demo: {error}", file=sys.stderr)
        return 1
    finally:
        await demo.stop()
    print(f"\n{table(rows, where)}\n")
    if target is not None:
        print("Left out: a wrong password, because failed logins can lock the relay out of a real host.")
    print(closing_line(rows, seconds) + f"; started and stopped in {time.perf_counter() - started - seconds:.2f} s")
    wrong = [row for row in rows if not row.as_expected]
    for row in wrong:
        got = row.failure or (row.result.stderr or f"exit code {row.result.exit_code}" if row.result else "nothing")
        print(f"relayd.demo: {row.step.command}: expected {row.step.expected}, got: {got}", file=sys.stderr)
    if wrong:
        print("relayd.demo: run it with --verbose to see what happened", file=sys.stderr)
    return 1 if wrong else 0


# The command line ----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(
        prog="python -m relayd.demo",
        description="Runs a main server, an SSH server and a relay on loopback, sends some commands through them, and "
        "shows the results.",
        allow_abbrev=False,
    )
    parser.add_argument("--ssh", metavar="HOST[:PORT]", help="send the commands to this host instead")
    parser.add_argument("--user", metavar="NAME", help="user on that host")
    credential = parser.add_mutually_exclusive_group()
    credential.add_argument("--key", metavar="FILE", type=Path, help="private key of that user")
    credential.add_argument("--password-file", metavar="FILE", type=Path, help="file with the password of that user")
    parser.add_argument(
        "--dialect",
        choices=("auto", "socketio", "native"),
        default="auto",
        help="how relay and main server frame events [%(default)s]",
    )
    parser.add_argument("--verbose", action="store_true", help="log to standard error what happens")
    return parser


def chosen_target(options: argparse.Namespace) -> Target | None:
    """
    The host that the options name.

    :raises ConfigError: when they do not fit together, or a file cannot be read.
    """
    if options.ssh is None:
        for name in ("user", "key", "password_file"):
            if getattr(options, name) is not None:
                raise ConfigError(option="--" + name.replace("_", "-"), reason="needs --ssh HOST beside it")
        return None
    if not options.user:
        raise ConfigError(option="--user", reason="is missing: who logs in on that host?")
    if options.key is None and options.password_file is None:
        raise ConfigError(option="--key or --password-file", reason="is missing: how does that user log in?")
    host, port = _host_and_port(options.ssh)
    if options.key is not None:
        private_key = Secret(_read("--key", options.key))
        return Target(host=host, port=port, username=options.user, private_key=private_key)
    password = _read("--password-file", options.password_file).rstrip("\r\n")
    return Target(host=host, port=port, username=options.user, password=Secret(password))


def _host_and_port(text: str) -> tuple[str, int]:
    """``host``, ``host:2222``, ``[::1]:2222``, ``::1``."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host.strip("[]") and not host.endswith("]")):
        host, port = text, "22"
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ConfigError(option="--ssh", reason="expected HOST or HOST:PORT")
    return host, int(port)


def _read(option: str, path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(option=option, reason=f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(option=option, reason=f"{path} is no text") from None
    if not text.strip():
        raise ConfigError(option=option, reason=f"{path} is empty")
    return text


def run(arguments: Sequence[str] | None = None) -> None:
    """
    Read the command line and run the demonstration.

    :raises SystemExit: always: 0 when all went as it should, 1 when not, 2 for a mistake on the command line, 130 when
        it was interrupted.
    """
    reader = parser()
    options = reader.parse_args(arguments)
    try:
        target = chosen_target(options)
    except ConfigError as error:
        reader.error(str(error))
    info = LogLevelFilterPredicate(LogLevel.info)
    observers = [FilteringLogObserver(textFileLogObserver(sys.stderr), [info])] if options.verbose else []
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
    status = 130

    async def demonstrate(reactor: Any) -> None:
        nonlocal status
        status = await main(reactor, options.dialect, target, Path(name))

    with tempfile.TemporaryDirectory(prefix="relayd-demo-") as name:
        try:
            react(demonstrate)
        except SystemExit as end:
            if end.code:  # it is logged
                print("relayd.demo: it failed; run it with --verbose to see why", file=sys.stderr)
                raise
    raise SystemExit(status)
