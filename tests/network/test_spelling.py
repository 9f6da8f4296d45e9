"""
relayd.network.spelling: one spelling stands for a host, and all that is held against a host is held against every
other one.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.active import ActiveCommand
from relayd.commands.admission import Admission
from relayd.errors import CredentialMissing, ForbiddenHost, HostFailure
from relayd.network.credential_rules import CredentialRule
from relayd.network.spelling import (
    CanonicalHost,
    Destination,
    canonical_host,
    fault_of_username,
    is_host,
    read_address,
    read_destination,
    read_host,
)
from relayd.policy.rules import Policy
from relayd.ssh.errors import HostKeyChanged, HostResting, LoginRefused, LoginResting
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.pool.members import where_is
from relayd.ssh.pool.refused_logins import HOST_REFUSALS, RefusedLogins
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Target
from relayd.ssh_logins import target_of
from relayd.ssh_runner import SSHCommandRunner
from relayd.wire.messages import CommandResult, ExecuteCommand
from relayd.wire.parsing import parse_execute_command
from tests.support.dispatching import at_once
from tests.support.spellings import ipv4_spellings
from tests.support.ssh import DEADLINE, ServerTestCase
from tests.support.sshd import OpenSSHServer
from tests.test_ssh_runner import RunnerTestCase

#: Ways to write one host, all of which are dialled alike.
ADDRESS = (
    "10.1.2.3", "10.1.515", "0x0a010203", "012.1.2.3", "167838211", "10.1.2.3.", "::ffff:10.1.2.3", "[::ffff:a01:203]",
    "0:0:0:0:0:FFFF:10.1.2.3", "::ffff:10.1.2.3%7", "１0.1。2．3", "⑩.1.2.3",
)  # fmt: skip
ADDRESS_6 = ("::1", "0:0:0:0:0:0:0:1", "[::1]", "0::0001", "::1%3", "::0.0.0.1")
NAME = ("db1.internal", "DB1.Internal", "ｄｂ１．internal", "db1。internal", "ⓓb1.internal")
#: And others, which may lead to another machine.
ABSOLUTE = ("db1.internal.", "DB1.internal.", "db1.internal。")


def order(host: str, **changes: Any) -> ExecuteCommand:
    """A command for a host, as it comes from a main server."""
    wire = {
        "commandId": "c1", "serverId": 1, "host": host, "port": 22, "username": "root", "password": "x", "command": "id"
    }  # fmt: skip
    return parse_execute_command(wire | changes)


class HostTests(SynchronousTestCase):
    """`read_host`."""

    def test_one_for_all(self) -> None:
        for spellings in (ADDRESS, ADDRESS_6, NAME):
            for text in (each.strip("[]") for each in spellings):
                self.assertEqual(read_host(text), CanonicalHost(spellings[0], spellings[0]), text)
                self.assertTrue(is_host(text), text)

    def test_a_dot_at_the_end(self) -> None:
        """It is the same host, but no search domain is to be tried: another machine might be found there."""
        for text in ABSOLUTE:
            self.assertEqual(read_host(text), CanonicalHost("db1.internal", "db1.internal."), text)

    def test_zones(self) -> None:
        for text, dialled in (
            ("fe80::1%eth0", "fe80::1%eth0"), ("FE80:0::1%ETH0", "fe80::1%ETH0"), ("fe80::1%0002", "fe80::1%2"),
            ("fe80::1%000", "fe80::1%0"), ("fe80::1%eth0.100", "fe80::1%eth0.100"), ("fe80::1", "fe80::1"),
        ):  # fmt: skip
            self.assertEqual(read_host(text), CanonicalHost("fe80::1", dialled), text)
        # Linux passes over what stands there: there would be four thousand million ways to name this one.
        self.assertEqual(read_host("fd00::1%7"), CanonicalHost("fd00::1", "fd00::1"))

    def test_other_scripts(self) -> None:
        """As UTS #46 has it, and today's browsers: ß is a letter of its own, and not another spelling of ss."""
        for text, name in (("bücher.de", "xn--bcher-kva.de"), ("BÜCHER.de", "xn--bcher-kva.de"),
                           ("straße.de", "xn--strae-oqa.de"), ("XN--Bcher-KVA.de", "xn--bcher-kva.de"),
                           ("DB_1.Bücher.de", "db_1.xn--bcher-kva.de"), ("r4--x.bü", "r4--x.xn--b-eha"),
                           ("db_1.straße.de", "db_1.xn--strae-oqa.de"),
                           ("bücher_1", "xn--bcher_1-n2a"), ("💩.la", "xn--ls8h.la")):  # fmt: skip
            self.assertEqual(canonical_host(text), name)

    def test_what_is_none(self) -> None:
        for text in ("", ".", "..", "a..b", ".a", "10.1.0.1-10.1.0.9", "10.1.2.300", "1.2.3.4.5", "fd00::g", "a:b",
                     "a%eth0", "10.1.2.3%eth0", "fe80::1%", "ff::１", "ä" * 300, "ü_／.de", "＊ü_",
                     "ü_？", "ü＠_", "ü _"):  # fmt: skip
            self.assertFalse(is_host(text), text)

    @given(st.integers(0, 2**32 - 1).map(IPv4Address).flatmap(ipv4_spellings))
    def test_addresses(self, text: str) -> None:
        host = read_host(text)
        self.assertEqual((host.name, host.dialled), (str(read_address(text)),) * 2)
        self.assertEqual(read_host(host.name), host)

    @given(st.text(max_size=20) | st.text(alphabet="aZß1０.:%-ｆ。", max_size=12))
    def test_anything(self, text: str) -> None:
        host = read_host(text)
        if is_host(text):
            self.assertEqual(canonical_host(host.name), host.name)
            self.assertEqual(read_host(host.dialled), host)
            self.assertEqual(read_address(host.dialled), read_address(text))


class UserTests(SynchronousTestCase):
    """`fault_of_username`."""

    def test_names(self) -> None:
        for name in (
            "root",
            "CORP\\me",
            "me@corp.example",
            "John Doe",
            "é",
            "a.b-c_d$",
            "app+x",
            "x%y",
            "#1",
            "x" * 256,
        ):
            self.assertIsNone(fault_of_username(name), name)
        for name in ("root:", ":", "root:x", "root/x", "/", " root", "root\t", "root\N{NO-BREAK SPACE}", "x" * 257):
            self.assertIsNotNone(fault_of_username(name), name)


class OrderTests(SynchronousTestCase):
    """The door: what an order says, and what is kept of it."""

    def test_host(self) -> None:
        command = order("0x0a010203", via=[{"host": "Gate.", "username": "me"}])
        self.assertEqual((command.host, command.written_host), ("10.1.2.3", "0x0a010203"))
        self.assertEqual((command.via[0].host, command.via[0].written_host), ("gate", "Gate."))
        self.assertIn("root@0x0a010203:22", repr(command))
        self.assertEqual(order("web1").written, None)

    def test_sent_on_as_it_was_written(self) -> None:
        """A dot at the end must not be lost between two main servers."""
        for host in (*ADDRESS, *ADDRESS_6, *NAME, *ABSOLUTE, "fe80::1%eth0"):
            command = order(host, via=[{"host": host, "username": "me"}])
            self.assertEqual(command.to_wire()["host"], host.strip("[]"))
            self.assertEqual(parse_execute_command(command.to_wire()), command)

    def test_messages_have_what_was_written(self) -> None:
        error = Policy(deny_hosts=["10.1.0.0/16"]).refusal_of(order("0x0a010203"))
        self.assertIsInstance(error, ForbiddenHost)
        self.assertIn("0x0a010203:22", str(error))
        runner = SSHCommandRunner(Clock(), SSHSettings(known_hosts="/none"))
        error = runner.refuses(order("0x0a010203", password=""))
        self.assertIsInstance(error, CredentialMissing)
        self.assertIn("root@0x0a010203", str(error))


class ConsumerTests(SynchronousTestCase):
    """What is held against a host, in whatever spelling an order comes."""

    def targets(self, *hosts: str, password: str = "x", **changes: Any) -> list[Target]:
        table = CredentialTable(())
        return [target_of(order(host, password=password, **changes), table) for host in hosts]

    def test_pool(self) -> None:
        """One target, whose connections are shared; where the name may lead elsewhere, one host of two targets."""
        for spellings in (ADDRESS, ADDRESS_6, NAME, ABSOLUTE):
            self.assertEqual(len(set(self.targets(*spellings))), 1, spellings)
            behind = [{"host": "Gate", "username": "me", "password": "y"}]
            self.assertEqual(len(set(self.targets(*spellings, via=behind))), 1, spellings)
        for pair in ((NAME[0], ABSOLUTE[0]), ("fe80::1%eth0", "fe80::1%eth1"), ("fe80::1%eth0", "fe80::1%ETH0")):
            one, other = self.targets(*pair)
            self.assertNotEqual(one, other)
            self.assertEqual(where_is(one), where_is(other))

    def test_guard_against_locking_out(self) -> None:
        """As many logins may fail as with one spelling: the server counts them together."""
        for spellings in (ADDRESS, ADDRESS_6, (*NAME, *ABSOLUTE), ("fe80::1%eth0", "fe80::1%2", "fe80::1")):
            refusals, error = RefusedLogins(), LoginRefused(host="h", port=22, username="u", tried="x", offered="y")
            for number in range(HOST_REFUSALS):
                (target,) = self.targets(spellings[number % len(spellings)], password=f"wrong {number}")
                self.assertIsNone(refusals.check(target, number))
                refusals.refused(target, error, number)
            for target in self.targets(*spellings, password="another"):
                self.assertIsInstance(refusals.check(target, HOST_REFUSALS), HostResting, target)

    def test_a_refused_login_rests(self) -> None:
        for spellings in (ADDRESS, (*NAME, *ABSOLUTE), ("fe80::1%eth0", "fe80::1%2", "fe80::1")):
            for first in (0, -1):
                refusals = RefusedLogins()
                error = LoginRefused(host="h", port=22, username="u", tried="x", offered="y")
                refusals.refused(self.targets(*spellings)[first], error, 0)
                for target in self.targets(*spellings):
                    self.assertIsInstance(refusals.check(target, 1), LoginResting, target)
                refusals.accepted(self.targets(*spellings)[-1 - first])
                self.assertIsNone(refusals.check(self.targets(*spellings)[first], 1))

    def test_admission(self) -> None:
        """One host gets its share of the slots, and not one for each of its names."""
        for spellings in (ADDRESS, ADDRESS_6, (*NAME, *ABSOLUTE)):
            admission: Admission[ActiveCommand] = Admission(max_running=9, max_queue=9)
            for number in range(30):
                command = order(spellings[number % len(spellings)])
                active = ActiveCommand(command, b"", 0, 60, lambda error: None)
                admission.offer(active.key, active, 60)
            self.assertEqual((admission.running, admission.queued), (6, 6))

    def test_policy(self) -> None:
        for spellings in (ADDRESS, (*NAME, *ABSOLUTE)):
            allowed, denied = Policy(allow_hosts=[spellings[0]]), Policy(deny_hosts=[spellings[0]])
            for host in spellings:
                self.assertIsNone(allowed.refusal_of(order(host)), host)
                self.assertIsInstance(denied.refusal_of(order(host)), ForbiddenHost, host)

    def test_credentials_and_ways_of_the_site(self) -> None:
        for spellings in (ADDRESS, (*NAME, *ABSOLUTE)):
            rule = CredentialRule(hosts=(spellings[0],), agent="/x")
            table = CredentialTable([rule, CredentialRule(hosts=("*",), via=spellings[0])])
            for host in spellings:
                command = order(host)
                self.assertIs(table.find(command.host, 22, "root"), rule, host)
                # It is its own jump host, which is reached directly: by its other names too, and without a circle.
                self.assertIsNone(table.way(command.host, 22, "root"), host)
                self.assertIsNone(table.way(host.strip("[]"), 22, "root"), host)

    def test_a_credential_of_the_site_is_dialled_as_it_was_written(self) -> None:
        table = CredentialTable([CredentialRule(hosts=("db1.internal", "fe80::1"), agent="/x")])
        for host, dialled in (("DB1.internal.", "db1.internal."), ("db1.INTERNAL", "db1.internal"),
                              ("fe80:0::1%eth0", "fe80::1%eth0")):  # fmt: skip
            self.assertEqual(target_of(order(host, password=""), table).dialled, dialled)

    def test_jump_hosts_of_the_table(self) -> None:
        made = [
            CredentialRule(hosts=("*",), agent="/x"),
            CredentialRule(hosts=("inner",), via="0x0a010203,Gate.,[fe80::1%eth0]"),
        ]
        way, hops = CredentialTable(made).way("inner", 22, "me"), []
        while way is not None:
            hops.append((way.host, way.dialled))
            way = way.via
        self.assertEqual(hops, [("fe80::1", "fe80::1%eth0"), ("gate", "gate."), ("10.1.2.3", "10.1.2.3")])


class RealServerTests(RunnerTestCase):
    """A real sshd on 127.0.0.1, which has no idea by what name it was found."""

    SPELLINGS = ("127.0.0.1", "127.1", "0x7f000001", "::ffff:127.0.0.1", "[::ffff:7f00:1]", "127.0.0.1.")

    def run_order(self, runner: SSHCommandRunner, server: OpenSSHServer, host: str) -> Deferred[CommandResult]:
        command = order(host, port=server.port, username=server.user, password="", privateKey=server.key)
        return runner.run_command(command, self.reactor.seconds() + DEADLINE, at_once)

    async def test_connections_are_shared(self) -> None:
        server, runner = await self.start_server(), self.make_runner()
        for host in self.SPELLINGS:
            result = await self.run_order(runner, server, host)
            self.assertEqual(result.exit_code, 0)
        self.assertEqual((server.connection_count(), runner.client.counts().connections), (1, 1))
        self.assertEqual(self.known_hosts.read_text().count("\n"), 1)

    async def test_a_changed_key_is_noticed(self) -> None:
        server = await self.start_server()
        await self.run_order(self.make_runner(), server, "127.0.0.1")
        server.make_host_keys()
        await server.restart()
        for host in self.SPELLINGS:
            error = await self.error_of(self.run_order(self.make_runner(), server, host), HostFailure)
            self.assertEqual(error.code, HostKeyChanged.code, host)


class OpenSSHTests(ServerTestCase):
    """What a server makes of user names, as docs/ssh.rst says."""

    async def test_a_colon_ends_the_name(self) -> None:
        server = await self.start_server()
        done = await self.run_command(self.make_client(), self.target(server, username=f"{server.user}:x"), "id -un")
        self.assertEqual(done.stdout.text(), server.user)


class DestinationTests(SynchronousTestCase):
    """`read_destination`."""

    def test_read(self) -> None:
        for text, host, port, username in (
            ("db1", "db1", 22, None),
            ("deploy@db1:2222", "db1", 2222, "deploy"),
            ("CORP\\jump@ex.org@10.1.2.3", "10.1.2.3", 22, "CORP\\jump@ex.org"),
            ("[fd00::1]:22", "fd00::1", 22, None),
            ("a@[fe80::1%eth0]", "fe80::1%eth0", 22, "a"),
        ):
            self.assertEqual(read_destination(text), Destination(host, port, username))

    def test_anything_else(self) -> None:
        for text in (
            "", "@db1", "a:b@db1", "db1:", "db1:0", "db1:65536", "db1:x", "fd00::1", "[db1", "a b", "a/b", "db*",
            "10.1.2.300", "[]", "x" * 256,
        ):  # fmt: skip
            with self.assertRaises(ValueError, msg=text):
                read_destination(text)
