"""
packaging/container: there is no engine where these tests run, so what the file says is looked at, and its commands run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relayd.config.options import OPTIONS
from relayd.hub import terminal as hub_terminal

ROOT = Path(__file__).resolve().parents[2]
#: The deadline of any process here, in seconds.
PATIENCE = 120


def statements() -> list[tuple[str, str]]:
    """The statements of the file: instruction and the rest, with continued lines joined."""
    text = (ROOT / "packaging" / "container" / "Containerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.M)).splitlines()
    return [(line.split(" ", 1)[0], " ".join(line.split()[1:])) for line in lines if line.strip()]


class FileTests(SynchronousTestCase):
    """What it says."""

    def setUp(self) -> None:
        self.all = statements()
        second = max(index for index, (name, _) in enumerate(self.all) if name == "FROM")
        self.build, self.final = self.all[:second], dict(self.all[second:])
        self.environment = dict(word.split("=", 1) for word in shlex.split(self.final["ENV"]))

    def test_two_slim_stages(self) -> None:
        bases = [rest.split()[0] for name, rest in self.all if name == "FROM"]
        self.assertEqual(len(bases), 2)
        self.assertEqual({base.rpartition("-")[2] for base in bases}, {"slim"})
        self.assertEqual(self.final["COPY"], "--from=build /opt/relayd /opt/relayd")

    def test_not_root(self) -> None:
        self.assertNotIn(self.final["USER"].partition(":")[0], ("0", "root"))
        self.assertIn(f"--uid {self.final['USER']} ", self.final["RUN"])

    def test_no_secret_is_built_in(self) -> None:
        self.assertEqual(self.environment["CREDENTIALS_DIRECTORY"], "/run/secrets")
        for name, rest in self.all:
            if name in ("COPY", "ADD"):
                self.assertNotRegex(rest, r"key|secret|\.toml(?<!pyproject\.toml)")

    def test_what_is_copied_is_enough_to_build(self) -> None:
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        for name, rest in self.build:
            if name == "COPY":
                *sources, _ = rest.split()
                for source in sources:
                    path = ROOT / source
                    copy = shutil.copytree if path.is_dir() else shutil.copy
                    copy(path, directory / source)  # type: ignore[operator]
        script = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=directory, capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue((directory / done.stdout.split()[-1]).is_file())

    def test_its_commands(self) -> None:
        """The relay that it starts lives, says so when it is asked how its health is, and ends well."""
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        (directory / "api-key").write_text("k" * 40)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        environ |= self.environment | {"RELAYD_SERVER": "ws://127.0.0.1:9", "RELAYD_PROXY_ID": "site-1"}
        environ |= {"CREDENTIALS_DIRECTORY": str(directory), "STATE_DIRECTORY": str(directory / "state")}
        environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        log = directory / "log"
        with log.open("wb") as file:
            relay = subprocess.Popen(json.loads(self.final["ENTRYPOINT"]), env=environ, stdout=file, stderr=file)
        self.addCleanup(relay.wait)
        self.addCleanup(relay.kill)
        deadline = time.monotonic() + PATIENCE
        while "Next attempt in" not in log.read_text():
            if relay.poll() is not None or time.monotonic() > deadline:
                self.fail(log.read_text())
            time.sleep(0.1)
        check = json.loads(self.final["HEALTHCHECK"].partition(" CMD ")[2])
        if any(option.name == "status" for option in OPTIONS):
            subprocess.run(check, env=environ, check=True, timeout=PATIENCE)
        relay.terminate()
        self.assertEqual(relay.wait(PATIENCE), 0, log.read_text())


class ComposeTests(SynchronousTestCase):
    """compose.yaml, which ``make lint`` holds against the Compose Specification, and the scripts that it runs."""

    def setUp(self) -> None:
        self.folder = ROOT / "packaging" / "container"
        self.text = (self.folder / "compose.yaml").read_text()

    def test_what_it_names_is_there(self) -> None:
        for name in re.findall(r"dockerfile: (\S+)", self.text):
            self.assertTrue((ROOT / name).is_file(), name)
        host = (self.folder / "ssh-host.Containerfile").read_text()
        for script in re.findall(r"/usr/local/bin/(\S+?\.sh)", self.text + host):
            self.assertIn(f"packaging/container/{script} ", host)
            self.assertTrue((self.folder / script).is_file(), script)

    def test_its_options(self) -> None:
        names = {"RELAYD_" + option.name.upper().replace("-", "_") for option in OPTIONS}
        given = set(re.findall(r"RELAYD_\w+", self.text))
        self.assertEqual(given, {"RELAYD_SERVER", "RELAYD_PROXY_ID", "RELAYD_ALLOW_PLAINTEXT"})
        self.assertLessEqual(given, names)
        hub = hub_terminal.make_parser()
        words = re.findall(r"^ +- (--\S+)$", self.text, re.M)
        self.assertEqual(hub.parse_args(words).listen, "tcp:8765")
        self.assertIn("ws://main-server:8765\n", self.text)

    def test_keys_are_made_once(self) -> None:
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        folders = [directory / name for name in ("api-key", "login", "authorized")]
        for folder in folders:
            folder.mkdir()
        made = []
        for _ in range(2):
            script = ["sh", str(self.folder / "make-keys.sh"), *map(str, folders), str(os.getuid())]
            subprocess.run(script, check=True, timeout=PATIENCE)
            files = [path for folder in folders for path in sorted(folder.iterdir())]
            made.append([(path.name, path.read_bytes(), path.stat().st_mode & 0o777) for path in files])
        self.assertEqual(made[0], made[1])
        modes = {name: mode for name, _, mode in made[0][:2]}
        self.assertEqual(modes, {"api-key": 0o400, "key": 0o400})
        self.assertGreaterEqual(len(made[0][0][1].strip()), 32)
        self.assertEqual([name for name, _, _ in made[0]], ["api-key", "key", "key.pub", "key.pub"])


class WorkflowTests(SynchronousTestCase):
    """.github/workflows run what a developer runs."""

    def test_they_call_targets_that_there_are(self) -> None:
        makefile = (ROOT / "Makefile").read_text()
        called = []
        for path in sorted((ROOT / ".github" / "workflows").iterdir()):
            for words in re.findall(r"^ +- run: make (.*)$", path.read_text(), flags=re.M):
                called += words.split()
        self.assertLessEqual({"test", "test-minimum", "coverage", "test-deb", "dist"}, set(called))
        for target in called:
            self.assertRegex(makefile, rf"(?m)^([a-z-]+ )*{target}( [a-z-]+)*:")
