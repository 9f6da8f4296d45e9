"""
Parts around a dispatcher for its tests: a runner, links and a journal that do what the test says, when it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relayd.commands.dispatcher import Dispatcher, Limits
from relayd.errors import RelayError
from relayd.interfaces import Blame, IAudit, ICommandRunner, IJournal, ILink, IOutputSink, JournalEntry, Starting
from relayd.journal.memory import MemoryJournal
from relayd.wire.messages import (
    COMMAND_OUTPUT,
    COMMAND_RESULT,
    CommandOutput,
    CommandResult,
    Details,
    ExecuteCommand,
    Secret,
    StreamName,
)
from tests.support import schemas
from tests.support.flows import RecordedFlow

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
    """
    One call of the runner.

    :ivar started: whether the command may be told to run: ``None`` until that is known.
    """

    command: ExecuteCommand
    deadline: float
    done: Deferred[CommandResult]
    output: IOutputSink | None = None
    started: bool | None = None
    timeout: float | None = None
    grace: float | None = None

    def write(self, data: bytes, offset: int = 0, stream: StreamName = "stdout") -> Deferred[None] | None:
        assert self.output is not None
        return self.output.write(stream, offset, data)

    def finish(self, stdout: str = "fine", exit_code: int = 0) -> None:
        made = result(self.command.command_id, stdout, exit_code)
        self.done.callback(replace(made, numeric_id=self.command.numeric_id))


@implementer(ICommandRunner)
class FunctionRunner:
    """
    Takes every command, and runs it by a function.

    :param run: gets the command and where its output goes, and gives what `ICommandRunner.run_command` gives.
    """

    def __init__(self, run: Callable[[ExecuteCommand, IOutputSink | None], Deferred[CommandResult]]) -> None:
        self._run = run

    def refuses(self, command: ExecuteCommand) -> RelayError | None:
        return None

    def run_command(
        self,
        command: ExecuteCommand,
        deadline: float,
        starting: Starting,
        output: IOutputSink | None = None,
        **_: Any,
    ) -> Deferred[CommandResult]:
        return self._run(command, output)

    def close(self) -> Deferred[None]:
        return succeed(None)


@implementer(ICommandRunner)
class HeldRunner:
    """
    Runs a command until the test finishes it.

    :param dials: it asks whether it may start when the test says so (`start`), and not at once.
    :param lingers: cancelling a command does not end it: the test still has to finish it.
    :ivar refusal: what it says to whoever asks whether it takes a command.
    """

    def __init__(self, lingers: bool = False, dials: bool = False) -> None:
        self._dials = dials
        self._starting: dict[str, Starting] = {}
        self.runs: list[Run] = []
        self.cancelled: list[str] = []
        self.refusal: RelayError | None = None
        self._lingers = lingers

    def refuses(self, command: ExecuteCommand) -> RelayError | None:
        return self.refusal

    def run_command(
        self,
        command: ExecuteCommand,
        deadline: float,
        starting: Starting,
        output: IOutputSink | None = None,
        *,
        timeout: float | None = None,
        grace: float | None = None,
    ) -> Deferred[CommandResult]:
        done: Deferred[CommandResult] = Deferred(lambda _: self.cancelled.append(command.command_id))
        run = Run(command, deadline, done, output, timeout=timeout, grace=grace)
        self.runs.append(run)
        self._starting[command.command_id] = starting
        if not self._dials:
            self.start(run)
        return run.done.addErrback(self._cancelled, run) if self._lingers else run.done

    def start(self, run: Run) -> None:
        """The host is there, and could be told to run it."""

        def go(_: None) -> None:
            run.started = True

        def stop(failure: Failure) -> None:
            run.started = False
            if not run.done.called:
                run.done.errback(failure)

        self._starting[run.command.command_id]().addCallbacks(go, stop)

    def close(self) -> Deferred[None]:
        return succeed(None)

    def ids(self) -> list[str]:
        return [run.command.command_id for run in self.runs]

    def started(self) -> list[str]:
        """Those that may have run."""
        return [run.command.command_id for run in self.runs if run.started]

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
    :ivar on_send: called after each result.
    """

    def __init__(self, max_payload: int = 1_000_000, server: str = "") -> None:
        self.sent: list[CommandResult] = []
        self.events: list[CommandOutput | CommandResult] = []
        self.flow = RecordedFlow()
        self.max_payload = max_payload
        self.server = server
        self.probes: list[Deferred[None]] = []
        self.on_send: Callable[[], None] = lambda: None

    def probe(self) -> Deferred[None]:
        probe: Deferred[None] = Deferred()
        self.probes.append(probe)
        return probe

    def answer(self) -> None:
        """The main server shows that it has read all that was sent."""
        self.probes.pop(0).callback(None)

    @property
    def writable(self) -> bool:
        return self.flow.writable

    def when_writable(self) -> Deferred[None]:
        return self.flow.when_writable()

    def send_output(self, output: CommandOutput) -> None:
        schemas.check_relay(COMMAND_OUTPUT, output.to_wire())
        self.events.append(output)

    def outputs(self) -> list[CommandOutput]:
        return [event for event in self.events if isinstance(event, CommandOutput)]

    def send_result(self, result: CommandResult) -> None:
        schemas.check_relay(COMMAND_RESULT, result.to_wire())
        self.sent.append(result)
        self.events.append(result)
        self.on_send()

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
        self.pending: list[tuple[str, Deferred[Any], Callable[[], Deferred[Any]]]] = []

    @property
    def outstanding(self) -> int:
        return self.records.outstanding

    def open(self) -> Sequence[tuple[str, str]]:
        return self.records.open()

    def accept(self, command: ExecuteCommand, fingerprint: bytes, origin: int = 0) -> Deferred[JournalEntry | None]:
        return self._later("accept", lambda: self.records.accept(command, fingerprint, origin))

    def start(self, command_id: str) -> Deferred[None]:
        return self._later("start", lambda: self.records.start(command_id))

    def finish(self, result: CommandResult) -> Deferred[None]:
        return self._later("finish", lambda: self.records.finish(result))

    def confirm(self, command_id: str) -> None:
        self.records.confirm(command_id)

    def bury(self, command_id: str) -> None:
        self.records.bury(command_id)

    def load(self, command_id: str) -> Deferred[CommandResult | None]:
        return self.records.load(command_id)

    def note(self, name: str, value: str) -> None:
        self.records.note(name, value)

    def noted(self, name: str) -> str | None:
        return self.records.noted(name)

    def lookup(self, command_id: str) -> JournalEntry | None:
        return self.records.lookup(command_id)

    def unconfirmed(self) -> Sequence[str]:
        return self.records.unconfirmed()

    def outstanding_from(self, origin: int) -> int:
        return self.records.outstanding_from(origin)

    def dead_letters(self) -> Sequence[str]:
        return self.records.dead_letters()

    def close(self) -> Deferred[None]:
        return self.records.close()

    def steps(self) -> list[str]:
        return [step for step, _, _ in self.pending]

    def record(self) -> None:
        """The oldest pending step is on disk now."""
        _, recorded, step = self.pending.pop(0)
        step().chainDeferred(recorded)

    def fail(self, error: Exception) -> None:
        """The oldest pending step cannot be put on disk."""
        _, recorded, _ = self.pending.pop(0)
        recorded.errback(error)

    def _later(self, name: str, step: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        recorded: Deferred[Any] = Deferred()
        self.pending.append((name, recorded, step))
        return recorded


@dataclass
class Desk:
    """
    A dispatcher with a link, and what it acknowledged: (command id, ``ok`` or the error's code).

    :ivar receipts: whether the main server is known to send any.
    :ivar servers: main servers that are told apart; no link is there yet then.
    """

    max_commands: int = 4
    max_queue: int = 4
    receipts: bool = True
    timeout_margin: float = 0.0
    servers: Sequence[str] = ()
    runner: HeldRunner = field(default_factory=HeldRunner)
    journal: IJournal = field(default_factory=MemoryJournal)
    audit: IAudit | None = None

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.acks: list[tuple[str, str]] = []
        if self.receipts:
            self.journal.note("receipts", "yes")
        self.dispatcher = Dispatcher(
            self.clock,
            self.runner,
            self.journal,
            Limits(
                max_commands=self.max_commands,
                max_queue=self.max_queue,
                default_timeout=60.0,
                max_timeout=600.0,
                timeout_margin=self.timeout_margin,
            ),
            audit=self.audit,
            servers=self.servers,
        )
        self.link = self.connect()

    def connect(self, link: RecordingLink | None = None) -> RecordingLink:
        self.link = link or RecordingLink()
        self.dispatcher.link_ready(self.link)
        return self.link

    def disconnect(self, blame: Blame = Blame.POSSIBLE) -> None:
        self.dispatcher.link_lost(self.link, blame)
        self.link.flow.end()

    def order(self, order: ExecuteCommand) -> None:
        self.dispatcher.command_received(order, self.acknowledge(order.command_id))

    def acknowledge(self, command_id: str) -> Callable[[RelayError | None], None]:
        return lambda error: self.acks.append((command_id, "ok" if error is None else error.code))


def at_once() -> Deferred[None]:
    """Lets a command start (`relayd.interfaces.Starting`) without a journal."""
    return succeed(None)


def watch_log(test: SynchronousTestCase) -> list[LogEvent]:
    """Everything that is logged until the end of *test*."""
    logged: list[LogEvent] = []

    @implementer(ILogObserver)
    def keep(event: LogEvent) -> None:
        logged.append(event)

    globalLogPublisher.addObserver(keep)
    test.addCleanup(globalLogPublisher.removeObserver, keep)
    return logged
