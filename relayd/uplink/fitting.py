"""
Cuts a result to what a link carries: a larger message would make the main server drop the connection.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Final

import msgspec

from relayd.messages import CommandResult

#: Bytes kept free for each marker, more than the longest one takes.
_MARKER_ROOM: Final = 80


def fit(result: CommandResult, measure: Callable[[CommandResult], int], max_payload: int) -> CommandResult:
    """
    Cut both outputs, so that the frame of *result* has at most *max_payload* bytes.

    The two share the room fairly: a small one stays whole.  Head and tail of an output are kept, for errors stand at
    the end and their causes at the start.  The work is linear in *max_payload*.

    Outputs in base64 are cut as the bytes that they stand for.

    :param measure: the size of a result's frame in bytes.
    :param max_payload: in bytes; at least what a result without output takes (dialects take care of it).
    :return: the result itself where it fits.
    """
    if len(result.stdout) + len(result.stderr) <= max_payload and measure(result) <= max_payload:
        return result
    details = msgspec.structs.replace(result.details, truncated=True)
    room = max_payload - measure(msgspec.structs.replace(result, stdout="", stderr="", details=details))
    half = room // 2
    # an output longer than the whole room need not be measured to the end
    stdout_size = _json_size(result.stdout[: room + 1])
    stderr_size = _json_size(result.stderr[: room + 1])
    stdout_room = max(half, room - stderr_size)
    stderr_room = max(room - half, room - stdout_size)
    cut = _cut_base64 if details.encoding == "base64" else _cut
    return msgspec.structs.replace(
        result,
        stdout=cut(result.stdout, stdout_size, stdout_room),
        stderr=cut(result.stderr, stderr_size, stderr_room),
        details=details,
    )


def _cut(text: str, size: int, room: int) -> str:
    """*text*, whose JSON takes *size* bytes (or more than it has room), in *room* bytes."""
    if size <= room:
        return text
    half = max(0, room - _MARKER_ROOM) // 2
    head = _fitting(text, half, lambda count: text[:count])
    tail = _fitting(text, half, lambda count: text[len(text) - count :])
    gone = len(text[head : len(text) - tail].encode())
    return text[:head] + _marker(gone) + text[len(text) - tail :]


def _cut_base64(text: str, size: int, room: int) -> str:
    if size <= room:
        return text
    data = b64decode(text)
    half = max(0, room // 4 * 3 - _MARKER_ROOM) // 2
    kept = data[:half], data[len(data) - half :]
    return b64encode(_marker(len(data) - 2 * half).encode().join(kept)).decode()


def _marker(gone: int) -> str:
    return f"\n[relayd: {gone:,} bytes cut here to fit the link]\n"


def _fitting(text: str, room: int, part: Callable[[int], str]) -> int:
    """How many characters of *part* fit into *room* bytes of JSON; up to 3 % fewer, to be found in a few passes."""
    count = min(room, len(text) // 2)
    while (size := _json_size(part(count))) > room:
        count = int(count * room / size * 0.97)
    return count


def _json_size(text: str) -> int:
    """Bytes in the JSON of *text*, without the quotes: an escape takes up to six a character."""
    return len(msgspec.json.encode(text)) - 2
