"""
Servers that never say how a command ended, as power strips and old appliances do.
"""

from __future__ import annotations

from twisted.conch.ssh.common import NS

from relayd.ssh import Completed
from relayd.ssh.errors import NoExitStatus, OutcomeUnknown
from tests.ssh.hostile.test_sessions import ClosesChannelBeforeExec, NoStatus
from tests.support.evil import CHANNEL_CLOSE, CHANNEL_EOF, CHANNEL_REQUEST, Evil, EvilTestCase, uint32

ALL = ("127.0.0.1",)


class OnlyCloses(Evil):
    """Without the end of output before."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.output(channel, b"half")
        self.sendPacket(CHANNEL_CLOSE, uint32(channel))


class HangsUp(Evil):
    """Ends the connection instead of the channel."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.output(channel, b"half")
        self.sendPacket(CHANNEL_EOF, uint32(channel))
        self.transport.loseConnection()


class AcceptsNothing(Evil):
    """Closes the channel without an answer to the request."""

    def command_requested(self, channel: int) -> None:
        self.sendPacket(CHANNEL_CLOSE, uint32(channel))


class OtherStatus(Evil):
    """Says it all the same."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.status(channel, 3)
        self.sendPacket(CHANNEL_CLOSE, uint32(channel))


class HalfAStatus(Evil):
    """Sends less than a number."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        for half in (b"", b"\0\0"):
            self.sendPacket(CHANNEL_REQUEST, uint32(channel) + NS(b"exit-status") + b"\0" + half)
        self.sendPacket(CHANNEL_CLOSE, uint32(channel))


class SignalAndStatus(Evil):
    """Says that the command was killed, and that it went well."""

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        signal = NS(b"exit-signal") + b"\0" + NS(b"KILL") + b"\0" + NS(b"") * 2
        self.sendPacket(CHANNEL_REQUEST, uint32(channel) + signal)
        self.end(channel)


class NoStatusTests(EvilTestCase):
    """One command on each."""

    async def test_success_where_the_site_says_so(self) -> None:
        outcomes = await self.outcomes(NoStatus, OnlyCloses, no_exit_status_hosts=ALL)
        for outcome in outcomes:
            assert isinstance(outcome, Completed)
            self.assertEqual((outcome.exit.exit_code, outcome.error, outcome.open), (0, None, None))
            self.assertEqual(outcome.stdout.text(), "half")

    async def test_not_for_others(self) -> None:
        for hosts in ((), ("10.0.0.0/8",), ("*", "127.*", "!127.0.0.1"), ("[127.0.0.1]:1",)):
            expected = dict.fromkeys((NoStatus, OnlyCloses), (NoExitStatus, "without an exit status"))
            await self.check_errors(expected, no_exit_status_hosts=hosts)

    async def test_only_what_ended_in_good_order(self) -> None:
        no_status = (NoExitStatus, "without an exit status")
        expected = {HangsUp: (OutcomeUnknown, "connection"), AcceptsNothing: no_status}
        await self.check_errors({**expected, ClosesChannelBeforeExec: no_status}, no_exit_status_hosts=ALL)

    async def test_status_that_is_told(self) -> None:
        (outcome,) = await self.outcomes(OtherStatus, no_exit_status_hosts=ALL)
        assert isinstance(outcome, Completed)
        self.assertEqual(outcome.exit.status, 3)

    async def test_half_a_status(self) -> None:
        """Is none: not 0, which would be success."""
        await self.check_errors({HalfAStatus: (NoExitStatus, "without an exit status")})

    async def test_signal_and_status(self) -> None:
        (outcome,) = await self.outcomes(SignalAndStatus)
        assert isinstance(outcome, Completed)
        self.assertEqual((outcome.exit.signal, outcome.exit.exit_code), ("KILL", 137))
