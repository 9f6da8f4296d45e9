"""
A result as the journal holds it, in a log or in the archive: msgpack.
"""

from __future__ import annotations

from secrets import token_hex
from typing import Final

import msgspec

from relayd.errors import JournalUnavailable
from relayd.language.texts import Text, without_surrogates
from relayd.network.pieces import PIECE, to_utf8
from relayd.wire.messages import CommandResult

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CommandResult).decode

#: Stand for long outputs while the rest of a result is encoded. Nothing of a peer's can hold them.
_STDOUT, _STDERR = token_hex(16), token_hex(16)
#: The first byte of a string whose length takes four more ("str 32" in the specification of msgpack).
_LONG: Final = b"\xdb"


def encode_result(result: CommandResult) -> bytes:
    """A result as it is held."""
    encode = _encode if result.length <= PIECE else _encode_large
    try:
        return encode(result)
    except UnicodeEncodeError:  # half a surrogate pair, from a text that was not decoded strictly
        stdout, stderr = without_surrogates(result.stdout), without_surrogates(result.stderr)
        return encode(msgspec.structs.replace(result, stdout=stdout, stderr=stderr))


def _encode_large(result: CommandResult) -> bytes:
    """The same bytes, in steps that do not keep the other threads from running."""
    around = _encode(msgspec.structs.replace(result, stdout=_STDOUT, stderr=_STDERR))
    before, _, rest = around.partition(_encode(_STDOUT))
    between, _, after = rest.partition(_encode(_STDERR))
    return b"".join((before, *_encoded(result.stdout), between, *_encoded(result.stderr), after))


def _encoded(text: str) -> list[bytes]:
    if len(text) <= PIECE:
        return [_encode(text)]
    pieces = list(to_utf8(text))
    return [_LONG, sum(map(len, pieces)).to_bytes(4, "big"), *pieces]


def decode_result(body: bytes) -> CommandResult:
    """
    The result in a row.

    :raises JournalUnavailable: when it is damaged, which SQLite does not always see.
    """
    try:
        return _decode(body)
    # msgspec does not turn everything into an error of its own; TypeError: the row does not hold bytes
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError):
        raise JournalUnavailable(reason=Text("its file is damaged: a result is not as relayd wrote it")) from None
