"""
What is said with sudo and su, without either: when an answer is given, and when never.
"""

from __future__ import annotations

import re
import subprocess

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.become.dialogue import BecomeDialogue
from relayd.ssh.become.texts import Become, for_reader
from relayd.ssh.errors import (
    BecomeFailed,
    BecomeForbidden,
    BecomePasswordNeeded,
    BecomePasswordWrong,
    BecomePrompt,
    BecomeTerminalNeeded,
)
from relayd.ssh.target import Credential, Target

TARGET = Target("web1", 22, "me", Credential(password="login"))
SECRET = b"s3cret"
NOTHING = (b"", False)


def tool_output(text: bytes) -> bytes:
    """What a shell makes of a text."""
    return subprocess.run(["sh", "-c", text], capture_output=True, check=True, timeout=60).stdout


class DialogueCase(SynchronousTestCase):
    def begin(self, method: str = "sudo", password: bytes | None = SECRET, **more: bool) -> None:
        become = Become(method=method, password=password)  # type: ignore[arg-type]
        self.dialogue = BecomeDialogue(become, b"the command", b"its input", **more)
        (self.nonce,) = re.findall(rb"[0-9a-f]{32}", self.dialogue.start)

    def mark(self, word: bytes, end: bytes = b";\n") -> bytes:
        return b"relayd:%s:%s%s" % (self.nonce, word, end)

    @property
    def question(self) -> bytes:
        return self.mark(b"password", b";")

    def say(self, data: bytes, is_stderr: bool = True) -> tuple[bytes, tuple[bytes, bool]]:
        """What of *data* is output of the command, and what is sent in answer."""
        return self.dialogue.feed(data, is_stderr), self.dialogue.taken()

    def assert_failure(self, kind: type[BecomeFailed]) -> None:
        error = self.dialogue.failure(TARGET)
        self.assertEqual((type(error), error.executed), (kind, "no"))
        self.assertNotIn(SECRET.decode(), f"{error!r}{error.fields}")


class SudoTests(DialogueCase):
    def test_in_pieces_of_any_size(self) -> None:
        for size in range(1, 80):
            self.begin()
            told = b"motd\n" + self.mark(b"start") + b"A lecture.\n" + self.question
            begun = b"\n" + self.mark(b"ready 7 7 99") + b"output of the command"
            out, sent = b"", [NOTHING]
            for data in (told, begun):
                for at in range(0, len(data), size):
                    passed, answer = self.say(data[at : at + size])
                    out += passed
                    sent += [] if answer == NOTHING else [answer]
            last = (for_reader(b"the command") + b"its input", True)
            self.assertEqual(sent, [NOTHING, (SECRET + b"\n", False), last])
            self.assertEqual((out, self.dialogue.leader), (b"motd\noutput of the command", (7, 7, 99)))

    def test_nothing_is_answered_before_it_was_started(self) -> None:
        self.begin()
        self.assertEqual(self.say(self.question + b"[sudo] password for me: ")[1], NOTHING)

    def test_nothing_is_answered_after_the_command_has_begun(self) -> None:
        self.begin()
        self.say(self.mark(b"start") + self.mark(b"ready "))
        self.assertIsNone(self.dialogue.leader)
        asked = self.question + self.mark(b"start") + self.question
        self.assertEqual(self.say(asked), (asked, NOTHING))

    def test_another_question_is_not_answered(self) -> None:
        self.begin()
        self.say(self.mark(b"start"))
        for asked in (b"Password: ", b"[sudo] password for me: ", b"relayd:%s:password;" % (b"0" * 32)):
            self.assertEqual(self.say(asked)[1], NOTHING)

    def test_on_the_other_stream(self) -> None:
        """A program that runs before our text, or beside it, may write what it likes to the other output."""
        self.begin()
        everything = self.mark(b"start") + self.question + self.mark(b"ready 7 7 99")
        self.assertEqual(self.say(everything, False), (everything, NOTHING))
        self.begin(on_terminal=True)
        self.assertEqual(self.say(self.mark(b"start") + self.question, True)[1], NOTHING)
        self.assertEqual(self.say(self.mark(b"start") + self.question, False)[1], (SECRET + b"\n", False))

    def test_a_second_question_is_the_last(self) -> None:
        self.begin()
        self.say(self.mark(b"start") + self.question)
        self.assertEqual(self.say(b"Sorry, try again.\n" + self.question), (b"", (b"", True)))
        self.assertEqual(self.say(self.question + self.mark(b"ready 7 7 99")), (b"", NOTHING))
        self.assertFalse(self.dialogue.ready)
        self.assert_failure(BecomePasswordWrong)

    def test_without_a_password(self) -> None:
        self.begin(password=None)
        self.assertIn(b"sudo -H -n -u root", self.dialogue.start)
        self.assertEqual(self.say(self.mark(b"start") + self.question)[1], (b"", True))
        self.assert_failure(BecomePasswordNeeded)

    def test_words(self) -> None:
        for words, kind in (
            (b"sudo: sorry, you must have a tty to run sudo", BecomeTerminalNeeded),
            (b"sudo: a password is required", BecomePasswordNeeded),
            (b"me is not in the sudoers file.", BecomeForbidden),
            (b"Sorry, user me is not allowed to execute '/bin/sh' as root on web1.", BecomeForbidden),
            (b"sudo: unknown user app", BecomeFailed),
            (b"", BecomeFailed),
        ):
            self.begin()
            self.say(self.mark(b"start") + words)
            self.assert_failure(kind)

    def test_what_was_typed_is_not_quoted(self) -> None:
        """A terminal that repeats its input."""
        self.begin()
        self.say(self.mark(b"start") + self.question)
        self.say(SECRET + b"\nsudo: it does not work\n")
        self.assert_failure(BecomeFailed)
        self.assertIn("it does not work", str(self.dialogue.failure(TARGET)))

    def test_numbers_that_mean_all_processes(self) -> None:
        for numbers in (b"1 7 9", b"7 0 9", b"7 7", b"-1 7 9", b"7 7 x", b"9" * 30 + b" 7 9"):
            self.begin()
            self.say(self.mark(b"start") + self.mark(b"ready " + numbers))
            self.assertEqual((self.dialogue.ready, self.dialogue.leader), (True, None))

    def test_its_text_holds_no_secret_and_no_mark(self) -> None:
        for method in ("sudo", "su"):
            self.begin(method)
            self.assertNotIn(SECRET, self.dialogue.start + repr(self.dialogue).encode())
            for word in (b"start", b"password", b"ready", b"missing"):
                self.assertNotIn(b"relayd:%s:%s" % (self.nonce, word), self.dialogue.start)
                self.assertNotIn(b"the command", self.dialogue.start)


class SuTests(DialogueCase):
    def test_its_first_question(self) -> None:
        self.begin("su")
        self.say(self.mark(b"start"))
        self.assertEqual(self.say(b"Pass")[1], NOTHING)
        self.assertEqual(self.say(b"word:")[1], (SECRET + b"\n", False))
        self.assertEqual(self.say(b" ")[1], NOTHING)
        self.assertEqual(self.say(b"\nPassword: ")[1], (b"", True))
        self.assert_failure(BecomePasswordWrong)

    def test_other_questions(self) -> None:
        for asked in (b"Verification code: ", b"New password: ", b"Current password: ", b"Continue [y/N]?"):
            self.begin("su")
            self.say(self.mark(b"start"))
            self.assertEqual(self.say(asked)[1], (b"", True), asked)
            self.assert_failure(BecomePrompt)

    def test_its_messages_come_in_pieces(self) -> None:
        self.begin("su")
        self.say(self.mark(b"start") + b"Password: ")
        self.assertEqual(self.say(b"\nsu: ")[1], NOTHING)
        self.say(b"Authentication failure\n")
        self.assert_failure(BecomePasswordWrong)


class ReaderTests(SynchronousTestCase):
    def read(self, sent: bytes) -> bytes:
        """What a shell as on the other side makes of what it is sent."""
        start = BecomeDialogue(Become(), b"").start.partition(b"exec /bin/sh -c ")[2]
        reader = tool_output(b"printf %s " + start).partition(b"/bin/sh -c ")[2].rpartition(b' sh "$relayd_n"')[0]
        text = tool_output(b"printf %s " + reader)
        done = subprocess.run(
            ["sh", "-c", text, "sh", "0" * 32, "1", "", ""], input=sent, capture_output=True, check=False, timeout=60
        )
        return done.stdout

    @given(st.binary(max_size=40).filter(lambda text: b"\0" not in text and b"'" not in text))
    def test_any_text(self, text: bytes) -> None:
        self.assertEqual(self.read(for_reader(b"printf %s '" + text + b"'; cat") + b"rest"), text + b"rest")

    def test_a_part_of_a_command_is_not_run(self) -> None:
        sent = for_reader(b"echo one; echo two")
        self.assertEqual(self.read(sent), b"one\ntwo\n")
        for size in range(len(sent)):
            self.assertEqual(self.read(sent[:size]), b"", sent[:size])
