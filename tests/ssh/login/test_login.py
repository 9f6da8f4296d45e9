"""
Logging in: what is sent by each method, in which order, and when it is given up; the server's part is played by hand.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, cast

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd.ssh.errors import LoginRefused, PasswordExpired, PromptUnknown, SSHError
from relayd.ssh.keys.private import parse_private_key
from relayd.ssh.login.agent import AgentError
from relayd.ssh.login.identities import Identities, Identity, own_identities
from relayd.ssh.login.login import MAX_KEYS, MAX_PROMPTS, LoginService
from relayd.ssh.target import Credential, Target
from relayd.ssh.transport.algorithms import LEGACY, MODERN, AlgorithmPolicy
from relayd.ssh.transport.numbers import (
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_INFO_RESPONSE,
    MSG_USERAUTH_METHOD,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from relayd.ssh.transport.transport import ClientTransport
from tests.support.ssh import LogTestCase, PacketRecorder, blob_of, key_pair, shown

USER, PASSWORD = "üser", "p4sswörd-of-theirs"


def request(method: bytes, rest: bytes = b"") -> tuple[int, bytes]:
    return MSG_USERAUTH_REQUEST, NS(USER.encode()) + NS(b"ssh-connection") + NS(method) + rest


NONE = request(b"none")
BY_PASSWORD = request(b"password", b"\0" + NS(PASSWORD.encode()))
BY_PROMPT = request(b"keyboard-interactive", NS(b"") + NS(b""))


class LoginTestCase(LogTestCase):
    """A login in memory."""

    def begin(
        self,
        *,
        password: str | None = None,
        key: Key | None = None,
        identities: Sequence[Identity] = (),
        policy: AlgorithmPolicy = MODERN,
        **extensions: bytes,
    ) -> None:
        """Start logging in with this credential; the answers to come are about method ``none`` first."""
        self.transport = PacketRecorder()
        self.transport.policy = policy
        self.transport.peerExtensions = {name.replace("_", "-").encode(): value for name, value in extensions.items()}
        self.succeeded = 0
        self.failures: list[SSHError] = []
        usable = own_identities(key, None, USER) if key else identities
        target = Target("host", 22, USER, Credential(password))
        self.service = LoginService(target, Identities(tuple(usable)), self.success, self.failures.append)
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
        self.assertEqual(self.transport.warned_of, set())

    def test_rsa_signs_with_sha1_where_that_is_allowed(self) -> None:
        key = parse_private_key(key_pair("rsa")[0])
        for taken, algorithms in (
            (b"ssh-ed25519,ssh-rsa", (b"ssh-rsa",)),
            (b"ssh-rsa,rsa-sha2-256", (b"rsa-sha2-256", b"ssh-rsa")),
            (None, (b"rsa-sha2-512", b"ssh-rsa")),
        ):
            self.begin(key=key, policy=LEGACY, **({} if taken is None else {"server_sig_algs": taken}))
            for algorithm in algorithms:
                self.assert_signed(self.refuse(b"publickey"), key, algorithm)
                self.assertEqual(self.transport.warned_of, {b"ssh-rsa"} if algorithm == b"ssh-rsa" else set())
            self.assertEqual(self.refuse(b"publickey"), [])  # and nothing is asked
            self.assert_refused("tried publickey")

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

    def test_password_twice(self) -> None:
        self.begin(password=PASSWORD)
        self.assertEqual(self.refuse(b"password"), [BY_PASSWORD])
        self.assertEqual(self.refuse(b"password", partial=True), [BY_PASSWORD])
        self.assertEqual(self.refuse(b"password"), [])
        self.assert_refused("tried password;")

    def test_keyboard_interactive_then_password(self) -> None:
        self.begin(password=PASSWORD)
        self.assertEqual(self.refuse(b"keyboard-interactive"), [BY_PROMPT])
        self.assertEqual(self.prompt((b"Password: ", False)), self.answers(PASSWORD))
        self.assertEqual(self.refuse(b"password", partial=True), [BY_PASSWORD])
        self.let_in()

    def test_a_wrong_password_is_not_sent_again_after_a_part(self) -> None:
        self.begin(password=PASSWORD, key=self.key)
        self.assertEqual(self.refuse(b"password"), [BY_PASSWORD])
        self.assert_signed(self.refuse(b"publickey"), self.key, b"ssh-ed25519")
        self.assertEqual(self.refuse(b"password", b"keyboard-interactive", partial=True), [])
        self.assert_refused("tried password and publickey")

    def test_parts_without_end(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"password")
        for _ in range(1000):
            if not self.refuse(b"password", partial=True):
                break
        else:
            self.fail("a server may keep the login busy for as long as it likes")
        self.assert_refused("ever more steps")


class AgentTests(LoginTestCase):
    """Keys that sign elsewhere: the server is asked first, and the signature comes later."""

    def setUp(self) -> None:
        super().setUp()
        self.key = parse_private_key(key_pair()[0])
        self.signing: list[Deferred[bytes]] = []
        self.cancelled: list[Deferred[bytes]] = []

    def identity(self, kind: str = "ed25519") -> Identity:
        def sign(_data: bytes, _algorithm: bytes) -> Deferred[bytes]:
            self.signing.append(Deferred(self.cancelled.append))
            return self.signing[-1]

        key = parse_private_key(key_pair(kind)[0])
        return Identity(key.public().blob(), sign, f"{kind} of the agent", ask_first=True)

    def accept(self) -> list[tuple[int, bytes]]:
        """The server would take the key that it was asked about: what is sent then."""
        self.service.packetReceived(MSG_USERAUTH_METHOD, NS(b"algorithm") + NS(b"blob"))
        return self.transport.take()

    def question(self, kind: str, algorithm: bytes) -> tuple[int, bytes]:
        return request(b"publickey", b"\0" + NS(algorithm) + NS(blob_of(key_pair(kind)[1])))

    def test_signed_when_the_server_would_take_it(self) -> None:
        self.begin(identities=[self.identity()])
        self.assertEqual(self.refuse(b"publickey"), [self.question("ed25519", b"ssh-ed25519")])
        self.assertEqual((self.accept(), len(self.signing)), ([], 1))
        self.assertEqual((self.accept(), len(self.signing)), ([], 1))  # said twice
        blob = blob_of(key_pair("ed25519")[1])
        signed = request(b"publickey", b"\1" + NS(b"ssh-ed25519") + NS(blob) + NS(b"signature"))
        self.signing[0].callback(b"signature")
        self.assertEqual(self.transport.take(), [signed])
        self.let_in()

    def test_not_signed_when_it_would_not(self) -> None:
        self.begin(identities=[self.identity(), self.identity("rsa")], password=PASSWORD)
        self.refuse(b"publickey")
        self.assertEqual(self.refuse(b"publickey"), [self.question("rsa", b"rsa-sha2-512")])
        self.assertEqual(self.refuse(b"publickey", b"password"), [BY_PASSWORD])
        self.assertEqual(self.accept(), [])
        self.assertEqual(self.signing, [])

    def test_refuses_to_sign(self) -> None:
        self.begin(identities=[self.identity(), self.identity("rsa")])
        self.refuse(b"publickey")
        self.accept()
        self.signing[0].errback(AgentError("it is asleep"))
        self.assertEqual(self.transport.take(), [self.question("rsa", b"rsa-sha2-512")])
        self.accept()
        self.signing[1].errback(ValueError("what it said"))
        self.assert_refused(
            "tried ed25519 of the agent, which did not sign: it is asleep and rsa of the agent, which did not sign: "
            "ValueError; the server offers publickey"
        )

    def test_refused_before_the_signature_comes(self) -> None:
        self.begin(identities=[self.identity(), self.identity("rsa")])
        self.refuse(b"publickey")
        self.accept()
        self.assertEqual(self.refuse(b"publickey"), [self.question("rsa", b"rsa-sha2-512")])
        self.assertEqual(self.cancelled, self.signing)
        self.assertEqual((self.transport.take(), self.failures), ([], []))

    def test_over_before_the_signature_comes(self) -> None:
        self.begin(identities=[self.identity()])
        self.refuse(b"publickey")
        self.accept()
        self.service.serviceStopped()
        self.assertEqual(self.cancelled, self.signing)
        self.assertEqual((self.transport.take(), self.failures), ([], []))

    def own(self) -> Identity:
        """A key of our own that a thread signs with."""
        identity = self.identity()
        return Identity(identity.blob, identity.sign)

    def test_a_key_of_our_own_that_takes_its_time(self) -> None:
        """The server is not asked first, and hears nothing until the signature is there."""
        self.begin(identities=[self.own()])
        self.assertEqual((self.refuse(b"publickey"), len(self.signing)), ([], 1))
        self.assertEqual(self.accept(), [])
        signed = request(b"publickey", b"\1" + NS(b"ssh-ed25519") + NS(self.own().blob) + NS(b"signature"))
        self.signing[0].callback(b"signature")
        self.assertEqual(self.transport.take(), [signed])
        self.let_in()

    def test_over_before_our_own_signature_comes(self) -> None:
        for end in (self.service_ends, self.let_in):
            self.signing, self.cancelled = [], []
            self.begin(identities=[self.own()])
            self.refuse(b"publickey")
            end()
            self.assertEqual((len(self.cancelled), self.cancelled), (1, self.signing))
            self.assertEqual((self.transport.take(), self.failures), ([], []))

    def service_ends(self) -> None:
        self.service.serviceStopped()

    def test_what_belongs_to_the_method_before(self) -> None:
        """While our own key signs, no message asks for the password that was accepted as a part."""
        for method, sent in ((b"password", BY_PASSWORD), (b"keyboard-interactive", BY_PROMPT)):
            self.begin(identities=[self.own()], password=PASSWORD)
            self.assertEqual(self.refuse(method), [sent])
            self.assertEqual(self.refuse(b"publickey", partial=True), [])
            self.assertEqual(self.prompt((b"Password: ", False)), [])
            self.assertEqual(self.failures, [])

    def test_no_more_keys_than_a_server_bears(self) -> None:
        self.begin(identities=[self.identity()] * 9, password=PASSWORD)
        for _ in range(MAX_KEYS):
            self.assertEqual(self.refuse(b"publickey", b"password"), [self.question("ed25519", b"ssh-ed25519")])
        self.assertEqual(self.refuse(b"publickey", b"password"), [BY_PASSWORD])
        self.refuse(b"publickey", b"password")
        self.assert_refused("only the first 5 of 9 keys")


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

    def test_asked_again(self) -> None:
        """A server that asks until the answer is right counts each as a failure, as others do refused logins."""
        self.assertEqual(self.prompt((b"Password: ", False)), self.answers(PASSWORD))
        self.assertEqual(self.prompt((b"Sorry, try again.\nPassword: ", False)), [])
        self.assert_refused("tried keyboard-interactive, which asked for the password again; the server offers key")

    def test_asked_again_in_other_words(self) -> None:
        """They are no sign of a password that has expired."""
        self.assertEqual(self.prompt((b"Password: ", False)), self.answers(PASSWORD))
        self.assertEqual(self.prompt(("密码错误，请重新输入密码：".encode(), False)), [])
        self.assert_refused("asked for the password again")

    def test_asked_twice_at_once(self) -> None:
        self.assertEqual(self.prompt((b"Password: ", False), (b"LDAP Password: ", False)), [])
        self.assert_refused("asked for the password again")

    def test_too_many_rounds(self) -> None:
        for _ in range(MAX_PROMPTS):
            self.assertEqual(self.prompt((b"Second Factor (optional): ", False)), self.answers(""))
        self.assertEqual(self.prompt((b"Second Factor (optional): ", False)), [])
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


class ExpiryTests(LoginTestCase):
    """Questions about a new password: the old one is never the answer."""

    def expired(self) -> None:
        (error,) = self.failures
        self.assertIsInstance(error, PasswordExpired)
        self.assertEqual(self.transport.take(), [])
        self.assertNotIn(PASSWORD, vars(self.service).values())

    def test_at_once(self) -> None:
        for prompts in (
            [b"New password: "],
            [b"Enter new UNIX password: "],
            [b"Retype new password: "],
            [b"Confirm new password: "],
            [b"You are required to change your password immediately (root enforced)\nCurrent password: "],
            [b"WARNING: Your password has expired.\nPassword: "],
            [b"Old Password: ", b"New Password: ", b"Re-enter new Password: "],
        ):
            self.begin(password=PASSWORD)
            self.refuse(b"keyboard-interactive")
            self.assertEqual(self.prompt(*((text, False) for text in prompts)), [])
            self.expired()

    def test_after_the_password(self) -> None:
        for text in (b"(current) UNIX password: ", b"Current password: ", b"Old password: ", b"New password: "):
            self.begin(password=PASSWORD)
            self.refuse(b"keyboard-interactive")
            self.assertEqual(self.prompt((b"Password: ", False)), self.answers(PASSWORD))
            self.assertEqual(self.prompt((text, False)), [])
            self.expired()

    def test_announced_in_the_instruction(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"keyboard-interactive")
        packet = NS(b"") + NS(b"Your password has expired. Choose another.") + NS(b"") + bytes(4)
        self.service.packetReceived(MSG_USERAUTH_METHOD, packet)
        self.assertEqual(self.transport.take(), [])
        self.expired()

    def test_advice_to_change_it_now_and_then(self) -> None:
        """It has not expired, and is asked for."""
        for text in (
            b"Please change your password now and then.\nPassword: ",
            b"You must change your password from time to time.\nPassword: ",
            b"Users have to change your password every 90 days.\nPassword: ",
            b"You are required to change your password regularly\nPassword: ",
        ):
            self.begin(password=PASSWORD)
            self.refuse(b"keyboard-interactive")
            self.assertEqual(self.prompt((text, False)), self.answers(PASSWORD))

    def test_a_long_prompt(self) -> None:
        """It is read once, not from each "passw" in it as if that were the beginning of a word as long as the rest."""
        self.begin(password=PASSWORD)
        self.refuse(b"keyboard-interactive")
        self.assertEqual(self.prompt((b"passw" * 3_000 + b"ord: ", False)), self.answers(PASSWORD))

    def test_a_prompt_that_is_longer_than_any(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"keyboard-interactive")
        self.assertEqual(self.prompt((b"passw" * 40_000 + b"ord: ", False)), [])
        self.assertIn("more prompts than can be answered", str(self.failures[0]))

    def test_an_offer_that_is_longer_than_any(self) -> None:
        self.begin(password=PASSWORD)
        self.assertEqual(self.refuse(*[b"nothing"] * 1000, b"password"), [])
        self.assert_refused("nothing, nothing")

    def test_what_only_sounds_like_it(self) -> None:
        for text in (
            b"Password: ",
            "(üser@host) Password: ".encode(),
            b"Current password: ",
            b"Your password will expire in 3 days.\nPassword: ",
            "Welcome to new-host\nüser's password: ".encode(),
            "üser@new-host's password: ".encode(),
            "Password for üser@new: ".encode(),
            "Password for üser@news.example.org: ".encode(),
        ):
            self.begin(password=PASSWORD)
            self.refuse(b"keyboard-interactive")
            self.assertEqual(self.prompt((text, False)), self.answers(PASSWORD), text)

    def test_another_account(self) -> None:
        """Its password is another one; this one is not sent with what is asked for beside it, either."""
        for prompts in (
            ((b"(relayd-test@host) Password: ", False),),
            ((b"Password for root: ", True),),
            ((b"Password: ", False), (b"root's password: ", False)),
            (("Passwort für root: ".encode(), False),),
        ):
            self.begin(password=PASSWORD)
            self.refuse(b"keyboard-interactive")
            self.assertEqual(self.prompt(*prompts), [])
            self.assertIsInstance(self.failures.pop(), PromptUnknown)


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
        self.assert_forgotten()

    def assert_forgotten(self) -> None:
        held: dict[str, Any] = vars(self.service)
        self.assertNotIn(PASSWORD, [value for value in held.values() if isinstance(value, str)])
        self.assertEqual((held["_identities"], held["_attempts"], held["_asked"]), ((), [], None))

    def test_forgotten_however_it_ends(self) -> None:
        key = parse_private_key(key_pair()[0])
        self.begin(password=PASSWORD, key=key)
        self.refuse(b"nothing-that-we-have")
        self.assert_refused()
        self.assert_forgotten()
        self.begin(password=PASSWORD, key=key)
        self.service.serviceStopped()  # as when the time is over, or the connection is lost
        self.assert_forgotten()
        self.begin(password=PASSWORD, key=key)
        self.refuse(b"password")
        self.service.packetReceived(MSG_USERAUTH_METHOD, NS(b"") + NS(b""))
        self.assertIsInstance(self.failures[0], PasswordExpired)
        self.assert_forgotten()

    def test_nothing_after_the_end(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"nothing-that-we-have")
        self.assertEqual(self.refuse(b"password", b"keyboard-interactive"), [])
        self.service.packetReceived(MSG_USERAUTH_SUCCESS, b"")
        self.service.serviceStopped()
        self.assertEqual((self.succeeded, len(self.failures)), (0, 1))
