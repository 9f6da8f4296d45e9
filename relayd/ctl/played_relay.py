"""
A relay that runs nothing, for ``relayctl try-server``: it connects as any relay does, and its user answers for it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater
from zope.interface import implementer

from relayd.ctl.check_server import DIAL_PATIENCE
from relayd.errors import InvalidMessage, RelayError
from relayd.interfaces import Acknowledge, Blame, ICommandReceiver, ILink
from relayd.uplink.connection import UplinkConnection
from relayd.uplink.service import UplinkService
from relayd.uplink.settings import UplinkSettings
from relayd.uplink.stages import Timing
from relayd.wire.messages import CommandResult, CommandState, ExecuteCommand, Receipt

_Item = TypeVar("_Item")

#: Seconds for the end of a connection.
CLOSE_PATIENCE: Final = 10.0


class Mailbox(Generic[_Item]):
    """Things in the order in which they came, and one who waits for the next."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._items: deque[_Item] = deque()
        self._waiting: Deferred[None] | None = None

    def put(self, item: _Item) -> None:
        """Add *item*."""
        self._items.append(item)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def next(self, seconds: float) -> _Item | None:
        """The next one; ``None``: none came within so many seconds."""
        if not self._items:
            self._waiting = Deferred()
            try:
                await self._waiting.addTimeout(seconds, self._clock)
            except TimeoutError:
                self._waiting = None
        return self._items.popleft() if self._items else None


class Order(Struct, frozen=True):
    """
    A command that the main server ordered.

    :ivar acknowledge: tells it that the command is accepted (``None``), or why it is refused.
    :ivar time: when it came, by the clock.
    """

    command: ExecuteCommand
    acknowledge: Acknowledge
    time: float


@implementer(ICommandReceiver)
class PlayedRelay:
    """
    One connection under a relay's name and with its key.

    :ivar orders: commands that came.
    :ivar receipts: receipts for results that were sent.
    :ivar invalid: orders that are not valid, as errors.
    :ivar asked: the ids of commands of which the main server asked for the state.
    :ivar dialect: how events are framed; empty: never connected.
    :ivar why_lost: why there is no connection any more; empty: there is one, or was none yet.
    """

    def __init__(self, reactor: Any, settings: UplinkSettings, timing: Timing) -> None:
        self._reactor = reactor
        self.orders: Mailbox[Order] = Mailbox(reactor)
        self.receipts: Mailbox[Receipt] = Mailbox(reactor)
        self.invalid: list[InvalidMessage] = []
        self.asked: list[str] = []
        self.dialect = ""
        self.why_lost = ""
        self.link: ILink | None = None
        self._lost: Mailbox[None] = Mailbox(reactor)
        self._leaving = self._left = False
        self._uplink = UplinkService(reactor, self, settings, self._on_accepted, timing)

    async def connect(self) -> bool:
        """Dial the main server once, in each dialect; gives whether it accepted the relay (`why_lost`)."""
        self._uplink.startService()
        deadline = self._reactor.seconds() + DIAL_PATIENCE
        while not (self.dialect or self._uplink.status.losses or self.why_lost) and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.05)
        if not self.dialect:
            await self.leave()
        return bool(self.dialect)

    async def lost(self, seconds: float) -> bool:
        """Wait for the end of the connection; gives whether it ended within so many seconds."""
        if self.link is None:
            return True
        await self._lost.next(seconds)
        return self.link is None

    async def leave(self) -> None:
        """Close the connection, if there is one, and do not come back."""
        if not self._leaving:
            self._leaving = True
            await self._stop()
        elif not self._left:
            await self._lost.next(CLOSE_PATIENCE)

    async def _stop(self) -> None:
        self.why_lost = self.why_lost or self._uplink.status.last_error or ""
        await self._uplink.stopService()
        self._left = True

    def send(self, result: CommandResult) -> None:
        """Send a result, if there is a connection."""
        if self.link is not None:
            self.link.send_result(result)

    def _on_accepted(self, connection: UplinkConnection) -> None:
        self.dialect = connection.dialect.name

    # ICommandReceiver

    def command_received(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        """See `ICommandReceiver.command_received`."""
        self.orders.put(Order(command, acknowledge, self._reactor.seconds()))

    def invalid_received(self, error: InvalidMessage, acknowledge: Acknowledge) -> None:
        """See `ICommandReceiver.invalid_received`."""
        self.invalid.append(error)
        acknowledge(error)

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        """See `ICommandReceiver.receipt_received`."""
        self.receipts.put(receipt)

    def cancel_received(self, command_id: str) -> CommandState:
        """See `ICommandReceiver.cancel_received`."""
        return CommandState.UNKNOWN

    def status_asked(self, command_id: str) -> CommandState:
        """See `ICommandReceiver.status_asked`."""
        self.asked.append(command_id)
        return CommandState.RUNNING

    def check_asked(self, command: ExecuteCommand) -> RelayError | None:
        """It has no rules."""
        return None

    def link_ready(self, link: ILink) -> None:
        """See `ICommandReceiver.link_ready`."""
        self.link = link

    def link_lost(self, link: ILink, blame: Blame) -> None:
        """See `ICommandReceiver.link_lost`: a relay would dial again, and displace others."""
        self.link = None
        if not self._leaving:
            self._leaving = True
            Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        losses = self._uplink.status.losses
        waited = 0
        while self._uplink.status.losses == losses and waited < 20:  # it hears why
            await deferLater(self._reactor, 0.05)
            waited += 1
        await self._stop()
        self.why_lost = self.why_lost or "the connection was closed"
        self._lost.put(None)
