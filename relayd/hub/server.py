"""
The main server itself: it checks keys, sends commands to relays, and waits for their results.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.hub.errors import (
    CommandInFlight,
    CommandRefused,
    HubClosed,
    InfoRefused,
    NoAnswer,
    NoInfo,
    NoResult,
    RelayOffline,
)
from relayd.hub.links.protocol import RelayConnection, RelayConnectionFactory
from relayd.hub.links.questions import Mark, Questions
from relayd.hub.links.registry import Registry
from relayd.hub.settings import HubSettings
from relayd.language.texts import Text, printable, span
from relayd.wire.field_types import MAYBE_SECONDS, TEXT, check_type
from relayd.wire.messages import (
    CANCEL_COMMAND,
    COMMAND_STATUS,
    CommandOutput,
    CommandResult,
    CommandStatus,
    ExecuteCommand,
    Secret,
)
from relayd.wire.parsing import parse_command_status, parse_relay_info
from relayd.wire.relay_info import RelayInfo
from relayd.wire.secret import as_secret

_log = Logger("relayd.hub")

Keys = Mapping[str, Secret | str] | Callable[[str], Secret | str | None]
Record = Callable[[str, CommandResult], object]


class _Order(Struct, frozen=True, eq=False):
    """One command that has no result yet."""

    command_id: str
    done: Deferred[CommandResult]
    timer: IDelayedCall
    on_output: Callable[[CommandOutput], None] | None
    on_accepted: Callable[[], None] | None


class Hub:
    """
    Accepts relays and gives them commands.

    :param keys: the API key of each relay by its ``proxyId``, or a function that looks one up and gives ``None`` for an
        unknown relay. A key is a `Secret` or a `str`.
    :param record: called with ``proxyId`` and result before the relay gets its receipt, also for a result that came
        before or that nobody waits for.  It may give a Deferred or be a coroutine function: the receipt waits for it.
        If it fails, the receipt says so, and the relay keeps the result and sends it again.
    :raises TypeError: when a key is neither; it shows no key.
    """

    def __init__(
        self, reactor: IReactorTime, keys: Keys, settings: HubSettings | None = None, record: Record | None = None
    ) -> None:
        self._reactor = reactor
        if not callable(keys):
            for proxy_id, key in keys.items():
                as_secret(f"the key of {proxy_id!r}", key)
        self._key_of = keys if callable(keys) else keys.get
        self._record = record
        self._settings = settings or HubSettings()
        self._registry: Registry[RelayConnection, _Order] = Registry()
        self._questions: Questions[RelayConnection] = Questions()
        self._factory = RelayConnectionFactory(reactor, self, self._settings)
        self._ports: list[IListeningPort] = []
        self._waiting: dict[str, list[Deferred[None]]] = {}
        self._all_closed: Deferred[None] | None = None

    # For its user

    @property
    def relays(self) -> Mapping[str, RelayConnection]:
        """The connected relays by ``proxyId``; a live view."""
        return self._registry.relays

    def listen(self, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        """
        Accept relays at *endpoint*, in both dialects.

        :return: a Deferred of the port, which `close` will close.
        """

        def listening(port: IListeningPort) -> IListeningPort:
            self._ports.append(port)
            return port

        return endpoint.listen(self._factory).addCallback(listening)

    def when_connected(self, proxy_id: str) -> Deferred[None]:
        """A Deferred that fires once the relay is connected, or at once if it is.  It can be cancelled."""
        if proxy_id in self.relays:
            return succeed(None)
        waiters = self._waiting.setdefault(proxy_id, [])
        connected: Deferred[None] = Deferred(waiters.remove)
        waiters.append(connected)
        return connected

    def execute(
        self,
        proxy_id: str,
        command: ExecuteCommand,
        timeout: float | None = None,
        on_output: Callable[[CommandOutput], None] | None = None,
        on_accepted: Callable[[], None] | None = None,
    ) -> Deferred[CommandResult]:
        """
        Have a relay run a command.  After `RelayOffline` and `NoResult`, and after a restart of the main server, the
        same command with the same ``command_id`` may be sent again: relayd runs it at most once.

        :param timeout: seconds to wait for the result; by default the command's own timeout, otherwise
            `HubSettings.result_timeout`.  `HubSettings.grace` is added.
        :param on_output: called with each piece of output as it arrives; asks the relay to stream the output.
        :param on_accepted: called when the relay acknowledges the command, which is in its journal then.  Never called
            where the dialect has no acknowledgements (``native``), and possibly after the result.
        :return: a Deferred of the result.  It fails with `RelayOffline`, `CommandInFlight`, `CommandRefused` (the relay
            says so in its acknowledgement), `NoResult` (none came in time) or `HubClosed`.  Cancelling it forgets the
            command, which the relay runs all the same.
        :raises TypeError: when *command* or *timeout* is of another type.
        """
        check_type("command", command, (ExecuteCommand,))
        check_type("timeout", timeout, MAYBE_SECONDS)
        link = self.relays.get(proxy_id)
        if link is None:
            return fail(RelayOffline(proxy_id=proxy_id))
        if on_output is not None:
            command = msgspec.structs.replace(command, stream=True)
        command_id = command.command_id
        seconds = (timeout or command.timeout or self._settings.result_timeout) + self._settings.grace

        def forget(_: object) -> None:
            self._take(proxy_id, command_id)

        done: Deferred[CommandResult] = Deferred(forget)
        timer = self._reactor.callLater(seconds, self._timed_out, proxy_id, command_id, seconds)
        try:
            self._registry.add(proxy_id, command_id, _Order(command_id, done, timer, on_output, on_accepted))
        except CommandInFlight:
            timer.cancel()
            return fail()
        try:
            ack_id = link.send_command(command)
        except Exception:  # such as standard input that is said to be a text, and is none
            forget(None)
            raise
        if ack_id is not None:
            self._registry.expect_ack(proxy_id, command_id, link, ack_id)
        return done

    def cancel(self, proxy_id: str, command_id: str) -> Deferred[CommandStatus | None]:
        """
        Have a relay end a command.  The command's result comes as that of any other.

        :return: a Deferred of the command's state, or of ``None`` at once where the dialect has no acknowledgements; it
            fails as that of `status` does.
        :raises TypeError: when *command_id* is no text.
        """
        check_type("command_id", command_id, TEXT)
        link = self.relays.get(proxy_id)
        if link is None:
            return fail(RelayOffline(proxy_id=proxy_id))
        ack_id = link.ask(CANCEL_COMMAND, command_id)
        if ack_id is None:
            return succeed(None)
        answer: Deferred[Any] = self._answer(link, ack_id, command_id)
        return answer

    def status(self, proxy_id: str, command_id: str) -> Deferred[CommandStatus]:
        """
        Ask a relay for the state of a command.

        :return: a Deferred of the answer.  It fails with `RelayOffline` (also when the relay leaves without an answer),
            `NoAnswer` (none came in time), `CommandRefused` (the relay refuses the question) or `InvalidMessage` (the
            answer is not valid).
        :raises TypeError: when *command_id* is no text.
        """
        check_type("command_id", command_id, TEXT)
        link = self.relays.get(proxy_id)
        if link is None:
            return fail(RelayOffline(proxy_id=proxy_id))
        ack_id = link.ask(COMMAND_STATUS, command_id)
        return self._answer(link, command_id if ack_id is None else ack_id, command_id)

    def info(self, proxy_id: str) -> Deferred[RelayInfo]:
        """
        Ask a relay what it is.

        :return: a Deferred of the answer.  It fails with `RelayOffline` (also when the relay leaves without an answer),
            `NoInfo` (none came in time), `InfoRefused` or `InvalidMessage` (the answer is not valid).
        """
        link = self.relays.get(proxy_id)
        if link is None:
            return fail(RelayOffline(proxy_id=proxy_id))

        def read(data: object) -> RelayInfo:
            if error := _error_in(data):
                raise InfoRefused(proxy_id=proxy_id, reason=error)
            return parse_relay_info(data)

        answer = self._in_time(link, link.ask_info(), lambda time: NoInfo(proxy_id=proxy_id, time=time))
        return answer.addCallback(read)

    async def close(self) -> None:
        """Stop listening, fail what is pending with `HubClosed`, close every connection and wait until that is done."""
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        self._ports.clear()
        for order in self._registry.take_all():
            order.timer.cancel()
            order.done.errback(HubClosed(command_id=order.command_id))
        for connected in [each for waiters in self._waiting.values() for each in waiters]:
            connected.cancel()
        if self._factory.connections:
            all_closed: Deferred[None] = Deferred()
            self._all_closed = all_closed
            for connection in list(self._factory.connections):
                connection.shut("the main server shuts down", going_away=True)
            await all_closed

    # What the connections tell (`relayd.hub.links.protocol.RelayListener`)

    def accepts(self, proxy_id: str, api_key: str) -> bool:
        """Whether *api_key* is the key of that relay; takes the same time for a wrong key and for an unknown relay."""
        key = self._key_of(proxy_id) if proxy_id and api_key else None
        known = Secret(secrets.token_hex()) if key is None else as_secret(f"the key of {proxy_id!r}", key)
        return known == Secret(api_key)  # in constant time

    def relay_connected(self, link: RelayConnection) -> None:
        """A relay has joined with the right key; its older connection, if any, is closed."""
        replaced = self._registry.connect(link.proxy_id, link)
        _log.info(
            "Relay {proxy_id} connected from {peer} ({dialect})",
            proxy_id=link.proxy_id,
            peer=link.peer,
            dialect=link.dialect,
        )
        if replaced is not None:
            _log.warn(
                "It replaces the connection of {proxy_id} from {peer}. If this goes on, two relays share one proxyId",
                proxy_id=link.proxy_id,
                peer=replaced.peer,
            )
            replaced.shut("replaced by a newer connection")
        for connected in self._waiting.pop(link.proxy_id, []):
            connected.callback(None)

    def relay_lost(self, link: RelayConnection) -> None:
        """A relay is gone.  Its commands stay pending: it sends their results when it is back."""
        self._registry.disconnect(link.proxy_id, link)
        for asked in self._questions.take_all(link):
            asked.errback(RelayOffline(proxy_id=link.proxy_id))

    def record(self, link: RelayConnection, result: CommandResult) -> Deferred[object] | None:
        """Have a result recorded; ``None``: there is nothing to wait for."""
        return None if self._record is None else maybeDeferred(self._record, link.proxy_id, result)

    def result_received(self, link: RelayConnection, result: CommandResult) -> None:
        """A result has arrived and is recorded, and a receipt for it was sent."""
        order = self._take(link.proxy_id, result.command_id)
        if order is None:
            _log.info(
                "Relay {proxy_id} sent a result for {command_id}, which nobody waits for",
                proxy_id=link.proxy_id,
                command_id=printable(result.command_id, 256),
            )
        else:
            order.done.callback(result)

    def output_received(self, link: RelayConnection, output: CommandOutput) -> None:
        """A piece of output has arrived; it is passed on where the caller asked for it."""
        order = self._registry.get(link.proxy_id, output.command_id)
        if order is None or order.on_output is None:
            return
        _shield(order.on_output, output)

    def status_received(self, link: RelayConnection, status: CommandStatus) -> None:
        """An answer has arrived in a dialect without acknowledgements."""
        for asked in self._questions.take(link, status.command_id):
            asked.callback(status.to_wire())

    def info_received(self, link: RelayConnection, data: object) -> None:
        """An answer has arrived in a dialect without acknowledgements."""
        for asked in self._questions.take(link, None):
            asked.callback(data)

    def ack_received(self, link: RelayConnection, ack_id: int, data: object) -> None:
        """
        An acknowledgement has arrived: it answers a question, or says that the relay accepted a command, or in
        ``error`` why it did not.  Anything else in it is ignored.
        """
        for asked in self._questions.take(link, ack_id):
            asked.callback(data)
        command_id = self._registry.acknowledged(link, ack_id)
        if command_id is None:
            return
        error = _error_in(data)
        if error is None:
            accepted = self._registry.get(link.proxy_id, command_id)
            if accepted is not None and accepted.on_accepted is not None:
                _shield(accepted.on_accepted)
        elif (order := self._take(link.proxy_id, command_id)) is not None:
            order.done.errback(CommandRefused(proxy_id=link.proxy_id, command_id=command_id, reason=error))

    def connection_closed(self) -> None:
        """A connection has ended, whether it had joined or not."""
        if self._all_closed is not None and not self._factory.connections:
            self._all_closed.callback(None)

    # Ours

    def _answer(self, link: RelayConnection, mark: int | str, command_id: str) -> Deferred[CommandStatus]:
        def read(data: object) -> CommandStatus:
            if error := _error_in(data):
                raise CommandRefused(proxy_id=link.proxy_id, command_id=command_id, reason=error)
            return parse_command_status(data)

        def error(time: Text) -> NoAnswer:
            return NoAnswer(proxy_id=link.proxy_id, command_id=command_id, time=time)

        return self._in_time(link, mark, error).addCallback(read)

    def _in_time(self, link: RelayConnection, mark: Mark, error: Callable[[Text], NoAnswer]) -> Deferred[object]:
        """The data of an answer; *error* makes the error for one that does not come."""

        def too_late(outcome: object, seconds: float) -> object:
            if isinstance(outcome, Failure) and outcome.check(CancelledError):
                raise error(span(seconds))
            return outcome

        return self._questions.add(link, mark).addTimeout(self._settings.answer_timeout, self._reactor, too_late)

    def _take(self, proxy_id: str, command_id: str) -> _Order | None:
        order = self._registry.take(proxy_id, command_id)
        if order is not None and order.timer.active():
            order.timer.cancel()
        return order

    def _timed_out(self, proxy_id: str, command_id: str, seconds: float) -> None:
        order = self._take(proxy_id, command_id)
        if order is not None:
            order.done.errback(NoResult(proxy_id=proxy_id, command_id=command_id, time=span(seconds)))


def _shield(function: Callable[..., None], *arguments: object) -> None:
    """Call a function of the main server's user; its mistakes are logged and stop nothing."""
    try:
        function(*arguments)
    except Exception:
        _log.failure("A function that was given to Hub.execute failed")


def _error_in(acknowledgement: object) -> str | None:
    error = acknowledgement.get("error") if isinstance(acknowledgement, dict) else None
    return printable(str(error), 500) if error else None
