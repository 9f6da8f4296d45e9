"""
SFTP servers that break the rules: no command runs beside files that are not in place, and each ends in time.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar

from twisted.conch.ssh.common import NS, getNS

from relayd.ssh import Completed
from relayd.ssh.errors import FileNotWritten, FilesUnsupported, SessionTimeout
from relayd.ssh.files import by_sftp
from relayd.ssh.files.orders import FileOrders, FileToRead, FileToWrite
from tests.support.evil import CHANNEL_DATA, CHANNEL_REQUEST, Evil, EvilTestCase, uint32
from tests.support.ssh import DEADLINE

SOON = 3.0
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
OPEN, STAT, READ, SETSTAT, FSETSTAT, REMOVE, RENAME = 3, 17, 5, 9, 10, 13, 18
NO_SUCH_FILE, FAILURE, UNSUPPORTED = 2, 4, 8
ATTRIBUTES = uint32(0x4, 0o100644)


def packet(kind: int, data: bytes) -> bytes:
    return struct.pack(">LB", len(data) + 1, kind) + data


class SFTP(Evil):
    """Does all that it is asked, on one channel."""

    held = packet = b""

    def channel_message(self, message: int, channel: int, rest: bytes) -> None:
        if message == CHANNEL_REQUEST and getNS(rest)[0] == b"subsystem":
            self.subsystem_requested(channel)
        elif message == CHANNEL_DATA:
            self.held += getNS(rest)[0]
            while len(self.held) >= 4 and len(self.held) >= 4 + (length := struct.unpack(">L", self.held[:4])[0]):
                asked, self.held = self.held[4 : 4 + length], self.held[4 + length :]
                self.packet = asked
                if asked[0] == 1:
                    self.version_asked(channel)
                else:
                    self.asked(channel, asked[0], struct.unpack(">L", asked[1:5])[0])

    def subsystem_requested(self, channel: int) -> None:
        self.held = b""
        self.accept(channel)

    def version_asked(self, channel: int) -> None:
        self.output(channel, packet(2, uint32(3)))

    def asked(self, channel: int, kind: int, number: int) -> None:
        if kind == OPEN:
            self.output(channel, packet(HANDLE, uint32(number) + NS(b"h")))
        elif kind == STAT:
            self.output(channel, packet(ATTRS, uint32(number) + ATTRIBUTES))
        else:
            self.output(channel, packet(STATUS, uint32(number, 0) + NS(b"") + NS(b"")))


class Welcomes(SFTP):
    def version_asked(self, channel: int) -> None:
        self.output(channel, b"Welcome to this machine!\r\n")


class OldVersion(SFTP):
    def version_asked(self, channel: int) -> None:
        self.output(channel, packet(2, uint32(2)))


class CutVersion(SFTP):
    def version_asked(self, channel: int) -> None:
        self.output(channel, packet(2, uint32(3, 500) + b"x"))


class HugeLength(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        self.output(channel, uint32(0xFFFFFFFF) + b"x" * 1000)


class EmptyPacket(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        self.output(channel, uint32(0))


class ShortPacket(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        self.output(channel, packet(STATUS, b"\0"))


class WrongNumber(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        super().asked(channel, kind, number + 7)


class AnswersTwice(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        super().asked(channel, kind, number)
        super().asked(channel, kind, number)


class OtherKind(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        self.output(channel, packet(DATA, uint32(number) + NS(b"x")))


class LongHandle(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        if kind != OPEN:
            return super().asked(channel, kind, number)
        self.output(channel, packet(HANDLE, uint32(number) + NS(b"x" * 5000)))


class EndlessNames(SFTP):
    """Lists a directory that nobody asked for, for ever."""

    def asked(self, channel: int, kind: int, number: int) -> None:
        self.flood(lambda: self.output(channel, packet(NAME, uint32(number, 9) + (NS(b"x") + NS(b"x") + bytes(4)) * 9)))


class RefusesInOddWords(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        self.output(channel, packet(STATUS, uint32(number, 4) + NS(b"\x1b[31m\xff\xfe no\n" * 500) + NS(b"")))


class SilentAfterVersion(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        pass


class SilentAfterSubsystem(SFTP):
    def version_asked(self, channel: int) -> None:
        pass


class NoAnswerToSubsystem(SFTP):
    def subsystem_requested(self, channel: int) -> None:
        pass


class Closes(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        self.close_channel(channel)


class GivesTooMuch(SFTP):
    """More of a file than it was asked for."""

    def asked(self, channel: int, kind: int, number: int) -> None:
        if kind != READ:
            return super().asked(channel, kind, number)
        self.output(channel, packet(DATA, uint32(number) + NS(b"x" * 32_000)))


class GivesOneByte(SFTP):
    """For ever."""

    def asked(self, channel: int, kind: int, number: int) -> None:
        if kind != READ:
            return super().asked(channel, kind, number)
        self.output(channel, packet(DATA, uint32(number) + NS(b"x")))


class SilentReader(SFTP):
    def asked(self, channel: int, kind: int, number: int) -> None:
        if kind != READ:
            super().asked(channel, kind, number)


class RenamesOverNothing(SFTP):
    """Has no extensions, and renames no file to a name that is taken, as version 3 has it."""

    taken: ClassVar[bool]
    requests: ClassVar[list[tuple[int, bytes]]]

    def asked(self, channel: int, kind: int, number: int) -> None:
        path = getNS(self.packet[5:])[0]
        self.requests.append((kind, path))
        if kind in (REMOVE, RENAME) and path == b"/x":
            type(self).taken = False
        if (kind == RENAME and self.taken) or (kind == STAT and not self.taken):
            code = FAILURE if kind == RENAME else NO_SUCH_FILE
            self.output(channel, packet(STATUS, uint32(number, code) + NS(b"") + NS(b"")))
        else:
            super().asked(channel, kind, number)


class RenamesNothing(RenamesOverNothing):
    def asked(self, channel: int, kind: int, number: int) -> None:
        if kind != RENAME:
            return super().asked(channel, kind, number)
        self.requests.append((kind, getNS(self.packet[5:])[0]))
        self.output(channel, packet(STATUS, uint32(number, FAILURE) + NS(b"") + NS(b"")))


class TakesNothingNew(RenamesOverNothing):
    """Refuses to give the new file its name, and gives the old one its name again."""

    def asked(self, channel: int, kind: int, number: int) -> None:
        if kind != RENAME or getNS(self.packet[5:])[0] == b"/x" or self.new_files() == 2:
            return super().asked(channel, kind, number)
        self.requests.append((kind, getNS(self.packet[5:])[0]))
        self.output(channel, packet(STATUS, uint32(number, FAILURE) + NS(b"") + NS(b"")))

    def new_files(self) -> int:
        """How often it was to give one its name."""
        return sum(kind == RENAME and path != b"/x" for kind, path in self.requests)


class NoModeOfOpenFiles(RenamesOverNothing):
    """As the files of Conch's server."""

    def asked(self, channel: int, kind: int, number: int) -> None:
        if kind != FSETSTAT:
            return super().asked(channel, kind, number)
        self.output(channel, packet(STATUS, uint32(number, UNSUPPORTED) + NS(b"") + NS(b"")))


class FallbackTests(EvilTestCase):
    """Servers that keep the rules, and do less than OpenSSH's."""

    orders = FileOrders(writes=(FileToWrite(path=b"/x", name="/x", content=b"x", mode=0o640),), posix=False)

    def run_command(self, client: Any, target: Any, command: str, timeout: float | None = None) -> Any:
        files = None if timeout is None else self.orders
        return client.run(target, command.encode(), self.reactor.seconds() + DEADLINE, files=files)

    async def outcome(self, kind: type[RenamesOverNothing], *, taken: bool) -> tuple[Any, list[tuple[int, bool]]]:
        """What came of the command, and the renames, removals and modes by path: whether it is that of the goal."""
        kind.taken, kind.requests = taken, []
        (outcome,) = await self.outcomes(kind)
        asked = [(kind, path == b"/x") for kind, path in kind.requests if kind in (RENAME, REMOVE, SETSTAT)]
        return outcome, asked

    async def test_rename_over_a_file(self) -> None:
        """The old one is moved away first, and only when there is one; it is removed when the new one is in place."""
        done, asked = await self.outcome(RenamesOverNothing, taken=True)
        self.assertEqual((done.error, done.stdout.text()), (None, "ok"))
        self.assertEqual(asked, [(RENAME, False), (RENAME, True), (RENAME, False), (REMOVE, False)])
        done, asked = await self.outcome(RenamesOverNothing, taken=False)
        self.assertEqual((done.error, done.stdout.text()), (None, "ok"))
        self.assertEqual(asked, [(RENAME, False)])

    async def test_rename_that_fails(self) -> None:
        """What was written beside the goal is removed, and the old file is not; the command does not run."""
        moved_back = [(RENAME, False), (RENAME, True), (RENAME, False), (RENAME, False)]
        for kind, taken, expected in (
            (RenamesNothing, True, [(RENAME, False), (RENAME, True)]),
            (RenamesNothing, False, [(RENAME, False)]),
            (TakesNothingNew, True, moved_back),
        ):
            error, asked = await self.outcome(kind, taken=taken)
            self.assertEqual((type(error), error.executed), (FileNotWritten, "no"))
            self.assertEqual(asked, [*expected, (REMOVE, False)])

    async def test_mode_by_path(self) -> None:
        done, asked = await self.outcome(NoModeOfOpenFiles, taken=False)
        self.assertEqual((done.error, done.stdout.text()), (None, "ok"))
        self.assertEqual(asked, [(SETSTAT, False), (RENAME, False)])


class WriteTests(EvilTestCase):
    """Before the command."""

    orders = FileOrders(writes=(FileToWrite(path=b"/x", name="/x", content=b"x" * 100_000, mode=0o600),), posix=False)

    def run_command(self, client: Any, target: Any, command: str, timeout: float | None = None) -> Any:
        # Without a time it is for the good host.
        files, seconds = (None, DEADLINE) if timeout is None else (self.orders, timeout)
        return client.run(target, command.encode(), self.reactor.seconds() + seconds, files=files)

    async def test_they_are_told_from_sftp(self) -> None:
        self.patch(by_sftp, "_RENAME", b"none")
        unfit = FilesUnsupported
        await self.check_errors(
            {
                Welcomes: (unfit, "in place of SFTP"),
                OldVersion: (unfit, "version 2"),
                CutVersion: (unfit, "cut short"),
                HugeLength: (unfit, "4294967295 bytes"),
                EmptyPacket: (unfit, "packet of 0 bytes"),
                ShortPacket: (unfit, "cut short"),
                WrongNumber: (unfit, "not asked"),
                AnswersTwice: (unfit, "not asked"),
                OtherKind: (unfit, "another kind"),
                LongHandle: (unfit, "handle of 5000 bytes"),
                EndlessNames: (unfit, "not asked"),
                RefusesInOddWords: (FileNotWritten, "the host said"),
                Closes: (unfit, "ended before"),
            }
        )

    async def test_silence(self) -> None:
        await self.check_errors(
            {
                kind: (SessionTimeout, "files were not in place")
                for kind in (SilentAfterVersion, SilentAfterSubsystem, NoAnswerToSubsystem)
            },
            timeout=SOON,
        )

    async def test_a_good_one(self) -> None:
        (done,) = await self.outcomes(SFTP)
        assert isinstance(done, Completed), done
        self.assertEqual((done.error, done.stdout.text()), (None, "ok"))


class ReadTests(WriteTests):
    """After the command, which is not touched by it."""

    orders = FileOrders(reads=(FileToRead(path=b"/x", name="/x", most=10_000),), posix=False)

    async def test_they_are_told_from_sftp(self) -> None:
        self.patch(by_sftp, "_MOST_SHORT", 50)
        words = {
            HugeLength: "4294967295",
            WrongNumber: "not asked",
            OtherKind: "another kind",
            EndlessNames: "not asked",
            RefusesInOddWords: "the host said",
            Closes: "ended before",
            GivesTooMuch: "more of a file",
            GivesOneByte: "small pieces",
        }
        for kind, done in zip(words, await self.outcomes(*words), strict=True):
            assert isinstance(done, Completed), (kind, done)
            self.assertEqual((done.error, done.stdout.text()), (None, "ok"), kind)
            self.assertIn(words[kind], str(done.read[0].error), kind)

    async def test_silence(self) -> None:
        (done,) = await self.outcomes(SilentReader, timeout=SOON)
        assert isinstance(done, Completed), done
        self.assertEqual((done.error, done.stdout.text()), (None, "ok"))
        self.assertIn("time of the command was over", str(done.read[0].error))
