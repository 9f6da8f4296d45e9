"""
autobahn's WebSocket server with bounds: on what it accepts before a peer has joined, and on what a peer leaves unread.
"""

from __future__ import annotations

from typing import Any, Final

from autobahn.twisted.websocket import WebSocketServerProtocol

from relayd.network.flow import Flow

#: Bytes in the longest HTTP request accepted: autobahn itself searches all of it with each byte that arrives.
MAX_REQUEST: Final = 16 * 1024
#: Bytes in the largest message accepted before a relay has joined, which needs only a few.
MAX_JOINING: Final = 16 * 1024

_TOO_LARGE: Final = 431  # RFC 6585, section 5
_END: Final = b"\r\n\r\n"


class BoundedServer(WebSocketServerProtocol):
    """
    One connection with bounds on its requests, its messages and its unread answers.

    :ivar flow: what waits to be sent.
    :ivar deaf: whether we read nothing, see `pause`.
    """

    transport: Any
    maxMessagePayloadSize: int  # autobahn copies both from the factory
    maxFramePayloadSize: int

    def __init__(self) -> None:
        super().__init__()
        self.flow = Flow(self._write, self)
        self.deaf = False
        #: Why nothing is read.
        self._pauses: set[str] = set()
        #: Whether what is sent now answers the peer, rather than being an order of ours.
        self._answering = True
        self._message = bytearray()
        #: The payload of the ping to answer when something can be sent again.
        self._unanswered: bytes | None = None
        self._most = 0
        #: What came after the request while nothing may be read; ``None``: all is read.
        self._held: bytes | None = None

    def trust(self) -> None:
        """The peer has joined: its messages may have their full size."""
        self.maxMessagePayloadSize = self.maxFramePayloadSize = self._most

    # What the flow tells

    def on_full(self) -> None:
        """See `relayd.network.flow.FlowOwner`."""

    def on_taken(self) -> None:
        """See `relayd.network.flow.FlowOwner`."""
        if self._unanswered is not None and self.flow.writable:
            payload, self._unanswered = self._unanswered, None
            self.onPing(payload)

    def on_behind(self, on: bool) -> None:
        """See `relayd.network.flow.FlowOwner`."""
        self.pause("it leaves too many answers unread", on)

    def pause(self, why: str, on: bool) -> None:
        """Read nothing from the peer while there is a reason not to."""
        (self._pauses.add if on else self._pauses.discard)(why)
        if self.deaf == bool(self._pauses):
            return
        self.deaf = not self.deaf
        if self.deaf:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def hold(self, why: str, on: bool) -> None:
        """Like `pause`, but not even what the transport had read already, such as with TLS, is looked at."""
        self.pause(why, on)
        if on:
            self._held = b""
        elif self._held is not None:
            held, self._held = self._held, None
            if held:
                self.dataReceived(held)

    # What Twisted and autobahn tell

    def connectionMade(self) -> None:
        super().connectionMade()
        self._most = self.maxMessagePayloadSize
        self.maxMessagePayloadSize = self.maxFramePayloadSize = min(self._most, MAX_JOINING)

    def dataReceived(self, data: bytes) -> None:
        if self.state == self.STATE_CLOSED:
            return  # autobahn would keep the data
        if self._held is not None:
            self._held += data
            if len(self._held) > MAX_REQUEST:
                self.drop("it sends too much before its key is checked")
            return
        if self.state == self.STATE_CONNECTING and len(self.data) + len(data) > MAX_REQUEST:
            end = (self.data + data).find(_END, 0, MAX_REQUEST)
            if end < 0:
                self.failHandshake("a request that is too long", _TOO_LARGE)
                return
        super().dataReceived(data)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Overridden to send through `flow`; nothing here uses the other parameters."""
        self.flow.send(data, answer=self._answering)

    def _write(self, data: bytes) -> None:
        self.transport.write(data)

    def onOpen(self) -> None:
        self.registerProducer(self.flow, True)

    def onPing(self, payload: bytes) -> None:
        # The latest answer also answers earlier pings (RFC 6455, section 5.5.3): remembering one is enough.
        if self.flow.writable:
            super().onPing(payload)
        else:
            self._unanswered = payload

    def onMessageFrameData(self, payload: bytes) -> None:
        # not super's, which keeps a list: for a message of millions of frames that takes many times the memory
        if not self.failedByMe:
            self._message += payload

    def onMessageEnd(self) -> None:
        payload, self._message = bytes(self._message), bytearray()
        if not self.failedByMe:
            self.onMessage(payload, self.message_is_binary)

    def drop(self, reason: str) -> None:
        """End the connection at once; *reason* is for the log."""
        self.wasNotCleanReason = reason
        self.dropConnection(abort=True)

    def dropConnection(self, abort: bool = False) -> None:
        self.flow.end()
        super().dropConnection(abort)
