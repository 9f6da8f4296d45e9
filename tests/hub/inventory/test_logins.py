"""
How a host of the inventory becomes the fields of a command.
"""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.inventory.credentials import Login, sealed_credential
from relayd.hub.inventory.errors import NotOpened
from relayd.hub.inventory.logins import Inventory, NoWay, Opener, Way, way_to
from relayd.hub.inventory.sealing import FixedKeys, Sealer, new_key
from relayd.hub.store.host_records import SealedCredential, StoredHost
from relayd.wire.messages import ExecuteCommand, Secret
from relayd.wire.parsing import parse_execute_command

PASSWORD = Login(method="password", password=Secret("pw-1"))
KEY = Login(method="certificate", private_key=Secret("key-2"), passphrase=Secret("pp-2"), certificate="cert-2")
SITE = Login(method="at-the-site")


def host(name: str, **changes: Any) -> StoredHost:
    values: dict[str, Any] = {"address": f"{name}.example.com", "user": "root", "relays": ("paris",)}
    return StoredHost(id=name, version=1, created_at=0, name=name, **{**values, **changes})


class LoginTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.sealer = Sealer(FixedKeys((new_key(),)))
        self.credentials: dict[str, SealedCredential] = {}
        for name, login in (("pw", PASSWORD), ("key", KEY), ("site", SITE)):
            self.credentials[name] = sealed_credential(self.sealer, login, credential_id=name, name=name)

    def wire(self, of: StoredHost, *others: StoredHost) -> dict[str, Any]:
        """What a relay gets; it is valid there."""
        way = way_to(of, Inventory([of, *others]))
        # as a run keeps it
        way = msgspec.json.decode(msgspec.json.encode(way), type=Way)
        fields = Opener(self.credentials, self.sealer).fields(way)
        wire = ExecuteCommand(command_id="1", command="true", **fields).to_wire()
        parse_execute_command(wire)
        return {name: value for name, value in wire.items() if name not in ("commandId", "command")}

    def test_each_credential(self) -> None:
        place = {"host": "a.example.com", "port": 22, "username": "root"}
        self.assertEqual(self.wire(host("a", credential_id="pw")), {**place, "password": "pw-1"})
        key = {"privateKey": "key-2", "passphrase": "pp-2", "certificate": "cert-2"}
        self.assertEqual(self.wire(host("a", credential_id="key")), place | key)
        self.assertEqual(self.wire(host("a", credential_id="site")), place)
        self.assertEqual(self.wire(host("a")), place)

    def test_the_host_is_as_people_wrote_it(self) -> None:
        of = host("a", address="DB.Example.COM", port=2222, user="ops", host_key="SHA256:" + "a" * 43)
        expected = {"host": "DB.Example.COM", "port": 2222, "username": "ops", "hostKey": "SHA256:" + "a" * 43}
        self.assertEqual(self.wire(of), expected)

    def test_jump_hosts_have_their_own_credentials(self) -> None:
        of = host("a", credential_id="pw", via="gate,ops@10.0.0.9:2022")
        gate = host("gate", credential_id="key", port=2200, user="jump", host_key="SHA256:" + "b" * 43, relays=())
        second = host("second", address="10.0.0.9", port=2022, credential_id="pw", user="")
        via = self.wire(of, gate, second)["via"]
        self.assertEqual(
            via,
            [
                {
                    "host": "gate.example.com",
                    "port": 2200,
                    "username": "jump",
                    "privateKey": "key-2",
                    "passphrase": "pp-2",
                    "certificate": "cert-2",
                    "hostKey": "SHA256:" + "b" * 43,
                },
                {"host": "10.0.0.9", "port": 2022, "username": "ops", "password": "pw-1"},
            ],
        )
        way = way_to(of, Inventory([of, gate, second]))
        self.assertEqual((way.credential_ids, way.relays), ({"pw", "key"}, ("paris",)))

    def test_the_nearest_jump_host_may_be_behind_others(self) -> None:
        of = host("a", credential_id="pw", via="inner")
        inner, outer = host("inner", credential_id="pw", via="outer"), host("outer", credential_id="pw")
        self.assertEqual(
            [hop["host"] for hop in self.wire(of, inner, outer)["via"]], ["outer.example.com", "inner.example.com"]
        )
        round_about = host("outer", credential_id="pw", via="inner")
        self.assertIn("in a circle", self.refused(of, inner, round_about))

    def test_a_place_that_several_hosts_have(self) -> None:
        of = host("a", credential_id="pw", via="u2@10.0.0.9")
        two = [host(f"h{number}", address="10.0.0.9", user=f"u{number}", credential_id="pw") for number in (1, 2)]
        self.assertEqual(self.wire(of, *two)["via"][0]["username"], "u2")
        self.assertIn("is not in the inventory", self.refused(host("a", credential_id="pw", via="10.0.0.9"), *two))

    def refused(self, of: StoredHost, *others: StoredHost) -> str:
        return str(self.assertRaises(NoWay, self.wire, of, *others))

    def test_what_no_relay_would_take_is_refused_here(self) -> None:
        gate, bare = host("gate", credential_id="key"), host("bare")
        at_site = host("at-site", credential_id="site")
        for of, words in (
            (host("a", user=""), "the host a has no user"),
            (host("a", relays=()), "the host a has no relay"),
            (host("a", credential_id="pw", via="nowhere"), "the jump host nowhere of a is not in the inventory"),
            (host("a", credential_id="pw", via="bare"), "the jump host bare of a is not in the inventory"),
            (host("a", via="gate"), "has jump hosts and no credential"),
            (host("a", credential_id="site", via="gate"), "its credential is at the site"),
            (host("a", credential_id="pw", via="at-site"), "its credential is at the site"),
            (host("a", credential_id="gone"), "was deleted"),
        ):
            self.assertIn(words, self.refused(of, gate, bare, at_site))

    def test_a_credential_that_was_moved_does_not_open(self) -> None:
        moved = self.credentials["key"]
        self.credentials["pw"] = SealedCredential(id="pw", name="pw", method="key", sealed=moved.sealed)
        self.assertRaises(NotOpened, self.wire, host("a", credential_id="pw"))
