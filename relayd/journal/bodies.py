"""
A result as the journal holds it, in a log or in the archive: msgpack.
"""

from __future__ import annotations

import msgspec

from relayd.errors import JournalUnavailable
from relayd.language.texts import Text, without_surrogates
from relayd.wire.messages import CommandResult

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CommandResult).decode


def encode_result(result: CommandResult) -> bytes:
    """A result as it is held."""
    try:
        return _encode(result)
    except UnicodeEncodeError:  # half a surrogate pair, from a text that was not decoded strictly
        stdout, stderr = without_surrogates(result.stdout), without_surrogates(result.stderr)
        return _encode(msgspec.structs.replace(result, stdout=stdout, stderr=stderr))


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
