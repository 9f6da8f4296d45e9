"""
Who imports whom inside relayd: the table of docs/architecture.rst, held against the source.
"""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent

#: Modules that make one part together; any other module, or package, is a part of its own name.
PARTS = {
    **dict.fromkeys(("admission", "outbox", "scheduler", "sendings", "stats", "streaming"), "dispatcher"),
    **dict.fromkeys(("dead_letters", "held", "suspects", "without_receipts"), "dispatcher"),
    **dict.fromkeys(("apikey", "credentials", "exposure", "listening", "options", "secretfiles", "values"), "config"),
    **dict.fromkeys(("fields", "parsing"), "messages"),
    **dict.fromkeys(("charsets", "spelling"), "patterns"),
    **dict.fromkeys(
        ("journal_index", "journal_memory", "journal_report", "journal_salvage", "journal_store"), "journal"
    ),
    **dict.fromkeys(("choices", "reload", "statedir"), "service"),
    "demo_ssh": "demo",
    **dict.fromkeys(("garbage", "hardening"), "tap"),
}
WIRE = {"descriptors", "errors", "messages", "interfaces", "texts"}
ALL_PARTS = WIRE | {"dialects", "uplink", "dispatcher", "policy", "journal", "audit", "ssh", "config", "flow", "hub"}
ALL_PARTS |= {"lag", "language", "logs", "naming", "notify", "service", "status", "tap", "patterns", "tls", "whole"}
MAY_IMPORT: dict[str, set[str]] = {
    "texts": set(),
    "descriptors": {"texts"},
    "errors": {"texts"},
    "language": {"texts"},
    "patterns": {"texts"},
    "messages": {"errors", "patterns", "texts"},
    "interfaces": {"errors", "messages"},
    "dialects": WIRE,
    "flow": set(),
    "tls": {"texts"},
    "naming": set(),
    "whole": set(),
    "uplink": WIRE | {"dialects", "flow", "naming", "patterns", "tls"},
    "dispatcher": WIRE | {"logs", "patterns", "policy"},
    "policy": {"errors", "messages", "patterns", "texts"},
    "journal": WIRE,
    "audit": WIRE | {"whole"},
    "ssh": {"descriptors", "naming", "patterns", "texts"},  # but its runner and logins, which join it to the rest
    "config": {"descriptors", "errors", "messages", "patterns", "policy"},
    "lag": {"texts"},
    "logs": set(),
    "notify": set(),
    "status": WIRE | {"config", "dispatcher", "journal", "lag", "ssh", "uplink"},
    "service": ALL_PARTS - {"hub", "logs", "service", "tap"},
    "tap": {"config", "descriptors", "errors", "logs", "notify", "service", "texts"},
    # ``check`` uses what a relay uses: its own choices, state directory, credentials and uplink
    "ctl": WIRE | {"patterns", "config", "policy", "journal", "audit", "service", "ssh", "tls", "uplink"},
    "hub": ALL_PARTS - {"dispatcher", "policy", "audit", "journal", "ssh", "hub", "logs", "status", "tap", "service"},
    "demo": ALL_PARTS,
}


def part_of(module: str) -> str:
    """``relayd.ssh.pool`` is of ``ssh``; relayd itself, which holds the version, is of no part."""
    name = module.split(".")[1] if "." in module else ""
    return PARTS.get(name, name)


def imports_of(path: Path) -> set[str]:
    """Every module of relayd that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{path}: relative imports hide what they name")
            module = node.module or ""
            found |= {f"relayd.{alias.name}" for alias in node.names} if module == "relayd" else {module}
    return {name for name in found if name.split(".")[0] == "relayd" and name != "relayd.__version__"}


def modules() -> dict[str, Path]:
    """The modules of relayd, by name."""
    paths = sorted((ROOT / "relayd").rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


class ImportTests(SynchronousTestCase):
    """The table of the architecture."""

    def test_table(self) -> None:
        wrong = []
        for module, path in modules().items():
            allowed = MAY_IMPORT.get(part_of(module), set()) | {part_of(module), ""}
            if module in ("relayd.ssh.runner", "relayd.ssh.logins"):
                allowed |= WIRE
            wrong += [f"{module} imports {name}" for name in imports_of(path) if part_of(name) not in allowed]
        self.assertEqual(wrong, [])

    def test_every_module_has_its_place(self) -> None:
        self.assertEqual({part_of(module) for module in modules()} - set(MAY_IMPORT), {""})

    def test_only_tap_the_demo_and_check_use_the_global_reactor(self) -> None:
        """``relayctl check`` is a program of its own, which runs it by `twisted.internet.task.react`."""
        users, runners = set(), set()
        for module, path in modules().items():
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module == "twisted.internet":
                    users |= {module for alias in node.names if alias.name == "reactor"}
                if isinstance(node, ast.ImportFrom) and node.module == "twisted.internet.task":
                    runners |= {module for alias in node.names if alias.name == "react"}
        self.assertEqual(users - {"relayd.demo"}, {"relayd.tap"})
        self.assertEqual(runners - {"relayd.demo"}, {"relayd.ctl.check", "relayd.hub.terminal"})

    def test_entry_points_have_no_logic(self) -> None:
        harmless = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
        for name in ("twisted/plugins/relayd_plugin.py", "relayd.tac"):
            tree = ast.parse((ROOT / name).read_text())
            self.assertEqual([type(node) for node in tree.body if not isinstance(node, harmless)], [], name)
            self.assertEqual([node for node in ast.walk(tree) if isinstance(node, (ast.Lambda, ast.IfExp))], [], name)
            self.assertLess(len(tree.body), 8, name)

    def test_the_plugin_imports_nothing_of_relayd(self) -> None:
        self.assertEqual(imports_of(ROOT / "twisted/plugins/relayd_plugin.py"), set())
