"""
Whether a relay is ready, and what is against it.
"""

from __future__ import annotations

import json

from relayd.uplink.service import UplinkStatus
from tests.status.test_responses import StatusCase


class ReadyTests(StatusCase):
    """Readiness, and the reason against it."""

    def not_ready(self, reason: str) -> None:
        answer = self.get("/readyz")
        self.assertEqual(answer.code, 503)
        self.assertEqual(answer.body.decode(), f"not ready: {reason}\n")
        self.assertEqual(self.value("relayd_ready"), 0)
        self.assertIn(reason, json.loads(self.get("/status").body)["obstacles"])

    def test_ready(self) -> None:
        self.assertEqual((self.get("/readyz").code, self.value("relayd_ready")), (200, 1))

    def test_the_main_server_has_not_accepted_it(self) -> None:
        self.relay.status = UplinkStatus()
        self.not_ready("the main server has not accepted it: relayd is connecting")
        self.relay.status = UplinkStatus(last_error="the door is shut")
        self.not_ready("the main server has not accepted it: the door is shut")

    def test_the_journal(self) -> None:
        self.relay.trouble = "disk full"
        self.not_ready("the journal accepts no commands: disk full")

    def test_the_audit_log(self) -> None:
        self.relay.available = False
        self.not_ready("the audit log cannot be written")

    def test_the_end(self) -> None:
        self.relay.accepting = False
        self.not_ready("it is shutting down and accepts no new commands")
        self.assertEqual(self.get("/healthz").code, 200)
