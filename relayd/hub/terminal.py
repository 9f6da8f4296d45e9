"""
A main server at a terminal: reads lines of a host and a command, has its relay run them, and shows the results.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from msgspec import Struct
from twisted.internet.defer import DeferredQueue
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import react
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.failure import Failure
from zope.interface import implementer, provider

from relayd.config.api_key import ApiKeyFile
from relayd.config.values import duration
from relayd.errors import ConfigError, RelayError
from relayd.hub.server import Hub
from relayd.network.spelling import read_destination
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret

PROGRAM = "relayd.hub"
#: Shown before each line to a user who types.
PROMPT = "> "
#: Bytes read at a time.
_READ = 65536


class Order(Struct, frozen=True):
    """
    One line of input: what to run, and where.

    :ivar username: ``None`` for `Login.username`.
    """

    host: str
    port: int
    username: str | None
    command: str


class Login(Struct, frozen=True, kw_only=True):
    """How to log in on hosts; without a secret, the relay must have a credential of its own."""

    username: str
    password: Secret | None = None
    private_key: Secret | None = None


def read_order(line: str) -> Order:
    """
    Read ``[USER@]HOST[:PORT] COMMAND``; an IPv6 address is in brackets.

    :raises ConfigError: for any other line.
    """
    place, *rest = line.split(maxsplit=1)
    if not rest:
        raise ConfigError(option=place, reason="expected a host and a command: [USER@]HOST[:PORT] COMMAND")
    try:
        read = read_destination(place)
    except ValueError as error:
        raise ConfigError(option=place, reason=str(error)) from None
    return Order(read.host, read.port, read.username, rest[0])


@implementer(IReadDescriptor)
class StandardInput:
    """
    Reads the lines of standard input.  Twisted's own class would make the descriptor non-blocking, and at a terminal
    standard output with it.

    :ivar lines: each line, and ``None`` at the end of the input.
    """

    def __init__(self, reactor: Any) -> None:
        self.lines: DeferredQueue[str | None] = DeferredQueue()
        self._reactor = reactor
        self._rest = b""
        reactor.addReader(self)

    def fileno(self) -> int:
        return sys.stdin.fileno()

    def logPrefix(self) -> str:
        return "stdin"

    def doRead(self) -> None:
        data = os.read(self.fileno(), _READ)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data:
            self.connectionLost(Failure(ConnectionDone()))
        for line in lines:
            self.lines.put(line.decode("utf-8", "replace"))

    def connectionLost(self, reason: Failure) -> None:
        self._reactor.removeReader(self)
        if self._rest:
            self.lines.put(self._rest.decode("utf-8", "replace"))
            self._rest = b""
        self.lines.put(None)


class Terminal:
    """
    Has a relay run one order after another.

    :ivar status: the exit status of the last order.
    """

    def __init__(self, hub: Hub, proxy_id: str, login: Login, timeout: float) -> None:
        self.status = 0
        self._hub = hub
        self._proxy_id = proxy_id
        self._login = login
        self._timeout = timeout

    async def run(self, line: str) -> None:
        """Have the relay run one line, and show the result; blank lines and comments are skipped."""
        if not line.strip() or line.lstrip().startswith("#"):
            return
        try:
            self._show(await self._hub.execute(self._proxy_id, self._command(read_order(line))))
        except RelayError as error:
            say(str(error))
            self.status = 1

    def _command(self, order: Order) -> ExecuteCommand:
        return ExecuteCommand(
            command_id=f"terminal-{uuid.uuid4().hex}",
            server_id=1,
            host=order.host,
            port=order.port,
            username=order.username or self._login.username,
            command=order.command,
            password=self._login.password,
            private_key=self._login.private_key,
            timeout=self._timeout,
        )

    def _show(self, result: CommandResult) -> None:
        for stream, text in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
            if text:
                print(text, file=stream, flush=True)
        self.status = result.exit_code
        if result.exit_code:
            say(f"exit status {result.exit_code}")


def say(text: str) -> None:
    """Write a message to standard error, with the program's name before it."""
    print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)


async def serve(reactor: Any, options: argparse.Namespace) -> int:
    """
    Wait for the relay, and have it run what the options or standard input say.

    :return: the exit status of the last command.
    """
    hub = Hub(reactor, {options.proxy_id: options.api_key})
    try:
        await hub.listen(serverFromString(reactor, options.listen))
    except CannotListenError as error:
        say(f"--listen: {options.listen} cannot be used: {error.socketError}")
        return 1
    except (ValueError, TypeError, OSError, OverflowError) as error:
        say(f"--listen: {options.listen} is not an endpoint of Twisted, or names a file that cannot be read: {error}")
        return 2
    try:
        say(f"listens at {options.listen} and waits for the relay {options.proxy_id}")
        await hub.when_connected(options.proxy_id)
        say(f"{options.proxy_id} is connected")
        terminal = Terminal(hub, options.proxy_id, options.login, options.timeout)
        if options.run:
            for line in options.run:
                await terminal.run(line)
        else:
            await _converse(StandardInput(reactor), terminal)
        return terminal.status
    finally:
        await hub.close()


async def _converse(standard_input: StandardInput, terminal: Terminal) -> None:
    person = sys.stdin.isatty()
    if person:
        say("type [USER@]HOST[:PORT] COMMAND; Ctrl-D ends")
    while True:
        if person:
            print(PROMPT, end="", file=sys.stderr, flush=True)
        line = await standard_input.lines.get()
        if line is None:
            return
        await terminal.run(line)


# The command line ----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: {message}; see --help\n")


def make_parser() -> argparse.ArgumentParser:
    """A parser of the command line."""
    parser = _Parser(
        prog="python -m relayd.hub",
        description="A main server for one relay. It reads lines of the form [USER@]HOST[:PORT] COMMAND from standard "
        "input, has the relay run each, and shows the result. Its exit status is that of the last command.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--listen",
        metavar="ENDPOINT",
        default="tcp:8765:interface=127.0.0.1",
        help="where to listen for the relay, as a Twisted endpoint; for TLS "
        "ssl:8765:privateKey=key.pem:certKey=cert.pem [%(default)s]",
    )
    add("--proxy-id", metavar="NAME", required=True, help="the relay's name")
    add("--api-key-file", metavar="PATH", required=True, help="file with the relay's API key")
    add("--user", metavar="NAME", help="user to log in as where the line names none [the user who runs this]")
    login = parser.add_mutually_exclusive_group()
    login.add_argument(
        "--key", metavar="FILE", help="private key of that user; without a key or password, the relay must have one"
    )
    login.add_argument("--password-file", metavar="FILE", help="file with the password of that user")
    add("--timeout", metavar="TIME", default="1m", type=_time, help="timeout of each command [%(default)s]")
    add(
        "--run",
        metavar="LINE",
        action="append",
        help="run this line instead of reading standard input; may be repeated",
    )
    add("--verbose", action="store_true", help="log to standard error")
    return parser


def _time(text: str) -> float:
    try:
        return duration(0.1, 86400)(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected {error}") from None


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """
    Read the command line, and the files that it names.

    :raises RelayError: for a file that cannot be used, or a ``--run`` that is not an order.
    """
    options = make_parser().parse_args(arguments)
    options.api_key = ApiKeyFile(options.api_key_file, allow_weak=True, private=False).read()
    options.login = Login(
        username=options.user or getpass.getuser(),
        private_key=_secret("--key", options.key, str),
        password=_secret("--password-file", options.password_file, lambda text: text.rstrip("\r\n")),
    )
    for line in options.run or ():
        read_order(line or " ")
    return options


def _secret(option: str, path: str | None, clean: Callable[[str], str]) -> Secret | None:
    if path is None:
        return None
    try:
        return Secret(clean(Path(path).read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(option=option, reason=f"{path} cannot be read: {reason}") from None


@provider(ILogObserver)
def _log(event: LogEvent) -> None:
    if text := formatEvent(event):
        say(text)


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """
    Read the command line, and be that main server.

    :raises SystemExit: always: with the exit status of the last command, 1 for a failure here, 2 for a mistake on the
        command line, 130 when interrupted.
    """
    try:
        options = read_options(arguments)
    except RelayError as error:
        make_parser().error(str(error))
    chosen = LogLevelFilterPredicate(LogLevel.info if options.verbose else LogLevel.warn)
    globalLogBeginner.beginLoggingTo([FilteringLogObserver(_log, [chosen])], redirectStandardIO=False)
    status = 130

    async def main(reactor: Any) -> None:
        nonlocal status
        status = await serve(reactor, options)

    try:
        react(main)
    except SystemExit as end:
        status = end.code or status  # type: ignore[assignment]  # react gives a number
    raise SystemExit(status)
