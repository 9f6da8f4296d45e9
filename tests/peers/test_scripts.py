"""
Scripts on a real sshd: every byte of them, what runs them, and that nothing is left of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from relayd import ssh_texts
from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.ssh.channels.scripts import script_lines
from relayd.wire.messages import Become, Pty, Script
from tests.peers.test_become import FREE, OTHER, allow_sudo
from tests.support.account import LOGIN_SHELLS, USER
from tests.support.ssh import marked_sleep, processes
from tests.test_ssh_runner import RunnerTestCase

PLACES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))


def left_over() -> set[str]:
    """The files of scripts on this machine."""
    return {str(path) for place in PLACES for path in place.glob(".relayd-*")}


class ScriptTests(RunnerTestCase):
    def script(
        self, runner: Any, server: Any, text: str, *args: str, by: str = "/bin/sh", **more: Any
    ) -> Deferred[Any]:
        return self.order(runner, server, text, script=Script(interpreter=by, args=args), extended=True, **more)

    async def test_every_byte(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        for text in (
            "printf x",
            "printf x\n\n",
            "printf 'a\r\nb\\n%s\t' é",
            "#\u20ac\nprintf '%s' \"\\\\'\" # \x7f\x01",
        ):
            done = await self.script(runner, server, f'cat "$0"; exit 3; {text}', by="sh")
            self.assertEqual((done.stdout, done.exit_code), (f'cat "$0"; exit 3; {text}'.strip(), 3))
        big = "# " + "x\\" * 500_000 + "\necho end"
        done = await self.script(runner, server, big)
        self.assertEqual((done.stdout, done.stderr), ("end", ""))

    async def test_interpreters_arguments_and_input(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        args = ("a b", "", "it's", "$x", "-v", "\\n!")
        shown = "|".join(args)
        sh = "IFS='|'; printf '%s' \"$*\"; cat"
        self.assertEqual((await self.script(runner, server, sh, *args, stdin=b"[in]")).stdout, f"{shown}[in]")
        self.assertEqual((await self.script(runner, server, "read x; echo $x-", stdin=b"in\n")).stdout, "in-")
        for by, text in (
            ("bash", "a=(1 2); echo ${#a[@]}$1"),
            ("perl", "print 1 + 1, $ARGV[0];"),
            ("python3", "import sys\nprint(1 + 1, sys.argv[1], sep='')"),
        ):
            self.assertEqual((await self.script(runner, server, text, "x", by=by)).stdout, "2x", by)
        done = await self.script(runner, server, "x", by="no-such-interpreter")
        self.assertEqual(done.exit_code, 127)

    async def test_umask_directory_and_variables_are_those_of_the_session(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        plain = (await self.order(runner, server, "umask; pwd")).stdout
        self.assertEqual((await self.script(runner, server, "umask; pwd")).stdout, plain)
        done = await self.script(runner, server, 'pwd; echo "$A"', cwd="/usr", env=(("A", "b c"),))
        self.assertEqual(done.stdout, "/usr\nb c")
        done = await self.script(runner, server, "echo no", cwd="/no/such/place")
        self.assertEqual((done.details.error["code"], done.stdout), ("directory-unusable", ""))

    async def test_login_shells(self) -> None:
        runner = self.make_runner()
        for name in ("fish", "tcsh", "ksh", "busybox"):
            server = await self.start_server(user=f"{USER}-in-{name}")
            self.assertIn(name, LOGIN_SHELLS)
            done = await self.script(runner, server, 'echo "$1"; cat', "it's!", stdin=b"in")
            self.assertEqual((done.stdout, done.stderr), ("it's!\nin", ""), name)

    async def test_on_a_terminal_and_as_another_user(self) -> None:
        allow_sudo()
        server, runner = await self.start_server(user=FREE), self.make_runner()
        done = await self.script(runner, server, "test -t 0 && cat", pty=Pty(), stdin=b"typed\n")
        self.assertEqual((done.stdout, done.details.error), ("typed", None))
        done = await self.script(runner, server, "pwd; echo $A", pty=Pty(), cwd="/usr", env=(("A", "b"),))
        self.assertEqual((done.stdout, done.details.error), ("/usr\r\nb", None))
        text = "id -un; cat; # " + "x\t" * 3000
        done = await self.script(runner, server, text, stdin=b"in", become=Become(user=OTHER))
        self.assertEqual(done.stdout, f"{OTHER}\nin")
        done = await self.script(runner, server, text, stdin=b"in\n", become=Become(user=OTHER), pty=Pty())
        self.assertEqual(done.stdout, f"{OTHER}\r\nin")

    async def test_nothing_is_left(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        before = left_over()
        marker, sleep = marked_sleep()
        running = self.script(runner, server, f"trap '' TERM\n{sleep}")
        await self.until(lambda: processes(marker), "it runs")
        # What tests beside this one put there is gone soon too.
        await self.until(lambda: not left_over() - before, "the script's file is gone while it runs")
        running.cancel()
        await running
        await self.until(lambda: not processes(marker), "it is gone")
        await self.until(lambda: not left_over() - before, "nothing is left")

    async def test_a_part_of_a_script_is_not_run(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        lines = script_lines(b"echo one")
        self.patch(ssh_texts, "script_lines", lambda _: lines[:-1])
        done = await self.script(runner, server, "echo one")
        self.assertEqual((done.stdout, done.details.error["code"]), ("", "script-not-started"))
        self.assertEqual(done.details.error["executed"], "no")

    async def test_no_place_for_it(self) -> None:
        server, runner = await self.start_server("SetEnv HOME=/proc"), self.make_runner()
        self.patch(ssh_texts, "script_text", _elsewhere)
        done = await self.script(runner, server, "echo one")
        self.assertEqual((done.stdout, done.details.error["code"]), ("", "script-not-started"))
        self.assertIn("may be written to", done.stderr)

    async def test_where_another_shell_is(self) -> None:
        server = await self.start_server()
        table = HostTable((HostRule(hosts=("*",), settings=HostSettings(shell="none")),))
        runner = self.make_runner(hosts=table)
        error = runner.refuses(self.command(server, "x", script=Script()))
        self.assertEqual(error and error.code, "script-unsupported")


def _elsewhere(interpreter: bytes, args: Any) -> tuple[bytes, bytes]:
    from relayd.ssh.channels.scripts import script_text

    text, mark = script_text(interpreter, args)
    for place in (b"/tmp ", b"/var/tmp ", b"/dev/shm ", b":-/tmp"):
        text = text.replace(place, place.replace(b"/", b"/no-", 1))
    return text, mark
