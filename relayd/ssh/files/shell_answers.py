"""
Reads what a shell says while it writes or reads files (`relayd.ssh.files.shell_texts`). No I/O here.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from typing import Final

from relayd.language.texts import Text, last_lines
from relayd.ssh.files.by_sftp import NOT_REGULAR, OTHER_SUM
from relayd.ssh.files.orders import FileToRead, FileToWrite, ReadFile

#: Bytes of the longest line that is kept: base64 and od(1) write short ones, and a shell's words are cut anyway.
_LONGEST: Final = 8192
_NO: Final = {
    b"kind": NOT_REGULAR,
    b"sum": OTHER_SUM,
    b"size": Text("not all of it arrived there"),
    b"tool": Text("the host has no sha256sum, shasum or openssl to check it with"),
}
#: Nothing on the host makes text of bytes.
NO_CODE: Final = Text("the host has no base64, od or hexdump")


class _Lines:
    """The lines of a shell's output, and what its own lines say."""

    def __init__(self, nonce: str) -> None:
        self._mark = b"relayd:%s:" % nonce.encode("ascii")
        self._held = b""
        self.begun = False
        self.done = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, held = (self._held + data).split(b"\n")
        self._held = held[:_LONGEST]
        for line in (each.rstrip(b"\r") for each in lines):
            if not line.startswith(self._mark):
                self._other(line)
                continue
            word, _, rest = line[len(self._mark) :].partition(b" ")
            if word == b"begin":
                self.begun = True
            elif word == b"done":
                self.done = True
            elif self.begun:
                self._said(word, rest)

    def _other(self, line: bytes) -> None:
        """A line that is not the shell's own."""

    def _said(self, word: bytes, rest: bytes) -> None:
        """A line of the shell's own."""


class WriterAnswers(_Lines):
    """
    What a shell says while it writes files.

    :ivar at: the file that it is at.
    """

    def __init__(self, nonce: str, writes: Sequence[FileToWrite]) -> None:
        super().__init__(nonce)
        self._writes = writes
        self.at = writes[0]
        self._why: Text | None = None

    def _said(self, word: bytes, rest: bytes) -> None:
        if word == b"file" and rest.isdigit() and 1 <= int(rest[:4]) <= len(self._writes):
            self.at = self._writes[int(rest[:4]) - 1]
        elif word == b"no":
            self._why = _NO.get(rest)

    def reason(self, stderr: bytes) -> Text:
        """Why the file was not written that it is at."""
        if self._why is not None:
            return self._why
        words = last_lines(stderr)
        return Text("the host said “{words}”", words=words) if words else Text("the host gave no reason")


class ReaderAnswers(_Lines):
    """
    What a shell says while it reads files.

    :param most: bytes of all together.
    :ivar found: what came of those that it has looked at.
    :ivar excessive: whether it sends more than it was asked for.
    """

    def __init__(self, nonce: str, reads: Sequence[FileToRead], most: int) -> None:
        super().__init__(nonce)
        self._reads = reads
        self._room = most
        self.found: list[ReadFile] = []
        self.excessive = False
        self.no_code = False
        self._hex = False
        self._pieces: list[bytes] | None = None
        self._coded = 0
        self._size: int | None = None
        self._content: bytes | None = None
        self._words: Text | None = None
        self._open = False

    def _other(self, line: bytes) -> None:
        if self._pieces is not None:
            line = b"".join(line.split())
            self._coded += len(line)
            self._pieces.append(line)
            self.excessive = self.excessive or self._coded > 2 * self._most() + 64

    def _most(self) -> int:
        return min(self._reads[len(self.found)].most, self._room) + 1

    def _said(self, word: bytes, rest: bytes) -> None:
        if word in (b"base64", b"hex"):
            self._hex = word == b"hex"
        elif word == b"tool":
            self.no_code = True
        elif word == b"file":
            self.finish()
            if len(self.found) < len(self._reads):
                self._open = True
        elif not self._open:
            return
        elif word == b"size" and rest.isdigit() and len(rest) < 20:
            self._size = int(rest)
        elif word == b"content":
            self._pieces, self._coded = [], 0
        elif word == b"end" and self._pieces is not None:
            self._take(b"".join(self._pieces))
        elif word == b"kind":
            self._words = NOT_REGULAR
        elif word == b"words":
            self._words = Text("the host said “{words}”", words=last_lines(rest))

    def _take(self, coded: bytes) -> None:
        self._pieces = None
        try:
            self._content = bytes.fromhex(coded.decode("ascii")) if self._hex else b64decode(coded, validate=True)
        except ValueError:
            self._words = Text("what the host sent is not what it was asked for")

    def finish(self) -> None:
        """Nothing more comes of the file that it is at."""
        if not self._open:
            return
        self._open = False
        most = self._most() - 1
        content = self._content
        if content is None or (not content and self._words is not None):
            error = self._words or Text("the host did not send it")
            self.found.append(ReadFile(name=self._reads[len(self.found)].name, size=self._size, error=error))
        else:
            self._room -= len(content[:most])
            self.found.append(
                ReadFile(
                    name=self._reads[len(self.found)].name,
                    size=max(self._size or 0, len(content)),
                    content=content[:most],
                    truncated=len(content) > most or self._words is not None,
                    error=self._words,
                )
            )
        self._size = self._content = self._words = self._pieces = None
