"""
The exchange of versions: the first line that each side sends; a server may send others before it.

Source: RFC 4253, section 4.2.
"""

from __future__ import annotations

from typing import Final

from relayd.language.texts import Fault, Text, last_lines, printable_bytes
from relayd.ssh.transport.other_protocols import ENOUGH, recognise

#: The version of this client, as it is sent and goes into the exchange hash.
CLIENT_VERSION: Final = b"SSH-2.0-relayd"
#: Bytes that a server may send until its version ends: some show a notice.
MAX_PREAMBLE: Final = 8192
#: Bytes shown of what came instead of a version.
_MAX_SHOWN: Final = 60
#: Bytes of its last lines that are looked at for an error: it may say why it hangs up.
_MAX_WORDS: Final = 512
#: The last words of a server that said nothing.
NOTHING: Final = Text("it said nothing")


class NoVersion(Fault):
    """This is no SSH 2 server; the argument says what it is instead."""


class VersionReader:
    """Finds the version of a server in what it sends; no byte is looked at twice, however small the pieces."""

    __slots__ = ("_heard", "_line")

    def __init__(self) -> None:
        self._heard = bytearray()
        self._line = 0  # where in it the line begins that has not ended yet

    def read(self, data: bytes | bytearray) -> tuple[bytes, int] | None:
        """
        Look for the version.

        :param data: what has come since the last call.
        :return: the version line without its end, and where in *data* the packets begin; ``None``: there is more to
            come.
        :raises NoVersion: when the server cannot be one of SSH 2.
        """
        heard = self._heard
        before = len(heard)
        heard += data[: MAX_PREAMBLE - before]
        at = before
        while (end := heard.find(b"\n", at)) >= 0:
            line = bytes(heard[self._line : end]).rstrip(b"\r")
            self._line = at = end + 1
            if line.startswith(b"SSH-"):
                self._check_start(end)  # as if every byte had come alone
                return _checked(line), at - before
        if before < ENOUGH:
            self._check_start(len(heard))
        if before + len(data) > MAX_PREAMBLE:
            shown = printable_bytes(bytes(heard[:_MAX_SHOWN]).partition(b"\n")[0].rstrip())
            raise NoVersion(
                "it sent {size} bytes without a version, beginning with “{start}”",
                size=MAX_PREAMBLE,
                start=shown,
            )
        return None

    def _check_start(self, end: int) -> None:
        """
        Recognise other protocols, before any version: what comes first decides, however it is cut into pieces.

        :raises NoVersion: when it is one of these.
        """
        other = recognise(self._heard[: min(end, ENOUGH)])
        if other is not None:
            raise NoVersion(other)

    def last_words(self) -> Text:
        """What the server has said instead of its version, fit to be shown."""
        if not self._heard:
            return NOTHING
        return Text("it said “{words}”", words=last_lines(bytes(self._heard[-_MAX_WORDS:])))


def _checked(line: bytes) -> bytes:
    if line.startswith(CLIENT_VERSION + b" BAD"):  # it took our version for a tag (RFC 9051, 2.2.1)
        words = printable_bytes(line, _MAX_SHOWN)
        raise NoVersion("it answered “{words}”, as a server of IMAP does", words=words)
    version, _, software = line[4:].partition(b"-")
    if version not in (b"2.0", b"1.99") or not software:
        raise NoVersion("its version is {version}", version=printable_bytes(line[:60]))
    return line
