"""
Parts around a dispatcher for its tests: a runner, links and a journal that do what the test says, when it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relayd.dispatcher import Dispatcher, Limits
from relayd.errors import RelayError
from relayd.interfaces import ICommandRunner, IJournal, ILink, JournalEntry
from relayd.journal import MemoryJournal
from relayd.messages import CommandResult, Details, ExecuteCommand, Secret

PASSWORD = "canary-password"


def command(
    command_id: str = "c1",
    *,
    host: str = "web1",
    text: str = "uptime",
    timeout: float | None = None,
    extended: bool = False,
) -> ExecuteCommand:
    return ExecuteCommand(
        command_id=command_id,
        server_id=1,
        host=host,
        port=22,
        username="root",
        command=text,
        password=Secret(PASSWORD),
        timeout=timeout,
        extended=extended,
    )


def result(command_id: str = "c1", stdout: str = "fine", exit_code: int = 0) -> CommandResult:
    details = Details(stdout_bytes=len(stdout))
    return CommandResult(command_id=command_id, stdout=stdout, stderr="", exit_code=exit_code, details=details)


@dataclass
class Run:
    """One call of the runner."""

    command: ExecuteCommand
    deadline: float
    done: Deferred[CommandResult]

    def finish(self, stdout: str = "fine", exit_code: int = 0) -> None:
        self.done.callback(result(self.command.command_id, stdout, exit_code))


@implementer(ICommandRunner)
class HeldRunner:
    """
    Runs a command until the test finishes it.

    :param lingers: cancelling a command does not end it: the test still has to finish it.
    """

    def __init__(self, lingers: bool = False) -> None:
        self.runs: list[Run] = []
        self.cancelled: list[str] = []
        self._lingers = lingers

    def run(self, command: ExecuteCommand, deadline: float) -> Deferred[CommandResult]:
        run = Run(command, deadline, Deferred(lambda _: self.cancelled.append(command.command_id)))
        self.runs.append(run)
        return run.done.addErrback(self._cancelled, run) if self._lingers else run.done

    def close(self) -> Deferred[None]:
        return succeed(None)

    def ids(self) -> list[str]:
        return [run.command.command_id for run in self.runs]

    def _cancelled(self, failure: Failure, run: Run) -> Deferred[CommandResult]:
        failure.trap(CancelledError)
        run.done = Deferred()
        return run.done


@implementer(ILink)
class RecordingLink:
    """Keeps what was sent on it."""

    def __init__(self) -> None:
        self.sent: list[CommandResult] = []

    def send_result(self, result: CommandResult) -> None:
        self.sent.append(result)

    def ids(self) -> list[str]:
        return [result.command_id for result in self.sent]

    def codes(self) -> list[object]:
        """Of each result, the code of its error or else its exit code."""
        return [sent.exit_code if sent.details.error is None else sent.details.error["code"] for sent in self.sent]


@implementer(IJournal)
class SlowJournal:
    """A journal that records each thing when the test says so, or fails to."""

    def __init__(self) -> None:
        self.records = MemoryJournal()
        self.pending: list[tuple[str, Deferred[None], Callable[[], Deferred[None]]]] = []

    def accept(self, command: ExecuteCommand, fingerprint: bytes) -> Deferred[None]:
        return self._later("accept", lambda: self.records.accept(command, fingerprint))

    def start(self, command_id: str) -> Deferred[None]:
        return self._later("start", lambda: self.records.start(command_id))

    def finish(self, result: CommandResult) -> Deferred[None]:
        return self._later("finish", lambda: self.records.finish(result))

    def confirm(self, command_id: str) -> None:
        self.records.confirm(command_id)

    def lookup(self, command_id: str) -> JournalEntry | None:
        return self.records.lookup(command_id)

    def unconfirmed(self) -> Sequence[CommandResult]:
        return self.records.unconfirmed()

    def close(self) -> Deferred[None]:
        return self.records.close()

    def steps(self) -> list[str]:
        return [step for step, _, _ in self.pending]

    def record(self) -> None:
        """The oldest pending step is on disk now."""
        _, recorded, step = self.pending.pop(0)
        step()
        recorded.callback(None)

    def fail(self, error: Exception) -> None:
        """The oldest pending step cannot be put on disk."""
        _, recorded, _ = self.pending.pop(0)
        recorded.errback(error)

    def _later(self, name: str, step: Callable[[], Deferred[None]]) -> Deferred[None]:
        recorded: Deferred[None] = Deferred()
        self.pending.append((name, recorded, step))
        return recorded


@dataclass
class Desk:
    """A dispatcher with a link, and what it acknowledged: (command id, ``ok`` or the error's code)."""

    max_commands: int = 4
    max_queue: int = 4
    max_unconfirmed: int = 1000
    max_unconfirmed_bytes: int = 1 << 30
    runner: HeldRunner = field(default_factory=HeldRunner)
    journal: IJournal = field(default_factory=MemoryJournal)

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.acks: list[tuple[str, str]] = []
        self.dispatcher = Dispatcher(
            self.clock,
            self.runner,
            self.journal,
            Limits(
                max_commands=self.max_commands,
                max_queue=self.max_queue,
                default_timeout=60.0,
                max_timeout=600.0,
                max_unconfirmed=self.max_unconfirmed,
                max_unconfirmed_bytes=self.max_unconfirmed_bytes,
            ),
        )
        self.link = self.connect()

    def connect(self) -> RecordingLink:
        self.link = RecordingLink()
        self.dispatcher.link_ready(self.link)
        return self.link

    def disconnect(self) -> None:
        self.dispatcher.link_lost(self.link)

    def order(self, order: ExecuteCommand) -> None:
        self.dispatcher.command_received(order, self.acknowledge(order.command_id))

    def acknowledge(self, command_id: str) -> Callable[[RelayError | None], None]:
        return lambda error: self.acks.append((command_id, "ok" if error is None else error.code))


def watch_log(test: SynchronousTestCase) -> list[LogEvent]:
    """Everything that is logged until the end of *test*."""
    logged: list[LogEvent] = []

    @implementer(ILogObserver)
    def keep(event: LogEvent) -> None:
        logged.append(event)

    globalLogPublisher.addObserver(keep)
    test.addCleanup(globalLogPublisher.removeObserver, keep)
    return logged
