"""
docs/ssh.rst says what is so: its example runs, its table has every error, its lists every algorithm.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh import SSHError
from relayd.ssh.transport.algorithms import COMPATIBLE, MODERN
from tests.support import ssh_matrix
from tests.support.catalogue import extract
from tests.support.ssh import ServerTestCase
from tests.support.ssh_peers import KINDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "ssh.rst").read_text("utf-8")


def _kinds(kind: type[SSHError]) -> Iterator[type[SSHError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)


class TextTests(SynchronousTestCase):
    """The text against the code."""

    def test_errors(self) -> None:
        rows = set(re.findall(r"\* - ``([a-z-]+)``\n     - (\S*)\n     - (\w+)\n     - (\w+)\n     - \S", TEXT))
        expected = {
            (kind.code, kind.phase, kind.executed, "yes" if kind.retriable else "no") for kind in _kinds(SSHError)
        }
        self.assertEqual(sorted(expected - rows), [])
        self.assertEqual(sorted(rows - expected), [])

    def test_messages_are_for_any_program(self) -> None:
        """They name neither a relay nor its options: what the relay's operator can do, `relayd.ssh_runner` adds."""
        for path in (ROOT / "relayd" / "ssh").rglob("*.py"):
            with path.open("rb") as file:
                for _line, _, message, _comments in extract(file, (), (), {}):
                    self.assertNotRegex(message, r"(?i)\brelay\b|(?<!-)--[a-z]", path)

    def test_servers(self) -> None:
        """The table is the one that the tests of the servers are made from, and names tests that there are."""
        self.assertEqual(ssh_matrix.written(TEXT), TEXT, "run: python -m tests.support.ssh_matrix")
        self.assertEqual(set(ssh_matrix.ROWS), set(KINDS))
        module = (ROOT / f"{ssh_matrix.IMITATED_BY.replace('.', '/')}.py").read_text("utf-8")
        for each in ssh_matrix.IMITATED:
            self.assertIn(f"    async def {each.test}(self)", module)

    def test_algorithms(self) -> None:
        for policy in (MODERN, COMPATIBLE):
            for name in (*policy.key_exchanges, *policy.ciphers, *policy.macs):
                self.assertTrue(name.decode().removesuffix("@libssh.org") in TEXT, name)


def _section(title: str) -> str:
    """The text below a title."""
    _, *parts = re.split(r"\n([^\n]+)\n={3,}\n", TEXT)
    return dict(zip(parts[::2], parts[1::2], strict=True))[title]


class ExampleTests(ServerTestCase):
    """The examples of its use as a library."""

    def write_example(self, section: str) -> Path:
        """The example of a section, as a file."""
        (source,) = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", _section(section))
        script = self.directory / "example.py"
        script.write_text(textwrap.dedent(source))
        return script

    async def test_example(self) -> None:
        server = await self.start_server()
        script = self.write_example("As a library")
        key = self.directory / "key"
        key.write_text(server.key)
        arguments = [str(script), server.host, str(server.port), server.user, str(key), "echo it runs; exit 3"]
        output, errors, code = await getProcessOutputAndValue(
            sys.executable, arguments, env={"PYTHONPATH": str(ROOT)}, path=str(self.directory)
        )
        self.assertEqual((output, errors, code), (b"3 it runs\n", b"", 0))

    async def test_example_of_a_test(self) -> None:
        self.write_example("Testing a program that uses it")
        output, errors, code = await getProcessOutputAndValue(
            sys.executable,
            ["-m", "twisted.trial", "example"],
            env={"PYTHONPATH": f"{ROOT}:{self.directory}"},
            path=str(self.directory),
        )
        self.assertEqual((code, errors), (0, b""), output.decode())
        self.assertIn(b"PASSED (successes=2)", output)
