"""
Servers that let the client in and then break the rules: each command ends in time, none is taken for a success.
"""

from __future__ import annotations

from twisted.conch.ssh.common import NS

from relayd.ssh import Completed
from relayd.ssh.errors import (
    ConnectionLost,
    ExecRefused,
    NoExitStatus,
    OutcomeUnknown,
    RunTimeout,
    SessionRefused,
    SessionTimeout,
)
from tests.support.evil import (
    CHANNEL_CLOSE,
    CHANNEL_DATA,
    CHANNEL_EOF,
    CHANNEL_FAILURE,
    CHANNEL_OPEN,
    CHANNEL_REQUEST,
    EXTENDED_DATA,
    GLOBAL_REQUEST,
    OPEN_FAILURE,
    WINDOW_ADJUST,
    Evil,
    EvilServer,
    EvilTestCase,
    repeated,
    uint32,
)

#: Seconds for a command that can only run out of time.
SOON = 3.0
DISCONNECT, IGNORE, DEBUG, KEXINIT = 1, 2, 4, 20


class NoAnswerToOpen(Evil):
    def channel_requested(self, channel: int) -> None:
        pass


class NoAnswerToExec(Evil):
    def command_requested(self, channel: int) -> None:
        pass


class NeverCloses(Evil):
    """Says how the command ended, and keeps its channel open."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.output(channel, b"output")
        self.status(channel, 0)


class NeverClosesAfterEOF(NeverCloses):
    def command_requested(self, channel: int) -> None:
        super().command_requested(channel)
        self.sendPacket(CHANNEL_EOF, uint32(channel))


class DropsAfterStatus(NeverCloses):
    def command_requested(self, channel: int) -> None:
        super().command_requested(channel)
        self.transport.loseConnection()


class EmptyData(Evil):
    """Sends data packets without data, for ever."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        write = repeated((CHANNEL_DATA, uint32(channel) + NS(b"")))
        self.flood(lambda: write(self))


class EndlessOutput(Evil):
    """Does not care about the window."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        write = repeated((CHANNEL_DATA, uint32(channel) + NS(b"y\n" * 16_000)))
        self.flood(lambda: write(self))


class EndlessProbes(Evil):
    """Asks for answers, and reads none."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.transport.pauseProducing()
        write = repeated((GLOBAL_REQUEST, NS(b"keepalive@openssh.com") + b"\1"))
        self.flood(lambda: write(self))


class EndlessIgnore(Evil):
    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        write = repeated((IGNORE, NS(bytes(1000))))
        self.flood(lambda: write(self))


class EndlessUnknownMessages(Evil):
    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.transport.pauseProducing()
        write = repeated((19, b""))
        self.flood(lambda: write(self))


class EndlessKeyExchange(Evil):
    """Begins to renew the keys as soon as they are new."""

    again = False

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        if not self.again:
            self.again = True
            self.sendKexInit()

    def secured(self) -> None:
        if self.again:
            self.sendKexInit()


class TimeoutTests(EvilTestCase):
    """What does not end is ended by the command's deadline."""

    async def test_time_runs_out(self) -> None:
        await self.check_errors(
            {
                NoAnswerToOpen: (SessionTimeout, "the host did not open a session"),
                NoAnswerToExec: (RunTimeout, "timed out after 3 s"),
            },
            timeout=SOON,
        )

    async def test_what_was_known_of_the_end_is_in_the_result(self) -> None:
        outcomes = await self.outcomes(NeverCloses, NeverClosesAfterEOF, DropsAfterStatus, timeout=SOON)
        for outcome, words in zip(outcomes, ("left running", "", "connection was lost"), strict=True):
            assert isinstance(outcome, Completed)
            self.assertEqual((outcome.stdout.text(), outcome.exit.status, outcome.error), ("output", 0, None))
            self.assertIn(words, outcome.open or "")
            self.assertEqual(outcome.open is None, not words)

    async def test_floods(self) -> None:
        expected = dict.fromkeys((EmptyData, EndlessIgnore), (RunTimeout, "timed out after 3 s"))
        await self.check_errors(expected, timeout=SOON, max_output=1 << 16)
        # The window is full before the time is over, or it is not: relayd reads what comes as slowly as it costs.
        (outcome,) = await self.outcomes(EndlessOutput, timeout=SOON, max_output=1 << 16)
        error = outcome.error if isinstance(outcome, Completed) else outcome
        self.assertIsInstance(error, (RunTimeout, OutcomeUnknown))
        self.assertRegex(str(error), "timed out after 3 s|it sent more data than it may send")

    async def test_requests_without_end(self) -> None:
        # Whoever reads no answers would fill the relay's memory with them, for as long as its command may run.
        too_many = (OutcomeUnknown, "it sent more requests than any server needs")
        new_keys = (OutcomeUnknown, "it sent too many requests for new keys")
        expected = {EndlessProbes: too_many, EndlessUnknownMessages: too_many, EndlessKeyExchange: new_keys}
        await self.check_errors(expected)


class ClosesInsteadOfOpening(Evil):
    def channel_requested(self, channel: int) -> None:
        self.transport.loseConnection()


class RefusesSessions(Evil):
    def channel_requested(self, channel: int) -> None:
        self.sendPacket(OPEN_FAILURE, uint32(channel, 1) + NS(b"not \x07 for you") + NS(b""))


class RefusesCommands(Evil):
    def command_requested(self, channel: int) -> None:
        self.sendPacket(CHANNEL_FAILURE, uint32(channel))
        self.sendPacket(CHANNEL_CLOSE, uint32(channel))


class ClosesChannelBeforeExec(Evil):
    """Opens a channel, and closes it before the command can be there."""

    def channel_requested(self, channel: int) -> None:
        self.in_one_segment(lambda: (self.confirm(channel), self.sendPacket(CHANNEL_CLOSE, uint32(channel))))


class DropsAfterOpen(Evil):
    def channel_requested(self, channel: int) -> None:
        self.confirm(channel)
        self.transport.loseConnection()


class NoStatus(Evil):
    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.output(channel, b"half")
        self.sendPacket(CHANNEL_EOF, uint32(channel))
        self.sendPacket(CHANNEL_CLOSE, uint32(channel))


class UnknownChannel(Evil):
    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.output(channel + 7, b"for nobody")
        self.end(channel)


class ConfirmsTwice(Evil):
    def command_requested(self, channel: int) -> None:
        self.confirm(channel)
        self.end(channel)


class RefusesWhatRuns(Evil):
    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.sendPacket(OPEN_FAILURE, uint32(channel, 4) + NS(b"no more") + NS(b""))
        self.end(channel)


class TruncatedPacket(Evil):
    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.sendPacket(CHANNEL_DATA, b"\0")


class GarbageInOutput(Evil):
    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.output(channel, b"half")
        self.transport.write(b"\xa5" * 1000)


class SecondKEXINIT(Evil):
    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.sendKexInit()
        self.sendPacket(29, b"")  # allowed for now
        self._keyExchangeState = self._KEY_EXCHANGE_NONE
        self.sendKexInit()


class SaysGoodByeInOutput(Evil):
    """Disconnects in the middle of a command, and goes on talking in the same breath."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.in_one_segment(lambda: self._talk(channel))

    def _talk(self, channel: int) -> None:
        self.output(channel, b"half")
        self.sendPacket(DISCONNECT, uint32(11) + NS(b"shutting down") + NS(b""))
        self.output(channel, b" and more")
        self.end(channel)


class SaysGoodByeAtOpen(Evil):
    """Disconnects, and opens the channel after that: a command sent on it would be lost."""

    def channel_requested(self, channel: int) -> None:
        self.in_one_segment(lambda: self._talk(channel))

    def _talk(self, channel: int) -> None:
        self.sendPacket(DISCONNECT, uint32(11) + NS(b"shutting down") + NS(b""))
        self.confirm(channel)


class BreachTests(EvilTestCase):
    """What is not over well is never called a success."""

    async def test_ends(self) -> None:
        await self.check_errors(
            {
                ClosesInsteadOfOpening: (ConnectionLost, "before the command was started"),
                RefusesSessions: (SessionRefused, "not ? for you"),
                RefusesCommands: (ExecRefused, "refuses to run commands"),
                ClosesChannelBeforeExec: (NoExitStatus, "without an exit status"),
                NoStatus: (NoExitStatus, "without an exit status"),
                DropsAfterOpen: (OutcomeUnknown, "while the command ran"),
            }
        )

    async def test_breaches(self) -> None:
        await self.check_errors(
            {
                UnknownChannel: (
                    OutcomeUnknown,
                    "while the command ran: it sent a packet for a channel that is not open",
                ),
                ConfirmsTwice: (OutcomeUnknown, "ran: it sent an answer for a channel that is not being opened"),
                RefusesWhatRuns: (OutcomeUnknown, "ran: it sent an answer for a channel that is not being opened"),
                TruncatedPacket: (OutcomeUnknown, "while the command ran: it sent a malformed packet"),
                GarbageInOutput: (OutcomeUnknown, "while the command ran: it sent a packet with a bad"),
                SecondKEXINIT: (OutcomeUnknown, "while the command ran: it sent a second KEXINIT"),
            }
        )

    async def test_what_comes_after_a_good_bye_does_not_count(self) -> None:
        (running, opening) = await self.outcomes(SaysGoodByeInOutput, SaysGoodByeAtOpen)
        assert isinstance(running, Completed)
        self.assertIsInstance(running.error, OutcomeUnknown)
        self.assertEqual((running.stdout.text(), running.exit.known), ("half", False))
        self.assertIsInstance(opening, ConnectionLost)  # it was certainly not run
        self.assertIn("shutting down", str(opening))


class NoWindow(Evil):
    """Never takes a byte of standard input; a command without any needs none."""

    def channel_requested(self, channel: int) -> None:
        self.confirm(channel, window=0, max_packet=0)


class WindowBeyondAllBounds(Evil):
    def command_requested(self, channel: int) -> None:
        for _ in range(3):
            self.sendPacket(WINDOW_ADJUST, uint32(channel, 2**32 - 1))
        super().command_requested(channel)


class AsksForThings(Evil):
    """Asks for channels, forwarded ports and terminals of its own."""

    def command_requested(self, channel: int) -> None:
        for kind in (b"session", b"x11", b"auth-agent@openssh.com", b"forwarded-tcpip"):
            self.sendPacket(CHANNEL_OPEN, NS(kind) + uint32(5, 2**21, 32768) + NS(b"127.0.0.1") * 2)
        for name in (b"hostkeys-00@openssh.com", b"tcpip-forward", b""):
            self.sendPacket(GLOBAL_REQUEST, NS(name) + b"\1" + bytes(8))
        for name in (b"exec", b"shell", b"pty-req", b"keepalive@openssh.com"):
            self.sendPacket(CHANNEL_REQUEST, uint32(channel) + NS(name) + b"\1" + NS(b"id"))
        super().command_requested(channel)


class UnknownStream(Evil):
    """Output that is neither stdout nor stderr belongs to neither."""

    def command_requested(self, channel: int) -> None:
        self.sendPacket(EXTENDED_DATA, uint32(channel, 99) + NS(b"something else"))
        super().command_requested(channel)


class TalksAfterClose(Evil):
    """The command has ended by then."""

    def command_requested(self, channel: int) -> None:
        self.in_one_segment(lambda: self._talk(channel))

    def _talk(self, channel: int) -> None:
        super().command_requested(channel)
        self.output(channel, b"more")
        self.status(channel, 7)


class TalksAfterEOF(Evil):
    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.sendPacket(CHANNEL_EOF, uint32(channel))
        self.output(channel, b"ok")
        self.end(channel)


class AnswersLate(Evil):
    """Answers ``exec`` when the command is over already, as servers made with paramiko may do."""

    def command_requested(self, channel: int) -> None:
        self.in_one_segment(lambda: self._talk(channel))

    def _talk(self, channel: int) -> None:
        self.output(channel, b"ok")
        self.end(channel)
        self.accept(channel)
        self.sendPacket(WINDOW_ADJUST, uint32(channel, 1000))
        self.sendPacket(CHANNEL_FAILURE, uint32(channel))
        self.status(channel, 9)


class HarmlessTests(EvilTestCase):
    """What a client can well do without, or answer with no."""

    async def test_a_late_answer_does_not_end_the_connection(self) -> None:
        server = EvilServer(self.reactor, AnswersLate)
        self.addCleanup(server.stop)
        client = self.make_client(host_keys="ignore")
        for _ in range(3):
            done = await self.run_command(client, server.target, "true")
            self.assertEqual((done.stdout.text(), done.exit.status, done.error), ("ok", 0, None))
        self.assertEqual(server.accepted, 1)
        await client.close()
        await self.until(lambda: not server.connections, "the connection is closed")

    async def test_commands_run_all_the_same(self) -> None:
        kinds = (NoWindow, WindowBeyondAllBounds, AsksForThings, UnknownStream, TalksAfterClose, TalksAfterEOF)
        for kind, outcome in zip(kinds, await self.outcomes(*kinds), strict=True):
            assert isinstance(outcome, Completed), (kind, outcome)
            found = (outcome.stdout.text(), outcome.stderr.text(), outcome.exit.status, outcome.error)
            self.assertEqual(found, ("ok", "", 0, None), kind)
