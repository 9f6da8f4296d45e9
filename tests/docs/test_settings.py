"""
Each example of settings in the documents is one that relayd reads without a complaint.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from relayd.config.reading import read
from tests.config.test_options import ConfigCase

DOCS = Path(__file__).resolve().parents[2] / "docs"
#: A block of code, and its text.
BLOCK = re.compile(r"(?:^ *\.\. code-block:: toml|::)\n\n(( +)\S.*\n(?:\2.*\n|\n)*)", re.MULTILINE)
#: How settings begin a line.
SETTING = re.compile(r"\A\s*(?:\[\[\w+\]\]|[a-z][a-z-]+ = )")
#: A file that an example names, and that is not there.
FILE = re.compile(r'^((?:[a-z-]+-file|tls-(?:ca|cert|key)) = )"[^"]*"', re.MULTILINE)


def examples() -> Iterator[tuple[str, str]]:
    """The name of each page, with each example in it."""
    for page in sorted(DOCS.rglob("*.rst")):
        for found in BLOCK.finditer(page.read_text("utf-8")):
            text = textwrap.dedent(found[1])
            if SETTING.match(text):
                yield page.name, text


class ExampleTests(ConfigCase):
    def test_examples(self) -> None:
        self.write("secret", "s3cret")
        pages = set()
        environ = {"SSH_AUTH_SOCK": str(self.directory / "agent.sock")}
        for page, text in examples():
            pages.add(page)
            self.argv = {"config": self.write("relayd.toml", FILE.sub(r'\1"secret"', text))}
            mistakes = [str(mistake) for mistake in read(self.argv, environ, complete=False).mistakes]
            self.assertEqual(mistakes, [], f"{page}:\n{text}")
        tables = {"hosts.rst", "devices.rst", "become.rst", "windows.rst", "terminal.rst", "servers.rst", "ssh.rst"}
        self.assertEqual(tables - pages, set())
