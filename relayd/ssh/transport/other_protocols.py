"""
Servers of other protocols, recognised by what they send where an SSH server sends its version.

An SSH server may send lines of text before its version (RFC 4253, section 4.2). So each pattern is of a packet or of a
version of another protocol, or of a complaint about ours; the greeting of a mail server alone proves nothing.

Source: RFC 8446, section 5.1 (TLS); RFC 9112, section 4 (HTTP); MySQL's "Protocol::Handshake"; RFC 5321, section 4.2
(SMTP, FTP); RFC 6143, section 7.1.1 (VNC); RFC 854 (Telnet); and what the servers really sent.
"""

from __future__ import annotations

import re
from typing import Final

from relayd.language.texts import Text, printable_bytes

#: Bytes of what a server sends that are enough to recognise it.
ENOUGH: Final = 256
#: Bytes shown of a line of theirs.
_MAX_SHOWN: Final = 80

#: An error of MySQL, which ends with its packet.
_MYSQL_ERROR: Final = rb"...\x00\xff..(Host '[ -~]*)"
#: What is seen of each; a group is shown with it.
_SEEN: Final = tuple(
    (re.compile(pattern, re.DOTALL), template)
    for pattern, template in (
        (rb"[\x14-\x17]\x03[\x00-\x04]\x00.", Text("it sent a TLS record, as a server for https:// does")),
        (rb"(HTTP/[0-9][^\r\n]*)\r?\n", Text("it answered “{words}”, as a web server does")),
        (rb"(?i:<!doctype html|<html)", Text("it sent a web page")),
        (rb"...\x00\x0a([0-9][ -~]{2,60})\x00", Text("it sent a greeting of MySQL or MariaDB, version {words}")),
        (_MYSQL_ERROR, Text("it answered “{words}”, as MySQL or MariaDB does")),
        (rb"220[ -][^\n]*\n(?:220[^\n]*\n)*(5[0-9][0-9][ -][^\r\n]*)\r?\n",
         Text("it answered “{words}”, as a server of FTP or SMTP does")),
        (rb"(500 OOPS: [^\r\n]*)\r?\n", Text("it answered “{words}”, as a server of FTP or SMTP does")),
        (rb"\+OK[^\n]*\n(-ERR[^\r\n]*)\r?\n", Text("it answered “{words}”, as a server of POP3 does")),
        (rb"(-(?:ERR|DENIED|NOAUTH) [^\r\n]*)\r?\n", Text("it answered “{words}”, as Redis does")),
        (rb"(@RSYNCD: [0-9.]+)\s", Text("it greets with “{words}”, as a server of rsync does")),
        (rb"(RFB [0-9]{3}\.[0-9]{3})\n", Text("it greets with “{words}”, as a server of VNC does")),
        (rb"\xff[\xfb-\xfe].", Text("it negotiates as a server of Telnet does")),
        (rb"AMQP[\x00-\x03]", Text("it answered as a server of AMQP does")),
    )
)  # fmt: skip


def recognise(start: bytes | bytearray) -> Text | None:
    """
    What a server sent, if that is of another protocol that is known here.

    :param start: the first bytes that it sent, without a version of SSH among them.
    """
    for pattern, seen in _SEEN:
        found = pattern.match(start, 0, ENOUGH)
        if pattern.pattern == _MYSQL_ERROR and len(start) < min(ENOUGH, 4 + int.from_bytes(start[:3], "little")):
            continue
        if found is not None:
            return Text(seen.template, words=printable_bytes(found[1].strip(), _MAX_SHOWN)) if found.re.groups else seen
    return None
