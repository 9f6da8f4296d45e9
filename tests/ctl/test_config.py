"""
relayctl config: what it says of each setting, and the file that it makes of them.
"""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

from relayd.config.options import OPTIONS
from relayd.config.reading import load
from relayd.ctl.main import main
from tests.config.test_options import KEY, ConfigCase

TOML = """
server = "wss://main.example"
proxy-id = "site \\"1\\" — ü 😀"
http-proxy = "http://user:s3cret@proxy:3128"
max-commands = 5
max-output = "1500K"
drain-timeout = 90
idle-timeout = "1.5h"
allow-weak-key = true
allow-hosts = ["10.1.0.0/16", "db-*"]
allow-commands = '\\w+ "a\\\\b"'
working-directory = ""

[[credentials]]
hosts = ["db-*"]
users = ["!root", "*"]
password-file = "api-key"
via = "jump@gate:2222"

[[hosts]]
name = "old \\"switches\\""
hosts = ["sw-*"]
connect-timeout = "90s"
max-sessions = 1
working-directory = ""
pty = false
become = "sudo"
become-password-file = "api-key"
via = "gate"

[[hosts]]
hosts = ["*"]
users = ["app"]
shell = "none"
"""


#: Options of a relay whose key systemd passes on.
UNIT = {"RELAYD_API_KEY_FILE": "", "RELAYD_SERVER": "wss://main.example", "RELAYD_PROXY_ID": "site-1"}


class ShowTests(ConfigCase):
    """Runs ``relayctl config`` in this process."""

    def relayctl(self, *arguments: str, toml: str = TOML, **environ: str) -> tuple[int, list[str], str]:
        """Exit code, lines of output, errors."""
        path = self.write("relayd.toml", toml)
        self.patch(os, "environ", {"RELAYD_API_KEY_FILE": self.key_file, **environ})
        output, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(errors):
            try:
                code = main(["config", "--config", path, "--state-dir", str(self.directory / "state"), *arguments])
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        printed = output.getvalue()
        self.assertNotIn("s3cret", printed + errors.getvalue())
        self.assertNotIn(KEY, printed + errors.getvalue())
        return code, printed.splitlines(), errors.getvalue()

    def row(self, option: str, lines: list[str]) -> list[str]:
        [line] = [line for line in lines if line.startswith(option + " ")]
        return line.split(maxsplit=2)

    def test_where_each_comes_from(self) -> None:
        code, lines, errors = self.relayctl("--max-queue", "7", "--allow-plaintext", RELAYD_DRAIN_TIMEOUT="2m")
        self.assertEqual((code, errors), (0, ""))
        path = str(self.directory / "relayd.toml")
        self.assertEqual(self.row("max-queue", lines)[1:], ["7", "command line"])
        self.assertEqual(self.row("allow-plaintext", lines)[1:], ["yes", "command line"])
        self.assertEqual(self.row("drain-timeout", lines)[1:], ["2m", "RELAYD_DRAIN_TIMEOUT in the environment"])
        self.assertEqual(self.row("max-commands", lines)[1:], ["5", f"max-commands in {path}"])
        self.assertEqual(self.row("max-sessions", lines)[1:], ["10", "default"])
        self.assertEqual(self.row("api-key-file", lines)[1], self.key_file)
        self.assertIn("http://proxy:3128 (user and password not shown)", " ".join(self.row("http-proxy", lines)))
        self.assertEqual({line.split()[0] for line in lines[1:-3]}, {option.name for option in OPTIONS})
        self.assertIn('[[hosts]] 1: name = "old \\"switches\\"", hosts = ["sw-*"], users = ["*"], ', lines[-3])
        self.assertIn('connect-timeout = "90s", max-sessions = 1, working-directory = "", pty = false', lines[-3])
        self.assertEqual(lines[-2], '[[hosts]] 2: hosts = ["*"], users = ["app"], shell = "none"')
        self.assertIn('[[credentials]] 1: hosts = ["db-*"]', lines[-1])

    def test_mistakes_alone(self) -> None:
        """As the units call it before a reload."""
        self.assertEqual(self.relayctl("--quiet"), (0, [], ""))
        code, lines, errors = self.relayctl("--quiet", toml="max_queue = 3")
        self.assertEqual((code, lines, errors.count("\n")), (1, [], 1))
        self.assertIn("did you mean max-queue?", errors)

    def test_a_reload_does_not_see_the_credentials(self) -> None:
        for folder, code in (("/run/credentials/relayd-test.service", 0), ("/nowhere/secrets", 1)):
            done = self.relayctl("--quiet", toml="", **UNIT, CREDENTIALS_DIRECTORY=folder)
            self.assertEqual(done[:2], (code, []), done)
            self.assertEqual("$CREDENTIALS_DIRECTORY/api-key: the API key cannot be used" in done[2], bool(code))

    def test_a_proxy_whose_password_is_in_a_file(self) -> None:
        path = self.write("password", "s3cret")
        _, lines, _ = self.relayctl("--toml", toml=f'http-proxy = "http://u@p:1"\nhttp-proxy-password-file = "{path}"')
        self.assertIn('http-proxy = "http://u@p:1"', lines)
        self.assertIn(f'http-proxy-password-file = "{path}"', lines)

    def test_a_key_instead_of_its_file(self) -> None:
        code, lines, errors = self.relayctl("--api-key-file", KEY)
        self.assertEqual(code, 1)
        self.assertIn("--api-key-file: the API key cannot be used", errors)
        self.assertIn("not shown", " ".join(self.row("api-key-file", lines)))

    def test_mistakes(self) -> None:
        code, lines, errors = self.relayctl(toml="max-queue = -1\nmax_output = 3")
        self.assertEqual((code, lines, errors.count("\n")), (1, [], 2))

    def test_a_file_of_the_same_settings(self) -> None:
        code, lines, _ = self.relayctl(
            "--toml", "--max-queue", "7", "--default-timeout", "1500ms", RELAYD_MAX_OUTPUT="3M"
        )
        self.assertEqual(code, 0)
        [hidden] = [line for line in lines if line.startswith("#")]
        self.assertEqual(hidden, "# http-proxy: has a password, which is not shown here")
        before = load(
            {"config": str(self.directory / "relayd.toml"), "max-queue": "7", "default-timeout": "1500ms"},
            {"RELAYD_MAX_OUTPUT": "3M", "RELAYD_API_KEY_FILE": self.key_file},
        )
        again = self.write("again.toml", "\n".join(lines))
        after = load({"config": again}, {})
        self.assertEqual(
            replace(after, config=before.config, state_dir=before.state_dir, known_hosts=before.known_hosts),
            replace(before, http_proxy=None),
        )
