"""
How long modules, functions and classes may be, where nothing says why they are longer.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.rules.test_imports import modules

#: Lines of a module and of a function without its docstring, and methods of a class.
MODULE, FUNCTION, CLASS = 400, 40, 25
#: Modules that a program wrote (packaging/migration.py).
WRITTEN = "relayd.hub.store.migrations.versions.v"
#: How a docstring begins to say why.
LONG, MANY = "his module is long as ", f"ore than {CLASS} methods, as "

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def _parsed(path: Path) -> tuple[int, ast.Module]:
    text = path.read_text()
    return text.count("\n"), ast.parse(text)


def _length(function: Definition) -> int:
    first = function.body[0]
    docstring = ast.get_docstring(function) is not None
    return _lines(function) - (_lines(first) if docstring else 0)


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


class SizeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.parsed = [(name, *_parsed(path)) for name, path in modules().items() if not name.startswith(WRITTEN)]

    def test_modules(self) -> None:
        long = [name for name, lines, tree in self.parsed if lines > MODULE and not _says(LONG, tree)]
        self.assertEqual(long, [])

    def test_functions(self) -> None:
        long = [
            f"{name}: {node.name}"
            for name, _, tree in self.parsed
            for node in ast.walk(tree)
            if isinstance(node, Definition) and _length(node) > FUNCTION
        ]
        self.assertEqual(long, [])

    def test_classes(self) -> None:
        large = [
            f"{name}: {node.name}"
            for name, _, tree in self.parsed
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            and sum(isinstance(member, Definition) for member in node.body) > CLASS
            and not _says(MANY, node)
        ]
        self.assertEqual(large, [])


def _says(words: str, node: ast.Module | ast.ClassDef) -> bool:
    return words in " ".join((ast.get_docstring(node) or "").split())
