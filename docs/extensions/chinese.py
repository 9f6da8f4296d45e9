"""A line break between two Chinese characters is no space: browsers show one for it."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

_WIDE = "[\u2018-\u201d\u2026\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]"
_BREAK = re.compile(f"(?<={_WIDE})\n(?={_WIDE})")


def join_lines(_app: Sphinx, document: nodes.document) -> None:
    """Take these line breaks out of every text that is not literal."""
    for text in list(document.findall(nodes.Text)):
        if not isinstance(text.parent, nodes.literal_block | nodes.literal) and _BREAK.search(text):
            text.parent.replace(text, nodes.Text(_BREAK.sub("", text)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-read", join_lines)
    return {"parallel_read_safe": True}
