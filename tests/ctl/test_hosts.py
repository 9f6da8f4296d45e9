"""
relayctl hosts explain: what applies to a host, and which table or option says so.
"""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from relayd.config.host_tables import SETTINGS
from relayd.ctl.main import main
from tests.config.test_options import ConfigCase

TOML = """
max-sessions = 7
no-exit-status-hosts = ["pdu-*"]

[[hosts]]
name = "old switches"
hosts = ["sw-*"]
ssh-algorithms = "legacy"
max-sessions = 1
become = "sudo"
become-password-file = "api-key"

[[hosts]]
hosts = ["sw-1", "10.7.0.0/16"]
users = ["admin"]
max-sessions = 2
connect-timeout = "90s"
password-file = "api-key"

[[hosts]]
hosts = ["[*]:2222"]
pty = true

[[credentials]]
hosts = ["*"]
key-file = "api-key"
via = "jump@gate"
"""


class ExplainTests(ConfigCase):
    def relayctl(self, *arguments: str, toml: str = TOML, **environ: str) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        self.path = self.write("relayd.toml", toml)
        self.patch(os, "environ", environ)
        output, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(errors):
            try:
                code = main(["hosts", "explain", "--config", self.path, *arguments])
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return code, output.getvalue(), errors.getvalue()

    def explained(self, *arguments: str, toml: str = TOML, **environ: str) -> dict[str, Any]:
        code, output, errors = self.relayctl("--json", *arguments, toml=toml, **environ)
        self.assertEqual((code, errors), (0, ""))
        found: dict[str, Any] = json.loads(output)
        return found

    def where(self, name: str, found: dict[str, Any]) -> tuple[Any, str, str | None]:
        row = found["settings"][name]
        return row["value"], row["source"], row["where"]

    def test_the_first_table_wins(self) -> None:
        found = self.explained("admin@sw-1", RELAYD_CONNECT_TIMEOUT="20s", RELAYD_OUTPUT_ENCODING="gbk")
        self.assertEqual((found["host"], found["port"], found["user"]), ("sw-1", 22, "admin"))
        first = f'[[hosts]] number 1 "old switches" in {self.path}'
        second = f"[[hosts]] number 2 in {self.path}"
        for name, expected in {
            "ssh-algorithms": ("legacy", "table", first),
            "max-sessions": (1, "table", first),
            "connect-timeout": (90.0, "table", second),
            "output-encoding": ("gbk", "option", "RELAYD_OUTPUT_ENCODING in the environment"),
            "host-keys": ("accept-new", "default", None),
            "no-exit-status": (None, "default", None),
            "pty": (False, "default", None),
            "become": ({"method": "sudo", "user": "root", "password-file": self.key_file}, "table", first),
            "credential": ({"password-file": self.key_file}, "table", second),
            "via": ("jump@gate", "table", f"[[credentials]] number 1 in {self.path}"),
        }.items():
            self.assertEqual(self.where(name, found), expected, name)
        self.assertEqual(found["settings"]["ssh-algorithms"]["table"], 1)
        self.assertEqual(found["settings"]["ssh-algorithms"]["tableName"], "old switches")
        self.assertEqual(set(found["settings"]), {*SETTINGS, "credential", "via"})

    def test_what_counts_for_other_shells(self) -> None:
        """A setting that means nothing with the shell of a host is not shown as if it counted."""
        toml = """
working-directory = "/srv"
max-connections = 7
no-exit-status-hosts = ["*"]

[[hosts]]
hosts = ["sw-2"]
max-connections = 3

[[hosts]]
hosts = ["sw-*"]
shell = "device"
pty = true

[[hosts]]
hosts = ["win-1"]
working-directory = 'C:\\data'

[[hosts]]
hosts = ["win-*"]
shell = "cmd"

[[hosts]]
hosts = ["pdu"]
shell = "none"
working-directory = "/srv"
"""
        unused: tuple[None, str, str | None]
        for host, shell, expected in (
            ("sw-1", "device", {"max-connections": 1}),
            ("sw-2", "device", {"max-connections": 3}),
            ("win-1", "cmd", {"working-directory": "C:\\data", "family": None}),
            ("win-2", "cmd", {"working-directory": "", "pty": False, "no-exit-status": 0}),
            ("pdu", "none", {"working-directory": None, "family": None, "max-connections": 7}),
            ("other", None, {"working-directory": "/srv", "family": "generic"}),
        ):
            found = self.explained(f"x@{host}", toml=toml)
            self.assertEqual(found["settings"]["shell"]["value"], shell)
            for name, value in expected.items():
                self.assertEqual(found["settings"][name]["value"], value, (host, name))
            if shell == "device":
                unused = (None, "shell", f"shell of [[hosts]] number 2 in {self.path}")
                for name in ("max-sessions", "working-directory", "no-exit-status", "pty"):
                    self.assertEqual(self.where(name, found), unused, name)
        _, output, _ = self.relayctl("x@sw-1", toml=toml)
        self.assertRegex(output, r"\npty +not used +shell of \[\[hosts\]\] number 2 in ")

    def test_another_user_port_and_host(self) -> None:
        self.assertEqual(self.where("max-sessions", self.explained("sw-1", "--user", "x"))[0], 1)
        found = self.explained("x@web:2222")
        self.assertEqual(self.where("pty", found)[:2], (True, "table"))
        self.assertEqual(self.where("max-sessions", found), (7, "option", f"max-sessions in {self.path}"))
        found = self.explained("PDU-3.", "--user", "x")
        self.assertEqual(self.where("no-exit-status", found), (0, "option", f"no-exit-status-hosts in {self.path}"))
        self.assertIsNone(self.where("via", self.explained("jump@gate"))[0], "it is not before itself")

    def test_notes(self) -> None:
        first, second = self.explained("sw-1")["notes"]
        self.assertIn("[[hosts]] number 2: for some users only", first)
        self.assertIn("[[hosts]] number 2: for addresses", second)
        self.assertEqual(self.explained("x@10.7.1.1")["notes"], [])

    def test_as_text(self) -> None:
        code, output, errors = self.relayctl("admin@sw-1")
        self.assertEqual((code, errors), (0, ""))
        rows = {line.split()[0]: line for line in output.splitlines() if not line.startswith("#")}
        self.assertEqual(rows["connect-timeout"].split(maxsplit=2)[1:], ["90s", f"[[hosts]] number 2 in {self.path}"])
        self.assertIn("sudo", rows["become"])
        self.assertTrue(rows["shell"].endswith("default"))
        self.assertIn("no limit", rows["commands-per-connection"])

    def test_without_tables(self) -> None:
        found = self.explained("x@h", toml="")
        self.assertEqual({row["source"] for row in found["settings"].values()}, {"default"})
        self.assertEqual(found["notes"], [])

    def test_mistakes(self) -> None:
        for wrong in ("a b", "h:0", "u/x@h", "[::1", "@h"):
            code, output, errors = self.relayctl(wrong)
            self.assertEqual((code, output, errors.count("\n")), (1, "", 1), wrong)
            self.assertIn("expected a host as commands name it", errors)
        code, _, errors = self.relayctl("h", toml="[[hosts]]\nhosts = ['h']")
        self.assertEqual(code, 1)
        self.assertIn("[[hosts]] number 1", errors)
