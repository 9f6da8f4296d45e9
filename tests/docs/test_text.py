"""
The text of the documents against the code: errors, options, commands that are marked as such.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from importlib import import_module
from pathlib import Path

from twisted.application.twist._options import TwistOptions
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from relayd.config.options import OPTIONS
from relayd.ctl.main import make_parser
from relayd.errors import HostFailure, RelayError
from relayd.hub import terminal
from relayd.hub.config.options import HUB_TABLE
from relayd.ssh.errors import SSHError
from tests.fuzz.engine import MODULES
from tests.support.catalogue import kinds
from tests.support.pages import ROOT, Block, blocks_of, pages

#: Programs whose lines are commands. In a block that is none of ``code-block:: console`` nobody would run them.
_PROGRAMS = (
    r"(?:[\w./~]*/)?(?:twistd|twist|relayctl|make|python3?|pip|ssh|ssh-keygen|openssl|systemctl|apt-get|mkdir|mv)"
)
_COMMAND = re.compile(rf"^ +(?:\$ )?(?:\S+=\S+ |sudo )*{_PROGRAMS} [\w./~'\"-]")
#: Options of programs that are not ours: twistd and twist, and others.
_FOREIGN = {
    *(f"--{name.rstrip('=')}" for kind in (ServerOptions, TwistOptions) for name in kind().longOpt),
    *("--now", "--no-block", "--unit", "--editable", "--no-deps", "--strict"),  # of systemctl, journalctl, pip, mypy
    "--exclude",  # of tar
    *("--list", "--yaml"),  # of ansible-inventory
}


class ErrorTests(SynchronousTestCase):
    """docs/howto/errors.rst."""

    def test_every_code_has_its_place_once(self) -> None:
        for path in (ROOT / "relayd").rglob("errors.py"):
            import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        text = (ROOT / "docs" / "howto" / "errors.rst").read_text("utf-8")
        codes = {kind.code for kind in kinds(RelayError, SSHError) if kind not in (RelayError, SSHError, HostFailure)}
        described = Counter(re.findall(r"^``([a-z-]+)``\n-+\n\n\.\. generated:: messages \1\n\n\S", text, re.MULTILINE))
        self.assertEqual(sorted(described.elements()), sorted(codes))


class OptionTests(SynchronousTestCase):
    """Everything that looks like an option is one."""

    def known(self) -> set[str]:
        names = {option.flag_name for option in (*OPTIONS, *HUB_TABLE.options)} | _FOREIGN
        parsers = [make_parser(), terminal.make_parser()]
        while parsers:
            for action in parsers.pop()._actions:
                names |= set(action.option_strings)
                if isinstance(action.choices, dict):  # subcommands, which may have some of their own
                    parsers += action.choices.values()
        return names

    def scripts(self) -> set[str]:
        """Options of programs beside relayd, which are not installed: they stand in the source."""
        sources = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "relayd" / "demo" / "command_line.py"]
        return {name for path in sources for name in re.findall(r'"(--[a-z-]+)"', path.read_text("utf-8"))}

    def test_options_exist(self) -> None:
        known = self.known() | self.scripts()
        for page in pages():
            text = page.read_text("utf-8")
            for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text):
                self.assertIn(name, known, f"{page.relative_to(ROOT)}: {name}")

    def test_every_option_is_documented(self) -> None:
        for name, options in (
            ("docs/options.rst", OPTIONS),
            ("docs/options.zh.rst", OPTIONS),
            ("docs/hub-options.rst", HUB_TABLE.options),
        ):
            rows = re.findall(r"^``(--[a-z-]+)[^`]*``  +\S", (ROOT / name).read_text("utf-8"), re.MULTILINE)
            self.assertEqual(sorted(rows), sorted(option.flag_name for option in options), name)


class ArchitectureTests(SynchronousTestCase):
    """docs/architecture.rst, docs/command.rst and docs/internals.rst."""

    def test_the_picture_is_drawn(self) -> None:
        """And has every folder and module of relayd."""
        place = ROOT / "docs" / "images" / "wings.py"
        spec = importlib.util.spec_from_file_location("wings", place)
        assert spec is not None and spec.loader is not None
        wings = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(wings)
        self.assertEqual(wings.PICTURE.read_text("utf-8"), wings.draw(), "python docs/images/wings.py")
        drawn = {name.partition(".")[0] for floor in wings.FLOORS for name, *_ in floor if name}
        there = {path.stem for path in (ROOT / "relayd").iterdir() if path.suffix == ".py" or path.is_dir()}
        self.assertEqual(drawn, there - {"__init__", "__pycache__"})

    def test_what_they_name_exists(self) -> None:
        """Modules and classes: ``uplink.service.UplinkService``, ``commands/outbox.py``."""
        parts = "|".join(path.stem for path in (ROOT / "relayd").iterdir() if path.stem[0] != "_")
        missing = []
        for name in ("architecture", "command", "internals"):
            text = (ROOT / "docs" / f"{name}.rst").read_text("utf-8")
            dotted = re.findall(rf"``(?:relayd\.)?((?:{parts})(?:\.\w+)+)``", text)
            missing += [(name, each) for each in dotted if not _is_there(each.split("."))]
            paths = re.findall(rf"``((?:{parts})/(?:\w+/)*(?:\w+\.py)?)``", text)
            missing += [(name, each) for each in paths if not (ROOT / "relayd" / each).exists()]
        self.assertEqual(missing, [])

    def test_each_stop_is_in_its_folder(self) -> None:
        """The table of docs/command.rst."""
        text = (ROOT / "docs" / "command.rst").read_text("utf-8")
        stops = re.findall(r"   \* - \d+\n     - ``([\w/]+)/``\n     - (.+?)(?=\n   \* - |\n\n)", text, re.DOTALL)
        self.assertGreater(len(stops), 10)
        for folder, about in stops:
            for name in re.findall(r"``([a-z_]+\.[A-Za-z_.]+)``", about):
                known = _is_there([*folder.split("/"), *name.split(".")]) or _is_there(name.split("."))
                self.assertTrue(known, f"{folder}: {name}")


def _is_there(names: list[str]) -> bool:
    """A module, or something that it defines."""
    if names[-1] == "py":
        names = names[:-1]
    place = ROOT / "relayd"
    while names and (place / names[0]).is_dir():
        place /= names.pop(0)
    module = place / f"{names[0]}.py" if names else place
    if not names or not module.exists():
        return not names
    source = module.read_text("utf-8")
    return all(re.search(rf"^ *(?:class|def|async def) {name}\b|^ *{name}\b", source, re.M) for name in names[1:])


class FuzzingTests(SynchronousTestCase):
    """The table of docs/reliability.rst."""

    def test_every_target_has_a_row(self) -> None:
        text = (ROOT / "docs" / "reliability.rst").read_text("utf-8")
        table = text.partition("   * - parser\n")[2].partition("\nMost faults")[0]
        rows = re.findall(r"(?m)^     - ``([a-z-]+)``\n     - \d+\n     - [\d,]+\n     - \d+\n     - \d+$", table)
        self.assertEqual(sorted(rows), sorted(MODULES))


class SecurityTests(SynchronousTestCase):
    """docs/security.rst."""

    def test_every_row_names_tests(self) -> None:
        text = (ROOT / "docs" / "security.rst").read_text("utf-8")
        rows = re.findall(r"^   \* - (.+?)(?=^   \* - |^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        self.assertGreater(len(rows), 20)
        for row in rows:
            held = row.rpartition("\n     - ")[2]
            if "held by" not in held and "docs/reliability.rst" not in held:
                self.assertRegex(held, r"``tests\.[\w.]+``", row)

    def test_relayd_starts_no_process(self) -> None:
        demo = ROOT / "relayd" / "demo" / "sessions.py"  # its SSH server runs commands
        units = ROOT / "relayd" / "ctl" / "units.py"  # relayctl asks systemd
        for path in {*(ROOT / "relayd").rglob("*.py")} - {demo, units}:
            words = r"\bsubprocess\b|spawnProcess|\bos\.(system|popen|fork|exec|spawn|posix_spawn)"
            self.assertIsNone(re.search(words, path.read_text("utf-8")), path)


class NameTests(SynchronousTestCase):
    """What documents say of the tree."""

    def test_tests_exist(self) -> None:
        """By the names that trial takes: of a module, or of a folder."""
        for page in pages():
            for name in re.findall(r"\btests\.[a-z_.]*[a-z_]", page.read_text("utf-8")):
                path = ROOT.joinpath(*name.split("."))
                self.assertTrue(path.is_dir() or path.with_suffix(".py").exists(), f"{page.relative_to(ROOT)}: {name}")


class DifferenceTests(SynchronousTestCase):
    """The tables of what differs between the specification's example and relayd, in docs/protocol.rst."""

    def test_every_row_names_its_test(self) -> None:
        text = (ROOT / "docs" / "protocol.rst").read_text("utf-8").partition("\nHow a command runs\n")[2]
        rows = re.findall(r"^   \* - (.+?)(?=^   \* - |^\S|\Z)", text.partition("\nTexts of errors\n")[0], re.M | re.S)
        rows = [row for row in rows if not row.startswith("what\n")]
        self.assertGreater(len(rows), 30)
        for row in rows:
            held = " ".join(row.rpartition("\n     - ")[2].split())
            named = re.fullmatch(r"``(tests\.[\w.]+)``(?:, ``((?:test|check)_\w+)``)?", held)
            self.assertIsNotNone(named, row)
            assert named is not None
            source = ROOT.joinpath(*named[1].split(".")).with_suffix(".py").read_text("utf-8")
            self.assertIn(f"def {named[2] or 'test_'}", source, row)
            if named[2] and named[2].startswith("check_"):
                self.assertIn(f"await self.{named[2]}(", source, row)


class CommandTests(SynchronousTestCase):
    """What is run by `tests.docs.test_commands`, and what is not."""

    def test_commands_stand_in_console_blocks(self) -> None:
        for page in pages():
            lines = page.read_text("utf-8").splitlines()
            inside: set[int] = set()
            for block in blocks_of(page):
                at = block.line
                while block.steps and at < len(lines) and (not lines[at].strip() or lines[at].startswith(" ")):
                    inside.add(at)
                    at += 1
            loose = [line for at, line in enumerate(lines) if _COMMAND.match(line) and at not in inside]
            self.assertEqual(loose, [], page.relative_to(ROOT))

    def test_what_is_not_run_has_a_reason(self) -> None:
        left: list[tuple[str, Block]] = [
            (str(page.relative_to(ROOT)), block)
            for page in pages()
            for block in blocks_of(page)
            if block.mark.startswith("not run")
        ]
        for page, block in left:
            self.assertRegex(block.mark, "^not run: [a-z ].{10,}", page)
        self.assertLessEqual(len(left), 17, [(page, block.mark) for page, block in left])

    def test_every_page_with_commands_is_run(self) -> None:
        source = (Path(__file__).parent / "test_commands.py").read_text("utf-8")
        for page in pages():
            if any(block.steps and not block.mark.startswith("not run") for block in blocks_of(page)):
                self.assertIn(f'"{page.relative_to(ROOT)}"', source)
