"""
The first lines of a server: its version, and what may come before it.

Source: RFC 4253, section 4.2.
"""

from __future__ import annotations

from relayd.ssh.text import printable
from relayd.texts import Fault

#: What a server may send before its version, in bytes: some show a notice.
MAX_PREAMBLE = 8192


class NoVersion(Fault):
    """This is no SSH 2 server; the argument says what it is instead."""


def find_version(data: bytes) -> tuple[bytes, int] | None:
    """
    Look for the version.

    :param data: all that the server has sent.
    :return: the version line without its end, and where the packets begin; ``None``: there is more to come.
    :raises NoVersion: when there is no hope.
    """
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        line = data[start:end].rstrip(b"\r")
        start = end + 1
        if not line.startswith(b"SSH-"):
            continue
        version, _, software = line[4:].partition(b"-")
        if version not in (b"2.0", b"1.99") or not software:
            raise NoVersion("its version is {version}", version=printable(line[:60]))
        return line, start
    if len(data) > MAX_PREAMBLE:
        shown = printable(data[:60].partition(b"\n")[0].rstrip())
        raise NoVersion("it sent {size} bytes without a version, beginning with “{start}”", size=len(data), start=shown)
    if data.startswith(b"HTTP/"):
        raise NoVersion("it is a web server")
    return None
