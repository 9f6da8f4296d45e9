"""
Tests of `relayd.audit.refusals`: refusals that are alike are summed up.
"""

from __future__ import annotations

from relayd.audit import log as audit_log
from relayd.audit.events import LONGEST
from relayd.audit.refusals import BURST, INTERVAL, RATE, RefusalLimiter
from relayd.config.reading import load
from relayd.errors import CredentialMissing, ShuttingDown
from tests.support.auditing import AuditCase, entries, faults
from tests.support.dispatching import command, result


class RefusalTests(AuditCase):
    """Refusals that are alike are summed up, and nothing else is."""

    async def test_a_flood(self) -> None:
        self.patch(audit_log, "INTERVAL", 0.05)
        log = self.start()
        error = CredentialMissing(username="root", host="web1")
        for number in range(1000):
            log.record_refused(command(f"r{number}", host=f"web{number % 20}", text="x" * 116_000), error)
            log.record_accepted(command(f"c{number}"))
            log.record_ended(command(f"c{number}"), "ok", result(), 1.0)
        log.record_refused(command("other"), ShuttingDown())
        await self.until(lambda: b'"refusals"' in self.path.read_bytes())
        await log.close()
        self.assertEqual(faults(self.path), [])
        found = entries(self.path)
        for event in ("accepted", "ended"):
            ids = [entry["commandId"] for entry in found if entry["event"] == event]
            self.assertEqual(ids, [f"c{number}" for number in range(1000)])
        own = [entry["commandId"] for entry in found if entry["event"] == "refused"]
        self.assertEqual(own, [*(f"r{number}" for number in range(BURST)), "other"])
        sums = [entry for entry in found if entry["event"] == "refusals"]
        self.assertEqual(sum(entry["count"] for entry in sums), 1000 - BURST)
        self.assertEqual({entry["outcome"] for entry in sums}, {"no-credential"})
        self.assertEqual((sums[0]["firstId"], sums[-1]["lastId"]), (f"r{BURST}", "r999"))
        self.assertEqual(len(sums[0]["targets"]), 10)
        self.assertIn("root@web0:22", sums[0]["targets"])

    async def test_what_is_counted_is_told_at_the_end(self) -> None:
        log = self.start()
        for number in range(BURST + 1):
            log.record_refused(command(f"r{number}"), CredentialMissing(username="root", host="web1"))
        await log.close()
        self.assertEqual((entries(self.path)[-1]["event"], entries(self.path)[-1]["count"]), ("refusals", 1))

    def test_lines_come_again_with_time(self) -> None:
        refusals = RefusalLimiter()
        first = sum(refusals.admits("no-credential", "c1", "root@web1:22", 0.0) for _ in range(1000))
        later = sum(refusals.admits("no-credential", "c1", "root@web1:22", 600.0) for _ in range(1000))
        self.assertEqual((first, later), (BURST, 600 * 3 // 60))
        self.assertEqual([each["count"] for each in refusals.take_sums()], [2000 - BURST - 30])
        self.assertEqual(refusals.take_sums(), [])

    def test_what_is_kept_outlasts_what_a_main_server_can_have_refused(self) -> None:
        """With the defaults: all reasons at once, lines as long as can be, for as long as files stay."""
        reasons = 12  # that an order can be refused for before it is accepted
        config = load({"config": None}, {}, complete=False)
        lines = reasons * (RATE + 1 / INTERVAL) * config.audit_keep_for
        self.assertLess(lines * LONGEST, config.audit_max_total)
