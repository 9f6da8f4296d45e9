"""
The Chinese documents keep step with the English ones: README's sections, commands and links, and the options.
"""

from __future__ import annotations

import re
import unicodedata

from docutils.core import publish_doctree
from docutils.nodes import Node, document, literal, problematic, section
from docutils.utils import Reporter
from twisted.trial.unittest import SynchronousTestCase

from relayd.language.catalogues import translator
from relayd.language.texts import Translate, english
from relayd.ssh_runner import ADVICE
from tests.support.catalogue import errors_for_main_servers
from tests.support.pages import ROOT, blocks_of

ENGLISH, CHINESE = ROOT / "README.rst", ROOT / "README.zh.rst"


def tree(path: object) -> document:
    """The parsed text; Sphinx's ``code-block`` is docutils's ``code``."""
    text = (ROOT / str(path)).read_text("utf-8")
    return publish_doctree(text, settings_overrides={"report_level": Reporter.SEVERE_LEVEL, "syntax_highlight": "none"})


def outline(node: Node) -> list[object]:
    """The sections, without their titles."""
    return [outline(child) for child in node.children if isinstance(child, section)]


class ChineseTests(SynchronousTestCase):
    """One text beside the other."""

    def setUp(self) -> None:
        self.english, self.chinese = ENGLISH.read_text("utf-8"), CHINESE.read_text("utf-8")

    def test_sections(self) -> None:
        self.assertEqual(outline(tree(CHINESE)), outline(tree(ENGLISH)))

    def test_commands(self) -> None:
        """But for comments."""

        def commands(path: object) -> list[tuple[str, list[tuple[str, str]]]]:
            return [
                (block.mark, [(step.command.partition(" # ")[0].rstrip(), step.output) for step in block.steps])
                for block in blocks_of(ROOT / str(path))
            ]

        self.assertEqual(commands(CHINESE), commands(ENGLISH))

    def test_options(self) -> None:
        """The reference: the same order, and the same defaults, as far as these are no words."""

        def rows(text: str) -> list[tuple[str, list[str]]]:
            found = re.findall(r"^``(--[^`]+)``  +(\S.*)$", text, re.MULTILINE)
            return [(name, re.findall(r"  (``[^`]+``)$", line)) for name, line in found]

        english, chinese = (ROOT / "docs" / name for name in ("options.rst", "options.zh.rst"))
        self.assertEqual(rows(chinese.read_text("utf-8")), rows(english.read_text("utf-8")))

    def test_links(self) -> None:
        def links(text: str) -> set[str]:
            return set(re.findall(r"<([^<>`]+)>`__", text))

        more = {"README.rst", "README.zh.rst", "docs/manual.zh.rst", "docs/options.zh.rst"}
        self.assertEqual(links(self.chinese) - more, links(self.english) - more)
        for target in links(self.chinese) | links(self.english):
            self.assertTrue(target.startswith("https://") or (ROOT / target).exists(), target)

    def test_nothing_is_broken(self) -> None:
        for path in (ENGLISH, CHINESE):
            parsed = tree(path)
            self.assertEqual([str(each) for each in parsed.findall(problematic)], [])
            plain = " ".join(str(each.astext()) for each in parsed.findall(lambda node: node.tagname == "paragraph"))
            self.assertNotIn("``", plain, path)
            self.assertGreater(len(list(parsed.findall(literal))), 30)

    def test_messages_are_those_that_are_sent(self) -> None:
        """In the table of what comes back."""
        for name, translate in (("results.rst", english), ("manual.zh.rst", translator("zh"))):
            path = ROOT / "docs" / name
            cells = re.findall(r"^     - ([^`\n]+(?:\n       [^\n]+)*)$", path.read_text("utf-8"), re.MULTILINE)
            self.assertGreater(len(cells), 7)
            for cell in cells:
                text = _plain(cell)
                known = (_message(kind, translate) for kind in errors_for_main_servers())
                self.assertTrue(any(re.fullmatch(_pattern(template), text) for template in known), text)


def _message(kind: type, translate: Translate) -> str:
    """With what the relay adds to it."""
    advice = ADVICE.get(kind)
    return translate(_template(kind)) + ("" if advice is None else advice.within(translate))


def _template(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split())


def _pattern(template: str) -> str:
    parts = re.split(r"\{[^}]+\}", _plain(template))
    return ".+".join(re.escape(part) for part in parts)


def _plain(text: str) -> str:
    """One line; a line may be broken anywhere in Chinese."""
    joined = re.sub(r"\n +", " ", text.strip())
    return "".join(char for char in joined if unicodedata.category(char) != "Zs")
