"""
Hosts in the store, on both databases.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection, insert

from relayd.hub.decisions.selectors import NoHostSelected, parse
from relayd.hub.store import hosts
from relayd.hub.store.credentials import add_credential
from relayd.hub.store.errors import BadCursor, Changed, Conflict, NotFound
from relayd.hub.store.host_records import Host, LabelCount, SealedCredential
from relayd.hub.store.tables import relays
from tests.support.databases import OnBothStores

NOW = 1_800_000_000_000_000
WEB = Host(
    name="web1",
    address="10.0.0.1",
    port=2222,
    user="root",
    relays=("paris", "oslo"),
    labels={"env": "prod", "web": ""},
    via="bastion",
    host_key="SHA256:" + "a" * 43,
    credential="ops",
)


def prepare(connection: Connection) -> None:
    """Two relays and a credential."""
    names = ("paris", "oslo")
    connection.execute(insert(relays), [{"id": f"r-{name}", "name": name, "created_at": NOW} for name in names])
    add_credential(connection, SealedCredential(id="c-ops", name="ops", method="at-the-site", sealed=None), NOW)


class HostTests(OnBothStores):
    async def start(self) -> None:
        await super().start()
        await self.store.run(prepare)

    async def test_what_is_added_is_there(self) -> None:
        added = await self.store.run(hosts.add_host, WEB, NOW)
        self.assertEqual(await self.store.read(hosts.host_named, "web1"), added)
        self.assertEqual((added.version, added.created_at, added.credential_id), (1, NOW, "c-ops"))
        self.assertEqual(
            {name: getattr(added, name) for name in WEB.__struct_fields__},
            {name: getattr(WEB, name) for name in WEB.__struct_fields__},
        )
        await self.assertFailure(self.store.run(hosts.add_host, WEB, NOW), Conflict)
        for wrong in (Host(name="x", address="x", relays=("rome",)), Host(name="x", address="x", credential="none")):
            await self.assertFailure(self.store.run(hosts.add_host, wrong, NOW), NotFound)
        await self.assertFailure(self.store.read(hosts.host_named, "x"), NotFound)

    async def test_changes_have_versions(self) -> None:
        added = await self.store.run(hosts.add_host, WEB, NOW)
        before = await self.store.read(hosts.inventory_version)
        new = Host(name="web2", address="web2", relays=("oslo",), labels={"env": "test"})
        changed = await self.store.run(hosts.change_host, "web1", new, 1)
        self.assertEqual((changed.id, changed.version, changed.labels), (added.id, 2, {"env": "test"}))
        self.assertEqual(await self.store.read(hosts.host_named, "web2"), changed)
        self.assertNotEqual(await self.store.read(hosts.inventory_version), before)
        await self.assertFailure(self.store.run(hosts.change_host, "web2", WEB, 1), Changed)
        await self.assertFailure(self.store.run(hosts.delete_host, "web2", 1), Changed)
        await self.store.run(hosts.add_host, WEB, NOW)
        await self.assertFailure(self.store.run(hosts.change_host, "web2", WEB), Conflict)
        await self.store.run(hosts.delete_host, "web2", 2)
        self.assertEqual([host.name for host in await self.store.read(hosts.all_hosts)], ["web1"])
        self.assertNotIn("test", [each.value for each in await self.store.read(hosts.labels_of_hosts)])

    async def test_lists(self) -> None:
        some = [
            Host(name=f"h{number:02}", address="x", labels={"env": ("prod", "test")[number % 2], "all-of": ""})
            for number in range(25)
        ]
        await self.store.run(hosts.apply_import, some, [], [], NOW)
        for selector, expected in ((None, 25), (parse("env=prod"), 13), (parse("!all-of"), 0)):
            names: list[str] = []
            cursor = None
            while True:
                page = await self.store.read(hosts.page_of_hosts, selector=selector, cursor=cursor, limit=10)
                names += [host.name for host in page.items]
                cursor = page.next_cursor
                if cursor is None:
                    break
            self.assertEqual((len(names), names), (expected, sorted(set(names))))
        page = await self.store.read(hosts.page_of_hosts, limit=10)
        self.assertEqual(page.items[0].labels, {"all-of": "", "env": "prod"})
        wrong = self.store.read(hosts.page_of_hosts, selector=parse("env=prod"), cursor=page.next_cursor)
        await self.assertFailure(wrong, BadCursor)
        self.assertEqual(
            await self.store.read(hosts.labels_of_hosts),
            [LabelCount("all-of", "", 25), LabelCount("env", "prod", 13), LabelCount("env", "test", 12)],
        )
        self.assertEqual(len(await self.store.read(hosts.selected_hosts, parse("env=test,h0*"))), 5)
        await self.assertFailure(self.store.read(hosts.selected_hosts, parse("env=x")), NoHostSelected)
        found = await self.store.read(hosts.hosts_named, ["h03", "h01", "h03"])
        self.assertEqual([host.name for host in found], ["h03", "h01"])
        await self.assertFailure(self.store.read(hosts.hosts_named, ["h03", "nobody"]), NotFound)

    async def test_an_import_is_whole_or_not_at_all(self) -> None:
        a = await self.store.run(hosts.add_host, Host(name="a", address="a"), NOW)
        b = await self.store.run(hosts.add_host, Host(name="b", address="b"), NOW)
        await self.store.run(hosts.change_host, "b", Host(name="b", address="b2"))
        late = self.store.run(hosts.apply_import, [WEB], [(a, a)], [b], NOW)
        await self.assertFailure(late, Changed)
        self.assertEqual([host.version for host in await self.store.read(hosts.all_hosts)], [1, 2])

    async def test_many_hosts_cost_little(self) -> None:
        """A selector looks at each label of each host."""
        some = [
            Host(
                name=f"host-{number:04}",
                address="10.0.0.1",
                relays=("paris",),
                labels={"env": "prod", "n": str(number % 7), "web": ""},
            )
            for number in range(3000)
        ]
        await self.store.run(hosts.apply_import, some, [], [], NOW)
        selector = parse("env=prod, n in (1, 2)")

        def measured(connection: Connection) -> tuple[int, float]:
            before = time.thread_time()
            found = hosts.selected_hosts(connection, selector)
            return len(found), time.thread_time() - before

        count, seconds = await self.store.read(measured)
        self.assertEqual(count, 858)
        self.assertLess(seconds, 1)  # it takes 0.05 s of a processor's time
