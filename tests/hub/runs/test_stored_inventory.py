"""
The inventory of the store as runs need it, on both databases.
"""

from __future__ import annotations

from relayd.hub.inventory.credentials import Login, sealed_credential
from relayd.hub.inventory.sealing import FixedKeys, Sealer, new_key
from relayd.hub.runs.stored_inventory import StoredInventory
from relayd.hub.store import hosts
from relayd.hub.store.credentials import add_credential, change_credential
from relayd.hub.store.host_records import Host
from relayd.wire.messages import JumpHost, Secret
from tests.hub.store.test_hosts import NOW, prepare
from tests.support.databases import OnBothStores


class StoredInventoryTests(OnBothStores):
    async def start(self) -> None:
        await super().start()
        await self.store.run(prepare)
        sealer = Sealer(FixedKeys((new_key(),)))
        login = Login(method="password", password=Secret("pw"))
        secret = sealed_credential(sealer, login, credential_id="c-pw", name="pw")
        await self.store.run(add_credential, secret, NOW)
        for host in (
            Host(name="a", address="fe80::1%eth0", user="root", relays=("paris", "oslo"), credential="ops"),
            Host(name="b", address="B.example.com", user="root", relays=("oslo",), via="gate", credential="pw"),
            Host(name="c", address="c", relays=("oslo",)),
            Host(name="gate", address="10.0.0.1", port=2222, user="jump", credential="pw"),
        ):
            await self.store.run(hosts.add_host, host, NOW)
        self.inventory = StoredInventory(sealer)

    async def test_hosts_and_their_logins(self) -> None:
        found = await self.store.read(self.inventory.hosts)
        self.assertEqual([host.name for host in found], ["a", "b", "c", "gate"])
        self.assertEqual(found[0].relays, ("paris", "oslo"))
        self.assertEqual(self.inventory.relays_of(found[0].snapshot), ("paris", "oslo"))
        self.assertEqual(self.inventory.relays_of(found[2].snapshot), ("oslo",))
        for host in found:
            self.assertNotIn("secret", host.snapshot)

        # later changes of the inventory do not change what a run keeps of it
        await self.store.run(hosts.delete_host, "gate")
        a, b, c, gate = await self.store.read(self.inventory.logins, [host.snapshot for host in found])
        assert not isinstance(a, str) and not isinstance(b, str)
        self.assertEqual((a.host, a.username, a.password), ("fe80::1%eth0", "root", None))
        self.assertEqual((b.host, b.password), ("B.example.com", Secret("pw")))
        self.assertEqual(b.via, (JumpHost(host="10.0.0.1", port=2222, username="jump", password=Secret("pw")),))
        self.assertEqual(c, "the host c has no user; set one")
        self.assertEqual(gate, "the host gate has no relay that reaches it; set one")

        await self.store.run(change_credential, "pw", sealed=b"damaged")
        [why] = await self.store.read(self.inventory.logins, [found[1].snapshot])
        self.assertIn("none of the sealing keys opens it", str(why))
