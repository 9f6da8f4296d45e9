"""
The words of a login that failed: `LoginReport`.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.language.texts import Text
from relayd.ssh.errors import LoginClosed, LoginDropped, LoginRefused, PromptUnknown, SignatureRefused
from relayd.ssh.login.identities import Identities
from relayd.ssh.login.login_report import LoginReport
from relayd.ssh.target import Credential, Target

PASSWORD = "s3cret"


class LoginReportTests(SynchronousTestCase):
    """`LoginReport`."""

    def report(self, identities: Identities | None = None) -> LoginReport:
        return LoginReport(Target("host", 22, "user", Credential(PASSWORD)), identities or Identities())

    def test_refused(self) -> None:
        report = self.report(Identities(remarks=("a remark",), tried_before=("publickey",)))
        report.tried.append("password")
        report.heard(f"no {PASSWORD} for you".encode())
        error = report.refused([b"publickey", PASSWORD.encode()])
        self.assertIs(type(error), LoginRefused)
        words = "tried publickey and password (a remark; it said “no *** for you”); the server offers publickey, ***."
        self.assertIn(words, str(error))
        self.assertIn("the server offers nothing.", str(report.refused([])))
        self.assertIn("the server offers ever more steps.", str(report.refused([b"x"], Text("ever more steps"))))

    def test_only_what_may_be_right(self) -> None:
        report = self.report()
        report.key_tried("publickey", Text("old server"))
        self.assertIs(type(report.refused([])), SignatureRefused)
        self.assertIs(type(report.closed(None)), SignatureRefused)
        report.key_tried("other key", None)
        self.assertIs(type(report.refused([])), LoginRefused)

    def test_closed(self) -> None:
        self.assertIsNone(self.report().closed(None))
        early = self.report()
        early.heard(b"welcome")
        error = early.closed("it said “bye”")
        self.assertIs(type(error), LoginDropped)
        self.assertIn("it said “welcome” and it said “bye”", str(error))
        self.assertFalse(early.answered)
        late = self.report()
        late.tried.append("password")
        error = late.closed(None)
        self.assertIs(type(error), LoginClosed)
        self.assertIn("it did not say why", str(error))
        self.assertNotIn(PASSWORD, str(late.closed(f"it said “{PASSWORD}”")))

    def test_words(self) -> None:
        report = self.report()
        report.heard(b" \n")
        self.assertEqual(report.words(), "")
        report.heard(b"banner")
        self.assertEqual((report.words(), report.answered), ("banner", False))
        report.tried.append("password")
        report.heard(b"answer")
        self.assertEqual((report.words(), report.answered), ("answer", True))

    def test_question(self) -> None:
        report = self.report()
        self.assertIs(type(report.unknown_prompt(b"Code:", [b"name"])), PromptUnknown)
        self.assertIn("“Code:”", str(report.unknown_prompt(b"Code:", [b"name"])))
        self.assertIn("“name”", str(report.unknown_prompt(b"", [b"name"])))
        self.assertIn("“an empty question”", str(report.unknown_prompt(b"", [])))
