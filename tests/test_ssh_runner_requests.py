"""
What an order may ask for beyond the specification, against a real OpenSSH server.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode

from twisted.internet.defer import Deferred
from zope.interface import implementer

from relayd.errors import CredentialMissing, HostFailure, Unencodable
from relayd.interfaces import IOutputSink
from relayd.network.credential_rules import CredentialRule
from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.settings import SSHSettings
from relayd.ssh_runner import SSHCommandRunner
from relayd.wire.messages import JumpHost, Secret, Timings
from tests.support.dispatching import at_once
from tests.support.ssh import marked_sleep, processes
from tests.support.sshd import OpenSSHServer, make_key
from tests.test_ssh_runner import RunnerTestCase


@implementer(IOutputSink)
class Sink:
    """Keeps what is written; waits where a test wants it to."""

    def __init__(self, wait: bool = False) -> None:
        self.pieces: list[tuple[str, int, bytes]] = []
        self.waits: list[Deferred[None]] = []
        self._wait = wait

    def write(self, stream: str, offset: int, data: bytes) -> Deferred[None] | None:
        self.pieces.append((stream, offset, data))
        if not self._wait:
            return None
        self.waits.append(Deferred())
        return self.waits[-1]

    def size(self) -> int:
        """Bytes written so far."""
        return sum(len(data) for _, _, data in self.pieces)


class RequestTests(RunnerTestCase):
    """Directory, environment, standard input, encoding."""

    async def test_directory(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        home = f"/home/{server.user}"
        for cwd, expected in (("/tmp", "/tmp"), ("~", home), ("~/", home), (f"~{server.user}/..", "/home")):
            result = await self.order(runner, server, "pwd", cwd=cwd)
            self.assertEqual((result.stdout, result.stderr, result.exit_code), (expected, "", 0))

    async def test_directory_that_is_missing(self) -> None:
        server = await self.start_server()
        result = await self.order(self.make_runner(), server, "echo no", cwd="/no/such $(place)")
        self.assertEqual((result.stdout, bool(result.exit_code)), ("", True))
        self.assertIn("/no/such $(place)", result.stderr)

    async def test_environment(self) -> None:
        server = await self.start_server()
        env = (("A", 'it\'s $HOME; `x`\nand "y"'), ("LC_B", ""))
        for settings in ({}, {"working_directory": ""}):
            accepting = server if not settings else await self.start_server("AcceptEnv A LC_*")
            result = await self.order(
                self.make_runner(**settings),
                accepting,
                'printf "%s|%s" "$A" "${LC_B-unset}"; env | grep -c "^A="',
                env=env,
            )
            self.assertEqual((result.stdout, result.stderr), (f"{env[0][1]}|1", ""))

    async def test_character_set(self) -> None:
        """Of the command, or of the site: the shell gets the bytes, and its output is read as what it is."""
        server = await self.start_server()
        site, other = self.make_runner(output_encoding="gbk"), self.make_runner(working_directory="")
        said = self.make_runner(
            hosts=HostTable((HostRule(hosts=("*",), settings=HostSettings(output_encoding="gbk")),))
        )
        for runner, encoding in ((site, None), (other, "gbk"), (said, None)):
            result = await self.order(
                runner, server, "printf 中文 | od -An -tx1; printf '\\326\\320'", encoding=encoding
            )
            self.assertEqual(result.stdout, "d6 d0 ce c4\n中")
            self.assertNotIn("encoding", result.to_wire()["result"])
            shown = await self.order(
                runner, server, "od -An -tx1; echo 字 >&2", encoding=encoding, stdin="中".encode(), stdin_is_text=True
            )
            self.assertEqual((shown.stdout, shown.stderr), ("d6 d0", "字"))
        raw = await self.order(site, server, "od -An -tx1", encoding="gbk", stdin="中".encode())
        self.assertEqual(raw.stdout, "e4 b8 ad")
        raw = await self.order(site, server, "printf 中", encoding="base64")
        self.assertEqual(b64decode(raw.stdout), "中".encode("gbk"))
        env = (("A", "中"),)
        result = await self.order(site, server, 'printf %s "$A" | od -An -tx1; pwd', env=env, cwd="/tmp")
        self.assertEqual(result.stdout, "d6 d0\n/tmp")

    async def test_directory_in_a_character_set(self) -> None:
        server = await self.start_server()
        place = os.fsencode(self.directory) + "/中".encode("gbk")
        os.mkdir(place)
        self.directory.chmod(0o755)
        cwd = f"{self.directory}/中"
        result = await self.order(self.make_runner(), server, "pwd", cwd=cwd, encoding="gbk")
        self.assertEqual((result.stdout, result.stderr), (cwd, ""))

    async def test_utf_16(self) -> None:
        """As Windows writes it; the command itself has to be ASCII then."""
        server, runner = await self.start_server(), self.make_runner()
        result = await self.order(runner, server, "printf '\\377\\376-N\\207e'", encoding="utf-16")
        self.assertEqual(result.stdout, "中文")

    async def test_what_cannot_be_written(self) -> None:
        """It is refused before anything is run."""
        server, runner = await self.start_server(), self.make_runner(output_encoding="gbk")
        strict = self.make_runner(output_encoding="gbk", exact_text=True)
        for asked, changes, field in (
            (runner, {"text": "echo 가", "encoding": None}, "command"),
            (runner, {"text": "echo 中", "encoding": "iso8859-1"}, "command"),
            (runner, {"text": "echo 中", "encoding": "utf-16"}, "command"),
            (runner, {"text": "x", "stdin": "가".encode(), "stdin_is_text": True}, "stdin"),
            (runner, {"text": "x", "env": (("A", "가"),)}, "env"),
            (strict, {"text": "echo 巪id"}, "command"),
            (strict, {"text": "echo x", "cwd": "/巪"}, "cwd"),
        ):
            order = self.command(server, **changes)  # type: ignore[arg-type]
            error = asked.refuses(order)
            assert isinstance(error, Unencodable)
            self.assertEqual((error.fields["field"], error.executed, error.retriable), (field, "no", False))
            failed = asked.run_command(order, self.reactor.seconds() + 5, at_once)
            self.assertIn("--output-encoding", str(self.failureResultOf(failed, Unencodable).value))
        self.assertIsNone(runner.refuses(self.command(server, "echo 巪id")))

    async def test_standard_input(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        data = bytes(range(256)) * 20_000
        result = await self.order(runner, server, "md5sum; cat", stdin=data)
        self.assertTrue(result.stdout.startswith(hashlib.md5(data).hexdigest()))
        self.assertEqual((await self.order(runner, server, "cat; echo end")).stdout, "end")

    async def test_base64(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        result = await self.order(runner, server, r"printf ' \377\0 '; printf e >&2", encoding="base64")
        self.assertEqual((b64decode(result.stdout), b64decode(result.stderr)), (b" \xff\0 ", b"e"))
        self.assertEqual(result.to_wire()["result"]["encoding"], "base64")

    async def test_base64_of_too_much(self) -> None:
        server, runner = await self.start_server(), self.make_runner(max_output=10)
        result = await self.order(runner, server, r"printf '12345------67890'", encoding="base64", extended=True)
        self.assertEqual(b64decode(result.stdout), b"12345\n[relayd: 6 bytes cut here]\n67890")
        self.assertTrue(result.details.truncated)

    async def test_base64_when_time_is_up(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        mark, sleep = marked_sleep()
        running = self.order(runner, server, f"printf e >&2; {sleep}", 2, encoding="base64")
        await self.until(lambda: processes(mark), "it runs")
        result = await running
        self.assertTrue(b64decode(result.stderr).startswith(b"e\nThe command timed out after 2 s on "))
        self.assertEqual(result.details.killed, "confirmed")

    async def test_time_of_each_phase(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        first = (await self.order(runner, server, "true")).details.timings or {}
        self.assertEqual(list(first), [each for each in Timings.__annotations__ if each not in ("files", "fetch")])
        self.assertLessEqual(first["connect"] + first["keyExchange"] + first["login"], first["wait"] + 0.001)
        second = (await self.order(runner, server, "true")).details.timings or {}
        self.assertEqual(list(second), ["wait", "run"])


class StreamTests(RunnerTestCase):
    """Output as it arrives."""

    async def test_pieces(self) -> None:
        server, runner, sink = await self.start_server(), self.make_runner(), Sink()
        running = self.order(runner, server, "echo one; sleep 1; echo two; echo err >&2", output=sink)
        await self.until(lambda: sink.pieces, "something arrives")
        self.assertEqual(sink.pieces, [("stdout", 0, b"one\n")])
        result = await running
        self.assertEqual(sorted(sink.pieces[1:]), [("stderr", 0, b"err\n"), ("stdout", 4, b"two\n")])
        self.assertEqual((result.stdout, result.stderr), ("one\ntwo", "err"))

    async def test_slow_reader_holds_the_host_back(self) -> None:
        """And nobody else."""
        server, runner, sink = await self.start_server(), self.make_runner(max_output=1000), Sink(wait=True)
        size = 64 << 20
        running = self.order(runner, server, f"head -c {size} /dev/zero", output=sink)
        before = -1
        while sink.size() != before:
            before = sink.size()
            await self.sleep(0.5)
        self.assertLess(before, 8 << 20)
        self.assertEqual((await self.order(runner, server, "echo ok")).stdout, "ok")
        sink._wait = False
        while sink.waits:
            sink.waits.pop().callback(None)
        self.assertEqual((await running).details.stdout_bytes, size)


class SiteTests(RunnerTestCase):
    """Credentials of the site, and hosts behind others."""

    def runner_with(self, *rules: CredentialRule) -> SSHCommandRunner:
        settings = SSHSettings(known_hosts=str(self.known_hosts))
        runner = SSHCommandRunner(self.reactor, settings, credentials=CredentialTable(rules))
        self.addCleanup(runner.close)
        return runner

    def key_file(self, server: OpenSSHServer) -> str:
        path = self.directory / f"key-{server.port}"
        path.touch(mode=0o600)
        path.write_text(server.key)
        return str(path)

    async def test_order_without_a_secret(self) -> None:
        server = await self.start_server()
        runner = self.runner_with(CredentialRule(hosts=("127.0.0.*",), key_file=self.key_file(server)))
        result = await self.order(runner, server, "echo ok", private_key=None)
        self.assertEqual(result.stdout, "ok")

    async def test_order_that_nothing_covers(self) -> None:
        server = await self.start_server()
        for runner in (self.make_runner(), self.runner_with(CredentialRule(hosts=("other",), agent="/none"))):
            command = self.command(server, "true", private_key=None)
            error = runner.refuses(command)
            self.assertIsInstance(error, CredentialMissing)
            self.assertIn(f"{server.user}@{server.host}", str(error))
            running = runner.run_command(command, self.reactor.seconds() + 9, at_once)
            (await self.failure_of(running)).trap(CredentialMissing)
        self.assertIsNone(self.make_runner().refuses(self.command(server, "true")))

    async def test_file_that_is_missing(self) -> None:
        server = await self.start_server()
        runner = self.runner_with(CredentialRule(hosts=("*",), key_file="/no/such/key"))
        error = runner.refuses(self.command(server, "true", private_key=None))
        self.assertIsInstance(error, HostFailure)
        self.assertRegex(str(error), r"The credential in /no/such/key cannot be used: .*\. The file is the relay.s\.$")

    async def test_jump_hosts_of_the_order(self) -> None:
        first, second, last = [await self.start_server() for _ in range(3)]
        via = tuple(
            JumpHost(host=jump.host, port=jump.port, username=jump.user, private_key=Secret(jump.key))
            for jump in (first, second)
        )
        runner = self.make_runner()
        self.assertEqual((await self.order(runner, last, "echo ok", via=via)).stdout, "ok")
        self.assertEqual(runner.client.counts().connections, 3)
        self.assertEqual([server.connection_count() for server in (first, second, last)], [1, 1, 1])
        wrong = (
            via[0],
            JumpHost(host=second.host, port=second.port, username="nobody", private_key=Secret(make_key()[0])),
        )
        failure = await self.failure_of(self.order(runner, last, "echo ok", via=wrong))
        failure.trap(HostFailure)
        self.assertIn("refused the login of nobody", str(failure.value))

    async def test_jump_hosts_of_the_site(self) -> None:
        jump, host = await self.start_server(), await self.start_server()
        runner = self.runner_with(
            CredentialRule(hosts=(f"[{jump.host}]:{jump.port}",), key_file=self.key_file(jump)),
            CredentialRule(hosts=("127.0.0.0/8",), via=f"{jump.user}@{jump.host}:{jump.port}"),
        )
        self.assertEqual((await self.order(runner, host, "echo ok")).stdout, "ok")
        self.assertEqual((jump.connection_count(), host.connection_count()), (1, 1))
        self.assertEqual(runner.client.counts().connections, 2)
