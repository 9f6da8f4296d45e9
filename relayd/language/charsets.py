"""
Character sets of hosts that do not use UTF-8: their names, and how a command's text is written in one, so that a shell
on the host reads the same text as the site's rules.
"""

from __future__ import annotations

import codecs
import encodings
import encodings.aliases
import re
from functools import lru_cache
from pkgutil import iter_modules
from typing import Final

UTF8: Final = "utf-8"

#: Characters in the longest name that is considered.
_MAX_NAME: Final = 40
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:-]*")
#: What Python calls text encodings, but no host writes output in: those for host names, for Python's own source, and
#: for mail (in UTF-7 Python keeps everything after a shift, and reads it again with each piece).
_USELESS: Final = frozenset(
    ["idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "charmap", "utf_7"]
)
#: What a stream has only at its beginning, and its middle cannot be read without: the designation of ISO 2022-KR.
_PREFIXES: Final = {"iso2022_kr": b"\x1b$)C"}
_PRINTABLE_ASCII: Final = "".join(map(chr, range(0x20, 0x7F))) + "\t\n"
_NOT_ASCII: Final = bytes(range(0x80, 0x100))
_OTHERS: Final = re.compile(r"[^\x00-\x7f]+")


class Unwritable(ValueError):
    """A text cannot be written in a character set."""


def charset(name: str) -> str | None:
    """
    The canonical name of a character set, which *name* is a name of; ``None`` for an unknown one.

    Unknown names are never given to Python, which would keep each in memory for ever.
    """
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        return None
    known = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return _canonical(known) if known in _names() else None


@lru_cache(1)
def _names() -> frozenset[str]:
    modules = {module.name for module in iter_modules(encodings.__path__)} - {"aliases"}
    return frozenset(modules | set(encodings.aliases.aliases))


@lru_cache(1024)
def _canonical(known: str) -> str | None:
    if encodings.aliases.aliases.get(known, known) in _USELESS:
        return None
    try:
        found = codecs.lookup(known)
    except (LookupError, ImportError):  # such as those of other systems
        return None
    try:
        " ".encode(found.name)  # codecs from bytes to bytes, such as base64 and zip, have no text
        b"".decode(found.name)
    except (LookupError, ValueError):
        return None
    return found.name


@lru_cache(256)
def has_ascii(name: str) -> bool:
    """Whether ASCII is written as itself in a character set, as shells need it: not so in UTF-16 and EBCDIC."""
    try:
        return _PRINTABLE_ASCII.encode(name) == _PRINTABLE_ASCII.encode("ascii")
    except UnicodeError:
        return False


@lru_cache(256)
def is_single_byte(name: str) -> bool:
    """Whether each byte of a character set is a character."""
    for byte in range(256):
        decoder = Decoder(name)
        decoder.decode(bytes([byte]))
        if decoder.pending:
            return False
    return True


@lru_cache(256)
def has_shifts(name: str) -> bool:
    """Whether bytes of ASCII can mean something else after certain others, as in ISO 2022 and HZ."""
    return not is_single_byte(name) and _is_seven_bit(name)


def _is_seven_bit(name: str) -> bool:
    for sample in ("\u4e2d", "\u3042", "\uac00"):
        try:
            return sample.encode(name).isascii()
        except UnicodeError:
            continue
    return False


def write_text(text: str, name: str, *, exactly: bool) -> bytes:
    """
    The bytes of a text, as a shell gets them.

    A text of ASCII alone is the same for every host; in others, ASCII must be written as itself.  In GBK, Big5 and
    Shift JIS the second byte of a character may be one of ASCII, such as ``|``, and a shell that is not set to that
    character set reads it as such.  A character that would become one of ASCII as a whole cannot be written; an example
    is the yen sign, which Python writes as a backslash in Shift JIS.

    :param exactly: whether to refuse a text in which a shell of any character set could see other ASCII than we do,
        as the site has rules for texts.
    :raises Unwritable: when the text cannot be written so.
    """
    if text.isascii():
        return text.encode("ascii")
    if name in (UTF8, "utf-8-sig"):
        return text.encode()
    if not has_ascii(name) or has_shifts(name):
        raise Unwritable
    try:
        written = text.encode(name)
        read = written.decode(name, "replace")
    except UnicodeError:
        raise Unwritable from None
    ours = _OTHERS.sub("", text)
    if _OTHERS.sub("", read) != ours or (exactly and written.translate(None, _NOT_ASCII) != ours.encode("ascii")):
        raise Unwritable
    return written


class Decoder:
    """
    Decodes the bytes of one stream as they arrive; invalid ones become U+FFFD.

    It never fails.  Python's own decoders of UTF-16 and UTF-32 fail where no byte order mark comes first; here such a
    stream is read as little-endian, which Windows and Linux write.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._start: bytearray | None = bytearray() if name in _MARKED else None
        self._decoder = None if name in _MARKED else codecs.getincrementaldecoder(name)("replace")
        if self._decoder is not None and name in _PREFIXES:
            self._decoder.decode(_PREFIXES[name])

    def decode(self, data: bytes, *, final: bool = False) -> str:
        """The text of the characters that *data* completes; with *final*, of everything that is left."""
        if self._decoder is None:
            assert self._start is not None
            self._start += data
            if len(self._start) < 4 and not final:
                return ""
            data, mark = bytes(self._start), len(_mark_of(self._name, bytes(self._start)))
            self._decoder = codecs.getincrementaldecoder(in_the_middle(self._name, data))("replace")
            self._start = None
            data = data[mark:]
        return self._decoder.decode(data, final)

    @property
    def pending(self) -> int:
        """Number of bytes that wait for the rest of their character."""
        if self._decoder is None:
            return len(self._start or b"")
        return len(self._decoder.getstate()[0])


def in_the_middle(name: str, start: bytes) -> str:
    """The encoding for bytes from the middle of a stream that began with *start*, where its mark is."""
    if name not in _MARKED:
        return UTF8 if name == "utf-8-sig" else name
    return f"{name}-be" if start.startswith(_MARKED[name]) else f"{name}-le"


def first_character(data: bytes, name: str) -> int:
    """
    The first place in *data*, cut out of a longer text, where a character begins for certain.

    All possible beginnings are tried at once, until the impossible ones are gone and the others agree.

    :param name: of a character set with one to four bytes for a character, in which ASCII is written as itself.
    """
    # By the bytes of an incomplete character: where the text begins if it is to be read this way.
    ways: dict[bytes, int] = {b"": 0}
    for at in range(min(len(data), _FAR)):
        if at and at < _LONGEST and min(data[:at]) >= _LEAST_SECOND:
            ways[b""] = at
        following: dict[bytes, int] = {}
        for begun, start in ways.items():
            rest = _rest_of(begun + data[at : at + 1], name)
            if rest is not None:
                following[rest] = at + 1 - len(rest) if rest in following else start
        ways = following or {b"": at + 1}
        if at >= _LONGEST - 2 and len(ways) == 1:
            break
    return min(ways.values())


@lru_cache(4096)
def _rest_of(data: bytes, name: str) -> bytes | None:
    """The incomplete character at the end of *data*; ``None`` where *data* is not valid."""
    decoder = codecs.getincrementaldecoder(name)()
    try:
        decoder.decode(data)
    except UnicodeError:
        return None
    return decoder.getstate()[0]


def _mark_of(name: str, start: bytes) -> bytes:
    order = in_the_middle(name, start)
    mark = "\ufeff".encode(order)
    return mark if start.startswith(mark) else b""


#: In the character sets of East Asia: bytes of the longest character, and the least value of any but its first byte.
_LONGEST: Final = 4
_LEAST_SECOND: Final = 0x30
#: Bytes in which the beginning of a character is searched.
_FAR: Final = 4096
#: The byte order mark of the big-endian form.
_MARKED: Final = {"utf-16": codecs.BOM_UTF16_BE, "utf-32": codecs.BOM_UTF32_BE}
