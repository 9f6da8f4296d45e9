"""
Parts around a dispatcher for its tests: a runner, links and a journal that do what the test says, when it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relayd.dispatcher import Dispatcher, Limits
from relayd.errors import RelayError
from relayd.interfaces import IAudit, ICommandRunner, IJournal, ILink, IOutputSink, JournalEntry
from relayd.journal import MemoryJournal
from relayd.messages import CommandOutput, CommandResult, Details, ExecuteCommand, Secret, StreamName
from relayd.uplink.flow import Flow

PASSWORD = "canary-password"


def command(
    command_id: str = "c1",
    *,
    host: str = "web1",
    text: str = "uptime",
    timeout: float | None = None,
    extended: bool = False,
    **fields: Any,
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
        **fields,
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
    output: IOutputSink | None = None

    def write(self, data: bytes, offset: int = 0, stream: StreamName = "stdout") -> Deferred[None] | None:
        assert self.output is not None
        return self.output.write(stream, offset, data)

    def finish(self, stdout: str = "fine", exit_code: int = 0) -> None:
        self.done.callback(result(self.command.command_id, stdout, exit_code))


@implementer(ICommandRunner)
class HeldRunner:
    """
    Runs a command until the test finishes it.

    :param lingers: cancelling a command does not end it: the test still has to finish it.
    :ivar refusal: what it says to whoever asks whether it takes a command.
    """

    def __init__(self, lingers: bool = False) -> None:
        self.runs: list[Run] = []
        self.cancelled: list[str] = []
        self.refusal: RelayError | None = None
        self._lingers = lingers

    def refuses(self, command: ExecuteCommand) -> RelayError | None:
        return self.refusal

    def run(
        self, command: ExecuteCommand, deadline: float, output: IOutputSink | None = None
    ) -> Deferred[CommandResult]:
        run = Run(command, deadline, Deferred(lambda _: self.cancelled.append(command.command_id)), output)
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
    """
    Keeps what was sent on it.

    :ivar events: outputs and results, in order.
    :ivar flow: the test says there whether it can take more.
    """

    def __init__(self, max_payload: int = 1_000_000) -> None:
        self.sent: list[CommandResult] = []
        self.events: list[CommandOutput | CommandResult] = []
        self.flow = Flow()
        self.max_payload = max_payload

    @property
    def writable(self) -> bool:
        return self.flow.writable

    def when_writable(self) -> Deferred[None]:
        return self.flow.when_writable()

    def send_output(self, output: CommandOutput) -> None:
        self.events.append(output)

    def outputs(self) -> list[CommandOutput]:
        return [event for event in self.events if isinstance(event, CommandOutput)]

    def send_result(self, result: CommandResult) -> None:
        self.sent.append(result)
        self.events.append(result)

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
    audit: IAudit | None = None

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
            audit=self.audit,
        )
        self.link = self.connect()

    def connect(self, link: RecordingLink | None = None) -> RecordingLink:
        self.link = link or RecordingLink()
        self.dispatcher.link_ready(self.link)
        return self.link

    def disconnect(self) -> None:
        self.dispatcher.link_lost(self.link)
        self.link.flow.end()

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
