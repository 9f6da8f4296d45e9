"""
What the Debian package brings to read and to copy. ``make test-deb`` builds and installs the package itself.
"""

from __future__ import annotations

import filecmp
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.built import run

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
#: What leads to another file: a link, a picture, and a page by Sphinx's role.
_LINK = re.compile(r"<([^<>`\s]+)>`__?|^\.\. _[^:\n]+: (\S+)$|^ *\.\. (?:image|include):: (\S+)$", re.MULTILINE)
_PAGE = re.compile(r":doc:`(?:[^`<]*<)?([^`<>]+)>?`")


def links_of(page: Path, docs: Path) -> Iterator[Path]:
    """
    The files that a page leads to.

    :param docs: the directory from which Sphinx counts pages that begin with a slash.
    """
    text = page.read_text("utf-8")
    for found in _LINK.finditer(text):
        target = (found[1] or found[2] or found[3]).partition("#")[0]
        if target and not re.match(r"[a-z]+:", target) and not target.endswith("_"):
            yield page.parent / target
    for name in _PAGE.findall(text):
        yield (docs / name.lstrip("/") if name.startswith("/") else page.parent / name).with_name(
            f"{name.rpartition('/')[2]}.rst"
        )


class DocumentTests(SynchronousTestCase):
    """The directory /usr/share/doc/relayd."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-documents-"))
        self.addCleanup(shutil.rmtree, self.directory)
        run("sh", str(PACKAGING / "debian" / "documents.sh"), str(self.directory), cwd=ROOT)

    def test_links_lead_somewhere(self) -> None:
        pages = sorted(self.directory.rglob("*.rst"))
        links = [(page, link) for page in pages for link in links_of(page, self.directory / "docs")]
        self.assertGreater(len(links), 100)
        broken = [f"{page.relative_to(self.directory)}: {link}" for page, link in links if not link.exists()]
        self.assertEqual(broken, [])

    def test_both_readmes(self) -> None:
        """With links of which there are many: the check above sees them."""
        for name in ("README.rst", "README.zh.rst"):
            links = {link.resolve().name for link in links_of(self.directory / name, self.directory / "docs")}
            self.assertLessEqual({"operations.rst", "protocol.rst", "tutorial.rst"}, links, name)

    def test_what_is_to_be_copied(self) -> None:
        examples = self.directory / "examples"
        for name, source in (
            ("prometheus/relayd.rules.yml", "prometheus/relayd.rules.yml"),
            ("grafana/relayd.json", "grafana/relayd.json"),
            ("logrotate", "logrotate/relayd"),
        ):
            self.assertTrue(filecmp.cmp(examples / name, PACKAGING / source, shallow=False), name)
            self.assertIn(f"/usr/share/doc/relayd/examples/{name.partition('/')[0]}", self.documents(), name)

    def documents(self) -> str:
        """The pages that tell where things are."""
        pages = ("operations.rst", "metrics.rst")
        return "".join((self.directory / "docs" / page).read_text("utf-8") for page in pages)

    def test_nothing_is_left_out(self) -> None:
        """Each page of the source is there, and none that only this machine has."""
        pages = {path.relative_to(ROOT) for path in (*ROOT.glob("README*.rst"), *(ROOT / "docs").rglob("*.rst"))}
        there = {path.relative_to(self.directory) for path in self.directory.rglob("*.rst")}
        self.assertEqual(pages - there, set())
