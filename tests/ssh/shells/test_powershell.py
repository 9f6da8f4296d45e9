"""
The text for PowerShell.  There is none here: base64 and iconv show that the script is the one that was meant.
"""

from __future__ import annotations

import re
import subprocess
from base64 import b64decode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.errors import DirectoryUnusable, ShellUnsuitable, VariablesRefused
from relayd.ssh.shells import powershell
from relayd.ssh.shells.prepared import Order, Prepared

#: Whatever means something to PowerShell, and the rest; it has several quotation marks.
VALUES = st.text(st.sampled_from("'\"`$(){}[]@#;|&<>%,\n\r\t ‘’‚‛“”„aé日") | st.characters(codec="utf-8"), max_size=20)


def base64_of(made: Prepared) -> bytes:
    """The last word of the first line."""
    return made.text.partition(b"\n")[0].rpartition(b" ")[2]


def script_of(made: Prepared) -> str:
    """The script as PowerShell decodes it."""
    return b64decode(base64_of(made)).decode("utf-16-le")


def values_in(script: str) -> list[str]:
    """The texts that are in it as base64."""
    return [b64decode(data).decode() for data in re.findall(r"FromBase64String\('([A-Za-z0-9+/=]*)'\)", script)]


class TextTests(SynchronousTestCase):
    """`powershell.prepare`."""

    def test_both_shells_of_windows_read_the_same_line(self) -> None:
        """There is nothing in it that cmd.exe or PowerShell would take for its own."""
        made = powershell.prepare(Order(command="Get-Date; 'é' & \"%x%\"", env=(("A", "%'"),)))
        self.assertTrue(re.fullmatch(rb"powershell( -[A-Za-z]+( [A-Za-z]+)?)+ [A-Za-z0-9+/=]+", made.text), made.text)
        self.assertIn(b" -NoProfile -NonInteractive ", made.text)

    def test_status_within_powershell(self) -> None:
        """A PowerShell that the server starts is told to pass it on; cmd.exe is told nothing."""
        for within, rest in ((True, b"exit $LASTEXITCODE"), (False, b"")):
            made = powershell.prepare(Order(command="x"), within=within)
            self.assertEqual(made.text.partition(b"\n")[2], rest)

    def test_another_decoder_reads_it(self) -> None:
        made = powershell.prepare(Order(command="Get-Date"))
        data = base64_of(made)
        decoded = subprocess.run(
            ["sh", "-c", "base64 -d | iconv -f UTF-16LE -t UTF-8"],
            input=data,
            capture_output=True,
            check=True,
            timeout=60,
        )
        self.assertEqual(decoded.stdout.decode(), script_of(made))

    @given(VALUES, VALUES, VALUES)
    def test_no_value_is_code(self, command: str, cwd: str, value: str) -> None:
        """All that comes from outside is base64; the rest of the script is the same whatever that is."""
        script = script_of(powershell.prepare(Order(command=command, cwd="C:\\" + cwd, env=(("A", value),))))
        found = values_in(script)
        self.assertEqual(found[:2], ["C:\\" + cwd, value])
        self.assertEqual(found[2], command + powershell._STATUS)
        other = script_of(powershell.prepare(Order(command="x", cwd="C:\\x", env=(("A", "x"),))))
        self.assertEqual(_bare(script), _bare(other))

    def test_stages(self) -> None:
        for fields, stages in (
            ({}, []),
            ({"cwd": "C:\\x"}, [DirectoryUnusable]),
            ({"env": (("A", ""),)}, [VariablesRefused]),
            ({"directory": "D:\\"}, []),
        ):
            made = powershell.prepare(Order(command="x", **fields))
            assert made.progress is not None
            self.assertEqual(made.progress._stages, [ShellUnsuitable, *stages, ShellUnsuitable])
            script = script_of(made)
            tells = re.findall(r"Write\('relayd:'\+'([0-9a-f]{16})'\+\[char\]10\)", script)
            self.assertEqual(len(tells), 2 + len(stages))
            self.assertEqual(made.progress._mark, f"relayd:{tells[0]}\n".encode())
            self.assertNotIn(made.progress._mark.strip().decode(), script)
            self.assertIn(made.needle.encode(), made.text)
            # The site's directory is one that the command runs without, if it must.
            self.assertEqual(script.count("exit 1"), len(stages))

    def test_character_sets(self) -> None:
        for charset, words in (("utf-8", "UTF8Encoding $false"), ("gbk", "GetEncoding(936)")):
            script = script_of(powershell.prepare(Order(command="x", charset=charset)))
            self.assertIn(words, script)
            self.assertIn("[Console]::OutputEncoding", script)
        self.assertNotIn("Encoding=", script_of(powershell.prepare(Order(command="x", charset="mac_roman"))))

    def test_status_of_the_last_statement(self) -> None:
        """Also after a comment, and a line that goes on."""
        for command in ("cmd /c exit 3 # done", "Get-Date `", "Get-Item x"):
            text = values_in(script_of(powershell.prepare(Order(command=command))))[-1]
            self.assertTrue(text.startswith(command + "\n"))

    def test_long_script_goes_by_standard_input(self) -> None:
        """Before that of the command, in as many bytes as the line says."""
        command = "# é\n" * 2000
        short, made = (powershell.prepare(Order(command=text, stdin=b"in")) for text in ("x", command))
        self.assertEqual(short.stdin, b"in")
        self.assertLess(len(made.text), 8000)
        size = int(re.findall(r"New-Object byte\[\] (\d+);", script_of(made))[0])
        self.assertEqual(made.stdin[size:], b"in")
        sent = made.stdin[:size].decode()
        self.assertEqual(values_in(sent)[-1], command + powershell._STATUS)
        self.assertTrue(base64_of(made).rstrip(b"=").endswith(made.needle.encode()))

    def test_nobody_else_has_its_needle(self) -> None:
        for command in ("x", "# é\n" * 2000):
            made = [powershell.prepare(Order(command=command)) for _ in range(50)]
            self.assertEqual(len({each.needle for each in made}), 50)
            self.assertTrue(all(re.fullmatch("[A-Za-z0-9+/]{32}", each.needle) for each in made))


def _bare(script: str) -> str:
    return re.sub(r"[0-9a-f]{16}", "NONCE", re.sub(r"FromBase64String\('[^']*'\)", "VALUE", script))
