"""
The Chinese documents keep step with the English ones: README's sections, tables, commands and links, and the options.
And they are set as Chinese is: without blanks between its characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from docutils.core import publish_doctree
from docutils.nodes import (
    Node,
    TextElement,
    bullet_list,
    document,
    entry,
    image,
    literal,
    literal_block,
    problematic,
    reference,
    row,
    section,
    table,
)
from docutils.parsers.rst.roles import register_local_role
from docutils.utils import Reporter
from twisted.trial.unittest import SynchronousTestCase

from relayd.language.catalogues import DIRECTORY, translator
from relayd.language.texts import Translate, english
from relayd.ssh_runner import ADVICE
from tests.support.catalogue import errors_for_main_servers
from tests.support.pages import ROOT, blocks_of, pages

ENGLISH, CHINESE = ROOT / "README.rst", ROOT / "README.zh.rst"
#: Characters that stand without blanks beside each other.
WIDE = "[\u2018-\u201d\u2026\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]"
#: What a translator would come to, by the word that is used.
OTHERS = {
    "中介服务": "中继|代理服务(?!器)|中介端",
    "主服务器": "服务端|主控",
    "执行": "运行(?:该|这条|此|任何)?命令",
    "退出码": "退出状态|退出代码|返回码",
    "确认": "回执|收条",
    "命令记录": "记录库|流水|命令日志",
    "凭据": "凭证",
    "密钥": "秘钥|密匙",
    "主机密钥": "服务器密钥",
    "跳板机": "跳转主机|堡垒机",
    "轮转": "轮换|滚动",
    "超时时间": "超时值|超时时长",
}


def tree(path: Path) -> document:
    """
    The parsed text.  Sphinx's ``code-block`` is docutils's ``code``; its ``:doc:`` shows the title of the other page.
    """

    def doc(_name: str, _raw: str, text: str, *_more: object) -> tuple[list[Node], list[Node]]:
        other = ROOT / "docs" / f"{text[1:]}.rst" if text.startswith("/") else path.parent / f"{text}.rst"
        return [reference("", other.read_text("utf-8").splitlines()[1])], []

    register_local_role("doc", doc)  # type: ignore[arg-type]
    settings = {"report_level": Reporter.SEVERE_LEVEL, "syntax_highlight": "none"}
    return publish_doctree(path.read_text("utf-8"), settings_overrides=settings)


def chinese_pages() -> list[Path]:
    """All of them."""
    return [page for page in pages() if page.name.endswith(".zh.rst")]


def shape(node: Node) -> Iterator[object]:
    """What a page has, without its words: headings, tables with the code in their cells, blocks, lists, pictures."""
    for child in node.children:
        if isinstance(child, table):
            rows = [
                [sorted(each.astext() for each in cell.findall(literal)) for cell in line.findall(entry)]
                for line in child.findall(row)
            ]
            yield "table", rows
        elif isinstance(child, literal_block):
            yield "block", [re.sub(r"\s+# .*", "", line) for line in child.astext().splitlines()]
        elif isinstance(child, section | bullet_list | image):
            yield child.tagname, len(child.children) if isinstance(child, bullet_list) else 0, list(shape(child))
        else:
            yield from shape(child)


class ReadmeTests(SynchronousTestCase):
    """README.zh.rst beside README.rst."""

    def setUp(self) -> None:
        self.english, self.chinese = ENGLISH.read_text("utf-8"), CHINESE.read_text("utf-8")

    def test_it_has_what_the_english_one_has(self) -> None:
        chinese, english = list(shape(tree(CHINESE))), list(shape(tree(ENGLISH)))
        self.assertEqual(chinese, english)
        for kind, count in {"section": 6, "table": 4, "block": 6}.items():
            self.assertGreaterEqual(str(english).count(f"'{kind}'"), count)

    def test_commands(self) -> None:
        """But for comments; with the marks that say how they are run."""

        def commands(path: Path) -> list[tuple[str, list[tuple[str, str]]]]:
            return [
                (block.mark, [(step.command.partition(" # ")[0].rstrip(), step.output) for step in block.steps])
                for block in blocks_of(path)
            ]

        self.assertEqual(commands(CHINESE), commands(ENGLISH))

    def test_links(self) -> None:
        def links(text: str) -> set[str]:
            return set(re.findall(r"<([^<>`]+)>`__", text))

        here = {str(page.relative_to(ROOT)) for page in chinese_pages()}
        self.assertEqual(links(self.chinese) - here - {"README.rst"}, links(self.english) - here)
        self.assertEqual(here - links(self.chinese), {"README.zh.rst"}, "every Chinese page can be found from there")
        for target in links(self.chinese) | links(self.english):
            self.assertTrue(target.startswith("https://") or (ROOT / target).exists(), target)

    def test_nothing_is_broken(self) -> None:
        for path in (ENGLISH, *chinese_pages()):
            parsed = tree(path)
            self.assertEqual([str(each) for each in parsed.findall(problematic)], [])
            plain = " ".join(str(each.astext()) for each in parsed.findall(lambda node: node.tagname == "paragraph"))
            self.assertNotIn("``", plain, path)
            self.assertGreater(len(list(parsed.findall(literal))), 30)


class SettingTests(SynchronousTestCase):
    """How Chinese is set, on GitHub, which knows nothing of our site, as well as there."""

    def texts(self, path: Path) -> Iterator[str]:
        """Paragraphs, titles and the like, as they are shown."""
        for each in tree(path).findall(TextElement):
            if not isinstance(each, literal_block) and not isinstance(each.parent, TextElement):
                yield each.astext()

    def test_no_line_break_within_a_paragraph(self) -> None:
        """It would be shown as a blank."""
        for path in chinese_pages():
            broken = [text for text in self.texts(path) if "\n" in text.strip()]
            self.assertEqual(broken, [], path.name)

    def test_no_blank_between_two_characters(self) -> None:
        """As one would stand beside emphasis and links: these take a backslash before it."""
        for path in chinese_pages():
            apart = [found[0] for text in self.texts(path) for found in re.finditer(f".{{,9}}{WIDE} +{WIDE}.?", text)]
            self.assertEqual(apart, [], path.name)

    def test_the_signs_are_wide(self) -> None:
        """Where a comma, a colon or the like follows Chinese."""
        for path in chinese_pages():
            narrow = [
                found[0] for text in self.texts(path) for found in re.finditer(r".?[\u4e00-\u9fff][,;:!?()].?", text)
            ]
            self.assertEqual(narrow, [], path.name)


class WordTests(SynchronousTestCase):
    """One thing has one name: that of the specification, where it has one."""

    def test_words(self) -> None:
        catalogues = [DIRECTORY / "zh" / "LC_MESSAGES" / "relayd.po", ROOT / "docs" / "options.zh.po"]
        for path in (*chinese_pages(), *catalogues):
            for word, others in OTHERS.items():
                found = re.findall(f".{{,9}}(?:{others}).{{,9}}", path.read_text("utf-8"))
                self.assertEqual(found, [], f"{path.name}: {word}")


class ReferenceTests(SynchronousTestCase):
    """docs/options.zh.rst and docs/manual.zh.rst."""

    def test_options(self) -> None:
        """The same order, and the same defaults, as far as these are no words."""

        def rows(text: str) -> list[tuple[str, list[str]]]:
            found = re.findall(r"^``(--[^`]+)``  +(\S.*)$", text, re.MULTILINE)
            return [(name, re.findall(r"  (``[^`]+``)(?:  +\S+(?: once)?)$", line)) for name, line in found]

        english, chinese = (ROOT / "docs" / name for name in ("options.rst", "options.zh.rst"))
        self.assertEqual(rows(chinese.read_text("utf-8")), rows(english.read_text("utf-8")))

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
