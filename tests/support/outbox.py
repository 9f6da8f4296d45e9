"""
Test cases of an outbox behind its dispatcher: commands that end, receipts, links.
"""

from __future__ import annotations

from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from relayd.wire.messages import Receipt
from tests.support.dispatching import Desk, RecordingLink, command, watch_log


class OutboxTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = Desk(max_commands=64)
        self.logged = watch_log(self)

    def finish(self, *ids: str, stdout: str = "fine") -> None:
        for command_id in ids:
            self.desk.order(command(command_id, host=command_id))
            self.desk.runner.runs[-1].finish(stdout)

    def receipt(
        self, *, success: bool = True, command_id: str | None = None, link: RecordingLink | None = None
    ) -> None:
        receipt = Receipt(success=success, command_id=command_id, error=None if success else "no such row")
        self.desk.dispatcher.receipt_received(link or self.desk.link, receipt)

    def unconfirmed(self) -> list[str]:
        return list(self.desk.journal.unconfirmed())

    def lines(self, level: LogLevel) -> list[str]:
        return [formatEvent(event) for event in self.logged if event["log_level"] is level]
