"""
The site's own credentials: which rule counts, what is read and when, what is refused.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.network.credential_rules import CredentialRule, Hop, parse_via
from relayd.ssh.errors import CredentialUnusable, NoCredential
from relayd.ssh.login.site_credentials import MAX_FILE, CredentialTable
from relayd.ssh.target import Credential, Target
from tests.support.ssh import ServerTestCase, key_pair


def rule(*hosts: str, **fields: Any) -> CredentialRule:
    """A rule with something in it."""
    return CredentialRule(hosts=hosts, **{"agent": "/agent", **fields})


class MatchingTests(SynchronousTestCase):
    """Patterns of hosts and users."""

    def check(self, hosts: tuple[str, ...], covered: str, others: str) -> None:
        one = rule(*hosts)
        CredentialTable([one])
        for host in covered.split():
            self.assertTrue(one.covers(host, 22, "me"), host)
        for host in others.split():
            self.assertFalse(one.covers(host, 22, "me"), host)

    def test_hosts(self) -> None:
        self.check(("web?", "*.Example.ORG"), "web1 WEB2 a.example.org a.b.example.org", "web web12 example.org x")
        self.check(("*",), "anything 10.0.0.1 ::1", "")
        self.check(("*.org", "!bad.*"), "good.org", "bad.org bad.com")
        self.check(("!bad.*", "*.org"), "good.org", "bad.org bad.com")
        self.check(("!bad",), "", "bad good")
        self.check(("10.1.*",), "10.1.2.3", "10.2.1.1 10.1.host.example")

    def test_networks(self) -> None:
        self.check(
            ("10.1.0.0/16", "2001:db8::/32"), "10.1.2.3 2001:db8::7 2001:DB8:0::7", "10.2.0.1 2001:db9::1 ten ::"
        )
        self.check(("10.0.0.0/8", "!10.1.0.0/16"), "10.0.0.1 10.2.3.4", "10.1.2.3 11.0.0.1")
        self.check(("0.0.0.0/0",), "192.0.2.1", "name ::1")

    def test_ports(self) -> None:
        one = rule("[*.org]:2222", "[2001:db8::7]:22", "![x.org]:2222")
        CredentialTable([one])
        for host, port, covered in (
            ("a.org", 2222, True), ("a.org", 22, False), ("x.org", 2222, False), ("2001:db8::7", 22, True),
            ("2001:db8::7", 2222, False),
        ):  # fmt: skip
            self.assertIs(one.covers(host, port, "me"), covered, host)
        self.assertTrue(rule("a.org").covers("a.org", 2222, "me"))

    def test_brackets_are_no_set_of_characters(self) -> None:
        self.assertFalse(rule("a", users=("[abc]",)).covers("a", 22, "a"))

    def test_users(self) -> None:
        one = rule("h", users=("deploy*", "!deploy-root"))
        for user, covered in (("deploy", True), ("deploy-1", True), ("deploy-root", False), ("root", False)):
            self.assertIs(one.covers("h", 22, user), covered, user)
        self.assertFalse(rule("h", users=("Deploy",)).covers("h", 22, "deploy"))

    def test_the_first_one_counts(self) -> None:
        first, second, third = rule("a", users=("root",)), rule("a", "b"), rule("*", agent="/other")
        table = CredentialTable([first, second, third])
        self.assertIs(table.find("a", 22, "root"), first)
        self.assertIs(table.find("a", 22, "me"), second)
        self.assertIs(table.find("c", 22, "me"), third)
        self.assertIsNone(CredentialTable([first]).find("a", 22, "me"))
        self.assertFalse(CredentialTable([]))

    def test_rules_that_make_no_sense(self) -> None:
        for wrong, words in (
            (rule(), "names no hosts"),
            (rule("a", users=()), "no users"),
            (rule("a", ""), "expected a network, an address, a name"),
            (rule("!"), "expected a network, an address, a name"),
            (rule("a b"), "[PATTERN]:PORT for one port, not a b"),
            (rule("10.0.0.1/8"), "without bits beyond its length, not 10.0.0.1/8"),
            (rule("10.0.0.0/99"), "10.0.0.0/99"),
            (rule("a/b"), "a/b"),
            (rule("[a]"), "PORT for one port, not [a]"),
            (rule("[a]:ssh"), "PORT for one port, not [a]:ssh"),
            (rule("10.1.0.1-10.1.0.9"), "an address as it is usually written"),
            (rule("fe80::1%eth0"), "an address without its zone"),
            (rule("a", users=("",)), "expected a user name"),
            (rule("a", users=("*", "!root:x")), "without : and /"),
            (rule("a", agent=None), "neither a key file nor a password file nor an agent"),
            (rule("a", passphrase_file="/p"), "without a key file"),
            (rule("a", agent=None, password_file="/p", certificate_file="/c"), "without a key file or an agent"),
            (rule("a", via="b:c"), "via is not of the form"),
        ):
            error = self.assertRaises(ValueError, CredentialTable, [rule("good"), wrong])
            self.assertTrue(str(error).startswith("credential 2: "), error)
            self.assertIn(words, str(error))

    def test_via(self) -> None:
        for text, hops in (
            ("", []),
            ("gate", [Hop("gate")]),
            ("me@gate:2222", [Hop("gate", 2222, "me")]),
            ("me@realm@Gate", [Hop("gate", 22, "me@realm")]),
            ("[2001:db8::7]", [Hop("2001:db8::7")]),
            ("me@[2001:db8::7]:2222", [Hop("2001:db8::7", 2222, "me")]),
            ("a, b:23,c@d", [Hop("a"), Hop("b", 23), Hop("d", 22, "c")]),
            ("0x0a010203,Gate.", [Hop("10.1.2.3"), Hop("gate", looked_up="gate.")]),
            ("[FE80::1%ETH0]:23", [Hop("fe80::1", 23, looked_up="fe80::1%ETH0")]),
        ):
            self.assertEqual(parse_via(text), tuple(hops))
        for text in (" ", ",", "a,", "a:", "a:0", "a:65536", "a:b", "@a", "a b", "::1", "[::1", "a:22:22", "[]", "me@",
                     "root:x@a", "me/x@a", "10.1.0.1-10.1.0.9", "10.1.2.300", "[fd00::g]"):  # fmt: skip
            self.assertRaises(ValueError, parse_via, text)


class FileTestCase(SynchronousTestCase):
    """Files in a directory of their own."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-credentials-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def file(self, name: str, content: str | bytes, mode: int = 0o600) -> str:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return str(path)

    def read(self, **fields: Any) -> Credential:
        one = rule("*", **{"agent": None, **fields})
        return CredentialTable([one]).read(one)


class ReadingTests(FileTestCase):
    """What is read."""

    def test_everything(self) -> None:
        key = self.file("key", "key text\n")
        certificate = self.file("certificate", "certificate text\n", 0o644)
        passphrase = self.file("passphrase", "pass phrase \r\n")
        password = self.file("password", " pässwörd\u2028x ")
        fields = {"key_file": key, "certificate_file": certificate, "passphrase_file": passphrase}
        found = self.read(**fields, password_file=password, agent="/agent")
        expected = Credential(" pässwörd\u2028x ", "key text\n", "pass phrase ", "certificate text\n", "/agent")
        self.assertEqual(found, expected)

    def test_certificate_beside_the_key(self) -> None:
        key = self.file("key", "key text")
        self.assertEqual(self.read(key_file=key), Credential(private_key="key text"))
        self.file("key-cert.pub", "beside", 0o644)
        self.assertEqual(self.read(key_file=key), Credential(private_key="key text", certificate="beside"))
        other = self.file("other", "another", 0o644)
        found = self.read(key_file=key, certificate_file=other)
        self.assertEqual(found, Credential(private_key="key text", certificate="another"))

    def test_read_again_when_changed(self) -> None:
        key, password = self.file("key", "one"), self.file("password", "secret")
        one = rule("*", key_file=key, password_file=password, agent=None)
        table = CredentialTable([one])
        first = table.read(one)
        self.assertIs(table.read(one), first)
        self.file("new", "two")
        os.replace(self.directory / "new", key)
        self.assertEqual(table.read(one), Credential("secret", "two"))
        self.file("key-cert.pub", "certificate")
        self.assertEqual(table.read(one), Credential("secret", "two", certificate="certificate"))
        os.unlink(self.directory / "key-cert.pub")
        self.assertEqual(table.read(one), Credential("secret", "two"))
        os.unlink(key)
        self.assertRaises(CredentialUnusable, table.read, one)
        self.file("key", "three")
        self.assertEqual(table.read(one), Credential("secret", "three"))
        os.chmod(password, 0o644)  # which changes neither its content nor its time
        self.assertRaises(CredentialUnusable, table.read, one)


class UnusableTests(FileTestCase):
    """The file is named, its content is not."""

    def check(self, path: str, words: str, **fields: Any) -> None:
        error = self.assertRaises(CredentialUnusable, self.read, **fields)
        self.assertIn(f"in {path} cannot be used: ", str(error))
        self.assertIn(words, str(error))
        try:
            self.read(**fields)
        except CredentialUnusable as caught:
            self.assertNotIn("s3cret", "".join(traceback.format_exception(caught)))

    def test_missing(self) -> None:
        for name in ("key_file", "password_file"):
            path = str(self.directory / "missing")
            self.check(path, os.strerror(2), **{name: path})
            self.check("a\0b", "no such file", **{name: "a\0b"})
        key = self.file("key", "text")
        path = str(self.directory / "missing")
        self.check(path, os.strerror(2), key_file=key, certificate_file=path)

    def test_readable_by_others(self) -> None:
        for mode in (0o640, 0o604, 0o660, 0o601):
            path = self.file("secret", "s3cret", mode)
            for fields in ({"key_file": path}, {"password_file": path}):
                self.check(path, f"mode {mode:04o}", **fields)
            key = self.file("key", "text")
            self.check(path, f"mode {mode:04o}", key_file=key, passphrase_file=path)
        for mode in (0o600, 0o400, 0o700):
            self.assertEqual(self.read(password_file=self.file("secret", "s3cret", mode)), Credential("s3cret"))

    def test_of_another_owner(self) -> None:
        """Such as one that root gave to our group: whoever owns it decides who reads it, as with OpenSSH."""
        if os.geteuid() != 0:
            self.skipTest("only root can give a file away")
        path = self.file("secret", "s3cret", 0o640)
        os.chown(path, 65534, -1)
        self.assertEqual(self.read(password_file=path), Credential("s3cret"))

    def test_content(self) -> None:
        for content, words in (
            (b"", "empty"),
            (b" \n\t\n", "empty"),
            (b"\ns3cret\n", "first line is empty"),
            (b"s3cret\ns3cret-too\n", "more than one line"),
            (b"s3cret\xff", "UTF-8"),
            (b"s3cret" * MAX_FILE, "too large"),
        ):
            path = self.file("secret", content)
            self.check(path, words, password_file=path)
        path = self.file("secret", b"\n\n")
        self.check(path, "empty", key_file=path)
        for content, words in (
            (key_pair()[0].encode("utf-16"), "it is in UTF-16; save it in UTF-8."),
            (b"\xfe\xff\0x", "it is in UTF-16; save it in UTF-8."),
            (b"0\x82\x04\xa3\x02\x01\0\x02\x82\xff", "it is not text, but in DER or PKCS#12; convert it to PEM"),
            (b"\x93\xfa", "it is not UTF-8 text."),
        ):
            Path(path).write_bytes(content)
            self.check(path, words, key_file=path)

    def test_what_is_no_file(self) -> None:
        self.check(str(self.directory), "not a file", key_file=str(self.directory))
        path = str(self.directory / "pipe")
        os.mkfifo(path, 0o600)
        self.check(path, "not a file", key_file=path)


class WayTests(FileTestCase):
    """Jump hosts."""

    def setUp(self) -> None:
        super().setUp()
        self.password = self.file("password", "secret")

    def table(self, *rules: tuple[str, str | None]) -> CredentialTable:
        made = [rule(hosts, via=via, agent=None, password_file=self.password) for hosts, via in rules]
        return CredentialTable(made)

    def way(self, target: Target | None) -> list[tuple[str, int, str]]:
        """From the nearest host to the target."""
        found = []
        while target is not None:
            found.append((target.username, target.port, target.host))
            self.assertEqual(target.credential, Credential("secret"))
            target = target.via
        return [(host, port, user) for user, port, host in reversed(found)]

    def test_none(self) -> None:
        table = self.table(("a", None))
        self.assertIsNone(table.target("b", 22, "me"))
        target = table.target("A", 2222, "me", "SHA256:x")
        self.assertEqual(target, Target("a", 2222, "me", Credential("secret"), "SHA256:x", site=True))

    def test_several(self) -> None:
        table = self.table(("inner", "one,you@two:2222"), ("one", None), ("two", "elsewhere"))
        expected = [("one", 22, "me"), ("two", 2222, "you"), ("inner", 22, "me")]
        self.assertEqual(self.way(table.target("inner", 22, "me")), expected)

    def test_the_first_may_be_behind_others(self) -> None:
        table = self.table(("inner", "one"), ("one", "him@zero"), ("zero", None))
        expected = [("zero", 22, "him"), ("one", 22, "me"), ("inner", 22, "me")]
        self.assertEqual(self.way(table.target("inner", 22, "me")), expected)

    def test_a_rule_that_covers_its_own_jump_hosts(self) -> None:
        table = self.table(("*", "one,two"))
        self.assertEqual([place[0] for place in self.way(table.target("x", 22, "me"))], ["one", "two", "x"])
        self.assertEqual([place[0] for place in self.way(table.target("two", 22, "me"))], ["one", "two"])
        self.assertEqual([place[0] for place in self.way(table.target("one", 22, "me"))], ["one"])

    def test_rules_that_only_name_the_way(self) -> None:
        """As with ssh_config, the way and the credential may stand in different rules; an empty way ends the search."""
        made = [
            rule("direct.org", via="", agent=None),
            rule("*.org", "direct.org", via="gate.net", agent=None),
            rule("*", agent=None, password_file=self.password),
        ]
        table = CredentialTable(made)
        self.assertIs(table.find("a.org", 22, "me"), made[2])
        self.assertEqual([place[0] for place in self.way(table.target("a.org", 22, "me"))], ["gate.net", "a.org"])
        self.assertEqual([place[0] for place in self.way(table.way("a.org", 22, "me"))], ["gate.net"])
        for host in ("direct.org", "gate.net"):
            self.assertIsNone(table.way(host, 22, "me"))
        self.assertIsNone(CredentialTable(made[:2]).find("a.org", 22, "me"))
        self.assertRaises(NoCredential, CredentialTable(made[:2]).way, "a.org", 22, "me")

    def test_a_jump_host_without_credential(self) -> None:
        error = self.assertRaises(NoCredential, self.table(("a", "me@b:23")).target, "a", 22, "you")
        self.assertIn("no credential for me@b:23: it is a jump host", str(error))

    def test_a_circle(self) -> None:
        error = self.assertRaises(NoCredential, self.table(("a", "b"), ("b", "a")).target, "a", 22, "me")
        self.assertIn("circle", str(error))


class RealServerTests(ServerTestCase):
    """At a real server, with a key that is rotated."""

    async def test_rotation(self) -> None:
        server = await self.start_server("PasswordAuthentication no")
        path = self.directory / "key"
        path.touch(mode=0o600)
        path.write_text(server.key)
        table = CredentialTable([rule("127.0.0.0/8", agent=None, key_file=str(path))])
        client = self.make_client()
        for private, public in (key_pair(), key_pair("ecdsa")):
            target = table.target(server.host, server.port, server.user)
            assert target is not None
            done = await self.run_command(client, target, "echo ok")
            self.assertEqual(done.stdout.text(), "ok")
            path.write_text(private)
            server.authorize(public)

    async def test_the_file_at_fault_is_named(self) -> None:
        """Before any host is dialled."""
        key, certificate = self.directory / "deploy", self.directory / "deploy-cert.pub"
        for path, text, words in (
            (key, key_pair()[1], f"cannot be used: {key}: it is a public key (ssh-ed25519)."),
            (certificate, key_pair()[1], f"cannot be used: {certificate}: it is a public key (ssh-ed25519)."),
        ):
            key.touch(mode=0o600)
            key.write_text(key_pair()[0])
            path.write_text(text)
            target = CredentialTable([rule("*", agent=None, key_file=str(key))]).target("host.invalid", 22, "deploy")
            assert target is not None
            failure = await self.failure_of(self.run_command(self.make_client(), target, "true"))
            self.assertIn("for deploy@host.invalid " + words, str(failure.value))
