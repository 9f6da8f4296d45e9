"""
Whose credential goes where: no mixture of order and tables has a secret of the site leave for a host that the site did
not check, nor by a way that the order named.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.common import NS
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import CredentialIncomplete, CredentialKept, CredentialMissing, RelayError
from relayd.network.credential_rules import CredentialRule
from relayd.ssh.errors import SSHError
from relayd.ssh.host_keys.checks import check_for
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.host_keys.known_hosts_lines import host_name
from relayd.ssh.keys.public import fingerprint
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.pool.members import hops_of
from relayd.ssh.target import Credential, Target
from relayd.ssh_logins import target_of
from relayd.wire.messages import ExecuteCommand, JumpHost, Secret
from tests.support.authority import Authority
from tests.support.ssh import blob_of, key_pair

#: As many as a run of some seconds takes; ``TEST_EXAMPLES=10000`` in the environment asks for more.
EXAMPLES = int(os.environ.get("TEST_EXAMPLES", "300"))

HOSTS = ("db", "gate", "evil", "10.0.0.5")
PORTS = (22, 22, 2222)
USERS = ("root", "jump")
#: What the files of the site hold, and the socket of its agent.
SITE = frozenset(("site password", "site key", "site passphrase", "site certificate", "/site/agent"))


def key(name: str) -> bytes:
    """A public key, as far as anybody looks at it here."""
    return bytes(NS(b"ssh-ed25519") + NS(name.encode().ljust(32)))


EVIL = key("evil")
TRUE = {host: key(host) for host in HOSTS}


def line(host: str, port: int, blob: bytes, marker: str = "") -> str:
    return f"{marker}{host_name(host, port)} ssh-ed25519 {base64.b64encode(blob).decode()}\n"


def secrets_of(credential: Credential) -> set[str]:
    parts = (
        credential.password, credential.private_key, credential.passphrase, credential.certificate, credential.agent
    )  # fmt: skip
    return {part for part in parts if part is not None}


def brought(of: ExecuteCommand | JumpHost) -> set[str]:
    parts = [part.reveal() for part in (of.password, of.private_key, of.passphrase) if part is not None]
    return {*parts, *([] if of.certificate is None else [of.certificate])}


def takes(known_hosts: str, policy: str, host: str, port: int, blob: bytes) -> bool:
    """Whether the site's own check is content: another reading of the file, for the lines that stand in it here."""
    found = [text.split() for text in known_hosts.splitlines()]
    name, shown = host_name(host, port), base64.b64encode(blob).decode()
    if policy == "ignore":
        return True
    if ["@revoked", name, "ssh-ed25519", shown] in found:
        return False
    known = [fields[2] for fields in found if fields[0] == name]
    return shown in known if known else policy == "accept-new"


# A main server may have come to know a secret of the site's: it is no better off for that.
PASSWORDS = st.sampled_from(("own password", "site password")).map(Secret)
KEYS = st.sampled_from(("own key", "site key")).map(Secret)
REST = {"passphrase": st.just(Secret("own phrase")), "certificate": st.just("own certificate")}
#: What an order brings for a login: nothing, which is what matters most, or some of all that it can bring.
BROUGHT = (
    st.just({})
    | st.fixed_dictionaries({}, optional=REST)
    | st.fixed_dictionaries({"password": PASSWORDS}, optional={"private_key": KEYS, **REST})
    | st.fixed_dictionaries({"private_key": KEYS}, optional=REST)
)
FINGERPRINTS = (
    st.sampled_from((EVIL, EVIL, *TRUE.values()))
    .map(fingerprint)
    .flatmap(lambda it: st.sampled_from((it, it.partition(" ")[2])))
)
PLACES = st.fixed_dictionaries(
    {"host": st.sampled_from(HOSTS), "port": st.sampled_from(PORTS), "username": st.sampled_from(USERS)},
    optional={"host_key": FINGERPRINTS},
)
HOPS = st.builds(lambda place, login: JumpHost(**place, **login), PLACES, BROUGHT)
ORDERS = st.builds(
    lambda place, login, via: ExecuteCommand(
        command_id="c", server_id=1, command="true", via=tuple(via), **place, **login
    ),
    PLACES,
    BROUGHT,
    st.just([]) | st.lists(HOPS, max_size=2),
)
LINES = st.lists(
    st.builds(
        lambda host, port, blob, marker: line(host, port, blob if marker else TRUE[host], marker),
        st.sampled_from(HOSTS),
        st.sampled_from(PORTS),
        st.sampled_from((EVIL, *TRUE.values())),
        st.sampled_from(("", "", "@revoked ")),
    ),
    max_size=6,
).map("".join)


class MixtureTests(SynchronousTestCase):
    """Any order, any tables, any known hosts; the network and all that orders name belong to somebody else."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-logins-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.count = 0
        for secret in SITE:
            path = self.directory / secret.rpartition(" ")[2].replace("/", "-")
            path.touch(mode=0o600)
            path.write_text(secret)

    def table(self, rows: Iterable[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str | None]]) -> Any:
        rules = []
        for hosts, users, kinds, via in rows:
            if not kinds and via is None:
                continue
            files = [*kinds, *(("passphrase", "certificate") if "key" in kinds else ())]
            fields: dict[str, Any] = {f"{kind}_file": str(self.directory / kind) for kind in files if kind != "agent"}
            agent = "/site/agent" if "agent" in kinds else None
            rules.append(CredentialRule(hosts=hosts, users=users, via=via, agent=agent, **fields))
        return CredentialTable(rules)

    @settings(max_examples=EXAMPLES)
    @given(
        rows=st.lists(
            st.tuples(
                st.sampled_from(
                    (("*",), ("*", "!evil"), ("*", "!10.*"), ("db",), ("gate", "10.0.0.0/8"), ("[db]:22",))
                ),
                st.sampled_from((("*",), ("*", "!jump"), ("root",))),
                st.sampled_from((("password",), ("key",), ("agent",), ("key", "password"), ())),
                st.sampled_from((None, None, "gate", "jump@gate:2222", "gate,10.0.0.5")),
            ),
            min_size=1,
            max_size=4,
        ),
        orders=st.lists(ORDERS, min_size=2, max_size=8),
        policy=st.sampled_from(("strict", "accept-new", "strict", "accept-new", "ignore")),
        lines=LINES,
        intercepted=st.booleans(),
    )
    def test_no_secret_of_the_site_leaves(
        self, rows: Any, orders: list[ExecuteCommand], policy: Any, lines: str, intercepted: bool
    ) -> None:
        self.count += 1
        self.file = self.directory / f"known_hosts-{self.count}"
        self.file.write_text(lines)
        self.known_hosts = KnownHosts(str(self.file), policy)
        self.intercepted = intercepted
        #: Connections that are open, and whether the site checked who is there.
        self.pool: dict[Target, bool] = {}
        table = self.table(rows)
        for order in orders:
            bare = [login for login in (*order.via, order) if login.password is login.private_key is None]
            try:
                target = target_of(order, table)
            except RelayError as error:
                self.assertEqual((error.executed, error.phase), ("no", "receive"))
                self.assertTrue(bare)
                continue
            except SSHError:  # there is no way through the site's own jump hosts
                self.assertFalse(order.via)
                continue
            self.assertFalse(bare and order.via)
            if self.reach(order, target) and bare:
                self.assertTrue(self.pool[target], "its command runs on a host that the site did not check")
        self.file.unlink()

    def reach(self, order: ExecuteCommand, target: Target) -> bool:
        """Log in to each host in turn; says whether the last one was reached."""
        for hop in (*reversed(hops_of(target)), target):
            if hop not in self.pool and not self.log_in(order, hop, hop is target):
                return False
        return True

    def log_in(self, order: ExecuteCommand, target: Target, last: bool) -> bool:
        behind = bool(order.via) and target.via is not None
        # Who is reached through a host that the order names is whom that host likes.
        shown = EVIL if behind or self.intercepted else TRUE[target.host]
        before = self.file.read_text()
        try:
            check_for(target, self.known_hosts).verify(target.host, target.port, shown)
        except SSHError:
            self.assertEqual(self.file.read_text(), before)
            return False
        checked = takes(before, self.known_hosts.policy, target.host, target.port, shown)
        if behind:
            added = self.file.read_text().removeprefix(before)
            self.assertFalse(added and "/" not in added, f"remembered as the host itself: {added}")
        known = brought(order).union(*map(brought, order.via))
        if (secrets_of(target.credential) & SITE) - known:
            self.assertFalse(order.via, "a secret of the site's on a way of the order's")
            self.assertTrue(checked, "a secret of the site's for a host that it did not check")
            if last and order.host_key is not None:
                self.assertEqual(fingerprint(shown).partition(" ")[2], order.host_key.rpartition(" ")[2])
        # What a connection is for is told by the target alone.
        self.pool[target] = checked
        return True


class RuleTests(SynchronousTestCase):
    """Each mixture by itself."""

    def setUp(self) -> None:
        self.table = CredentialTable(
            [
                CredentialRule(hosts=("gate",), agent="/gate"),
                CredentialRule(hosts=("inner",), via="gate"),
                CredentialRule(hosts=("db", "inner"), agent="/agent"),
            ]
        )

    def order(self, host: str = "db", **changes: Any) -> ExecuteCommand:
        fields: dict[str, Any] = {"command_id": "c", "server_id": 1, "port": 22, "username": "me", "command": "true"}
        return ExecuteCommand(**{**fields, "host": host, **changes})

    def hop(self, host: str = "hop", **changes: Any) -> JumpHost:
        return JumpHost(**{"host": host, "username": "me", "password": Secret("p"), **changes})

    def test_the_sites_own(self) -> None:
        self.assertEqual(target_of(self.order("DB"), self.table), self.site("db", "/agent"))
        gate = self.site("gate", "/gate", trusted=True)
        self.assertEqual(target_of(self.order("inner"), self.table), self.site("inner", "/agent", via=gate))

    def site(self, host: str, agent: str, **fields: Any) -> Target:
        return Target(host, 22, "me", Credential(agent=agent), site=True, **fields)

    def test_a_fingerprint_narrows_the_sites_check(self) -> None:
        target = target_of(self.order(host_key="SHA256:x"), self.table)
        self.assertEqual(target, self.site("db", "/agent", host_key="SHA256:x"))

    def test_the_orders_own(self) -> None:
        target = target_of(self.order("inner", password=Secret("p"), host_key="SHA256:x"), self.table)
        gate = self.site("gate", "/gate", trusted=True)
        self.assertEqual(target, Target("inner", 22, "me", Credential("p"), "SHA256:x", gate))

    def test_nothing_is_joined(self) -> None:
        """With a key of the site's beside it, a password of the order's stays alone."""
        target = target_of(self.order(password=Secret("p"), passphrase=Secret("q"), certificate="c"), self.table)
        self.assertEqual(target.credential, Credential("p", None, "q", "c"))
        for part in ({"passphrase": Secret("q")}, {"certificate": "c"}):
            error = self.assertRaises(CredentialIncomplete, target_of, self.order(**part), self.table)
            self.assertIn("me@db:22", str(error))
            order = self.order(password=Secret("p"), via=(self.hop(password=None, **part),))
            self.assertRaises(CredentialIncomplete, target_of, order, self.table)

    def test_ways_of_the_order(self) -> None:
        """It has to bring what they take, also for a hop that the site has something for."""
        for host in ("db", "inner", "unknown"):
            error = self.assertRaises(CredentialKept, target_of, self.order(host, via=(self.hop(),)), self.table)
            self.assertIn(f"me@{host}:22", str(error))
            self.assertEqual((error.code, error.executed, error.retriable), ("credential-kept", "no", False))
        for host in ("gate", "db", "hop"):
            order = self.order(password=Secret("p"), via=(self.hop(), self.hop(host, password=None)))
            error = self.assertRaises(CredentialKept, target_of, order, self.table)
            self.assertIn(f"me@{host}:22", str(error))

    def test_names_of_ways(self) -> None:
        """What is met there is remembered for it alone; the nearest hop, where the site goes directly, is itself."""
        target = target_of(self.order(password=Secret("p"), via=(self.hop(), self.hop("two", port=23))), self.table)
        found = [(hop.host, hop.detour) for hop in (target, *hops_of(target))]
        self.assertEqual(found, [("db", "hop:22/two:23"), ("two", "hop:22"), ("hop", "")])
        target = target_of(self.order(password=Secret("p"), via=(self.hop("inner"),)), self.table)
        found = [(hop.host, hop.detour) for hop in (target, *hops_of(target))]
        self.assertEqual(found, [("db", "direct/inner:22"), ("inner", "direct")])

    def test_a_user_for_whom_the_site_has_no_way(self) -> None:
        """Whoever orders chooses the user: where the site has jump hosts before a host, going directly is a detour."""
        table = CredentialTable(
            [
                CredentialRule(hosts=("gate", "inner"), users=("deploy",), agent="/gate", via="gate"),
                CredentialRule(hosts=("inner",), users=("admin",), agent="/admin"),
            ]
        )
        found = {
            (host, user): target_of(self.order(host, username=user, password=Secret("p")), table).detour
            for host in ("inner", "gate", "db")
            for user in ("deploy", "admin", "me")
        }
        self.assertEqual({place: way for place, way in found.items() if way}, {("inner", "me"): "direct"})
        target = target_of(self.order(password=Secret("p"), via=(self.hop("inner"),)), table)
        self.assertEqual([hop.detour for hop in (target, *hops_of(target))], ["direct/inner:22", "direct"])

    def test_nothing_at_all(self) -> None:
        self.assertRaises(CredentialMissing, target_of, self.order("unknown"), self.table)

    def test_nobody_rides_on_a_connection_that_the_site_did_not_check(self) -> None:
        """Not even with the very same secret."""
        mine = CredentialTable([CredentialRule(hosts=("*",), agent="/agent")]).target("db", 22, "me", "SHA256:x")
        assert mine is not None
        theirs = Target("db", 22, "me", Credential(agent="/agent"), "SHA256:x")
        self.assertNotEqual(mine, theirs)


class CheckTests(SynchronousTestCase):
    """The key of a host, by what a target asks for."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-logins-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.file = self.directory / "known_hosts"

    def check(self, shown: bytes, text: str = "", policy: Any = "accept-new", **fields: Any) -> tuple[str, str]:
        """The code of the error, and what the file holds more."""
        self.file.unlink(missing_ok=True)
        self.file.write_text(text)
        target = Target("db", 22, "me", Credential("p"), **fields)
        code = ""
        try:
            check_for(target, KnownHosts(str(self.file), policy)).verify("db", 22, shown)
        except SSHError as error:
            code = error.code
        return code, self.file.read_text().removeprefix(text)

    def test_both_have_to_hold(self) -> None:
        good, true = {"site": True, "host_key": fingerprint(TRUE["db"])}, TRUE["db"]
        known, other, revoked = line("db", 22, true), line("db", 22, EVIL), line("db", 22, true, "@revoked ")
        self.assertEqual(self.check(true, known, **good), ("", ""))
        self.assertEqual(self.check(true, **good), ("", known))
        self.assertEqual(self.check(true, policy="ignore", **good), ("", ""))
        self.assertEqual(self.check(true, policy="strict", **good), ("host-key-unknown", ""))
        self.assertEqual(self.check(true, other, **good), ("host-key-changed", ""))
        self.assertEqual(self.check(true, revoked, **good), ("host-key-revoked", ""))
        self.assertEqual(self.check(true, revoked + known, **good), ("host-key-revoked", ""))
        for policy in ("accept-new", "strict", "ignore"):
            for text in ("", known, other, revoked):
                self.assertEqual(self.check(EVIL, text, policy, **good), ("host-key-unexpected", ""))

    def test_types_of_key_to_ask_for(self) -> None:
        rsa = bytes(NS(b"ssh-rsa") + NS(b"key"))
        blob = base64.b64encode(rsa).decode()
        both = line("db", 22, TRUE["db"]) + f"db ssh-rsa {blob}\n"
        for text, expected, types in (
            (both, fingerprint(rsa), {b"ssh-rsa"}),
            (both, fingerprint(rsa).partition(" ")[2], {b"ssh-rsa", b"ssh-ed25519"}),
            (line("db", 22, TRUE["db"]), fingerprint(rsa), {b"ssh-ed25519"}),
            ("", fingerprint(rsa), {b"ssh-rsa"}),
            (
                both + f"@cert-authority db ssh-rsa {blob}\n",
                fingerprint(rsa),
                {b"ssh-rsa", b"ssh-rsa-cert-v01@openssh.com"},
            ),
        ):
            self.file.write_text(text)
            target = Target("db", 22, "me", Credential("p"), expected, site=True)
            self.assertEqual(check_for(target, KnownHosts(str(self.file), "strict")).key_types("db", 22), types)

    def test_a_certificate_is_expected_by_its_key(self) -> None:
        """As ssh-keygen -l shows it, beside an authority that the site trusts."""
        authority = Authority()
        self.addCleanup(authority.close)
        public = key_pair()[1]
        certificate = base64.b64decode(authority.sign(public, "-h", "-n", "db").split()[1])
        trusted = f"@cert-authority db {authority.public}\n"
        good = {"site": True, "host_key": fingerprint(blob_of(public))}
        self.assertEqual(self.check(certificate, trusted, "strict", **good), ("", ""))
        self.assertEqual(self.check(certificate, "", "strict", **good), ("host-key-unknown", ""))
        good["host_key"] = fingerprint(EVIL)
        self.assertEqual(self.check(certificate, trusted, "strict", **good), ("host-key-unexpected", ""))

    def test_an_order_with_its_own_credential_decides_alone(self) -> None:
        theirs = {"host_key": fingerprint(EVIL)}
        self.assertEqual(self.check(EVIL, line("db", 22, TRUE["db"]), "strict", **theirs), ("", ""))

    def test_detours(self) -> None:
        known, beside = line("db", 22, TRUE["db"]), line("db/hop:22", 22, EVIL)
        self.assertEqual(self.check(EVIL, detour="hop:22"), ("", beside))
        self.assertEqual(self.check(EVIL, beside, detour="hop:22"), ("", ""))
        self.assertEqual(self.check(TRUE["db"], beside, detour="hop:22"), ("host-key-changed", ""))
        self.assertEqual(self.check(TRUE["db"], known + beside, detour="hop:22"), ("", ""))
        self.assertEqual(self.check(EVIL, known + beside, detour="hop:22"), ("host-key-changed", ""))
        self.assertEqual(self.check(EVIL, line("db", 22, EVIL, "@revoked "), detour="hop:22"), ("host-key-revoked", ""))
        self.assertEqual(self.check(EVIL, beside, "strict", detour="hop:22"), ("", ""))
        self.assertEqual(self.check(EVIL, "", "strict", detour="hop:22"), ("host-key-unknown", ""))
        self.assertEqual(self.check(EVIL, beside), ("", line("db", 22, EVIL)))

    def test_types_of_key_on_a_detour(self) -> None:
        self.file.write_text(line("db/hop:22", 22, EVIL))
        target = Target("db", 22, "me", Credential("p"), detour="hop:22")
        self.assertEqual(check_for(target, KnownHosts(str(self.file), "strict")).key_types("db", 22), {b"ssh-ed25519"})
