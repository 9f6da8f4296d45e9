"""
A log of the journal: a file to which batches of records are appended, each with a checksum, and how one is read.

docs/journal.rst describes the format, and what is made of a file that ends in the middle of a batch, or is damaged.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterator
from typing import Final
from zlib import crc32

import msgspec
from msgspec import Struct, field

from relayd.errors import JournalUnavailable
from relayd.journal.disk import Disk
from relayd.journal.records import AnyRecord, Batch, Changes, Finished, body_in
from relayd.language.texts import Text

#: The first bytes of each log.
MAGIC: Final = b"relayd-journal\r\n"
VERSION: Final = 1
#: Each copy of the header begins at a multiple of this: the smallest piece that a disk writes as a whole.
SECTOR: Final = 512
#: Where the first batch begins, behind two copies of the header.
BEGIN: Final = 2 * SECTOR
#: Bytes that the file system sets aside at a time: to write where nothing is set aside costs twice as much.
STEP: Final = 32 << 10

#: Bytes of a result from which on it is not copied into the rest of its batch; it has to have more than 64 KiB.
LONG: Final = 256 << 10
#: No bytes, and what comes before more than 64 KiB of them ("bin 8" and "bin 32" in the specification of msgpack).
_NO_BYTES: Final = b"\xc4\0"
_LONG_BYTES: Final = struct.Struct(">BI")

#: Magic, version, whether batches were synced one after the other, number of the log, salt.
_HEADER: Final = struct.Struct("<16sHHQ16s")
#: The marker is half the salt; then the length of what follows, the checksum, and the number of the batch.
_FRAME: Final = struct.Struct("<8sIIQ")
_CRC: Final = struct.Struct("<I")
#: What the checksum covers besides the content: a batch is valid at its own place only.
_PLACE: Final = struct.Struct("<QQI")
_SALT: Final = 16
#: Seconds since the epoch beyond which there is no time: the year 9999.
_END: Final = 253_402_300_800.0
_NAME: Final = re.compile(r"log\.([0-9]{8,})")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Batch).decode


def _encode_but_for_body(batch: Batch, last: Finished) -> bytes:
    """A batch up to the bytes of its last result, which are the last of all in msgpack."""
    records = [*batch.records[:-1], Finished(last.id, b"")]
    content = _encode(Batch(batch.at, batch.now, records))
    return content.removesuffix(_NO_BYTES) + _LONG_BYTES.pack(0xC6, len(last.body))


def log_name(number: int) -> str:
    """The name of a log's file."""
    return f"log.{number:08}"


def log_numbers(folder: str) -> list[int]:
    """The numbers of the logs in a folder, in order; a folder that cannot be read has none."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


class Header(Struct, frozen=True):
    """
    What a log says of itself.

    :ivar synced: whether each batch was on the disk before the next was written, unless somebody damaged the file.
    :ivar salt: random bytes that nobody outside knows, so that no output of a host passes for a batch.
    """

    number: int
    synced: bool
    salt: bytes

    @property
    def marker(self) -> bytes:
        """The first bytes of each batch."""
        return self.salt[:8]

    def to_bytes(self) -> bytes:
        """Both copies."""
        packed = _HEADER.pack(MAGIC, VERSION, self.synced, self.number, self.salt)
        return (packed + _CRC.pack(crc32(packed))).ljust(SECTOR, b"\0") * 2

    def checksum(self, place: int, batch: int, content: bytes | memoryview, body: bytes = b"") -> int:
        """The checksum of the batch with this number and content, which *body* ends, at this place."""
        checksum = crc32(content, crc32(_PLACE.pack(place, batch, len(content) + len(body)), crc32(self.salt)))
        return crc32(body, checksum) if body else checksum


def read_header(data: bytes) -> Header | None:
    """
    The header of a log; ``None``: neither copy is as relayd wrote it.

    :raises JournalUnavailable: when another version of relayd wrote the log.
    """
    for begin in (0, SECTOR):
        packed = data[begin : begin + _HEADER.size]
        checksum = data[begin + _HEADER.size : begin + _HEADER.size + _CRC.size]
        if len(checksum) == _CRC.size and _CRC.unpack(checksum)[0] == crc32(packed):
            magic, version, synced, number, salt = _HEADER.unpack(packed)
            if magic == MAGIC:
                if version != VERSION:
                    raise JournalUnavailable(
                        reason=Text("it was written by a newer version of relayd; install that one again")
                    )
                return Header(number, bool(synced), salt)
    return None


class LogContent(Struct):
    """
    What a log holds.

    :ivar changes: what its records come to.
    :ivar bodies: the results, by the id of the command and the place of the batch.
    :ivar damaged: whether something is missing that was on the disk: a batch cannot be read, and one that was written
        after it can.  A last batch that is not there as a whole is none: nobody was told that it was written.
    """

    changes: Changes
    damaged: bool = False
    bodies: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def body_of(self, command_id: str, place: int) -> bytes | None:
        """A result, by its place."""
        return self.bodies.get((command_id, place))


def read_log(data: bytes) -> LogContent:
    """
    Read all that can be read of a log.

    :param data: the whole file.
    :raises JournalUnavailable: when another version of relayd wrote it.
    """
    content = LogContent(Changes())
    header = read_header(data)
    if header is None:
        # It is written before anything else. A file with nothing in it was made by a relay that ended just then.
        content.damaged = bool(data[BEGIN:].strip(b"\0"))
        return content
    expected, last = BEGIN, 0
    for place, end, number, batch in _batches(data, header):
        content.damaged |= header.synced and (place != expected or number != last + 1)
        content.changes.add(batch, place)
        content.bodies.update(((each.id, place), each.body) for each in batch.records if isinstance(each, Finished))
        expected, last = end, number
    return content


def _batches(data: bytes, header: Header) -> Iterator[tuple[int, int, int, Batch]]:
    """Every valid batch, with its place, its end and its number."""
    view = memoryview(data)
    place = BEGIN
    while (place := data.find(header.marker, place)) >= 0:
        found = _batch_at(view[place:], place, header)
        if found is None:
            place += 1
        else:
            number, size, batch = found
            yield place, place + size, number, batch
            place += size


def _batch_at(view: memoryview, place: int, header: Header) -> tuple[int, int, Batch] | None:
    """The batch at the beginning of *view*, with its number and size; ``None``: there is none that is whole."""
    if len(view) < _FRAME.size:
        return None
    marker, length, checksum, number = _FRAME.unpack_from(view)
    content = view[_FRAME.size : _FRAME.size + length]
    if marker != header.marker or len(content) != length or checksum != header.checksum(place, number, content):
        return None
    try:
        batch = _decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    # Times that are no times are not relayd's, and would break whoever shows them.
    return (number, _FRAME.size + length, batch) if 0 <= batch.at < _END and 0 <= batch.now < _END else None


class Frame(Struct, frozen=True):
    """
    A batch, and the bytes that stand for it at its place.

    :ivar data: the bytes, but for *body*.
    :ivar body: the long result with which they end. It is not copied: no other thread could run meanwhile.
    :ivar size: how many bytes it takes.
    """

    batch: Batch
    data: bytes
    body: bytes
    size: int


class Log:
    """
    A log that is written.

    :param synced: whether each batch has to survive a loss of power, and not only the end of the process.
    :ivar changes: what its records come to.
    :ivar size: bytes in use.
    :raises OSError: when it cannot be made.
    """

    def __init__(self, folder: str, number: int, disk: Disk, *, synced: bool) -> None:
        self.number = number
        self.path = os.path.join(folder, log_name(number))
        self.changes = Changes()
        self._disk = disk
        self._header = Header(number, synced, os.urandom(_SALT))
        self._marker = self._header.marker
        self._batch = 0
        self.size = BEGIN
        self._dirty = False
        self._file = disk.create(self.path, durable=synced)
        try:
            self._allocated = 0
            self._make_room(BEGIN)
            disk.write(self._file, self._header.to_bytes(), 0)
            disk.sync(self._file)
            disk.sync_folder(folder)
        except BaseException:
            self.close()
            os.unlink(self.path)
            raise

    @property
    def is_there(self) -> bool:
        """Whether its file still has a name."""
        return os.fstat(self._file).st_nlink > 0

    def append(self, records: list[AnyRecord], at: float, now: float) -> None:
        """
        Write *records* as one batch: all of them are there after this, or none.

        :param at: the time, in seconds since the epoch.
        :param now: the journal's own time.
        :raises OSError: when that is not possible; nothing is written then.
        """
        frame = self.frame(records, at, now)
        self.write(frame)
        self.add(frame)

    def frame(self, records: list[AnyRecord], at: float, now: float) -> Frame:
        """The first step of `append`: what is to be written.  The others have to follow before the next one."""
        batch = Batch(at, now, records)
        last = records[-1] if records else None
        if type(last) is Finished and len(last.body) > LONG:
            content, body = _encode_but_for_body(batch, last), last.body
        else:
            content, body = _encode(batch), b""
        checksum = self._header.checksum(self.size, self._batch + 1, content, body)
        head = _FRAME.pack(self._marker, len(content) + len(body), checksum, self._batch + 1)
        data = head + content
        return Frame(batch, data, body, len(data) + len(body))

    def write(self, frame: Frame) -> None:
        """
        The second step of `append`, and the only one that uses the disk.

        :raises OSError: when that is not possible; nothing is written then.
        """
        if self._dirty:
            self._cut()
        if self.size + frame.size > self._allocated:
            self._make_room(frame.size)
        try:
            self._disk.write(self._file, frame.data, self.size)
            if frame.body:
                self._disk.write(self._file, frame.body, self.size + len(frame.data))
        except BaseException:
            self._dirty = True
            self._cut()
            raise

    def add(self, frame: Frame) -> None:
        """The third step of `append`: it is written."""
        self.changes.add(frame.batch, self.size)
        self._batch += 1
        self.size += frame.size

    def _make_room(self, size: int) -> None:
        """Have the file system set aside room: a step, or on a disk that is nearly full as much as is needed."""
        missing = max(self.size + size - self._allocated, 0)
        for step in (max(missing, STEP), missing):
            try:
                self._disk.allocate(self._file, self._allocated, step)
            except OSError as error:
                if step == missing or error.errno != errno.ENOSPC:
                    raise
            else:
                self._allocated += step
                return

    def _cut(self) -> None:
        """Remove what a failed `append` may have left: its caller was told that it is not there."""
        self._disk.truncate(self._file, self.size)
        self._allocated = self.size
        self._disk.sync(self._file)
        self._dirty = False

    def read(self, place: int) -> list[AnyRecord]:
        """
        The records that were written together at *place*.

        :raises JournalUnavailable: when they cannot be read any more.
        """
        head = os.pread(self._file, _FRAME.size, place)
        if len(head) == _FRAME.size:
            frame = os.pread(self._file, _FRAME.size + _FRAME.unpack(head)[1], place)
            if (found := _batch_at(memoryview(frame), place, self._header)) is not None:
                return found[2].records
        raise JournalUnavailable(reason=Text("its file is damaged: a result is not as relayd wrote it"))

    def body_of(self, command_id: str, place: int) -> bytes | None:
        """A result, by its place; ``None``: it cannot be read any more."""
        try:
            return body_in(self.read(place), command_id)
        except (OSError, JournalUnavailable):
            return None

    def close(self) -> None:
        """Close the file, and leave it where it is."""
        os.close(self._file)
