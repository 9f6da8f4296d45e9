"""
Manual pages, completion for shells, tables of options, the example file and the schemas of messages: they say what the
code says today, and the programs that read them can.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path

import jsonschema_rs
from twisted.trial.unittest import SynchronousTestCase

from relayd.config import credentials, host_tables
from relayd.config.options import OPTIONS, RELAY_TABLE
from relayd.config.paths import Paths
from relayd.config.sources import OptionSources
from relayd.config.tables import Surroundings, read_tables
from relayd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
#: Completes words with the script of bash: $1 is the script, the rest are the words.
_BASH = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"_shtab_${COMP_WORDS[0]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def run(*words: str) -> str:
    """What a command that must succeed prints."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def generate(kind: str, directory: str) -> None:
    """What ``packaging/generate.py KIND DIRECTORY`` does."""
    sys.path.insert(0, str(PACKAGING))
    try:
        import_module("generate").main(kind, directory)
    finally:
        sys.path.remove(str(PACKAGING))


def files_of(folder: str) -> list[str]:
    """The paths of all files in a folder of the repository."""
    return [str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()]


class CurrentTests(SynchronousTestCase):
    """When one of these fails: ``make man completion options schemas openapi``."""

    def check(self, kind: str, *paths: str, make: Callable[[str, str], object] = generate) -> None:
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        make(kind, str(directory))
        made = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
        self.assertEqual(made, set(paths))
        for path in paths:
            self.assertEqual((ROOT / path).read_text(), (directory / path).read_text(), f"{path}: make {kind}")

    def test_manual_pages(self) -> None:
        """By the program itself, as make runs it."""
        self.check("man", *files_of("packaging/man"), make=partial(run, sys.executable, str(PACKAGING / "generate.py")))

    def test_completion(self) -> None:
        self.check("completion", *files_of("packaging/completion"))

    def test_options(self) -> None:
        """When it fails for want of a translation: docs/options.zh.po."""
        pages = ("docs/options.rst", "docs/options.zh.rst", "docs/hub-options.rst", "docs/reload.rst")
        self.check("options", *pages, "packaging/debian/hub.toml", "packaging/debian/relayd.toml")

    def test_schemas(self) -> None:
        self.check("schemas", *files_of("docs/schemas"))

    def test_openapi(self) -> None:
        self.check("openapi", "docs/openapi.json")


class UseTests(SynchronousTestCase):
    """Those who read them."""

    def test_manual_pages_are_sound(self) -> None:
        """No complaint but that they have no date: it would change with each version of the generator."""
        for page in ("relayd.8", "relayd-hub.8", "relayctl.1"):
            done = subprocess.run(
                ["mandoc", "-Tlint", "-W", "warning", str(PACKAGING / "man" / page)],
                capture_output=True,
                text=True,
                check=False,
            )
            complaints = [line for line in done.stdout.splitlines() if "missing date" not in line]
            self.assertEqual((complaints, done.stderr), ([], ""))

    def test_manual_pages_say_what_help_says(self) -> None:
        """What argparse has to have escaped is not escaped in the page."""
        for page in ("relayd.8", "relayd-hub.8", "relayctl.1"):
            self.assertNotIn("%%", (PACKAGING / "man" / page).read_text())
        self.assertIn("by up to 40 %\n", (PACKAGING / "man" / "relayctl.1").read_text())

    def test_every_option_is_in_the_manual(self) -> None:
        shown = run("mandoc", "-Tascii", "-O", "width=200", str(PACKAGING / "man" / "relayd.8"))
        plain = "".join(
            char for index, char in enumerate(shown) if char != "\b" and shown[index + 1 : index + 2] != "\b"
        )
        for option in OPTIONS:
            self.assertIn(f"{option.flag_name} {option.metavar}".rstrip(), plain)

    def test_the_example_is_one(self) -> None:
        """Each line of it can be used as it is; together they are all options but ``config``."""
        text = (PACKAGING / "debian" / "relayd.toml").read_text()
        self.assertEqual(tomllib.loads(text), {})
        lines = re.findall(r"^#([a-z-]+ = .*|\[\[.*)$", text, re.MULTILINE)
        content = tomllib.loads("\n".join(lines))
        self.assertEqual(set(content) - {"credentials", "hosts"}, {option.name for option in OPTIONS} - {"config"})
        mistakes: list[ConfigError] = []
        sources = OptionSources(RELAY_TABLE, "/", Paths({}), mistakes.append)
        sources.read_file(
            {name: value for name, value in content.items() if name not in ("credentials", "hosts")}, "/x.toml"
        )
        for option in OPTIONS:
            if option.name in sources.given:
                value = sources.value(option, sources.given[option.name])
                if option.default is not None:
                    self.assertEqual(value, option.parse(option.default))
        self.assertEqual(mistakes, [])

    def test_the_tables_of_the_example(self) -> None:
        """They have every key that there is, and can be used once their files are there."""
        text = (PACKAGING / "debian" / "relayd.toml").read_text().partition("# Credentials of this site -")[2]
        tables = tomllib.loads("\n".join(re.findall(r"^#([a-z-]+ = .*|\[\[.*)$", text, re.MULTILINE)))
        self.assertEqual({key for table in tables["credentials"] for key in table}, set(credentials.KEYS))
        own = {"hosts", "users", *host_tables.HOST_KEYS}
        self.assertEqual({key for table in tables["hosts"] for key in table} - set(credentials.LOGIN_KEYS), own)
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        for table in chain.from_iterable(tables.values()):
            for key in [key for key in table if key.endswith("-file")]:
                table[key] = Path(table[key]).name
                (directory / table[key]).touch(mode=0o600)
                (directory / table[key]).write_text("x")
        mistakes: list[ConfigError] = []
        names = {option.name for option in OPTIONS}
        surroundings = Surroundings(str(directory / "relayd.toml"), {}, Paths({}), names)
        for kind, read in (("credentials", credentials.read_credential), ("hosts", host_tables.read_host)):
            rules = read_tables(kind, tables[kind], surroundings, read, mistakes.append)  # type: ignore[arg-type]
            self.assertEqual(mistakes, [])
            self.assertEqual(len(rules), len(tables[kind]))

    def test_schemas_in_javascript(self) -> None:
        """Ajv, which most main servers on Node.js use, takes them, and finds what Python finds."""
        good = {"commandId": "c1", "host": "h", "port": 22, "username": "u", "command": "id", "password": "p"}
        wrong = [
            {"host": "a b"},
            {"port": "x"},
            {"username": " u"},
            {"commandId": "a\nb"},
            {"command": " "},
            {"cwd": "x"},
        ]
        samples: list[tuple[str, object]] = [("to-relay/execute_command.json", good | each) for each in ({}, *wrong)]
        samples.append(("to-main-server/command_status.ack.json", {"error": "no"}))
        done = subprocess.run(
            ["node", str(ROOT / "tests" / "node" / "schemas.js"), str(ROOT / "docs" / "schemas")],
            input=json.dumps(samples),
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.stderr, "")
        self.assertEqual(json.loads(done.stdout), [True, *(False for _ in wrong), True])

    def test_asyncapi(self) -> None:
        """It is what AsyncAPI's own schema allows, and each reference in it leads somewhere."""
        text = (ROOT / "docs" / "schemas" / "asyncapi.json").read_text()
        whole = json.loads(text)
        specs = ROOT / "tests" / "node" / "node_modules" / "@asyncapi" / "specs" / "schemas"
        official = jsonschema_rs.validator_for(json.loads((specs / f"{whole['asyncapi']}.json").read_text()))
        self.assertEqual([str(error) for error in official.iter_errors(whole)], [])
        references = set(re.findall(r'"\$ref": "#/([^"]+)"', text))
        self.assertGreater(len(references), 30)
        for reference in references:
            found = whole
            for name in reference.split("/"):
                self.assertIn(name, found, reference)
                found = found[name]

    def complete(self, *words: str) -> list[str]:
        return run("bash", "-c", _BASH, "bash", str(PACKAGING / "completion" / words[0]), *words).split()

    def test_bash(self) -> None:
        self.assertLessEqual({"audit", "journal", "policy"}, set(self.complete("relayctl", "")))
        self.assertEqual(self.complete("relayctl", "audit", "v"), ["verify"])
        self.assertEqual(self.complete("relayctl", "audit", "verify", "--he"), ["--help", "--head"])
        self.assertEqual(self.complete("relayctl", "journal", "--config", "pyp"), ["pyproject.toml"])
        self.assertEqual(self.complete("relayd", "--max-com"), ["--max-commands"])
        self.assertEqual(self.complete("relayd", "--dialect", "s"), ["socketio"])
        self.assertEqual(self.complete("relayd", "--config", "pyp"), ["pyproject.toml"])

    def test_zsh(self) -> None:
        for name in ("_relayctl", "_relayd"):
            run("zsh", "-n", str(PACKAGING / "completion" / name))

    def test_zsh_completes_twistd_relayd(self) -> None:
        """By Twisted's own way: zsh asks the program what to offer."""
        script = "from twisted.scripts.twistd import run; run()"
        asked = ("relayd", "--dialect", "", "--_shell-completion", "zsh:4")
        offered = run(sys.executable, "-c", f"import sys; sys.argv[0] = 'twistd'; {script}", *asked)
        self.assertIn(":dialect:(auto socketio native)'", offered)
        self.assertIn(":state-dir:_directories'", offered)
        self.assertIn(':config:_files -g "*"\'', offered.replace(" (*)", ""))
        self.assertIn("'--max-commands=[commands that may run at the same time]", offered)
        function = Path(tempfile.mkdtemp()) / "_twistd"
        self.addCleanup(shutil.rmtree, function.parent)
        function.write_text(offered)
        run("zsh", "-n", str(function))
