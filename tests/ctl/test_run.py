"""
relayd.ctl.run and its siblings for people, against a hub that answers as the API does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from relayd.ctl.client import events as events_module
from relayd.ctl.client import http as http_module
from relayd.ctl.client import watching
from relayd.ctl.main import main
from tests.support.fake_hub import Asked, FakeHub, Said, events, problem

END: Any = ("end", None, {})
TOKEN = "the-token-of-the-test"


def invocation(host: str, state: str, **more: Any) -> dict[str, Any]:
    """One of a run, as the API has it."""
    return {"id": f"i-{host}", "host": host, "state": state, "exitCode": None, "error": None, **more}


def output(host: str, sequence: int, text: str, stream: str = "stdout") -> dict[str, Any]:
    """A piece of output."""
    return {"invocation": f"i-{host}", "host": host, "stream": stream, "sequence": sequence, "text": text}


class CommandLineCase(SynchronousTestCase):
    """Tests that call ``relayctl``."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "token").write_text(TOKEN)
        (self.folder / "token").chmod(0o600)
        self.patch(os, "environ", os.environ | {"XDG_CONFIG_HOME": str(self.folder / "config")})
        self.fake = FakeHub()
        self.addCleanup(self.fake.close)
        self.patch(http_module, "_DELAYS", (0.0,))
        self.patch(events_module, "_DELAYS", (0.0,))

    def call(self, *words: str, login: bool = True, stdin: str = "") -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        hub = ["--hub", self.fake.url, "--token-file", str(self.folder / "token")] if login else []
        at = words.index("--") if "--" in words else len(words)
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch("sys.stdin", io.StringIO(stdin)),
        ):
            try:
                status = main([*words[:at], *hub, *words[at:]])
            except SystemExit as end:
                status = int(end.code or 0)
        return status, out.getvalue(), err.getvalue()

    def run_ends(self, *ends: dict[str, Any], stream: Any = None) -> None:
        """The hub takes a run, which ends so."""
        counts: dict[str, int] = {}
        for each in ends:
            counts[each["state"]] = counts.get(each["state"], 0) + 1
        over = ("run", 9, {"id": "r1", "state": "failed", "counts": counts, "size": len(ends)})
        self.fake.answers |= {
            ("POST", "/runs"): {"id": "r1", "size": len(ends)},
            ("GET", "/runs/r1"): {"id": "r1", "state": "failed", "command": {"command": "uptime"}, "counts": counts},
            ("GET", "/runs/r1/invocations"): {"items": list(ends)},
            ("GET", "/runs/r1/events"): stream
            or events(*(("invocation", 8, each) for each in ends), over, ("end", None, {})),
        }


class RunTests(CommandLineCase):
    """``relayctl run``."""

    def test_the_order(self) -> None:
        self.run_ends(invocation("a", "succeeded"))
        status, _, said = self.call(
            "run", "-l", "env=prod", "--max", "20%", "--errors", "3", "--ramp", "1,5", "--timeout", "2m",
            "--wait", "1h", "--note", "why", "--cwd", "/srv", "--key", "k1", "--", "uptime", "-p",
        )  # fmt: skip
        self.assertEqual(status, 0, said)
        order = next(asked for asked in self.fake.asked if asked.method == "POST")
        self.assertEqual(
            order.body,
            {
                "selector": "env=prod", "command": "uptime -p", "concurrency": "20%", "maxErrors": 3, "ramp": [1, 5],
                "timeout": 120.0, "deliverWithin": 3600.0, "note": "why", "cwd": "/srv",
            },
        )  # fmt: skip
        self.assertEqual(order.headers["idempotency-key"], "k1")

    def test_lines_and_summary(self) -> None:
        stream = events(
            ("output", 2, output("a", 0, "up 3 days\n")),
            ("output", 3, output("b", 0, "no such\x1b[2J ", "stderr")),
            ("output", 4, output("b", 1, "thing\nlast", "stderr")),
            ("invocation", 5, invocation("a", "succeeded", exitCode=0)),
            ("invocation", 6, invocation("b", "failed", exitCode=2)),
            END,
        )
        self.run_ends(invocation("a", "succeeded"), invocation("b", "failed", exitCode=2), stream=stream)
        status, printed, said = self.call("run", "--host", "a", "--host", "b", "--", "x")
        self.assertEqual((status, printed), (1, "a: up 3 days\n"))
        self.assertEqual(said.splitlines()[:3], ["b: no such\ufffd[2J thing", "b: last", "b: failed: exit status 2"])
        self.assertIn("run r1: 1 failed, 1 succeeded", said)
        self.assertNotIn("\r", said)  # no progress in a pipe

    def test_a_lost_connection_shows_nothing_twice(self) -> None:
        first = events(("output", None, output("a", 0, "one\n")), ("output", 2, output("a", 1, "two\n")))
        second = events(
            ("output", 2, output("a", 1, "two\n")), ("output", 3, output("a", 2, "three\n")), ("end", None, {})
        )
        self.run_ends(invocation("a", "succeeded"), stream=[first, second])
        status, printed, said = self.call("run", "-l", "all", "--", "x")
        self.assertEqual((status, printed), (0, "a: one\na: two\na: three\n"), said)
        self.assertIn("the connection to the hub is lost", said)

    def test_exit_status(self) -> None:
        error = {"code": "relay-offline", "message": "its relay is away"}
        self.run_ends(invocation("a", "not-executed", error=error), invocation("b", "succeeded"))
        status, _, said = self.call("run", "-l", "all", "--", "x")
        self.assertEqual(status, 4)
        self.assertIn("a: not-executed: its relay is away", said)
        self.run_ends(invocation("a", "unknown"), invocation("b", "failed", exitCode=1))
        self.assertEqual(self.call("run", "-l", "all", "--", "x")[0], 3)

    def test_json(self) -> None:
        self.run_ends(invocation("a", "succeeded"))
        status, printed, said = self.call("run", "-l", "all", "--json", "--", "x")
        lines = [json.loads(line) for line in printed.splitlines()]
        self.assertEqual((status, said, [line["event"] for line in lines]), (0, "", ["invocation", "run", "summary"]))
        self.assertEqual(lines[-1], {"event": "summary", "run": "r1", "counts": {"succeeded": 1}, "exitStatus": 0})

    def test_mistakes(self) -> None:
        for words, said in (
            (("--", "x"), "say which hosts"),
            (("-l", " ", "--", "x"), "say which hosts"),
            (("-l", "a", "--host", "b", "--", "x"), "give either"),
            (("-l", "a"), "give it after --"),
            (("-l", "a", "--max", "2%%", "--", "x"), "per cent"),
            (("-l", "a", "--ramp", "1,x", "--", "x"), "numbers with commas"),
            (("-l", "a", "--timeout", "soon", "--", "x"), "--timeout: expected a time"),
            (("-l", "a", "--script", "/nowhere", "--", "x"), "/nowhere cannot be read"),
            (("-l", "a", "--interpreter", "/bin/sh", "--", "x"), "is for --script"),
        ):
            status, printed, errors = self.call("run", *words)
            self.assertEqual((status, printed), (2, ""), words)
            self.assertIn(said, errors)
        self.assertEqual(self.fake.asked, [])

    def test_refused_and_unreachable(self) -> None:
        self.fake.answers["POST", "/runs"] = problem(422, "no-host", "No host has env=prod.")
        status, _, said = self.call("run", "-l", "env=prod", "--", "x")
        self.assertEqual((status, said), (2, "relayctl: The hub refuses it: No host has env=prod.\n"))
        self.fake.close()
        self.fake.close = lambda: None  # type: ignore[method-assign]
        status, _, said = self.call("run", "-l", "env=prod", "--key", "k7", "--", "x")
        self.assertEqual(status, 5)
        self.assertIn("give the same order with --key k7", said)

    def test_ctrl_c_in_a_pipe_leaves_it_running(self) -> None:
        self.run_ends(invocation("a", "succeeded"))

        def interrupted(*_: object) -> Any:
            raise KeyboardInterrupt

        self.patch(watching, "events_of", interrupted)
        status, _, said = self.call("run", "-l", "all", "--", "x")
        self.assertEqual(status, 130)
        self.assertIn("relayctl cancel r1", said)
        self.assertEqual([asked.path for asked in self.fake.asked], ["/runs"])

    def test_a_script(self) -> None:
        self.run_ends(invocation("a", "succeeded"))
        (self.folder / "script").write_text("echo $1\n")
        self.call(
            "run", "-l", "all", "--script", str(self.folder / "script"), "--interpreter", "/bin/bash", "--", "-x", "b"
        )
        self.assertEqual(
            self.fake.asked[0].body["script"], {"text": "echo $1\n", "args": ["-x", "b"], "interpreter": "/bin/bash"}
        )

    def test_dry_run(self) -> None:
        hosts = [
            {"host": "a", "relay": "s1", "connected": True, "allowed": True, "code": None, "reason": None},
            {"host": "b", "relay": "s1", "connected": True, "allowed": False, "code": "x", "reason": "forbidden"},
            {"host": "c", "relay": "s2", "connected": False, "allowed": None, "code": None, "reason": None},
        ]
        self.fake.answers["POST", "/runs/dry-run"] = {"size": 3, "items": hosts}
        status, printed, _ = self.call("run", "-l", "all", "--dry-run", "--", "x")
        self.assertEqual(status, 1)
        words = [line.split() for line in printed.splitlines()]
        self.assertEqual(words[1:3], [["a", "s1", "yes", "-"], ["b", "s1", "refused", "forbidden"]])
        self.assertIn("c     s2     not connected", printed)
        self.assertIn("3 hosts, 2 of them would not run it now", printed)

    def test_detached(self) -> None:
        self.run_ends(invocation("a", "succeeded"))
        self.assertEqual(self.call("run", "-l", "all", "--detach", "--", "x"), (0, "r1\n", ""))


class OtherTests(CommandLineCase):
    """The other subcommands."""

    def test_login(self) -> None:
        def make(asked: Asked) -> Any:
            self.assertEqual((asked.headers["cookie"], asked.headers["x-csrf-token"]), ("session=s1", "c1"))
            self.assertEqual(asked.body["scopes"], ["runs:read"])
            return {"token": {"id": "t1"}, "text": "made-token"}

        session = Said({"csrfToken": "c1", "scopes": ["runs:read"], "mustChangePassword": False})
        self.fake.answers |= {
            ("POST", "/session"): session,
            ("POST", "/tokens"): make,
            ("DELETE", "/session"): Said(b"", 204),
            ("GET", "/me"): {"name": "token:ada/x", "role": "viewer"},
            ("GET", "/runs"): {"items": []},
        }
        with mock.patch("http.client.HTTPMessage.get_all", lambda self, name: ["session=s1; Secure; HttpOnly"]):
            status, printed, said = self.call("login", self.fake.url, "--user", "ada", login=False, stdin="pw\n")
        self.assertEqual((status, said), (0, ""), printed)
        self.assertEqual(self.fake.asked[0].body, {"user": "ada", "password": "pw"})
        self.assertEqual(self.call("runs", login=False)[0], 0)
        self.assertEqual(self.fake.asked[-1].headers["authorization"], "Bearer made-token")
        self.assertNotIn("pw", (self.folder / "config/relayd/hubs.json").read_text())

    def test_without_a_login(self) -> None:
        status, _, said = self.call("runs", login=False)
        self.assertEqual(status, 1)
        self.assertIn("log in with relayctl login URL", said)
        (self.folder / "token").chmod(0o644)
        self.assertIn("chmod 600", self.call("runs")[2])

    def test_show_and_output(self) -> None:
        self.run_ends(invocation("a\x1b[1m", "failed", exitCode=3))
        status, printed, _ = self.call("show", "r1")
        self.assertEqual(status, 0)
        self.assertIn("command  uptime", printed)
        self.assertIn("a\ufffd[1m  failed  3", printed)
        self.run_ends(invocation("a", "failed", exitCode=3), invocation("b", "succeeded"))
        self.fake.answers["GET", "/invocations/i-a/stdout"] = Said(b"x\x1b[1m\n", media_type="application/octet-stream")
        self.assertEqual(self.call("output", "r1", "--host", "a", "--stdout")[1], "x\ufffd[1m\n")
        self.assertEqual(self.call("output", "r1", "--raw")[0], 1)

    def test_cancel_and_rerun(self) -> None:
        self.run_ends(invocation("a", "succeeded"))
        self.fake.answers["POST", "/runs/r1/cancel"] = {"state": "cancelling"}
        self.assertEqual(self.call("cancel", "r1"), (0, "run r1: cancelling\n", ""))
        self.fake.answers["POST", "/runs/r1/rerun"] = {"id": "r2", "size": 1}
        self.assertEqual(self.call("rerun", "r1", "--detach"), (0, "r2\n", ""))
        self.assertEqual(self.fake.asked[-1].body, {"which": "certainly-not-run"})

    def test_an_import(self) -> None:
        remark = {"kind": "warning", "line": 2, "text": "odd", "host": ""}
        change = {"name": "b", "fields": [{"field": "port", "old": 22, "new": 23}]}
        self.fake.answers["POST", "/inventory/import"] = {
            "applied": False, "add": ["a"], "change": [change], "unchanged": 1, "remove": [], "remarks": [remark],
        }  # fmt: skip
        (self.folder / "hosts.yml").write_text("all:\n")
        status, printed, said = self.call("inventory", "import", str(self.folder / "hosts.yml"), "--dry-run")
        self.assertEqual((status, printed), (0, "add a\nchange b: port: 22 -> 23\n"))
        self.assertEqual(said, "warning: line 2: odd\n2 changes; nothing was changed\n")
        self.assertEqual(self.fake.asked[0].query, {"format": "ansible-yaml", "dryRun": "true"})
        (self.folder / "hosts").write_text("")
        self.assertIn("does not say it", self.call("inventory", "import", str(self.folder / "hosts"))[2])

    def test_relays(self) -> None:
        self.fake.answers["POST", "/relays"] = {"name": "s1"}
        self.fake.answers["POST", "/relays/s1/enrolment"] = {"token": "t-1", "expiresAt": "2026-01-01T00:00:00Z"}
        status, printed, said = self.call("hub", "relay", "add", "s1", "--allow-from", "10.0.0.0/8")
        self.assertEqual(status, 0, said)
        self.assertIn(f"relayctl enroll {self.fake.url} t-1", printed)
        self.assertEqual(self.fake.asked[0].body, {"name": "s1", "allowedNetworks": ["10.0.0.0/8"]})
        self.fake.answers["PATCH", "/relays/s1"] = {"name": "s1", "enabled": False}
        self.assertEqual(self.call("hub", "relay", "disable", "s1"), (0, "", ""))
        self.assertEqual(self.fake.asked[-1].headers["if-match"], "*")
