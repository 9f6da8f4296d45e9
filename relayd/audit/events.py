"""
The fields of the lines of the audit log, and how they stay within the length of a line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, Literal

from relayd.audit.key import command_digest
from relayd.wire.messages import Become, ExecuteCommand, File

#: One event: seconds since the epoch, its name, its fields.
Record = tuple[float, str, Mapping[str, Any]]
#: What a site wants to see of commands: their keyed digest, their text, or nothing.
Telling = Literal["digest", "text", "none"]

#: Bytes that no line exceeds: what a main server can make the relay write for one order.
LONGEST: Final = 4096
#: Bytes of a line beside the values that others choose: number, time, event, seal, hashes, figures, names of fields.
FRAME: Final = 640
#: Bytes of a name in a line, of a host as an order spells it, of the id of a command, and of all jump hosts together.
MAX_NAME: Final = 320
MAX_WRITTEN: Final = 160
MAX_ID: Final = 640
MAX_VIA: Final = 1000
#: Bytes of a line that one character takes at most: two escapes, such as \ud83d\ude00.
_MOST_A_CHARACTER: Final = 12
#: Bytes of the name, number and digest of files of which some are left out; twice.
_DIGEST: Final = 256
#: Digits of the digest of a name that was cut.
_DIGITS: Final = 16


def clip(text: str, size: int = MAX_ID) -> str:
    """
    *text* in at most *size* bytes of a line: where it is longer, its beginning, ``…`` and a digest.

    The digest tells long names apart that begin alike.
    """
    if len(text) * _MOST_A_CHARACTER <= size or length_in_line(text) <= size:
        return text
    ending = "…#" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return _beginning(text, size - length_in_line(ending)) + ending


def length_in_line(text: str) -> int:
    """Bytes that *text* takes in a line, which is ASCII."""
    return len(json.dumps(text)) - 2


def _beginning(text: str, size: int) -> str:
    """As many characters of *text* as take no more than *size* bytes in a line."""
    text = text[: max(0, size)]
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if length_in_line(text[:middle]) <= size:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def name_fields(command: ExecuteCommand) -> dict[str, Any]:
    """Fields of every line about a command.  Only these are kept of it: the command itself holds credentials."""
    fields = {
        "commandId": command.command_id,
        "host": command.host,
        "port": command.port,
        "user": command.username,
    }
    if command.written is not None:
        fields["written"] = command.written
    if command.origin:  # in the place of the one that every line has
        fields["server"] = command.origin
    return fields


def order_fields(command: ExecuteCommand) -> dict[str, Any]:
    """Fields of the line that says what was ordered: those of `name_fields`, the jump hosts and the command."""
    fields = name_fields(command)
    if command.via:
        fields["via"] = [f"{hop.username}@{hop.host}:{hop.port}" for hop in command.via]
    if isinstance(command.become, Become):
        fields["become"] = command.become.user
        fields["becomeMethod"] = command.become.method
    if command.files:
        fields["files"] = [_file(file) for file in command.files]
    if command.fetch:
        fields["fetch"] = [each.path for each in command.fetch]
    fields["command"] = command.command
    return fields


def _file(file: File) -> dict[str, Any]:
    """A file that is written, without its content."""
    return {"path": file.path, "size": len(file.content), "sha256": sha256(file.content).hexdigest()}


def fit_record(record: Record, telling: Telling, key: bytes, common: int) -> Record:
    """
    A record as it is written: names are not too long, and the command is shown as the site wants it.

    :param key: key of the digests of commands.
    :param common: bytes of the fields that every line has.
    """
    seconds, event, fields = record
    if "commandId" not in fields:
        return record
    fitted = dict(fields)
    fitted["commandId"] = clip(fitted["commandId"])
    for name, size in (
        ("host", MAX_NAME),
        ("user", MAX_NAME),
        ("server", MAX_NAME),
        ("written", MAX_WRITTEN),
        ("become", MAX_WRITTEN),
        ("ranAs", MAX_WRITTEN),
    ):
        if name in fitted:
            fitted[name] = clip(fitted[name], size)
    if "via" in fitted:
        fitted["via"] = [clip(hop, MAX_VIA // len(fitted["via"])) for hop in fitted["via"]]
    _fit_files(fitted, common)
    command = fitted.pop("command", None)
    if command is None or telling == "none":
        return seconds, event, fitted
    text = ""
    if telling == "text":
        room = LONGEST - FRAME - common - len(json.dumps(fitted))
        fitted["command"] = text = _beginning(command, room)
    if telling == "digest" or text != command:
        fitted["commandDigest"] = command_digest(key, command)
    return seconds, event, fitted


def _fit_files(fitted: dict[str, Any], common: int) -> None:
    """As many of the files as the line has room for; a digest stands for all of them, where some are left out."""
    everything = {name: fitted.pop(name) for name in ("files", "fetch") if name in fitted}
    for name, members in everything.items():
        room = LONGEST - FRAME - _DIGEST - common - len(json.dumps(fitted))
        told: list[Any] = []
        for member in members:
            size = len(json.dumps(member)) + 2
            if size > room:
                break
            room -= size
            told.append(member)
        fitted[name] = told
        if len(told) < len(members):
            fitted[f"{name}Count"] = len(members)
            fitted[f"{name}Digest"] = sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()
