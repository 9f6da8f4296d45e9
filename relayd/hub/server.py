"""
The small main server: it keeps its keys and what it has ordered in memory, and waits for results.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger

from relayd.hub.errors import CommandInFlight, CommandRefused, HubClosed, NoResult, RelayOffline
from relayd.hub.links.identity import RelayIdentity
from relayd.hub.links.links import Links
from relayd.hub.links.protocol import GOING_AWAY, RelayConnection
from relayd.hub.settings import HubSettings
from relayd.language.texts import printable, span
from relayd.wire.field_types import MAYBE_SECONDS, TEXT, check_type
from relayd.wire.messages import CommandOutput, CommandResult, CommandStatus, ExecuteCommand, Secret
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
        #: What has no result yet. It stays whatever happens to the link: a relay sends its results after a reconnect.
        self._orders: dict[tuple[str, str], _Order] = {}
        self._waiting: dict[str, list[Deferred[None]]] = {}
        #: The relays' side of the wire.
        self.links = Links(reactor, self._authenticate, self, self._settings, learns=False)

    # For its user

    @property
    def relays(self) -> Mapping[str, RelayConnection]:
        """The connected relays by ``proxyId``; a live view."""
        return self.links.relays

    def listen(self, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        """
        Accept relays at *endpoint*, in both dialects.

        :return: a Deferred of the port, which `close` will close.
        """

        return self.links.listen(endpoint)

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
        if proxy_id not in self.relays:
            return fail(RelayOffline(proxy_id=proxy_id))
        if on_output is not None:
            command = msgspec.structs.replace(command, stream=True)
        key = proxy_id, command.command_id
        if key in self._orders:
            return fail(CommandInFlight(proxy_id=proxy_id, command_id=command.command_id))
        seconds = (timeout or command.timeout or self._settings.result_timeout) + self._settings.grace

        def forget(_: object) -> None:
            self._take(*key)

        done: Deferred[CommandResult] = Deferred(forget)
        timer = self._reactor.callLater(seconds, self._timed_out, *key, seconds)
        self._orders[key] = _Order(command.command_id, done, timer, on_output, on_accepted)
        try:
            self.links.send(proxy_id, command)
        except Exception:  # such as standard input that is said to be a text, and is none
            forget(None)
            raise
        return done

    def cancel(self, proxy_id: str, command_id: str) -> Deferred[CommandStatus | None]:
        """
        Have a relay end a command.  The command's result comes as that of any other.

        :return: a Deferred of the command's state, or of ``None`` at once where the dialect has no acknowledgements; it
            fails as that of `status` does.
        :raises TypeError: when *command_id* is no text.
        """
        check_type("command_id", command_id, TEXT)
        return self.links.cancel(proxy_id, command_id)

    def status(self, proxy_id: str, command_id: str) -> Deferred[CommandStatus]:
        """
        Ask a relay for the state of a command.

        :return: a Deferred of the answer.  It fails with `RelayOffline` (also when the relay leaves without an answer),
            `NoAnswer` (none came in time), `CommandRefused` (the relay refuses the question) or `InvalidMessage` (the
            answer is not valid).
        :raises TypeError: when *command_id* is no text.
        """
        check_type("command_id", command_id, TEXT)
        return self.links.status(proxy_id, command_id)

    def info(self, proxy_id: str) -> Deferred[RelayInfo]:
        """
        Ask a relay what it is.

        :return: a Deferred of the answer.  It fails with `RelayOffline` (also when the relay leaves without an answer),
            `NoInfo` (none came in time), `InfoRefused` or `InvalidMessage` (the answer is not valid).
        """
        return self.links.info(proxy_id)

    async def close(self) -> None:
        """Stop listening, fail what is pending with `HubClosed`, close every connection and wait until that is done."""
        for key in list(self._orders):
            if (order := self._take(*key)) is not None:
                order.done.errback(HubClosed(command_id=order.command_id))
        for connected in [each for waiters in self._waiting.values() for each in waiters]:
            connected.cancel()
        await self.links.close("the main server shuts down", GOING_AWAY)

    # What the links ask and tell (`relayd.hub.links.identity.Authenticate`, `relayd.hub.links.links.LinkObserver`)

    def _authenticate(self, proxy_id: str, api_key: str, address: str) -> Deferred[RelayIdentity | None]:
        return succeed(RelayIdentity(proxy_id) if self.accepts(proxy_id, api_key) else None)

    def accepts(self, proxy_id: str, api_key: str) -> bool:
        """Whether *api_key* is the key of that relay; takes the same time for a wrong key and for an unknown relay."""
        key = self._key_of(proxy_id) if proxy_id and api_key else None
        known = Secret(secrets.token_hex()) if key is None else as_secret(f"the key of {proxy_id!r}", key)
        return known == Secret(api_key)  # in constant time

    def relay_connected(self, link: RelayConnection) -> None:
        """A relay can be sent commands."""
        for connected in self._waiting.pop(link.proxy_id, []):
            connected.callback(None)

    def relay_lost(self, link: RelayConnection) -> None:
        """A relay is gone.  Its commands stay pending: it sends their results when it is back."""

    def result(self, proxy_id: str, result: CommandResult) -> Deferred[object] | None:
        """Have a result recorded, and give it to whoever waits for it; the receipt waits for the record."""
        if self._record is None:
            self._done(proxy_id, result)
            return None
        recording = maybeDeferred(self._record, proxy_id, result)
        return recording.addCallback(lambda _: self._done(proxy_id, result))

    def output(self, proxy_id: str, output: CommandOutput) -> None:
        """A piece of output has arrived; it is passed on where the caller asked for it."""
        order = self._orders.get((proxy_id, output.command_id))
        if order is not None and order.on_output is not None:
            _shield(order.on_output, output)

    def accepted(self, proxy_id: str, command_id: str) -> None:
        """A relay has accepted a command."""
        order = self._orders.get((proxy_id, command_id))
        if order is not None and order.on_accepted is not None:
            _shield(order.on_accepted)

    def refused(self, proxy_id: str, command_id: str, error: str) -> None:
        """A relay refuses a command."""
        if (order := self._take(proxy_id, command_id)) is not None:
            order.done.errback(CommandRefused(proxy_id=proxy_id, command_id=command_id, reason=error))

    # Ours

    def _done(self, proxy_id: str, result: CommandResult) -> None:
        order = self._take(proxy_id, result.command_id)
        if order is None:
            _log.info(
                "Relay {proxy_id} sent a result for {command_id}, which nobody waits for",
                proxy_id=proxy_id,
                command_id=printable(result.command_id, 256),
            )
        else:
            order.done.callback(result)

    def _take(self, proxy_id: str, command_id: str) -> _Order | None:
        order = self._orders.pop((proxy_id, command_id), None)
        if order is not None:
            self.links.forget(proxy_id, command_id)
            if order.timer.active():
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
