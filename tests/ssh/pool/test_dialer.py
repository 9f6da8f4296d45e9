"""
The dialler connects to addresses that are allowed and to no others, whatever names lead to.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute, fail
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relayd.network.credential_rules import CredentialRule
from relayd.policy.rules import Policy
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.errors import (
    AddressForbidden,
    ConnectRefused,
    ConnectTimeout,
    ForwardFailed,
    HiddenAddressForbidden,
    NameNotFound,
    NameTimeout,
    NoDescriptor,
)
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.host_keys.threaded_check import FileChecks
from relayd.ssh.keys.private import KeyStore
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.pool.dialer import Dialer
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Credential, Target
from tests.support.names import NamedReactor, ScriptedNames
from tests.support.spellings import METADATA, SPECIAL_V4, SPECIAL_V6, ipv4_spellings

CREDENTIAL = Credential(password="x")


class Owner:
    """Has no connections to jump hosts; remembers what it was asked for."""

    def __init__(self) -> None:
        self.forwards: list[tuple[Target, str, int]] = []

    def forward(self, via: Target, host: str, port: int) -> Deferred[Any]:
        self.forwards.append((via, host, port))
        return fail(ForwardFailed(via="jump", host=host, port=port, reason="not now"))


class DialCase(SynchronousTestCase):
    """Has a dialler on a reactor in memory, and a name server that the test speaks for."""

    def begin(self, *answers: Sequence[str], policy: Policy | None = None) -> None:
        self.names = ScriptedNames(*answers)
        self.reactor = NamedReactor(self.names)
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        self.known_hosts = f"{directory}/known_hosts"
        settings = SSHSettings(known_hosts=self.known_hosts, connect_timeout=5)
        checks = FileChecks(self.reactor, KnownHosts(settings.known_hosts, settings.host_keys), execute)
        keys = KeyStore(self.reactor, self.fail, self.fail)  # none is needed
        self.dialer = Dialer(self.reactor, self.reactor, settings, checks, keys, (policy or Policy()).allows_address)
        self.owner: Any = Owner()

    def dial(self, host: str, port: int = 22, **fields: Any) -> Deferred[ClientConnection]:
        target = Target(host, port, "root", CREDENTIAL, **fields)
        return Deferred.fromCoroutine(self.dialer.dial(target, self.owner))

    def dialled(self, dialling: Deferred[ClientConnection]) -> list[str]:
        """All addresses that are tried, one after the other, when none of them answers."""
        failures: list[Failure] = []
        dialling.addErrback(failures.append)
        for _ in range(10):
            for _, _, factory, _, _ in self.reactor.tcpClients[:]:
                factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
            self.reactor.advance(1)
        self.assertEqual(len(failures), 1)
        return [host for host, _ in self.reactor.dialled()]

    def assert_forbidden(
        self, dialling: Deferred[ClientConnection], kind: type[AddressForbidden] = AddressForbidden
    ) -> None:
        """Refused, and nothing was connected to."""
        error = self.failureResultOf(dialling).value
        self.assertIs(type(error), kind)
        self.assertEqual((error.code, error.phase, error.executed, error.retriable),
                         ("forbidden-host", "resolve", "no", False))  # fmt: skip
        self.assertIn("is forbidden", str(error))
        self.assertEqual((self.reactor.dialled(), self.owner.forwards), ([], []))


class NameTests(DialCase):
    """What names lead to."""

    def test_a_name_that_leads_to_what_is_forbidden(self) -> None:
        for address in (METADATA, "fe80::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "0.0.0.0", "224.0.0.1"):
            self.begin([address])
            self.assert_forbidden(self.dial("db.internal"))

    def test_forbidden_ones_are_left_out_and_the_others_tried(self) -> None:
        self.begin(
            ["10.1.9.1", "10.1.2.3", METADATA, "fd00::1", "10.2.0.1"],
            policy=Policy(allow_hosts=["10.1.0.0/16", "fd00::/8"], deny_hosts=["10.1.9.*"]),
        )
        self.assertEqual(self.dialled(self.dial("db.internal")), ["10.1.2.3", "fd00::1"])

    def test_a_name_server_that_changes_its_answer(self) -> None:
        """The address that was checked is the one that is dialled; what it would say next, nobody asks."""
        self.begin(["10.1.2.3"], [METADATA])
        dialling = self.dial("db.internal")
        self.assertEqual(self.reactor.dialled(), [("10.1.2.3", 22)])
        self.assertEqual(self.names.asked, ["db.internal"])
        self.assertEqual(self.dialled(dialling), ["10.1.2.3"])
        self.reactor.tcpClients.clear()
        self.assert_forbidden(self.dial("db.internal"))
        self.assertEqual(self.names.asked, ["db.internal"] * 2)

    def test_an_ipv4_address_within_ipv6_is_dialled_as_what_it_is(self) -> None:
        self.begin(["::ffff:10.1.2.3"])
        self.assertEqual(self.dialled(self.dial("db.internal")), ["10.1.2.3"])

    def test_names_that_idna_does_not_have(self) -> None:
        """The rules are asked about the name itself, and the system looks it up."""
        for name in ("my_host", "r4--a.example", "end-.example", "_ssh.example.", "xn--.example"):
            self.begin(["10.1.2.3", "10.2.2.3"], policy=Policy(allow_hosts=["10.1.0.0/16"]))
            self.assertEqual(self.dialled(self.dial(name)), ["10.1.2.3"])
            self.assertEqual(self.names.asked, [name])
        self.begin(["10.1.2.3"], policy=Policy(allow_hosts=["my_host"]))
        self.assertEqual(self.dialled(self.dial("my_host")), ["10.1.2.3"])

    def test_a_name_that_nobody_can_look_up(self) -> None:
        """Python would raise an error in a thread, of which nobody hears."""
        self.begin(["10.1.2.3"])
        self.failureResultOf(self.dial("x" * 64 + ".example"), NameNotFound)
        self.assertEqual(self.names.asked, [])

    def test_a_name_that_leads_nowhere_is_another_error(self) -> None:
        self.begin([])
        self.failureResultOf(self.dial("db.internal"), NameNotFound)

    def test_happy_eyeballs_stay(self) -> None:
        """The next address is tried while the first one is silent."""
        self.begin(["fd00::1", "10.1.2.3"])
        self.dial("db.internal").addErrback(lambda failure: failure.trap(ConnectRefused))
        self.assertEqual(len(self.reactor.tcpClients), 1)
        self.reactor.advance(1)
        self.assertEqual(self.reactor.dialled(), [("fd00::1", 22), ("10.1.2.3", 22)])

    def test_many_that_do_not_answer(self) -> None:
        """One time for all of them, however many they are; then it is told what happened."""
        for count in (1, 4, 6, 60):
            self.begin([f"10.1.2.{number}" for number in range(1, count + 1)])
            dialling = self.dial("db.internal")
            for _ in range(49):
                self.reactor.advance(0.1)
            self.assertNoResult(dialling)
            self.reactor.advance(0.2)
            error = self.failureResultOf(dialling, ConnectTimeout).value
            self.assertIn("db.internal:22 did not answer within 5 s", str(error))

    def test_a_name_server_that_says_nothing(self) -> None:
        """That is not the host's fault, and not the name's."""
        self.begin([])
        self.patch(self.names, "resolveHostName", lambda receiver, name, *_, **__: receiver.resolutionBegan(None))
        dialling = self.dial("db.internal")
        self.reactor.advance(4.9)
        self.assertNoResult(dialling)
        self.reactor.advance(0.2)
        error = self.failureResultOf(dialling, NameTimeout).value
        self.assertEqual((error.phase, error.executed, error.retriable), ("resolve", "no", True))
        self.assertIn("The name db.internal was not resolved within 5 s", str(error))

    def test_what_is_looked_up_is_what_was_written(self) -> None:
        """With a dot at the end no search domain is tried; the rules are those of the name without it."""
        for looked_up in (None, "db.internal."):
            self.begin(["10.1.2.3"])
            self.assertEqual(self.dialled(self.dial("db.internal", looked_up=looked_up)), ["10.1.2.3"])
            self.assertEqual(self.names.asked, [looked_up or "db.internal"])
            self.begin(["10.1.2.3"], policy=Policy(deny_hosts=["db.internal"]))
            self.assert_forbidden(self.dial("db.internal", looked_up=looked_up))

    def test_by_port(self) -> None:
        for port, found in ((22, ["10.1.2.3"]), (2222, [])):
            self.begin(["10.1.2.3"], policy=Policy(deny_hosts=["[10.1.2.3]:2222"]))
            self.assertEqual(self.dialled(self.dial("db.internal", port)), found)

    def test_without_a_check(self) -> None:
        self.begin([METADATA])
        settings = SSHSettings(known_hosts="/dev/null", host_keys="ignore")
        checks = FileChecks(self.reactor, KnownHosts(settings.known_hosts, settings.host_keys), execute)
        keys = KeyStore(self.reactor, self.fail, self.fail)
        dialer = Dialer(self.reactor, self.reactor, settings, checks, keys)
        target = Target("db.internal", 22, "root", CREDENTIAL)
        dialling = Deferred.fromCoroutine(dialer.dial(target, self.owner))
        self.assertEqual(self.dialled(dialling), [METADATA])


class LiteralTests(DialCase):
    """Addresses need no name server, however they are spelt."""

    def test_every_spelling_is_dialled_as_one_address(self) -> None:
        for host in ("10.1.2.3", "10.1.515", "167838211", "0x0a010203", "012.1.2.3", "::ffff:10.1.2.3", "10.1.2.3."):
            self.begin([METADATA])
            self.assertEqual(self.dialled(self.dial(host)), ["10.1.2.3"], host)
            self.assertEqual(self.names.asked, [])

    def test_zone(self) -> None:
        self.begin(policy=Policy(allow_hosts=["fe80::/10"]))
        self.assertEqual(self.dialled(self.dial("fe80::1", looked_up="fe80::1%lo")), ["fe80::1%lo"])
        for rule in ("fe80::1", "fe80:*:1", "fe80::/64"):
            self.begin(policy=Policy(allow_hosts=["fe80::/10"], deny_hosts=[rule]))
            self.assert_forbidden(self.dial("fe80::1", looked_up="fe80::1%lo"))

    @given(SPECIAL_V4.flatmap(ipv4_spellings))
    def test_special_addresses_in_every_spelling(self, host: str) -> None:
        self.begin([])
        self.assert_forbidden(self.dial(host))

    @given(SPECIAL_V6, st.sampled_from(["", "%lo", "%1"]))
    def test_special_addresses_of_version_6(self, address: IPv6Address, zone: str) -> None:
        self.begin()
        self.assert_forbidden(self.dial(f"{address}{zone}"))


class JumpTests(DialCase):
    """Hosts behind jump hosts, and these."""

    def jump(self, **fields: Any) -> Target:
        return Target("jump", 22, "root", CREDENTIAL, **fields)

    def test_a_name_that_only_the_jump_host_can_look_up(self) -> None:
        for rules in ({"allow_hosts": ["10.1.0.0/16"]}, {"deny_hosts": ["10.2.0.0/16"]}):
            self.begin(["10.1.2.3"], policy=Policy(**rules))
            self.assert_forbidden(self.dial("db.internal", via=self.jump()), HiddenAddressForbidden)
            self.assertEqual(self.names.asked, [])

    def test_a_name_that_is_listed(self) -> None:
        self.begin(policy=Policy(allow_hosts=["db.*"], deny_hosts=["10.2.0.0/16"]))
        self.failureResultOf(self.dial("db.internal", via=self.jump()), ForwardFailed)
        self.assertEqual(self.owner.forwards, [(self.jump(), "db.internal", 22)])
        self.failureResultOf(self.dial("db.internal", looked_up="db.internal.", via=self.jump()), ForwardFailed)
        self.assertEqual(self.owner.forwards[1:], [(self.jump(), "db.internal.", 22)])

    def test_addresses(self) -> None:
        """The jump host gets the one that was checked, and no spelling that it may read otherwise."""
        self.begin(policy=Policy(allow_hosts=["10.1.0.0/16"]))
        self.failureResultOf(self.dial("012.1.515", via=self.jump()), ForwardFailed)
        self.assertEqual(self.owner.forwards, [(self.jump(), "10.1.2.3", 22)])
        self.begin()
        self.assert_forbidden(self.dial("0xa9fea9fe", via=self.jump()))

    def test_hops_of_the_site_are_not_asked_about(self) -> None:
        policy = Policy(allow_hosts=["10.1.0.0/16"], deny_hosts=["jump"])
        self.begin(["10.9.9.9"], policy=policy)
        self.assertEqual(self.dialled(self.dial("jump", trusted=True)), ["10.9.9.9"])
        self.begin(policy=policy)
        self.failureResultOf(self.dial("second", trusted=True, via=self.jump(trusted=True)), ForwardFailed)
        self.begin(["10.9.9.9"], policy=policy)
        self.assert_forbidden(self.dial("jump"))

    def test_whose_hop_it_is_is_part_of_the_target(self) -> None:
        """Nobody rides on a connection that was not checked."""
        self.assertNotEqual(self.jump(), self.jump(trusted=True))
        rules = [CredentialRule(hosts=("*",), agent="/agent"), CredentialRule(hosts=("db",), via="a,b")]
        target = CredentialTable(rules).target("db", 22, "root")
        assert target is not None and target.via is not None and target.via.via is not None
        self.assertEqual([target.trusted, target.via.trusted, target.via.via.trusted], [False, True, True])


class ShortageTests(DialCase):
    """No descriptor is left: the host and the network are not to blame."""

    def setUp(self) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)

    def starve(self) -> None:
        self.taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        self.addCleanup(lambda: [os.close(each) for each in self.taken])
        try:
            while True:
                self.taken.append(os.dup(2))
        except OSError:
            pass

    def assert_named(self, dialling: Deferred[ClientConnection]) -> None:
        error = self.failureResultOf(dialling).value
        self.assertIs(type(error), NoDescriptor)
        self.assertIn("Too many open files: this relay's limit is 60", str(error))
        self.assertTrue(error.retriable)

    def test_connecting(self) -> None:
        self.begin(["10.1.2.3"])
        dialling = self.dial("10.1.2.3")
        failure = ConnectError(errno.EMFILE, "Too many open files")
        self.starve()
        self.reactor.tcpClients[0][2].clientConnectionFailed(None, Failure(failure))
        self.assert_named(dialling)

    def test_looking_up_a_name(self) -> None:
        self.begin([])
        self.starve()
        self.assert_named(self.dial("db.internal"))

    def test_known_hosts(self) -> None:
        self.begin(["10.1.2.3"])
        with open(self.known_hosts, "w"):
            pass
        self.starve()
        self.assert_named(self.dial("10.1.2.3"))

    def test_an_agent(self) -> None:
        self.begin(["10.1.2.3"])
        with socket.socket(socket.AF_UNIX) as agent:
            path = f"{self.known_hosts}.agent"
            agent.bind(path)
            self.starve()
            target = Target("10.1.2.3", 22, "root", Credential(agent=path))
            dialling = Deferred.fromCoroutine(self.dialer.dial(target, self.owner))
            self.reactor.unixClients[0][1].clientConnectionFailed(None, Failure(ConnectError(errno.EMFILE, "")))
            self.assert_named(dialling)
