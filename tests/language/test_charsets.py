"""
Character sets of hosts: names, decoding in any pieces, and that a shell never sees another text than the site's rules.
"""

from __future__ import annotations

import encodings
import encodings.aliases
from itertools import pairwise
from pkgutil import iter_modules

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.language.charsets import (
    Decoder,
    Unwritable,
    charset,
    has_ascii,
    has_shifts,
    in_the_middle,
    is_single_byte,
    write_text,
)
from relayd.ssh.channels.output import OutputBuffer

NAMES = {module.name for module in iter_modules(encodings.__path__)} | set(encodings.aliases.aliases)
SETS = sorted({found for name in NAMES if (found := charset(name)) is not None})
TEXTS = st.text(st.sampled_from("aZ0 \n'\\|`~中文字表ソ巪功あ가éß€ñ"), max_size=30)


def decoded(name: str, *pieces: bytes) -> str:
    decoder = Decoder(name)
    return "".join(map(decoder.decode, pieces)) + decoder.decode(b"", final=True)


class NameTests(SynchronousTestCase):
    def test_known(self) -> None:
        for name, found in (
            ("GBK", "gbk"), ("cp936", "gbk"), ("GB18030", "gb18030"), ("gb2312", "gb2312"), ("Big5", "big5"),
            ("Shift_JIS", "shift_jis"), ("latin-1", "iso8859-1"), ("ISO-8859-1", "iso8859-1"), ("UTF-16", "utf-16"),
            ("utf8", "utf-8"), ("UTF-8", "utf-8"), ("windows-1252", "cp1252"), ("koi8-r", "koi8-r"), ("cp866", "cp866"),
            ("euc-kr", "euc_kr"), ("us-ascii", "ascii"),
        ):  # fmt: skip
            self.assertEqual(charset(name), found)
            self.assertEqual(charset(found), found)
        self.assertGreater(len(SETS), 90)

    def test_unknown(self) -> None:
        """What is no text, or for names of hosts and Python's own sources only."""
        for name in ("rot13", "rot_13", "base64", "hex", "zlib", "bz2", "zip", "uu", "quopri", "idna", "punycode",
                     "unicode_escape", "unicode-escape", "raw_unicode_escape", "undefined", "charmap", "mbcs", "oem",
                     "utf-7", "u7", "aliases", "", " ", "x" * 1000, "gbk\0", "../gbk", "ｇｂｋ", "?"):  # fmt: skip
            self.assertIsNone(charset(name), name)

    @given(st.text(max_size=50))
    def test_python_is_not_asked(self, name: str) -> None:
        """It would keep each name that there is not, for ever."""
        before = len(encodings._cache)  # type: ignore[attr-defined]
        found = charset(name)
        self.assertTrue(found is not None or len(encodings._cache) == before)  # type: ignore[attr-defined]

    def test_kinds(self) -> None:
        for name in ("iso8859-1", "cp1252", "koi8-r", "cp037"):
            self.assertTrue(is_single_byte(name), name)
        for name in ("utf-8", "gbk", "big5", "shift_jis", "utf-16", "hz", "iso2022_jp"):
            self.assertFalse(is_single_byte(name), name)
        self.assertFalse(any(map(has_ascii, ("utf-16", "utf-32", "cp037", "cp500"))))
        self.assertTrue(all(map(has_shifts, ("hz", "iso2022_jp", "iso2022_kr"))))
        self.assertFalse(any(map(has_shifts, ("gbk", "big5", "euc_jp", "utf-8", "cp1252"))))


class DecoderTests(SynchronousTestCase):
    @given(st.sampled_from(SETS), st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=8))
    def test_anything_in_any_pieces(self, name: str, data: bytes, cuts: list[int]) -> None:
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        pieces = [data[start:end] for start, end in pairwise(edges)]
        self.assertEqual(decoded(name, *pieces), decoded(name, *(bytes([byte]) for byte in data)))

    @given(st.sampled_from(SETS), TEXTS)
    def test_what_was_written(self, name: str, text: str) -> None:
        try:
            data = text.encode(name)
            if data.decode(name) != text:
                return
        except UnicodeError:
            return
        self.assertEqual(decoded(name, *(bytes([byte]) for byte in data)), text)

    def test_words_without_a_mark(self) -> None:
        """Python's own decoder raises an error there; Windows writes none."""
        for name, order in (("utf-16", "utf-16-le"), ("utf-32", "utf-32-le")):
            self.assertEqual(decoded(name, "dir 中".encode(order)), "dir 中")
        self.assertEqual(decoded("utf-16", b"\xfe\xff\0a"), "a")
        self.assertEqual((decoded("utf-16"), decoded("utf-16", b"a")), ("", "\ufffd"))
        self.assertEqual(in_the_middle("utf-16", b"\xfe\xff\0a"), "utf-16-be")

    @given(st.sampled_from(SETS), st.binary(max_size=200), st.integers(2, 60))
    def test_any_output(self, name: str, data: bytes, limit: int) -> None:
        kept = OutputBuffer(limit)
        kept.append(data)
        kept.taken().text(charset=name)

    def test_output_that_is_cut(self) -> None:
        """No half of a character at either side of a cut, wherever it falls."""
        text = "中文 字\n" * 40
        for name in ("gbk", "gb18030", "big5", "euc_kr", "shift_jis", "utf-16", "utf-16-be", "utf-32", "utf-8", "hz"):
            data = text.replace("中文", "가나").encode(name, "ignore") if name == "euc_kr" else text.encode(name)
            for limit in range(90, 102):
                kept = OutputBuffer(limit)
                kept.append(data)
                read = kept.taken().text(charset=name)
                self.assertNotIn("\ufffd", read, (name, limit))
                self.assertIn("bytes cut here]", read)
                if name != "euc_kr":
                    head, tail = read.split("\n[relayd: ")[0], read.rsplit("cut here]\n", 1)[1]
                    self.assertTrue(text.startswith(head), (name, limit, read))
                    self.assertTrue(text.strip().endswith(tail), (name, limit, read))

    def test_output_without_ascii_that_is_cut(self) -> None:
        """Nothing there tells the first byte of a character from its second but how what follows can be read."""
        chinese, kana = "".join(map(chr, range(0x4E00, 0x5000))), "".join(map(chr, range(0x3041, 0x3094)))
        for name, line in (
            ("gbk", chinese), ("gb2312", chinese), ("gb18030", chinese), ("big5", chinese), ("big5hkscs", chinese),
            ("cp950", chinese), ("shift_jis", kana * 9), ("cp932", kana * 9), ("euc_jp", kana * 9),
            ("johab", "".join(map(chr, range(0xAC00, 0xAE00)))), ("gb18030", "😀😃文" * 200),
            ("utf-16", "😀😃文" * 200), ("utf-16-be", "😀文😃" * 200), ("utf-16-le", "😀文😃" * 200),
        ):  # fmt: skip
            data = (line * 3 + "\n").encode(name, "ignore")
            text = data.decode(name).strip()
            for limit in range(1200, 1212):
                kept = OutputBuffer(limit)
                kept.append(data)
                head, tail = kept.taken().text(charset=name).split("\n[relayd: ")
                self.assertTrue(text.startswith(head), (name, limit, head))
                tail = tail.split("\n", 1)[1]
                self.assertTrue(text.endswith(tail), (name, limit, tail))
                self.assertGreater(len(tail.encode(name)), 100, (name, limit))

    def test_a_set_that_is_named_at_the_beginning_only(self) -> None:
        text = "가나다라\n" * 99
        kept = OutputBuffer(400)
        kept.append(text.encode("iso2022_kr"))
        head, tail = kept.taken().text(charset="iso2022_kr").split("\n[relayd: ")
        self.assertTrue(text.startswith(head) and text.strip().endswith(tail.split("\n", 1)[1]), (head, tail))

    def test_nothing_waits_for_long(self) -> None:
        """What a decoder keeps it reads again with each piece: a host could have that grow with all that it writes."""
        for name in SETS:
            for piece in (
                b"+AAAA",
                b"A" * 5,
                b"\xff" * 5,
                b"\x81\x30" * 2,
                b"\x1b$)C",
                b"~{!!",
                b"\xd8" * 5,
                b"\x8f" * 5,
            ):
                decoder = Decoder(name)
                decoder.decode(piece[:1] + piece[1:] * 200)
                self.assertLessEqual(decoder.pending, 16, (name, piece))


class WritingTests(SynchronousTestCase):
    """Rules are about texts; shells see bytes."""

    @given(st.sampled_from(SETS), TEXTS)
    def test_a_shell_sees_the_same_ascii(self, name: str, text: str) -> None:
        """In whatever character set it reads: so that no rule of the site can be got round."""
        try:
            data = write_text(text, name, exactly=True)
        except Unwritable:
            self.assertFalse(text.isascii())
            return
        self.assertEqual(bytes(byte for byte in data if byte < 0x80).decode(), "".join(c for c in text if c.isascii()))
        if name != "utf-8-sig":
            self.assertEqual(data.decode(name) if not text.isascii() else text, text)

    def test_second_bytes(self) -> None:
        """The second byte of these is a pipe, a backslash, and a backquote."""
        for name, char, byte in (("gbk", "巪", b"|"), ("big5", "功", b"\\"), ("shift_jis", "表", b"\\")):
            self.assertIn(byte, write_text(f"echo {char}", name, exactly=False))
            self.assertRaises(Unwritable, write_text, f"echo {char}", name, exactly=True)
        self.assertEqual(write_text("echo 中文", "gbk", exactly=True), "echo 中文".encode("gbk"))

    def test_no_other_character(self) -> None:
        """Python writes a yen sign as a backslash in some sets, and an overline as a tilde."""
        for name in SETS:
            for char in "¥‾₩":
                for exactly in (True, False):
                    try:
                        written = write_text(f"echo {char}n", name, exactly=exactly)
                    except Unwritable:
                        continue
                    self.assertFalse(written.isascii(), name)
        self.assertRaises(Unwritable, write_text, "echo ¥n", "shift_jis", exactly=False)
        # a wave dash as Unix maps it, which Windows maps otherwise: the same on the host
        self.assertEqual(write_text("echo 〜", "cp932", exactly=False), "echo ～".encode("cp932"))

    def test_not_for_shells(self) -> None:
        for name in ("utf-16", "utf-32", "hz", "iso2022_jp", "cp037"):
            self.assertRaises(Unwritable, write_text, "echo 中", name, exactly=False)
            self.assertEqual(write_text("echo a", name, exactly=True), b"echo a")
        for name, text in (("iso8859-1", "中"), ("ascii", "é"), ("gbk", "가")):
            self.assertRaises(Unwritable, write_text, text, name, exactly=False)
