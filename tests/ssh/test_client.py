"""
The SSH client against a real OpenSSH server: ways to log in, what commands write, how they end, what goes wrong.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from relayd.network import steady_clock
from relayd.ssh import Completed
from relayd.ssh.errors import (
    ConnectRefused,
    HostKeyChanged,
    HostKeyUnknown,
    KeyExchangeTimeout,
    KeyUnreadable,
    LoginRefused,
    NameNotFound,
    NotRun,
    RunCancelled,
    RunTimeout,
    SessionTimeout,
)
from relayd.ssh.keys.public import fingerprint
from tests.support.ssh import DEADLINE, ServerTestCase, blob_of, key_pair, marked_sleep, processes, shown


class SetBack:
    """The reactor, by a time of day that is set back."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.by = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def seconds(self) -> float:
        return float(self._reactor.seconds()) - self.by


class ClockTests(ServerTestCase):
    """The reactor of a program of one's own goes by the time of day."""

    async def test_timings(self) -> None:
        server = await self.start_server()
        clock = self.reactor = SetBack(self.reactor)
        self.patch(steady_clock, "TIME_OF_DAY", clock.seconds)

        def leave() -> Deferred[None]:
            clock.by += 3600
            return succeed(None)

        deadline = clock.seconds() + DEADLINE
        done = self.make_client().run(self.target(server), b"sleep 0.1", deadline, permission=leave)
        completed = await done
        self.assertIsNone(completed.error)
        for phase, seconds in completed.timings.items():
            self.assertTrue(0 <= seconds < DEADLINE, (phase, seconds))
        self.assertGreaterEqual(completed.timings["run"], 0.1)


class LoginTests(ServerTestCase):
    """Ways to log in."""

    def assert_ok(self, completed: Completed) -> None:
        self.assertIsNone(completed.error)
        self.assertEqual((completed.stdout.text(), completed.exit.status), ("ok", 0))

    async def test_password(self) -> None:
        server = await self.start_server("PubkeyAuthentication no")
        target = self.target(server, password=server.password)
        self.assert_ok(await self.run_command(self.make_client(), target, "echo ok"))

    async def test_keys_of_every_type(self) -> None:
        server = await self.start_server("PasswordAuthentication no")
        client = self.make_client()
        for kind in ("ed25519", "ecdsa", "rsa"):
            private, public = key_pair(kind)
            server.authorize(public)
            self.assert_ok(await self.run_command(client, self.target(server, private_key=private), "echo ok"))

    async def test_rsa_key_signs_with_sha2_only(self) -> None:
        server = await self.start_server("PubkeyAcceptedAlgorithms rsa-sha2-512")
        private, public = key_pair("rsa")
        server.authorize(public)
        target = self.target(server, private_key=private)
        self.assert_ok(await self.run_command(self.make_client(), target, "echo ok"))

    async def test_key_and_password_both_required(self) -> None:
        server = await self.start_server("AuthenticationMethods publickey,password")
        target = self.target(server, private_key=server.key, password=server.password)
        self.assert_ok(await self.run_command(self.make_client(), target, "echo ok"))

    async def test_password_when_the_key_is_refused_or_unreadable(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        for private_key in (key_pair("ecdsa")[0], "no key at all"):
            target = self.target(server, private_key=private_key, password=server.password)
            self.assert_ok(await self.run_command(client, target, "echo ok"))

    async def test_host_keys_of_other_types(self) -> None:
        for kind in ("ecdsa", "rsa"):
            server = await self.start_server(host_key_types=(kind,))
            client = self.make_client()
            self.assert_ok(await self.run_command(client, self.target(server), "echo ok"))
            self.assertIn(server.host_keys[0], self.known_hosts.read_text())

    async def test_asks_for_the_type_of_key_that_is_known(self) -> None:
        server = await self.start_server(host_key_types=("ed25519", "rsa", "ecdsa"))
        for public in server.host_keys:
            self.known_hosts.write_text(f"[{server.host}]:{server.port} {public}\n")
            self.assert_ok(await self.run_command(self.make_client(host_keys="strict"), self.target(server), "echo ok"))

    async def test_wrong_password(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        failure = await self.failure_of(self.run_command(client, self.target(server, password="wr0ng-pass"), "echo ok"))
        failure.trap(LoginRefused)
        text = str(failure.value)
        for part in (server.user, f"{server.host}:{server.port}", "tried password", "publickey, password"):
            self.assertIn(part, text)
        self.assertNotIn("wr0ng-pass", shown(failure))
        self.assertEqual(client.counts().connections, 0)

    async def test_wrong_password_where_the_server_hangs_up_at_once(self) -> None:
        server = await self.start_server("MaxAuthTries 1")
        running = self.run_command(self.make_client(), self.target(server, password="wrong"), "echo ok")
        # To call this an overload and worth a retry would lock the account, or the relay, out.
        (await self.failure_of(running)).trap(LoginRefused)

    async def test_wrong_key(self) -> None:
        server = await self.start_server()
        private = key_pair("ecdsa")[0]
        failure = await self.failure_of(
            self.run_command(self.make_client(), self.target(server, private_key=private), "echo ok")
        )
        failure.trap(LoginRefused)
        self.assertIn("tried publickey", str(failure.value))

    async def test_unreadable_key_troubles_no_host(self) -> None:
        server = await self.start_server()
        text = server.key.replace(server.key.splitlines()[2], "c2VjcmV0c2VjcmV0")
        failure = await self.failure_of(
            self.run_command(self.make_client(), self.target(server, private_key=text), "echo ok")
        )
        failure.trap(KeyUnreadable)
        for line in text.splitlines()[1:-1]:
            self.assertNotIn(line, shown(failure))
        self.assertFalse([line for line in server.log_lines if "Connection from" in line])


class HostKeyTests(ServerTestCase):
    """The key of the host decides before anything is sent."""

    async def test_changed_key(self) -> None:
        server = await self.start_server()
        target = self.target(server, password=server.password)
        client = self.make_client()
        await self.run_command(client, target, "true")
        await client.close()
        await self.until(lambda: "Accepted password" in "\n".join(server.log_lines), "the log tells")
        old = fingerprint(blob_of(server.host_keys[0]))
        server.make_host_keys()
        await server.restart()
        seen = len(server.log_lines)
        failure = await self.failure_of(self.run_command(self.make_client(), target, "true"))
        failure.trap(HostKeyChanged)
        for part in (old, fingerprint(blob_of(server.host_keys[0])), f"line 1 of {self.known_hosts}"):
            self.assertIn(part, str(failure.value))
        await self.until(lambda: server.connection_count() == 0, "sshd saw the end")
        log = "\n".join(server.log_lines[seen:])
        self.assertIn("Connection from", log)
        for word in ("password", "publickey", server.user, "Failed", "Accepted"):
            self.assertNotIn(word, log)

    async def test_strict_refuses_a_new_host(self) -> None:
        server = await self.start_server()
        failure = await self.failure_of(
            self.run_command(self.make_client(host_keys="strict"), self.target(server), "true")
        )
        failure.trap(HostKeyUnknown)
        self.assertIn(fingerprint(blob_of(server.host_keys[0])), str(failure.value))
        self.assertFalse(self.known_hosts.exists())


class OutputTests(ServerTestCase):
    """What commands write and how they end."""

    async def test_both_outputs_and_exit_codes(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        for code in (0, 1, 127, 255):
            completed = await self.run_command(
                client, self.target(server), f"echo ' out '; echo err >&2; cat; exit {code}"
            )
            self.assertEqual(completed.stdout.text(), "out")
            self.assertEqual(completed.stderr.text(), "err")
            self.assertEqual((completed.exit.status, completed.exit.signal), (code, None))
            self.assertEqual(completed.exit.exit_code, code)
            self.assertIsNone(completed.error)

    async def test_command_arrives_as_it_is(self) -> None:
        server = await self.start_server()
        completed = await self.run_command(
            self.make_client(), self.target(server), "printf '%s|' \"a  'b'\" 'c\nd' \"é漢🙂\" \"$HOME\" '$HOME'"
        )
        self.assertEqual(completed.stdout.text(), f"a  'b'|c\nd|é漢🙂|/home/{server.user}|$HOME|")

    async def test_killed_by_signal(self) -> None:
        server = await self.start_server()
        completed = await self.run_command(self.make_client(), self.target(server), "echo before; kill -KILL $$")
        self.assertEqual((completed.exit.status, completed.exit.signal), (None, "KILL"))
        self.assertEqual(completed.exit.exit_code, 137)
        self.assertEqual(completed.stdout.text(), "before")
        self.assertIsNone(completed.error)

    async def test_20_megabytes(self) -> None:
        server = await self.start_server()
        size = 20_000_000
        completed = await self.run_command(
            self.make_client(max_output=100_000),
            self.target(server),
            f"head -c {size} /dev/zero | tr '\\0' x; echo e >&2",
        )
        self.assertEqual(completed.stdout.total, size)
        self.assertTrue(completed.stdout.truncated)
        text = completed.stdout.text()
        self.assertIn("19,900,000 bytes cut here", text)
        self.assertEqual(text.count("x"), 100_000)
        self.assertEqual((completed.stderr.text(), completed.exit.status), ("e", 0))


class EndTests(ServerTestCase):
    """Commands that are ended before they end."""

    async def test_timeout_ends_the_remote_process(self) -> None:
        server = await self.start_server()
        marker, command = marked_sleep()
        client = self.make_client()
        running = self.run_command(client, self.target(server), f"echo so far; {command}; echo after", 2)
        await self.until(lambda: processes(marker), "the command runs")
        completed = await running
        self.assertIsInstance(completed.error, RunTimeout)
        self.assertEqual(completed.stdout.text(), "so far")
        await self.until(lambda: not processes(marker), "the remote process is gone")
        await self.until(lambda: client.counts().sessions == 0, "its place is free")
        self.assertEqual((await self.run_command(client, self.target(server), "echo ok")).stdout.text(), "ok")

    async def test_timeout_lets_a_command_end_well(self) -> None:
        server = await self.start_server()
        marker, command = marked_sleep()
        script = f"trap 'echo bye; exit 7' TERM; echo on; {command} & wait"
        running = self.run_command(self.make_client(), self.target(server), script, 1.5)
        await self.until(lambda: processes(marker), "the command runs")
        completed = await running
        self.assertIsInstance(completed.error, RunTimeout)
        self.assertEqual(completed.stdout.text(), "on\nbye")

    async def test_command_that_ignores_the_first_signal_is_killed(self) -> None:
        server = await self.start_server()
        marker, command = marked_sleep()
        client = self.make_client()
        running = self.run_command(client, self.target(server), f"trap '' TERM HUP; echo on; {command}", 1.5)
        await self.until(lambda: processes(marker), "the command runs")
        completed = await running
        self.assertIsInstance(completed.error, RunTimeout)
        self.assertEqual(completed.stdout.text(), "on")
        self.assertTrue(processes(marker))  # it had its chance to end well
        await self.until(lambda: not processes(marker), "the remote process is gone")
        await self.until(lambda: client.counts().sessions == 0, "its place is free")

    async def test_cancel_ends_the_remote_process(self) -> None:
        server = await self.start_server()
        marker, command = marked_sleep()
        running = self.run_command(self.make_client(), self.target(server), f"echo on; {command}")
        await self.until(lambda: processes(marker), "the command runs")
        running.cancel()
        completed = await running
        self.assertIsInstance(completed.error, RunCancelled)
        await self.until(lambda: not processes(marker), "the remote process is gone")

    async def test_cancel_before_it_runs(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        marker = self.directory / "ran"
        self.directory.chmod(0o777)
        running = self.run_command(client, self.target(server), f"touch {marker}")
        running.cancel()
        (await self.failure_of(running)).trap(NotRun)
        self.assertEqual((await self.run_command(client, self.target(server), "echo ok")).stdout.text(), "ok")
        self.assertFalse(marker.exists())

    async def test_timeout_while_it_waits_for_a_place(self) -> None:
        server = await self.start_server()
        client = self.make_client(max_sessions=1, max_connections=1)
        marker, command = marked_sleep()
        first = self.run_command(client, self.target(server), command)
        await self.until(lambda: processes(marker), "the first runs")
        failure = await self.failure_of(self.run_command(client, self.target(server), "true", 0.2))
        failure.trap(SessionTimeout)
        self.assertIn("all sessions are in use", str(failure.value))
        self.assertIn("was not run", str(failure.value))
        first.cancel()
        await first

    async def test_reason_of_waiting_is_that_of_its_own_host(self) -> None:
        server = await self.start_server()
        silent = await TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Protocol))
        self.addCleanup(silent.stopListening)
        client = self.make_client(max_sessions=1, max_connections=1)
        marker, command = marked_sleep()
        first = self.run_command(client, self.target(server), command)
        await self.until(lambda: processes(marker), "the first runs")
        elsewhere = self.run_command(client, self.target(server, port=silent.getHost().port), "true")
        failure = await self.failure_of(self.run_command(client, self.target(server), "true", 0.2))
        self.assertIn("all sessions are in use", str(failure.value))
        first.cancel()
        await first
        elsewhere.cancel()
        await self.error_of(elsewhere, NotRun)


class UnreachableTests(ServerTestCase):
    """Hosts that are not there, or are something else."""

    async def failure_at(self, host: str, port: int) -> str:
        server = await self.start_server()
        client = self.make_client(connect_timeout=1.0)
        failure = await self.failure_of(self.run_command(client, self.target(server, host=host, port=port), "true"))
        self.assertIsInstance(failure.value, self.expected)
        self.assertIn(host, str(failure.value))
        return str(failure.value)

    async def test_nothing_listens(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, and it refuses
            self.expected: type[Exception] = ConnectRefused
            port = unused.getsockname()[1]
            self.assertIn(f":{port} ", await self.failure_at("127.0.0.1", port))

    async def test_unknown_name(self) -> None:
        self.expected = NameNotFound
        await self.failure_at("no-such-host.invalid", 22)

    async def test_server_that_says_nothing(self) -> None:
        silent = await TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Protocol))
        self.addCleanup(silent.stopListening)
        self.expected = KeyExchangeTimeout
        await self.failure_at("127.0.0.1", silent.getHost().port)
