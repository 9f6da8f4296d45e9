"""
What is sent on one connection: results, pieces of output, acknowledgements, and pings that ask what was read.
"""

from __future__ import annotations

from functools import partial
from itertools import count

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from relayd.interfaces import ILink
from relayd.uplink.message_limit import MessageLimit, UnderWay
from relayd.uplink.result_sender import ResultSender
from relayd.uplink.settings import ConnectionSettings
from relayd.uplink.wire import Pieces, Wire
from relayd.wire.dialects.codec import NO_LIMIT
from relayd.wire.dialects.events import IDialect
from relayd.wire.messages import COMMAND_OUTPUT, CommandOutput, CommandResult


class Pings:
    """The pings of one connection whose answers are awaited."""

    def __init__(self) -> None:
        self._awaited: dict[bytes, Deferred[None]] = {}
        self._numbers = count()

    def next_payload(self, answered: Deferred[None]) -> bytes:
        """The payload of a new ping; *answered* fires when its answer has come."""
        payload = next(self._numbers).to_bytes(8, "big")
        self._awaited[payload] = answered
        return payload

    def on_pong(self, payload: bytes) -> None:
        """The answer with *payload* came. It may stand for earlier pings, too (RFC 6455, section 5.5.3)."""
        if payload in self._awaited:
            answered = [each for each in self._awaited if each <= payload]
            for ping in [self._awaited.pop(each) for each in answered]:
                ping.callback(None)


@implementer(ILink)
class Link:
    """
    The sending half of a connection, which the command logic gets.

    :param limit: what earlier connections taught about the largest message that the main server takes.
    :ivar wire: sends the messages.
    :ivar under_way: the sizes of messages that the main server is not known to have read.
    :ivar upgraded_at: when a session that began with polling moved to a WebSocket, by the clock.
    """

    def __init__(
        self, clock: IReactorTime, wire: Wire, dialect: IDialect, limit: MessageLimit, settings: ConnectionSettings
    ) -> None:
        self.wire = wire
        self.under_way = UnderWay(clock, limit, self._ping_now)
        self.upgraded_at: float | None = None
        self.server = settings.origin
        self._clock = clock
        self._dialect = dialect
        self._limit = limit
        self._max_result = settings.max_result
        self._pings = Pings()
        self._results = ResultSender(
            dialect, settings.defer_to_thread, self._largest_result, self._send_text, settings.translate
        )

    # For the command logic (relayd.interfaces.ILink)

    @property
    def max_payload(self) -> int:
        """See `ILink`."""
        return min(self._dialect.max_payload, self._limit.bytes)

    @property
    def writable(self) -> bool:
        """See `ILink`."""
        return self.wire.flow.writable and not self._results.busy

    def when_writable(self) -> Deferred[None]:
        """See `ILink.when_writable`."""
        if self._results.busy:
            return self._results.when_idle().addCallback(lambda _: self.wire.flow.when_writable())
        return self.wire.flow.when_writable()

    def send_output(self, output: CommandOutput) -> None:
        """See `ILink.send_output`."""
        self.send_event(COMMAND_OUTPUT, output.to_wire())

    def send_result(self, result: CommandResult) -> None:
        """See `ILink.send_result`. After the end of the connection, the wire drops it."""
        self._results.send_result(result)

    def probe(self) -> Deferred[None]:
        """See `ILink.probe`: it waits for the answer to a WebSocket ping, in both dialects."""
        answered: Deferred[None] = Deferred()
        self._results.after_results(partial(self._ping, answered))
        return answered

    # For the rest of the connection

    def send_event(self, name: str, data: object) -> None:
        """Send one event."""
        self._dialect.send_event(name, data)
        self.flush()

    def acknowledge(self, ack_id: int, data: object | None) -> None:
        """Send the acknowledgement of an event that asked for one; ``None`` is an empty one."""
        self._dialect.acknowledge(ack_id, data)
        self.flush()

    def flush(self) -> None:
        """Send what the dialect has queued."""
        for frame in self._dialect.frames_to_send():
            self._send_text(frame.encode())

    def move_to(self, wire: Wire) -> None:
        """Send on *wire* from now on: a polling session has moved to a WebSocket."""
        self.wire = wire
        self.upgraded_at = self._clock.seconds()

    def on_pong(self, payload: bytes) -> None:
        """The main server answered a ping."""
        self._pings.on_pong(payload)

    def end(self) -> None:
        """The connection is over. The command logic sends the results that wait here on the next one."""
        self._results.end()
        self.wire.flow.end()

    def _largest_result(self) -> int:
        named = self.max_payload
        return self._max_result if named >= NO_LIMIT else named

    def _send_text(self, payload: bytes | Pieces) -> None:
        self.wire.send_text(payload)
        self.under_way.message_sent(len(payload))

    def _ping_now(self) -> Deferred[None]:
        answered: Deferred[None] = Deferred()
        self._ping(answered)
        return answered

    def _ping(self, answered: Deferred[None]) -> None:
        self.wire.ping(self._pings.next_payload(answered))
