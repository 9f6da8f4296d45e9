"""
Credentials in the store, on both databases.
"""

from __future__ import annotations

from relayd.hub.store import credentials
from relayd.hub.store.credentials import SealedValue
from relayd.hub.store.errors import Changed, Conflict, NotFound, StillReferred
from relayd.hub.store.host_records import Host, SealedCredential
from relayd.hub.store.hosts import add_host, delete_host, host_named
from tests.support.databases import OnBothStores

NOW = 1_800_000_000_000_000


def made(number: int) -> SealedCredential:
    return SealedCredential(id=f"id-{number}", name=f"c{number}", method="password", sealed=b"sealed %d" % number)


class CredentialTests(OnBothStores):
    async def start(self) -> None:
        await super().start()
        for number in range(3):
            await self.store.run(credentials.add_credential, made(number), NOW)

    async def test_what_is_secret_is_not_in_lists(self) -> None:
        page = await self.store.read(credentials.page_of_credentials, limit=2)
        self.assertEqual([each.name for each in page.items], ["c0", "c1"])
        for shown in (repr(page), repr(made(1)), repr(SealedValue("x", b"sealed"))):
            self.assertNotIn("sealed", shown)
        found = await self.store.read(credentials.sealed_credentials, ["id-1", "id-9", "id-1"])
        self.assertEqual(found, {"id-1": made(1)})

    async def test_changes_have_versions(self) -> None:
        changed = await self.store.run(credentials.change_credential, "c0", new_name="d", sealed=b"other", version=1)
        self.assertEqual((changed.name, changed.version, changed.method), ("d", 2, "password"))
        self.assertEqual((await self.store.read(credentials.sealed_credentials, ["id-0"]))["id-0"].sealed, b"other")
        await self.store.run(credentials.change_credential, "d", method="at-the-site", sealed=None)
        self.assertIsNone((await self.store.read(credentials.sealed_credentials, ["id-0"]))["id-0"].sealed)
        await self.assertFailure(self.store.run(credentials.change_credential, "d", version=2), Changed)
        await self.assertFailure(self.store.run(credentials.change_credential, "d", new_name="c1"), Conflict)
        await self.assertFailure(self.store.run(credentials.add_credential, made(1), NOW), Conflict)
        await self.assertFailure(self.store.read(credentials.credential_named, "c0"), NotFound)

    async def test_one_in_use_is_not_deleted(self) -> None:
        await self.store.run(add_host, Host(name="a", address="a", credential="c1"), NOW)
        self.assertEqual((await self.store.read(credentials.credential_named, "c1")).hosts, 1)
        await self.assertFailure(self.store.run(credentials.delete_credential, "c1"), StillReferred)
        await self.store.run(credentials.change_credential, "c1", new_name="renamed")
        self.assertEqual((await self.store.read(host_named, "a")).credential, "renamed")
        await self.store.run(delete_host, "a")
        await self.assertFailure(self.store.run(credentials.delete_credential, "renamed", 1), Changed)
        await self.store.run(credentials.delete_credential, "renamed", 2)
        self.assertEqual(await self.store.read(credentials.names_of_credentials), {"c0", "c2"})

    async def test_sealed_anew_only_where_nobody_changed_it(self) -> None:
        values = await self.store.read(credentials.sealed_after, "credentials", "id-0", 5)
        self.assertEqual([value.id for value in values], ["id-1", "id-2"])
        await self.store.run(credentials.change_credential, "c1", sealed=b"changed")
        changes = [(value, b"anew") for value in values]
        self.assertEqual(await self.store.run(credentials.replace_sealed, "credentials", changes), 1)
        found = await self.store.read(credentials.sealed_credentials, ["id-1", "id-2"])
        self.assertEqual((found["id-1"].sealed, found["id-2"].sealed), (b"changed", b"anew"))
        self.assertTrue(await self.store.read(credentials.anything_is_sealed))
