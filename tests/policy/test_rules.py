"""
relayd.policy.rules: what a site allows, in every spelling; and what the dispatcher makes of it.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.dispatcher import Dispatcher, Limits
from relayd.errors import Forbidden
from relayd.journal.memory import MemoryJournal
from relayd.policy.rules import (
    MAX_TEXT,
    Policy,
    command_pattern,
    host_patterns,
    host_patterns_with_exceptions,
    user_patterns,
)
from relayd.wire.messages import Become, ExecuteCommand, Fetch, File, JumpHost, Pty, Script, Secret
from tests.support.dispatching import PASSWORD, HeldRunner, RecordingLink, command
from tests.support.spellings import METADATA, SPECIAL_V4, SPECIAL_V6, ipv4_spellings


class HostCase(SynchronousTestCase):
    """Asks about hosts."""

    def allowed(self, policy: Policy, *hosts: str, port: int = 22, behind: bool = False) -> list[str]:
        return [host for host in hosts if policy.judge_host(host, port, behind=behind).allowed]

    def resolved(self, policy: Policy, name: str, *addresses: str, port: int = 22) -> list[str]:
        return [each for each in addresses if policy.allows_address(name, port, ip_address(each))]


class SpecialTests(HostCase):
    """Addresses that are nobody's host."""

    @given(SPECIAL_V4.flatmap(ipv4_spellings))
    def test_version_4_in_every_spelling(self, host: str) -> None:
        for policy in (Policy(), Policy(allow_hosts=["0.0.0.0/0", "::/0", "*"]), Policy(allow_hosts=["0.0.0.0/0"])):
            self.assertFalse(policy.judge_host(host, 22).allowed, host)

    @given(SPECIAL_V6, st.booleans(), st.sampled_from(["", "%eth0", "%1"]))
    def test_version_6_in_every_spelling(self, address: IPv6Address, exploded: bool, zone: str) -> None:
        host = (address.exploded.upper() if exploded else str(address)) + zone
        self.assertFalse(Policy(allow_hosts=["::/0", "fe80::/9", "*"]).judge_host(host, 22).allowed, host)

    @given(st.integers(2, 2**32 - 1).map(IPv4Address).flatmap(ipv4_spellings))  # ::0.0.0.1 is IPv6's loopback
    def test_every_spelling_is_the_same_address(self, host: str) -> None:
        """Whatever an IPv4 address is written like, the rule for it holds."""
        self.assertFalse(Policy(deny_hosts=["0.0.0.0/0"]).judge_host(host, 22).allowed, host)

    def test_they_can_be_named(self) -> None:
        for named in ("169.254.0.0/16", "169.254.169.0/24", METADATA, f"[{METADATA}]:22", f"::ffff:{METADATA}"):
            self.assertEqual(self.allowed(Policy(allow_hosts=[named]), METADATA, "0xa9fea9fe", "224.0.0.1"),
                             [METADATA, "0xa9fea9fe"], named)  # fmt: skip
        self.assertEqual(self.allowed(Policy(allow_hosts=["fe80::/64"]), "fe80::1%eth0", "fe80:1::1"), ["fe80::1%eth0"])

    def test_naming_more_is_not_enough(self) -> None:
        for wide in ("0.0.0.0/0", "169.0.0.0/8", "*", "169.254.*", f"[{METADATA}]:23"):
            self.assertEqual(self.allowed(Policy(allow_hosts=[wide]), METADATA), [], wide)
        self.assertEqual(self.allowed(Policy(allow_hosts=[METADATA], deny_hosts=["169.254.0.0/16"]), METADATA), [])
        self.assertEqual(self.allowed(Policy(allow_hosts=["metadata.internal"]), METADATA), [])

    def test_a_name_that_leads_there(self) -> None:
        policy = Policy(allow_hosts=["*.internal", "10.0.0.0/8"])
        found = (
            "10.1.2.3",
            METADATA,
            "fe80::1%eth0",
            "::ffff:169.254.1.1",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:1::1",
            "::",
        )
        self.assertEqual(self.resolved(policy, "db.internal", *found), ["10.1.2.3"])

    def test_loopback_is_not_special(self) -> None:
        hosts = ("127.0.0.1", "::1", "localhost")
        self.assertEqual(self.allowed(Policy(), *hosts), [*hosts])


class HostTests(HostCase):
    """--allow-hosts and --deny-hosts."""

    def test_without_rules(self) -> None:
        hosts = ("db-1.internal", "10.1.2.3", "fd00::1")
        self.assertEqual(self.allowed(Policy(), *hosts), [*hosts])
        self.assertEqual(self.allowed(Policy(), *hosts, behind=True), [*hosts])

    def test_addresses(self) -> None:
        policy = Policy(allow_hosts=["10.1.0.0/16", "fd00::/16"], deny_hosts=["10.1.9.*", "[10.1.2.3]:23"])
        self.assertEqual(
            self.allowed(
                policy, "10.1.2.3", "10.66051", "::ffff:10.1.2.3", "fd00::1", "10.1.9.1", "10.2.0.1", "fe00::"
            ),
            ["10.1.2.3", "10.66051", "::ffff:10.1.2.3", "fd00::1"],
        )
        self.assertEqual(self.allowed(policy, "10.1.2.3", "10.1.2.4", port=23), ["10.1.2.4"])

    def test_a_name_waits_for_its_address_only_where_that_can_help(self) -> None:
        self.assertEqual(self.allowed(Policy(allow_hosts=["10.1.0.0/16"]), "db.internal"), ["db.internal"])
        self.assertEqual(self.allowed(Policy(allow_hosts=["*.example"]), "db.internal", "web.example"), ["web.example"])
        self.assertEqual(self.allowed(Policy(allow_hosts=["[10.1.0.0/16]:2222", "x"]), "db.internal"), [])

    def test_what_a_name_leads_to(self) -> None:
        policy = Policy(allow_hosts=["10.1.0.0/16", "db-*.internal"], deny_hosts=["10.1.9.*", "db-9.*", "10.3.0.0/16"])
        found = ("10.1.2.3", "10.1.9.1", "10.2.0.1", "10.3.0.1", "::ffff:10.1.2.3", "2002:a01:901::")
        self.assertEqual(self.resolved(policy, "web", *found), ["10.1.2.3", "::ffff:10.1.2.3"])
        self.assertEqual(self.resolved(policy, "db-1.internal", *found[:4]), ["10.1.2.3", "10.2.0.1"])
        self.assertEqual(self.resolved(policy, "DB-9.internal.", *found), [])

    def test_deny_by_name_holds_in_every_spelling(self) -> None:
        policy = Policy(deny_hosts=["db-9.internal"])
        self.assertEqual(self.allowed(policy, "db-9.internal", "DB-9.INTERNAL.", "ｄb-9。internal", "db-8.internal"),
                         ["db-8.internal"])  # fmt: skip

    def test_names_behind_a_jump_host(self) -> None:
        """Nobody here can look them up."""
        names = ("db-1.internal", "web.internal", "10.1.2.3", "10.2.0.1")
        networks = Policy(allow_hosts=["10.1.0.0/16", "db-*.internal"])
        self.assertEqual(self.allowed(networks, *names, behind=True), ["db-1.internal", "10.1.2.3"])
        denied = Policy(deny_hosts=["10.2.0.0/16"])
        self.assertEqual(self.allowed(denied, *names, behind=True), ["10.1.2.3"])
        both = Policy(allow_hosts=["db-*.internal", "10.1.*"], deny_hosts=["10.2.*"])
        self.assertEqual(self.allowed(both, *names, behind=True), ["db-1.internal", "10.1.2.3"])
        self.assertEqual(self.allowed(Policy(deny_hosts=["web.*"]), *names, behind=True), [names[0], *names[2:]])
        self.assertEqual(self.allowed(Policy(deny_hosts=["[10.2.*]:23"]), *names, behind=True), [*names])
        self.assertIn("use its address", networks.judge_host("web.internal", 22, behind=True).reason)


class UserTests(SynchronousTestCase):
    """--allow-users."""

    def test_users(self) -> None:
        policy = Policy(allow_users=["deploy", "app-*", "!app-9"])
        users = ("deploy", "app-1", "app-9", "root", "Deploy", "")
        self.assertEqual([user for user in users if policy.judge_user(user).allowed], ["deploy", "app-1"])
        self.assertTrue(Policy().judge_user("root").allowed)

    def test_what_servers_make_of_a_name(self) -> None:
        """``*,!root`` lets nobody in whom some server may take for root; other names of that kind it does."""
        policy = Policy(allow_users=["*", "!root"])
        for user in ("root", "Root", "ROOT", "ｒｏｏｔ", "röot", "CORP\\root", ".\\Root", "root@corp.example",
                     "root+c80w", "root%db1", "vault@root@db1", "me#root#db1", "x=root", "root\ufe0f", "ro\u034fot",
                     "\u3164root", "ro\u1806ot", "root\ufffc"):  # fmt: skip
            self.assertFalse(policy.judge_user(user).allowed, user)
        for user in ("deploy", "CORP\\deploy", "deploy@corp.example", "rooted", "root-2", "root.x", "root_x", "root$"):
            self.assertTrue(policy.judge_user(user).allowed, user)

    def test_a_wildcard_ends_where_a_server_may_end_the_name(self) -> None:
        policy = Policy(allow_users=["app-*", "CORP\\*", "*@corp.example"])
        for user in ("app-1", "CORP\\me", "me@corp.example", "app-o.x"):
            self.assertTrue(policy.judge_user(user).allowed, user)
        for user in ("app-1\\root", "app-1@root@db", "CORP\\me@root", "root@me@corp.example", "app-1+x", "corp\\me"):
            self.assertFalse(policy.judge_user(user).allowed, user)


class CommandTests(SynchronousTestCase):
    """--allow-commands and --deny-commands."""

    def allowed(self, policy: Policy, *texts: str) -> list[str]:
        return [text for text in texts if policy.judge_command(text).allowed]

    def test_allow_means_the_whole_text(self) -> None:
        policy = Policy(allow_commands="uptime|systemctl (status|restart) [a-z]+")
        texts = ("uptime", "systemctl status nginx", "uptime; reboot", "uptime\n", "uptime\nreboot", " uptime", "up")
        self.assertEqual(self.allowed(policy, *texts), [*texts[:2]])

    def test_a_dollar_is_the_end(self) -> None:
        self.assertEqual(self.allowed(Policy(allow_commands="^uptime$"), "uptime", "uptime\n"), ["uptime"])

    def test_deny_means_any_part(self) -> None:
        policy = Policy(allow_commands="(?s).*", deny_commands=r"\brm\b|reboot")
        texts = ("echo ok", "cd /; rm -rf x", "echo\nreboot", "echo warm")
        self.assertEqual(self.allowed(policy, *texts), ["echo ok", "echo warm"])

    def test_surroundings(self) -> None:
        self.assertFalse(Policy(allow_commands=".*").judge_command("ls", surroundings=True).allowed)
        self.assertTrue(Policy(deny_commands="rm").judge_command("ls", surroundings=True).allowed)
        self.assertTrue(Policy().judge_command("ls", surroundings=True).allowed)

    def test_a_text_that_would_keep_other_engines_busy(self) -> None:
        policy = Policy(allow_commands="(a|a)*b|(a+)+c|(.*)(.*)(.*)d", deny_commands="(x+x+)+y")
        begun = time.process_time()
        self.assertEqual(self.allowed(policy, "a" * 100_000, "x" * 100_000, "é" * 50_000), [])
        self.assertLess(time.process_time() - begun, 5)

    def test_a_text_that_no_host_would_take(self) -> None:
        policy = Policy(deny_commands="reboot")
        self.assertEqual(len(self.allowed(policy, "x" * MAX_TEXT, "é" * (MAX_TEXT // 2 + 1))), 1)
        self.assertTrue(Policy().judge_command("x" * (MAX_TEXT + 1)).allowed)


class PatternTests(SynchronousTestCase):
    """What the options take."""

    def test_hosts(self) -> None:
        text = "10.1.0.0/16, db-?.internal,fd00::1,10.2.*,[db]:22,[fd00::/8]:2222,*,fd00:*,10-1,10.1.2.?,*.*,bücher.de"
        self.assertEqual(host_patterns(text), tuple(part.strip() for part in text.split(",")))

    def test_wrong_hosts(self) -> None:
        for wrong in ("10.1.0.0/33", "10.1.0.1/16", "a,,b", "", "!a", "a b", "db:22", "[db]", "[db]:0", "[db]:65536",
                      "10.1.2", "0x0a010203", "167838211", "fd00::g", "user@db", "dü*", "x/y", "10.1.0.1-10.1.0.9",
                      "10.1.0.1-9", "10.1.2.300", "10.1.2.3.4", "10.1.*-5", "300.*", "010.*", "10.1.0.0-10.1.9.0/24",
                      "fd00::1-fd00::9", "fd00::1-*", "fe80::1%eth0", "[fe80::1%2]:22", "10.1.2.3.", "a..b", "..",
                      "db-*:22", "::ffff:10.1.*", "fd00:1.*"):  # fmt: skip
            error = self.assertRaises(ValueError, host_patterns, wrong)
            self.assertEqual(len(error.args), 2, wrong)

    def test_hosts_with_exceptions(self) -> None:
        text = "10.1.0.0/16,!10.1.2.3,pdu-*, !pdu-9,[db]:22"
        patterns = ("10.1.0.0/16", "!10.1.2.3", "pdu-*", "!pdu-9", "[db]:22")
        self.assertEqual(host_patterns_with_exceptions(text), patterns)
        for wrong in ("", "!a", "!", "a,!db:22", "a,!!b", "a,,b"):
            self.assertRaises(ValueError, host_patterns_with_exceptions, wrong)

    def test_users(self) -> None:
        self.assertEqual(user_patterns("deploy, app-*,!root"), ("deploy", "app-*", "!root"))
        for wrong in ("", "a,,b", "!root", "!", "a\nb", "*,!root:x", "CORP/root", "a" * 257):
            self.assertRaises(ValueError, user_patterns, wrong)

    def test_commands(self) -> None:
        self.assertEqual(command_pattern(r"\bls\b"), r"\bls\b")
        for wrong in ("", " ", "a(", r"(a)\1", "(?=a)", "a\nb", "a{9999}"):
            error = self.assertRaises(ValueError, command_pattern, wrong)
            self.assertIn("a regular expression of RE2 (", str(error))


class RefusalTests(SynchronousTestCase):
    """What the dispatcher answers."""

    def setUp(self) -> None:
        self.runner = HeldRunner()
        self.link = RecordingLink()
        self.errors: list[object] = []

    def order(self, policy: Policy, order: ExecuteCommand) -> dict[str, Any] | None:
        """What comes back at once; ``None`` for a command that was taken on."""
        limits = Limits(max_commands=4, max_queue=4, default_timeout=60, max_timeout=60)
        self.dispatcher = Dispatcher(Clock(), self.runner, MemoryJournal(), limits, policy=policy)
        self.dispatcher.link_ready(self.link)
        self.dispatcher.command_received(order, self.errors.append)
        return self.link.sent[-1].to_wire()["result"] if self.link.sent else None

    def test_host(self) -> None:
        policy = Policy(deny_hosts=["web*"])
        result = self.order(policy, command(extended=True))
        assert result is not None
        self.assertEqual(
            result["error"], {"code": "forbidden-host", "phase": "receive", "executed": "no", "retriable": False}
        )
        self.assertEqual(
            (result["stdout"], result["exitCode"], result["stderr"]),
            ("", 1, "This relay's site forbids web1:22: --deny-hosts of the relay forbids it."),
        )
        self.assertIsInstance(self.errors[0], Forbidden)
        self.assertEqual(dict(self.dispatcher.stats.refused), {"forbidden-host": 1})
        self.assertEqual(self.runner.runs, [])

    def test_by_default_special_addresses(self) -> None:
        limits = Limits(max_commands=4, max_queue=4, default_timeout=60, max_timeout=60)
        dispatcher = Dispatcher(Clock(), self.runner, MemoryJournal(), limits)
        for host in ("0xa9fea9fe", "web1"):
            dispatcher.command_received(command(host, host=host), lambda error: None)
        self.assertEqual(dict(dispatcher.stats.refused), {"forbidden-host": 1})
        self.assertEqual(self.runner.ids(), ["web1"])

    def test_user_and_command(self) -> None:
        self.order(Policy(allow_users=["deploy"]), command("c1"))
        self.assertEqual(dict(self.dispatcher.stats.refused), {"forbidden-user": 1})
        self.order(Policy(allow_commands="ls"), command("c2", text=f"echo {PASSWORD}"))
        self.assertEqual(dict(self.dispatcher.stats.refused), {"forbidden-command": 1})
        self.assertIn("--allow-users", self.link.sent[0].stderr)
        self.assertIn("root", self.link.sent[0].stderr)
        self.assertIn("--allow-commands", self.link.sent[1].stderr)
        self.assertNotIn(PASSWORD, self.link.sent[1].stderr)

    def test_whom_a_command_becomes(self) -> None:
        """It has to be allowed as if it logged in; who logs in has to be allowed all the same."""
        policy = Policy(allow_users=["deploy", "app-*", "!app-root"])
        for user, become, refused in (
            ("deploy", Become(user="app-1"), None),
            ("deploy", False, None),
            ("deploy", Become(), "root"),
            ("deploy", Become(user="app-root", method="su"), "app-root"),
            ("root", Become(user="app-1"), "root"),
        ):
            error = policy.refusal_of(structs.replace(command(become=become), username=user))
            self.assertEqual(error and error.fields["user"], refused)

    def test_scripts(self) -> None:
        """What is denied is denied in a script, and in what runs it."""
        policy = Policy(deny_commands="rm -rf|python")
        for text, script, allowed in (
            ("#!/bin/sh\nls\n", Script(), True),
            ("#!/bin/sh\nrm -rf /\n", Script(), False),
            ("ls", Script(interpreter="/usr/bin/python3"), False),
            ("ls", Script(args=("rm -rf",)), False),
        ):
            self.assertEqual(policy.refusal_of(command(text=text, script=script)) is None, allowed, text)

    def test_files(self) -> None:
        """Those that it brings, and those that it wants; where texts are listed, files have to be."""

        def code(path: str, **rules: str) -> str | None:
            found = {
                None if (error := Policy(**rules).refusal_of(command(text="ls", **brought))) is None else error.code
                for brought in ({"files": (File(path=path),)}, {"fetch": (Fetch(path=path),)})
            }
            self.assertEqual(len(found), 1, path)
            return found.pop()

        for path, rules, refused in (
            ("/opt/app/x", {}, False),
            ("/opt/app/x", {"allow_files": "/opt/app/.*"}, False),
            ("/opt/apps/x", {"allow_files": "/opt/app/.*"}, True),
            ("/opt/app/.ssh/x", {"allow_files": "/opt/app/.*", "deny_files": r"/\.ssh/"}, True),
            ("~/.ssh/x", {"deny_files": r"/\.ssh/"}, True),
            ("/opt/app/x", {"allow_commands": "ls"}, True),
            ("/opt/app/x", {"allow_commands": "ls", "allow_files": "/opt/app/x"}, False),
            ("/opt/app/x", {"deny_commands": "ls -l"}, False),
        ):
            self.assertEqual(code(path, **rules), "forbidden-file" if refused else None, (path, rules))

    def test_directory_and_variables(self) -> None:
        policy = Policy(allow_commands="ls")
        for brought in ({"cwd": "/tmp"}, {"env": (("PATH", "/tmp"),)}, {"pty": Pty()}, {"script": Script()}):
            result = self.order(policy, command(text="ls", **brought))
            assert result is not None
            self.assertIn("must not bring cwd, env or pty, nor be a script", result["stderr"])
        self.link.sent.clear()
        self.assertIsNone(self.order(policy, command(text="ls", pty=False)))

    def test_jump_hosts(self) -> None:
        """Those that the main server names are hosts like any other."""

        def hop(host: str, username: str = "root") -> JumpHost:
            return JumpHost(host=host, username=username, password=Secret("x"))

        policy = Policy(allow_hosts=["10.1.0.0/16", "web1", "gate"], allow_users=["root"])
        for via, code in (
            ((hop("gate"),), None),
            ((hop("db"),), None),  # its address will tell
            ((hop("10.2.0.1"),), "forbidden-host"),
            ((hop("gate"), hop("db")), "forbidden-host"),  # nobody here can look it up
            ((hop("gate"), hop("10.1.0.1")), None),
            ((hop(METADATA),), "forbidden-host"),
            ((hop("gate", "nobody"),), "forbidden-user"),
        ):
            self.link.sent.clear()
            self.order(policy, command(via=via))
            self.assertEqual(self.link.codes(), [] if code is None else [code], via)
        self.link.sent.clear()
        self.order(policy, command(host="db", via=(hop("gate"),)))
        self.assertEqual(self.link.codes(), ["forbidden-host"])
