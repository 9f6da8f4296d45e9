"""
The relay's command runner against a real OpenSSH server: orders in, results of the protocol out.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from zope.interface.verify import verifyObject

from relayd.errors import HostFailure
from relayd.interfaces import ICommandRunner, IOutputSink
from relayd.language.catalogues import translator
from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.ssh.keys.public import fingerprint
from relayd.ssh.settings import SSHSettings
from relayd.ssh.testing import MemoryHost, MemoryNetwork, Misbehaviour, Reply
from relayd.ssh_runner import SSHCommandRunner
from relayd.ssh_texts import RunnerSettings
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.dispatching import at_once
from tests.support.ssh import DEADLINE, ServerTestCase, blob_of, marked_sleep, processes, shown, tool
from tests.support.sshd import OpenSSHServer, make_key


class RunnerTestCase(ServerTestCase):
    """Has commands ordered."""

    def make_runner(self, **settings: Any) -> SSHCommandRunner:
        """A runner; it is closed when the test ends."""
        own = {name: settings.pop(name) for name in RunnerSettings.__struct_fields__ if name in settings}
        ssh = SSHSettings(known_hosts=str(self.known_hosts), **settings)
        runner = SSHCommandRunner(self.reactor, ssh, RunnerSettings(**own))
        self.addCleanup(runner.close)
        return runner

    def command(self, server: OpenSSHServer, text: str, **changes: Any) -> ExecuteCommand:
        """The order to run *text* on *server*."""
        fields: dict[str, Any] = {
            "command_id": "c1",
            "server_id": 7,
            "host": server.host,
            "port": server.port,
            "username": server.user,
            "private_key": Secret(server.key),
            "command": text,
        }
        return ExecuteCommand(**{**fields, **changes})

    def order(
        self,
        runner: SSHCommandRunner,
        server: OpenSSHServer,
        text: str,
        timeout: float = DEADLINE,
        output: IOutputSink | None = None,
        **changes: Any,
    ) -> Deferred[CommandResult]:
        """Have it run within *timeout* seconds."""
        return runner.run_command(
            self.command(server, text, **changes), self.reactor.seconds() + timeout, at_once, output
        )


class RunnerTests(RunnerTestCase):
    """What becomes of an `ExecuteCommand`."""

    async def test_interface(self) -> None:
        self.assertTrue(verifyObject(ICommandRunner, self.make_runner()))

    async def test_result_on_the_wire(self) -> None:
        server = await self.start_server()
        result = await self.order(self.make_runner(), server, "pwd; echo  e  >&2; exit 3")
        self.assertEqual(result.to_wire(), {"commandId": "c1", "result": {"stdout": "/", "stderr": "e", "exitCode": 3}})

    async def test_working_directory(self) -> None:
        server = await self.start_server()
        spaced = self.directory / 'it\'s a "place"'
        spaced.mkdir()
        self.directory.chmod(0o755)
        for directory, expected in (("/tmp", "/tmp"), ("", f"/home/{server.user}"), (str(spaced), str(spaced))):
            said = HostSettings(working_directory=directory)
            for settings in (
                {"working_directory": directory},
                {"hosts": HostTable((HostRule(hosts=("*",), settings=said),))},
            ):
                result = await self.order(self.make_runner(**settings), server, "pwd")
                self.assertEqual((result.stdout, result.stderr, result.exit_code), (expected, "", 0))

    async def test_command_runs_although_the_directory_is_missing(self) -> None:
        server = await self.start_server()
        result = await self.order(self.make_runner(working_directory="/no/such/place"), server, "echo ok")
        self.assertEqual((result.stdout, result.exit_code), ("ok", 0))
        self.assertIn("/no/such/place", result.stderr)

    async def test_extended_details(self) -> None:
        server = await self.start_server()
        result = await self.order(
            self.make_runner(max_output=10), server, "echo 0123456789abc; echo e >&2; kill -TERM $$", extended=True
        )
        wire = result.to_wire()["result"]
        self.assertEqual(wire["exitCode"], 143)
        self.assertEqual((wire["signal"], wire["truncated"]), ("TERM", True))
        self.assertEqual((wire["stdoutBytes"], wire["stderrBytes"]), (14, 2))
        self.assertLessEqual({"wait", "run"}, set(wire["timings"]))
        self.assertNotIn("error", wire)

    async def test_output_that_is_held_by_what_was_left_running(self) -> None:
        server = await self.start_server()
        marker, sleep = marked_sleep()
        command = f"echo out; echo err >&2; {sleep} & exit 7"
        for extended, encoding in ((True, "utf-8"), (False, "base64")):
            result = await self.order(self.make_runner(), server, command, extended=extended, encoding=encoding)
            wire = result.to_wire()["result"]
            out, err = wire["stdout"], wire["stderr"]
            if encoding == "base64":
                out, err = b64decode(out).decode().strip(), b64decode(err).decode()
            self.assertEqual((wire["exitCode"], out, err.split("\n", 1)[0]), (7, "out", "err"))
            self.assertIn("left running", err)
            self.assertEqual((wire.get("outputOpen"), "error" in wire), (True if extended else None, False))
        self.assertEqual(len(processes(marker)), 2)

    async def test_details_are_collected_and_kept_off_the_wire(self) -> None:
        server = await self.start_server()
        result = await self.order(self.make_runner(), server, "kill -KILL $$")
        self.assertEqual(result.details.signal, "KILL")
        self.assertEqual(set(result.to_wire()["result"]), {"stdout", "stderr", "exitCode"})
        self.assertEqual(result.exit_code, 137)

    async def test_timeout_has_the_output_so_far(self) -> None:
        server = await self.start_server()
        marker, command = marked_sleep()
        running = self.order(
            self.make_runner(), server, f"echo so far; echo err >&2; {command}", timeout=2, extended=True
        )
        await self.until(lambda: processes(marker), "the command runs")
        wire = (await running).to_wire()["result"]
        self.assertEqual((wire["stdout"], wire["exitCode"]), ("so far", 1))
        first, _, second = wire["stderr"].partition("\n")
        self.assertEqual(first, "err")
        self.assertIn("timed out", second)
        self.assertEqual(wire["error"], {"code": "timeout", "phase": "run", "executed": "yes", "retriable": False})

    async def test_timeout_is_named_as_it_was_ordered(self) -> None:
        server = await self.start_server()
        runner = self.make_runner()
        await self.order(runner, server, "true")
        # The clock has moved on since the order came; nobody ordered 0.998765 s.
        order, deadline = self.command(server, "sleep 10"), self.reactor.seconds() + 0.998765
        result = await runner.run_command(order, deadline, at_once, timeout=40.0)
        self.assertIn("timed out after 40 s on ", result.stderr)
        # Nor was there time to dial.
        silent = self.reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(silent.stopListening)
        order = self.command(server, "true", port=silent.getHost().port)
        error = await self.error_of(
            runner.run_command(order, self.reactor.seconds() + 0.1, at_once, timeout=40.0), HostFailure
        )
        self.assertIn("timed out after 40 s while it waited for ", str(error))

    async def test_cancelled(self) -> None:
        server = await self.start_server()
        marker, command = marked_sleep()
        running = self.order(self.make_runner(), server, command, extended=True)
        await self.until(lambda: processes(marker), "the command runs")
        running.cancel()
        wire = (await running).to_wire()["result"]
        self.assertEqual((wire["error"]["code"], wire["exitCode"]), ("cancelled", 1))
        await self.until(lambda: not processes(marker), "the remote process is gone")

    async def test_failure(self) -> None:
        server = await self.start_server()
        failure = await self.failure_of(
            self.order(self.make_runner(), server, "true", private_key=None, password=Secret("wr0ng-pass"))
        )
        error = failure.value
        assert isinstance(error, HostFailure)
        self.assertEqual(
            (error.code, error.phase, error.executed, error.retriable), ("login-refused", "login", "no", False)
        )
        self.assertIn(f"{server.host}:{server.port} refused the login of {server.user}", str(error))
        self.assertNotIn("wr0ng-pass", shown(failure))

    async def test_lost_connection_is_told_with_the_output(self) -> None:
        server = await self.start_server()
        marker, command = marked_sleep()
        running = self.order(self.make_runner(), server, f"echo on; {command}", extended=True)
        await self.until(lambda: processes(marker), "the command runs")
        await self.sleep(0.1)
        server.drop_connections()
        wire = (await running).to_wire()["result"]
        self.assertEqual((wire["stdout"], wire["exitCode"]), ("on", 1))
        self.assertEqual(wire["error"]["executed"], "unknown")
        self.assertIn("look at the host", wire["stderr"])

    async def test_expected_host_key(self) -> None:
        server = await self.start_server(host_key_types=("ed25519", "rsa"))
        shown_keys = [fingerprint(blob_of(key)) for key in server.host_keys]
        self.known_hosts.write_text(f"[{server.host}]:{server.port} {make_key()[1]}\n")  # it wins over this
        for expected in (shown_keys[0], shown_keys[0].partition(" ")[2], shown_keys[1]):
            result = await self.order(self.make_runner(), server, "echo ok", host_key=expected)
            self.assertEqual(result.stdout, "ok")
        wrong = "ssh-ed25519 SHA256:" + "A" * 43
        runner = self.make_runner()
        error = await self.error_of(self.order(runner, server, "true", host_key=wrong), HostFailure)
        self.assertEqual(error.code, "host-key-unexpected")
        self.assertIn(shown_keys[0], str(error))
        attempts = len([line for line in server.log_lines if "Accepted publickey" in line])
        self.assertEqual(attempts, 3)  # with the wrong one, no login was attempted

    async def test_passphrase(self) -> None:
        server = await self.start_server()
        key = self.directory / "locked"
        tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", str(key))
        server.authorize(key.with_suffix(".pub").read_text())
        private = Secret(key.read_text())
        locked: dict[str, Any] = {"private_key": private, "passphrase": Secret("open sesame")}
        self.assertEqual((await self.order(self.make_runner(), server, "echo ok", **locked)).stdout, "ok")
        for passphrase, words in ((None, "no passphrase was given"), (Secret("wrong"), "the passphrase is wrong")):
            ordered = self.order(self.make_runner(), server, "true", private_key=private, passphrase=passphrase)
            failure = await self.failure_of(ordered)
            self.assertIn(words, str(failure.value))
            self.assertTrue(str(failure.value).endswith("the whole private key, and its passphrase if it has one."))


class MemoryTests(ServerTestCase):
    """On hosts in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.network = MemoryNetwork(self.reactor)
        self.hosts = [
            self.network.add(MemoryHost(name, run=lambda _: Reply(stdout=b"ok"))) for name in ("db", "secret")
        ]
        self.runner = SSHCommandRunner(
            self.network,
            SSHSettings(known_hosts="", host_keys="ignore"),
            allows=lambda host, port, address: host != "secret",
        )
        self.addCleanup(self.runner.close)

    def order(self, host: str) -> Deferred[CommandResult]:
        command = ExecuteCommand(
            command_id="c1",
            server_id=7,
            host=host,
            port=22,
            username="user",
            password=Secret("password"),
            command="true",
        )
        return self.runner.run_command(command, self.reactor.seconds() + DEADLINE, at_once)

    async def test_success(self) -> None:
        self.assertEqual((await self.order("db")).stdout, "ok")

    async def test_its_advice_in_chinese(self) -> None:
        """No blank stands between two sentences."""
        error = await self.error_of(self.order("nowhere"), HostFailure)
        said = "无法解析主机名 nowhere。请检查拼写，以及客户端所在机器的 DNS 设置。这里的客户端就是中介服务。"
        self.assertEqual(error.text.within(translator("zh")), said)

    async def test_what_the_relays_operator_can_do(self) -> None:
        """The SSH library knows no relay: what stands here of one, the runner adds."""
        for host, end in (
            ("nowhere", "name servers of the client's machine. That machine is the relay's."),
            ("secret", "The relay's operator finds the rules in --allow-hosts and --deny-hosts."),
        ):
            error = await self.error_of(self.order(host), HostFailure)
            self.assertTrue(str(error).endswith(end), error)

    async def test_a_login_that_takes_too_long(self) -> None:
        self.hosts[0].misbehaviour = Misbehaviour.STALLS_LOGINS
        ssh = SSHSettings(known_hosts="", host_keys="ignore", connect_timeout=1.0)
        self.runner = SSHCommandRunner(self.network, ssh)
        self.addCleanup(self.runner.close)
        error = await self.error_of(self.order("db"), HostFailure)
        end = "If it always takes that long, the relay's operator can raise --connect-timeout."
        self.assertTrue(str(error).endswith(end), error)

    async def test_codes(self) -> None:
        for misbehaviour in (Misbehaviour.REFUSES_CONNECTIONS, Misbehaviour.REFUSES_COMMANDS):
            self.hosts[0].misbehaviour = misbehaviour
            error = await self.error_of(self.order("db"), HostFailure)
            self.assertEqual((error.code, error.executed), (misbehaviour.value, "no"))
