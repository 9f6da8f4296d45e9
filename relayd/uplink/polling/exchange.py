"""
A connection for HTTP requests, one after the other (RFC 9112): small, bounded, and without a log, since the query holds
the API key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final, Protocol

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, IPullProducer
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.network.flow import PIECE
from relayd.network.tls import explain, is_verified
from relayd.uplink.answers import ENOUGH, NO_HTTP, other_protocol

#: Bytes that the status line and the headers may have.
MAX_HEAD: Final = 64 * 1024
#: Bytes that the line with the size of a chunk may have, and all trailers together.
_MAX_LINE: Final = 4096
#: Final answers that have no body (RFC 9112, section 6.3).
_WITHOUT_BODY: Final = (204, 304)

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: .*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class NotHTTP(Exception):
    """The peer sent something that is not HTTP: what, in words that follow a colon."""


class ExchangeOwner(Protocol):
    """Makes the requests, and gets the responses."""

    def on_up(self, exchange: Exchange) -> None:
        """A request may be made: the peer has proved its name, where there is TLS."""

    def on_sent(self, exchange: Exchange) -> None:
        """The peer has taken some of the request."""

    def on_head(self, exchange: Exchange, status: int, headers: Mapping[str, str], cookies: list[str]) -> None:
        """
        The response begins.

        :param headers: by their names in lower case; the first one of each name.
        :param cookies: the values of its ``Set-Cookie`` headers.
        """

    def on_body(self, exchange: Exchange, data: bytes) -> None:
        """Some of the body came."""

    def on_done(self, exchange: Exchange) -> None:
        """The response is complete. See `Exchange.reusable`."""

    def on_lost(self, exchange: Exchange, error: BaseException) -> None:
        """The connection is gone: always called, and last."""


class _Part(Enum):
    """The part of a response that comes next."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()
    REST = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILERS = auto()


@implementer(IHandshakeListener, IPullProducer)
class Exchange(TwistedProtocol):
    """
    One HTTP connection.

    :param server_name: the name that the peer must prove over TLS; ``None``: there is no TLS.
    :param use: for the owner, which calls it once the connection is up.
    :ivar busy: whether a request is under way.
    :ivar reusable: whether another request may be made on it.
    :ivar left: whether the owner has closed it.
    """

    transport: Any

    def __init__(self, owner: ExchangeOwner, use: Callable[[Exchange], None], *, server_name: str | None) -> None:
        self.use = use
        self.busy = False
        self.reusable = True
        self.left = False
        self._owner = owner
        self._tls_host = server_name
        self._received = bytearray()
        self._part = _Part.NOTHING
        #: Bytes of the body, or of its chunk, that are still to come.
        self._left = 0
        #: The part of the request that is still to be written.
        self._unsent = memoryview(b"")
        self._failed: NotHTTP | None = None
        self._paused = False
        self._steps: dict[_Part, Callable[[], bool]] = {
            _Part.NOTHING: self._too_much,
            _Part.HEAD: self._head,
            _Part.BODY: self._body,
            _Part.REST: self._rest,
            _Part.CHUNK_SIZE: self._chunk_size,
            _Part.CHUNK: self._chunk,
            _Part.CHUNK_END: self._chunk_end,
            _Part.TRAILERS: self._trailers,
        }

    # For the owner

    def request(self, head: bytes, body: bytes = b"") -> None:
        """
        Make one request.

        :param head: everything before the body, with the empty line.
        """
        self.busy = True
        self._part = _Part.HEAD
        self.transport.write(head)
        if len(body) <= PIECE:
            self.transport.write(body)
        else:
            self._unsent = memoryview(body)
            self.transport.registerProducer(self, False)

    def hold(self, on: bool) -> None:
        """Stop reading, or read again."""
        if on != self._paused:
            self._paused = on
            if on:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def leave(self) -> None:
        """Close the connection in good order."""
        self.reusable, self.left = False, True
        self.transport.loseConnection()

    def abort(self) -> None:
        """Drop the connection."""
        self.reusable, self.left = False, True
        self.transport.abortConnection()

    # IPullProducer

    def resumeProducing(self) -> None:
        """The transport has room."""
        self._owner.on_sent(self)
        piece, self._unsent = self._unsent[:PIECE], self._unsent[PIECE:]
        self.transport.write(bytes(piece))
        if not self._unsent:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        """The transport is gone."""
        self._unsent = memoryview(b"")

    # From Twisted

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        if self._tls_host is None:
            self._owner.on_up(self)

    def handshakeCompleted(self) -> None:
        """TLS is up: requests, which have the API key, are made from now on, and only to the verified main server."""
        if self._tls_host is not None and is_verified(self.transport, self._tls_host):
            self._owner.on_up(self)

    def dataReceived(self, data: bytes) -> None:
        if self._failed is not None:
            return
        self._received += data
        try:
            while self._failed is None and self._steps[self._part]():
                pass
        except NotHTTP as error:
            self._failed = error
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        error = explain(self.transport, reason.value or ConnectionLost())
        self.reusable = False
        if self._part is _Part.REST and self._failed is None and self.busy:
            self._done()
        self._owner.on_lost(self, self._failed or error)

    # What was received, step by step: each step takes its part away and returns whether another one may follow

    def _too_much(self) -> bool:
        if self._received:
            raise NotHTTP("data that nobody asked for")
        return False

    def _head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD:
            if len(self._received) > MAX_HEAD:
                raise NotHTTP(f"an answer whose headers have more than {MAX_HEAD} bytes")
            if other := other_protocol(bytes(self._received[:ENOUGH])):
                raise NotHTTP(other)
            return False
        first, *lines = bytes(self._received[:end]).split(b"\r\n")
        del self._received[: end + 4]
        found = _STATUS_LINE.fullmatch(first)
        if found is None:
            raise NotHTTP(other_protocol(first, whole=True) or NO_HTTP)
        status = int(found[2])
        if 100 <= status < 200 and status != 101:  # RFC 9110, section 15.2: the final one follows
            return True
        headers, cookies = self._fields(lines)
        self._frame(status, headers, modern=found[1] == b"1")
        self._owner.on_head(self, status, headers, cookies)
        if self._part is _Part.BODY and not self._left:
            self._done()
        return True

    def _fields(self, lines: list[bytes]) -> tuple[dict[str, str], list[str]]:
        headers: dict[str, str] = {}
        cookies = []
        for line in lines:
            field = _FIELD.fullmatch(line)
            if field is None:
                raise NotHTTP("a malformed header")
            name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1")
            if name == "set-cookie":
                cookies.append(value)
            elif name == "content-length" and headers.get(name, value) != value:
                raise NotHTTP("an answer with two lengths")
            else:
                headers.setdefault(name, value)
        return headers, cookies

    def _frame(self, status: int, headers: Mapping[str, str], *, modern: bool) -> None:
        """How the end of the body is known (RFC 9112, section 6.3)."""
        coding = headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        options = headers.get("connection", "").lower()
        self.reusable = modern and "close" not in options and status != 101
        self._left = 0
        if status in _WITHOUT_BODY or status == 101:
            self._part = _Part.BODY
        elif coding:
            if coding != "chunked":
                raise NotHTTP("an answer in a transfer coding that relayd does not know")
            self.reusable = self.reusable and length is None
            self._part = _Part.CHUNK_SIZE
        elif length is not None:
            if not _LENGTH.fullmatch(length):
                raise NotHTTP("an answer with an invalid length")
            self._part, self._left = _Part.BODY, int(length)
        else:
            self._part, self.reusable = _Part.REST, False
        if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise NotHTTP("an answer in a content coding that was not asked for")

    def _take(self, most: int) -> None:
        data = bytes(self._received[:most])
        del self._received[:most]
        if data:
            self._owner.on_body(self, data)

    def _body(self) -> bool:
        taken = min(self._left, len(self._received))
        self._left -= taken
        self._take(taken)
        if not self._left:
            self._done()
            return True
        return False

    def _rest(self) -> bool:
        self._take(len(self._received))
        return False

    def _line(self) -> bytes | None:
        end = self._received.find(b"\r\n")
        if end < 0 or end > _MAX_LINE:
            if len(self._received) > _MAX_LINE:
                raise NotHTTP("a malformed chunk")
            return None
        line = bytes(self._received[:end])
        del self._received[: end + 2]
        return line

    def _chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise NotHTTP("a chunk without a size")
        self._left = int(found[1], 16)
        self._part = _Part.CHUNK if self._left else _Part.TRAILERS
        return True

    def _chunk(self) -> bool:
        taken = min(self._left, len(self._received))
        self._left -= taken
        if not self._left:
            self._part = _Part.CHUNK_END
        self._take(taken)
        return self._part is _Part.CHUNK_END

    def _chunk_end(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if line:
            raise NotHTTP("a chunk longer than its size")
        self._part = _Part.CHUNK_SIZE
        return True

    def _trailers(self) -> bool:
        line = self._line()
        if line is None:
            return False
        self._left += len(line)  # of what is read and dropped
        if self._left > _MAX_LINE:
            raise NotHTTP("too many trailers")
        if not line:
            self._done()
        return True

    def _done(self) -> None:
        self.busy = False
        self._part = _Part.NOTHING
        if self._unsent:  # the peer answered before it had read all of the request
            self._unsent = memoryview(b"")
            self.transport.unregisterProducer()
            self.reusable = False
        self._owner.on_done(self)
