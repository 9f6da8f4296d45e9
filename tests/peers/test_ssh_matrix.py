"""
The SSH client against real servers in the configurations that people run, and an auditor's view of what it offers.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutput

from relayd.ssh.errors import NoCommonAlgorithm
from relayd.ssh.target import Credential, Target
from relayd.ssh.transport.algorithms import COMPATIBLE, LEGACY, MODERN, POLICIES, AlgorithmPolicy, PolicyName
from tests.support.process import ChildProcess
from tests.support.ssh import DEADLINE, ServerTestCase
from tests.support.sshd import OpenSSHServer, make_key

HARDENED = (
    "Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com",
    "MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com",
    "KexAlgorithms curve25519-sha256",
    "HostKeyAlgorithms ssh-ed25519",
)


class MatrixTests(ServerTestCase):
    """One command on each; none needs an option of ours but where the test is named for it."""

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
        self.assertGreater(len(names), 6)
        await self.each("KexAlgorithms", names)  # those that only `compatible` has, by its last resort

    async def test_each_host_key(self) -> None:
        for kind, name in (("ed25519", b"ssh-ed25519"), ("ecdsa", b"ecdsa-sha2-nistp256"), ("rsa", b"rsa-sha2-512")):
            await self.check(await self.start_server(host_key_types=(kind,)), name)

    async def test_legacy(self) -> None:
        for setting, names in (
            ("KexAlgorithms", (b"diffie-hellman-group14-sha1", b"diffie-hellman-group-exchange-sha1")),
            ("Ciphers", (b"aes128-cbc", b"aes256-cbc")),
            ("HostKeyAlgorithms", (b"ssh-rsa",)),
        ):
            for name in names:
                self.assertTrue(any(name in part for part in (LEGACY.key_exchanges, LEGACY.ciphers, LEGACY.host_keys)))
                server = await self.start_server(f"{setting} {name.decode()}", host_key_types=("rsa",))
                await self.check(server, name, algorithms="legacy")
                failure = await self.failure_of(self.run_command(self.make_client(), self.target(server), "true"))
                failure.trap(NoCommonAlgorithm)
                self.assertIn(name.decode(), str(failure.value))
        server = await self.start_server("MACs hmac-sha1,hmac-sha1-etm@openssh.com", "Ciphers aes128-ctr")
        await self.check(server, b"hmac-sha1-etm@openssh.com", algorithms="legacy")

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
