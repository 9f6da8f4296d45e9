"""
Logging in: what is sent by each method, in which order, and when it is given up; the server's part is played by hand.
"""

from __future__ import annotations

import struct
from typing import Any, cast

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import Key
from twisted.python.failure import Failure

from relayd.ssh.errors import LoginRefused, PasswordExpired, SSHError
from relayd.ssh.identities import own_identities
from relayd.ssh.keys import parse_private_key
from relayd.ssh.login import (
    MAX_PROMPTS,
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_INFO_RESPONSE,
    MSG_USERAUTH_METHOD,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
    LoginService,
)
from relayd.ssh.transport import ClientTransport
from tests.support.ssh import LogTestCase, PacketRecorder, key_pair, shown

USER, PASSWORD = "üser", "p4sswörd-of-theirs"


def request(method: bytes, rest: bytes = b"") -> tuple[int, bytes]:
    return MSG_USERAUTH_REQUEST, NS(USER.encode()) + NS(b"ssh-connection") + NS(method) + rest


NONE = request(b"none")
BY_PASSWORD = request(b"password", b"\0" + NS(PASSWORD.encode()))
BY_PROMPT = request(b"keyboard-interactive", NS(b"") + NS(b""))


class LoginTestCase(LogTestCase):
    """A login in memory."""

    def begin(self, *, password: str | None = None, key: Key | None = None, **extensions: bytes) -> None:
        """Start logging in with this credential; the answers to come are about method ``none`` first."""
        self.transport = PacketRecorder()
        self.transport.peerExtensions = {name.replace("_", "-").encode(): value for name, value in extensions.items()}
        self.succeeded = 0
        self.failures: list[SSHError] = []
        self.service = LoginService(
            host="host",
            port=22,
            username=USER,
            password=password,
            identities=own_identities(key, None, USER) if key else (),
            on_success=self.success,
            on_failure=self.failures.append,
        )
        self.service.transport = cast(ClientTransport, self.transport)
        self.service.serviceStarted()
        self.assertEqual(self.transport.take(), [NONE])

    def success(self) -> None:
        self.succeeded += 1

    def refuse(self, *methods: bytes, partial: bool = False) -> list[tuple[int, bytes]]:
        """The server refuses and offers *methods*: what is sent then."""
        self.service.packetReceived(MSG_USERAUTH_FAILURE, NS(b",".join(methods)) + bytes([partial]))
        return self.transport.take()

    def prompt(self, *prompts: tuple[bytes, bool]) -> list[tuple[int, bytes]]:
        """The server asks questions, each with whether the answer may be shown: what is sent then."""
        packet = NS(b"name") + NS(b"instruction") + NS(b"") + struct.pack(">L", len(prompts))
        packet += b"".join(NS(text) + bytes([echo]) for text, echo in prompts)
        self.service.packetReceived(MSG_USERAUTH_METHOD, packet)
        return self.transport.take()

    def answers(self, *texts: str) -> list[tuple[int, bytes]]:
        count = struct.pack(">L", len(texts))
        return [(MSG_USERAUTH_INFO_RESPONSE, count + b"".join(NS(text.encode()) for text in texts))]

    def let_in(self) -> None:
        self.service.packetReceived(MSG_USERAUTH_SUCCESS, b"")
        self.assertEqual((self.succeeded, self.failures), (1, []))

    def assert_refused(self, *words: str) -> None:
        (error,) = self.failures
        self.assertIsInstance(error, LoginRefused)
        for word in (USER, "host:22", *words):
            self.assertIn(word, str(error))
        self.assertEqual(self.succeeded, 0)
        self.assertEqual(self.transport.take(), [])

    def assert_signed(self, packets: list[tuple[int, bytes]], key: Key, algorithm: bytes) -> None:
        """*packets* is one publickey request with a signature that holds (RFC 4252, section 7)."""
        ((message, packet),) = packets
        self.assertEqual(message, MSG_USERAUTH_REQUEST)
        user, service, method, rest = getNS(packet, 3)
        self.assertEqual((user, service, method, rest[:1]), (USER.encode(), b"ssh-connection", b"publickey", b"\1"))
        named, blob, signature, rest = getNS(rest[1:], 3)
        self.assertEqual((named, blob, rest), (algorithm, key.public().blob(), b""))
        self.assertEqual(getNS(signature)[0], algorithm)
        data = NS(self.transport.sessionID) + bytes([message]) + packet[: -len(NS(signature))]
        self.assertTrue(Key.fromString(blob).verify(signature, data))
        self.assertFalse(Key.fromString(blob).verify(signature, data + b"x"))


class MethodTests(LoginTestCase):
    """Each way by itself."""

    def test_nothing_is_needed(self) -> None:
        self.begin(password=PASSWORD)
        self.let_in()
        self.assertEqual(self.transport.take(), [])

    def test_password(self) -> None:
        self.begin(password=PASSWORD)
        self.assertEqual(self.refuse(b"publickey", b"password", b"keyboard-interactive"), [BY_PASSWORD])
        self.let_in()

    def test_keyboard_interactive(self) -> None:
        self.begin(password=PASSWORD)
        self.assertEqual(self.refuse(b"publickey", b"keyboard-interactive"), [BY_PROMPT])
        self.assertEqual(self.prompt((b"Password: ", False)), self.answers(PASSWORD))
        self.assertEqual(self.prompt(), self.answers())  # PAM ends with an empty round
        self.let_in()

    def test_keys(self) -> None:
        for kind, algorithm in (("ed25519", b"ssh-ed25519"), ("ecdsa", b"ecdsa-sha2-nistp256")):
            key = parse_private_key(key_pair(kind)[0])
            self.begin(key=key)
            self.assert_signed(self.refuse(b"publickey", b"password"), key, algorithm)
            self.let_in()

    def test_rsa_signs_with_what_the_server_takes(self) -> None:
        key = parse_private_key(key_pair("rsa")[0])
        for taken, algorithm in (
            (b"ssh-ed25519,rsa-sha2-256", b"rsa-sha2-256"),
            (b"rsa-sha2-256,rsa-sha2-512,ssh-rsa", b"rsa-sha2-512"),
            (b"ssh-ed25519,ssh-rsa", b"rsa-sha2-512"),  # never with SHA-1
        ):
            self.begin(key=key, server_sig_algs=taken)
            self.assert_signed(self.refuse(b"publickey"), key, algorithm)
        self.begin(key=key)
        self.assert_signed(self.refuse(b"publickey"), key, b"rsa-sha2-512")

    def test_banner_is_passed_over(self) -> None:
        self.begin(password=PASSWORD)
        self.service.packetReceived(MSG_USERAUTH_BANNER, NS(b"Welcome\x1b[2J") + NS(b""))
        self.assertEqual(self.transport.take(), [])
        self.assertEqual(self.refuse(b"password"), [BY_PASSWORD])


class SeveralTests(LoginTestCase):
    """Servers that want more than one proof, and credentials that hold two."""

    def setUp(self) -> None:
        super().setUp()
        self.key = parse_private_key(key_pair()[0])

    def test_key_before_password(self) -> None:
        self.begin(password=PASSWORD, key=self.key)
        self.assert_signed(self.refuse(b"password", b"publickey"), self.key, b"ssh-ed25519")
        self.assertEqual(self.refuse(b"password", b"publickey"), [BY_PASSWORD])
        self.let_in()

    def test_publickey_then_password(self) -> None:
        self.begin(password=PASSWORD, key=self.key)
        self.assert_signed(self.refuse(b"publickey"), self.key, b"ssh-ed25519")
        self.assertEqual(self.refuse(b"password", partial=True), [BY_PASSWORD])
        self.let_in()

    def test_publickey_then_keyboard_interactive(self) -> None:
        self.begin(password=PASSWORD, key=self.key)
        self.refuse(b"publickey")
        self.assertEqual(self.refuse(b"keyboard-interactive", partial=True), [BY_PROMPT])
        self.assertEqual(self.prompt((b"Password: ", False)), self.answers(PASSWORD))
        self.let_in()

    def test_password_then_publickey(self) -> None:
        self.begin(password=PASSWORD, key=self.key)
        self.assertEqual(self.refuse(b"password"), [BY_PASSWORD])
        self.assert_signed(self.refuse(b"publickey", partial=True), self.key, b"ssh-ed25519")
        self.let_in()

    def test_password_then_keyboard_interactive(self) -> None:
        self.begin(password=PASSWORD)
        self.assertEqual(self.refuse(b"password"), [BY_PASSWORD])
        self.assertEqual(self.refuse(b"keyboard-interactive", partial=True), [BY_PROMPT])
        self.let_in()

    def test_a_key_that_was_taken_and_is_not_enough(self) -> None:
        self.begin(key=self.key)
        self.refuse(b"publickey")
        self.assertEqual(self.refuse(b"password", partial=True), [])
        self.assert_refused("tried publickey", "offers password")


class RefusedTests(LoginTestCase):
    """Nothing is tried twice, nothing in vain, and the message names what was tried."""

    def test_nothing_fits(self) -> None:
        self.begin(password=PASSWORD)
        self.assertEqual(self.refuse(b"publickey", b"gssapi-with-mic"), [])
        self.assert_refused("tried nothing", "offers publickey, gssapi-with-mic")

    def test_nothing_offered_and_nothing_held(self) -> None:
        self.begin()
        self.assertEqual(self.refuse(), [])
        self.assert_refused("offers nothing")

    def test_wrong_password_is_not_sent_again(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"password", b"keyboard-interactive")
        self.assertEqual(self.refuse(b"password", b"keyboard-interactive"), [])
        self.assert_refused("tried password", "offers password, keyboard-interactive")

    def test_wrong_answers(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"keyboard-interactive")
        self.prompt((b"Password: ", False))
        self.assertEqual(self.refuse(b"keyboard-interactive"), [])
        self.assert_refused("tried keyboard-interactive")

    def test_key_and_password_refused(self) -> None:
        self.begin(password=PASSWORD, key=parse_private_key(key_pair()[0]))
        self.refuse(b"publickey", b"password")
        self.refuse(b"publickey", b"password")
        self.assertEqual(self.refuse(b"publickey", b"password"), [])
        self.assert_refused("tried publickey and password")

    def test_names_of_methods_are_made_printable(self) -> None:
        self.begin()
        self.refuse(b"evil\x1b[2J\xff", b"x" * 5000)
        (error,) = self.failures
        self.assertTrue(str(error).isprintable())
        self.assertLess(len(str(error)), 1000)

    def test_password_change_wanted(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"password")
        self.service.packetReceived(MSG_USERAUTH_METHOD, NS(b"Your password has expired.") + NS(b""))
        self.assertIsInstance(self.failures[0], PasswordExpired)
        self.assertEqual(self.transport.take(), [])


class PromptTests(LoginTestCase):
    """Questions that relayd cannot answer."""

    def setUp(self) -> None:
        super().setUp()
        self.begin(password=PASSWORD)
        self.refuse(b"keyboard-interactive")

    def test_too_many_in_one_round(self) -> None:
        self.assertEqual(self.prompt(*[(b"Password: ", False)] * (MAX_PROMPTS + 1)), [])
        self.assert_refused("more prompts")

    def test_a_count_that_is_a_lie(self) -> None:
        packet = NS(b"") * 3 + struct.pack(">L", 2**32 - 1)
        self.service.packetReceived(MSG_USERAUTH_METHOD, packet)
        self.assert_refused("more prompts")

    def test_too_many_rounds(self) -> None:
        for _ in range(MAX_PROMPTS):
            self.assertEqual(self.prompt((b"Password: ", False)), self.answers(PASSWORD))
        self.assertEqual(self.prompt((b"Password: ", False)), [])
        self.assert_refused("more prompts")

    def test_too_many_empty_rounds(self) -> None:
        for _ in range(1000):
            if not self.prompt():
                break
        else:
            self.fail("a server may keep the login busy for as long as it likes")
        self.assert_refused()

    def test_an_answer_that_would_be_shown_is_not_the_password(self) -> None:
        for question in (b"User name: ", b"Favourite colour? "):
            for _, packet in self.prompt((question, True)):
                self.assertNotIn(PASSWORD.encode(), packet)


class SecretTests(LoginTestCase):
    """Nothing of a credential shows."""

    def test_in_nothing(self) -> None:
        private = key_pair("ecdsa")[0]
        lines = private.splitlines()[1:-1]
        self.begin(password=PASSWORD, key=parse_private_key(private))
        texts = [repr(self.service), str(self.service)]
        self.refuse(b"publickey", b"password", b"keyboard-interactive")
        texts += [repr(self.service)]
        self.refuse(b"password", partial=True)
        self.refuse(b"keyboard-interactive", partial=True)
        self.prompt((b"Password: ", False))
        self.refuse(b"x")
        texts += [shown(Failure(error)) + repr(error.fields) for error in self.failures]
        number = parse_private_key(private).data()["privateValue"]
        for secret in (PASSWORD, str(number), f"{number:x}", *lines):
            self.assertFalse([text for text in texts if secret in text])
        self.assert_not_logged(PASSWORD, *lines)

    def test_forgotten_once_logged_in(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"password")
        self.let_in()
        held: dict[str, Any] = vars(self.service)
        self.assertNotIn(PASSWORD, [value for value in held.values() if isinstance(value, str)])
