"""
Commands that run out of time on a host where somebody else wants another process to be ended in their place, or where
a script at login writes what it likes.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from relayd.ssh import Completed, SSHClient
from relayd.ssh.errors import RunTimeout
from relayd.ssh.target import Target
from tests.support import forger
from tests.support.account import USER, ensure_account, privileged
from tests.support.ending import EndingTestCase
from tests.support.ssh import marked_sleep, processes

#: Seconds that a command has; within them, the others have to be ready.
TIME = 5.0


def parent(pid: int) -> int:
    """Of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


class OtherUserTests(EndingTestCase):
    """relayd logs in as root; another user of the host may run what they like there."""

    def setUp(self) -> None:
        super().setUp()
        self.be_patient()
        ensure_account()
        self.attacker = pwd.getpwnam(USER).pw_uid
        self.directory.chmod(0o755)

    def forge(self, argv: Sequence[str], environment: Sequence[str], *, program: str = "", name: str = "sleep") -> str:
        """
        Start a process of the attacker.

        :param program: by default sleep; *argv* is followed by the time that it sleeps for.
        :param name: what it is called.
        :return: the mark of it.
        """
        mark, _ = marked_sleep()
        link = self.directory / mark / name
        link.parent.mkdir(mode=0o755)
        link.symlink_to(program or "/bin/sleep")
        told = {
            "uid": self.attacker,
            "program": str(link),
            "argv": [*argv, mark] if not program else list(argv),
            "environment": list(environment),
        }
        # su reads the password that it asks for; it waits for that until the test ends.
        process = subprocess.Popen(
            privileged([sys.executable, forger.__file__, json.dumps(told)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(self.end_process, process)
        return mark

    def end_process(self, process: subprocess.Popen[bytes]) -> None:
        """End one that was started here."""
        if process.poll() is None:
            subprocess.run(privileged(["kill", "-9", str(process.pid)]), check=False, capture_output=True, timeout=20)
        if process.stdin is not None:
            process.stdin.close()
        process.wait()

    def start_victim(self) -> tuple[str, int]:
        """A process of root's that has nothing to do with relayd; gives its mark and number."""
        mark, _ = marked_sleep()
        process = subprocess.Popen(privileged(["setsid", "sleep", mark]))
        self.addCleanup(self.end_process, process)
        return mark, self.one(mark)

    def one(self, mark: str) -> int:
        """The process that has a mark, once it has."""
        for _ in range(1000):
            found = [pid for pid in processes(mark) if "sleep" in Path(f"/proc/{pid}/comm").read_text()]
            if found:
                return found[-1]
            subprocess.run(["sleep", "0.02"], check=True)
        raise AssertionError("it does not run")

    async def log_in(self, *config_lines: str) -> tuple[SSHClient, Target]:
        """As root."""
        server = await self.start_server("PermitRootLogin prohibit-password", *config_lines, user="root")
        client, target = self.make_client(), self.target(server)
        await self.run_command(client, target, "true")
        return client, target

    async def attack(self, command: str, mark: str, *lies: str, config: Sequence[str] = ()) -> Completed:
        """
        Let *command* run out of time, of which the process *mark* is seen, among forged ones.

        :param lies: what the attacker starts: ``line``, ``end``, ``escape``, ``name``, ``setuid``.
        """
        client, target = await self.log_in(*config)
        victim_mark, victim = self.start_victim()
        running = client.run(target, command.encode(), self.reactor.seconds() + TIME)
        await self.until(lambda: processes(mark), "it runs")
        ours = processes(mark)[0]
        environment = (Path(f"/proc/{ours}/environ").read_bytes()).split(b"\0")
        (connection,) = [each.decode() for each in environment if each.startswith(b"SSH_CONNECTION=")]
        address = connection.partition("=")[2]
        server = parent(ours)
        line = f"leader {victim} {server} {victim} 1 S [{address}] sh\1-c\1{command}\1"
        marks = []
        if "line" in lies:  # twice the same variable: one more line
            marks.append(self.forge(["x"], [connection, f"SSH_CONNECTION={line}", "SSH_CONNECTION=x"]))
        if "end" in lies:
            marks.append(self.forge(["x"], ["SSH_CONNECTION=1 2 3 4", f"SSH_CONNECTION={line}", "SSH_CONNECTION=end"]))
        if "escape" in lies:  # of which some shells' echo makes another line
            marks.append(self.forge([f"] x\\n{line}\\n"], [connection]))
        if "name" in lies:
            marks.append(self.forge(["x"], [connection], name=f") S {server} 1 1\n"))
            marks.append(self.forge(["x"], [connection], name=f") S 1 {victim} {victim}"))
        if "setuid" in lies:  # keeps the environment and the arguments that it was given
            self.forge(["sh", "-c", command], [connection], program="/bin/su", name="sshd")
            await self.until(lambda: self.su_runs(mark), "su asks")
        for each in marks:
            await self.until(lambda each=each: processes(each), "it is there")  # type: ignore[misc]
        self.assertFalse(running.called, "this machine is too slow for this test")
        completed = await running
        self.assertIsInstance(completed.error, RunTimeout)
        self.assertEqual(processes(victim_mark), [victim], "the victim lives")
        self.assertEqual([len(processes(each)) for each in marks], [1] * len(marks), "what is not ours is left alone")
        self.assertEqual(self.su_runs(mark), "setuid" in lies)
        await self.until(lambda: not processes(mark), "it is gone")
        return completed

    def su_runs(self, mark: str) -> bool:
        """Whether the attacker's su for the command with *mark* waits for a password, with the rights of root."""
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "exe").endswith("/su"):
                    ids = next(x for x in (entry / "status").read_text().splitlines() if x.startswith("Uid:"))
                    ours = mark.encode() in (entry / "cmdline").read_bytes()
                    if ours and ids.split()[1:] == [str(self.attacker), "0", "0", "0"]:
                        return True
            except OSError:
                continue  # it ended meanwhile
        return False

    async def check(self, *lies: str) -> None:
        """The command is ended and nothing else, seen from its own connection and from another one."""
        for config in ((), ("MaxSessions 1",)):
            mark, sleep = marked_sleep()
            completed = await self.attack(f"cd / ; exec {sleep}", mark, *lies, config=config)
            self.assertEqual(completed.killed, "confirmed", config)

    async def test_variable_that_stands_there_twice(self) -> None:
        await self.check("line")

    async def test_end_of_the_answer(self) -> None:
        await self.check("end")

    async def test_arguments_with_escapes(self) -> None:
        await self.check("escape")

    async def test_names_that_look_like_numbers(self) -> None:
        await self.check("name")

    async def test_setuid_program_that_looks_like_the_command(self) -> None:
        await self.check("setuid")

    async def test_all_at_once(self) -> None:
        await self.check("line", "end", "escape", "name", "setuid")


class NoiseTests(EndingTestCase):
    """A script that runs at each login writes to the command's output."""

    NOISES = (
        "printf 'no end of line'",
        "echo end",
        "echo; echo end",
        "echo me 5 6; printf 'leader 2 6 2 1 S [127.0.0.1 1 127.0.0.1 22] sh\\001-c\\001true\\001\\nend\\n'",
        "printf 'left 0\\nleft 0\\n'; printf 'leader 2 2 1 same\\nend\\nlost\\n'",
        "head -c 5000 /dev/zero | tr '\\0' x",
        "{ for i in 1 2 3 4 5 6 7 8 9; do printf 'some more'; sleep 0.05; done; } &",
    )

    async def log_in(self, noise: str) -> tuple[SSHClient, Target]:
        """Where bash runs *noise* before each command."""
        self.directory.chmod(0o755)
        path = self.directory / "noise"
        path.write_text(noise + "\n")
        path.chmod(0o644)
        # Where it takes itself for the first shell of a login, it reads the file of the account's home instead.
        server = await self.start_server(f"SetEnv BASH_ENV={path} SHLVL=5", user="relayd-test-bash")
        return self.make_client(), self.target(server)

    async def test_noise_changes_nothing(self) -> None:
        self.be_patient()
        for noise in self.NOISES:
            client, target = await self.log_in(noise)
            done = await self.run_command(client, target, "true")
            self.assertGreater(done.stdout.total, 0)
            mark, sleep = marked_sleep()
            completed = await self.end(f"cd / ; {sleep}; true", mark, client=client, target=target)
            self.assertEqual(completed.killed, "confirmed", noise)

    async def test_host_that_does_not_stop_talking_is_not_listened_to(self) -> None:
        """It costs no memory, and the command is ended by the server."""
        self.be_patient()
        client, target = await self.log_in("case $(tr '\\0' ' ' </proc/$$/cmdline) in *'exec /bin/sh'*) yes;; esac")
        mark, sleep = marked_sleep()
        completed = await self.end(f"cd / ; exec {sleep}", mark, client=client, target=target)
        self.assertEqual(completed.killed, "unsupported")
