"""
Tests of `relayd.audit.lines`: lines are read as they were written, or not at all.
"""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.lines import GENESIS, decode_line, encode_line

#: Of no relay.
KEY = b"k" * 32


class LineTests(SynchronousTestCase):
    """One line."""

    def test_its_hash_is_that_of_the_bytes_before_it(self) -> None:
        line, digest = encode_line(7, 1e9 + 0.25, "accepted", {"host": "größe\n"}, GENESIS, KEY)
        read = decode_line(line[:-1])
        assert read is not None
        self.assertEqual(
            line.decode(),
            '{"seq":7,"time":"2001-09-09T01:46:40.250000Z","event":"accepted","host":"gr\\u00f6\\u00dfe\\n",'
            f'"prev":"{GENESIS}","mac":"{read.mac}","hash":"{digest}"}}\n',
        )
        self.assertEqual((read.seq, read.event, read.prev, read.hash), (7, "accepted", GENESIS, digest))

    @given(st.data())
    def test_any_other_byte_is_seen(self, data: st.DataObject) -> None:
        line = encode_line(1, 1e9, "accepted", {"host": "web1"}, GENESIS, KEY)[0][:-1]
        index = data.draw(st.integers(0, len(line) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[index]))
        self.assertIsNone(decode_line(line[:index] + bytes([byte]) + line[index + 1 :]))
        self.assertIsNone(decode_line(line[:index] + line[index + 1 :]))
        self.assertIsNone(decode_line(line[:index] + bytes([byte]) + line[index:]))

    @given(st.binary())
    def test_whatever_is_there_instead(self, content: bytes) -> None:
        self.assertIsNone(decode_line(content))

    def test_a_hash_alone_makes_no_line(self) -> None:
        whole = b'{"seq":1,"time":"","event":"","prev":""'
        for body in (
            b'{"seq":1',
            b'{"seq":"1","time":"","event":"","prev":""',
            b"{",
            whole.replace(b'"event":"', b'"event":"\xff'),  # neither of these is an error of msgspec's own
            whole + b',"x":' + b"[" * 5000 + b"]" * 5000,
        ):
            digest = sha256(body).hexdigest().encode()
            self.assertIsNone(decode_line(body + b',"hash":"' + digest + b'"}'))
