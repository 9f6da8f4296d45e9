"""
A main server that keeps the books: what it ordered, what was acknowledged, which results came, how often.

It runs in the test's process and speaks Socket.IO with the codec of `relayd.wire.dialects`, so that receipts can be
withheld, doubled, refused or mixed up, and connections cut, at any point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import deferLater

from relayd.wire.dialects import native
from relayd.wire.dialects.events import AckReceived, Connected, EventReceived
from relayd.wire.dialects.socketio import SocketIOServerDialect

#: Seconds that anything may take.
PATIENCE = 60.0


class _Connection(WebSocketServerProtocol):
    """
    One relay's WebSocket.

    :ivar deaf: whether nothing more that comes is looked at.
    """

    transport: Any

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self.acks: dict[int, str] = {}
        self.deaf = False
        self.dialect: SocketIOServerDialect | native.NativeServerDialect = (
            native.NativeServerDialect()
            if ledger.native
            else SocketIOServerDialect(ping_interval=ledger.ping_interval, accepts=ledger.max_payload)
        )

    def onConnect(self, request: ConnectionRequest) -> None:
        self._ledger.keys.append(request.params["apiKey"][0])

    def onOpen(self) -> None:
        self.transport.setTcpNoDelay(True)
        if any(isinstance(event, Connected) for event in self.dialect.opened()):
            self._ledger.connected(self)
        self.flush()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.deaf:  # as one that dies before it has read what came
            return
        for event in self.dialect.receive_text(payload.decode()):
            if isinstance(event, Connected):
                self._ledger.connected(self)
            elif isinstance(event, AckReceived):
                self._ledger.acknowledged(self.acks.pop(event.ack_id), event.data)
            elif isinstance(event, EventReceived) and event.name == "command_result":
                self._ledger.result(self, event.data)
        self.flush()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._ledger.gone(self)

    def flush(self) -> None:
        for frame in self.dialect.frames_to_send():
            if self.state == self.STATE_OPEN:
                self.sendMessage(frame.encode())


def confirm(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The receipts for a result: one, as the specification has it."""
    return [{"success": True}]


class Ledger:
    """
    :param receipts: which receipts a result gets.
    :param max_payload: bytes in the largest message that it takes.
    :param native: whether it speaks that dialect, which has no acknowledgements, instead of Socket.IO.

    :ivar ordered: the data of every order that was sent, by command.
    :ivar acked: by command, what its acknowledgements said, ``None`` for accepted.
    :ivar results: by command, every result that came, as it came.
    :ivar keys: the API key of each connection.
    :ivar on_result: called with each result, before its receipts are sent.
    """

    def __init__(
        self,
        receipts: Callable[[dict[str, Any]], list[dict[str, Any]]] = confirm,
        max_payload: int = 1_000_000,
        native: bool = False,
    ) -> None:
        self.receipts = receipts
        self.native = native
        self.max_payload = max_payload
        self.ping_interval = 25.0
        self.ordered: dict[str, dict[str, Any]] = {}
        self.acked: dict[str, list[object]] = {}
        self.results: dict[str, list[dict[str, Any]]] = {}
        self.keys: list[str] = []
        self.connections = 0
        self.on_result: Callable[[str], None] = lambda command_id: None
        self.port = 0
        self.link: _Connection | None = None
        self._all: set[_Connection] = set()
        self._listening: Any = None

    @property
    def url(self) -> str:
        """Where relays find it."""
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        """Take connections; always on the same port."""
        from twisted.internet import reactor

        factory = WebSocketServerFactory(reactor=reactor)
        factory.noisy = False
        factory.setProtocolOptions(maxFramePayloadSize=self.max_payload, maxMessagePayloadSize=self.max_payload)
        factory.protocol = self._make  # type: ignore[assignment]
        self._listening = reactor.listenTCP(self.port, factory, interface="127.0.0.1")
        self.port = self._listening.getHost().port

    def _make(self) -> _Connection:
        connection = _Connection(self)
        self._all.add(connection)
        return connection

    async def stop(self) -> None:
        """As a crash would: nobody listens any more, and every connection is cut."""
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        self.cut()
        await self.until(lambda: not self._all)

    def cut(self) -> None:
        """Cut every connection."""
        for connection in list(self._all):
            connection.transport.abortConnection()
        self.link = None

    def order(self, command_id: str, **data: Any) -> None:
        """Send ``execute_command``, where a relay is connected."""
        data = {"commandId": command_id, "serverId": 1, **data}
        if self.link is not None:
            self.ordered[command_id] = data
            number = self.link.dialect.request("execute_command", data)
            if number is not None:
                self.link.acks[number] = command_id
            self.link.flush()

    def send(self, event: str, data: object) -> None:
        """Send any event."""
        assert self.link is not None
        self.link.dialect.send_event(event, data)
        self.link.flush()

    async def until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        """Wait until *condition* holds."""
        from twisted.internet import reactor

        end = reactor.seconds() + patience
        while not condition():
            if reactor.seconds() > end:
                raise AssertionError("it did not come to that")
            await deferLater(reactor, 0.01)

    async def ready(self) -> None:
        """Wait until a relay is connected."""
        await self.until(lambda: self.link is not None)

    # What the connections tell

    def connected(self, connection: _Connection) -> None:
        self.connections += 1
        self.link = connection

    def acknowledged(self, command_id: str, data: object) -> None:
        self.acked.setdefault(command_id, []).append(data)

    def result(self, connection: _Connection, data: Any) -> None:
        command_id = data["commandId"]
        self.results.setdefault(command_id, []).append(data["result"])
        self.on_result(command_id)
        for receipt in self.receipts(data):
            connection.dialect.send_event("command_result_received", receipt)

    def gone(self, connection: _Connection) -> None:
        self._all.discard(connection)
        if self.link is connection:
            self.link = None

    # What the books say

    def accepted(self) -> list[str]:
        """The commands that were acknowledged without an error."""
        return [command_id for command_id, answers in self.acked.items() if None in answers]

    def without_result(self) -> list[str]:
        """Those of them that got no result."""
        return [command_id for command_id in self.accepted() if command_id not in self.results]
