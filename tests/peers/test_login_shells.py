"""
Commands with a directory and variables in every login shell, on a real OpenSSH server: the matrix of docs/ssh.rst.
"""

from __future__ import annotations

import re
from base64 import b64decode
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh import execution
from relayd.ssh.ending import ending
from relayd.ssh_runner import SSHCommandRunner
from relayd.wire.messages import CommandResult, Secret
from tests.support.account import LOGIN_SHELLS, USER, ensure_account, ensure_busybox_shell, put_file
from tests.support.ssh import DEADLINE, marked_sleep, processes
from tests.support.sshd import OpenSSHServer, make_key
from tests.test_ssh_runner import RunnerTestCase

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ssh.rst"
#: All but the one that forbids to change the directory.
SHELLS = sorted(LOGIN_SHELLS.keys() - {"rbash"})
DIRECTORY = "it's a \"pl\\ace\" \\' !x !! $HOME `id` {a,b} * ? ~ # ; & é 目录"
ENV = (
    ("QUOTES", "it's \"quoted\" `id` $(id) '' \"\" '\\''"),
    ("BACKSLASHES", "\\ \\\\ \\' \\\" \\n \\a\\"),
    ("HISTORY", "! !! !x x! '!' \\! ^a^b"),
    ("SEVERAL_LINES", "one\ntwo\n\n 'four'\\\n!five\n"),
    ("ONLY_A_LINE_END", "\n"),
    ("OTHERS", "$HOME ${HOME} %s ~ * ? [x] {a,b} # ; & | < > ( ) = - \t\r\x01\x7f"),
    ("ENGLISH_IT_IS_NOT", "größer 日本 \U0001f41f"),
    ("EMPTY", ""),
    ("OPTION", "-n"),
    ("PATH", "/usr/bin:/bin:/opt/some where"),
    ("LAST", "plain"),
)
#: Texts that mean something to every shell, or are wrong in their own way to each: quotes, lines, signals, mistakes.
TEXTS = (
    "echo one; echo two >&2; exit 3",
    "echo 'a  b' \"c  d\" e\\ f 'back\\slash' 'x!y'\ncat\necho end",
    "sh -c 'kill -TERM $PPID'; echo no",
    "echo (",
    "if true; then echo 'one\ntwo'; fi",
    "# nothing\necho 日本 | cat",
    "no-such-program",
    "false",
)
#: Those that fish does not read.
MISTAKES_IN_FISH = ("echo (", "if true; then echo 'one\ntwo'; fi")


class ShellTestCase(RunnerTestCase):
    """One server, and on it an account for each shell."""

    async def start(self, *more: str) -> OpenSSHServer:
        ensure_busybox_shell()
        accounts = [*map(account, LOGIN_SHELLS), *more]
        for user in accounts:
            ensure_account(user)
        server = await self.start_server(f"AllowUsers {' '.join(accounts)}")
        self.directory.chmod(0o755)
        return server

    async def everywhere(
        self, server: OpenSSHServer, runner: SSHCommandRunner, text: str, **changes: Any
    ) -> dict[str, CommandResult]:
        """Have *text* run in all shells but the restricted one, at once."""
        running = [self.order(runner, server, text, username=account(shell), **changes) for shell in SHELLS]
        results = await gatherResults(running, consumeErrors=True)
        return dict(zip(SHELLS, results, strict=True))

    def refused(self, result: CommandResult, code: str, executed: str = "no") -> None:
        """It was not run."""
        wire = result.to_wire()["result"]
        self.assertEqual((wire["stdout"], wire["exitCode"], wire["error"]["code"]), ("", 1, code), wire)
        self.assertEqual(wire["error"]["executed"], executed)


class TableTests(SynchronousTestCase):
    """The table of docs/ssh.rst: its rows are the shells that are tried here, of which all but one are alike."""

    def test_rows(self) -> None:
        text = PAGE.read_text("utf-8")
        rows = text[text.index("of command  as without  directory     cancelled") :].splitlines()[2:]
        rows = rows[: next(number for number, row in enumerate(rows) if row.startswith("==="))]
        widths = (26, 9, 9, 9, 12, 12, 14, 15)
        starts = [sum(widths[:number]) for number in range(len(widths) + 1)]
        cells = [[row[at:end].strip() for at, end in pairwise(starts)] for row in rows]
        found = {cell[0]: cell[1:] for cell in cells}
        elsewhere = {"cmd.exe", "PowerShell", "no shell (devices)"}  # tests.peers.test_windows and tests.ssh.shells
        named = {name for row in found.keys() - elsewhere for name in re.sub(r"\([^)]*\)", "", row).split(", ")}
        self.assertEqual({name.strip() for name in named}, set(LOGIN_SHELLS))
        alike = [*["yes"] * 5, "not run", "killed"]
        for row in found.keys() - elsewhere:
            self.assertEqual(found[row], ["no", *alike[1:6], "by the server"] if row == "rbash" else alike, row)


class MatrixTests(ShellTestCase):
    """The same of all shells."""

    async def test_directory(self) -> None:
        server, runner = await self.start(), self.make_runner()
        place = self.directory / DIRECTORY
        place.mkdir()
        for cwd in (str(place), "/tmp"):
            for shell, result in (await self.everywhere(server, runner, "pwd", cwd=cwd)).items():
                self.assertEqual((result.stdout, result.stderr, result.exit_code), (cwd, "", 0), shell)

    async def test_home_directory(self) -> None:
        server, runner = await self.start(), self.make_runner()
        for cwd, rest in (("~", ""), ("~/..", None)):
            for shell, result in (await self.everywhere(server, runner, "pwd", cwd=cwd)).items():
                expected = "/home" if rest is None else f"/home/{account(shell)}"
                self.assertEqual((result.stdout, result.stderr, result.exit_code), (expected, "", 0), shell)
        results = await self.everywhere(server, runner, "pwd", cwd=f"~{account('tcsh')}/.")
        for shell, result in results.items():
            self.assertEqual((result.stdout, result.exit_code), (f"/home/{account('tcsh')}", 0), shell)

    async def test_directory_that_is_not_there(self) -> None:
        """Nothing is run."""
        server, runner = await self.start(), self.make_runner()
        proof = Path(f"{self.directory}-proof")
        for cwd in ("/no/such '!\\place", "/root/x", "~no-such-user/x"):
            results = await self.everywhere(
                server, runner, f"echo no; touch {proof}\ntouch {proof}", cwd=cwd, env=ENV, extended=True
            )
            for result in results.values():
                self.refused(result, "directory-unusable")
                said, _, remark = result.stderr.partition("\nThe command was not run: ")
                self.assertTrue(said and remark, result.stderr)
        self.assertFalse(proof.exists())

    async def test_variables(self) -> None:
        server, runner = await self.start(), self.make_runner()
        for cwd, directory in ((None, "/"), ("/tmp", "/tmp")):
            results = await self.everywhere(
                server, runner, "pwd; env -0", cwd=cwd, env=ENV, encoding="base64", extended=True
            )
            for shell, result in results.items():
                self.assertEqual((result.stderr, result.exit_code), ("", 0), shell)
                where, _, rest = b64decode(result.stdout).partition(b"\n")
                found = dict(line.partition("=")[::2] for line in rest.decode().split("\0"))
                self.assertEqual(where.decode(), directory, shell)
                self.assertEqual({name: found.get(name) for name, _ in ENV}, dict(ENV), shell)
                self.assertNotIn("relayd", "".join(found))
                # What stands in the output before that counts as none of it.
                self.assertEqual(result.details.stdout_bytes, len(b64decode(result.stdout)))

    async def test_path_without_programs(self) -> None:
        """Nothing of what is to be done needs one after that, in csh either."""
        server, runner = await self.start(), self.make_runner()
        env = (("PATH", "/no/such"), ("LAST", "a\n!b"))
        for shell, result in (await self.everywhere(server, runner, "echo it has $LAST", cwd="/", env=env)).items():
            self.assertEqual((result.stderr, result.exit_code), ("", 0), shell)
            self.assertEqual(result.stdout.split(), ["it", "has", "a", "!b"], shell)

    async def test_text_means_the_same(self) -> None:
        """With a directory and variables as without."""
        server, runner = await self.start(), self.make_runner()
        for text in TEXTS:
            plain = await self.everywhere(server, runner, text, stdin=b"in\n", extended=True)
            other = await self.everywhere(server, runner, text, stdin=b"in\n", extended=True, cwd="/", env=ENV)
            for shell in SHELLS:
                if shell == "fish" and plain[shell].stderr.startswith("fish: ") and text in MISTAKES_IN_FISH:
                    continue  # see `test_mistakes_in_fish`
                self.assertEqual(seen(other[shell]), seen(plain[shell]), (shell, text))

    async def test_mistakes_in_fish(self) -> None:
        """It reads all of a text before it runs any, ends with 0 all the same, and nobody can tell what happened."""
        server, runner = await self.start(), self.make_runner()
        result = await self.order(runner, server, "echo no\necho (", cwd="/", username=account("fish"), extended=True)
        self.refused(result, "command-replaced", "unknown")
        self.assertIn("expecting ')'", result.stderr)

    async def test_time_is_up(self) -> None:
        """All processes of the command are found and ended."""
        for name in ("FIND_WITHIN", "KILL_AFTER", "LEAVE_AFTER"):
            self.patch(ending, name, DEADLINE)
        self.patch(execution, "RESULT_AFTER", DEADLINE)
        server, runner = await self.start(), self.make_runner()
        await self.everywhere(server, runner, "true")
        marks, running = [], []
        for shell in SHELLS:
            mark, sleep = marked_sleep()
            marks.append(mark)
            text = f"echo begun; /bin/{sleep}; echo no"  # the one that is part of ksh is no process
            running.append(self.order(runner, server, text, 6, username=account(shell), cwd="/tmp", env=ENV))
        await self.until(lambda: all(map(processes, marks)), "all run")
        for shell, result in zip(SHELLS, await gatherResults(running, consumeErrors=True), strict=True):
            self.assertEqual((result.stdout, result.details.killed), ("begun", "confirmed"), shell)
            self.assertIn("none of its processes is left", result.stderr)
        self.assertFalse([mark for mark in marks if processes(mark)])

    async def test_cancelled(self) -> None:
        server, runner = await self.start(), self.make_runner()
        marks: list[str] = []
        running: list[Deferred[CommandResult]] = []
        for shell in SHELLS:
            mark, sleep = marked_sleep()
            marks.append(mark)
            running.append(self.order(runner, server, f"/bin/{sleep}", username=account(shell), cwd="/tmp", env=ENV))
        await self.until(lambda: all(map(processes, marks)), "all run")
        for each in running:
            each.cancel()
        for result in await gatherResults(running, consumeErrors=True):
            self.assertIn("was cancelled while it ran", result.stderr)
        await self.until(lambda: not any(map(processes, marks)), "all are gone")


class RefusalTests(ShellTestCase):
    """What cannot be done is not half done."""

    async def test_restricted_shell(self) -> None:
        server, runner = await self.start(), self.make_runner()
        order = partial(self.order, runner, server, username=account("rbash"), extended=True)
        self.refused(await order("pwd", cwd="/tmp"), "directory-unusable")
        self.refused(await order("pwd", env=(("A", "1"), ("PATH", "/bin"))), "variables-refused")
        result = await order('echo "$SEVERAL_LINES"', env=ENV[:4])
        self.assertEqual((result.stdout, result.exit_code), (ENV[3][1].rstrip("\n"), 0))

    async def test_variables_that_a_shell_keeps(self) -> None:
        server, runner = await self.start(), self.make_runner()
        for shell, name in (("bash", "UID"), ("zsh", "PPID"), ("fish", "hostname")):
            order = partial(self.order, runner, server, username=account(shell), extended=True)
            result = await order("echo no", env=(("A", "1"), (name, "2"), ("SEVERAL_LINES", "a\nb")))
            self.refused(result, "variables-refused")
            self.assertIn(name, result.stderr)

    async def test_variables_that_a_shell_passes_over(self) -> None:
        """bash says nothing, and does nothing."""
        server, runner = await self.start(), self.make_runner()
        for name in ("GROUPS", "FUNCNAME", "DIRSTACK", "RANDOM", "BASHPID", "EPOCHSECONDS", "LINENO"):
            for value in ("a b", "two\nlines"):
                order = partial(self.order, runner, server, username=account("bash"), extended=True)
                result = await order("echo no", env=(("A", "1"), (name, value)))
                self.refused(result, "variables-refused")
                self.assertIn(name, result.stderr)

    async def test_shell_that_gives_up(self) -> None:
        """With ``-e``, csh ends at what others take for an answer: the command was not run."""
        user = "relayd-test-strict"
        put_file(f"/var/lib/{user}/shell", '#!/bin/sh\nexec /bin/tcsh -e "$@"\n', "755")
        server, runner = await self.start(user), self.make_runner()
        result = await self.order(runner, server, "echo no", username=user, cwd="/tmp", extended=True)
        self.refused(result, "shell-unsuitable")

    async def test_no_shell(self) -> None:
        """Some repeat in an error what they were told; that does not count as having done it."""
        for status, code, executed in ((1, "shell-unsuitable", "no"), (0, "command-replaced", "unknown")):
            put_file(
                "/var/lib/relayd-test-parrot/shell",
                f'#!/bin/sh\necho "% Invalid: $2"; printf Error\nexit {status}\n',
                "755",
            )
            server, runner = await self.start("relayd-test-parrot"), self.make_runner()
            for surroundings in ({"cwd": "/tmp"}, {"env": ENV}):
                result = await self.order(
                    runner, server, "echo hello", username="relayd-test-parrot", extended=True, **surroundings
                )
                wire = result.to_wire()["result"]
                self.assertRegex(wire["stdout"], "(?s)^% Invalid: .*\nError$")
                self.assertEqual((wire["exitCode"], wire["error"]["code"]), (1, code))
                self.assertEqual(wire["error"]["executed"], executed)

    async def test_forced_command(self) -> None:
        """It is another one that runs, however it ends."""
        server, runner = await self.start(), self.make_runner()
        for forced, answer in (("echo forced; exit 5", "command-replaced"), ("eval $SSH_ORIGINAL_COMMAND", None)):
            private, public = make_key()
            server.authorize(f'command="{forced}" {public}')
            order = partial(self.order, runner, server, username=account("sh"), private_key=Secret(private))
            result = await order("pwd", cwd="/tmp", extended=True)
            error = result.to_wire()["result"].get("error")
            self.assertEqual(error and error["code"], answer, result.stderr)

    async def test_time_is_up_before_the_command(self) -> None:
        """The shell is still on its way to the directory: then the command was not run."""
        for name in ("FIND_WITHIN", "KILL_AFTER", "LEAVE_AFTER"):
            self.patch(ending, name, DEADLINE)
        self.patch(execution, "RESULT_AFTER", DEADLINE)
        user = "relayd-test-hanging"
        mark, sleep = marked_sleep()
        server, runner = await self.start(user), self.make_runner()
        put_file(f"/home/{user}/.bashrc", f'cd() {{ {sleep}; builtin cd "$@"; }}\n')
        running = self.order(runner, server, "echo no", 4, username=user, cwd="/tmp", extended=True)
        await self.until(lambda: processes(mark), "it hangs")
        result = await running
        error = result.to_wire()["result"]["error"]
        self.assertEqual((error["code"], result.stdout, result.details.killed), ("timeout", "", "confirmed"))
        # It depends on who is quicker to end the session, which the server does after it has told all.
        words = {"no": "it was not run", "unknown": "had not reached it yet"}[error["executed"]]
        self.assertIn(words, result.stderr)


def account(shell: str) -> str:
    """The one that has this login shell."""
    return f"{USER}-in-{shell}"


def seen(result: CommandResult) -> tuple[Any, ...]:
    """What anybody sees of it, but for the numbers of lines."""
    wire = result.to_wire()["result"]
    # ksh adds the line that it begins with when that is not the first.
    said = re.sub(r"^ksh: line \d+: ", "ksh: ", wire["stderr"].replace("cd / ; ", ""))
    said = re.sub(r"\n +\^", "\n^", said)  # fish points at what it means
    numbered = re.sub(r"\b(line )?\d+\b", "N", said)
    return wire["stdout"], numbered, wire["exitCode"], wire.get("signal"), wire.get("error")
