"""Tests of `relayd.audit.events`: names that others choose, in a line of bounded length."""

from __future__ import annotations

import json
from hashlib import sha256

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.events import LONGEST, clip, fit_record, length_in_line, order_fields
from relayd.wire.messages import Fetch, File
from tests.support.dispatching import command


class FilesTests(SynchronousTestCase):
    """The files of an order: their paths, sizes and digests, as many as there is room for."""

    def test_contents_are_not_in_the_line(self) -> None:
        order = command(files=(File(path="/x", content=b"secret"),), fetch=(Fetch(path="/y"),))
        _, _, fields = fit_record((0.0, "accepted", order_fields(order)), "digest", b"key", 0)
        self.assertEqual(fields["files"], [{"path": "/x", "size": 6, "sha256": sha256(b"secret").hexdigest()}])
        self.assertEqual(fields["fetch"], ["/y"])
        self.assertNotIn("filesCount", fields)

    @given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 4000))
    def test_the_line_stays_within_its_length(self, files: int, fetch: int, length: int) -> None:
        order = command(
            files=tuple(File(path=f"/{number:03}" + "x" * length) for number in range(files)),
            fetch=tuple(Fetch(path="/" + "x" * length) for _ in range(fetch)),
        )
        _, _, fields = fit_record((0.0, "accepted", order_fields(order)), "text", b"key", 0)
        self.assertLessEqual(len(json.dumps(fields)), LONGEST - 200)
        self.assertEqual("filesCount" in fields, len(fields.get("files", ())) < files)


class ClipTests(SynchronousTestCase):
    """Names in the room that a line has for them."""

    @given(st.text(st.characters(), max_size=80), st.integers(60, 640))
    @example("\U0001f600" * 20, 239)
    @example("\x01" * 20, 119)
    def test_what_fits_stays(self, text: str, size: int) -> None:
        clipped = clip(text, size)
        self.assertLessEqual(length_in_line(clipped), size)
        self.assertEqual(clipped == text, length_in_line(text) <= size)
