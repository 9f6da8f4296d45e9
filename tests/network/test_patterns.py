"""
relayd.network.patterns: hosts and users, whatever spelling somebody chooses.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.network.patterns import covers_host, covers_user
from relayd.network.spelling import read_address


class CoverTests(SynchronousTestCase):
    """`covers_host`."""

    def covered(self, patterns: tuple[str, ...], *names: str, port: int = 22) -> list[str]:
        return [name for name in names if covers_host(patterns, name, port)]

    def test_names(self) -> None:
        names = ("db-1.internal", "DB-1.Internal.", "db-12.internal", "db-1.internal.example.com", "xdb-1.internal")
        self.assertEqual(self.covered(("db-1.internal",), *names), [*names[:2]])
        self.assertEqual(self.covered(("DB-?.internal",), *names), [*names[:2]])
        self.assertEqual(self.covered(("db-*.internal",), *names), [*names[:3]])
        self.assertEqual(self.covered(("*",), *names), [*names])
        self.assertEqual(self.covered(("db+1.internal", "db.1"), "dbb1.internal", "dbx1"), [])

    def test_many_wildcards(self) -> None:
        """Whoever orders commands chooses the host: one that nearly fits must not be tried in every way there is."""
        pattern = "db" + "*-" * 12 + "x"  # a month, if each "*" tried anew what the others tried
        self.assertEqual(self.covered((pattern,), "db" + "-" * 250, "db" + "-" * 12 + "x"), ["db" + "-" * 12 + "x"])

    def test_exceptions_win_wherever_they_stand(self) -> None:
        for patterns in (("*", "!db-9.*"), ("!DB-9.*", "*")):
            self.assertEqual(self.covered(patterns, "db-9.x", "DB-9.X.", "db-8.x"), ["db-8.x"])
        self.assertEqual(self.covered(("!db-9.*",), "db-8.x"), [])
        self.assertEqual(self.covered(("*", "!db-9.internal"), "db-9.internal."), [])

    def test_addresses_in_every_spelling(self) -> None:
        names = ("10.1.2.3", "::ffff:10.1.2.3", "::FFFF:0a01:0203", "0x0a010203", "167838211", "10.66051")
        others = ("10.2.0.1", "10.1.example.com", "ten.internal", "fd00::1")
        for pattern in ("10.1.*", "10.1.0.0/16", "::ffff:10.1.0.0/112", "10.1.2.3", "10.1.2.?", "10.*.3"):
            self.assertEqual(self.covered((pattern,), *names, *others), [*names], pattern)
        self.assertEqual(self.covered(("*", "!10.1.2.3"), *names, *others), [*others])

    def test_addresses_of_version_6(self) -> None:
        names = ("fd00::1", "FD00:0:0::1", "fd01::1")
        for pattern in ("fd00::/16", "fd00::1", "fd00:0::1", "FD00:*"):
            self.assertEqual(self.covered((pattern,), *names), [*names[:2]], pattern)

    def test_wildcards_hold_however_zeros_are_written(self) -> None:
        names = ("fd00::1", "fd00:0:0:1::5", "fd00:0000:1::5", "fd00:1::", "2001:DB8::1")
        for pattern in ("fd00:0:*", "fd00:0000:*", "FD00::*"):
            self.assertEqual(self.covered((pattern,), *names), [*names[:3]], pattern)
        self.assertEqual(self.covered(("fd00:0:0:*", "2001:0db8:*"), *names), [*names[:2], names[4]])
        self.assertEqual(self.covered(("*:0001",), "fd00::1", "fd00::11"), ["fd00::1"])

    def test_left_out_by_whichever_address_leads_there(self) -> None:
        """NAT64, 6to4 and addresses with one of IPv4 in them: as for --deny-hosts."""
        names = ("64:ff9b::10.9.0.1", "64:ff9b:1::a09:1", "2002:a09:1::", "::10.9.0.1", "::ffff:0:10.9.0.1")
        for left_out in ("!10.9.0.0/16", "!10.9.*", "![10.9.0.1]:22"):
            self.assertEqual(self.covered(("*", left_out), *names), [], left_out)
            self.assertEqual(self.covered((left_out, "64:ff9b::*"), *names, "64:ff9b::10.8.0.1"), ["64:ff9b::10.8.0.1"])
        self.assertEqual(self.covered(("10.9.0.0/16",), *names), [], "what is granted is so by its own address only")

    def test_port(self) -> None:
        self.assertEqual(self.covered(("[db]:22", "[10.0.0.0/8]:23"), "db", "10.1.2.3"), ["db"])
        self.assertEqual(self.covered(("[db]:22", "[10.0.0.0/8]:23"), "db", "10.1.2.3", port=23), ["10.1.2.3"])

    @given(st.text(alphabet="ab1.*?!/:[]", max_size=12), st.text(alphabet="ab1.:", max_size=12))
    def test_anything(self, pattern: str, host: str) -> None:
        found = covers_host((pattern,), host, 22)
        if pattern.startswith("!"):
            self.assertFalse(found)
        if found:
            self.assertFalse(covers_host(("*", f"!{pattern}"), host, 22))


class SpellingTests(SynchronousTestCase):
    """Names as they are looked up, and addresses as they are dialled."""

    def test_other_scripts(self) -> None:
        """``getaddrinfo`` makes the same of them."""
        for name in ("ｄb-9.internal", "db-9\N{IDEOGRAPHIC FULL STOP}internal", "DB-9.ｉnternal."):
            self.assertTrue(covers_host(("db-9.internal",), name, 22), name)
            self.assertFalse(covers_host(("*", "!db-9.*"), name, 22), name)
        self.assertTrue(covers_host(("bücher.internal",), "xn--bcher-kva.internal", 22))
        self.assertTrue(covers_host(("10.1.*",), "１0.1。2．3", 22))

    def test_what_inet_aton_would_pass_over(self) -> None:
        self.assertIsNone(read_address("10.1.2.3 evil"))

    def test_trailing_dot_and_zone(self) -> None:
        self.assertEqual(str(read_address("10.1.2.3.")), "10.1.2.3")
        self.assertEqual(str(read_address("fe80::1%eth0")), "fe80::1%eth0")

    def test_a_zone_changes_no_rule(self) -> None:
        for zone in ("", "%eth0", "%1", "%0001", "%*"):
            for pattern in ("fe80::1", "fe80::?", "fe80:*1", "fe80::/10", "FE80:0::1"):
                self.assertTrue(covers_host((pattern,), f"fe80::1{zone}", 22), (pattern, zone))
                self.assertFalse(covers_host(("*", f"!{pattern}"), f"fe80::1{zone}", 22), (pattern, zone))

    def test_a_pattern_of_names_means_no_address(self) -> None:
        self.assertFalse(covers_host(("fe*", "*b*"), "fe80::b", 22))
        self.assertTrue(covers_host(("fe80:*",), "fe80::b", 22))

    def test_users(self) -> None:
        patterns = ("app-?", "deploy", "!app-9", "[x]")
        named = [user for user in ("app-1", "app-9", "deploy", "Deploy", "x", "[x]") if covers_user(patterns, user)]
        self.assertEqual(named, ["app-1", "deploy", "[x]"])
