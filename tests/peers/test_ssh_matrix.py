"""
The SSH client against real servers in the configurations that people run, and an auditor's view of what it offers.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec.structs import replace
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutput
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from relayd.errors import HostFailure
from relayd.ssh.errors import LibraryMissing, LoginRefused, NoCommonAlgorithm, OutdatedInCommon, SignatureRefused
from relayd.ssh.pool import dialer
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Credential, Target
from relayd.ssh.transport import no_common_algorithm
from relayd.ssh.transport.algorithms import COMPATIBLE, LEGACY, MODERN, POLICIES, AlgorithmPolicy, PolicyName
from relayd.ssh_runner import RunnerSettings, SSHCommandRunner
from relayd.wire.messages import ExecuteCommand, Secret
from tests.support.dispatching import at_once
from tests.support.node import NodeServer
from tests.support.process import ChildProcess
from tests.support.ssh import DEADLINE, ServerTestCase, key_pair
from tests.support.sshd import OpenSSHServer, make_key

HARDENED = (
    "Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com",
    "MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com",
    "KexAlgorithms curve25519-sha256",
    "HostKeyAlgorithms ssh-ed25519",
)


class MatrixTests(ServerTestCase):
    """One command on each; none needs an option of ours but where the test is named for it."""

    def setUp(self) -> None:
        super().setUp()
        self.logged: list[LogEvent] = []
        observer = cast(ILogObserver, self.logged.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def outdated_at(self, port: int) -> list[str]:
        """The names in each warning about outdated algorithms of the server with this port."""
        warnings = [event for event in self.logged if "outdated" in str(event.get("log_format"))]
        return [event["names"] for event in warnings if (event["host"], event["port"]) == ("127.0.0.1", port)]

    async def check(self, server: OpenSSHServer, *expected: bytes, **settings: Any) -> None:
        """A command runs, over the algorithms named."""
        client = self.make_client(**settings)
        self.known_hosts.unlink(missing_ok=True)
        done = await self.run_command(client, self.target(server), "echo ok; head -c 100000 /dev/zero | wc -c")
        self.assertEqual((done.stdout.text(), done.exit.status), ("ok\n100000", 0))
        (connection,) = client._pool._connections.members  # users of the package do not see what was negotiated
        negotiated = connection.transport._key_exchange.algorithms
        assert negotiated is not None
        self.assertLessEqual(set(expected), negotiated.names())
        await client.close()

    async def each(self, setting: str, names: tuple[bytes, ...], *more: str, **settings: Any) -> None:
        for name in names:
            server = await self.start_server(f"{setting} {name.decode()}", *more)
            await self.check(server, name, **settings)
            await server.stop()

    async def test_as_installed(self) -> None:
        server = await self.start_server()
        await self.check(server, b"aes256-gcm@openssh.com", b"ssh-ed25519")

    async def test_hardened(self) -> None:
        await self.check(await self.start_server(*HARDENED), b"aes256-gcm@openssh.com")

    async def test_each_cipher(self) -> None:
        await self.each("Ciphers", COMPATIBLE.ciphers)

    async def test_each_mac(self) -> None:
        await self.each("MACs", COMPATIBLE.macs, "Ciphers aes128-ctr")

    async def test_each_key_exchange(self) -> None:
        known = await getProcessOutput("/usr/bin/env", ["ssh", "-Q", "kex"], env={"PATH": "/usr/bin:/bin"})
        names = tuple(name for name in COMPATIBLE.key_exchanges if name in known.split())
        self.assertGreater(len(names), 8)
        await self.each("KexAlgorithms", names)  # those that only `compatible` has, by its last resort

    async def test_each_host_key(self) -> None:
        for kind, name in (("ed25519", b"ssh-ed25519"), ("ecdsa", b"ecdsa-sha2-nistp256"), ("rsa", b"rsa-sha2-512")):
            await self.check(await self.start_server(host_key_types=(kind,)), name)

    async def test_legacy(self) -> None:
        """Each outdated algorithm is used under this policy, with a line in the log; the others name the policy."""
        known = await getProcessOutput(
            "/bin/sh", ["-c", "ssh -Q kex; ssh -Q cipher; ssh -Q mac; ssh -Q HostKeyAlgorithms"], env=os.environ
        )
        tried = 0
        for setting, names in (
            ("KexAlgorithms", LEGACY.key_exchanges),
            ("HostKeyAlgorithms", (b"ssh-rsa",)),
            ("Ciphers", LEGACY.ciphers),
            ("MACs", LEGACY.macs),
        ):
            for name in LEGACY.outdated.intersection(names).intersection(known.split()):
                more = ("Ciphers aes128-ctr",) if setting == "MACs" else ()
                server = await self.start_server(f"{setting} {name.decode()}", *more, host_key_types=("rsa",))
                await self.check(server, name, algorithms="legacy")
                self.assertEqual(self.outdated_at(server.port), [name.decode()])
                await self.check_advice(self.target(server), name)
                await server.stop()
                tried += 1
        self.assertGreater(tried, 8)

    async def test_legacy_of_another_server(self) -> None:
        """That of npm's ssh2, which has all of them but for group exchanges."""
        rsa_key, dsa_key = key_pair("rsa")[0], _dsa_key()
        for kind, names in (
            ("kex", LEGACY.key_exchanges), ("serverHostKey", LEGACY.host_keys), ("cipher", LEGACY.ciphers),
            ("hmac", LEGACY.macs),
        ):  # fmt: skip
            for name in LEGACY.outdated.intersection(names) - {b"diffie-hellman-group-exchange-sha1"}:
                target = await self.check_ssh2(kind, name, dsa_key if name == b"ssh-dss" else rsa_key, "legacy")
                self.assertEqual(self.outdated_at(target.port), [name.decode()])
                await self.check_advice(target, name)

    async def test_groups_that_openssh_lacks(self) -> None:
        for bits in (15, 17, 18):
            name = b"diffie-hellman-group%d-sha512" % bits
            target = await self.check_ssh2("kex", name, key_pair("rsa")[0], "modern")
            self.assertEqual(self.outdated_at(target.port), [])

    async def check_ssh2(self, kind: str, name: bytes, host_key: str, policy: PolicyName) -> Target:
        """A command runs on a server with one algorithm of its kind."""
        config = {
            "host_key": host_key,
            "users": {"user": {"passwords": ["word"], "keys": []}},
            "algorithms": {"cipher": ["aes128-ctr"], "serverHostKey": ["rsa-sha2-512"], kind: [name.decode()]},
        }
        path = self.directory / "config.json"
        path.write_text(json.dumps(config))
        server = NodeServer("ssh2_server.js", str(path))
        await server.start()
        self.addCleanup(server.stop)
        target = Target("127.0.0.1", server.port, "user", Credential(password="word"))
        self.known_hosts.unlink(missing_ok=True)
        client = self.make_client(algorithms=policy)
        done = await self.run_command(client, target, "head -c 100000 /dev/zero | wc -c; exit 3")
        self.assertEqual((done.stdout.text().strip(), done.exit.status), ("100000", 3), name)
        await client.close()
        return target

    async def check_advice(self, target: Target, name: bytes) -> None:
        """Without the policy, the error says that it would help."""
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), OutdatedInCommon)
        for words in (
            f"The host offers {name.decode()}",
            "this client offers",
            f"Its legacy algorithms, which are outdated, would do: it would use {name.decode()} here.",
        ):
            self.assertIn(words, str(error))

    async def test_results_name_the_option(self) -> None:
        """Also for the host keys that the client of the specification takes, and `compatible` does not."""
        for line, policy in (
            ("KexAlgorithms diffie-hellman-group1-sha1", "modern"),
            ("HostKeyAlgorithms ssh-rsa", "modern"),
            ("HostKeyAlgorithms ssh-rsa", "compatible"),
        ):
            server = await self.start_server(line, host_key_types=("rsa",))
            ssh = SSHSettings(known_hosts=str(self.known_hosts), algorithms=policy)  # type: ignore[arg-type]
            runner = SSHCommandRunner(self.reactor, ssh, RunnerSettings())
            self.addCleanup(runner.close)
            order = ExecuteCommand(
                command_id="1",
                server_id=1,
                host=server.host,
                port=server.port,
                username=server.user,
                private_key=Secret(server.key),
                command="true",
            )
            failed = await self.error_of(
                runner.run_command(order, self.reactor.seconds() + DEADLINE, at_once, None), HostFailure
            )
            self.assertIn(f"The host offers {line.split()[1]}", str(failed))
            self.assertIn("The relay's operator can allow that with ssh-algorithms", str(failed))
            self.assertIn("or with --ssh-algorithms legacy for all.", str(failed))

    async def test_what_no_policy_makes_possible(self) -> None:
        server = await self.start_server("MACs umac-64@openssh.com", "Ciphers aes128-ctr", host_key_types=("rsa",))
        for policy in ("modern", "compatible", "legacy"):
            client = self.make_client(algorithms=policy)
            error = await self.error_of(self.run_command(client, self.target(server), "true"), NoCommonAlgorithm)
            self.assertIs(type(error), NoCommonAlgorithm)
            self.assertIn("have no MAC in common. The host offers umac-64@openssh.com; this client has", str(error))
            self.assertIn("hmac-md5-96, and no others, whatever its settings. Let the host's SSH server", str(error))
        # A cipher that needs no MAC is enough.
        await self.check(await self.start_server("MACs umac-64@openssh.com"), b"aes256-gcm@openssh.com")

    async def test_a_library_that_is_missing(self) -> None:
        name = b"sntrup761x25519-sha512@openssh.com"
        self.patch(no_common_algorithm, "MISSING_LIBRARIES", {name: "pqcrypto"})
        offered = tuple(each for each in LEGACY.key_exchanges if not each.startswith(b"sntrup761"))
        without = replace(LEGACY, key_exchanges=offered)
        self.patch(no_common_algorithm, "LEGACY", without)
        self.patch(dialer, "POLICIES", {"modern": without})
        server = await self.start_server(f"KexAlgorithms {name.decode()}")
        error = await self.error_of(self.run_command(self.make_client(), self.target(server), "true"), LibraryMissing)
        self.assertIn(f"would offer {name.decode()} if the Python package pqcrypto were installed", str(error))

    async def test_rsa_key_with_sha1_signatures_only(self) -> None:
        private, public = make_key("rsa")
        server = await self.start_server("PubkeyAcceptedAlgorithms ssh-rsa", "PasswordAuthentication no")
        server.authorize(public)
        running = self.run_command(self.make_client(), self.target(server, private_key=private), "true")
        error = await self.error_of(running, SignatureRefused)
        self.assertIn("would accept this key with a SHA-1 signature (ssh-rsa)", str(error))
        running = self.run_command(self.make_client(), self.target(server, private_key=make_key("rsa")[0]), "true")
        error = await self.error_of(running, LoginRefused)
        self.assertNotIsInstance(error, SignatureRefused)
        client = self.make_client(algorithms="legacy")
        done = await self.run_command(client, self.target(server, private_key=private), "echo ok")
        self.assertEqual(done.stdout.text(), "ok")
        self.assertEqual(self.outdated_at(server.port), ["ssh-rsa"])

    async def test_keys_renewed_all_the_time(self) -> None:
        server = await self.start_server("RekeyLimit 1M")
        client = self.make_client(max_output=1 << 16)
        running = [
            self.run_command(client, self.target(server), "head -c 20000000 /dev/zero; echo err >&2") for _ in range(3)
        ]
        for each in running:
            done = await each
            self.assertEqual((done.stdout.total, done.stderr.text(), done.exit.status), (20_000_000, "err", 0))

    async def test_keys_renewed_in_both_directions(self) -> None:
        server = await self.start_server("RekeyLimit 1M")
        client = self.make_client(max_output=1 << 16)
        stdin = b"0123456789abcde\n" * 500_000
        deadline = self.reactor.seconds() + DEADLINE
        running = [client.run(self.target(server), b"cat; wc -c >&2", deadline, stdin=stdin) for _ in range(2)]
        running += [client.run(self.target(server), b"wc -c; head -c 8000000 /dev/zero >&2", deadline, stdin=stdin)]
        for each, streams in zip(running, ((8_000_000, 2), (8_000_000, 2), (8, 8_000_000)), strict=True):
            done = await each
            self.assertEqual((done.stdout.total, done.stderr.total, done.exit.status), (*streams, 0))


class AuditTests(ServerTestCase):
    """What ``ssh-audit`` says of what is offered."""

    async def failed(self, policy: PolicyName) -> set[str]:
        """The algorithms of *policy* that the auditor rates as a failure."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        lines: list[str] = []
        audit = ChildProcess(lambda _, line: lines.append(line))
        script = "from ssh_audit.ssh_audit import main; main()"
        audit.start([sys.executable, "-c", script, "-j", "-4", "-c", "-p", str(port)])
        ended = audit.when_ended()
        self.addCleanup(audit.terminate)
        client = self.make_client(algorithms=policy)
        target = Target("127.0.0.1", port, "nobody", Credential(password="not used: the auditor takes no login"))
        while not lines:
            await self.run_command(client, target, "true").addErrback(lambda _failure: None)
            await deferLater(self.reactor, 0.1)
        await ended
        report = json.loads("\n".join(lines[next(at for at, line in enumerate(lines) if line.startswith("{")) :]))
        entries = [entry for kind in ("kex", "key", "enc", "mac") for entry in report[kind]]
        offered = {entry["algorithm"] for entry in entries}
        self.assertLessEqual(_names(POLICIES[policy]), offered)
        return {entry["algorithm"] for entry in entries if entry["notes"].get("fail")}

    async def test_nothing_fails(self) -> None:
        self.assertEqual(await self.failed("modern"), set())

    async def test_only_what_a_wider_policy_adds_fails(self) -> None:
        sound = _names(MODERN)
        compatible = await self.failed("compatible")
        self.assertLessEqual(compatible, _names(COMPATIBLE) - sound)
        self.assertNotIn("diffie-hellman-group14-sha256", compatible)
        legacy = await self.failed("legacy")
        self.assertLessEqual(legacy, _names(LEGACY) - sound)
        # Whatever the auditor fails and the default policy's servers do not need is worth a line in the log.
        self.assertLessEqual(legacy - compatible, {name.decode() for name in LEGACY.outdated})


def _dsa_key() -> str:
    """A new private key, PEM text."""
    key = dsa.generate_private_key(1024)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def _names(policy: AlgorithmPolicy) -> set[str]:
    parts = (policy.key_exchanges, policy.host_keys, policy.ciphers, policy.macs)
    return {name.decode() for part in parts for name in part}


class NewcomerTests(ServerTestCase):
    """Servers that take few newcomers at a time."""

    async def test_many_users_of_a_host_that_takes_two(self) -> None:
        server = await self.start_server("MaxStartups 2:100:2")
        keys = [make_key() for _ in range(12)]
        server.authorize(*(public for _, public in keys))
        client = self.make_client()
        running = [
            self.run_command(client, self.target(server, private_key=private), f"echo {number}")
            for number, (private, _) in enumerate(keys)
        ]
        for number, each in enumerate(running):
            self.assertEqual((await each).stdout.text(), str(number))
