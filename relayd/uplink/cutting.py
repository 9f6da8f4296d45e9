"""
Cuts a result to what the main server takes, which would drop the connection at a larger message.

Outputs are handled in pieces, so that the work, in a thread, never keeps the event loop from running for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from relayd.language.texts import Text, Translate, english
from relayd.network.pieces import from_base64, to_base64
from relayd.wire.files import FetchedContent
from relayd.wire.messages import CommandResult, Details

#: Bytes kept free for each marker: more than the longest one takes.
MARKER_ROOM: Final = 112
#: Bytes that the mark of a file that was cut takes: ``,"truncated":true``.
_CONTENT_ROOM: Final = 24
#: Characters that are encoded in one step, which takes 5 ms at most.
_PIECE: Final = 256 * 1024


class Envelope(Struct, frozen=True):
    """
    The bytes that the frame of a result takes without its outputs.

    :ivar whole: for the result as it is; ``None`` where it would not fit in any case.
    :ivar cut: for the result that says that something was cut.
    :ivar bare: whether *cut* leaves out what the specification does not have, for want of room.
    """

    whole: int | None
    cut: int
    bare: bool


def fit(
    result: CommandResult,
    measure: Callable[[CommandResult], int],
    max_payload: int,
    translate: Translate = english,
) -> CommandResult:
    """
    Cut both outputs, so that the frame of *result* has at most *max_payload* bytes.

    The two share the room fairly: a small one stays whole.  The head and the tail of an output are kept, since errors
    are at the end and their causes at the start.  The work is linear in *max_payload*.

    Outputs in base64 are cut as the bytes that they stand for.  Where there is almost no room, the part of an extended
    result that the specification does not have goes first, and then the marker of the cut.

    :param measure: gives the size of a result's frame in bytes.
    :param max_payload: in bytes; if not even a result without output fits, the outputs become empty.
    :param translate: to the language of the marker.
    :return: the result itself where it fits.
    """
    result = with_files_cut(result, measure, max_payload)
    return cut_to(result, envelope(result, measure, max_payload), max_payload, translate)


def with_files_cut(result: CommandResult, measure: Callable[[CommandResult], int], max_payload: int) -> CommandResult:
    """
    *result* with no more of the files that the command wanted than there is room for beside its outputs.

    All share the room fairly, a file like an output: what is small stays whole. Of a file the beginning is kept.
    """
    fetched = result.details.fetched
    lengths = [each.length for each in fetched]
    if not fetched:
        return result
    bare = msgspec.structs.replace(result, stdout="", stderr="", details=_with_contents(result, [0] * len(fetched)))
    room = max_payload - measure(bare) - _CONTENT_ROOM * len(fetched)
    if room < 0:  # not even for their names
        return msgspec.structs.replace(result, details=msgspec.structs.replace(result.details, fetched=()))
    sizes = [_json_size(result.stdout, room), _json_size(result.stderr, room)]
    rooms = _shares([*lengths, *sizes], room)[: len(lengths)]
    if rooms == lengths:
        return result
    return msgspec.structs.replace(result, details=_with_contents(result, rooms))


def _with_contents(result: CommandResult, rooms: list[int]) -> Details:
    """The details of *result*, with so many characters at most of the base64 of each file."""
    cut = []
    for each, room in zip(result.details.fetched, rooms, strict=True):
        if each.content is not None and each.length > room:
            content = FetchedContent(base64=each.content["base64"][: room // 4 * 4])
            cut.append(msgspec.structs.replace(each, content=content, truncated=True))
        else:
            cut.append(each)
    return msgspec.structs.replace(result.details, fetched=tuple(cut))


def _shares(sizes: list[int], room: int) -> list[int]:
    """How much of *room* each gets: what is small all that it needs, the others the same."""
    shares = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    for done, index in enumerate(order):
        shares[index] = min(sizes[index], room // (len(order) - done))
        room -= shares[index]
    return shares


def envelope(result: CommandResult, measure: Callable[[CommandResult], int], max_payload: int) -> Envelope:
    """The first step of `fit`, which needs the dialect; the second one, `cut_to`, may be done in a thread."""
    empty = msgspec.structs.replace(result, stdout="", stderr="")
    whole = measure(empty) if len(result.stdout) + len(result.stderr) <= max_payload else None
    cut = measure(_said_to_be_cut(empty, False))
    if bare := result.extended and cut + 2 * MARKER_ROOM > max_payload:
        cut = measure(_said_to_be_cut(empty, True))
    return Envelope(whole, cut, bare)


def _said_to_be_cut(result: CommandResult, bare: bool) -> CommandResult:
    """
    *result* with the mark that its output was cut.

    :param bare: whether to leave out what the specification does not have.
    """
    details = msgspec.structs.replace(result.details, truncated=True)
    return msgspec.structs.replace(result, details=details, extended=result.extended and not bare)


def cut_to(result: CommandResult, envelope: Envelope, max_payload: int, translate: Translate) -> CommandResult:
    """The second step of `fit`: cut *result* to *max_payload* bytes."""
    if envelope.whole is not None:
        room = max_payload - envelope.whole
        if (left := room - _json_size(result.stdout, room)) >= 0 and _json_size(result.stderr, left) <= left:
            return result
    room = max(0, max_payload - envelope.cut)
    half = room // 2
    # an output that is longer than the whole room need not be measured to its end
    stdout_size = _json_size(result.stdout, room)
    stderr_size = _json_size(result.stderr, room)
    stdout_room = max(half, room - stderr_size)
    stderr_room = max(room - half, room - stdout_size)
    cut = _cut_base64 if result.details.encoding == "base64" else _cut
    return msgspec.structs.replace(
        _said_to_be_cut(result, envelope.bare),
        stdout=cut(result.stdout, stdout_size, stdout_room, translate),
        stderr=cut(result.stderr, stderr_size, stderr_room, translate),
    )


def encoded(text: str) -> list[bytes | memoryview]:
    """The JSON of *text*, in pieces."""
    return [b'"', *map(_json, _pieces(text)), b'"']


def _cut(text: str, size: int, room: int, translate: Translate) -> str:
    """*text*, whose JSON takes *size* bytes (or at least more than *room*), cut to *room* bytes."""
    if size <= room:
        return text
    if room < MARKER_ROOM:
        return text[: _characters_that_fit(text, room, lambda count: text[:count])]
    half = (room - MARKER_ROOM) // 2
    head = _characters_that_fit(text, half, lambda count: text[:count])
    tail = _characters_that_fit(text, half, lambda count: text[len(text) - count :])
    gone = sum(len(piece.encode()) for piece in _pieces(text[head : len(text) - tail]))
    return text[:head] + marker(gone, translate) + text[len(text) - tail :]


def _cut_base64(text: str, size: int, room: int, translate: Translate) -> str:
    if size <= room:
        return text
    if room // 4 * 3 < MARKER_ROOM:
        return text[: room // 4 * 4]  # whole groups, and not the last one: it does not fit
    length = len(text) // 4 * 3 - text.count("=", len(text) - 2)
    half = (room // 4 * 3 - MARKER_ROOM) // 2
    # Four characters stand for three bytes; the first and the last group may be wanted in part.
    head = from_base64(text[: (half + 2) // 3 * 4])[:half]
    skipped = length - half
    tail = from_base64(text[skipped // 3 * 4 :])[skipped % 3 :]
    return to_base64(head + marker(length - 2 * half, translate).encode() + tail)


def marker(gone: int, translate: Translate) -> str:
    """The text in the place of *gone* bytes that were cut."""
    text = Text("[relayd: {bytes} bytes cut here to fit the link; see --max-output]", bytes=f"{gone:,}")
    return f"\n{text.within(translate)}\n"


def _characters_that_fit(text: str, room: int, part: Callable[[int], str]) -> int:
    """How many characters of *part* fit into *room* bytes of JSON, or up to 3 % fewer, found in a few passes."""
    count = min(room, len(text) // 2)
    while (size := _json_size(part(count))) > room:
        count = int(count * room / size * 0.97)
    return count


def _json_size(text: str, enough: float = float("inf")) -> int:
    """
    Bytes in the JSON of *text*, without the quotes: an escaped character takes up to six.

    :param enough: stop counting beyond this.
    """
    size = 0
    for piece in _pieces(text):
        size += len(_json(piece))
        if size > enough:
            break
    return size


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))


def _json(piece: str) -> memoryview[Any]:
    return memoryview(msgspec.json.encode(piece))[1:-1]
