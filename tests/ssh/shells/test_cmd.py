"""
The text for cmd.exe. What the real one, and Wine's, make of it: `tests.peers.test_windows`.
"""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.errors import CommandLineTooLong, DirectoryUnusable, ShellUnsuitable, UnfitForShell, VariablesRefused
from relayd.ssh.shells import cmd
from relayd.ssh.shells.prepared import Order, Prepared

#: Whatever means something to cmd.exe, and the rest.
VALUES = st.text(
    st.sampled_from("\"%!^&|<>()=,;`'*?~@ \t:/\\aé日") | st.characters(exclude_characters="\0\r\n", codec="utf-8"),
    max_size=12,
)


def prepared(command: str = "dir", **changes: object) -> Prepared:
    return cmd.prepare(Order(command=command, **changes), "win.example", 22)  # type: ignore[arg-type]


class TextTests(SynchronousTestCase):
    """`cmd.prepare`."""

    def test_stages(self) -> None:
        env = (("A", "1"),)
        for fields, stages in (
            ({}, []),
            ({"cwd": "C:\\x"}, [DirectoryUnusable]),
            ({"env": env}, [VariablesRefused]),
            ({"cwd": "C:\\x", "env": env, "directory": "D:\\"}, [DirectoryUnusable, VariablesRefused]),
        ):
            made = prepared(**fields)
            assert made.progress is not None
            self.assertEqual(made.progress._stages, [ShellUnsuitable, *stages, ShellUnsuitable])
            # A host that repeats what it was told does not tell that it did it.
            self.assertEqual(made.progress.feed(made.text), made.text)
            self.assertIs(made.progress.missing, ShellUnsuitable)
            self.assertIn(made.needle.encode(), made.text)
            self.assertEqual(made.ended_by, "windows")

    def test_nobody_else_has_its_mark(self) -> None:
        self.assertEqual(len({prepared().needle for _ in range(100)}), 100)

    def test_the_first_shell_sees_no_value_as_code(self) -> None:
        """Its quotation marks and operators are all behind carets, and after ``%ComSpec%`` it replaces nothing."""
        text = prepared(
            'echo "a&b" %OS% | more', cwd="C:\\a & b", env=(("A", '"&calc&"'), ("B", "%PATH%"))
        ).text.decode()
        rest = text.partition("%ComSpec%")[2].partition(" /c ")[2]
        self.assertEqual(re.findall(r'(?<!\^)(?:\^\^)*(["&|<>()])', rest), [])
        self.assertEqual(rest.count("%"), 1)

    @given(VALUES, VALUES, VALUES)
    def test_the_second_shell_sees_no_value_as_code(self, command: str, cwd: str, value: str) -> None:
        """Between two quotation marks, there is nothing that ends them, or is replaced, other than our variables."""
        text = prepared(command, cwd="C:\\" + cwd.replace('"', ""), env=(("A", value),)).text.decode()
        inner = re.sub(r"\^(.)", r"\1", text.partition(" /c ")[2])[1:-1].replace('set _3=^"&', "set _3=&", 1)
        outside = "".join(part for part in inner.split('"')[::2])
        # What is outside of quotation marks is ours: it is the same for every value.
        same = prepared("x", cwd="C:\\x", env=(("A", "x"),)).text.decode()
        same = re.sub(r"\^(.)", r"\1", same.partition(" /c ")[2])[1:-1]
        expected = "".join(part for part in same.split('"')[::2])
        self.assertEqual(_plain(outside), _plain(expected))
        for quoted in inner.split('"')[1::2]:
            self.assertEqual(quoted.replace("_2=%", "").count("%"), 0)
            self.assertEqual(re.sub(r"!_\d!|!ComSpec!|!USERPROFILE!", "", quoted).count("!"), 0)

    def test_variables_that_are_named_as_ours(self) -> None:
        for name in ("_1", "___2", "_"):
            text = prepared("echo %x%", env=((name, "%"),)).text.decode()
            self.assertNotIn(f"!{name}!", text)
            self.assertEqual(text.count(f"{name}=!_"), 1)

    def test_the_shell_that_runs_it_is_not_one_of_the_variables(self) -> None:
        text = prepared(env=(("ComSpec", "C:\\evil.exe"),)).text.decode()
        self.assertLess(text.index('set ^"_0=!ComSpec!'), text.index("ComSpec=C:\\evil.exe"))
        self.assertTrue(re.search(r"&!_0! /d /v:off /s /c ", text))

    def test_character_sets(self) -> None:
        for charset, expected in (
            ("utf-8", "chcp.com 65001 "), ("gbk", "chcp.com 936 "), ("cp850", "chcp.com 850 "),
            ("iso8859-1", "chcp.com 28591 "), ("shift_jis", "chcp.com 932 "),
        ):  # fmt: skip
            self.assertIn(expected, prepared(charset=charset).text.decode())
        # One that Windows does not have: it keeps its own.
        self.assertNotIn("chcp", prepared(charset="mac_roman").text.decode())

    def test_text_is_always_utf_8(self) -> None:
        """OpenSSH for Windows reads it so, whatever the host's code page is."""
        self.assertIn("é日".encode(), prepared("echo é日", charset="gbk").text)

    def test_what_cannot_be_written(self) -> None:
        for fields, words in (
            ({"command": "a\nb"}, "several lines"),
            ({"command": "a\r\nb"}, "several lines"),
            ({"env": (("A", "1\n2"),)}, "variable A has a line end"),
            ({"cwd": 'C:\\"x'}, "quotation mark"),
        ):
            error = self.assertRaises(UnfitForShell, prepared, **fields)
            self.assertIn(words, str(error))
            self.assertEqual((error.code, error.executed), ("unfit-for-shell", "no"))
        # The end of the only line is no second one.
        self.assertIn(b"_1=dir^", prepared("dir\r\n").text)

    def test_length(self) -> None:
        prepared("x" * 7800)
        error = self.assertRaises(CommandLineTooLong, prepared, "x" * 8000)
        self.assertEqual((error.code, error.executed), ("command-too-long", "no"))
        self.assertIn("8191", str(error))
        # In UTF-16, as Windows counts
        self.assertRaises(CommandLineTooLong, prepared, "\U0001f41f" * 4000)

    def test_secrets_are_not_shown(self) -> None:
        self.assertNotIn("hidden", repr(prepared("hidden")) + repr(Order(command="hidden")))


def _plain(text: str) -> str:
    """Without nonces, and without the variables that only some texts need."""
    text = re.sub(r"\^?[0-9a-f]{16}", "NONCE", text)
    return re.sub(r"set (_\d=)?&", "", text).replace("&", "")
