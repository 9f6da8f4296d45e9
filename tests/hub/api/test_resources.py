"""
relayd.hub.api.resources: hosts, inventory, credentials, relays, audit log and operation by HTTP.
"""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred, fail

from relayd.hub.store.errors import StoreUnavailable
from tests.hub.api.hub_case import HubCase


class ResourceCase(HubCase):
    async def start(self) -> None:
        await super().start()
        await self.add_users()


class HostTests(ResourceCase):
    async def test_hosts(self) -> None:
        await self.add_hosts()
        new = {"name": "web-1", "relays": ["r1"], "labels": {"env": "prod", "web": ""}, "port": 2222}
        made = await self.call("alice", "POST", "/hosts", new, status=201)
        self.assertEqual(made.headers["location"], "/api/v1/hosts/web-1")
        self.assertEqual((made.document["address"], made.document["version"]), ("web-1", 1))
        again = await self.call("alice", "POST", "/hosts", new)
        self.assert_problem(again, 409, "conflict")
        got = await self.call("vera", "GET", "/hosts/web-1", status=200)
        self.assertEqual(got.headers["etag"], made.headers["etag"])
        cached = await self.call("vera", "GET", "/hosts/web-1", headers={"If-None-Match": got.headers["etag"]})
        self.assertEqual(cached.status, 304)
        patch, tag = {"labels": {"env": "test"}}, got.headers["etag"]
        changed = await self.call("alice", "PATCH", "/hosts/web-1", patch, {"If-Match": tag}, 200)
        self.assertEqual((changed.document["labels"], changed.document["port"]), ({"env": "test"}, 2222))
        self.assert_problem(await self.call("alice", "PATCH", "/hosts/web-1", patch, {"If-Match": tag}), 412, "changed")
        self.assertEqual((await self.call("vera", "GET", "/labels")).document["items"][0]["key"], "env")
        gone = await self.call("alice", "DELETE", "/hosts/web-1", headers={"If-Match": changed.headers["etag"]})
        self.assertEqual(gone.status, 204)
        self.assert_problem(await self.call("vera", "GET", "/hosts/web-1"), 404, "not-found")

    async def test_selectors(self) -> None:
        await self.add_hosts(web1="prod", web2="test", db1="prod")
        found = await self.call("vera", "GET", "/hosts?selector=env%3Dprod&limit=1", status=200)
        self.assertEqual([host["name"] for host in found.document["items"]], ["db1"])
        rest = f"/hosts?selector=env%3Dprod&limit=1&cursor={found.document['next']}"
        self.assertEqual([host["name"] for host in (await self.call("vera", "GET", rest)).document["items"]], ["web1"])
        other = f"/hosts?limit=1&cursor={found.document['next']}"
        self.assert_problem(await self.call("vera", "GET", other), 400, "bad-cursor")
        for twice in ("limit=1&limit=1", "limit=1&limi%74=2", "selector=all&limit=1&selector=env"):
            self.assert_problem(await self.call("vera", "GET", f"/hosts?{twice}"), 400, "invalid-query")
        for limit in ("0", "1001", "-1", "x", "nan", "9" * 40):
            self.assert_problem(await self.call("vera", "GET", f"/hosts?limit={limit}"), 400, "invalid-query")
        wrong = await self.call("vera", "GET", "/hosts?selector=env%3D%3D%3D")
        self.assert_problem(wrong, 400, "invalid-query")

    async def test_mistakes(self) -> None:
        for body, pointer in (
            ({"name": "a b"}, "/name"),
            ({"name": "web", "port": 70000}, "/port"),
            ({"name": "web", "hostKey": "nonsense"}, "/hostKey"),
            ({"name": "web", "labels": {"a b": ""}}, "/labels"),
            ({"name": "web", "id": "1"}, "/id"),
            ({"name": "web", "created_at": 1}, "/created_at"),
            ({"name": "x" * 300}, "/name"),
        ):
            problem = self.assert_problem(await self.call("alice", "POST", "/hosts", body), 422, "invalid-request")
            self.assertEqual(problem["errors"][0]["pointer"], pointer)
        response = await self.call("alice", "POST", "/hosts", {"name": "web", "relays": ["none"]})
        self.assert_problem(response, 404, "not-found")

    async def test_import_and_export(self) -> None:
        await self.add_hosts(old="prod")
        text = b"[web]\nweb1 ansible_host=10.0.0.1\nweb2 ansible_host=10.0.0.2\n"
        path, kind = "/inventory/import?format=ansible-ini&relays=r1", {"Content-Type": "text/plain"}
        dry = (await self.call("alice", "POST", f"{path}&dryRun=true", text, kind, 200)).document
        self.assertEqual((dry["applied"], dry["add"]), (False, ["web1", "web2"]))
        self.assertEqual(len((await self.call("vera", "GET", "/hosts")).document["items"]), 1)
        done = await self.call("alice", "POST", f"{path}&version={dry['version']}", text, kind, 200)
        self.assertTrue(done.document["applied"])
        late = await self.call("alice", "POST", f"{path}&version={dry['version']}", text, kind)
        self.assert_problem(late, 412, "changed")
        wrong = await self.call("alice", "POST", "/inventory/import?format=json", b"[{}]", kind)
        self.assert_problem(wrong, 422, "import-failed")
        for form in ("csv", "json", "ansible-yaml"):
            got = await self.call("vera", "GET", f"/inventory/export?format={form}", status=200)
            self.assertIn("attachment; filename=", got.headers["content-disposition"])
            self.assertNotIn("html", got.headers["content-type"])
            back = f"/inventory/import?format={form}&dryRun=true"
            again = (await self.call("alice", "POST", back, got.body, kind, 200)).document
            self.assertEqual((again["unchanged"], again["add"], again["change"]), (3, [], []))
        self.assert_problem(await self.call("alice", "POST", "/inventory/import", text, kind), 400, "invalid-query")

    async def test_credentials(self) -> None:
        """What is secret goes in, and never out."""
        secret = "canary-credential"
        new = {"name": "root", "method": "password", "password": secret}
        made = await self.call("alice", "POST", "/credentials", new, status=201)
        listed = await self.call("vera", "GET", "/credentials", status=200)
        patch = {"password": f"{secret}-2"}
        changed = await self.call("alice", "PATCH", "/credentials/root", patch, {"If-Match": made.headers["etag"]}, 200)
        wrong = await self.call("alice", "POST", "/credentials", {**new, "name": "x", "privateKey": secret})
        self.assertEqual(self.assert_problem(wrong, 422, "invalid-request")["errors"][0]["pointer"], "/privateKey")
        await self.call("alice", "POST", "/hosts", {"name": "web", "credential": "root"}, status=201)
        used = await self.call("alice", "DELETE", "/credentials/root", headers={"If-Match": "*"})
        self.assert_problem(used, 409, "still-referred")
        export = await self.call("vera", "GET", "/inventory/export")
        await self.acts()
        everything = [each.body for each in (made, listed, changed, wrong, used, export)]
        everything.append(self.log_path.read_bytes())
        for each in everything:
            self.assertNotIn(secret.encode(), each)


class RelayTests(ResourceCase):
    async def test_relays(self) -> None:
        new = {"name": "site-1", "allowedNetworks": ["192.0.2.0/24"], "note": "cellar"}
        made = await self.call("alice", "POST", "/relays", new, status=201)
        self.assertFalse(made.document["online"])
        token = (await self.call("alice", "POST", "/relays/site-1/enrolment", status=201)).document["token"]
        enrolled = (await self.call("", "POST", "/enrol", {"token": token}, status=200)).document
        self.assertEqual((enrolled["relay"], enrolled["url"]), ("site-1", "https://hub.example"))
        self.assertIn('server = "https://hub.example"', enrolled["settings"])
        self.assertNotIn(enrolled["key"], enrolled["settings"])
        for used in (token, "rle_" + "0" * 64, "x"):
            again = await self.call("", "POST", "/enrol", {"token": used})
            self.assert_problem(again, 403, "enrolment-refused")
        rotated = (await self.call("alice", "POST", "/relays/site-1/keys", {}, status=201)).document
        got = await self.call("vera", "GET", "/relays/site-1", status=200)
        self.assertEqual(len(got.document["keys"]), 2)
        for secret in (token, enrolled["key"], rotated["key"]):
            self.assertNotIn(secret.encode(), got.body)
        old = next(key["id"] for key in got.document["keys"] if key["id"] != rotated["id"])
        self.assertEqual((await self.call("alice", "DELETE", f"/relays/site-1/keys/{old}")).status, 204)
        self.assertIn(("site-1", "the key is revoked"), self.links.ended)
        tag = {"If-Match": got.headers["etag"]}
        off = await self.call("alice", "PATCH", "/relays/site-1", {"enabled": False}, tag, 200)
        self.assertFalse(off.document["enabled"])
        wrong = await self.call("alice", "PATCH", "/relays/site-1", {"allowedNetworks": ["x"]}, {"If-Match": "*"})
        self.assert_problem(wrong, 422, "bad-relay")
        gone = await self.call("alice", "DELETE", "/relays/site-1", headers={"If-Match": "*"})
        self.assertEqual(gone.status, 204)
        acts = [(entry["event"], entry["outcome"]) for entry in await self.acts()]
        for act in ("relay-add", "relay-invite", "relay-enrol", "relay-key-add", "relay-key-revoke", "relay-change"):
            self.assertIn((act, "done"), acts)

    async def test_a_relay_that_hosts_name(self) -> None:
        await self.add_hosts(web="prod")
        response = await self.call("alice", "DELETE", "/relays/r1", headers={"If-Match": "*"})
        self.assertEqual(response.status, 409)

    async def test_whether_it_is_there_is_always_fresh(self) -> None:
        """Its ETag is for changes of it."""
        await self.add_hosts()
        before = await self.call("vera", "GET", "/relays/r1", status=200)
        self.connect_relay()
        after = await self.call("vera", "GET", "/relays/r1", headers={"If-None-Match": before.headers["etag"]})
        self.assertEqual((after.status, after.document["online"]), (200, True))


class AuditTests(ResourceCase):
    async def test_the_log(self) -> None:
        for name in ("a", "b", "c"):
            await self.call("alice", "POST", "/hosts", {"name": name}, status=201)
        page = (await self.call("alice", "GET", "/audit?event=host-add&limit=2", status=200)).document
        self.assertEqual(
            [(each["outcome"], each.get("name")) for each in page["items"]], [("done", "c"), ("begun", None)]
        )
        self.assertEqual(page["items"][0]["principal"], "token:alice/all")
        rest = (await self.call("alice", "GET", f"/audit?event=host-add&cursor={page['next']}", status=200)).document
        self.assertEqual([each["name"] for each in rest["items"] if each["outcome"] == "done"], ["b", "a"])
        nobody = await self.call("alice", "GET", "/audit?principal=user:nobody", status=200)
        self.assertEqual(nobody.document["items"], [])
        self.assert_problem(await self.call("alice", "GET", "/audit?cursor=x"), 400, "invalid-query")
        exported = await self.call("alice", "GET", "/audit/export", status=200)
        lines = [json.loads(line) for line in exported.body.splitlines()]
        self.assertEqual(exported.body, self.log_path.read_bytes()[: len(exported.body)])
        self.assertGreater(len(lines), 6)

    async def test_what_is_not_recorded_is_not_done(self) -> None:
        await self.access.audit.close()
        response = await self.call("alice", "POST", "/hosts", {"name": "a"})
        self.assert_problem(response, 503, "audit-unavailable")
        self.assertGreater(int(response.headers["retry-after"]), 0)
        self.assert_problem(await self.call("alice", "GET", "/hosts/a"), 404, "not-found")

    async def test_lines_that_a_client_would_like_to_write(self) -> None:
        forged = 'x", "outcome": "done"}\n{"event": "forged'
        await self.call("bob", "POST", "/hosts", {"name": forged})
        path = "/hosts/x%22%2C%20%22outcome%22%3A%20%22done%22"
        await self.call("bob", "DELETE", path, headers={"If-Match": "*"})
        for entry in await self.acts():
            self.assertNotEqual(entry["event"], "forged")
            if entry["event"].startswith("host-"):
                self.assertEqual(entry["outcome"], "forbidden")


class OperationTests(ResourceCase):
    async def test_health_and_readiness(self) -> None:
        self.assertEqual((await self.call("", "GET", "/healthz")).body, b"ok\n")
        self.assertEqual((await self.call("", "GET", "/readyz")).status, 200)
        self.obstacles.append("database")
        response = await self.call("", "GET", "/readyz")
        self.assertEqual((response.status, response.body), (503, b"not ready: database\n"))

    async def test_metrics(self) -> None:
        await self.call("vera", "GET", "/hosts")
        await self.call("vera", "GET", "/hosts/none")
        text = (await self.call("vera", "GET", "/metrics", status=200)).body.decode()
        self.assertIn('relayd_hub_requests_total{route="GET /api/v1/hosts",status="200"} 1.0', text)
        self.assertIn('relayd_hub_requests_total{route="GET /api/v1/hosts/{name}",status="404"} 1.0', text)

    async def test_the_store_is_away(self) -> None:
        """It says so, and when to come again."""

        def away(*arguments: object, **named: object) -> Deferred[None]:
            return fail(StoreUnavailable(reason="the disk is full"))

        self.patch(self.store, "read", away)
        response = await self.call("vera", "GET", "/hosts")
        document = self.assert_problem(response, 503, "store-unavailable")
        self.assertIn("Nothing was changed", document["detail"])
        self.assertEqual(response.headers["retry-after"], "2")
