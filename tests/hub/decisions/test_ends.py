"""
Tests of `relayd.hub.decisions.ends`.
"""

from __future__ import annotations

import inspect
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd import errors
from relayd.hub.decisions.ends import Rerun, Verdict, correction_of, end_of, is_rerun
from relayd.hub.decisions.states import CERTAINLY_NOT_RUN, ENDS, InvocationState
from relayd.language.errors import DescribedError
from relayd.ssh import errors as ssh_errors
from relayd.wire.parsing import parse_command_result


def verdict(exit_code: int = 1, error: dict[str, Any] | None = None) -> Verdict:
    result: dict[str, Any] = {"stdout": "", "stderr": "", "exitCode": exit_code}
    if error is not None:
        result["error"] = error
    return end_of(parse_command_result({"commandId": "c", "result": result}))


def error(code: str, executed: str, phase: str = "run") -> dict[str, Any]:
    return {"code": code, "phase": phase, "executed": executed, "retriable": False}


class EndTests(SynchronousTestCase):
    def test_an_exit_status(self) -> None:
        self.assertEqual(verdict(0), Verdict(InvocationState.SUCCEEDED))
        for status in (1, 2, 124, 137, -1):
            self.assertEqual(verdict(status), Verdict(InvocationState.FAILED))

    def test_errors_of_relayd(self) -> None:
        for code, executed, end in (
            ("timeout", "yes", "timed-out"),
            ("timeout", "no", "not-executed"),
            ("timeout", "unknown", "unknown"),
            ("cancelled", "yes", "cancelled"),
            ("cancelled", "no", "cancelled"),
            ("cancelled", "unknown", "unknown"),
            ("forbidden", "no", "refused"),
            ("forbidden-host", "no", "refused"),
            ("login-refused", "no", "not-executed"),
            ("shutting-down", "no", "not-executed"),
            ("outcome-unknown", "unknown", "unknown"),
            ("no-exit-status", "unknown", "unknown"),
            ("device-asked", "yes", "failed"),
            # There was a command of this id, and nobody knows how it ended.
            ("already-confirmed", "yes", "unknown"),
            ("duplicate-mismatch", "no", "unknown"),
        ):
            self.assertEqual(verdict(1, error(code, executed)), Verdict(InvocationState(end), code), (code, executed))

    def test_a_result_that_lost_its_output_on_the_way_keeps_its_exit_code(self) -> None:
        self.assertEqual(verdict(0, error("undeliverable", "yes")).end, "succeeded")
        self.assertEqual(verdict(3, error("undeliverable", "yes")).end, "failed")

    def test_every_error_of_relayd(self) -> None:
        """None that says that the command may have run is taken for one that did not."""
        classes = [
            each
            for module in (errors, ssh_errors)
            for _, each in inspect.getmembers(module, inspect.isclass)
            if issubclass(each, DescribedError)
        ]
        self.assertGreater(len(classes), 60)
        for each in classes:
            end = verdict(1, error(each.code, each.executed)).end
            if each.executed != "no":
                self.assertNotIn(end, CERTAINLY_NOT_RUN, each)
            else:
                self.assertNotIn(end, {InvocationState.SUCCEEDED, InvocationState.FAILED}, each)

    def test_words_of_another_program(self) -> None:
        """It has texts, and perhaps a field of the same name: never is it said that its command was not executed."""
        for other in (
            {},
            {"code": "ECONNREFUSED"},
            {"code": "x", "executed": "no"},
            {"code": "x", "phase": "y", "executed": False, "retriable": False},
            {"code": "x", "phase": "y", "executed": "never", "retriable": False},
            {"code": "x", "phase": "y", "executed": "no", "retriable": "no"},
            {"code": True, "phase": "y", "executed": "no", "retriable": True},
        ):
            self.assertEqual(verdict(1, other), Verdict(InvocationState.FAILED), other)
            self.assertEqual(verdict(0, other), Verdict(InvocationState.SUCCEEDED), other)

    @given(
        st.dictionaries(
            st.sampled_from(["code", "phase", "executed", "retriable"]),
            st.booleans() | st.sampled_from(["yes", "no", "unknown", "cancelled", "timeout", ""]),
        ),
        st.integers(-300, 300),
    )
    def test_any_error(self, described: dict[str, Any], exit_code: int) -> None:
        self.assertIn(verdict(exit_code, described).end, ENDS)


class LateTests(SynchronousTestCase):
    def test_unknown_becomes_what_the_result_says(self) -> None:
        for had_result in (False, True):
            for end in ENDS - {InvocationState.UNKNOWN}:
                correction = correction_of(InvocationState.UNKNOWN, had_result, Verdict(end))
                assert correction is not None
                self.assertEqual((correction.end, correction.former, correction.contradicts), (end, "unknown", False))

    def test_what_was_said_to_be_certain_is_contradicted(self) -> None:
        for end in (*CERTAINLY_NOT_RUN, InvocationState.CANCELLED):
            correction = correction_of(end, False, Verdict(InvocationState.SUCCEEDED))
            assert correction is not None
            self.assertEqual(
                (correction.end, correction.former, correction.contradicts), (InvocationState.SUCCEEDED, end, True)
            )

    def test_a_refusal_that_says_more_contradicts_nothing(self) -> None:
        correction = correction_of(InvocationState.REFUSED, False, Verdict(InvocationState.NOT_EXECUTED, "overloaded"))
        assert correction is not None
        self.assertFalse(correction.contradicts)

    def test_a_result_is_final(self) -> None:
        for former in ENDS - {InvocationState.UNKNOWN}:
            for end in ENDS:
                self.assertIsNone(correction_of(former, True, Verdict(end)))

    def test_it_does_not_become_unknown(self) -> None:
        for former in ENDS:
            for had_result in (False, True):
                self.assertIsNone(correction_of(former, had_result, Verdict(InvocationState.UNKNOWN)))

    def test_what_has_not_ended_is_not_corrected(self) -> None:
        self.assertRaises(ValueError, correction_of, InvocationState.SENT, False, Verdict(InvocationState.FAILED))


class RerunTests(SynchronousTestCase):
    def test_which(self) -> None:
        sent = {which: {end for end in ENDS if is_rerun(which, end, True)} for which in Rerun}
        self.assertEqual(sent[Rerun.ALL], ENDS)
        self.assertEqual(sent[Rerun.UNKNOWN], {InvocationState.UNKNOWN})
        self.assertEqual(sent[Rerun.CERTAINLY_NOT_RUN], CERTAINLY_NOT_RUN)
        self.assertEqual(sent[Rerun.FAILED], ENDS - {InvocationState.SUCCEEDED, InvocationState.UNKNOWN})

    def test_what_was_cancelled_before_it_was_sent_certainly_did_not_run(self) -> None:
        self.assertTrue(is_rerun(Rerun.CERTAINLY_NOT_RUN, InvocationState.CANCELLED, False))
        self.assertFalse(is_rerun(Rerun.CERTAINLY_NOT_RUN, InvocationState.CANCELLED, True))
