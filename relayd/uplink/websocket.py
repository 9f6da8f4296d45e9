"""
autobahn's WebSocket client, tamed: bounded, quiet, cheap, with all of its timers left to our own machine.

autobahn logs the HTTP request, which holds the API key, and its timers use the global reactor; here it does neither.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress, IDelayedCall, IHandshakeListener
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.errors import FrameTooLarge, ProtocolError
from relayd.language.texts import printable
from relayd.network.flow import Flow
from relayd.network.tls import is_verified, verify_error_of
from relayd.uplink.answers import BODY_TIMEOUT, NO_HTTP, Answer, body_of, other_protocol
from relayd.uplink.closing import GOING_AWAY
from relayd.uplink.request import MAX_INTERIM, Request, skip_interim

#: Bytes in the longest answer to the HTTP request that is read.
MAX_RESPONSE: Final = 64 * 1024

#: Bytes of a frame that is still coming in that count as a sign of life.  Single ones do not: a main server that hangs
#: in the middle of a frame, or sends it a byte at a time, would otherwise hold the relay for ever.
LEAST_PROGRESS: Final = 4096

_TEXT_FRAME: Final = 1  # RFC 6455, section 5.2
_SWITCHING_PROTOCOLS: Final = 101

#: RFC 9110, section 15; Python reads no number of thousands of digits, and says so with a ValueError.
_STATUS: Final = re.compile(r"[0-9]{3}")


class WebSocketListener(Protocol):
    """Whom a connection tells what happens to it. In this order, each at most once but for those of messages."""

    def on_secured(self) -> None:
        """TLS is up and the main server's certificate is verified, or there is no TLS."""

    def on_upgrade_refused(self, answer: Answer) -> None:
        """The answer to the HTTP request opens no WebSocket."""

    def on_upgraded(self) -> None:
        """The WebSocket is open."""

    def on_heard(self) -> None:
        """A sign of life came: a whole frame of whatever kind, or a good part of a large one."""

    def on_pong(self, payload: bytes) -> None:
        """The answer to a ping, with its payload."""

    def on_full(self) -> None:
        """More was sent than the peer has taken."""

    def on_taken(self) -> None:
        """The peer has taken some of it."""

    def on_deaf(self, on: bool) -> None:
        """Whether nothing is read for now, as the peer leaves too many answers."""

    def on_text(self, text: str) -> None:
        """A text message."""

    def on_binary(self, data: bytes) -> None:
        """A binary message."""

    def on_broken(self, error: ProtocolError) -> None:
        """The peer breaks the rules of WebSocket: nothing more will be read, and the connection should be closed."""

    def on_close_received(self, code: int | None, reason: str) -> None:
        """The peer begins the closing handshake, or answers ours."""

    def on_closed(self, error: BaseException, verify_error: str) -> None:
        """
        TCP is gone: always called, and last.

        :param verify_error: why the certificate was refused, in OpenSSL's words; empty where it was not.
        """


class _Silence:
    """What autobahn logs to: it would write the HTTP request, and costs time for each frame."""

    def __getattr__(self, level: str) -> Callable[..., None]:
        return self._drop

    @staticmethod
    def _drop(*args: object, **fields: object) -> None:
        """autobahn's messages say nothing that our own do not."""


@implementer(IHandshakeListener)
class WebSocketClient(WebSocketClientProtocol):
    """
    One connection.

    :param make_request: builds the HTTP request, with the key; called when the peer is known to be the right one.
    :param tls_host: who has to be at the other end of TLS; ``None``: there is no TLS.
    :ivar flow: whether more can be sent.
    """

    log = _Silence()
    transport: Any
    maxMessagePayloadSize: int  # autobahn copies it from the factory

    def __init__(
        self, listener: WebSocketListener, make_request: Callable[[], Request], *, tls_host: str | None
    ) -> None:
        super().__init__()
        self._listener = listener
        self._make_request = make_request
        self._tls_host = tls_host
        self.flow = Flow(self._write, self)
        self._message = bytearray()
        #: Why nothing is read: what was read takes its time, or the peer does not take its answers.
        self._held = self._behind = False
        self._paused = False
        #: The ping that is to be answered when something can be sent again.
        self._unanswered: bytes | None = None
        #: Answers so far that only announce another one.
        self._interim = 0
        #: An answer that opens no WebSocket, while its body comes in.
        self._refusal: Answer | None = None
        self._body = b""
        self._body_deadline: IDelayedCall | None = None
        self._ready_to_ask: Deferred[Request] = Deferred()
        self.http_status_line = ""
        self.http_headers: dict[str, str] = {}
        #: Bytes since the last sign of life.
        self._progress = 0

    # What we ask of it

    def tell(self, listener: WebSocketListener) -> None:
        """Tell another one what happens from now on."""
        self._listener = listener

    def send_text(self, payload: bytes) -> None:
        """Send one text message, where the connection still takes any."""
        if self.state == self.STATE_OPEN:
            # not sendMessage, which holds what we send to the size that we accept
            self.sendFrame(opcode=_TEXT_FRAME, payload=payload)

    def ping(self, payload: bytes = b"") -> None:
        """Send a WebSocket ping; the answer comes as `WebSocketListener.on_pong`."""
        if self.state == self.STATE_OPEN:
            self.sendPing(payload or None)

    def hold(self, on: bool) -> None:
        """Read nothing more for now, or go on."""
        self._held = on
        self._read_or_not()

    def close(self, code: int) -> None:
        """Close politely: with the closing handshake, or, where there is no WebSocket yet, TCP alone."""
        if self.state == self.STATE_CONNECTING:
            # no abort: a hand-written main server may die of a connection reset
            self.transport.loseConnection()
        else:
            # TLS would not shut down as long as somebody wants to hear of its progress
            self.unregisterProducer()
            self.sendCloseFrame(code=code)

    def abort(self) -> None:
        """Drop the connection."""
        self.transport.abortConnection()

    # What the flow tells us

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
        self._behind = on
        self._read_or_not()
        self._listener.on_deaf(on)

    def _read_or_not(self) -> None:
        pause = self._held or self._behind
        if pause != self._paused:
            self._paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    # What Twisted tells us

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            # autobahn means to, but asks before the option exists, and swallows the error
            self.transport.setTcpNoDelay(True)
        super().connectionMade()
        if self._tls_host is None:
            self._ask()

    def handshakeCompleted(self) -> None:
        """TLS is up. The request, which has the API key, is made only now, and only for who is the main server."""
        if self._tls_host is not None and is_verified(self.transport, self._tls_host):
            self._ask()

    def dataReceived(self, data: bytes) -> None:
        if self.failedByMe:
            if self._refusal is not None:
                self._body += data
                self._take_body()
            return
        self._progress += len(data)
        if self._progress >= LEAST_PROGRESS:
            self._alive()
        if self.state == self.STATE_CONNECTING and self._speaks_other(self.data + data):
            return
        try:
            # not super's, which formats a log message for each chunk
            self._dataReceived(data)
        except (UnicodeError, ValueError, LookupError):
            if self.state != self.STATE_CONNECTING:
                raise
            self.failHandshake(NO_HTTP)
        if self.state == self.STATE_CONNECTING and not self.failedByMe and len(self.data) > MAX_RESPONSE:
            self.failHandshake(f"an answer of more than {MAX_RESPONSE} bytes")

    def _speaks_other(self, data: bytes, *, whole: bool = False) -> bool:
        """Whether the answer that begins with *data* is none of HTTP/1; then its first line is quoted."""
        other = other_protocol(data, whole=whole)
        if other is None:
            return False
        if other == NO_HTTP and (line := data.strip().partition(b"\n")[0].rstrip()):
            other += f', which begins with "{line.decode("utf-8", "replace")}"'
        self.failHandshake(other)
        return True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.state == self.STATE_CONNECTING and not self.failedByMe and self.data:
            self._speaks_other(self.data, whole=True)
        if self._refusal is not None:
            self._tell_refusal()
        verify_error = verify_error_of(self.transport)
        super().connectionLost(reason)
        self._listener.on_closed(reason.value or ConnectionLost(), verify_error)

    # What autobahn tells us

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """As autobahn's, without the log message for each frame; nobody here asks for the other parameters."""
        self.flow.send(data)

    def _write(self, data: bytes) -> None:
        self.transport.write(data)

    def onConnecting(self, transport_details: object) -> Deferred[Request]:  # type: ignore[override]
        # autobahn's annotation forgets what its documentation promises: a Deferred will do
        return self._ready_to_ask

    def _actuallyStartHandshake(self, request_options: Request) -> None:
        # not super's, which names the scheme's own port in Host, too (RFC 9110, section 7.2)
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
        self._refusal = Answer(status, reason, self.http_headers)
        self._body = self.data.partition(b"\r\n\r\n")[2] if status else b""
        self._body_deadline = self.factory.reactor.callLater(BODY_TIMEOUT, self._tell_refusal)
        self._take_body()

    def _take_body(self) -> None:
        """What is said about a refusal counts as far as it comes in time, and is bounded."""
        if self._refusal is not None:
            body, more = body_of(self._refusal.headers, self._body)
            self._refusal = replace(self._refusal, body=body)
            if not more or len(self._body) > MAX_RESPONSE:
                self._tell_refusal()

    def _tell_refusal(self) -> None:
        refusal, self._refusal = self._refusal, None
        if self._body_deadline is not None and self._body_deadline.active():
            self._body_deadline.cancel()
        if refusal is not None:
            self._listener.on_upgrade_refused(refusal)

    def _onOpen(self) -> None:
        # not super's, which first takes the certificate apart, for nobody
        self.onOpen()

    def onOpen(self) -> None:
        self.registerProducer(self.flow, True)
        self._listener.on_upgraded()

    def onFrameEnd(self) -> bool | None:
        self._alive()
        return super().onFrameEnd()

    def _alive(self) -> None:
        self._progress = 0
        self._listener.on_heard()

    def onMessageFrameData(self, payload: bytes) -> None:
        # not super's, which keeps a list: of a message in millions of frames, even of empty ones, that is many times
        # as large as the message
        if not self.failedByMe:
            self._message += payload

    def onMessageEnd(self) -> None:
        # not super's, which also offers each message to signal handlers that nobody registers
        payload, self._message = self._message, bytearray()
        if self.failedByMe or self.state != self.STATE_OPEN:
            return
        if self.message_is_binary:
            self._listener.on_binary(bytes(payload))
            return
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            self._fail_connection(self.CLOSE_STATUS_CODE_INVALID_PAYLOAD, "a text message that is no UTF-8")
            return
        self._listener.on_text(text)

    def onPing(self, payload: bytes) -> None:
        # The latest answer stands for those before it (RFC 6455, section 5.5.3): one is enough to remember.
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
        """autobahn found a breach of the rules, and would drop the connection; ours is closed politely."""
        if self.failedByMe:
            return
        self.failedByMe = True
        if code == self.CLOSE_STATUS_CODE_MESSAGE_TOO_BIG:
            size, limit = self.message_data_total_length, self.maxMessagePayloadSize
            self._listener.on_broken(FrameTooLarge(size=size, limit=limit))
        else:
            self._listener.on_broken(ProtocolError(reason=printable(reason, 200)))

    def _ask(self) -> None:
        self._listener.on_secured()
        self._ready_to_ask.callback(self._make_request())


class WebSocketFactory(WebSocketClientFactory):
    """
    Makes one connection. It never sees the URL: the request is made when it is sent.

    :param max_frame: bytes in the largest message that we take.
    :param subprotocols: that the main server may choose from.
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
            # all times are the machine's
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
