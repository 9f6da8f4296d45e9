"""
A main server that orders commands on hosts that the site forbids, in every way there is to say so.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from relayd.policy.rules import Policy
from relayd.ssh.client import SSHClient
from relayd.ssh.errors import AddressForbidden, ConnectRefused, HiddenAddressForbidden
from relayd.ssh.settings import SSHSettings
from tests.support.names import ScriptedNames
from tests.support.ssh import ServerTestCase
from tests.support.sshd import OpenSSHServer
from tests.system.test_end_to_end import EndToEndCase

#: Where nobody may go, though an SSH server is there.
SECRET = "127.0.0.2"
SPELLINGS = (
    SECRET, "127.2", "127.0.2", "2130706434", "0x7f000002", "0X7F.2", "017700000002", "0177.0.0.02", "127.0.0.2.",
    "::ffff:127.0.0.2", "[::ffff:127.0.0.2]", "::FFFF:7f00:2", "0:0:0:0:0:ffff:7f00:0002", "127。0。0。2", "１27.0.0.2",
)  # fmt: skip
#: What no relay may ever connect to: nothing of it exists on this machine, and nothing is sent.
SPECIAL = (
    "169.254.169.254", "169.254.43518", "2852039166", "0xa9fea9fe", "025177524776", "0xa9.0xfe.0251.0376",
    "169.254.169.254.", "::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1",
    "fe80::1", "fe80::1%lo", "FE80:0::1", "fd00:ec2::254", "0.0.0.0", "0", "::", "224.0.0.1", "ff02::1", "4294967295",
)  # fmt: skip


class SecretServer(OpenSSHServer):
    """On an address that the site forbids."""

    host = SECRET


class ForbiddenHosts(EndToEndCase):
    """``twistd relayd`` and real SSH servers."""

    timeout = 120

    async def begin(self, script: str, *options: str) -> None:
        await super().begin(script, *options)
        self.secret = SecretServer()
        await self.secret.start()
        self.addCleanup(self.secret.stop)

    async def answer(self, number: int, command: str = "echo ok", **changes: Any) -> tuple[str, str]:
        """Order a command; its output, and the code of its error."""
        name = f"c{number}"
        self.order(name, command, extended=True, **changes)
        result = await self.socketio_result(name)
        return result["stdout"], result["more"].get("error", {}).get("code", "")

    async def answers(self, orders: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return list(
            await gatherResults([Deferred.fromCoroutine(self.answer(at, **order)) for at, order in enumerate(orders)])
        )

    def to_secret(self, host: str) -> dict[str, Any]:
        return {"host": host, "port": self.secret.port, "privateKey": self.secret.key}

    async def test_an_address_that_the_site_denies(self) -> None:
        await self.begin("socketio_server.js", "--deny-hosts", SECRET)
        found = await self.answers([self.to_secret(host) for host in SPELLINGS])
        self.assertEqual(found, [("", "forbidden-host")] * len(SPELLINGS))
        self.assertEqual(self.connections(), 0)
        self.assertEqual(await self.answer(99), ("ok", ""))
        self.assertNotIn("Traceback", self.relay.log)

    async def test_without_the_rule_the_spellings_lead_there(self) -> None:
        """Or the test above would prove nothing."""
        await self.begin("socketio_server.js")
        found = await self.answers([self.to_secret(host) for host in SPELLINGS])
        self.assertEqual(found, [("ok", "")] * len(SPELLINGS))

    async def test_special_addresses_without_any_rule(self) -> None:
        await self.begin("socketio_server.js")
        found = await self.answers([{"host": host} for host in SPECIAL])
        self.assertEqual(found, [("", "forbidden-host")] * len(SPECIAL))

    async def test_what_a_name_leads_to(self) -> None:
        await self.begin("socketio_server.js", "--deny-hosts", "127.0.0.0/8,::1")
        self.order("c1", "echo ok", host="localhost", extended=True)
        result = await self.socketio_result("c1")
        error = {"code": "forbidden-host", "phase": "resolve", "executed": "no", "retriable": False}
        self.assertEqual(result["more"]["error"], error)
        self.assertIn("--deny-hosts", result["stderr"])
        self.assertEqual(self.sshd.connection_count(), 0)

    async def test_by_way_of_a_jump_host(self) -> None:
        """It is one more spelling."""
        await self.begin("socketio_server.js", "--deny-hosts", SECRET)
        hop = {"host": self.sshd.host, "port": self.sshd.port, "username": self.sshd.user, "privateKey": self.sshd.key}
        hosts = (*SPELLINGS, "localhost", "any.name")
        found = await self.answers([{**self.to_secret(host), "via": [hop]} for host in hosts])
        self.assertEqual(found, [("", "forbidden-host")] * len(hosts))
        through = {**hop, **self.to_secret(SECRET)}
        self.assertEqual(await self.answer(98, via=[through]), ("", "forbidden-host"))
        self.assertEqual((self.connections(), self.sshd.connection_count()), (0, 0))
        self.assertEqual(await self.answer(99, via=[hop]), ("ok", ""))

    async def test_users_and_commands(self) -> None:
        await self.begin("socketio_server.js", "--allow-users", "relayd-*", "--allow-commands", "echo [a-z]+")
        self.assertEqual(await self.answer(1), ("ok", ""))
        self.assertEqual(await self.answer(2, username="root"), ("", "forbidden-user"))
        self.assertEqual(await self.answer(3, command="echo ok; id"), ("", "forbidden-command"))
        self.assertEqual(await self.answer(4, cwd="/tmp"), ("", "forbidden-command"))
        self.assertEqual(await self.answer(5, command="a" * 100_000), ("", "forbidden-command"))
        self.assertIn("Refused command c3", self.relay.log)
        self.assertNotIn("echo ok; id", self.relay.log)

    def connections(self) -> int:
        """All that the forbidden server ever had."""
        return sum("Connection from" in line for line in self.secret.log_lines) + self.secret.connection_count()


class ChangingNames(ServerTestCase):
    """A name server that says something else the next time; the real client on real sockets."""

    async def test_the_forbidden_server_is_never_connected_to(self) -> None:
        allowed, secret = await self.start_server(), SecretServer()
        secret.port = allowed.port
        await secret.start()
        self.addCleanup(secret.stop)
        names = ScriptedNames([allowed.host], [SECRET], [SECRET, allowed.host], ["127.0.0.3", SECRET])
        self.addCleanup(self.reactor.installNameResolver, self.reactor.installNameResolver(names))
        policy = Policy(deny_hosts=[SECRET])
        settings = SSHSettings(known_hosts=str(self.known_hosts), host_keys="ignore")

        async def attempt() -> str:
            client = SSHClient(self.reactor, settings, policy.allows_address)
            self.addCleanup(client.close)
            target = self.target(allowed, host="db.internal")
            return (await self.run_command(client, target, "echo ok")).stdout.text()

        self.assertEqual(await attempt(), "ok")
        await self.error_of(Deferred.fromCoroutine(attempt()), AddressForbidden)
        self.assertEqual(await attempt(), "ok")
        await self.error_of(Deferred.fromCoroutine(attempt()), ConnectRefused)
        self.assertEqual(len(names.asked), 4)
        self.assertEqual(secret.connection_count(), 0)
        self.assertNotIn("Connection from", "\n".join(secret.log_lines))

    async def test_a_name_behind_a_jump_host(self) -> None:
        jump = await self.start_server()
        policy = Policy(deny_hosts=[SECRET])
        client = SSHClient(self.reactor, SSHSettings(known_hosts=str(self.known_hosts)), policy.allows_address)
        self.addCleanup(client.close)
        target = self.target(jump, host="localhost", via=self.target(jump))
        await self.error_of(self.run_command(client, target, "true"), HiddenAddressForbidden)
        self.assertEqual(jump.connection_count(), 0)
