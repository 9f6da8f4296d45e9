"""
What the SSH client has a host's shell do when a command is to end, in each shell that a host's ``/bin/sh`` may be.

A process of `tests.support.host` stands in for the SSH server: a command is a child of it.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.ending.processes import LIST, Leader, ShellAnswers, find, parse_listing, script
from tests.support import host
from tests.support.ssh import DEADLINE, end_marked_sleeps, marked_sleep, processes

#: By name, the program; each is called as ``sh``.
SHELLS = {name: shutil.which(name) for name in ("sh", "dash", "bash", "busybox", "mksh", "zsh", "ksh")}
#: What busybox has to do without help from others.
APPLETS = ("grep", "sed", "tr", "sleep")
HERE = "127.0.0.1 {} 127.0.0.1 22"
#: Waits, whatever it is called and told, as a process that another user of the host may run.
FORGER = "import sys; open('/proc/self/comm', 'w').write(sys.argv[1]); import signal; signal.pause()"


class Shell:
    """A shell on the host that was told `script`."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self._process = process
        self._answers = ShellAnswers(mark)
        self._lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        """Ask it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def line(self) -> bytes:
        """Its next answer."""
        assert self._process.stdout is not None
        while not self._lines:
            if not select.select([self._process.stdout], [], [], DEADLINE)[0]:
                raise AssertionError("the shell does not answer")
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise AssertionError("the shell ended")
            self._lines += self._answers.feed(data)
        return self._lines.pop(0)

    def listing(self) -> list[Leader]:
        """What it lists, once it was asked."""
        lines = list(iter(self.line, b"end"))
        leaders = parse_listing(lines)
        assert leaders is not None, lines
        return sorted(leaders, key=lambda leader: (leader.start, leader.pid))

    def hit(self, leader: Leader, signal_name: str) -> bytes:
        """Have it send a signal."""
        self.write(leader.hit(signal_name))
        return self.line()

    def left(self, leader: Leader) -> bytes:
        """What it says when no more changes, or nothing is left."""
        end, answer = time.monotonic() + DEADLINE, b""
        while answer not in (b"left 0", b"lost") and time.monotonic() < end:
            answer = self.hit(leader, "0")
        return answer


class ShellTests(SynchronousTestCase):
    """`relayd.ssh.ending.processes.script`, read by real shells."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-shells-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.addCleanup(end_marked_sleeps)
        self.path = os.environ["PATH"]
        # Nobody else's processes have it
        self.port = 10**6 + secrets.randbelow(10**9)

    def shells(self) -> Iterator[list[str]]:
        """Program and arguments of each; the first of each name that is here."""
        for name, program in SHELLS.items():
            if program is None:
                self.assertEqual(name, "ksh", "missing; tests/bootstrap.sh brings it")
                continue
            self.path = os.environ["PATH"]
            if name == "busybox":
                self.path = str(self.directory)
                for applet in APPLETS:
                    link = self.directory / applet
                    link.unlink(missing_ok=True)
                    link.symlink_to(program)
            yield [program, "sh"]

    def start(
        self,
        commands: Sequence[Sequence[str]] = (),
        shell: Sequence[str] = (),
        *,
        port: int = 0,
        sessions: bool = True,
        environment: Sequence[tuple[str, str]] = (),
        addresses: Sequence[tuple[str, str]] | None = None,
        inherited: Sequence[tuple[str, str]] = (),
    ) -> subprocess.Popen[bytes]:
        """
        A server's process for one connection.

        :param addresses: the variables that it gives to a command for its connection, where not as OpenSSH.
        :param inherited: variables that it has itself.
        """
        given = [("SSH_CONNECTION", HERE.format(port or self.port))] if addresses is None else addresses
        variables = {"PATH": os.environ["PATH"], **dict(given), **dict(environment)}
        told = {"commands": commands, "shell": shell, "path": self.path, "environment": variables, "sessions": sessions}
        server = subprocess.Popen(
            [sys.executable, host.__file__, json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **dict(inherited)},
        )
        self.addCleanup(self.end, server)
        return server

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End one process."""
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        process.kill()
        process.wait()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Until it holds."""
        end = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() > end:
                self.fail(f"still not so: {what}")
            time.sleep(0.01)

    def ask(
        self,
        shell: Sequence[str],
        texts: Sequence[str],
        *,
        wanted: str = "",
        port: int | None = None,
        sessions: bool = True,
        addresses: Sequence[tuple[str, str]] | None = None,
        inherited: Sequence[tuple[str, str]] = (),
        age: float = 0.0,
    ) -> Shell:
        """A shell beside commands of these texts, as a server runs them, which lists them."""
        server = self.start(
            [["sh", "-c", text] for text in texts], shell, sessions=sessions, addresses=addresses, inherited=inherited
        )
        told = Shell(server, mark := secrets.token_hex(8))
        for text in texts:
            self.wait(lambda text=text: self.runs(text, server.pid), text)  # type: ignore[misc]
        told.write(script(mark, (wanted or texts[0]).encode(), port, age))
        return told

    def runs(self, text: str, server: int) -> bool:
        """Whether a shell, or what it became, runs a command of the server's."""
        marks = [word for word in text.replace(";", " ").split() if word.isdigit() and len(word) == 10]
        return all(processes(mark) for mark in marks)

    @contextmanager
    def forged(self, name: str, *arguments: str, environment: Sequence[tuple[bytes, bytes]] = ()) -> Iterator[int]:
        """A process that is no command's, with this name, arguments and environment."""
        forger = subprocess.Popen(
            [sys.executable, "-c", FORGER, name, *arguments],
            env={os.fsdecode(key): os.fsdecode(value) for key, value in environment},
        )
        try:
            self.wait(lambda: name.encode() in Path(f"/proc/{forger.pid}/comm").read_bytes(), "it has its name")
            yield forger.pid
            self.assertIsNone(forger.poll(), "it lives")
        finally:
            self.end(forger)

    # Finding

    def test_command_is_found_by_its_text(self) -> None:
        for shell in self.shells():
            _mark, sleep = marked_sleep()
            text = f"cd / ; : 'Ёя' \"ä日本\" \\n \\\\ \t $HOME\n{sleep}; true"
            other_mark, other = marked_sleep()
            told = self.ask(shell, [text, f"{other}; true", f"exec sleep {other_mark}"], wanted=text)
            leaders = told.listing()
            self.assertEqual(sorted(leader.what for leader in leaders), ["program", "same", "shell"], shell)
            found = find(leaders, text.encode(), 0, [text.encode()])
            assert found is not None
            self.assertEqual(Path(f"/proc/{found.pid}/cmdline").read_bytes(), b"sh\0-c\0" + text.encode() + b"\0")

    def test_command_of_another_connection(self) -> None:
        for shell in self.shells():
            mark, sleep = marked_sleep()
            text, port = f"{sleep}; true", self.port + 1
            self.start([["sh", "-c", text]], port=port)
            self.wait(lambda: processes(mark), "it runs")  # noqa: B023
            # A child of something else than a server, with the environment of that command
            with self.forged("python", environment=[(b"SSH_CONNECTION", HERE.format(port).encode())]) as forger:
                told = self.ask(shell, ["sleep 0.1"], wanted=text, port=port)
                leaders = told.listing()
                self.assertEqual([leader.what for leader in leaders], ["same"], shell)
                self.assertNotEqual(leaders[0].pid, forger)
                self.assertEqual((told.hit(leaders[0], "TERM"), told.left(leaders[0])), (b"left 2", b"left 0"), shell)

    def test_commands_of_other_connections_are_not_ours(self) -> None:
        """Be they children of the same process, as where one serves all connections, or of another one."""
        for shell in self.shells():
            mark, sleep = marked_sleep()
            command = ["sh", "-c", f"{sleep}; true"]
            other = f"SSH_CONNECTION={HERE.format(self.port + 2)}"
            server = self.start([["env", other, *command], ["env", "-i", *command]], shell)
            self.start([command])
            self.wait(lambda: len(processes(mark)) == 3, "they run")  # noqa: B023
            told = Shell(server, "mark")
            told.write(script("mark", command[2].encode(), None, 0.0))
            self.assertEqual(told.listing(), [], shell)

    def test_servers_that_give_fewer_addresses(self) -> None:
        """As lsh and Conch, which has one process for all connections."""
        for shell in self.shells():
            mark, sleep = marked_sleep()
            command = ["sh", "-c", f"{sleep}; true"]
            ours = ("SSH_CLIENT", f"127.0.0.1 {self.port} 22")
            other = f"SSH_CLIENT=127.0.0.1 {self.port + 1} 22"
            server = self.start([["env", other, *command], command], shell, addresses=[ours])
            self.wait(lambda: len(processes(mark)) == 2, "they run")  # noqa: B023
            told = Shell(server, "mark")
            told.write(script("mark", command[2].encode(), None, 0.0))
            (leader,) = told.listing()
            self.assertEqual((leader.what, leader.here), ("same", True), shell)
            self.assertIn("=".join(ours).encode(), Path(f"/proc/{leader.pid}/environ").read_bytes())
            told.hit(leader, "TERM")
            self.assertEqual((told.left(leader), len(processes(mark))), (b"left 0", 1), shell)
            for pid in processes(mark):
                os.kill(pid, signal.SIGKILL)

    def test_servers_that_give_no_addresses(self) -> None:
        """A command is known by its text, or its last part, among what the server started when it began."""
        for shell in self.shells():
            for inherited in ((), (("SSH_CONNECTION", HERE.format(self.port)),)):
                mark, sleep = marked_sleep()
                _other, another = marked_sleep()
                for text, what in ((f"cd / ; {sleep}; true", "same"), (f"cd / ; exec {sleep}", "tail")):
                    texts = [text, f"{another}; true"]
                    told = self.ask(shell, texts, sessions=False, addresses=inherited, inherited=inherited)
                    leaders = told.listing()
                    seen = {(each.what, each.here) for each in leaders}
                    self.assertEqual(seen, {(what, False), ("shell", False)}, shell)
                    self.assertEqual(len(leaders), 2, shell)
                    self.assertIsNone(find(leaders, text.encode(), 0, [text.encode()], [text.encode()]))
                    found = find(leaders, text.encode(), 0, [text.encode()])
                    assert found is not None
                    told.hit(found, "TERM")
                    self.assertEqual((told.left(found), processes(mark)), (b"left 0", []), shell)

    def test_what_began_at_another_time(self) -> None:
        for shell in self.shells():
            _mark, sleep = marked_sleep()
            told = self.ask(shell, [f"{sleep}; true"], addresses=(), age=10.0)
            self.assertEqual(told.listing(), [], shell)

    def test_two_of_which_one_might_be_the_other(self) -> None:
        """The one that has our text may be somebody else's, when ours has become its last part already."""
        for shell in self.shells():
            _mark, sleep = marked_sleep()
            other_mark, _ = marked_sleep()
            text = f"{sleep}; true"
            for other in (text, f"exec sleep {other_mark}"):
                told = self.ask(shell, [text, other], addresses=())
                leaders = told.listing()
                self.assertEqual(len(leaders), 2, shell)
                self.assertIsNone(find(leaders, text.encode(), 0, [text.encode()]), shell)

    def test_command_of_another_process_without_addresses(self) -> None:
        """As tinysshd behind socat, which has one process for each connection."""
        for shell in self.shells():
            mark, sleep = marked_sleep()
            text = f"{sleep}; true"
            self.start([["sh", "-c", text]], addresses=())
            self.wait(lambda: processes(mark), "it runs")  # noqa: B023
            # The same text at the same time, and no server's
            stranger_mark, stranger = marked_sleep()
            self.start_stranger(text, stranger)
            self.wait(lambda: processes(stranger_mark), "it runs")  # noqa: B023
            told = self.ask(shell, ["sleep 0.1"], wanted=text, port=self.port, addresses=())
            leaders = [leader for leader in told.listing() if leader.what == "same"]
            pids = [leader.pid for leader in leaders]
            self.assertEqual(len(pids), 1, shell)
            told.hit(leaders[0], "TERM")
            self.assertEqual((told.left(leaders[0]), len(processes(mark))), (b"left 0", 1), shell)

    def start_stranger(self, text: str, then: str) -> None:
        """A process with the arguments of a command, which a shell started."""
        process = subprocess.Popen(["sh", "-c", f'sh -c "$0" & {then}', text], start_new_session=True)
        self.addCleanup(process.wait)
        self.addCleanup(os.killpg, process.pid, signal.SIGKILL)

    def test_command_with_a_name_that_forges_numbers(self) -> None:
        for shell in self.shells():
            for name in (") S 1 1 1 1 1", ") S 1 1 1\n", "a\nUid:\t9\t9\t9\t9"):
                mark, _ = marked_sleep()
                path = self.directory / name
                path.unlink(missing_ok=True)
                shutil.copy("/bin/sleep", path)
                told = self.ask(shell, [f"exec '{path}' {mark}"])
                (leader,) = told.listing()
                self.assertEqual((leader.pid, leader.what), (processes(mark)[0], "program"), shell)
                self.assertEqual((told.hit(leader, "TERM"), told.left(leader)), (b"left 1", b"left 0"), shell)

    def test_names_that_forge_numbers(self) -> None:
        """A name may hold what stands behind a name, and an end of line."""
        for shell in self.shells():
            mark, sleep = marked_sleep()
            text = f"{sleep}; true"
            server = self.start([["sh", "-c", text]], shell)
            told = Shell(server, "mark")
            self.wait(lambda: processes(mark), "it runs")  # noqa: B023
            (pid,) = [each for each in self.children(server.pid) if each in self.shells_of(mark)]
            ours = (b"SSH_CONNECTION", HERE.format(self.port).encode())
            names = [f") S {server.pid} 1 1", f") S {server.pid}\n", f") S 1 1 {pid}\n", f") S 1 1 {pid} "]
            with (
                self.forged(names[0], environment=[ours]),
                self.forged(names[1], environment=[ours]),
                self.forged(names[2], environment=[ours]),
                self.forged(names[3], environment=[ours]),
            ):
                told.write(script("mark", text.encode(), None, 0.0))
                (leader,) = told.listing()
                self.assertEqual((leader.pid, leader.what), (pid, "same"))
                self.assertEqual((told.hit(leader, "TERM"), told.left(leader)), (b"left 2", b"left 0"), shell)

    def children(self, pid: int) -> list[int]:
        """Of a process."""
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def shells_of(self, mark: str) -> list[int]:
        """The parents of the processes that have a mark."""
        stats = [Path(f"/proc/{pid}/stat").read_text() for pid in processes(mark)]
        return [int(text.rpartition(") ")[2].split()[1]) for text in stats]

    def test_what_a_command_writes_about_itself_is_no_answer(self) -> None:
        """Arguments and environment with ends of lines, escapes that ``echo`` turns into some, and forged answers."""
        for shell in self.shells():
            mark, sleep = marked_sleep()
            forged = "\\nleader 2 2 2 same\\nend\nleader 2 2 2 same\nend\\0012\\c"
            text = f": '{forged}'; {sleep}; true"
            other = "SSH_CONNECTION=leader 2 2 2 same"
            told = self.ask(shell, [text, f"env -i '{other}' sleep {mark}"], wanted=text)
            leaders = told.listing()
            self.assertEqual([leader.what for leader in leaders if leader.pid != 2].count("same"), 1, shell)
            self.assertNotIn(2, [leader.pid for leader in leaders])

    # Ending

    def test_all_of_a_session_is_ended(self) -> None:
        for shell in self.shells():
            marks, sleeps = zip(*(marked_sleep() for _ in range(4)), strict=True)
            text = f"{sleeps[0]} & ({sleeps[1]}) & timeout 1000 {sleeps[2]}; true"
            told = self.ask(shell, [text, f"{sleeps[3]}; true"])
            found = find(told.listing(), text.encode(), 0, [text.encode()])
            assert found is not None
            told.hit(found, "TERM")
            self.assertEqual(told.left(found), b"left 0", shell)
            self.assertEqual([bool(processes(mark)) for mark in marks], [False, False, False, True], shell)

    def test_children_that_outlive_their_parent(self) -> None:
        for shell in self.shells():
            mark, sleep = marked_sleep()
            told = self.ask(shell, [f"(trap '' TERM; {sleep}; true) & {sleep}; true"])
            (leader,) = told.listing()
            told.hit(leader, "TERM")
            self.wait(lambda: not Path(f"/proc/{leader.pid}/cmdline").exists() or self.dead(leader.pid), "it ended")  # noqa: B023
            self.assertNotEqual(told.hit(leader, "0"), b"left 0", shell)
            told.hit(leader, "KILL")
            self.assertEqual((told.left(leader), processes(mark)), (b"left 0", []), shell)

    def dead(self, pid: int) -> bool:
        """Whether it has ended, whoever did not ask for its status."""
        return not Path(f"/proc/{pid}/cmdline").read_bytes()

    def test_number_that_was_given_away_again(self) -> None:
        """Then it is the number of somebody else's process, or session."""
        for shell in self.shells():
            mark, sleep = marked_sleep()
            told = self.ask(shell, [f"{sleep} & {sleep}; true"])
            (leader,) = told.listing()
            before = Leader(leader.pid, leader.session, leader.start - 1, leader.what)
            for name in ("TERM", "KILL", "0"):
                self.assertEqual(told.hit(before, name), b"lost", shell)
            self.assertEqual(len(processes(mark)), 2, shell)

    def test_session_that_all_share(self) -> None:
        """As with dropbear: neither the other commands end, nor the shell itself, nor what an earlier one left."""
        for shell in self.shells():
            marks, sleeps = zip(*(marked_sleep() for _ in range(3)), strict=True)
            texts = [f"{sleeps[0]} & (sleep {marks[0]}; true); true", f"{sleeps[1]}; true", f"{sleeps[2]} & exit"]
            told = self.ask(shell, texts[:2], sessions=False)
            leaders = told.listing()
            self.assertEqual(sorted(leader.what for leader in leaders), ["same", "shell"])
            self.assertEqual(len({leader.session for leader in leaders} - {leader.pid for leader in leaders}), 1)
            found = find(leaders, texts[0].encode(), 0, [text.encode() for text in texts[:2]])
            assert found is not None
            told.hit(found, "TERM")
            self.assertEqual(told.left(found), b"left 0", shell)
            self.assertEqual([bool(processes(mark)) for mark in marks[:2]], [False, True], shell)
            told.write(LIST)
            self.assertEqual([leader.what for leader in told.listing()], ["shell"], shell)

    def test_orphan_in_a_session_that_all_share_leaves_a_doubt(self) -> None:
        """It may be anybody's: it gets no signal, and none is said to be left."""
        for shell in self.shells():
            marks, sleeps = zip(*(marked_sleep() for _ in range(2)), strict=True)
            told = self.ask(shell, [f"({sleeps[0]} & true); {sleeps[1]}; true"], sessions=False)
            (leader,) = told.listing()
            told.hit(leader, "TERM")
            self.wait(lambda: not processes(marks[1]), "it ended")  # noqa: B023
            self.wait(lambda: told.hit(leader, "KILL") == b"left 1", "one is left")  # noqa: B023
            self.assertTrue(processes(marks[0]), shell)
            for pid in processes(marks[0]):
                os.kill(pid, signal.SIGKILL)

    def test_mark_and_command_are_not_told_to_others(self) -> None:
        """What it starts has them neither as an argument nor in its environment, whatever it was given itself."""
        spy = self.directory / "spy"
        spy.mkdir()
        seen = spy / "seen"
        for name in ("grep", "sed", "tr"):
            real = shutil.which(name)
            (spy / name).write_text(f'#!/bin/sh\n{{ echo "$0 $*"; env; }} >> {seen}\nexec {real} "$@"\n')
            (spy / name).chmod(0o755)
        for shell in self.shells():
            mark, sleep = marked_sleep()
            self.path = f"{spy}:{os.environ['PATH']}"
            server = self.start(
                [["sh", "-c", f"{sleep}; true"]],
                shell,
                environment=[(name, "x") for name in ("n", "w", "p", "age", "m", "j")],
            )
            self.wait(lambda: processes(mark), "it runs")  # noqa: B023
            told = Shell(server, "secretmark")
            told.write(script("secretmark", b"secretcommand", None, 0.0))
            for leader in told.listing():
                told.hit(leader, "TERM")
            # busybox may do without: then there is no other program that could be looked at
            text = seen.read_text() if seen.exists() else ""
            self.assertTrue("grep" in text or "busybox" in shell[0], shell)
            self.assertNotIn("secret", text, shell)
            seen.unlink(missing_ok=True)
