"""
What is built and installed: wheel and editable install each give ``twistd relayd`` and ``twist relayd``, and the sdist
gives the same wheel.

The registry is not asked: a new environment sees the libraries of the one that runs the tests, but not its relayd.
"""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relayd import __version__
from tests.support import install
from tests.support.built import built, installed, run

ROOT = Path(__file__).resolve().parents[2]


#: Runs Twisted's programs in one process, and prints what they print.
LOOK = """
import contextlib, io, json, sys
import relayd
from relayd.language.catalogues import translator
from twisted.application.twist._twist import Twist
from twisted.scripts.twistd import run

def said(main, *argv):
    sys.argv[:] = argv
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        main()
    return output.getvalue()

print(json.dumps({
    "origin": relayd.__file__,
    "password": translator("zh")("password"),
    "twistd --help": said(run, "twistd", "--help"),
    "twistd relayd --help": said(run, "twistd", "relayd", "--help"),
    "twist relayd --help": said(Twist.main, "twist", "relayd", "--help"),
    "twistd relayd --version": said(run, "twistd", "relayd", "--version"),
}))
"""


class Environment:
    """A new virtual environment below *directory*."""

    def __init__(self, directory: Path) -> None:
        venv.create(directory, with_pip=False, symlinks=True)
        self.directory = directory
        self.python = str(directory / "bin" / "python")
        self.site = Path(
            run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=directory).strip()
        )
        # Only the directory itself: the .pth files in it, as that of an editable relayd, are not looked at.
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.site / "libraries.pth").write_text("\n".join(sorted(paths)) + "\n")

    def install(self, *words: str) -> None:
        """``pip install`` without dependencies and without the registry."""
        options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
        pip = (sys.executable, "-m", "pip", "--python", self.python)
        run(*pip, "install", *options, *words, cwd=self.directory)

    def look(self) -> dict[str, str]:
        """What its programs print that Twisted brings, and what it has (`LOOK`)."""
        found: dict[str, str] = json.loads(run(self.python, "-c", LOOK, cwd=self.directory))
        return found


def contents(wheel: Path) -> dict[str, bytes]:
    """All files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class PackagingTests(SynchronousTestCase):
    """What is built, and what is there once it is installed."""

    def setUp(self) -> None:
        self.source, self.sdist, self.wheel = built().source, built().sdist, built().wheel

    def environment(self) -> Environment:
        return Environment(self.directory("environment"))

    def directory(self, name: str) -> Path:
        """One that goes with the test."""
        directory = Path(tempfile.mkdtemp(prefix=f"relayd-test-{name}-"))
        self.addCleanup(shutil.rmtree, directory)
        return directory

    def check(self, environment: Environment, source: Path) -> None:
        """It works, and is the relayd from *source*."""
        found = environment.look()
        self.assertTrue(Path(found["origin"]).is_relative_to(source), found["origin"])
        self.assertIn("Run a main server's commands", found["twistd --help"])
        self.assertIn("--max-commands N", found["twistd relayd --help"])
        self.assertIn("--max-commands N", found["twist relayd --help"])
        self.assertEqual(found["twistd relayd --version"], f"relayd {__version__}\n")
        self.assertEqual(found["password"], "密码（password）")
        for program in ("relayctl", "relayd"):
            said = run(str(environment.directory / "bin" / program), "--version", cwd=environment.directory)
            self.assertEqual(said, f"{program} {__version__}\n")

    def test_the_wheel_holds_the_plugin_and_nothing_else_of_twisted(self) -> None:
        names = zipfile.ZipFile(self.wheel).namelist()
        plugins = ["twisted/plugins/relayd_hub_plugin.py", "twisted/plugins/relayd_plugin.py"]
        self.assertEqual([name for name in names if name.startswith("twisted/")], plugins)
        for data in ("py.typed", "status/status.css", "status/status.js", "hub/access/common-passwords.txt"):
            self.assertIn(f"relayd/{data}", names)
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / "relayd").rglob("*.py")}
        self.assertEqual({name for name in names if name.startswith("relayd/") and name.endswith(".py")}, modules)
        top = {name.partition("/")[0] for name in names}
        self.assertEqual(top, {"relayd", "twisted", f"relayd-{__version__}.dist-info"})

    def test_the_version_is_in_one_place(self) -> None:
        """But for what is made from it."""
        made = {ROOT / "CHANGELOG.rst", *(ROOT / "packaging" / "man").iterdir()}
        sources = [*ROOT.glob("*.*"), *(ROOT / "relayd").rglob("*.py"), *(ROOT / "packaging").rglob("*")]
        files = {path for path in sources if path.is_file() and path.suffix != ".pyc"} - made
        holders = [path.name for path in files if f'"{__version__}"' in path.read_text()]
        self.assertEqual(holders, ["__init__.py"])

    def test_metadata(self) -> None:
        with zipfile.ZipFile(self.wheel).open(f"relayd-{__version__}.dist-info/METADATA") as file:
            metadata = file.read().decode()
        self.assertIn(f"\nVersion: {__version__}\n", metadata)
        self.assertIn("\nLicense-Expression: MIT\n", metadata)
        self.assertIn("\nRequires-Python: >=3.11\n", metadata)
        for extra in ("test", "dev"):
            self.assertIn(f"\nProvides-Extra: {extra}\n", metadata)

    def test_the_wheel_installed(self) -> None:
        """By pip, which has done it once for all who need it."""
        environment = self.environment()
        install.main(environment.directory, installed())
        self.check(environment, environment.site)

    def test_the_sdist(self) -> None:
        """What is needed to build, test and run from it is in it; the rest is not. Its wheel is the same as ours."""
        with tarfile.open(self.sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        for name in (
            "LICENSE",
            "Makefile",
            "changes/README.rst",
            "packaging/systemd/relayd@.service",
            "relayd.tac",
            "relayd-hub.tac",
            "tests/system/test_packaging.py",
            "tests/bootstrap.sh",
            ".ci/run",
        ):
            self.assertIn(name, names)
        self.assertIn("tests/node/package-lock.json", names)
        self.assertEqual([name for name in names if "node_modules" in name or "dropin.cache" in name], [])
        ours, of_sdist = contents(self.wheel), contents(built().wheel_of_sdist)
        self.assertEqual(set(of_sdist), set(ours))
        self.assertEqual([name for name in ours if of_sdist[name] != ours[name]], [])

    def test_an_editable_install(self) -> None:
        source = shutil.copytree(self.source, self.directory("source"), dirs_exist_ok=True)
        environment = self.environment()
        environment.install("--editable", str(source))
        self.check(environment, source)
