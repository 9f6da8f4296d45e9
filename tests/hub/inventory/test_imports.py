"""
Imports: the dry run, and what is done, on both databases.
"""

from __future__ import annotations

from relayd.hub.inventory.imports import apply, dry_run
from relayd.hub.inventory.plans import Defaults, FieldChange, HostChange
from relayd.hub.inventory.texts import read_inventory, write_inventory
from relayd.hub.store import hosts
from relayd.hub.store.errors import Changed
from relayd.hub.store.host_records import Host
from tests.hub.store.test_hosts import NOW, WEB, prepare
from tests.support.databases import OnBothStores

INI = """
[web]
web[1:2] ansible_user=root
[web:vars]
relayd_relays=paris
"""


class ImportTests(OnBothStores):
    async def start(self) -> None:
        await super().start()
        await self.store.run(prepare)
        await self.store.run(hosts.add_host, WEB, NOW)
        await self.store.run(hosts.add_host, Host(name="old", address="old"), NOW)

    async def test_a_dry_run_says_exactly_what_changes(self) -> None:
        parsed = read_inventory(INI, "ansible-ini")
        before = await self.store.read(hosts.all_hosts)
        tried = await self.store.read(dry_run, parsed, remove_missing=True)
        self.assertEqual(await self.store.read(hosts.all_hosts), before)
        self.assertEqual((tried.errors, tried.applied), ([], False))
        self.assertEqual([host.name for host in tried.plan.add], ["web2"])
        changes = [
            FieldChange("address", "10.0.0.1", "web1"),
            FieldChange("relays", ("paris", "oslo"), ("paris",)),
            FieldChange("labels", {"env": "prod", "web": ""}, {"web": ""}),
        ]
        self.assertEqual(tried.plan.change, [HostChange("web1", changes)])
        self.assertEqual((tried.plan.remove, tried.plan.unchanged), (["old"], 0))

        done = await self.store.run(apply, parsed, NOW, remove_missing=True, version=tried.version)
        self.assertEqual((done.plan, done.applied), (tried.plan, True))
        web1, web2 = await self.store.read(hosts.all_hosts)
        self.assertEqual((web1.address, web1.relays, web1.labels, web1.version), ("web1", ("paris",), {"web": ""}, 2))
        # what the text does not say stays
        self.assertEqual((web1.port, web1.via, web1.credential, web1.host_key), (2222, WEB.via, "ops", WEB.host_key))
        self.assertEqual((web2.user, web2.relays, web2.port), ("root", ("paris",), 22))

        again = await self.store.read(dry_run, parsed, remove_missing=True)
        self.assertEqual((again.plan.unchanged, again.plan.add, again.plan.change, again.plan.remove), (2, [], [], []))

    async def test_nothing_is_removed_unless_asked(self) -> None:
        await self.store.run(apply, read_inventory(INI, "ansible-ini"), NOW)
        self.assertEqual([host.name for host in await self.store.read(hosts.all_hosts)], ["old", "web1", "web2"])
        nothing = read_inventory("[]", "json")
        refused = await self.store.run(apply, nothing, NOW, remove_missing=True)
        self.assertEqual((len(refused.errors), refused.applied), (1, False))
        self.assertEqual(len(await self.store.read(hosts.all_hosts)), 3)

    async def test_refused_when_the_inventory_changed_since(self) -> None:
        parsed = read_inventory(INI, "ansible-ini")
        for change in (
            lambda: self.store.run(hosts.change_host, "old", Host(name="old", address="new")),
            lambda: self.store.run(hosts.add_host, Host(name="newer", address="x"), NOW),
            lambda: self.store.run(hosts.delete_host, "newer"),
        ):
            tried = await self.store.read(dry_run, parsed)
            await change()
            await self.assertFailure(self.store.run(apply, parsed, NOW, version=tried.version), Changed)
        self.assertEqual([host.name for host in await self.store.read(hosts.all_hosts)], ["old", "web1"])

    async def test_errors_keep_everything_from_being_imported(self) -> None:
        for text, line, words in (
            ("name,relays\nnew,\nnewer,rome\n", 3, "there is no relay rome"),
            ("name,credential\nnew,root\n", 2, "there is no credential root"),
            ("name,port\nnew,\nnewer,0\n", 3, "port is not a whole number"),
        ):
            parsed = read_inventory(text, "csv")
            for done in (await self.store.read(dry_run, parsed), await self.store.run(apply, parsed, NOW)):
                self.assertEqual((done.applied, done.plan.add, done.errors[0].line), (False, [], line))
                self.assertIn(words, done.errors[0].text)
        self.assertEqual(len(await self.store.read(hosts.all_hosts)), 2)

    async def test_jump_hosts_that_are_not_there_are_said(self) -> None:
        text = 'name,via\na,bastion\nb,"x@10.0.0.1:2222,other"\nother,\n'
        tried = await self.store.read(dry_run, read_inventory(text, "csv"))
        self.assertEqual([(each.kind, each.line) for each in tried.remarks], [("warning", 2)])

    async def test_what_is_exported_changes_nothing(self) -> None:
        await self.store.run(apply, read_inventory(INI, "ansible-ini", Defaults(credential="ops")), NOW)
        present = await self.store.read(hosts.all_hosts)
        for form in ("csv", "json", "ansible-yaml"):
            parsed = read_inventory(write_inventory(present, form), form)
            tried = await self.store.read(dry_run, parsed, remove_missing=True)
            self.assertEqual((tried.errors, tried.plan.unchanged), ([], 3), form)
