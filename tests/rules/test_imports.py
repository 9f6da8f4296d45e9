"""
Who imports whom inside relayd: the floors of docs/architecture.rst, held against the source.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[2]

#: From the top: a part, which is a folder or a module, imports only what is on floors below its own, and itself.
FLOORS = (
    ("relayd.__main__",),
    ("relayd.tap", "relayd.hub_tap", "relayd.ctl", "relayd.demo"),
    ("relayd.hub.service",),
    ("relayd.hub.api",),
    ("relayd.hub.runs",),
    ("relayd.hub.access", "relayd.hub.inventory", "relayd.hub.relays"),
    ("relayd.hub.store",),
    ("relayd.service", "relayd.hub"),
    ("relayd.hub.decisions",),
    ("relayd.settings", "relayd.status"),
    ("relayd.ssh_runner",),
    ("relayd.ssh_logins", "relayd.ssh_devices", "relayd.ssh_texts"),
    # The wings. Those of several floors have the topmost first.
    ("relayd.commands", "relayd.journal", "relayd.audit", "relayd.config", "relayd.uplink.service", "relayd.ssh"),
    ("relayd.uplink.main_server",),
    ("relayd.uplink.dialer", "relayd.ssh.client"),
    ("relayd.ssh.with_files",),
    ("relayd.uplink.polling", "relayd.ssh.execution", "relayd.ssh.device"),
    ("relayd.uplink", "relayd.ssh.outcome"),
    ("relayd.ssh.ending", "relayd.ssh.files"),
    ("relayd.ssh.shells",),
    ("relayd.ssh.pool",),
    ("relayd.ssh.become",),
    ("relayd.ssh.login", "relayd.ssh.channels"),
    ("relayd.ssh.transport",),
    ("relayd.ssh.host_keys",),
    ("relayd.ssh.keys",),
    ("relayd.ssh.errors", "relayd.ssh.settings", "relayd.ssh.target", "relayd.ssh.worker"),
    # What all of them stand on
    ("relayd.policy", "relayd.wire.dialects"),
    ("relayd.interfaces",),
    ("relayd.wire",),
    ("relayd.network", "relayd.process"),
    ("relayd.errors",),
    ("relayd.language",),
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
#: They meet in `relayd.interfaces`, and `relayd.service` joins them: none imports another.
WINGS = ("relayd.commands", "relayd.journal", "relayd.audit", "relayd.config", "relayd.uplink", "relayd.ssh")


def part_of(module: str) -> str:
    """``relayd.ssh.pool.places`` is of ``relayd.ssh.pool``; relayd itself, which holds the version, is of no part."""
    while module and module not in FLOOR:
        module = module.rpartition(".")[0]
    return module


def wing_of(module: str) -> str:
    """``relayd.ssh`` for all that is in it; empty for what is in no wing."""
    return next((wing for wing in WINGS if f"{module}.".startswith(f"{wing}.")), "")


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


#: What runs the reactor beside the plugins.
_RUNNERS = {"relayd.ctl.check", "relayd.ctl.try_server", "relayd.hub.terminal"}

#: What statements are in; an import is in nothing else.
_HOLD_STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)


@cache
def import_statements_of(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """All imports in a file. Expressions are left out: to walk through them takes most of the time."""
    found: list[ast.Import | ast.ImportFrom] = []
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append(node)
        elif not isinstance(node, (ast.Expr, ast.Assign, ast.AnnAssign, ast.Return)):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, _HOLD_STATEMENTS)]
    return tuple(found)


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module of relayd that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in import_statements_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            if node.level:
                raise AssertionError(f"{path}: relative imports hide what they name")
            module = node.module or ""
            found |= {name if _is_module(name := f"{module}.{alias.name}") else module for alias in node.names}
    return frozenset(name for name in found if name.split(".")[0] == "relayd" and name != "relayd.__version__")


def _is_for_tests(module: str) -> bool:
    return f"{module}.".startswith("relayd.ssh.testing.")


@cache
def modules() -> dict[str, Path]:
    """The modules of relayd, by name."""
    paths = sorted((ROOT / "relayd").rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


class ImportTests(SynchronousTestCase):
    """The floors of the architecture."""

    def test_floors(self) -> None:
        wrong = []
        for module, path in modules().items():
            part = part_of(module)
            for name in imports_of(path) - {"relayd"}:
                used = part_of(name)
                if used != part and FLOOR[used] <= FLOOR[part]:
                    wrong.append(f"{module} imports {name}")
        self.assertEqual(wrong, [])

    def test_wings(self) -> None:
        wrong = []
        for module, path in modules().items():
            wing = wing_of(module)
            others = [wing_of(name) for name in imports_of(path)] if wing else []
            wrong += [f"{module} imports {other}" for other in others if other not in ("", wing)]
        self.assertEqual(wrong, [])

    def test_no_circles(self) -> None:
        """Nor does any module import another that imports it, in however many steps."""
        imports = {module: imports_of(path) & set(modules()) for module, path in modules().items()}
        checked: set[str] = set()

        def follow(module: str, way: tuple[str, ...]) -> None:
            self.assertNotIn(module, way, "a circle of imports")
            if module not in checked:
                for name in sorted(imports[module] - {"relayd"}):
                    follow(name, (*way, module))
                checked.add(module)

        for module in imports:
            follow(module, ())

    def test_the_ssh_library_is_of_use_without_the_rest(self) -> None:
        """docs/ssh.rst says so."""
        used = frozenset().union(
            *(imports_of(path) for module, path in modules().items() if wing_of(module) == "relayd.ssh")
        )
        folders = {".".join(name.split(".")[:2]) for name in used}
        self.assertEqual(folders, {"relayd.ssh", "relayd.network", "relayd.language"})

    def test_only_tests_import_what_is_for_tests(self) -> None:
        users = [module for module, path in modules().items() for name in imports_of(path) if _is_for_tests(name)]
        self.assertEqual([module for module in users if not _is_for_tests(module)], [])

    def test_every_module_has_its_place(self) -> None:
        self.assertEqual([module for module in modules() if not part_of(module)], ["relayd"])

    def test_loggers_are_named_after_their_part(self) -> None:
        """Their names are public: docs/logs.rst has them all."""
        listed = set(
            re.findall(r"``(relayd[a-z.]*)``", (ROOT / "docs" / "logs.rst").read_text().split("\nLoggers\n")[1])
        )
        used = set()
        for module, path in modules().items():
            text = path.read_text()
            names = set(re.findall(r"\bLogger\((.*?)\)", text))
            # As an attribute of a class it would be renamed after the class, whatever it is given.
            made = re.findall(r"^(.*)\bLogger\(", text, re.MULTILINE)
            self.assertEqual([line.lstrip() for line in made], ["_log = "] * len(names), module)
            self.assertNotRegex(text, r"\n    _log = Logger", module)
            wing = ".".join(module.split(".")[:2]) if module.count(".") > 1 else "relayd"
            self.assertLessEqual(names, {f'"{wing}"'}, module)
            used |= {name.strip('"') for name in names}
        self.assertEqual(used, listed)

    def test_every_folder_says_what_it_is(self) -> None:
        for path in (ROOT / "relayd").rglob("__init__.py"):
            self.assertTrue(ast.get_docstring(ast.parse(path.read_text())), path)

    def test_only_programs_use_the_global_reactor(self) -> None:
        """A subcommand is a program of its own, which runs it by `twisted.internet.task.react`."""
        users, runners = set(), set()
        for module, path in modules().items():
            for node in import_statements_of(path):
                if isinstance(node, ast.ImportFrom) and node.module == "twisted.internet":
                    users |= {module for alias in node.names if alias.name == "reactor"}
                if isinstance(node, ast.ImportFrom) and node.module == "twisted.internet.task":
                    runners |= {module for alias in node.names if alias.name == "react"}
        self.assertEqual(users - {"relayd.demo.demonstration"}, {"relayd.tap"})
        self.assertEqual(runners - {"relayd.demo.demonstration"}, _RUNNERS)

    def test_entry_points_have_no_logic(self) -> None:
        harmless = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
        for name in ("twisted/plugins/relayd_plugin.py", "relayd.tac"):
            tree = ast.parse((ROOT / name).read_text())
            self.assertEqual([type(node) for node in tree.body if not isinstance(node, harmless)], [], name)
            self.assertEqual([node for node in ast.walk(tree) if isinstance(node, (ast.Lambda, ast.IfExp))], [], name)
            self.assertLess(len(tree.body), 8, name)

    def test_the_plugin_imports_nothing_of_relayd(self) -> None:
        self.assertEqual(imports_of(ROOT / "twisted/plugins/relayd_plugin.py"), set())
