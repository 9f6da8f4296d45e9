"""
Parts of the documents that follow from the code: options of the hub, messages of errors, interfaces.

``.. generated:: hub-options`` and the like stand for what the function of that name below gives, as reST.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from zope.interface import Attribute
from zope.interface.interface import InterfaceClass, Method

import relayd
from relayd import errors
from relayd.hub import terminal
from relayd.language.catalogues import translator
from relayd.language.texts import message_template
from relayd.ssh.errors import SSHError

#: The source of relayd.
PACKAGE = Path(relayd.__file__).parent
for _path in PACKAGE.rglob("errors.py"):  # for their messages
    import_module(".".join(_path.relative_to(PACKAGE.parent).with_suffix("").parts))


class Generated(SphinxDirective):
    """Stands for what a function of `GENERATORS` gives, with the words after its name."""

    required_arguments = 1
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        generate = GENERATORS[self.arguments[0]]
        return self.parse_text_to_nodes("\n".join(generate(*self.arguments[1:])))


# Options -------------------------------------------------------------------------------------------------------------


def hub_options() -> Iterator[str]:
    """Those of ``python -m relayd.hub``."""
    yield from _of_parser(terminal.make_parser())


def _of_parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = []
    for action in parser._actions:
        written = f"{action.option_strings[-1]} {action.metavar or ''}".rstrip()
        rows.append((f"``{written}``", _escaped((action.help or "") % vars(action))))
    yield from _table(("option", "meaning"), (40, 60), rows)


# Errors --------------------------------------------------------------------------------------------------------------


def messages(code: str) -> Iterator[str]:
    """The messages that a code stands for, in English and Chinese, and what they mean to programs."""
    found = [kind for kind in every_error() if kind.code == code]
    chinese = translator("zh")
    for kind in found:
        template = message_template(kind.__doc__ or "")
        yield from ("", f"   {_escaped(template)}")
        if chinese(template) != template:
            yield from ("", f"   {_escaped(chinese(template))}")
    facts = {(kind.phase, kind.executed, kind.retriable) for kind in found if kind.phase}
    for phase, executed, retriable in sorted(facts):
        again = "yes" if retriable else "no"
        yield from ("", f"phase ``{phase}``, executed ``{executed}``, retriable: {again}")


def every_error() -> list[type[Any]]:
    """Every error class of relayd, but the roots of the trees and what stands for another."""
    above = (errors.RelayError, SSHError, errors.HostFailure)
    return [kind for kind in _below(errors.RelayError, SSHError) if kind not in above]


def _below(*roots: type[Any]) -> Iterator[type[Any]]:
    for root in roots:
        yield root
        yield from _below(*root.__subclasses__())


def _escaped(template: str) -> str:
    """A text of ours as reST; what looks like an address, such as ``{user}@{host}``, is no link."""
    return re.sub(r"([\\*`|:@_])", r"\\\1", template)


# Interfaces ----------------------------------------------------------------------------------------------------------


def seams(module: str = "relayd.interfaces") -> Iterator[str]:
    """The interfaces of a module, of which autodoc knows nothing."""
    for name, interface in vars(import_module(module)).items():
        if isinstance(interface, InterfaceClass) and interface.__module__ == module:
            yield from ("", f".. py:class:: {name}", "", *_indented(interface.__doc__, 3))
            for member in interface.names():
                yield from _member(member, interface[member])


def _member(name: str, described: Attribute) -> Iterator[str]:
    if isinstance(described, Method):
        yield from ("", f"   .. py:method:: {name}{described.getSignatureString()}", "")
    else:
        yield from ("", f"   .. py:attribute:: {name}", "")
    yield from _indented(described.__doc__, 6)


def _indented(text: str, by: int) -> Iterator[str]:
    first, *rest = (text or "").strip().splitlines() or [""]
    depth = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
    for line in (first, *(line[depth:] for line in rest)):
        yield " " * by + line


# Modules -------------------------------------------------------------------------------------------------------------


def folders() -> Iterator[str]:
    """Each folder and module at the top of relayd, with the first sentence of its docstring."""
    places = [path for path in sorted(PACKAGE.iterdir()) if path.suffix == ".py" or (path / "__init__.py").exists()]
    rows = ((f"``{_place(path)}``", _summary(path)) for path in places if path.stem != "__init__")
    yield from _table(("folder or module", "what it is"), (25, 75), rows)


def modules(wing: str) -> Iterator[str]:
    """Each module of a folder and of the folders in it, with the first sentence of its docstring."""
    for folder in (PACKAGE / wing, *sorted(path.parent for path in (PACKAGE / wing).rglob("*/__init__.py"))):
        if folder != PACKAGE / wing:
            yield from ("", f"**{_place(folder)}**: {_summary(folder)}", "")
        rows = ((f"``{path.stem}``", _summary(path)) for path in sorted(folder.glob("[!_]*.py")))
        yield from _table(("module", "what it is"), (25, 75), rows)


def _place(path: Path) -> str:
    return f"{path.relative_to(PACKAGE)}{'/' if path.is_dir() else ''}"


def _summary(path: Path) -> str:
    """The first paragraph, as far as its first sentence."""
    source = path / "__init__.py" if path.is_dir() else path
    docstring = ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
    return re.split(r"(?<=[.;])\s", " ".join(docstring.split("\n\n")[0].split()))[0].rstrip(";.") + "."


# What they share -----------------------------------------------------------------------------------------------------


def _table(head: Iterable[str], widths: Iterable[int], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield from (".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, widths))}", "")
    for row in (head, *rows):
        for number, cell in enumerate(row):
            yield f"   {'*' if number == 0 else ' '} - {cell}"
    yield ""


GENERATORS: dict[str, Callable[..., Iterable[str]]] = {
    function.__name__.replace("_", "-"): function for function in (hub_options, messages, seams, folders, modules)
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}
