"""
autobahn's WebSocket client, tamed: bounded, quiet and cheap.

autobahn logs the HTTP request, which holds the API key, and its timers use the global reactor. Here it does neither,
and the deadlines are in `relayd.uplink.stages`.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress, IHandshakeListener
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.errors import FrameTooLarge, ProtocolError
from relayd.language.texts import printable
from relayd.network.flow import Flow
from relayd.network.joined_writes import join_writes
from relayd.network.tls import explain, is_verified
from relayd.uplink.answers import NO_HTTP, HttpResponse, RefusalReader, other_protocol
from relayd.uplink.autobahn_client import WebSocketClientFactory, WebSocketClientProtocol
from relayd.uplink.closing import GOING_AWAY
from relayd.uplink.frames import LONGEST, WHOLE_TEXT, LongText, masked_text, whole_text
from relayd.uplink.request import MAX_INTERIM, Request, skip_interim
from relayd.uplink.wire import NOBODY, Pieces, ReadPause, WireListener

#: Bytes that are read of an answer to the HTTP request.
MAX_RESPONSE: Final = 64 * 1024

#: Bytes of an incomplete frame that are a sign of life.  Fewer are not: a main server that hangs in the middle of a
#: frame, or sends it a byte at a time, would otherwise hold the relay for ever.
LEAST_PROGRESS: Final = 4096

#: Bytes that are read in one turn of the event loop. Twisted's 64 KiB may hold 800 receipts, which take 20 ms.
READ_SIZE: Final = 16 * 1024

_SWITCHING_PROTOCOLS: Final = 101

#: RFC 9110, section 15. Python would fail at a number of thousands of digits, with a ValueError.
_STATUS: Final = re.compile(r"[0-9]{3}")


class _Silence:
    """A logger for autobahn that writes nothing: it would log the HTTP request, and take time for each frame."""

    def __getattr__(self, level: str) -> Callable[..., None]:
        return self._ignore

    @staticmethod
    def _ignore(*args: object, **fields: object) -> None:
        """Do nothing: relayd's own messages say all of it."""


@implementer(IHandshakeListener)
class WebSocketClient(WebSocketClientProtocol):
    """
    A WebSocket to the main server.

    More than 25 methods, as autobahn is adapted by overriding: half of them take the place of autobahn's, and the
    comment in each says why.

    :param make_request: builds the HTTP request, with the key; called once the peer is known to be the main server.
    :param server_name: the name that the peer must prove over TLS; ``None``: there is no TLS.
    :ivar flow: tells whether more can be sent.
    """

    log = _Silence()
    transport: Any
    maxMessagePayloadSize: int  # autobahn copies it from the factory

    def __init__(self, make_request: Callable[[], Request], *, server_name: str | None) -> None:
        super().__init__()
        self.flow = Flow(self._write, self)
        self._listener: WireListener = NOBODY
        self._make_request = make_request
        self._tls_host = server_name
        self._reading = ReadPause(self._pause_reading)
        self._message = bytearray()
        #: The ping that will be answered when something can be sent again.
        self._unanswered: bytes | None = None
        #: Interim responses so far.
        self._interim = 0
        self._refusal: RefusalReader | None = None
        self._ready_to_ask: Deferred[Request] = Deferred()
        self.http_status_line = ""
        self.http_headers: dict[str, str] = {}
        #: Bytes since the last sign of life.
        self._progress = 0

    # For its connection (relayd.uplink.wire.Wire)

    def report_to(self, listener: WireListener) -> None:
        """See `Wire.report_to`."""
        self._listener = listener

    def send_text(self, payload: bytes | Pieces) -> None:
        """Send one text message, where the connection still takes any."""
        if self.state != self.STATE_OPEN:
            return
        self.flow.send(masked_text(bytes(payload)) if len(payload) <= LONGEST else LongText(payload))

    def ping(self, payload: bytes = b"") -> None:
        """Send a WebSocket ping; the answer comes as `WireListener.on_pong`."""
        if self.state == self.STATE_OPEN:
            self.sendPing(payload or None)

    def hold(self, on: bool) -> None:
        """Stop reading, or read again."""
        self._reading.hold(on)

    def _pause_reading(self, on: bool) -> None:
        if on:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def close(self, code: int) -> None:
        """Close politely: with the closing handshake, or, where there is no WebSocket yet, only TCP."""
        if self.state == self.STATE_CONNECTING:
            # no abort: a hand-written main server may crash at a connection reset
            self.transport.loseConnection()
        else:
            # TLS does not shut down while a producer is registered
            self.unregisterProducer()
            self.sendCloseFrame(code=code)

    def abort(self) -> None:
        """Drop the connection."""
        self.transport.abortConnection()

    # From the flow (relayd.network.flow.FlowOwner)

    def on_full(self) -> None:
        """See `relayd.network.flow.FlowOwner`."""
        self._listener.on_full()

    def on_taken(self) -> None:
        """See `relayd.network.flow.FlowOwner`."""
        self._listener.on_taken()
        if self._unanswered is not None and self.flow.writable:
            payload, self._unanswered = self._unanswered, None
            self.onPing(payload)

    def on_behind(self, on: bool) -> None:
        """See `relayd.network.flow.FlowOwner`."""
        self._reading.fall_behind(on)
        self._listener.on_deaf(on)

    # From Twisted

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            # autobahn tries to, before the option exists, and swallows the error
            self.transport.setTcpNoDelay(True)
        join_writes(self.transport)
        connection = getattr(self.transport, "transport", self.transport)  # below TLS
        connection.bufferSize = READ_SIZE
        super().connectionMade()
        if self._tls_host is None:
            self._request_upgrade()

    def handshakeCompleted(self) -> None:
        """TLS is up: the request, which has the API key, is made now, and only for the verified main server."""
        if self._tls_host is not None and is_verified(self.transport, self._tls_host):
            self._request_upgrade()

    def dataReceived(self, data: bytes) -> None:
        if self.failedByMe:
            if self._refusal is not None:
                self._refusal.receive(data)
            return
        if data and data[0] == WHOLE_TEXT and self.state == self.STATE_OPEN:
            data = self._after_whole_texts(data)
            if not data:
                return
        self._progress += len(data)
        if self._progress >= LEAST_PROGRESS:
            self._give_sign_of_life()
        if self.state == self.STATE_CONNECTING and self._refuse_other_protocol(self.data + data):
            return
        try:
            # not autobahn's dataReceived, which formats a log message for each chunk
            self._dataReceived(data)
        except (UnicodeError, ValueError, LookupError):
            if self.state != self.STATE_CONNECTING:
                raise
            self.failHandshake(NO_HTTP)
        if self.state == self.STATE_CONNECTING and not self.failedByMe and len(self.data) > MAX_RESPONSE:
            self.failHandshake(f"an answer of more than {MAX_RESPONSE} bytes")

    def _after_whole_texts(self, data: bytes) -> bytes:
        """Take the text messages that *data* begins with, where autobahn is not in the middle of something."""
        if self.data or self.current_frame is not None or self.inside_message:
            return data
        taken, most = 0, self.maxMessagePayloadSize
        while (found := whole_text(data, taken)) is not None and found[1] - taken <= most and not self.failedByMe:
            if not taken:
                self._give_sign_of_life()
            text, taken = found
            self._listener.on_text(text)
            if self.state != self.STATE_OPEN:
                break
        return data[taken:]

    def _refuse_other_protocol(self, data: bytes, *, whole: bool = False) -> bool:
        """Whether the answer that begins with *data* is not HTTP/1: that ends the upgrade."""
        other = other_protocol(data, whole=whole)
        if other is None:
            return False
        if other == NO_HTTP and (line := data.strip().partition(b"\n")[0].rstrip()):
            other += f', which begins with "{line.decode("utf-8", "replace")}"'
        self.failHandshake(other)
        return True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.state == self.STATE_CONNECTING and not self.failedByMe and self.data:
            self._refuse_other_protocol(self.data, whole=True)
        if self._refusal is not None:
            self._refusal.finish()
        error = explain(self.transport, reason.value or ConnectionLost())
        super().connectionLost(reason)
        self._listener.on_closed(error)

    # In place of autobahn's own

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Send bytes, as autobahn's does, without its log message for each frame; the other parameters are not used."""
        self.flow.send(data)

    def _write(self, data: bytes) -> None:
        self.transport.write(data)

    def onConnecting(self, transport_details: object) -> Deferred[Request]:  # type: ignore[override]
        # autobahn's annotation does not allow a Deferred, its documentation does
        return self._ready_to_ask

    def _actuallyStartHandshake(self, request_options: Request) -> None:
        # autobahn's also names the scheme's default port in Host (RFC 9110, section 7.2)
        self.websocket_key = b64encode(os.urandom(16))
        self.sendData(request_options.to_wire(self.websocket_key))

    def processHandshake(self) -> None:
        self.data, skipped = skip_interim(self.data)
        self._interim += skipped
        if self._interim >= MAX_INTERIM:
            self.failHandshake("endless interim answers")
        else:
            super().processHandshake()

    def failHandshake(self, reason: str) -> None:
        words = self.http_status_line.split()
        status = int(words[1]) if len(words) > 1 and _STATUS.fullmatch(words[1]) else 0
        if status != _SWITCHING_PROTOCOLS and status:
            reason = ""
        self.failedByMe = True
        response = HttpResponse(status, reason, self.http_headers)
        self._refusal = RefusalReader(self.factory.reactor, response, MAX_RESPONSE, self._report_refusal)
        self._refusal.receive(self.data.partition(b"\r\n\r\n")[2] if status else b"")

    def _report_refusal(self, response: HttpResponse) -> None:
        self._listener.on_upgrade_refused(response)

    def _onOpen(self) -> None:
        # autobahn's first takes the certificate apart, and nobody reads that
        self.onOpen()

    def onOpen(self) -> None:
        self.registerProducer(self.flow, True)
        self._listener.on_upgraded()

    def onFrameEnd(self) -> bool | None:
        self._give_sign_of_life()
        return super().onFrameEnd()

    def _give_sign_of_life(self) -> None:
        self._progress = 0
        self._listener.on_heard()

    def onMessageFrameData(self, payload: bytes) -> None:
        # autobahn's keeps a list of the parts: for a message in millions of frames, even empty ones, it is many times
        # as large as the message
        if not self.failedByMe:
            self._message += payload

    def onMessageEnd(self) -> None:
        # autobahn's also offers each message to signal handlers, which nobody registers
        payload, self._message = self._message, bytearray()
        if self.failedByMe or self.state != self.STATE_OPEN:
            return
        if self.message_is_binary:
            self._listener.on_binary(bytes(payload))
            return
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            self._fail_connection(self.CLOSE_STATUS_CODE_INVALID_PAYLOAD, "a text message that is not UTF-8")
            return
        self._listener.on_text(text)

    def onPing(self, payload: bytes) -> None:
        # The latest answer stands for those before it (RFC 6455, section 5.5.3): only that one is kept.
        if self.flow.writable:
            super().onPing(payload)
        else:
            self._unanswered = payload

    def onPong(self, payload: bytes) -> None:
        self._listener.on_pong(payload)

    def onCloseFrame(self, code: Any, reasonRaw: Any) -> bool | None:
        answer = super().onCloseFrame(code, reasonRaw)
        self._listener.on_close_received(self.remoteCloseCode, printable(self.remoteCloseReason or "", 125))
        return answer

    def _fail_connection(self, code: int = GOING_AWAY, reason: str = "") -> None:
        """autobahn found a breach of the rules. It would drop the connection; relayd closes it politely."""
        if self.failedByMe:
            return
        self.failedByMe = True
        if code == self.CLOSE_STATUS_CODE_MESSAGE_TOO_BIG:
            size, limit = self.message_data_total_length, self.maxMessagePayloadSize
            self._listener.on_broken(FrameTooLarge(size=size, limit=limit))
        else:
            error = ProtocolError(reason=printable(reason, 200))
            if code == self.CLOSE_STATUS_CODE_INVALID_PAYLOAD:
                error.close_code = code
            self._listener.on_broken(error)

    def _request_upgrade(self) -> None:
        self._listener.on_secured()
        self._ready_to_ask.callback(self._make_request())


class WebSocketFactory(WebSocketClientFactory):
    """
    Makes one WebSocket. It never sees the URL: the request is made when it is sent.

    :param build: makes the client, once TCP is connected.
    :param max_frame: bytes in the largest message that relayd takes.
    :param subprotocols: the ones that the main server may choose from.
    """

    log = _Silence()
    noisy = False

    def __init__(
        self,
        reactor: object,
        build: Callable[[], WebSocketClient],
        max_frame: int,
        subprotocols: Sequence[str] = (),
    ) -> None:
        super().__init__(reactor=reactor, protocols=list(subprotocols))
        self._build = build
        self.setProtocolOptions(
            maxFramePayloadSize=max_frame,
            maxMessagePayloadSize=max_frame,
            # the deadlines are in relayd.uplink.stages
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
            autoPingInterval=0,
            # permessage-deflate: not offered, and refused when a server insists
            perMessageCompressionOffers=[],
            # onMessageEnd decodes, once and faster
            utf8validateIncoming=False,
        )

    def buildProtocol(self, addr: IAddress | None) -> WebSocketClient:
        client = self._build()
        client.factory = self
        return client
