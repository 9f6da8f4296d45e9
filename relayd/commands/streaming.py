"""
Sends the output of running commands as it arrives, where a command asked for that (``stream``), besides the result.
"""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.commands.origins import Origins
from relayd.commands.stats import Stats
from relayd.interfaces import ILink, IOutputSink
from relayd.language.charsets import UTF8, Decoder
from relayd.language.texts import span
from relayd.network.host_rules import HostTable
from relayd.wire.messages import BASE64, CommandOutput, ExecuteCommand, StreamName

_log = Logger("relayd.commands")

#: Seconds that a command waits for a link that is full, or for its turn on it; after that the command goes on without
#: its output being sent, until the link is free again.
PATIENCE = 20.0
#: Most bytes of output in one event.
MAX_PIECE = 64 * 1024
#: Least bytes in one event, on a link that takes only short ones: with fewer, there would be too many events.
LEAST_PIECE = 64
#: Bytes of a frame that are not output: names, numbers and punctuation, without the ``commandId``.
ENVELOPE = 256


class _Encoder(Protocol):
    """Makes texts of the bytes of one stream."""

    def encode(self, offset: int, data: bytes) -> tuple[int, str]:
        """The text of *data*, which begins at *offset*, and the offset of the text's first byte."""

    def rest(self) -> tuple[int, str]:
        """What is left of a stream that ends in the middle of a character."""


class _Base64:
    #: Bytes of JSON that one byte of output can come to.
    growth = 2  # four characters for three bytes, with what is left over at the end

    def encode(self, offset: int, data: bytes) -> tuple[int, str]:
        return offset, b64encode(data).decode()

    def rest(self) -> tuple[int, str]:
        return 0, ""


class _Text:
    """A character that is split between two pieces belongs to the later one."""

    growth = 6  # a control character is six in JSON

    def __init__(self, charset: str) -> None:
        self._charset = charset
        self._decoder = Decoder(charset)
        self._end = 0

    def encode(self, offset: int, data: bytes) -> tuple[int, str]:
        if offset != self._end:
            self._decoder = Decoder(self._charset)
        start = offset - self._decoder.pending
        self._end = offset + len(data)
        return start, self._decoder.decode(data)

    def rest(self) -> tuple[int, str]:
        return self._end - self._decoder.pending, self._decoder.decode(b"", final=True)


class Streams:
    """
    Knows the link of the moment, for all commands that stream.

    :param clock: the clock by which a command waits for the link.
    :param origins: says to which main server output goes; by default to whichever is connected.
    :ivar charset: character set of the output of commands that name none.
    :ivar hosts: what the site says of single hosts, before that.
    """

    def __init__(
        self,
        clock: IReactorTime,
        stats: Stats,
        charset: str = UTF8,
        hosts: HostTable | None = None,
        origins: Origins | None = None,
    ) -> None:
        self._origins = origins
        self.charset = charset
        self.hosts = hosts or HostTable()
        self.clock = clock
        self.stats = stats
        #: Where output goes; ``None``: nowhere, as there is no link.
        self.link: ILink | None = None

    def link_ready(self, link: ILink) -> None:
        """Send on *link* from now on."""
        self.link = link

    def link_lost(self, link: ILink) -> None:
        """Send no more on *link*."""
        if self.link is link:
            self.link = None

    def link_to(self, server: str) -> ILink | None:
        """The link over which output for the main server *server* goes, if there is one."""
        link = self.link
        return link if link is not None and (self._origins is None or self._origins.takes(link, server)) else None

    def charset_of(self, command: ExecuteCommand) -> str:
        """Character set of the output of *command*."""
        if command.encoding is not None:
            return command.encoding
        return self.hosts.of(command.host, command.port, command.username).output_encoding or self.charset

    def open_stream(self, command: ExecuteCommand) -> OutputStream:
        """Where the output of *command* is to be written."""
        return OutputStream(self, command)


@implementer(IOutputSink)
class OutputStream:
    """
    The output of one command, as events on the link of the moment: never kept and never sent again.  While there is no
    link, or the link is stuck, output is passed over; offsets show it.

    Every command may write once more to a link that is full: that bounds what can pile up there.
    """

    def __init__(self, streams: Streams, command: ExecuteCommand) -> None:
        self._streams = streams
        self._command_id, self._numeric_id = command.command_id, command.numeric_id
        self._origin = command.origin
        self._base64 = command.encoding == BASE64
        make = _Base64 if self._base64 else partial(_Text, streams.charset_of(command))
        self._growth = _Base64.growth if self._base64 else _Text.growth
        self._envelope = ENVELOPE + len(msgspec.json.encode(self._command_id))
        self._encoders: dict[StreamName, _Encoder] = {"stdout": make(), "stderr": make()}
        self._waits: set[Deferred[None]] = set()
        #: The link that was full for too long.
        self._stuck: ILink | None = None
        self._closed = False

    def write(self, stream: StreamName, offset: int, data: bytes) -> Deferred[None] | None:
        """See `IOutputSink.write`."""
        if self._closed:
            return None
        link, encoder = self._usable_link(), self._encoders[stream]
        size = 0 if link is None else min(MAX_PIECE, (link.max_payload - self._envelope) // self._growth)
        if link is None or size < LEAST_PIECE:
            encoder.encode(offset, data)  # it may end in the middle of a character
            self._streams.stats.passed_over += len(data)
            return None
        for start in range(0, len(data), size):
            self._send(link, stream, *encoder.encode(offset + start, data[start : start + size]))
        return None if link.writable else self._wait(link)

    def close(self) -> None:
        """The command has ended: send what is left, and nothing more."""
        link = self._usable_link()
        if link is not None:
            for stream, encoder in self._encoders.items():
                self._send(link, stream, *encoder.rest())
        self._closed = True
        for waiting in list(self._waits):
            waiting.cancel()

    def _usable_link(self) -> ILink | None:
        link = self._streams.link_to(self._origin)
        if link is self._stuck and link is not None:
            if not link.writable:
                return None
            self._stuck = None
        return link

    def _send(self, link: ILink, stream: StreamName, offset: int, text: str) -> None:
        if text:
            self._streams.stats.streamed += 1
            link.send_output(
                CommandOutput(
                    command_id=self._command_id,
                    stream=stream,
                    offset=offset,
                    data=text,
                    encoding="base64" if self._base64 else None,
                    numeric_id=self._numeric_id,
                )
            )

    def _wait(self, link: ILink) -> Deferred[None]:
        waiting = link.when_writable()
        self._waits.add(waiting)
        waiting.addTimeout(PATIENCE, self._streams.clock)
        waiting.addBoth(self._waited, waiting, link)
        return waiting

    def _waited(self, outcome: object, waiting: Deferred[None], link: ILink) -> None:
        """The Deferred never fails: cancelling it only means that nobody waits any more."""
        self._waits.discard(waiting)
        if isinstance(outcome, Failure) and outcome.check(TimeoutError):
            self._stuck = link
            _log.warn(
                "The uplink has been full for {span}: output of {command_id} is passed over",
                span=span(PATIENCE),
                command_id=self._command_id,
            )
