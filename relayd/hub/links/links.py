"""
The links of a main server: sends commands to relays, asks them, and tells an observer what they say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail, gatherResults, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.hub.links.asking import Asking, error_in
from relayd.hub.links.identity import Authenticate, RelayIdentity, RelayProgram
from relayd.hub.links.protocol import SERVICE_RESTART, RelayConnection, RelayConnectionFactory
from relayd.hub.links.shared_names import WINDOW, SharedName, SharedNames, Turn
from relayd.hub.links.table import LinkTable
from relayd.hub.settings import HubSettings
from relayd.language.texts import printable, span
from relayd.wire.messages import CHECK_COMMAND, CommandOutput, CommandResult, CommandStatus, ExecuteCommand
from relayd.wire.policy_answer import PolicyAnswer
from relayd.wire.relay_info import RelayInfo

_log = Logger("relayd.hub")

#: Seconds for which `Links.close` waits for results that are being recorded.
RECORDING_PATIENCE = 10.0


class LinkObserver(Protocol):
    """What relays tell a main server.  A method that raises is logged, and stops nothing."""

    def relay_connected(self, link: RelayConnection) -> None:
        """
        A relay can be sent commands.  With `Links.learns`, ``link.program`` says what it is, or that it has not
        answered in time; if its answer comes late, this is called again with the same link.
        """

    def relay_lost(self, link: RelayConnection) -> None:
        """
        *link*, which was connected, is gone.  Its relay is not, if ``Links.relays`` has a newer link.
        """

    def accepted(self, proxy_id: str, command_id: str) -> None:
        """A relay acknowledges a command: if it is relayd, the command is in its journal."""

    def refused(self, proxy_id: str, command_id: str, error: str) -> None:
        """A relay acknowledges a command with an error, whose words these are; a result may follow or not."""

    def result(self, proxy_id: str, result: CommandResult) -> Deferred[object] | None:
        """
        A command has ended.  The relay gets its receipt when the Deferred fires, or at once for ``None``; if it fails,
        the relay keeps the result and sends it again.
        """

    def output(self, proxy_id: str, output: CommandOutput) -> None:
        """A piece of the output of a running command."""


class Links:
    """
    Accepts relays in both dialects, and knows the connected ones.

    More than 25 methods, as each thing that a relay says is one, and each thing that it is asked.

    :param authenticate: checks keys.
    :param learns: whether to ask each relay what it is when it connects (``relay_info``).
    """

    def __init__(
        self,
        reactor: IReactorTime,
        authenticate: Authenticate,
        observer: LinkObserver,
        settings: HubSettings | None = None,
        *,
        learns: bool = True,
    ) -> None:
        self.learns = learns
        self._reactor = reactor
        self._authenticate = authenticate
        self._observer = observer
        self._settings = settings or HubSettings()
        self._table: LinkTable[RelayConnection] = LinkTable()
        #: The links of which the observer knows.
        self._told: set[RelayConnection] = set()
        #: Replaced links that have not ended yet, with the address of the link that replaced each.
        self._replaced: dict[RelayConnection, str] = {}
        self._names = SharedNames()
        self.asking = Asking(reactor, self._settings.answer_timeout)
        self.factory = RelayConnectionFactory(reactor, self, self._settings)
        self._ports: list[IListeningPort] = []
        self._all_closed: Deferred[None] | None = None

    # For the main server

    @property
    def relays(self) -> Mapping[str, RelayConnection]:
        """The links of connected relays by ``proxyId``; a live view."""
        return self._table.relays

    def listen(self, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        """
        Accept relays at *endpoint*.

        :return: a Deferred of the port, which `close` will close.
        """

        def listening(port: IListeningPort) -> IListeningPort:
            self._ports.append(port)
            return port

        return endpoint.listen(self.factory).addCallback(listening)

    def send(self, proxy_id: str, command: ExecuteCommand) -> bool:
        """
        Send a command.

        :return: whether the relay is connected, and the observer knows of its link: otherwise the command would go to
            another journal than the observer thinks. Whether it arrives is not known.
        :raises ValueError: when it cannot be written as JSON.
        """
        link = self.relays.get(proxy_id)
        if link is None or link not in self._told:
            return False
        number = link.send_command(command)
        if number is not None:
            self._table.expect(link, number, command.command_id)
        return True

    def forget(self, proxy_id: str, command_id: str) -> None:
        """A command has ended for the main server: an acknowledgement that still comes means nothing."""
        self._table.forget(self.relays.get(proxy_id), command_id)

    def cancel(self, proxy_id: str, command_id: str) -> Deferred[CommandStatus | None]:
        """See `relayd.hub.links.asking.Asking.cancel`."""
        return self.asking.cancel(self.relays.get(proxy_id), proxy_id, command_id)

    def status(self, proxy_id: str, command_id: str) -> Deferred[CommandStatus]:
        """See `relayd.hub.links.asking.Asking.status`."""
        return self.asking.status(self.relays.get(proxy_id), proxy_id, command_id)

    def info(self, proxy_id: str) -> Deferred[RelayInfo]:
        """See `relayd.hub.links.asking.Asking.info`."""
        return self.asking.info(self.relays.get(proxy_id), proxy_id)

    def check(self, proxy_id: str, command: ExecuteCommand) -> Deferred[PolicyAnswer]:
        """See `relayd.hub.links.asking.Asking.check`."""
        return self.asking.check(self.relays.get(proxy_id), proxy_id, command)

    def shared_name(self, proxy_id: str) -> SharedName | None:
        """Whether two programs take turns with that name now."""
        return self._names.of(proxy_id, self._reactor.seconds())

    def disconnect(self, proxy_id: str, reason: str, key_id: str | None = None) -> bool:
        """
        End a relay's connection, also for a common Socket.IO client, which does not come again by itself then.

        :param reason: for the relay, in the close frame.
        :param key_id: only if it has shown that key.
        :return: whether it was connected so.
        """
        link = self.relays.get(proxy_id)
        if link is None or link.identity is None or key_id not in (None, link.identity.key_id):
            return False
        link.shut(reason)
        return True

    async def close(self, reason: str = "the main server restarts", code: int = SERVICE_RESTART) -> None:
        """
        Stop listening, let results be recorded and confirmed, close every connection and wait until that is done.

        :param code: of the close frames.
        """
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        self._ports.clear()
        waiting = [link.when_recorded() for link in self.factory.connections]
        try:
            await gatherResults(waiting).addTimeout(RECORDING_PATIENCE, self._reactor)
        except TimeoutError:
            _log.warn("Results that are not recorded yet stay with their relays, which send them again")
        if self.factory.connections:
            all_closed: Deferred[None] = Deferred()
            self._all_closed = all_closed
            for connection in list(self.factory.connections):
                connection.shut(reason, code)
            await all_closed

    # What the connections tell (`relayd.hub.links.protocol.RelayListener`)

    def authenticate(self, proxy_id: str, api_key: str, address: str) -> Deferred[RelayIdentity | None]:
        """See `relayd.hub.links.identity.Authenticate`.  A name or a key that is empty is never right."""
        if not (proxy_id and api_key):
            return succeed(None)
        return maybeDeferred(self._authenticate, proxy_id, api_key, address)

    def relay_connected(self, link: RelayConnection) -> None:
        """A relay has joined with the right key; its older connection, if any, is closed."""
        replaced = self._table.connect(link.proxy_id, link)
        _log.info(
            "Relay {proxy_id} connected from {peer} ({dialect})",
            proxy_id=link.proxy_id,
            peer=link.shown_peer,
            dialect=link.dialect,
        )
        if replaced is not None:
            _log.info(
                "It replaces the connection of {proxy_id} from {peer}",
                proxy_id=link.proxy_id,
                peer=replaced.shown_peer,
            )
            self._replaced[replaced] = link.address
            replaced.shut("replaced by a newer connection")
        if self.learns:
            self._learn(link)
        else:
            self._tell(link)

    def relay_lost(self, link: RelayConnection) -> None:
        """A relay is gone.  What it was sent it may still run, and sends the results when it is back."""
        self._table.disconnect(link.proxy_id, link)
        self.asking.link_lost(link)
        newer = self._replaced.pop(link, None)
        if newer is not None and link.answered_close:
            turn = Turn(self._reactor.seconds(), newer, link.address)
            if (shared := self._names.replaced_alive(link.proxy_id, turn)) is not None:
                self._say_shared(link.proxy_id, shared)
        if link in self._told:
            self._told.remove(link)
            self._shield(self._observer.relay_lost, link)

    def record(self, link: RelayConnection, result: CommandResult) -> Deferred[object] | None:
        """A result has arrived: what the observer says decides about its receipt."""
        self._table.forget(link, result.command_id)
        try:
            return self._observer.result(link.proxy_id, result)
        except Exception:
            return fail()

    def output_received(self, link: RelayConnection, output: CommandOutput) -> None:
        """A piece of output has arrived."""
        self._shield(self._observer.output, link.proxy_id, output)

    def status_received(self, link: RelayConnection, status: CommandStatus) -> None:
        """An answer has arrived in a dialect without acknowledgements."""
        self.asking.answered(link, status.command_id, status.to_wire())

    def check_received(self, link: RelayConnection, answer: PolicyAnswer) -> None:
        """An answer has arrived in a dialect without acknowledgements."""
        self.asking.answered(link, (CHECK_COMMAND, answer.command_id), answer.to_wire())

    def info_received(self, link: RelayConnection, data: object) -> None:
        """An answer has arrived in a dialect without acknowledgements."""
        self.asking.answered(link, None, data)

    def ack_received(self, link: RelayConnection, ack_id: int, data: object) -> None:
        """
        An acknowledgement has arrived: it answers a question, or says that the relay accepted a command, or in
        ``error`` why it did not.  Anything else in it is ignored.
        """
        self.asking.answered(link, ack_id, data)
        command_id = self._table.acknowledged(link, ack_id)
        if command_id is None:
            return
        error = error_in(data)
        if error is None:
            self._shield(self._observer.accepted, link.proxy_id, command_id)
        else:
            self._shield(self._observer.refused, link.proxy_id, command_id, error)

    def connection_closed(self) -> None:
        """A connection has ended, whether it had joined or not."""
        if self._all_closed is not None and not self.factory.connections:
            self._all_closed.callback(None)

    # Ours

    def _learn(self, link: RelayConnection) -> None:
        """Ask what the relay is, and tell the observer once that is known, or once it takes too long."""

        def learned(program: RelayProgram | Failure) -> None:
            if patience.active():
                patience.cancel()
            if isinstance(program, RelayProgram):  # otherwise it is gone
                link.program = program
                self._tell(link)

        patience = self._reactor.callLater(self._settings.answer_timeout, self._tell, link)
        self.asking.program(link).addBoth(learned)

    def _tell(self, link: RelayConnection) -> None:
        if self.relays.get(link.proxy_id) is not link:
            return
        program = link.program
        if self.learns:
            _log.info("Relay {proxy_id} is {what}", proxy_id=link.shown_id, what=_words_of(program))
        self._told.add(link)
        self._shield(self._observer.relay_connected, link)

    def _say_shared(self, proxy_id: str, shared: SharedName) -> None:
        _log.warn(
            "Two programs take turns as relay {proxy_id}: {turns} times within {window} one has replaced the other's "
            "connection, which was alive; from {addresses}. Give each relay a name and a key of its own",
            proxy_id=proxy_id,
            turns=shared.turns,
            window=span(WINDOW),
            addresses=", ".join(address or "an unknown address" for address in shared.addresses),
        )

    def _shield(self, method: Any, *arguments: object) -> None:
        try:
            method(*arguments)
        except CancelledError:
            raise
        except Exception:
            _log.failure("What a relay said could not be taken in")


def _words_of(program: RelayProgram) -> str:
    if program.info is not None:
        return f"relayd {printable(program.info.version, 40)}"
    return "a program that does not tell what it is: nothing is sent to it twice"
