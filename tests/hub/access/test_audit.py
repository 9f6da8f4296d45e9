"""
Tests of `relayd.hub.access.audit`: an act is in the log before it is done, or it is not done; docs/hub-security.rst.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.events import LONGEST
from relayd.audit.lines import encode_line
from relayd.audit.refusals import BURST
from relayd.ctl.main import main
from relayd.hub.access import audit as hub_audit_module
from relayd.hub.access.audit import LESSENING, Actor, HubAudit, _fields_of
from relayd.hub.access.errors import AuditUnavailable, NoSuchUser
from tests.support.access import ADDRESS, hub_audit
from tests.support.auditing import AuditCase, entries, faults, fill, small_disk, state
from tests.support.dispatching import watch_log

ALICE = Actor("user:alice", ADDRESS)
FRAME = {"seq", "time", "prev", "mac", "hash"}


class HubAuditCase(AuditCase):
    def open(self, path: Path | None = None) -> HubAudit:
        log = hub_audit(reactor, path or self.path)
        log.start()
        return log

    def lines(self, path: Path | None = None) -> list[dict[str, Any]]:
        """What is in the log, without what makes it a chain."""
        found = entries(path or self.path)
        return [
            {name: value for name, value in entry.items() if name not in FRAME}
            for entry in found
            if entry["event"] not in ("file", "start")
        ]


class ActTests(HubAuditCase):
    """The lines of an act."""

    async def test_an_act_is_on_the_disk_before_it_is_done(self) -> None:
        log = self.open()
        seen: list[dict[str, Any]] = []

        async def add() -> str:
            seen.extend(self.lines())
            return "added"

        answer = await log.perform(ALICE, "user-add", {"user": "bob", "role": "viewer", "selectors": ["env=prod"]}, add)
        await log.close()
        self.assertEqual(answer, "added")
        begun, done = self.lines()
        self.assertEqual(seen, [begun])
        self.assertRegex(begun["act"], r"^[0-9a-f]{16}$")
        self.assertEqual(
            begun,
            {
                "event": "user-add",
                "hub": "hub-1",
                "principal": "user:alice",
                "address": ADDRESS,
                "outcome": "begun",
                "act": begun["act"],
                "user": "bob",
                "role": "viewer",
                "selectors": ["env=prod"],
            },
        )
        self.assertEqual(done, begun | {"outcome": "done"})
        self.assertEqual(faults(self.path, harmless=True), [])

    async def test_an_act_that_fails(self) -> None:
        log = self.open()
        for error, outcome in (
            (NoSuchUser(name="bob"), "no-such-user"),
            (ValueError("canary-secret"), "internal"),
            (KeyboardInterrupt(), "internal"),
        ):

            async def fail(error: BaseException = error) -> None:
                raise error

            with self.assertRaises(type(error)):
                await log.perform(ALICE, "user-remove", {"user": "bob"}, fail)
            await self.until(lambda outcome=outcome: self.lines()[-1]["outcome"] == outcome)
        await log.close()
        self.assertNotIn("canary", self.path.read_text())

    async def test_an_act_that_was_cancelled_may_have_been_done(self) -> None:
        log = self.open()
        begun: list[Deferred[None]] = []

        def act() -> Deferred[None]:
            begun.append(Deferred())
            return begun[0]

        running: Deferred[None] = Deferred.fromCoroutine(log.perform(ALICE, "run-order", {}, act))
        await self.until(lambda: bool(begun))
        running.cancel()
        running.addErrback(lambda failure: None)
        await log.close()
        self.assertEqual([line["outcome"] for line in self.lines()], ["begun", "unknown"])

    async def test_an_act_that_was_cancelled_before_it_was_done(self) -> None:
        log = self.open()
        done: list[str] = []

        async def act() -> None:
            done.append("it")

        running: Deferred[None] = Deferred.fromCoroutine(log.perform(ALICE, "run-order", {}, act))
        running.cancel()
        running.addErrback(lambda failure: None)
        await log.close()
        self.assertEqual(done, [])
        self.assertEqual([line["outcome"] for line in self.lines()], ["begun", "cancelled"])

    async def test_what_was_made_is_told_at_the_end(self) -> None:
        log = self.open()
        entry = await log.begin(ALICE, "run-order", {"commandDigest": log.digest("uptime")})
        entry.end(run="r-1")
        entry.end("failed")  # only the first counts
        await log.close()
        begun, done = self.lines()
        self.assertEqual(done, begun | {"outcome": "done", "run": "r-1"})

    async def test_refusals_are_summed_up(self) -> None:
        """Nobody fills the disk with wrong passwords."""
        self.patch(hub_audit_module, "INTERVAL", 0.05)
        log = self.open()
        for number in range(1000):
            log.refused(Actor("user:?", f"10.0.0.{number % 20}"), "login", "login-failed", {})
        log.refused(ALICE, "user-add", "forbidden", {})
        await self.until(lambda: any(line["event"] == "refusals" for line in self.lines()))
        await log.close()
        lines = self.lines()
        self.assertEqual(sum(line["event"] == "login" for line in lines), BURST)
        self.assertEqual(sum(line["event"] == "user-add" for line in lines), 1)
        [total] = [line for line in lines if line["event"] == "refusals"]
        self.assertEqual((total["refused"], total["outcome"], total["count"]), ("login", "login-failed", 1000 - BURST))
        self.assertIn("user:? 10.0.0.0", total["who"])

    async def test_relayctl_verifies_it(self) -> None:
        log = self.open()
        log.put(ALICE, "login", "done", {})
        await log.close()
        options = ["--audit-log", str(self.path), "--state-dir", str(state(self.path))]
        self.assertEqual(self.verify(*options), (0, "no fault"))
        lines = self.path.read_bytes().splitlines(keepends=True)
        self.path.write_bytes(b"".join(lines).replace(b"user:alice", b"user:malic"))
        self.assertEqual(self.verify(*options)[0], 1)
        forged = encode_line(4, 1e9, "login", {"principal": "user:bob"}, entries(self.path)[-1]["hash"], b"k" * 32)[0]
        self.path.write_bytes(b"".join([*lines, forged]))
        self.assertEqual(self.verify(*options)[0], 1)

    def verify(self, *options: str) -> tuple[int, str]:
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        status = main(["audit", "verify", *options])
        return status, out.getvalue().splitlines()[-1]


class LineTests(SynchronousTestCase):
    """No line is longer than a line may be."""

    texts = st.text(st.characters(codec=None), max_size=2000) | st.sampled_from(
        ["\N{GRINNING FACE}" * 2000, "x" * 9000]
    )

    @settings(max_examples=100, deadline=None)
    @given(
        texts,
        texts,
        st.dictionaries(
            st.sampled_from(["user", "role", "selectors", "hosts", "run"]),
            texts | st.lists(texts, max_size=40) | st.integers(-(2**60), 2**60) | st.booleans() | st.none(),
        ),
    )
    def test_length(self, principal: str, address: str, fields: Any) -> None:
        fitted = _fields_of(Actor(principal, address), "run-order", "x" * 40, {"act": "0" * 16} | fields)
        line, _ = encode_line(10**18, 1e9, "run-order", {"hub": "h" * 320} | fitted, "0" * 64, b"k" * 32)
        self.assertLessEqual(len(line), LONGEST)

    def test_several_long_lists(self) -> None:
        hosts = [f"host{number}.{'x' * 90}" for number in range(40)]
        fitted = _fields_of(ALICE, "run-order", "done", {"hosts": hosts, "selectors": hosts, "names": hosts})
        self.assertEqual(fitted["hosts"], hosts[: len(fitted["hosts"])])
        self.assertGreater(len(fitted["hosts"]), 10)
        self.assertEqual({fitted[f"{name}Count"] for name in ("hosts", "selectors", "names")}, {40})
        line, _ = encode_line(10**18, 1e9, "run-order", {"hub": "h" * 320} | fitted, "0" * 64, b"k" * 32)
        self.assertLessEqual(len(line), LONGEST)

    def test_fields_of_the_chain_cannot_be_given(self) -> None:
        for name in ("hash", "mac", "prev", "seq", "event", "principal", "address", "outcome", "hub", "torn"):
            self.assertRaises(ValueError, _fields_of, ALICE, "login", "done", {name: "x"})
        self.assertRaises(ValueError, _fields_of, ALICE, "log in\n", "done", {})


class FullDiskTests(HubAuditCase):
    """While it cannot be written."""

    async def full(self) -> tuple[Path, HubAudit, Path]:
        disk = small_disk(self)
        log = self.open(disk / "audit.log")
        self.addCleanup(log.close)
        await log.record(ALICE, "login", "done", {})
        filler = fill(disk)
        for number in range(20):  # more than fits into what is left of the last page
            log.put(ALICE, "login", "done", {"user": "x" * 300, "number": number})
        await self.until(lambda: not log.available)
        return disk / "audit.log", log, filler

    async def test_no_act_is_done(self) -> None:
        path, log, filler = await self.full()
        done: list[str] = []

        async def add() -> None:
            done.append("added")

        for _ in range(10):
            with self.assertRaises(AuditUnavailable):
                await log.perform(ALICE, "user-add", {"user": "bob"}, add)
        with self.assertRaises(AuditUnavailable):
            await log.record(ALICE, "login", "done", {})
        self.assertEqual(done, [])
        filler.unlink()
        await self.until(lambda: log.available)
        await log.perform(ALICE, "user-add", {"user": "carol"}, add)
        await log.close()
        self.assertEqual(done, ["added"])
        self.assertEqual(faults(path, harmless=True), [])
        added = [(line["user"], line["outcome"]) for line in self.lines(path) if line["event"] == "user-add"]
        self.assertEqual(added, [*[("bob", "audit-unavailable")] * 10, ("carol", "begun"), ("carol", "done")])

    async def test_the_disk_is_full_when_it_begins(self) -> None:
        """The first to meet it is refused as well, with a second line that says so."""
        disk = small_disk(self)
        path = disk / "audit.log"
        log = self.open(path)
        await log.record(ALICE, "login", "done", {})
        filler = fill(disk)
        done: list[str] = []

        async def add() -> None:
            done.append("added")

        with self.assertRaises(AuditUnavailable):
            for _ in range(100):  # until what is left of the last page is used
                await log.perform(ALICE, "user-add", {"user": "x" * 300}, add)
        count = len(done)
        filler.unlink()
        await self.until(lambda: log.available)
        await log.close()
        outcomes = [line["outcome"] for line in self.lines(path) if line["event"] == "user-add"]
        self.assertEqual(outcomes.count("done"), count)
        self.assertEqual(outcomes[-2:], ["begun", "audit-unavailable"])
        self.assertEqual(faults(path, harmless=True), [])

    async def test_what_takes_something_away_is_done_and_said(self) -> None:
        """To refuse to cancel a run would be worse than to have its line late."""
        logged = watch_log(self)
        path, log, filler = await self.full()
        done: list[str] = []
        for event in sorted(LESSENING):

            async def act(event: str = event) -> None:
                done.append(event)

            await log.perform(ALICE, event, {"number": 1}, act)
        self.assertEqual(done, sorted(LESSENING))
        said = [line for line in map(formatEvent, logged) if line and "once it can be written" in line]
        self.assertEqual(len(said), len(LESSENING))
        self.assertIn(f"user:alice from {ADDRESS}: invocation-cancel", said[0])
        filler.unlink()
        await self.until(lambda: log.available)
        await log.close()
        later = [(line["event"], line["outcome"]) for line in self.lines(path) if line["event"] in LESSENING]
        self.assertEqual(later, [(event, outcome) for event in sorted(LESSENING) for outcome in ("begun", "done")])

    async def test_closed(self) -> None:
        log = self.open()
        await log.close()
        with self.assertRaises(AuditUnavailable):
            await log.record(ALICE, "login", "done", {})

    async def test_a_flood_of_refused_acts_does_not_fill_the_memory(self) -> None:
        _, log, filler = await self.full()

        async def nothing() -> None:
            self.fail("it was done")

        before = log._writer._pending_size
        for _ in range(5000):
            with self.assertRaises(AuditUnavailable):
                await log.perform(ALICE, "user-add", {"user": "x" * 300}, nothing)
        self.assertLess(log._writer._pending_size - before, 2000 * (BURST + 10))
        filler.unlink()
