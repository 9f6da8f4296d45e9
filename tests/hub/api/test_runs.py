"""
relayd.hub.api.resources.runs, run_orders, run_events and invocations: a run by HTTP from its order to its outputs.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from relayd.hub.api import streams
from relayd.hub.api.resources import run_events
from relayd.hub.store import tables, users
from tests.hub.api.hub_case import BothStoresCase, HubCase
from tests.hub.api.serving import RawClient
from tests.hub.api.test_streams import read_events

KEY = {"Idempotency-Key": "k-1"}


class RunMixin(BothStoresCase):
    async def order(self, user: str = "olga", key: str = "k-1", **order: Any) -> Any:
        """A run that is ordered."""
        body = {"command": "uptime", "selector": "all", **order}
        response = await self.call(user, "POST", "/runs", body, {"Idempotency-Key": key}, 201)
        return response.document

    async def run_to_its_end(self, **stdouts: str) -> str:
        """A run on all hosts that has ended; what each wrote, by host."""
        self.connect_relay()
        run = await self.order()
        await self.until_sent(len(stdouts))
        for _, command in self.links.sent:
            await self.finish(command, stdouts[command.host.partition(".")[0]])
        while (await self.call("vera", "GET", f"/runs/{run['id']}")).document["endedAt"] is None:
            await self.pause()
        return str(run["id"])

    async def follow(self, run: str, token: str = "vera", query: str = "", **headers: str) -> RawClient:
        """A client that reads the events of a run."""
        lines = [f"GET /api/v1/runs/{run}/events{query} HTTP/1.0", f"Authorization: Bearer {self.tokens[token]}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return await self.connect(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def invocations(self, run: str) -> dict[str, Any]:
        """The invocations of a run, by host."""
        found = (await self.call("vera", "GET", f"/runs/{run}/invocations", status=200)).document
        return {each["host"]: each for each in found["items"]}


def events_in(client: RawClient) -> tuple[list[tuple[str, Any]], str]:
    """What a client has received."""
    return read_events(client.received.partition(b"\r\n\r\n")[2])


class RunTests(RunMixin):
    """On both databases."""

    async def start(self) -> None:
        await super().start()
        await self.add_users()
        await self.add_hosts(web1="prod", web2="prod", db1="test")

    async def test_from_order_to_output(self) -> None:
        run = await self.run_to_its_end(web1="same\n", web2="same\n", db1="odd one\n")
        got = (await self.call("vera", "GET", f"/runs/{run}", status=200)).document
        self.assertEqual((got["state"], got["counts"], got["size"]), ("succeeded", {"succeeded": 3}, 3))
        found = await self.invocations(run)
        self.assertEqual({each["state"] for each in found.values()}, {"succeeded"})
        groups = (await self.call("vera", "GET", f"/runs/{run}/groups", status=200)).document["items"]
        grouped = [(group["count"], sorted(group["hosts"])) for group in groups]
        self.assertEqual(grouped, [(1, ["db1"]), (2, ["web1", "web2"])])
        hits = (await self.call("vera", "GET", f"/runs/{run}/search?text=odd%20one", status=200)).document["items"]
        self.assertEqual([(hit["host"], hit["line"]) for hit in hits], [("db1", "odd one")])
        output = await self.call("vera", "GET", f"/invocations/{found['db1']['id']}/stdout", status=200)
        self.assertEqual((output.body, output.headers["content-type"]), (b"odd one\n", "application/octet-stream"))
        self.assertIn("attachment; filename=", output.headers["content-disposition"])
        path = f"/invocations/{found['db1']['id']}/stdout"
        part = await self.call("vera", "GET", path, headers={"Range": "bytes=4-6"})
        self.assertEqual((part.status, part.body), (206, b"one"))
        empty = await self.call("vera", "GET", f"/invocations/{found['db1']['id']}/stderr", status=200)
        self.assertEqual(empty.body, b"")
        listed = (await self.call("vera", "GET", "/runs?createdBy=token:olga/all", status=200)).document["items"]
        self.assertEqual([each["id"] for each in listed], [run])

        def delete(connection: Connection) -> None:
            connection.execute(tables.runs.update().values(output_deleted_at=1))

        await self.store.run(delete)
        gone = await self.call("vera", "GET", f"/invocations/{found['db1']['id']}/stdout")
        self.assert_problem(gone, 410, "output-gone")

    async def test_events_live_and_afterwards(self) -> None:
        """The same, whenever one begins and from wherever one goes on."""
        self.connect_relay()
        run = (await self.order())["id"]
        live = await self.follow(run)
        await self.until_sent(3)
        for _, command in self.links.sent:
            await self.finish(command, f"on {command.host}\n" * 12_000, 1 if command.host.startswith("db") else 0)
        await live.done
        afterwards = await self.follow(run)
        await afterwards.done

        def told(client: RawClient) -> tuple[Any, Any, Any]:
            events, last = events_in(client)
            states = {data["host"]: data["state"] for name, data in events if name == "invocation"}
            texts = {(data["host"], data["offset"], data["text"]) for name, data in events if name == "output"}
            final = [data for name, data in events if name == "run"][-1]
            self.assertEqual(events[-1][0], "end")
            return states, texts, (final, last)

        self.assertEqual(told(live), told(afterwards))
        self.patch(run_events, "ROWS", 2)  # what is read at a time ends anywhere
        in_parts = await self.follow(run)
        await in_parts.done
        self.assertEqual(told(in_parts), told(afterwards))
        states, texts, (final, _) = told(afterwards)
        self.assertEqual(states, {"web1": "succeeded", "web2": "succeeded", "db1": "failed"})
        self.assertEqual("".join(text for host, _, text in sorted(texts) if host == "db1"), "on db1.example\n" * 12_000)
        self.assertEqual((final["state"], final["size"]), ("failed", 3))
        kinds = ("invocation", "output")
        changes = [event for event in events_in(afterwards)[0] if event[0] in kinds]
        ids = [int(line[4:]) for line in afterwards.received.decode().split("\n") if line.startswith("id: ")]
        self.assertEqual(ids, sorted(ids))
        for after in ids:
            resumed = await self.follow(run, Last_Event_ID=str(after))
            await resumed.done
            rest = [event for event in events_in(resumed)[0] if event[0] in kinds]
            self.assertEqual(rest, changes[len(changes) - len(rest) :])
            self.assertTrue(rest or after >= ids[-2])
        quiet = await self.follow(run, query="?output=false")
        await quiet.done
        self.assertNotIn("output", {name for name, _ in events_in(quiet)[0]})

    async def test_output_that_is_no_text(self) -> None:
        await self.run_to_its_end(web1="\ud83d", web2="", db1="")
        run = (await self.call("vera", "GET", "/runs")).document["items"][0]["id"]
        client = await self.follow(run)
        await client.done
        self.assertEqual(events_in(client)[0][-1][0], "end")


class OrderTests(RunMixin, HubCase):
    async def start(self) -> None:
        await super().start()
        await self.add_users()
        await self.add_hosts(web1="prod", web2="prod", db1="test")

    async def test_the_same_order_twice_is_one_run(self) -> None:
        body = {"command": "uptime", "selector": "all"}
        self.assert_problem(await self.call("olga", "POST", "/runs", body), 400, "idempotency-key-missing")
        first, again = await self.order(), await self.order()
        self.assertEqual(first["id"], again["id"])
        other = await self.call("olga", "POST", "/runs", {**body, "command": "id"}, KEY)
        self.assert_problem(other, 422, "idempotency-key-reused")
        alices = await self.order("alice")
        self.assertNotEqual(alices["id"], first["id"], "the keys of another person are others")
        for key in ("", "a\tb", "x" * 201, "\xe4"):
            response = await self.call("olga", "POST", "/runs", body, {"Idempotency-Key": key})
            self.assert_problem(response, 400, "invalid-header")
        self.assertEqual(len((await self.call("vera", "GET", "/runs")).document["items"]), 2)

    async def test_mistakes(self) -> None:
        for body, code in (
            ({"selector": "all"}, "invalid-order"),
            ({"command": "x", "script": {"text": "y"}, "selector": "all"}, "invalid-order"),
            ({"command": "x", "selector": "all", "timeout": -1}, "invalid-order"),
            ({"command": "x", "selector": "all", "concurrency": "none"}, "invalid-order"),
            ({"command": "x", "selector": "env=nowhere"}, "no-hosts"),
            ({"command": "x", "selector": ""}, "no-hosts"),
            ({"command": "x", "hosts": ["nobody"]}, "no-hosts"),
            ({"command": "x", "selector": "all", "createdBy": "user:alice"}, "invalid-request"),
            ({"command": "x", "selector": "all", "state": "succeeded"}, "invalid-request"),
        ):
            self.assert_problem(await self.call("olga", "POST", "/runs", body, KEY), 422, code)
        self.assertEqual((await self.call("vera", "GET", "/runs")).document["items"], [])

    async def test_secrets_of_an_order_do_not_come_back(self) -> None:
        secret = "canary-of-an-order"
        run = await self.order(stdin=secret, env={"TOKEN": secret}, become={"password": secret})
        got = await self.call("vera", "GET", f"/runs/{run['id']}", status=200)
        self.assertNotIn(secret, str(run))
        self.assertNotIn(secret.encode(), got.body)
        await self.acts()
        self.assertNotIn(secret, self.log_path.read_text())

    async def test_an_operator_who_is_limited(self) -> None:
        """What it may see is everything; what it may touch is its own hosts."""
        run = await self.order("bob", deliverWithin=3600)
        self.assertEqual(sorted(await self.invocations(run["id"])), ["web1", "web2"])
        for body in ({"command": "x", "hosts": ["db1"]}, {"command": "x", "selector": "env=test"}):
            response = await self.call("bob", "POST", "/runs", body, {"Idempotency-Key": "o"})
            self.assert_problem(response, 422, "no-hosts")
        everywhere = (await self.order("olga", deliverWithin=3600))["id"]
        self.assertEqual((await self.call("bob", "GET", f"/runs/{everywhere}")).status, 200)
        for verb in ("pause", "cancel", "resume"):
            response = await self.call("bob", "POST", f"/runs/{everywhere}/{verb}")
            self.assertIn("db1", self.assert_problem(response, 403, "hosts-forbidden")["detail"])
        found = await self.invocations(everywhere)
        response = await self.call("bob", "POST", f"/invocations/{found['db1']['id']}/cancel")
        self.assert_problem(response, 403, "hosts-forbidden")
        self.assertEqual((await self.call("bob", "POST", f"/invocations/{found['web1']['id']}/cancel")).status, 200)
        self.assertEqual((await self.call("bob", "POST", f"/runs/{run['id']}/cancel", {})).status, 200)
        await self.call("vera", "POST", f"/runs/{everywhere}/cancel", {}, status=403)
        await self.call("olga", "POST", f"/runs/{everywhere}/cancel", {}, status=200)
        await self.until_ended(everywhere)
        again = await self.call("bob", "POST", f"/runs/{everywhere}/rerun", {"which": "all"}, status=201)
        self.assertEqual(sorted(await self.invocations(again.document["id"])), ["web1", "web2"])

    async def until_ended(self, run: str) -> None:
        while (await self.call("vera", "GET", f"/runs/{run}")).document["endedAt"] is None:
            await self.pause()

    async def test_control(self) -> None:
        self.connect_relay()
        run = (await self.order(concurrency=1))["id"]
        await self.until_sent(1)
        paused = await self.call("olga", "POST", f"/runs/{run}/pause", status=200)
        self.assertEqual(paused.document["state"], "paused")
        self.assert_problem(await self.call("olga", "POST", f"/runs/{run}/rerun", {"which": "all"}), 409, "not-now")
        self.assertEqual((await self.call("olga", "POST", f"/runs/{run}/resume")).document["state"], "running")
        cancelled = await self.call("olga", "POST", f"/runs/{run}/cancel", status=200)
        self.assertEqual(cancelled.document["state"], "cancelling")
        await self.finish(self.links.sent[0][1], "late\n")
        await self.until_ended(run)
        self.assert_problem(await self.call("olga", "POST", f"/runs/{run}/cancel"), 409, "not-now")
        for path in ("/runs/none/cancel", "/invocations/none/cancel", "/runs/none/pause"):
            self.assert_problem(await self.call("olga", "POST", path), 404, "not-found")
        for path in ("/runs/none", "/runs/none/invocations", "/runs/none/groups", "/runs/none/search?text=x",
                     "/runs/none/events", "/invocations/none", "/invocations/none/stdout"):  # fmt: skip
            self.assert_problem(await self.call("vera", "GET", path), 404, "not-found")

    async def test_dry_run(self) -> None:
        self.connect_relay()
        body = {"command": "rm -rf /", "selector": "env=prod"}
        plan = (await self.call("bob", "POST", "/runs/dry-run", body, status=200)).document
        self.assertEqual(plan["size"], 2)
        self.assertEqual({(item["relay"], item["allowed"], item["code"]) for item in plan["items"]},
                         {("r1", False, "forbidden-command")})  # fmt: skip
        self.assertEqual((await self.call("vera", "GET", "/runs")).document["items"], [])
        self.assertEqual(self.links.sent, [])

    async def test_what_the_audit_log_has_of_an_order(self) -> None:
        run = await self.order("bob", note="because")
        [begun, done] = [entry for entry in await self.acts("run-create")]
        self.assertEqual((begun["outcome"], begun["principal"]), ("begun", "token:bob/all"))
        self.assertEqual((done["outcome"], done["run"], done["hosts"], done["note"]), ("done", run["id"], 2, "because"))
        self.assertEqual(done["command"], self.access.audit.digest("uptime"))

    async def test_a_stream_ends_when_its_token_does(self) -> None:
        run = (await self.order(deliverWithin=3600))["id"]
        self.patch(streams, "HEARTBEAT", 0.2)
        client = await self.follow(run, "bob")
        await client.until(b"event: run\n")
        tokens = (await self.call("alice", "GET", "/tokens?everybody=true")).document["items"]
        bob = await self.store.read(users.find, "bob")
        mine = next(each["id"] for each in tokens if bob is not None and each["userId"] == bob.id)
        await self.call("alice", "DELETE", f"/tokens/{mine}", status=204)
        await client.done
        self.assertNotIn(b"event: end\n", client.received)
