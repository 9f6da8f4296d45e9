"""
relayd gives the results of the specification's example relay, but for the differences that are listed here: both run
the same commands for the same main server on the same real SSH server.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from msgspec import Struct
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.main_server import MainServer
from tests.support.process import PeerFailed
from tests.support.relays import RelayProcess, example_command, relayd_command
from tests.support.sshd import OpenSSHServer

RELAYS = ("example", "relayd")


class Outcome(Struct, frozen=True):
    """The ``result`` of a ``command_result``."""

    stdout: str
    stderr: str
    exit_code: int


class Row(Struct, frozen=True):
    """
    One command.

    :ivar exit_code: what the example relay must report, so that two equal failures of another kind do not pass.
    :ivar relayd: what relayd must report where it differs on purpose; ``None``: the same as the example.
    """

    name: str
    command: str
    exit_code: int = 0
    relayd: Outcome | None = None


ROWS = (
    # Where and how it runs
    Row("runs in /", "pwd"),
    Row("comes from the login directory", 'echo "$OLDPWD"'),
    Row("cd within", "cd /tmp && pwd"),
    Row("cd that fails", "cd /nonexistent; pwd"),
    Row("standard input is at its end: cat", "cat; echo after"),
    Row("standard input is at its end: wc", "wc -c"),
    Row("standard input is at its end: read", "read line; echo $?"),
    Row("no terminal", "test -t 0 || test -t 1 || test -t 2; echo $?"),
    Row("the same environment", "env | sed 's/=.*//' | sort"),
    Row("the same shell", 'echo "$0"; echo "$#"'),
    # Trimming, as JavaScript's trim does it
    Row("line end", "echo hello"),
    Row("white space at both ends", r"printf '\n\n  \t a b \n\n c \r\n \v\f\n'"),
    Row("nothing but white space", r"printf ' \n\t\n'"),
    Row("no output", "true"),
    Row("white space on stderr", r"printf '\n  warning \n\n' >&2"),
    Row("wide spaces and a byte order mark", r"printf '\357\273\277\302\240\343\200\200a\342\200\250\357\273\277'"),
    Row("what only Python takes for white space", r"printf '\034\302\205b\302\205\037'"),
    # Exit codes
    Row("exit 1", "false", 1),
    Row("exit 2", "echo two; exit 2", 2),
    Row("exit 255", "exit 255", 255),
    Row("exit amid the script", "echo a; exit 3; echo b", 3),
    Row("unknown command", "relayd-no-such-command", 127),
    Row("not executable", "/etc/passwd", 126),
    Row("syntax error", "echo 'unterminated", 2),
    Row("both outputs", "echo out; echo err >&2; exit 4", 4),
    Row("only stderr", "echo err >&2"),
    # Characters
    Row("CJK and emoji", "echo '中介服务 🚀 é'"),
    Row(
        "a character split between packets",
        r"printf '\344\270'; sleep 1; printf '\255'",
        relayd=Outcome("中", "", 0),
    ),
    Row("bytes that are not UTF-8", r"printf 'a\377\376b\344\270x\360\237\230y\355\240\200z\300\257\370'"),
    Row("NUL and control characters", r"printf 'a\000b\001\033[0m\177c'"),
    Row("200 KB", "yes 'a line of output' | head -c 200000"),  # ASCII: packets would split characters
    # What the shell is given
    Row("several lines", "echo one\necho two\n\necho three"),
    Row("line end at the end", "echo a\n"),
    Row("line ends of Windows", "echo a\r\necho b\r\n"),
    Row("white space around it", "  \n echo a  "),
    Row("comment at the end", "echo hi # there"),
    Row("single quotes", """echo 'a "b" $HOME `c` \\d'"""),
    Row("double quotes", 'echo "a \'b\' $HOME $(echo c) \\"d\\" \\\\ \\$e"'),
    Row("nested quotes", """sh -c 'sh -c "echo \\"a b\\"" && echo '"'"'c  d'"'"''"""),
    Row("dollar quotes", r"echo $'a\tb'"),
    Row("backslashes", r"echo a\ b \\ \' '\n' c\\d"),
    Row("no expansion but the shell's", 'x="a  b"; echo $x "$x" ${x} ${y:-none} $((6*7)) %s {0} %%'),
    Row("glob", "echo /etc/pass*d /etc/relayd-no-such-*"),
    Row("pipe whose first part fails", "false | echo ok"),
    Row("pipe whose last part fails", "echo gone | (cat >/dev/null; exit 5)", 5),
    Row("subshell and group", "(cd /tmp; pwd); { pwd; exit 6; }", 6),
    Row("here document", "cat <<'END'\n  $HOME\nlast\nEND\n"),
    Row("and, or", "true && echo a || echo b; false && echo c || echo d"),
    Row("function and loop", 'f() { echo "<$1>"; }\nfor i in 1 2 3; do f $i; done'),
    Row("a background process that holds the output", "(sleep 0.5; echo late) & echo now"),
    Row("a background process that lets go", "sleep 30 >/dev/null 2>&1 </dev/null & echo started; kill $!"),
    # Signals
    Row("killed", "echo before; kill -9 $$", relayd=Outcome("before", "", 137)),
    Row("terminated", "kill -TERM $$", relayd=Outcome("", "", 143)),
    Row("a child that was killed", "sh -c 'kill -9 $$'", 137),
)


class TableTests(SynchronousTestCase):
    """The table itself."""

    def test_names(self) -> None:
        """Each row has a name of its own, and there are no fewer than the issue asks for."""
        self.assertEqual([name for name, times in Counter(row.name for row in ROWS).items() if times > 1], [])
        self.assertGreaterEqual(len(ROWS), 30)


class ParityCase(TestCase):
    """Both relays, on one main server and one SSH server."""

    timeout = 180

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="relayd-parity-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        key_file = directory / "api-key"
        key_file.touch(mode=0o600)
        key_file.write_text(secrets.token_urlsafe(48))
        state = directory / "state"
        state.mkdir(mode=0o700)
        self.sshd = OpenSSHServer()
        self.addCleanup(self.sshd.stop)
        await self.sshd.start()
        self.main_server = MainServer(key_file, watch=True)
        self.addCleanup(self.main_server.stop)
        await self.main_server.start()
        url = self.main_server.url
        for name, argv in (
            ("example", example_command(url, "example", key_file)),
            ("relayd", relayd_command(url, "relayd", key_file, state)),
        ):
            relay = RelayProcess(argv)
            self.addCleanup(relay.stop)
            relay.start()
            await self.main_server.connected(name)

    async def execute(self, relay: str, command: str, **fields: Any) -> Outcome:
        """Run *command* on *relay*, with the key unless *fields* of ``execute_command`` say otherwise."""
        order = {
            "serverId": 1,
            "host": self.sshd.host,
            "port": self.sshd.port,
            "username": self.sshd.user,
            "privateKey": self.sshd.key,
            "command": command,
            **fields,
        }
        result = await self.main_server.execute(relay, order)
        self.assertEqual(set(result), {"stdout", "stderr", "exitCode"})
        return Outcome(result["stdout"], result["stderr"], result["exitCode"])


class ParityTests(ParityCase):
    """The same commands for both."""

    async def faults(self, row: Row, **fields: Any) -> list[str]:
        """What is wrong with *row*."""
        example, ours = [await self.execute(relay, row.command, **fields) for relay in RELAYS]
        wanted = example if row.relayd is None else row.relayd
        faults = []
        if example.exit_code != row.exit_code:
            faults.append(f"{row.name}: the example exits with {row.exit_code}, not as here: {_brief(example)}")
        if row.relayd is not None and example == ours:
            faults.append(f"{row.name}: the difference that is listed does not exist: {_brief(example)}")
        if ours != wanted:
            faults.append(f"{row.name}: relayd gives {_brief(ours)}; wanted: {_brief(wanted)}")
        return faults

    async def test_rows(self) -> None:
        """Each row of the table, with a key."""
        faults = [fault for row in ROWS for fault in await self.faults(row)]
        self.assertEqual(faults, [])

    async def test_other_orders(self) -> None:
        """What a row cannot say."""
        await self.check_password()
        await self.check_failures()
        await self.check_no_credential()
        await self.check_both_credentials()
        await self.check_an_id_that_is_used_again()
        await self.check_timeout()

    async def check_password(self) -> None:
        """A few rows with a password; so also where the other credential is there but void."""
        some = [row for row in ROWS if row.name in ("runs in /", "both outputs", "unknown command", "CJK and emoji")]
        self.assertEqual(len(some), 4)
        for server_id, void in ((2, None), (3, "")):
            fields = {"serverId": server_id, "password": self.sshd.password, "privateKey": void}
            faults = [fault for row in some for fault in await self.faults(row, **fields)]
            self.assertEqual(faults, [])

    async def check_failures(self) -> None:
        """A command that could not run: no output, exit code 1, and a message; relayd's names the host."""
        cases: dict[str, dict[str, Any]] = {
            "wrong password": {"serverId": 11, "password": "wrong", "privateKey": None},
            "no such user": {"serverId": 12, "username": "relayd-nobody"},
            "nobody listens": {"serverId": 13, "port": closed_port()},
            "key that is none": {"serverId": 14, "privateKey": "-----BEGIN KEY-----\nx\n-----END KEY-----"},
        }
        for name, fields in cases.items():
            for relay in RELAYS:
                outcome = await self.execute(relay, "echo ran", **fields)
                self.assertEqual((outcome.stdout, outcome.exit_code), ("", 1), (name, relay, outcome))
                self.assertTrue(outcome.stderr, (name, relay))
            self.assertIn(self.sshd.host, outcome.stderr, name)

    async def check_no_credential(self) -> None:
        """Neither a password nor a key: a failure in both; relayd says so in its acknowledgement already."""
        outcome = await self.execute("example", "echo ran", serverId=21, privateKey=None)
        self.assertEqual((outcome.stdout, outcome.exit_code), ("", 1), outcome)
        with self.assertRaisesRegex(PeerFailed, "refused: .*neither password nor privateKey"):
            await self.execute("relayd", "echo ran", serverId=21, privateKey=None)

    async def check_both_credentials(self) -> None:
        """A wrong password beside a key that fits: the example fails, relayd tries both."""
        fields = {"serverId": 31, "password": "wrong"}
        self.assertEqual((await self.execute("example", "echo ran", **fields)).exit_code, 1)
        self.assertEqual(await self.execute("relayd", "echo ran", **fields), Outcome("ran", "", 0))

    async def check_an_id_that_is_used_again(self) -> None:
        """The example runs whatever comes; relayd runs the command once, and no other command in its place."""
        directory = Path(tempfile.mkdtemp(prefix="relayd-parity-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o777)
        found = {}
        for relay in RELAYS:
            count = f"echo x >> {directory / relay}; wc -l < {directory / relay}"
            outcomes = [await self.execute(relay, count, commandId=f"again-{relay}") for _ in range(2)]
            found[relay] = [outcome.stdout for outcome in outcomes]
        self.assertEqual(found, {"example": ["1", "2"], "relayd": ["1", "1"]})
        outcome = await self.execute("example", "echo other", commandId="again-example")
        self.assertEqual(outcome, Outcome("other", "", 0))
        with self.assertRaisesRegex(PeerFailed, "refused: .*Every command needs its own commandId"):
            await self.execute("relayd", "echo other", commandId="again-relayd")

    async def check_timeout(self) -> None:
        """In both a command that times out fails; the example lets it run on, relayd ends it and keeps its output."""
        directory = Path(tempfile.mkdtemp(prefix="relayd-parity-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o777)
        outcomes = {}
        for relay in ("relayd", "example"):  # relayd first: its file would be there first
            command = f"echo early; sleep 4; touch {directory / relay}"
            await self.execute(relay, "true")  # so that the deadline is not spent on the connection
            outcomes[relay] = await self.execute(relay, command, timeout=2000)
            self.assertEqual(outcomes[relay].exit_code, 1, outcomes[relay])
            self.assertIn("timed out", outcomes[relay].stderr)
        self.assertEqual(outcomes["example"].stdout, "")
        self.assertEqual(outcomes["relayd"].stdout, "early")
        for _ in range(200):
            if (directory / "example").exists():
                break
            await deferLater(reactor, 0.1)
        self.assertEqual([path.name for path in directory.iterdir()], ["example"])


def closed_port() -> int:
    """A port of the loopback address where nobody listens."""
    with socket.socket() as probe:
        probe.bind((OpenSSHServer.host, 0))
        return int(probe.getsockname()[1])


def _brief(outcome: Outcome) -> str:
    """An outcome in a line."""
    outputs = (outcome.stdout, outcome.stderr)
    shown = [repr(text) if len(text) <= 200 else f"{text[:200]!r}… ({len(text)} characters)" for text in outputs]
    return f"({shown[0]}, {shown[1]}, {outcome.exit_code})"
