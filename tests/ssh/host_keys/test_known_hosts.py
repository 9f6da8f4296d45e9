"""
The file of known host keys: everything that OpenSSH writes into it is understood, and nothing unproved is trusted.
"""

from __future__ import annotations

import contextlib
import stat
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.errors import HostKeyChanged, HostKeyRevoked, HostKeyUnknown, KnownHostsUnusable, SSHError
from relayd.ssh.host_keys import known_hosts
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.host_keys.known_hosts_lines import host_name
from relayd.ssh.keys.public import fingerprint
from relayd.ssh.settings import HostKeyPolicy
from tests.support.ssh import blob_of, key_pair, tool
from tests.support.sshd import make_key

ONE, TWO = make_key()[1], make_key()[1]
RSA = key_pair("rsa")[1]


class KnownHostsTestCase(SynchronousTestCase):
    """A file in a directory of its own."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-hostkeys-"))
        self.addCleanup(tool, "rm", "-rf", str(self.directory))
        self.path = self.directory / "known_hosts"

    def known(self, policy: HostKeyPolicy = "strict") -> KnownHosts:
        return KnownHosts(str(self.path), policy)

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def accepts(self, host: str, public: str = ONE, port: int = 22) -> bool:
        """Whether a strict client would go on."""
        try:
            self.known().verify(host, port, blob_of(public))
        except (HostKeyUnknown, HostKeyChanged):
            return False
        return True


class FormatTests(KnownHostsTestCase):
    """Lines as sshd(8) describes them."""

    def test_plain(self) -> None:
        self.write(f"host.example,192.0.2.7,2001:db8::7 {ONE} a comment here\n")
        for host in ("host.example", "HOST.Example", "192.0.2.7", "2001:db8::7"):
            self.assertTrue(self.accepts(host), host)
        for host in ("host.example.org", "host", "192.0.2.70", "example"):
            self.assertFalse(self.accepts(host), host)

    def test_port(self) -> None:
        self.write(f"[host.example]:2222,[2001:db8::7]:2222 {ONE}\n")
        self.assertTrue(self.accepts("host.example", port=2222))
        self.assertTrue(self.accepts("2001:db8::7", port=2222))
        for host, port in (("host.example", 22), ("host.example", 222), ("h", 2222)):
            self.assertFalse(self.accepts(host, port=port), host)

    def test_names_are_written_as_openssh_writes_them(self) -> None:
        self.assertEqual(host_name("Host", 22), "host")
        self.assertEqual(host_name("Host", 2222), "[host]:2222")
        self.assertEqual(host_name("2001:DB8::7", 22), "2001:db8::7")

    def test_wildcards(self) -> None:
        self.write(f"*.example.org,web? {ONE}\n")
        for host in ("a.example.org", "a.b.example.org", "web1"):
            self.assertTrue(self.accepts(host), host)
        for host in ("example.org", "web", "web12", "a.example.org.evil"):
            self.assertFalse(self.accepts(host), host)

    def test_brackets_are_no_set_of_characters(self) -> None:
        self.write(f"[abc]:2222 {ONE}\n[*]:22?? {TWO}\n")
        self.assertFalse(self.accepts("a", port=2222))
        self.assertTrue(self.accepts("abc", port=2222))
        self.assertTrue(self.accepts("any", TWO, port=2299))

    def test_negation(self) -> None:
        for names in ("*.example.org,!bad.example.org", "!bad.example.org,*.example.org"):
            self.write(f"{names} {ONE}\n")
            self.assertTrue(self.accepts("good.example.org"))
            self.assertFalse(self.accepts("bad.example.org"))

    def test_hashed_by_ssh_keygen(self) -> None:
        self.write(f"host.example,192.0.2.7 {ONE}\n[host.example]:2222 {TWO}\n")
        tool("ssh-keygen", "-q", "-H", "-f", str(self.path))
        self.assertNotIn("example", self.path.read_text())
        self.assertTrue(self.accepts("host.example"))
        self.assertTrue(self.accepts("Host.Example"))
        self.assertTrue(self.accepts("192.0.2.7"))
        self.assertTrue(self.accepts("host.example", TWO, 2222))
        for host, public, port in (("host.example", TWO, 22), ("other", ONE, 22), ("192.0.2.7", TWO, 2222)):
            self.assertFalse(self.accepts(host, public, port))

    def test_garbage_and_comments_are_passed_over(self) -> None:
        lines = (
            "", "   ", "# a comment", "host", f"# host {TWO}", "host ssh-ed25519", "host ssh-ed25519 !!!!",
            f"host ssh-rsa {TWO.split()[1]}", "host ssh-ed25519 AAAA", "|1|x", f"|1|x|y {TWO}", f"|1|é|é|é {TWO}",
            "@cert-authority", f"@cert-authority host {TWO}", "\0\xff",
        )  # fmt: skip
        self.path.write_bytes("\n".join([*lines, f"host {ONE}"]).encode("utf-8", "surrogateescape") + b"\n\xff\xfe\n")
        self.assertTrue(self.accepts("host"))
        self.assertFalse(self.accepts("host", TWO))

    def test_a_marker_that_nobody_knows_trusts_nothing(self) -> None:
        self.write(f"@unheard-of host {ONE}\n")
        self.assertFalse(self.accepts("host"))
        self.known("accept-new").verify("host", 22, blob_of(TWO))  # nor is the line a key that has changed

    def test_line_ends(self) -> None:
        self.path.write_bytes(f"one {ONE}\r\ntwo {TWO}\r\n".encode())
        self.assertTrue(self.accepts("one"))
        self.assertTrue(self.accepts("two", TWO))

    def test_several_keys_of_one_host(self) -> None:
        self.write(f"host {ONE}\nhost {RSA}\nother {TWO}\n")
        self.assertTrue(self.accepts("host"))
        self.assertTrue(self.accepts("host", RSA))
        self.assertEqual(self.known().key_types("host", 22), {b"ssh-ed25519", b"ssh-rsa"})
        self.assertEqual(self.known().key_types("nobody", 22), frozenset())

    def test_fingerprint_is_that_of_ssh_keygen(self) -> None:
        for public in (ONE, RSA, key_pair("ecdsa")[1]):
            self.write(public + "\n")
            expected = tool("ssh-keygen", "-lf", str(self.path)).split()[1]
            self.assertEqual(fingerprint(blob_of(public)), f"{public.split()[0]} {expected}")


class PolicyTests(KnownHostsTestCase):
    """New, changed and revoked keys."""

    def test_accept_new_remembers(self) -> None:
        known = self.known("accept-new")
        known.verify("Host.Example", 2222, blob_of(ONE))
        known.verify("host.example", 2222, blob_of(ONE))
        self.assertEqual(self.path.read_text(), f"[host.example]:2222 {ONE}\n")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertTrue(self.accepts("host.example", port=2222))
        self.assertTrue(tool("ssh-keygen", "-F", "[host.example]:2222", "-f", str(self.path)))

    def test_accept_new_keeps_what_is_there(self) -> None:
        for before in ("# mine", "# mine\n", f"other {TWO}"):
            self.write(before)
            self.known("accept-new").verify("host", 22, blob_of(ONE))
            self.assertEqual(self.path.read_text(), before.rstrip("\n") + f"\nhost {ONE}\n")

    def test_accept_new_refuses_another(self) -> None:
        self.write(f"# first line\nother {TWO}\nhost {ONE}\n")
        for policy in ("accept-new", "strict"):
            for shown in (TWO, RSA):
                error = self.assertRaises(HostKeyChanged, self.known(policy).verify, "host", 22, blob_of(shown))
                for part in (
                    fingerprint(blob_of(ONE)), fingerprint(blob_of(shown)), f"line 3 of {self.path}", "host:22",
                ):  # fmt: skip
                    self.assertIn(part, str(error))
        self.assertEqual(self.path.read_text().count("\n"), 3)

    def test_changed_names_the_key_of_the_same_type(self) -> None:
        self.write(f"host {RSA}\nhost {ONE}\n")
        error = self.assertRaises(HostKeyChanged, self.known().verify, "host", 22, blob_of(TWO))
        self.assertIn("line 2 of", str(error))

    def test_strict_takes_no_new_one(self) -> None:
        error = self.assertRaises(HostKeyUnknown, self.known().verify, "host", 22, blob_of(ONE))
        self.assertIn(fingerprint(blob_of(ONE)), str(error))
        self.assertFalse(self.path.exists())

    def test_ignore_looks_at_nothing(self) -> None:
        self.write(f"host {ONE}\n@revoked * {TWO}\n")
        known = self.known("ignore")
        known.verify("host", 22, blob_of(TWO))
        self.assertEqual(known.key_types("host", 22), frozenset())
        self.path.unlink()
        self.path.mkdir()
        known.verify("host", 22, blob_of(TWO))

    def test_revoked(self) -> None:
        for lines in (f"@revoked * {ONE}\nhost {ONE}\n", f"host {ONE}\n@revoked host {ONE}\n", f"@revoked * {ONE}\n"):
            self.write(lines)
            for policy in ("accept-new", "strict"):
                error = self.assertRaises(HostKeyRevoked, self.known(policy).verify, "host", 22, blob_of(ONE))
                self.assertIn(fingerprint(blob_of(ONE)), str(error))
                self.assertIn(f"line {lines[: lines.index('@')].count(chr(10)) + 1} of", str(error))
        self.assertFalse(self.known().key_types("host", 22))
        self.known("accept-new").verify("host", 22, blob_of(TWO))

    def test_a_host_cannot_name_others(self) -> None:
        # What the main server calls a host must not become a pattern, a comment or a second column of the file.
        for host in ("*", "*.example.org", "a,victim", "?????????????", "!x,victim", "#x", "|1|x", "@revoked", "a b"):
            with contextlib.suppress(SSHError):
                self.known("accept-new").verify(host, 22, blob_of(TWO))
            for victim in ("victim", "a.example.org", "b.example.org"):
                self.assertFalse(self.accepts(victim, TWO), f"{host} made {victim} known")
            self.assertEqual(self.known().key_types("a.example.org", 22), frozenset(), host)
            self.path.unlink(missing_ok=True)


class SpellingTests(KnownHostsTestCase):
    """A host is known, and its change noticed, by whatever name an order or a former version calls it."""

    SPELLINGS = (
        ("10.1.2.3", "10.1.515", "0x0a010203", "::ffff:10.1.2.3", "::FFFF:a01:203", "10.1.2.3.", "１0.1。2．3"),
        ("::1", "0:0:0:0:0:0:0:1", "::1%3"),
        ("db1.internal", "DB1.Internal", "db1.internal.", "db1．internal"),
        ("xn--bcher-kva.de", "bücher.de", "BÜCHER.DE."),
        ("fe80::1", "fe80::1%eth0", "FE80::1%2"),
    )

    def test_a_line_of_any_spelling(self) -> None:
        for spellings in self.SPELLINGS:
            for line in spellings:
                for port, names in ((22, line), (2222, f"[{line}]:2222"), (22, f"other,{line}"), (22, f"a*,{line}")):
                    for policy in ("strict", "accept-new"):
                        self.write(f"{names} {ONE}\n")
                        for host in spellings:
                            self.known(policy).verify(host, port, blob_of(ONE))
                            self.assertEqual(self.known(policy).key_types(host, port), {b"ssh-ed25519"})
                            for shown in (TWO, RSA):
                                self.assertRaises(HostKeyChanged, self.known(policy).verify, host, port, blob_of(shown))
                        self.assertEqual(self.path.read_text().count("\n"), 1)

    def test_revoked_and_left_out(self) -> None:
        for spellings in self.SPELLINGS:
            for line in spellings:
                for host in spellings:
                    self.write(f"@revoked {line} {ONE}\n")
                    self.assertRaises(HostKeyRevoked, self.known("accept-new").verify, host, 22, blob_of(ONE))
                    self.write(f"*,!{line} {ONE}\n")
                    self.assertFalse(self.accepts(host), (line, host))

    def test_hashed(self) -> None:
        """What a name was before it was hashed nobody can tell; the common ways to write it are tried."""
        for line, host in (("db1.internal.", "db1.internal"), ("::ffff:10.1.2.3", "10.1.2.3"), ("::1", "0::1"),
                           ("[db1.internal.]:2222", "DB1.internal"), ("[10.1.2.3]:2222", "0x0a010203")):  # fmt: skip
            self.write(f"{line} {ONE}\n")
            tool("ssh-keygen", "-q", "-H", "-f", str(self.path))
            self.assertTrue(self.path.read_text().startswith("|1|"))
            port = 2222 if line.startswith("[") else 22
            self.known().verify(host, port, blob_of(ONE))
            self.assertRaises(HostKeyChanged, self.known("accept-new").verify, host, port, blob_of(TWO))

    def test_one_line_for_all(self) -> None:
        for spellings in self.SPELLINGS:
            known = self.known("accept-new")
            for host in reversed(spellings):
                known.verify(host, 22, blob_of(ONE))
            self.assertEqual(self.path.read_text(), f"{spellings[0]} {ONE}\n")
            self.path.unlink()


class SharingTests(KnownHostsTestCase):
    """Others read and write the same file."""

    def test_two_see_each_other(self) -> None:
        first, second = self.known("accept-new"), self.known("accept-new")
        first.verify("one", 22, blob_of(ONE))
        second.verify("two", 22, blob_of(TWO))
        self.assertRaises(HostKeyChanged, first.verify, "two", 22, blob_of(ONE))
        self.assertRaises(HostKeyChanged, second.verify, "one", 22, blob_of(TWO))
        second.verify("one", 22, blob_of(ONE))
        self.assertEqual(self.path.read_text().count("\n"), 2)

    def test_changes_by_hand_are_seen(self) -> None:
        known = self.known("accept-new")
        known.verify("host", 22, blob_of(ONE))
        self.assertRaises(HostKeyChanged, known.verify, "host", 22, blob_of(TWO))
        tool("ssh-keygen", "-q", "-R", "host", "-f", str(self.path))
        known.verify("host", 22, blob_of(TWO))
        self.path.unlink()
        known.verify("host", 22, blob_of(ONE))
        self.assertEqual(self.path.read_text(), f"host {ONE}\n")


class UnusableTests(KnownHostsTestCase):
    """Without the file nobody is trusted."""

    def check(self, path: Path) -> None:
        known = KnownHosts(str(path), "accept-new")
        error = self.assertRaises(KnownHostsUnusable, known.verify, "host", 22, blob_of(ONE))
        self.assertIn(str(path), str(error))

    def test_a_directory(self) -> None:
        self.check(self.directory)
        self.assertRaises(KnownHostsUnusable, KnownHosts(str(self.directory), "strict").key_types, "host", 22)

    def test_no_directory_for_it(self) -> None:
        self.check(self.directory / "missing" / "known_hosts")

    def test_below_a_file(self) -> None:
        self.write("")
        self.check(self.path / "known_hosts")


class ReadingTests(KnownHostsTestCase):
    """A long file takes long to read."""

    def test_own_lines_do_not_make_it_read_again(self) -> None:
        self.write(f"# a comment\nold {ONE}")
        known = self.known("accept-new")
        known.verify("old", 22, blob_of(ONE))
        reads: list[object] = []
        parse = known_hosts.parse_known_hosts
        self.patch(known_hosts, "parse_known_hosts", lambda lines: reads.append(1) or parse(lines))
        for number in range(3):
            known.verify(f"new{number}", 22, blob_of(TWO))
        self.assertEqual(reads, [])
        error = self.assertRaises(HostKeyChanged, known.verify, "new1", 22, blob_of(ONE))
        self.assertEqual(error.fields["line"], 4)
        self.assertTrue(self.accepts("new2", TWO))

    def test_lines_of_others_do(self) -> None:
        one, other = self.known("accept-new"), self.known("accept-new")
        one.verify("a", 22, blob_of(ONE))
        other.verify("b", 22, blob_of(TWO))
        self.assertRaises(HostKeyChanged, one.verify, "b", 22, blob_of(ONE))

    def test_patterns_that_come_later(self) -> None:
        self.write(f"*.example {ONE}\n")
        known = self.known()
        known.verify("a.example", 22, blob_of(ONE))
        self.write(f"*.example {ONE}\na.* {TWO}\n")
        known.verify("a.example", 22, blob_of(TWO))
