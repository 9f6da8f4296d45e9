"""
Logins that end otherwise than by a yes or a no: the server closes the connection, asks for a code, or does not take the
signatures of a key. Its part is played by hand; `tests.peers.test_accounts` has real ones.
"""

from __future__ import annotations

from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred

from relayd.ssh.errors import (
    LoginClosed,
    LoginDropped,
    LoginRefused,
    PasswordExpired,
    PromptUnknown,
    SignatureRefused,
    SSHError,
)
from relayd.ssh.keys.private import parse_private_key
from relayd.ssh.keys.types import certified
from relayd.ssh.login.identities import Identity
from relayd.ssh.login.signatures import doubt_of
from relayd.ssh.transport.algorithms import LEGACY, MODERN
from relayd.ssh.transport.numbers import MSG_USERAUTH_BANNER, MSG_USERAUTH_METHOD
from tests.ssh.login.test_login import BY_PASSWORD, PASSWORD, LoginTestCase, request
from tests.support.pam_words import PAM_QUESTIONS
from tests.support.ssh import blob_of, key_pair


class ClosedTestCase(LoginTestCase):
    """A login whose end is an error."""

    def say(self, text: bytes) -> None:
        self.service.packetReceived(MSG_USERAUTH_BANNER, NS(text) + NS(b""))

    def error(self, kind: type[SSHError], *words: str) -> SSHError:
        (error,) = self.failures
        self.assertIs(type(error), kind, error)
        self.assertTrue(str(error).isprintable())
        for word in words:
            self.assertIn(word, str(error))
        self.assertEqual(self.transport.take(), [])
        return error

    def closed(self, *words: str) -> LoginClosed:
        """The connection ends: the error."""
        self.service.serviceStopped()
        error = self.error(LoginClosed, *words)
        assert isinstance(error, LoginClosed)
        return error


class ClosedTests(ClosedTestCase):
    """The connection ends while something is being tried."""

    def test_without_a_word(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"password")
        error = self.closed("by password: it did not say why")
        self.assertFalse(error.retriable)
        self.assertNotIn("overload", str(error))

    def test_before_anything_was_tried(self) -> None:
        """Nothing speaks against the credential."""
        self.begin(password=PASSWORD)
        self.service.serviceStopped()
        self.assertEqual(self.failures, [])
        self.begin(password=PASSWORD)
        self.say(b"Down for backup until 02:00")
        self.service.serviceStopped()
        self.assertTrue(self.error(LoginDropped, "it said “Down for backup until 02:00”").retriable)

    def test_by_a_fault_that_has_a_name(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"password")
        self.transport.at_fault = True
        self.service.serviceStopped()
        self.assertEqual(self.failures, [])

    def test_what_it_said_last(self) -> None:
        self.begin(password=PASSWORD)
        self.say(b"Authorised use only.\n")
        self.refuse(b"password")
        self.say(b"Closed for maintenance\n\tuntil\x1b[2J 18:00\n\n")
        error = self.closed("it said “Closed for maintenance / until?[2J 18:00”.")
        self.assertNotIn("Authorised", str(error))

    def test_what_it_said_before(self) -> None:
        self.begin(password=PASSWORD)
        self.say(b"1\n2\n3\n4\n5\n")
        self.refuse(b"password")
        self.closed("it said “2 / 3 / 4 / 5”")

    def test_what_it_said_when_it_left(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"password")
        self.say(b"Bye")
        self.transport.told_to_leave = True
        self.transport.lost_reason = "it said “gone”"
        self.closed("it said “Bye” and it said “gone”")

    def test_at_most_so_much(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"password")
        self.say(b"x" * 100_000)
        self.assertLess(len(str(self.closed("…xxx"))), 800)

    def test_the_password_is_not_repeated(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"password")
        self.say(f"{PASSWORD} is wrong".encode())
        self.transport.told_to_leave = True
        self.transport.lost_reason = f"it said “{PASSWORD} is wrong”"
        self.assertNotIn(PASSWORD, str(self.closed("*** is wrong")))

    def test_the_password_is_not_repeated_as_a_method(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"password")
        self.refuse(b"publickey", PASSWORD.encode())
        self.assertNotIn(PASSWORD, str(self.error(LoginRefused, "publickey, ***")))

    def test_it_is_quoted_when_it_refuses(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"keyboard-interactive")
        self.prompt((b"Password: ", False))
        packet = NS(b"") + NS(b"Your account has expired; please contact your system administrator.\n") + NS(b"")
        self.service.packetReceived(MSG_USERAUTH_METHOD, packet + bytes(4))
        self.assertEqual(self.transport.take(), self.answers())
        self.refuse(b"keyboard-interactive")
        self.error(LoginRefused, "tried keyboard-interactive (it said “Your account has expired; please contact")

    def test_while_an_agent_takes_its_time(self) -> None:
        """That is no answer of the server's."""
        key = parse_private_key(key_pair()[0])
        self.begin(identities=[Identity(key.public().blob(), lambda _data, _by: Deferred(), ask_first=True)])
        self.refuse(b"publickey")
        self.service.packetReceived(MSG_USERAUTH_METHOD, NS(b"") + NS(b""))
        self.service.serviceStopped()
        self.assertEqual(self.failures, [])

    def test_while_a_second_key_signs(self) -> None:
        """It may be the answer to the first one, which is not tried again. Of the second the server knows nothing."""
        blob = parse_private_key(key_pair()[0]).public().blob()
        for ask_first in (False, True):
            slow = Identity(blob, lambda _data, _by: Deferred(), "the second", ask_first=ask_first)
            self.begin(identities=[Identity(blob, lambda _data, _by: b"", "the first"), slow])
            self.refuse(b"publickey")
            self.refuse(b"publickey")
            self.service.packetReceived(MSG_USERAUTH_METHOD, NS(b"") + NS(b""))
            self.transport.take()
            error = self.closed("by the first: it did not say why")
            self.assertEqual((error.keys_tried, error.password_left), (1, False))

    def test_while_a_key_signs_after_a_part(self) -> None:
        """What came before was accepted."""
        blob = parse_private_key(key_pair()[0]).public().blob()
        self.begin(identities=[Identity(blob, lambda _data, _by: Deferred())], password=PASSWORD)
        self.refuse(b"password")
        self.refuse(b"publickey", partial=True)
        self.service.serviceStopped()
        self.assertEqual(self.failures, [])


class LeftTests(ClosedTestCase):
    """What there is to try on another connection."""

    def test_the_password(self) -> None:
        self.begin(password=PASSWORD, key=parse_private_key(key_pair()[0]))
        self.refuse(b"publickey", b"password")
        error = self.closed("by publickey:")
        self.assertEqual((error.keys_tried, error.password_left), (1, True))

    def test_a_password_that_is_not_asked_for(self) -> None:
        self.begin(password=PASSWORD, key=parse_private_key(key_pair()[0]))
        self.refuse(b"publickey")
        self.assertFalse(self.closed("by publickey:").password_left)

    def test_other_keys(self) -> None:
        key = parse_private_key(key_pair()[0])
        identity = Identity(key.public().blob(), lambda _data, _by: b"")
        self.begin(identities=[identity] * 4)
        self.refuse(b"publickey")
        self.refuse(b"publickey")
        error = self.closed()
        self.assertEqual((error.keys_tried, error.password_left), (2, False))

    def test_nothing_once_the_password_was_tried(self) -> None:
        self.begin(password=PASSWORD, key=parse_private_key(key_pair()[0]))
        self.refuse(b"publickey", b"password")
        self.assertEqual(self.refuse(b"publickey", b"password"), [BY_PASSWORD])
        self.assertIsNone(self.closed("by publickey and password").keys_tried)

    def test_nothing_once_it_said_why(self) -> None:
        """Such as that the account has expired, which is so for every credential."""
        self.begin(password=PASSWORD, key=parse_private_key(key_pair()[0]))
        self.refuse(b"publickey", b"password")
        self.say(b"Your account has expired")
        self.assertIsNone(self.closed().keys_tried)

    def test_nothing_once_a_part_was_accepted(self) -> None:
        self.begin(password=PASSWORD, key=parse_private_key(key_pair()[0]))
        self.refuse(b"password")
        self.refuse(b"publickey", partial=True)
        self.assertIsNone(self.closed().keys_tried)


class QuestionTests(ClosedTestCase):
    """Questions that are not for the password; `tests.ssh.login.test_prompts` has their words."""

    def begin_asking(self) -> None:
        self.begin(password=PASSWORD)
        self.refuse(b"keyboard-interactive")

    def test_it_is_named(self) -> None:
        for shown in (False, True):
            self.begin_asking()
            self.assertEqual(self.prompt((b"\x1b[1mVerification\ncode:\x07 ", shown)), [])
            self.error(PromptUnknown, "“?[1mVerification / code:?”")

    def test_after_the_password(self) -> None:
        self.begin_asking()
        self.assertEqual(self.prompt((b"Password: ", False)), self.answers(PASSWORD))
        self.assertEqual(self.prompt(("请输入动态口令:".encode(), False)), [])
        self.error(PromptUnknown, "“请输入动态口令:”")

    def test_beside_the_password(self) -> None:
        for prompts in ([b"Password: ", b"Passcode: "], [b"Passcode: ", b"Password: "]):
            self.begin_asking()
            self.assertEqual(self.prompt(*((text, False) for text in prompts)), [])
            self.error(PromptUnknown, "Passcode:")

    def test_one_that_may_be_left_out(self) -> None:
        self.begin_asking()
        prompts = (b"First Factor: ", False), (b"Second Factor (optional): ", False)
        self.assertEqual(self.prompt(*prompts), self.answers(PASSWORD, ""))
        self.let_in()

    def test_shown(self) -> None:
        self.begin_asking()
        self.assertEqual(self.prompt((b"Password: ", True)), self.answers(PASSWORD))
        self.begin_asking()
        self.assertEqual(self.prompt((b"User name: ", True)), [])
        self.error(PromptUnknown, "User name:")

    def test_without_words(self) -> None:
        self.begin_asking()
        self.assertEqual(self.prompt((b"", False)), [])
        self.error(PromptUnknown, "“name / instruction”")
        self.begin_asking()
        self.service.packetReceived(MSG_USERAUTH_METHOD, NS(b"") * 3 + b"\0\0\0\1" + NS(b"") + b"\0")
        self.error(PromptUnknown, "an empty question")

    def test_the_password_is_not_repeated(self) -> None:
        self.begin_asking()
        self.prompt((f"{PASSWORD}? Code: ".encode(), False))
        self.assertNotIn(PASSWORD, str(self.error(PromptUnknown, "***? Code:")))

    def test_expired_in_the_languages_of_pam(self) -> None:
        for language, (password, current, new, again) in PAM_QUESTIONS.items():
            if not password:
                continue
            for question in (current, new, again):
                if question:
                    self.begin_asking()
                    self.assertEqual(self.prompt((password.encode(), False)), self.answers(PASSWORD), language)
                    self.assertEqual(self.prompt((question.encode(), False)), [], (language, question))
                    self.error(PasswordExpired)


class SignatureTests(ClosedTestCase):
    """A key that may be the right one."""

    def refused(
        self, kind: str = "rsa", version: bytes = b"SSH-2.0-Test", **extensions: bytes
    ) -> list[tuple[int, bytes]]:
        """The key is refused: what is sent then."""
        self.key = parse_private_key(key_pair(kind)[0])
        self.begin(key=self.key, **extensions)
        self.transport.otherVersionString = version
        self.refuse(b"publickey", b"password")
        return self.refuse(b"publickey", b"password")

    def ask(self, version: bytes = b"SSH-2.0-Test", **extensions: bytes) -> None:
        """The key is refused, and the server is asked whether it would do with SHA-1."""
        question = request(b"publickey", b"\0" + NS(b"ssh-rsa") + NS(blob_of(key_pair("rsa")[1])))
        self.assertEqual(self.refused(version=version, **extensions), [question])
        self.assertEqual(self.failures, [])

    def close(self) -> None:
        """The server closes the connection."""
        self.service.serviceStopped()

    def test_the_right_key_for_servers_with_sha1_only(self) -> None:
        """The server says so when it is asked; nothing is signed with SHA-1."""
        would = "would accept this key with a SHA-1 signature (ssh-rsa), which the legacy algorithms allow"
        for names in (b"ssh-rsa", b"ssh-ed25519,ssh-rsa", b"rsa-sha2-512,ssh-rsa", None):
            self.ask(**({} if names is None else {"server_sig_algs": names}))
            self.service.packetReceived(MSG_USERAUTH_METHOD, NS(b"ssh-rsa"))
            self.error(SignatureRefused, would, "may be the right one")
            self.assertEqual(self.transport.take(), [])

    def test_a_wrong_key_for_servers_with_sha1_only(self) -> None:
        for names in (b"ssh-rsa", b"rsa-sha2-512,ssh-rsa"):
            self.ask(server_sig_algs=names)
            self.assertEqual(self.refuse(b"publickey", b"password"), [])
            self.error(LoginRefused, "tried publickey (it is not accepted with a SHA-1 signature either); the server")

    def test_servers_that_close_instead_of_an_answer(self) -> None:
        self.ask(server_sig_algs=b"ssh-rsa")
        self.close()
        self.error(SignatureRefused, "with SHA-1 (ssh-rsa) only", "the legacy algorithms", "may be the right one")
        self.ask(server_sig_algs=b"rsa-sha2-512,ssh-rsa")
        self.close()
        self.error(LoginRefused, "tried publickey; the server offers")

    def test_not_asked_in_vain(self) -> None:
        """Each refusal may count against the address of the relay."""
        for kind, names in (("ed25519", b"ssh-rsa"), ("rsa", b"rsa-sha2-512,ssh-ed25519"), ("ecdsa", b"ssh-rsa")):
            self.assertEqual(self.refused(kind, server_sig_algs=names), [])
            (error,) = self.failures
            self.assertIsInstance(error, LoginRefused)

    def test_another_type(self) -> None:
        self.refused("ed25519", server_sig_algs=b"rsa-sha2-512,ecdsa-sha2-nistp256")
        self.error(SignatureRefused, "does not accept ssh-ed25519, only rsa-sha2-512,ecdsa-sha2-nistp256")
        self.refused(server_sig_algs=b"ssh-ed25519\x1b[2J")
        self.error(SignatureRefused, "does not accept rsa-sha2-512, only ssh-ed25519?[2J")

    def test_a_list_of_what_was_new(self) -> None:
        """OpenSSH 7.2 to 7.5 name what RSA keys may sign by, and take other keys as well."""
        self.refused("ed25519", server_sig_algs=b"rsa-sha2-256,rsa-sha2-512")
        self.error(LoginRefused, "tried publickey; the server offers")

    def test_closed_at_once(self) -> None:
        """As paramiko does at a signature that it does not take."""
        self.begin(key=parse_private_key(key_pair("rsa")[0]), password=PASSWORD, server_sig_algs=b"ssh-rsa")
        self.refuse(b"publickey", b"password")
        self.transport.told_to_leave = True
        self.transport.lost_reason = "it said “bye”"
        self.service.serviceStopped()
        error = self.error(SignatureRefused, "the legacy algorithms allow) (it said “bye”). The key may")
        assert isinstance(error, LoginRefused)
        self.assertEqual((error.keys_tried, error.password_left), (1, True))

    def test_a_wrong_key(self) -> None:
        self.refused("ed25519", server_sig_algs=b"ssh-ed25519,rsa-sha2-512,ssh-rsa")
        self.error(LoginRefused, "tried publickey; the server offers")

    def test_servers_that_do_not_say(self) -> None:
        for version, words in (
            (
                b"SSH-2.0-OpenSSH_6.6.1p1 Ubuntu-2ubuntu2",
                "SSH-2.0-OpenSSH_6.6.1p1 Ubuntu-2ubuntu2, accepts",
            ),
            (b"SSH-2.0-OpenSSH_7.1", "accepts RSA signatures with SHA-1 only"),
            (b"SSH-2.0-Cisco-1.25", "an old one accepts"),
            (b"SSH-2.0-OpenSSH_7.4", "an old one accepts"),
        ):
            self.ask(version)
            self.close()
            self.error(SignatureRefused, words, "the legacy algorithms")
        self.refused("ed25519", version=b"SSH-2.0-OpenSSH_6.6")
        self.error(LoginRefused, "tried publickey; the server offers")

    def test_beside_a_password(self) -> None:
        """Which is wrong for certain."""
        self.begin(key=parse_private_key(key_pair("rsa")[0]), password=PASSWORD, server_sig_algs=b"ssh-rsa")
        for _ in range(4):
            self.refuse(b"publickey", b"password")
        self.error(LoginRefused, "publickey (it is not accepted with a SHA-1 signature either) and password;")

    def test_by_the_policy_that_takes_them(self) -> None:
        for algorithm, accepted in ((b"ssh-rsa", b"ssh-rsa"), (b"ssh-rsa", None), (b"rsa-sha2-512", None)):
            self.assertIsNone(doubt_of(algorithm, accepted, LEGACY, b"SSH-2.0-OpenSSH_6.6"))

    def test_certificates(self) -> None:
        """The names that a server gives are those of plain keys."""
        for name in (b"rsa-sha2-512", b"ssh-ed25519"):
            self.assertIsNone(doubt_of(certified(name), b"ssh-ed25519,rsa-sha2-512", MODERN, b""))
            self.assertIsNotNone(doubt_of(certified(name), b"ecdsa-sha2-nistp256", MODERN, b""))
