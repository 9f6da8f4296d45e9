"""
relayctl policy: what it says, and its exit codes.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.ctl.main import main

RULES = """
allow-hosts = ["10.1.0.0/16", "db-*.internal", "[gate]:2222"]
deny-hosts = ["10.1.9.*"]
allow-users = ["deploy", "!root"]
allow-commands = "uptime"
"""


class PolicyCase(SynchronousTestCase):
    """Has a file of settings, and a name server of its own."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.names: dict[str, list[str]] = {}
        self.patch(socket, "getaddrinfo", self.look_up)
        self.patch(os, "environ", {name: value for name, value in os.environ.items() if "RELAYD_" not in name})

    def look_up(self, host: str, port: int, **hints: Any) -> list[Any]:
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(None, None, None, "", (address, port)) for address in self.names[host]]

    def relayctl(self, *arguments: str, rules: str = RULES) -> tuple[int, list[str], str]:
        """Exit code, lines of output, errors."""
        path = self.directory / "relayd.toml"
        path.write_text(rules)
        output, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(errors):
            try:
                code = main(["policy", "--config", str(path), *arguments])
            except SystemExit as exit:
                code = int(exit.code or 0)
        return code, output.getvalue().splitlines(), errors.getvalue()


class ExplainTests(PolicyCase):
    """Questions."""

    def test_all_allowed(self) -> None:
        arguments = ("--host", "10.1.2.3", "--user", "deploy", "--command", "uptime")
        self.assertEqual(
            self.relayctl(*arguments),
            (
                0,
                [
                    "host     allowed  10.1.2.3:22: --allow-hosts 10.1.0.0/16",
                    "user     allowed  deploy: --allow-users deploy,!root",
                    "command  allowed  uptime: --allow-commands, which matches all of it",
                ],
                "",
            ),
        )

    def test_each_part_is_told_and_one_refusal_is_enough(self) -> None:
        code, lines, _ = self.relayctl("--host", "0x0a010907", "--user", "root", "--command", "uptime; reboot")
        self.assertEqual(code, 1)
        self.assertEqual(
            lines,
            [
                "host     refused  0x0a010907:22: --deny-hosts 10.1.9.*",
                "user     refused  root: --allow-users of the relay does not list that user",
                "command  refused  uptime; reboot: --allow-commands of the relay does not list it",
            ],
        )
        for arguments in (("--host", "10.1.9.7"), ("--user", "root"), ("--command", "ls")):
            self.assertEqual(self.relayctl(*arguments)[0], 1)

    def test_a_name_with_its_addresses(self) -> None:
        self.names["web"] = ["10.1.2.3", "10.1.9.1", "10.2.0.1", "169.254.169.254"]
        code, lines, _ = self.relayctl("--host", "web")
        self.assertEqual(code, 0)
        self.assertEqual(
            lines,
            [
                "host     allowed  web:22",
                "         allowed  10.1.2.3: --allow-hosts 10.1.0.0/16",
                "         refused  10.1.9.1: --deny-hosts 10.1.9.*",
                "         refused  10.2.0.1: --allow-hosts of the relay does not list it",
                "         refused  169.254.169.254: link-local address (169.254.0.0/16), which --allow-hosts does not "
                "name",
            ],
        )
        self.names["web"] = ["10.1.9.1"]
        code, lines, _ = self.relayctl("--host", "web")
        self.assertEqual((code, lines[0]), (1, "host     refused  web:22"))

    def test_a_name_that_is_not_known(self) -> None:
        code, lines, _ = self.relayctl("--host", "db-1.internal")
        self.assertEqual(code, 1)
        self.assertEqual(
            lines,
            ["host     refused  db-1.internal:22: it cannot be looked up here (Name or service not known)"],
        )

    def test_port(self) -> None:
        self.names["gate"] = ["10.7.0.1"]
        rules = 'allow-hosts = ["[gate]:2222"]'
        self.assertEqual(self.relayctl("--host", "gate", "--port", "2222", rules=rules)[0], 0)
        code, lines, _ = self.relayctl("--host", "gate", rules=rules)
        self.assertEqual((code, lines), (1, ["host     refused  gate:22: --allow-hosts of the relay does not list it"]))

    def test_behind_a_jump_host_of_the_site(self) -> None:
        """It is not looked up here, as the relay will not either."""
        table = '[[credentials]]\nhosts = ["*.lab", "10.1.7.0/24"]\nvia = "jump@gate:2222"\n'
        code, lines, _ = self.relayctl("--host", "pc.lab", rules=RULES + table)
        self.assertEqual(code, 1)
        self.assertEqual(len(lines), 1)
        self.assertIn("pc.lab:22, reached through jump@gate:2222 (by the site's tables): behind a jump host", lines[0])
        self.assertEqual(self.relayctl("--host", "10.1.7.1", rules=RULES + table)[0], 0)
        self.assertEqual(self.relayctl("--host", "pc.lab", rules=table)[0], 0)
        self.names["gate"] = ["10.1.2.3"]
        for table in ('hosts = ["*"]\nvia = "first,jump@gate"', 'hosts = ["*"]\nusers = ["bob"]\nvia = "x"'):
            _, lines, _ = self.relayctl("--host", "gate", rules=f"[[credentials]]\n{table}\n")
            self.assertEqual("reached through first (by" in lines[0], "first" in table)
            self.assertEqual("reached through" in lines[0], "first" in table)

    def test_a_jump_host_by_another_name(self) -> None:
        table = '[[credentials]]\nhosts = ["*"]\nvia = "first,jump@10.1.2.3"\n'
        for host in ("10.1.2.3", "0x0a010203", "[::ffff:10.1.2.3]"):
            _, lines, _ = self.relayctl("--host", host, rules=table)
            self.assertIn("reached through first (by", lines[0])

    def test_what_no_order_may_say(self) -> None:
        for arguments, part in (
            (("--host", "10.1.0.1-10.1.0.9"), "it is neither a host name nor an IP address"),
            (("--user", "root:x"), "it contains : or /, where some servers end the name"),
        ):
            code, lines, _ = self.relayctl(*arguments, rules="")
            self.assertEqual(code, 1)
            self.assertIn(f"refused  {arguments[1]}: commands with it are refused: {part}", lines[0])

    def test_a_name_with_a_dot_at_its_end_is_looked_up_so(self) -> None:
        self.names["web."] = ["10.1.2.3"]
        self.assertEqual(self.relayctl("--host", "Web.")[0], 0)

    def test_without_rules(self) -> None:
        self.assertEqual(
            self.relayctl("--user", "root", "--command", "x" * 99 + "\n", rules=""),
            (
                0,
                [
                    "user     allowed  root: no rule forbids it",
                    f"command  allowed  {'x' * 59}…: no rule forbids it",
                ],
                "",
            ),
        )


class RulesTests(PolicyCase):
    """The rules in force."""

    def test_rules(self) -> None:
        code, lines, _ = self.relayctl()
        self.assertEqual(code, 0)
        self.assertEqual(
            lines[:8],
            [
                "--allow-hosts     10.1.0.0/16, db-*.internal, [gate]:2222",
                "--deny-hosts      10.1.9.*",
                "--allow-users     deploy, !root",
                "--allow-commands  uptime",
                "--deny-commands   not set: none",
                "--allow-files     not set: none",
                "--deny-files      not set: none",
                "",
            ],
        )
        self.assertIn("link-local        169.254.0.0/16, fe80::/10", lines)

    def test_the_environment_counts(self) -> None:
        os.environ["RELAYD_DENY_HOSTS"] = "10.0.0.0/8"
        self.assertEqual(self.relayctl("--host", "10.1.2.3")[0], 1)


class MistakeTests(PolicyCase):
    """What is not asked properly."""

    def test_command_line(self) -> None:
        for arguments in (("--port", "0"), ("--hots", "x"), ("x",)):
            code, lines, errors = self.relayctl(*arguments)
            self.assertEqual((code, lines, errors.count("\n")), (2, [], 1))

    def test_settings(self) -> None:
        code, lines, errors = self.relayctl(rules='deny-hosts = "10.0.0.0/33"')
        self.assertEqual((code, lines), (1, []))
        self.assertIn("deny-hosts in ", errors)
        self.assertIn('not "10.0.0.0/33"', errors)
