"""
The demonstration: a main server, an SSH server and a relay between them, in one process on loopback.

``python -m relayd.demo`` sends some commands and shows what came back; ``--ssh HOST`` sends them to a host of yours.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

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
from relayd.demo.command_line import chosen_target, make_parser
from relayd.demo.ssh_server import ExecutingSSHServer
from relayd.demo.steps import STEPS, DemoTarget, Step, StepResult
from relayd.demo.table import closing_line, table
from relayd.errors import ConfigError, RelayError
from relayd.hub import Hub
from relayd.language.texts import span
from relayd.service import make_relay
from relayd.wire.messages import ExecuteCommand, Secret

LOOPBACK = "127.0.0.1"
PROXY_ID = "demo"
#: Seconds within which the relay must connect.
CONNECT_TIMEOUT = 20.0


class Demo:
    """
    The servers and the relay of one demonstration.

    :param target: where the commands go; ``None`` for an SSH server made for the demonstration.
    :param directory: where the relay keeps its state.
    """

    def __init__(self, reactor: Any, dialect: str, target: DemoTarget | None, directory: Path) -> None:
        self._reactor = reactor
        self._dialect = dialect
        self._target = target
        self._directory = directory
        self._closers: list[Callable[[], Awaitable[object]]] = []

    async def start(self) -> DemoTarget:
        """
        Start the servers and the relay, and wait until the relay is connected.

        :return: where the commands go.
        :raises DemoFailed: when the relay does not connect.
        """
        # also when it is interrupted: no process of a command shall outlive the demonstration
        self._reactor.addSystemEventTrigger("before", "shutdown", lambda: ensureDeferred(self.stop()))
        target = self._target or await self._start_ssh_server()
        key = secrets.token_urlsafe(32)
        server = await self._start_hub(key)
        await self._start_relay(server, key)
        print(f"main server   {server}")
        print(f"relay         {PROXY_ID}, connected by {self.hub.relays[PROXY_ID].dialect}")
        print(f"SSH host      {target}{'' if self._target else ', a server made for this demonstration'}")
        return target

    async def _start_hub(self, key: str) -> str:
        """
        Start the main server.

        :return: its URL.
        """
        self.hub = Hub(self._reactor, {PROXY_ID: Secret(key)})
        self._closers.append(self.hub.close)
        port: Any = await self.hub.listen(TCP4ServerEndpoint(self._reactor, 0, interface=LOOPBACK))
        return f"ws://{LOOPBACK}:{port.getHost().port}"

    async def _start_relay(self, server: str, key: str) -> None:
        key_file = self._directory / "api-key"
        key_file.touch(mode=0o600)
        key_file.write_text(key)
        options = {
            "server": server,
            "proxy-id": PROXY_ID,
            "api-key-file": str(key_file),
            "state-dir": str(self._directory / "state"),
            "dialect": self._dialect,
            "drain-timeout": "1s",
        }
        # no environment: settings of a relay there are not for the demonstration
        relay = make_relay(self._reactor, reading.load(options, {}))
        relay.startService()
        self._closers.append(lambda: maybeDeferred(relay.stopService))
        try:
            await self.hub.when_connected(PROXY_ID).addTimeout(CONNECT_TIMEOUT, self._reactor)
        except WaitedTooLong:
            raise DemoFailed(f"the relay did not connect to the main server within {span(CONNECT_TIMEOUT)}") from None

    async def _start_ssh_server(self) -> DemoTarget:
        target = DemoTarget(host=LOOPBACK, port=0, username="demo", password=Secret(secrets.token_urlsafe(16)))
        assert target.password is not None
        server = ExecutingSSHServer(self._reactor, {target.username: target.password.reveal()})
        self._closers.append(server.close)
        port: Any = await server.listen(TCP4ServerEndpoint(self._reactor, 0, interface=LOOPBACK))
        return replace(target, port=port.getHost().port)

    async def run(self, number: int, step: Step, target: DemoTarget) -> StepResult:
        """Have the relay run one command, and wait for its result."""
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
        return StepResult(
            step=step, milliseconds=(time.perf_counter() - started) * 1000, result=result, failure=failure
        )

    async def stop(self) -> None:
        """Stop everything that was started, in reverse order: the relay before the servers that it uses."""
        while self._closers:
            await self._closers.pop()()


class DemoFailed(Exception):
    """The demonstration cannot go on; its text says why."""


async def main(reactor: Any, dialect: str, target: DemoTarget | None, directory: Path) -> int:
    """
    Run the whole demonstration.

    :return: the exit status: 1 when a result was not the expected one.
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
        print("Skipped: the wrong password, because failed logins can lock the relay out of a real host.")
    print(closing_line(rows, seconds) + f"; started and stopped in {time.perf_counter() - started - seconds:.2f} s")
    wrong = [row for row in rows if not row.as_expected]
    for row in wrong:
        got = row.failure or (row.result.stderr or f"exit code {row.result.exit_code}" if row.result else "nothing")
        print(f"relayd.demo: {row.step.command}: expected {row.step.expected}, got: {got}", file=sys.stderr)
    if wrong:
        print("relayd.demo: run it with --verbose to see what happened", file=sys.stderr)
    return 1 if wrong else 0


def run(arguments: Sequence[str] | None = None) -> None:
    """
    Read the command line and run the demonstration.

    :raises SystemExit: always: 0 when every result was the expected one, 1 when not, 2 for a mistake on the command
        line, 130 when interrupted.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        target = chosen_target(options)
    except ConfigError as error:
        parser.error(str(error))
    info = LogLevelFilterPredicate(LogLevel.info)
    observers = [FilteringLogObserver(textFileLogObserver(sys.stderr), [info])] if options.verbose else []
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
    status = 130

    async def demonstrate(reactor: Any) -> None:
        nonlocal status
        interrupted: list[bool] = []
        reactor.addSystemEventTrigger("before", "shutdown", interrupted.append, True)
        code = await main(reactor, options.dialect, target, Path(name))
        if not interrupted:  # else the relay refused what was left, as it stopped
            status = code

    with tempfile.TemporaryDirectory(prefix="relayd-demo-") as name:
        try:
            react(demonstrate)
        except SystemExit as end:
            if end.code:  # it is logged
                print("relayd.demo: it failed; run it with --verbose to see why", file=sys.stderr)
                raise
    raise SystemExit(status)
