"""
What the lines of the audit log tell of commands, and how it stays within the length of a line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, Literal

from relayd.audit.lines import command_digest
from relayd.wire.messages import ExecuteCommand

#: One event: seconds since the epoch, its name, its fields.
Record = tuple[float, str, Mapping[str, Any]]
#: What a site wants to have of commands: their keyed digest, their text, or nothing.
Telling = Literal["digest", "text", "none"]

#: Bytes that no line exceeds: what a main server can make the relay write for one order.
LONGEST: Final = 4096
#: Bytes of a line without what others name: number, time, event, seal, hashes, figures, names of fields.
FRAME: Final = 640
#: Bytes of a name in a line, of a host as an order spells it, of the id of a command, and of all jump hosts together.
MAX_NAME: Final = 320
MAX_WRITTEN: Final = 160
MAX_ID: Final = 640
MAX_VIA: Final = 1000
#: Digits of the digest of a name that was cut.
_DIGITS: Final = 16


def clip(text: str, size: int = MAX_ID) -> str:
    """
    *text*, where it takes up to *size* bytes in a line; else its beginning, ``…`` and a digest, by which long names
    that begin alike are told apart.
    """
    if length(text) <= size:
        return text
    ending = "…#" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return beginning(text, size - length(ending)) + ending


def beginning(text: str, size: int) -> str:
    """As many characters of *text* as take no more than *size* bytes in a line."""
    text = text[: max(0, size)]
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if length(text[:middle]) <= size:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def length(text: str) -> int:
    """Bytes that *text* takes in a line, which is ASCII."""
    return len(json.dumps(text)) - 2


def names(command: ExecuteCommand) -> dict[str, Any]:
    """Fields of every line about a command.  Nothing of it is kept alive but these: it holds credentials."""
    fields = {
        "commandId": command.command_id,
        "host": command.host,
        "port": command.port,
        "user": command.username,
    }
    if command.written is not None:
        fields["written"] = command.written
    return fields


def whole(command: ExecuteCommand) -> dict[str, Any]:
    """Likewise, where it is asked for."""
    fields = names(command)
    if command.via:
        fields["via"] = [f"{hop.username}@{hop.host}:{hop.port}" for hop in command.via]
    fields["command"] = command.command
    return fields


def finish(record: Record, telling: Telling, key: bytes, common: int) -> Record:
    """
    A record as it is written: names that are not too long, and the command as the site wants to have it.

    :param key: of commands' digests.
    :param common: bytes that fields take which are in every line.
    """
    seconds, event, fields = record
    if "commandId" not in fields:
        return record
    finished = dict(fields)
    finished["commandId"] = clip(finished["commandId"])
    for name, size in (("host", MAX_NAME), ("user", MAX_NAME), ("written", MAX_WRITTEN)):
        if name in finished:
            finished[name] = clip(finished[name], size)
    if "via" in finished:
        finished["via"] = [clip(hop, MAX_VIA // len(finished["via"])) for hop in finished["via"]]
    command = finished.pop("command", None)
    if command is None or telling == "none":
        return seconds, event, finished
    text = ""
    if telling == "text":
        room = LONGEST - FRAME - common - len(json.dumps(finished))
        finished["command"] = text = beginning(command, room)
    if telling == "digest" or text != command:
        finished["commandDigest"] = command_digest(key, command)
    return seconds, event, finished
