"""Tests of `relayd.audit.events`: names that others choose, in a line of bounded length."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.events import clip, length_in_line


class ClipTests(SynchronousTestCase):
    """Names in the room that a line has for them."""

    @given(st.text(st.characters(), max_size=80), st.integers(60, 640))
    @example("\U0001f600" * 20, 239)
    @example("\x01" * 20, 119)
    def test_what_fits_stays(self, text: str, size: int) -> None:
        clipped = clip(text, size)
        self.assertLessEqual(length_in_line(clipped), size)
        self.assertEqual(clipped == text, length_in_line(text) <= size)
