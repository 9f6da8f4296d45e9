"""
The exchange of versions: the first line that each side sends; a server may send others before it.

Source: RFC 4253, section 4.2.
"""

from __future__ import annotations

from relayd.language.texts import Fault, printable_bytes

#: The version of this client, as it is sent and goes into the exchange hash.
CLIENT_VERSION = b"SSH-2.0-relayd"
#: Bytes that a server may send until its version ends: some show a notice.
MAX_PREAMBLE = 8192
#: Bytes shown of what came instead of a version.
_MAX_SHOWN = 60


class NoVersion(Fault):
    """This is no SSH 2 server; the argument says what it is instead."""


class VersionReader:
    """Finds the version of a server in what it sends; no byte is looked at twice, however small the pieces."""

    __slots__ = ("_line", "_seen", "_start")

    def __init__(self) -> None:
        self._line = bytearray()
        self._seen = 0
        self._start = b""

    def read(self, data: bytes | bytearray) -> tuple[bytes, int] | None:
        """
        Look for the version.

        :param data: what has come since the last call.
        :return: the version line without its end, and where in *data* the packets begin; ``None``: there is more to
            come.
        :raises NoVersion: when the server cannot be one of SSH 2.
        """
        self._start += bytes(data[: _MAX_SHOWN - len(self._start)])
        start = 0
        room = MAX_PREAMBLE - self._seen
        while (end := data.find(b"\n", start, room)) >= 0:
            self._line += data[start:end]
            start = end + 1
            line = bytes(self._line).rstrip(b"\r")
            self._line.clear()
            if line.startswith(b"SSH-"):
                return _checked(line), start
        self._seen += len(data)
        self._line += data[start:room]
        if self._seen > MAX_PREAMBLE:
            shown = printable_bytes(self._start.partition(b"\n")[0].rstrip())
            raise NoVersion(
                "it sent {size} bytes without a version, beginning with “{start}”", size=self._seen, start=shown
            )
        if self._start.startswith(b"HTTP/"):
            raise NoVersion("it is a web server")
        return None


def _checked(line: bytes) -> bytes:
    version, _, software = line[4:].partition(b"-")
    if version not in (b"2.0", b"1.99") or not software:
        raise NoVersion("its version is {version}", version=printable_bytes(line[:60]))
    return line
