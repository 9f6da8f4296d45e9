"""
Writes and reads files by SFTP, over one channel of a pooled connection.

A file is written beside its goal, and takes its name when all have arrived. What was begun is removed when something
goes wrong: on the same channel, or, where that is lost, on another one (`Sweep`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, TypeVar

from twisted.conch.ssh.common import NS
from twisted.conch.ssh.filetransfer import (
    FXF_CREAT,
    FXF_EXCL,
    FXF_READ,
    FXF_WRITE,
    FXP_CLOSE,
    FXP_EXTENDED,
    FXP_FSETSTAT,
    FXP_OPEN,
    FXP_READ,
    FXP_REMOVE,
    FXP_RENAME,
    FXP_SETSTAT,
    FXP_STAT,
    FXP_WRITE,
)
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.python.failure import Failure

from relayd.language.texts import Text
from relayd.ssh.files.orders import FileToRead, FileToWrite, ReadFile, beside
from relayd.ssh.files.packets import (
    CHUNK,
    NO_ATTRIBUTES,
    Answer,
    Attributes,
    Data,
    Handle,
    NotSFTP,
    Status,
    Version,
    name,
    permissions,
)
from relayd.ssh.files.sftp import SFTPChannel

#: Requests that are under way at a time.
_DEPTH: Final = 8
#: How often a server may give less of a file than it was asked for: /proc gives a page at a time.
_MOST_SHORT: Final = 20_000
_ONLY_USER: Final = 0o600
_FSYNC: Final = b"fsync@openssh.com"
_RENAME: Final = b"posix-rename@openssh.com"
NOT_REGULAR: Final = Text("it is no regular file")
OTHER_SUM: Final = Text("what arrived has another SHA-256 than the command says")
_T = TypeVar("_T")


class FileFailure(Exception):
    """
    One file could not be written.

    :ivar name: the file's, for people.
    :ivar reason: what the host said, or what was seen.
    """

    def __init__(self, name: str, reason: Text) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason


def _flags(flags: int) -> bytes:
    return struct.pack(">L", flags)


def _expected(answer: Answer, kind: type[_T]) -> _T | Status:
    """An answer of the kind that was asked for, or why there is none."""
    if isinstance(answer, kind) or (isinstance(answer, Status) and not answer.ok):
        return answer
    raise NotSFTP(Text("an answer of another kind than was asked for"))


async def _all(answers: Sequence[Deferred[Answer]]) -> list[Answer]:
    """Wait for all; raises what one failed with."""
    found: list[Answer] = []
    result: Answer | Failure
    for _, result in await DeferredList(answers, consumeErrors=True):
        if isinstance(result, Failure):
            result.raiseException()
        found.append(result)
    return found


class SFTPWriter:
    """
    Writes files.

    :ivar exact_mode: whether a file whose mode cannot be set is not written at all; Windows has no such modes.
    :ivar left: names that may be there, beside the goals.
    """

    def __init__(self, writes: Sequence[FileToWrite]) -> None:
        self._writes = writes
        self.exact_mode = True
        self.left: list[bytes] = []
        self._handle: bytes | None = None
        # An old file that has another name until the new one is in place: that name, and its own
        self._moved: tuple[bytes, bytes] | None = None

    async def work(self, channel: SFTPChannel, version: Version) -> None:
        """
        Write all of them.

        :raises FileFailure: when one could not be written.
        """
        beside_goals = []
        try:
            for file in self._writes:
                there = await self._look(channel, file)
                beside_goals.append((file, await self._write(channel, version, file), there))
            for file, path, there in beside_goals:
                await self._rename(channel, version, file, path, there)
                self.left.remove(path)
        except FileFailure:
            await self.clean(channel)
            raise

    def clean(self, channel: SFTPChannel) -> Deferred[Any]:
        """
        Have what was begun removed, and an old file put back.

        :return: fires when that is done. Before it is, the channel must not be finished: OpenSSH's server reads the end
            before it has done what came before that.
        """
        # Windows removes no file that is open.
        asked = [] if self._handle is None else [channel.ask(FXP_CLOSE, NS(self._handle))]
        if self._moved is not None:
            old, goal = self._moved
            asked.append(channel.ask(FXP_RENAME, name(old), name(goal)))
        asked += [channel.ask(FXP_REMOVE, name(path)) for path in self.left]
        self._handle, self._moved, self.left = None, None, []
        return DeferredList(asked, consumeErrors=True)

    async def _look(self, channel: SFTPChannel, file: FileToWrite) -> bool:
        """Whether there is a file already; a device, or a directory, is not replaced."""
        found = _expected(await channel.ask(FXP_STAT, name(file.path)), Attributes)
        if isinstance(found, Status):
            return False
        if found.mode is not None and not found.regular:
            raise FileFailure(file.name, NOT_REGULAR)
        return True

    async def _write(self, channel: SFTPChannel, version: Version, file: FileToWrite) -> bytes:
        path = beside(file.path)
        self.left.append(path)
        flags = FXF_WRITE | FXF_CREAT | FXF_EXCL | (FXF_READ if file.sha256 is not None else 0)
        opened = _expected(await channel.ask(FXP_OPEN, name(path), _flags(flags), permissions(_ONLY_USER)), Handle)
        if isinstance(opened, Status):
            self.left.remove(path)
            raise FileFailure(file.name, opened.text)
        handle = self._handle = opened.value
        field = NS(handle)
        # The mode comes first: at no time can somebody read the content who may not.
        answer = await channel.ask(FXP_FSETSTAT, field, permissions(file.mode))
        if isinstance(answer, Status) and answer.unsupported:  # as by Conch's server, for files that are open
            answer = await channel.ask(FXP_SETSTAT, name(path), permissions(file.mode))
        self._check(file, answer, lenient=not self.exact_mode)
        pieces = [(at, file.content[at : at + CHUNK]) for at in range(0, len(file.content), CHUNK)]
        for first in range(0, len(pieces), _DEPTH):
            some = pieces[first : first + _DEPTH]
            asked = [channel.ask(FXP_WRITE, field, struct.pack(">Q", at), NS(piece)) for at, piece in some]
            for answer in await _all(asked):
                self._check(file, answer)
        if file.sha256 is not None:
            content, error = await read_open(channel, handle, len(file.content))
            if error is not None:
                raise FileFailure(file.name, error)
            if sha256(content).hexdigest() != file.sha256:
                raise FileFailure(file.name, OTHER_SUM)
        if _FSYNC in version.extensions:
            self._check(file, await channel.ask(FXP_EXTENDED, NS(_FSYNC), field))
        self._handle = None
        self._check(file, await channel.ask(FXP_CLOSE, field))
        return path

    async def _rename(
        self, channel: SFTPChannel, version: Version, file: FileToWrite, path: bytes, there: bool
    ) -> None:
        if _RENAME in version.extensions:
            self._check(file, await channel.ask(FXP_EXTENDED, NS(_RENAME), name(path), name(file.path)))
            return
        # Version 3 has no word for a rename over a file that is there.
        answer = await channel.ask(FXP_RENAME, name(path), name(file.path))
        if not there or not isinstance(answer, Status) or answer.ok:
            self._check(file, answer)
            return
        old = beside(file.path)
        self._check(file, await channel.ask(FXP_RENAME, name(file.path), name(old)))
        self._moved = old, file.path
        self._check(file, await channel.ask(FXP_RENAME, name(path), name(file.path)))
        self._moved = None
        self.left.append(old)
        self._check(file, await channel.ask(FXP_REMOVE, name(old)))
        self.left.remove(old)

    @staticmethod
    def _check(file: FileToWrite, answer: Answer, *, lenient: bool = False) -> None:
        if not isinstance(answer, Status):
            raise NotSFTP(Text("an answer of another kind than was asked for"))
        if not answer.ok and not lenient:
            raise FileFailure(file.name, answer.text)


class SFTPReader:
    """
    Reads files.

    :param most: bytes of all together.
    :ivar found: what came of those that were looked at.
    """

    def __init__(self, reads: Sequence[FileToRead], most: int) -> None:
        self._reads = reads
        self._room = most
        self.found: list[ReadFile] = []

    async def work(self, channel: SFTPChannel, version: Version) -> None:
        """Read all of them; what is wrong with one is said in `found`."""
        for file in self._reads:
            read = await self._read(channel, file)
            self._room -= len(read.content or b"")
            self.found.append(read)

    def clean(self, channel: SFTPChannel) -> Deferred[Any]:
        """Nothing is left on the host."""
        return succeed(None)

    async def _read(self, channel: SFTPChannel, file: FileToRead) -> ReadFile:
        found = _expected(await channel.ask(FXP_STAT, name(file.path)), Attributes)
        if isinstance(found, Status):
            return ReadFile(name=file.name, error=found.text)
        if not found.regular:
            # To open a FIFO would wait for somebody to write into it.
            error = NOT_REGULAR if found.mode is not None else Text("the host does not say that it is a regular file")
            return ReadFile(name=file.name, error=error)
        opened = _expected(await channel.ask(FXP_OPEN, name(file.path), _flags(FXF_READ), NO_ATTRIBUTES), Handle)
        if isinstance(opened, Status):
            return ReadFile(name=file.name, size=found.size, error=opened.text)
        most = min(file.most, self._room)
        content, failure = await read_open(channel, opened.value, most)
        await channel.ask(FXP_CLOSE, NS(opened.value))
        size = max(found.size or 0, len(content))
        truncated = len(content) > most or failure is not None
        return ReadFile(name=file.name, size=size, content=content[:most], truncated=truncated, error=failure)


async def read_open(channel: SFTPChannel, handle: bytes, most: int) -> tuple[bytes, Text | None]:
    """
    Read an open file: up to *most* bytes, and one more if there is one.

    :return: what was read, and why not all of that could be.
    """
    content = bytearray()
    short = 0
    while len(content) <= most:
        at = len(content)
        sizes: list[int] = []
        while at + sum(sizes) <= most and len(sizes) < (1 if short else _DEPTH):
            sizes.append(min(CHUNK, most + 1 - at - sum(sizes)))
        asked = []
        for size in sizes:
            asked.append(channel.ask(FXP_READ, NS(handle), struct.pack(">QL", at, size)))
            at += size
        for size, answer in zip(sizes, await _all(asked), strict=True):
            piece = _expected(answer, Data)
            if isinstance(piece, Status):
                return bytes(content), None if piece.eof else piece.text
            if not piece.value:
                return bytes(content), None
            if len(piece.value) > size:
                raise NotSFTP(Text("more of a file than was asked for"))
            content += piece.value
            if len(piece.value) < size:
                short += 1  # what follows was asked for at another place
                break
        if short > _MOST_SHORT:
            return bytes(content), Text("the host gives it in too many small pieces")
    return bytes(content), None


class Sweep:
    """Removes names that were left when a channel was lost."""

    def __init__(self, left: Sequence[bytes]) -> None:
        self._left = left

    async def work(self, channel: SFTPChannel, version: Version) -> None:
        """Remove them, as far as they are there."""
        await _all([channel.ask(FXP_REMOVE, name(path)) for path in self._left])

    def clean(self, channel: SFTPChannel) -> Deferred[Any]:
        """There is nothing more to do."""
        return succeed(None)
