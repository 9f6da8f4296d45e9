"""
What goes before a command that brings a directory or variables: as shells read it, and the marks in the output.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.channels.surroundings import Progress, surround
from relayd.ssh.errors import DirectoryUnusable, ShellUnsuitable, VariablesRefused
from tests.support.ssh import tool

#: How each is called with a text; a login shell that is restricted has a test of its own.
SHELLS = {
    name: [path, *more, "-c"]
    for name, *more in (
        ("sh",), ("bash",), ("dash",), ("ksh",), ("mksh",), ("zsh", "-f"), ("busybox", "sh"), ("fish", "--no-config"),
        ("bsd-csh", "-f"), ("tcsh", "-f"),
    )
    if (path := shutil.which(name))
}  # fmt: skip
MARK = b"relayd:0123456789abcdef\n"

#: Whatever means something to some shell, and the rest.
VALUES = st.text(
    st.sampled_from("'\"\\`!$(){}[]<>|&;*?~#=%^ \t\n\r-/ab:é日")
    | st.characters(exclude_characters="\0", codec="utf-8"),
    max_size=12,
)


class TextTests(SynchronousTestCase):
    """`surround`."""

    def test_nothing_asked_for(self) -> None:
        """Then it is what the specification's example sends, to the byte."""
        for directory, expected in (
            (b"/", b"cd / ; echo '\xff'\n!"),
            (b"", b"echo '\xff'\n!"),
            (b"~", b"cd ~ ; echo '\xff'\n!"),
            (b"~me/a b", b"cd ~me/'a b' ; echo '\xff'\n!"),
        ):
            self.assertEqual(surround(b"echo '\xff'\n!", b"", directory, ()), (expected, None))

    def test_variables_are_left_to_the_protocol(self) -> None:
        self.assertEqual(surround(b"true", b"", b"", (("A", b"1"),)), (b"true", None))

    def test_stages(self) -> None:
        env = (("A", b"1"),)
        for cwd, variables, stages in (
            (b"/x", (), [ShellUnsuitable, DirectoryUnusable, ShellUnsuitable]),
            (b"", env, [ShellUnsuitable, VariablesRefused, ShellUnsuitable]),
            (b"/x", env, [ShellUnsuitable, DirectoryUnusable, VariablesRefused, ShellUnsuitable]),
        ):
            text, progress = surround(b"true", cwd, b"/", variables)
            assert progress is not None
            self.assertEqual(progress._stages, stages)
            # A host that repeats what it was told does not tell that it did it.
            self.assertNotIn(progress._mark.strip(), text)
            self.assertEqual(progress.feed(text), text)
            self.assertIs(progress.missing, ShellUnsuitable)

    def test_no_two_have_the_same_mark(self) -> None:
        self.assertEqual(len({surround(b"true", b"/", b"/", ())[0] for _ in range(100)}), 100)

    def test_powershell_reads_none_of_it(self) -> None:
        """It parses all of a text before it runs any, and ``<`` is reserved there; cmd.exe ends at the first line."""
        text, _ = surround(b"format c:", b"/tmp", b"/", (("A", b"1\n"),))
        self.assertTrue(text.startswith(b"true </dev/null && "))
        self.assertTrue(text.endswith(b"\nformat c:"))
        self.assertIn(b" || exit 1 || ", text.partition(b"\n")[0])

    @settings(max_examples=20)
    @example(["it's \\'", "!x \\!y !", "'\n\n!\n\\\n", '$(id) `id` "$HOME" ~ * {a,b}'], 'x!y \'z\\ "$HOME"')
    @given(st.lists(VALUES, min_size=1, max_size=3), VALUES.map(lambda name: "x" + name.translate(NO_PLACE)))
    def test_every_shell_reads_it_the_same(self, values: list[str], name: str) -> None:
        self.check([value.encode() for value in values], name.encode())

    def test_character_sets_with_backslashes_in_them(self) -> None:
        """The second byte of a character of GBK, Big5 or Shift JIS may be a backslash, and look like others."""
        for charset, text in (("gbk", "\u8a98\u6211"), ("big5", "\u529f\u8a31"), ("shift_jis", "\u8868\u30bd")):
            written = text.encode(charset)
            self.check([written, written[:2] + b"'!\n" + written, written[:1], b"\xff\xfe!"], b"x" + written)

    def check(self, values: list[bytes], name: bytes) -> None:
        root = tempfile.mkdtemp(prefix="relayd-test-")
        self.addCleanup(tool, "rm", "-rf", root)
        place = root.encode() + b"/" + name
        os.mkdir(place)
        env = tuple((f"A{number}", value) for number, value in enumerate(values))
        for shell, argv in SHELLS.items():
            for locale in ("C", "C.UTF-8"):
                text, progress = surround(b"pwd -P; env -0", place, b"/", env)
                assert progress is not None
                variables = {"PATH": os.environ["PATH"], "LC_ALL": locale}
                done = subprocess.run([*argv, text], capture_output=True, check=False, timeout=60, env=variables)
                output = progress.feed(done.stdout)
                self.assertIsNone(progress.missing, (shell, locale, done))
                where, _, rest = output.partition(b"\n")
                self.assertEqual((shell, locale, where, done.stderr), (shell, locale, place, b""))
                found = dict(line.partition(b"=")[::2] for line in rest.split(b"\0"))
                self.assertEqual({key: found.get(key.encode()) for key, _ in env}, dict(env), (shell, locale))

    def test_nothing_runs_after_a_stage_that_failed(self) -> None:
        """csh gives up a line on some mistakes, and goes on with the next one."""
        broken = b"set path=(/no/such) ; "
        for shell, argv in SHELLS.items():
            text, progress = surround(b"echo no\necho no", b"/no/such/place", b"/", (("A", b"1\n2"),))
            assert progress is not None
            before = (text, broken + text, broken + text.partition(b"\n")[2]) if "csh" in shell else (text,)
            for each in before:
                done = subprocess.run([*argv, each], capture_output=True, check=False, timeout=60)
                self.assertNotIn(b"no\n", done.stdout, (shell, done))
                self.assertTrue(done.returncode, (shell, done))


class ProgressTests(SynchronousTestCase):
    """`Progress`."""

    @given(
        st.lists(st.binary(max_size=30) | st.sampled_from([MARK[:9], MARK[1:], MARK[:-1], b"r", b"re"]), max_size=6),
        st.lists(st.integers(0, 200)),
    )
    def test_any_packets(self, noise: list[bytes], cuts: list[int]) -> None:
        """What is no mark comes out, in its order, however it was cut."""
        noise = [piece.replace(MARK, b"") for piece in noise] + [b"", b""]
        sent = noise[0] + MARK + noise[1] + MARK + b"".join(noise[2:]) + MARK
        if sent.count(MARK) != 3:
            return  # two pieces of noise made one
        progress = Progress(MARK, [ShellUnsuitable, DirectoryUnusable])
        edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
        got = b"".join(progress.feed(sent[start:end]) for start, end in pairwise(edges))
        self.assertIsNone(progress.missing)
        # What comes after the last one is the command's own.
        self.assertEqual(got, noise[0] + noise[1] + b"".join(noise[2:]) + MARK)

    def test_what_only_begins_like_a_mark(self) -> None:
        progress = Progress(MARK, [ShellUnsuitable])
        self.assertEqual(progress.feed(b"Error"), b"Erro")
        self.assertEqual((progress.rest(), progress.rest()), (b"r", b""))

    def test_how_far_it_came(self) -> None:
        progress = Progress(MARK, [ShellUnsuitable, DirectoryUnusable])
        self.assertEqual(progress.feed(b"Welcome\nrelay"), b"Welcome\n")
        self.assertIs(progress.missing, ShellUnsuitable)
        self.assertEqual(progress.feed(MARK[5:] + b"/a\n"), b"/a\n")
        self.assertIs(progress.missing, DirectoryUnusable)
        self.assertEqual(progress.feed(MARK + b"out"), b"out")
        self.assertIsNone(progress.missing)


#: What no name of a directory has here: ends of lines, which ``cwd`` cannot have, and what would be another directory.
NO_PLACE = dict.fromkeys(map(ord, "\n\r/\0"), "_")
