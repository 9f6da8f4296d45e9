"""
Tests of `relayd.hub.store.runs`, `invocations`, `output` and `events` on both databases.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from relayd.hub.decisions.states import InvocationState, RunState
from relayd.hub.store import invocations, output, runs
from relayd.hub.store.errors import BadCursor, Conflict, NotFound
from relayd.hub.store.output import NewChunk
from relayd.hub.store.runs import NewInvocation, NewRun, Run
from relayd.hub.store.tables import invocations as table
from tests.support.databases import OnBothStores


def new_run(run_id: str = "r1", size: int = 3, **fields: Any) -> tuple[NewRun, list[NewInvocation]]:
    values: dict[str, Any] = {
        "id": run_id,
        "created_by": "user:ann",
        "created_at": 1_000,
        "command": {"command": "uptime"},
        "selector": "all",
        "rollout": {},
        "deliver_until": None,
        "output_limit": 1000,
        "deadline": 9_000,
    }
    members = [NewInvocation(f"{run_id}-{n}", f"id-h{n}", f"h{n}", "{}") for n in range(size)]
    return NewRun(**values | fields), members


class RunsTests(OnBothStores):
    async def add(self, run_id: str = "r1", size: int = 3, **fields: Any) -> Run:
        return await self.store.run(runs.add_run, *new_run(run_id, size, **fields))

    async def save(self, **changes: dict[str, Any]) -> None:
        named = {name.replace("_", "-"): values for name, values in changes.items()}
        await self.store.run(invocations.save_changes, named)

    async def test_a_run_and_its_invocations(self) -> None:
        run = await self.add(note="why", sealed=b"s")
        self.assertEqual((run.state, run.size, run.counts, run.note), (RunState.RUNNING, 3, {"waiting": 3}, "why"))
        self.assertEqual(await self.store.read(runs.get_run, "r1"), run)
        members = await self.store.read(invocations.members_of, "r1")
        self.assertEqual([(m.id, m.state, m.with_result) for m in members],
                         [(f"r1-{n}", InvocationState.WAITING, False) for n in range(3)])  # fmt: skip
        await self.assertFailure(self.store.read(runs.get_run, "r2"), NotFound)
        await self.assertFailure(self.store.read(invocations.get_invocation, "r2-1"), NotFound)

    async def test_the_same_request_is_known(self) -> None:
        run = await self.add(idempotency_key="k", request_digest=b"one")
        known = runs.known_run
        self.assertEqual(await self.store.read(known, "user:ann", "k", b"one"), run)
        self.assertIsNone(await self.store.read(known, "user:ben", "k", b"one"))
        await self.assertFailure(self.store.read(known, "user:ann", "k", b"two"), Conflict)
        await self.assertFailure(
            self.store.run(runs.add_run, *new_run("r2", idempotency_key="k", request_digest=b"one")), Conflict
        )

    async def test_changes(self) -> None:
        await self.add()
        await self.save(
            r1_0={"state": InvocationState.SENT, "relay": "berlin", "sent_at": 5, "change": 1},
            r1_2={"state": InvocationState.CANCELLED, "ended_at": 6, "change": 2},
            r1_1={"state": InvocationState.SENT, "relay": "paris", "sent_at": 7, "change": 3},
        )
        found = await self.store.read(invocations.changed_since, "r1", 1, 10)
        self.assertEqual([(each.id, each.state, each.relay) for each in found],
                         [("r1-2", "cancelled", None), ("r1-1", "sent", "paris")])  # fmt: skip

    async def test_lists(self) -> None:
        for number in range(3):
            await self.add(f"r{number}")
        page = await self.store.read(runs.list_runs, limit=2)
        self.assertEqual([run.id for run in page.items], ["r2", "r1"])
        page = await self.store.read(runs.list_runs, cursor=page.next_cursor, limit=2)
        self.assertEqual(([run.id for run in page.items], page.next_cursor), (["r0"], None))
        members = await self.store.read(invocations.list_invocations, "r1", limit=2)
        self.assertEqual([each.id for each in members.items], ["r1-0", "r1-1"])
        await self.assertFailure(
            self.store.read(invocations.list_invocations, "r0", cursor=members.next_cursor), BadCursor
        )
        await self.save(r1_1={"state": InvocationState.FAILED, "change": 1})
        failed = await self.store.read(invocations.list_invocations, "r1", state=InvocationState.FAILED)
        self.assertEqual([each.id for each in failed.items], ["r1-1"])
        of_host = await self.store.read(invocations.list_of_host, "id-h1")
        self.assertEqual([each.id for each in of_host.items], ["r2-1", "r1-1", "r0-1"])

    async def test_what_is_open(self) -> None:
        await self.add("r1")
        await self.add("r2")
        await self.store.run(runs.save_progress, "r1", 7, RunState.FAILED, {"failed": 3}, 99)
        self.assertEqual([run.id for run in await self.store.read(runs.open_runs)], ["r2"])
        run = await self.store.read(runs.get_run, "r1")
        self.assertEqual((run.change, run.counts, run.ended_at), (7, {"failed": 3}, 99))

    async def test_what_is_due(self) -> None:
        await self.add()
        await self.save(
            r1_0={"deadline": 50, "change": 1},
            r1_1={"deadline": 40, "change": 2},
            r1_2={"deadline": 30, "state": InvocationState.FAILED, "change": 3},
        )
        found = await self.store.read(invocations.due, 50, 10)
        self.assertEqual([(each.id, each.position) for each in found], [("r1-1", 1), ("r1-0", 0)])
        self.assertEqual(len(await self.store.read(invocations.due, 45, 10)), 1)

    async def test_secrets_are_deleted_when_it_ends(self) -> None:
        await self.add(sealed=b"s")
        self.assertEqual(await self.store.read(runs.sealed_of, "r1"), b"s")
        await self.store.run(runs.save_progress, "r1", 1, RunState.RUNNING, {}, None)
        self.assertEqual(await self.store.read(runs.sealed_of, "r1"), b"s")
        await self.store.run(runs.save_progress, "r1", 2, RunState.FAILED, {}, 5)
        self.assertIsNone(await self.store.read(runs.sealed_of, "r1"))

    async def test_groups_have_the_odd_ones_first(self) -> None:
        await self.add(size=8)
        same: dict[str, Any] = {"state": InvocationState.SUCCEEDED, "exit_code": 0, "output_digest": b"a", "change": 1}
        await self.save(**{f"r1_{n}": dict(same) for n in range(6)}, r1_6=same | {"output_digest": b"b"})
        odd, usual = await self.store.read(invocations.groups_of, "r1")
        self.assertEqual((odd.count, odd.hosts, odd.example), (1, ("h6",), "r1-6"))
        self.assertEqual((usual.count, usual.hosts), (6, ("h0", "h1", "h2", "h3", "h4")))

    async def test_a_late_end_is_counted(self) -> None:
        await self.add(size=1)
        await self.store.run(runs.save_progress, "r1", 4, RunState.FAILED, {"unknown": 1}, 5)
        await self.save(r1_0={"state": InvocationState.SUCCEEDED, "change": 5})
        await self.store.run(runs.recount, "r1")
        run = await self.store.read(runs.get_run, "r1")
        self.assertEqual((run.state, run.counts, run.ended_at), (RunState.SUCCEEDED, {"succeeded": 1}, 5))


class OutputTests(OnBothStores):
    async def start(self) -> None:
        await super().start()
        await self.store.run(runs.add_run, *new_run(size=3))

    async def put(self, *pieces: tuple[int, str, int, int, bytes]) -> None:
        """Position, stream, sequence, change, data."""
        chunks = [
            (NewChunk(f"r1-{at}", "r1", sequence, "stdout" if stream == "out" else "stderr", 0, data), change)
            for at, stream, sequence, change, data in pieces
        ]
        await self.store.run(output.add_chunks, chunks)

    async def test_pieces_in_order(self) -> None:
        await self.put(
            (0, "out", 0, 1, b"a"), (0, "err", 1, 2, b"\xff\0"), (0, "out", 2, 3, b"c"), (1, "out", 0, 4, b"d")
        )
        found = await self.store.read(output.read_output, "r1-0", "stdout")
        self.assertEqual([(each.sequence, each.data) for each in found], [(0, b"a"), (2, b"c")])
        found = await self.store.read(output.read_output, "r1-0", "stdout", 0)
        self.assertEqual([each.data for each in found], [b"c"])
        (err,) = await self.store.read(output.read_output, "r1-0", "stderr")
        self.assertEqual(err.data, b"\xff\0")
        await self.store.run(output.delete_stream, "r1-0", "stdout")
        self.assertEqual(await self.store.read(output.read_output, "r1-0", "stdout"), [])
        self.assertEqual(len(await self.store.read(output.read_output, "r1-0", "stderr")), 1)

    async def test_events_in_the_order_of_their_changes(self) -> None:
        await self.put((0, "out", 0, 1, b"a"), (0, "out", 1, 3, b"b"), (0, "out", 2, 5, b"c"))
        await self.store.run(
            invocations.save_changes,
            {"r1-0": {"state": InvocationState.ACCEPTED, "change": 2}, "r1-1": {"exit_code": 3, "change": 4}},
        )
        await self.store.run(runs.save_progress, "r1", 6, RunState.RUNNING, {}, None)
        self.assertEqual(await self.changes(0, 9), [1, 2, 3, 4, 5])
        self.assertEqual((await self.store.read(runs.get_run, "r1")).change, 6)
        seen: list[int] = []
        while found := await self.changes(seen[-1] if seen else 0, 2):
            seen += found[:2]
        self.assertEqual(seen, [1, 2, 3, 4, 5])
        self.assertEqual(await self.changes(6, 9), [])

    async def changes(self, since: int, most: int) -> list[int]:
        """Of invocations and of outputs, as who shows a run reads them."""
        rows = await self.store.read(invocations.changed_since, "r1", since, most)
        pieces = await self.store.read(output.chunks_since, "r1", since, most)
        return sorted(each.change for each in (*rows, *pieces))

    async def test_search(self) -> None:
        """Also for what two pieces have between them."""
        await self.put(
            (0, "out", 0, 1, b"one\ntwo err"), (0, "out", 1, 2, b"or three\nfour"), (2, "err", 0, 3, b"error!")
        )
        found = await self.store.read(output.search, "r1", "error")
        self.assertEqual(
            [(each.host, each.stream, each.offset, each.line) for each in found.found],
            [("h0", "stdout", 8, "two error three"), ("h2", "stderr", 0, "error!")],
        )
        self.assertIsNone(found.next_position)
        found = await self.store.read(output.search, "r1", "error", 0, 1)
        self.assertEqual((len(found.found), found.next_position), (1, 1))
        found = await self.store.read(output.search, "r1", "error", 1)
        self.assertEqual([each.host for each in found.found], ["h2"])

    async def test_a_search_stops_after_many_bytes(self) -> None:
        self.patch(output, "SEARCHED", 10)
        await self.put((0, "out", 0, 1, b"x" * 20), (1, "out", 0, 2, b"error"))
        found = await self.store.read(output.search, "r1", "error")
        self.assertEqual((found.found, found.next_position), ([], 1))


class LookUpTests(OnBothStores):
    """The questions that are asked again and again are looked up in an index."""

    async def test_no_question_of_each_event_looks_at_a_whole_run(self) -> None:
        def plans(connection: Connection) -> list[str]:
            found = []
            questions = {
                "due": select(table.c.id).where(invocations._OPEN, table.c.deadline <= 5).order_by(table.c.deadline),
                "change": select(table.c.id).where(table.c.run_id == "r", table.c.change > 1).order_by(table.c.change),
            }
            for name, question in questions.items():
                text = str(question.compile(connection, compile_kwargs={"literal_binds": True}))
                explain = "EXPLAIN " if self.postgresql else "EXPLAIN QUERY PLAN "
                if self.postgresql:
                    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
                lines = connection.exec_driver_sql(explain + text).all()
                found.append(f"{name}: {' '.join(str(column) for line in lines for column in line)}")
            return found

        due, change = await self.store.run(plans)
        self.assertIn("ix_invocations_due", due)
        self.assertIn("ix_invocations_run_id_change", change)
