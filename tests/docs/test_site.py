"""
The site of the documents: it builds, its links lead somewhere, and its buttons copy commands.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from twisted.trial.unittest import SynchronousTestCase

from tests.support.built import site
from tests.support.pages import ROOT, blocks_of

#: Hosts that the documents may send readers to; the others stand for hosts of the reader's own.
HOSTS = {"github.com"}
#: Reads texts of blocks, one JSON string a line, and prints what the script of the buttons makes of each.
COPY = r"""
const { readFileSync } = require("node:fs");
const script = readFileSync(process.argv[1], "utf8");
const functions = script.slice(script.indexOf("function escapeRegExp"), script.indexOf("var copyTargetText"));
const call = script.match(/return (formatCopyText\(text, .*\))/)[1];
const copy = new Function("text", `${functions}; return ${call}`);
for (const line of readFileSync(0, "utf8").trim().split("\n")) console.log(JSON.stringify(copy(JSON.parse(line))));
"""


class Page(HTMLParser):
    """
    One page of the site.

    :ivar names: what a link can lead to within it.
    :ivar links: where its links lead.
    :ivar blocks: the texts of its blocks of code.
    :ivar cells: how many literals the first cell of each row of its tables has.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.blocks: list[str] = []
        self.cells: list[int] = []
        self._block = False
        self._row: list[int] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = dict(attributes)
        self.names |= {value for name, value in attributes if name == "id" and value}
        if tag == "a" and of.get("href"):
            self.links.append(str(of["href"]))
        elif tag == "pre":
            self.blocks.append("")
            self._block = True
        elif tag == "tr":
            self._row = []
        elif tag == "td":
            self._row.append(0)
        elif tag == "code" and self._row:
            self._row[-1] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._block = False
        elif tag == "tr" and self._row:
            self.cells.append(self._row[0])

    def handle_data(self, data: str) -> None:
        if self._block:
            self.blocks[-1] += data


@cache
def pages() -> dict[Path, Page]:
    """The pages of the site, by their files."""
    return {path: Page(path) for path in site()[0].rglob("*.html")}


class SiteTests(SynchronousTestCase):
    """``make docs``."""

    def setUp(self) -> None:
        self.place, self.said = site()
        self.pages = pages()

    def test_it_builds_without_a_warning(self) -> None:
        self.assertEqual(self.said, "")
        made = {path.relative_to(self.place).with_suffix("") for path in self.pages}
        written = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.rst")}
        self.assertLessEqual(written, made)

    def test_no_page_has_the_red_box_of_the_theme(self) -> None:
        """With which furo answers ``.. contents::``; that is no warning of Sphinx."""
        for path in self.pages:
            if path.name != "search.html":  # whose box is for browsers without JavaScript
                text = path.read_text("utf-8")
                self.assertIsNone(re.search(r'class="admonition error|ERROR: |<nav class="contents', text), path.name)

    def test_links_lead_somewhere(self) -> None:
        for path, page in self.pages.items():
            for link in page.links:
                if other := re.match(r"([a-z]+):(?://([^/:]*))?", link):
                    self.assertEqual(other[1], "https", f"{path.name}: {link}")
                    self.assertIn(other[2], HOSTS, f"{path.name}: {link}")
                    continue
                target, _, name = unquote(link).partition("#")
                leads = (path.parent / target).resolve() if target else path
                self.assertTrue(leads.exists(), f"{path.name}: {link}")
                if name and leads in self.pages:
                    self.assertIn(name, self.pages[leads].names, f"{path.name}: {link}")

    def test_each_option_is_spelled_once(self) -> None:
        """In its cell: environment and file have the same name, see "Environment and file"."""
        for name in ("options", "options.zh"):
            cells = self.pages[self.place / f"{name}.html"].cells
            self.assertGreater(len(cells), 40)
            self.assertEqual(set(cells), {1}, name)

    def test_buttons_copy_commands(self) -> None:
        """Without prompts and without what commands print; of a block without prompts, everything."""
        sources = sorted((ROOT / "docs").rglob("*.rst"))
        made = [(self.place / path.relative_to(ROOT / "docs")).with_suffix(".html") for path in sources]
        every = [block for path in made for block in self.pages[path].blocks]
        texts = iter(copies(self.place / "_static" / "copybutton.js", every))
        for path, page in zip(sources, made, strict=True):
            blocks = self.pages[page].blocks
            copied = [next(texts) for _ in blocks]
            for block, text in zip(blocks, copied, strict=True):
                if not re.search(r"^[$>] ", block, re.MULTILINE):
                    self.assertEqual(text, block.removesuffix("\n"), path.name)
            commands = [step.command for block in blocks_of(path) for step in block.steps if step.prompt]
            lines = [line for block, text in zip(blocks, copied, strict=True) if text != block for line in folded(text)]
            for command in commands:
                for line in folded(command):
                    self.assertIn(line, lines, path.name)


def copies(script: Path, blocks: list[str]) -> list[str]:
    """What the buttons copy of each block."""
    argv = [shutil.which("node") or "node", "-e", COPY, str(script)]
    lines = "".join(json.dumps(block) + "\n" for block in blocks)
    done = subprocess.run(argv, input=lines, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def folded(text: str) -> list[str]:
    """Its lines, with one blank where there are several, and continued lines in one."""
    return [" ".join(line.split()) for line in text.replace("\\\n", " ").splitlines()]
