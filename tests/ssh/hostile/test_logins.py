"""
Servers that are slow, broken or hostile before and during the login: each ends with one error that names the phase.
"""

from __future__ import annotations

from typing import Any

from twisted.conch.ssh.common import NS

from relayd.ssh.errors import (
    ConnectionDropped,
    KeyExchangeFailed,
    KeyExchangeTimeout,
    LoginDropped,
    LoginRefused,
    LoginTimeout,
    NotSSH,
    PasswordExpired,
    ProtocolBroken,
)
from tests.support.evil import (
    USERAUTH_BANNER,
    USERAUTH_FAILURE,
    USERAUTH_INFO_REQUEST,
    Evil,
    EvilTestCase,
    plain_packet,
    repeated,
    uint32,
)

#: Seconds for each step of a connection, where the time has to run out.
SOON = 2.0
IGNORE, UNIMPLEMENTED, DEBUG = 2, 3, 4


class Deaf(Evil):
    """Does not listen."""

    def dataReceived(self, data: bytes) -> None:
        pass


class Silent(Deaf):
    """Says nothing at all."""

    def begin(self) -> None:
        pass


class SilentAfterVersion(Deaf):
    def begin(self) -> None:
        self.transport.write(b"SSH-2.0-Silent\r\n")


class SilentAfterKEXINIT(Deaf):
    pass


class SilentAfterNEWKEYS(Evil):
    def service_requested(self, name: bytes) -> None:
        pass


class SilentAfterServiceAccept(Evil):
    def login_requested(self, method: bytes) -> None:
        pass


class Dripping(Deaf):
    """Sends a byte of its version now and then: no step may take longer for that."""

    def begin(self) -> None:
        from twisted.internet import reactor
        from twisted.internet.task import LoopingCall

        drops = iter(b"SSH-2.0-" + b"x" * 1000)
        self._loop = LoopingCall(lambda: self.transport.write(bytes([next(drops)])))
        self._loop.clock = reactor
        self._loop.start(0.1)

    def connectionLost(self, reason: Any = None) -> None:
        self._loop.stop()
        super().connectionLost(reason)


class SilenceTests(EvilTestCase):
    """A server that goes silent, or that is busy with something else for ever."""

    async def test_silence(self) -> None:
        await self.check_errors(
            {
                Silent: (KeyExchangeTimeout, "within 2 s: it said nothing."),
                SilentAfterVersion: (KeyExchangeTimeout, "within 2 s: its version is SSH-2.0-"),
                SilentAfterKEXINIT: (KeyExchangeTimeout, "within 2 s: its version is SSH-2.0-"),
                Dripping: (KeyExchangeTimeout, "within 2 s: it said “SSH-2.0-xxx"),
                SilentAfterNEWKEYS: (LoginTimeout, "login of somebody within 2 s: it said nothing."),
                SilentAfterServiceAccept: (LoginTimeout, "login of somebody within 2 s"),
            },
            connect_timeout=SOON,
        )

    async def test_talk_without_end(self) -> None:
        await self.check_errors(
            {
                EndlessLines: (NotSSH, "220 mail.example"),
                EndlessLine: (NotSSH, "without a version"),
                IgnoreBeforeKEXINIT: (KeyExchangeTimeout, "within 2 s"),
                DebugBeforeTheLogin: (LoginTimeout, "within 2 s"),
                BannersBeforeTheLogin: (LoginTimeout, "within 2 s"),
            },
            connect_timeout=SOON,
        )


class EndlessLines(Deaf):
    def begin(self) -> None:
        self.flood(lambda: self.transport.write(b"220 mail.example ESMTP\r\n" * 100))


class EndlessLine(Deaf):
    def begin(self) -> None:
        self.flood(lambda: self.transport.write(b"\0" * 10_000))


class IgnoreBeforeKEXINIT(Deaf):
    def begin(self) -> None:
        self.transport.write(b"SSH-2.0-Talkative\r\n")
        self.flood(lambda: self.transport.write(plain_packet(IGNORE, NS(bytes(30_000)))))


class DebugBeforeTheLogin(Evil):
    def service_requested(self, name: bytes) -> None:
        write = repeated((DEBUG, b"\1" + NS(b"x" * 1000) + NS(b"")))
        self.flood(lambda: write(self))


class BannersBeforeTheLogin(Evil):
    def login_requested(self, method: bytes) -> None:
        write = repeated((USERAUTH_BANNER, NS(b"Welcome!\r\n" * 3000) + NS(b"")))
        self.flood(lambda: write(self))


class GarbageAfterVersion(Deaf):
    def begin(self) -> None:
        self.transport.write(b"SSH-2.0-Garbage\r\n" + b"\xa5" * 1000)


class HugePacket(Deaf):
    def begin(self) -> None:
        self.transport.write(b"SSH-2.0-Huge\r\n" + uint32(2**31) + bytes(1000))


class KEXINITFlood(Deaf):
    def begin(self) -> None:
        super().begin()
        packet = plain_packet(20, self.ourKexInitPayload[1:])
        self.flood(lambda: self.transport.write(packet * 50))


class LongLists(Evil):
    """Offers a thousand key exchange methods before the one that both have."""

    count = 1000

    def begin(self) -> None:
        methods = [b"m%d@evil.example" % number for number in range(self.count)]
        self.supportedKeyExchanges = [*methods, b"curve25519-sha256"]
        super().begin()


class HugeLists(LongLists):
    count = 10_000


class GarbageAfterNEWKEYS(Evil):
    def secured(self) -> None:
        self.transport.write(b"\xa5" * 1000)


class WrongMAC(Evil):
    def service_requested(self, name: bytes) -> None:
        self.segment = []
        super().service_requested(name)
        whole = bytearray(b"".join(self.segment))
        self.segment = None
        whole[-1] ^= 1
        self.transport.write(bytes(whole))


class UnaskedService(Evil):
    def service_requested(self, name: bytes) -> None:
        super().service_requested(b"ssh-connection")


class LoginAsInPlain(Deaf):
    """Lets in before there are keys: as somebody in the middle would."""

    def begin(self) -> None:
        super().begin()
        self.transport.write(plain_packet(52))


class BadPacketTests(EvilTestCase):
    """Packets that cannot be."""

    async def test_before_the_keys(self) -> None:
        await self.check_errors(
            {
                GarbageAfterVersion: (KeyExchangeFailed, "bad packet length"),
                HugePacket: (KeyExchangeFailed, "bad packet length"),
                HugeLists: (KeyExchangeFailed, "bad packet length"),
                KEXINITFlood: (KeyExchangeFailed, "a second KEXINIT"),
                LoginAsInPlain: (KeyExchangeFailed, "before the end of the key exchange"),
            }
        )

    async def test_after_the_keys(self) -> None:
        await self.check_errors(
            {
                GarbageAfterNEWKEYS: (ProtocolBroken, "during the login: it sent a packet with a bad packet length"),
                WrongMAC: (ProtocolBroken, "during the login: it sent a packet with a bad MAC"),
                UnaskedService: (ProtocolBroken, "during the login: it sent the start of a service"),
            }
        )

    async def test_long_lists_do_no_harm(self) -> None:
        (outcome,) = await self.outcomes(LongLists)
        self.assertEqual(getattr(outcome, "error", outcome), None)


class ClosesAtOnce(Deaf):
    def begin(self) -> None:
        self.transport.loseConnection()


class ClosesAfterVersion(Deaf):
    def begin(self) -> None:
        self.transport.write(b"SSH-2.0-Closing\r\n")
        self.transport.loseConnection()


class SaysWhyItCloses(Deaf):
    def begin(self) -> None:
        self.transport.write(b"SSH-2.0-Closing\r\n" + plain_packet(1, uint32(12) + NS(b"go \x1b[1maway") + NS(b"")))


class ClosesAfterNEWKEYS(Evil):
    def secured(self) -> None:
        self.transport.loseConnection()


class ClosesAfterServiceAccept(Evil):
    def login_requested(self, method: bytes) -> None:
        self.transport.abortConnection()


class HangUpTests(EvilTestCase):
    """A server that closes the connection at each step."""

    async def test_hanging_up(self) -> None:
        await self.check_errors(
            {
                ClosesAtOnce: (ConnectionDropped, "during the first contact"),
                ClosesAfterVersion: (ConnectionDropped, "during the key exchange"),
                SaysWhyItCloses: (ConnectionDropped, "it said “go ?[1maway”"),
                ClosesAfterNEWKEYS: (LoginDropped, "during the login"),
                ClosesAfterServiceAccept: (LoginDropped, "during the login"),
            }
        )


class Refusing(Evil):
    """Refuses whatever is tried, and offers everything."""

    offer = b"publickey,password,keyboard-interactive"
    partial = b"\0"

    def login_requested(self, method: bytes) -> None:
        self.sendPacket(USERAUTH_FAILURE, NS(self.offer) + self.partial)


class PartialForEver(Refusing):
    """Accepts each method as one of several, again and again."""

    partial = b"\1"


class HugeMethodList(Refusing):
    offer = b",".join(b"method%d@evil.example\x1b[2J" % number for number in range(9_000))


class NoMethods(Refusing):
    offer = b""


class RefusingAll(Refusing):
    """Refuses a hundred times what was asked once."""

    def login_requested(self, method: bytes) -> None:
        self.in_one_segment(lambda: [super(RefusingAll, self).login_requested(method) for _ in range(100)])


class EndlessPrompts(Evil):
    prompts = uint32(1) + NS(b"Password: ") + b"\0"

    def login_requested(self, method: bytes) -> None:
        if method == b"keyboard-interactive":
            self.prompt()
        else:
            self.sendPacket(USERAUTH_FAILURE, NS(b"keyboard-interactive") + b"\0")

    def prompt(self) -> None:
        self.sendPacket(USERAUTH_INFO_REQUEST, NS(b"") * 3 + self.prompts)

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if messageNum == 61:
            self.prompt()
        else:
            super().dispatchMessage(messageNum, payload)


class RoundsWithoutPrompt(EndlessPrompts):
    prompts = uint32(0)


class FourBillionPrompts(EndlessPrompts):
    prompts = uint32(2**32 - 1) + NS(b"Password: ") + b"\0"


class WantsANewPassword(Evil):
    def login_requested(self, method: bytes) -> None:
        if method == b"password":
            self.sendPacket(USERAUTH_INFO_REQUEST, NS(b"Your password has expired") + NS(b""))
        else:
            self.sendPacket(USERAUTH_FAILURE, NS(b"password") + b"\0")


class LoginTests(EvilTestCase):
    """A login that leads nowhere."""

    async def test_login(self) -> None:
        await self.check_errors(
            {
                Refusing: (LoginRefused, "the server offers publickey, password, keyboard-interactive"),
                PartialForEver: (LoginRefused, "tried password"),
                HugeMethodList: (LoginRefused, "method0@evil.example?[2J"),
                NoMethods: (LoginRefused, "the server offers nothing"),
                RefusingAll: (LoginRefused, "somebody"),
                EndlessPrompts: (LoginRefused, "which asked for the password again"),
                RoundsWithoutPrompt: (LoginRefused, "more prompts than can be answered"),
                FourBillionPrompts: (LoginRefused, "more prompts than can be answered"),
                WantsANewPassword: (PasswordExpired, "has expired"),
            }
        )
