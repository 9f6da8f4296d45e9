"""
Parts of an uplink connection for tests of one of them alone: a wire in memory, and settings.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import maybeDeferred

from relayd.network.flow import Flow
from relayd.uplink.settings import ConnectionSettings
from relayd.uplink.stages import Timing
from tests.support.flows import RecordedFlow


class MemoryWire:
    """
    A wire without a network.

    :ivar sent: the messages.
    :ivar pings: the payloads of pings.
    """

    def __init__(self) -> None:
        self.flow: Flow = RecordedFlow()
        self.sent: list[bytes] = []
        self.pings: list[bytes] = []
        self.listener: Any = None

    def report_to(self, listener: Any) -> None:
        self.listener = listener

    def send_text(self, payload: bytes) -> None:
        self.sent.append(payload)

    def ping(self, payload: bytes = b"") -> None:
        self.pings.append(payload)

    def hold(self, on: bool) -> None:
        """Nothing is read here."""

    def close(self, code: int) -> None:
        """Nothing to close."""

    def abort(self) -> None:
        """Nothing to drop."""


def settings(**more: Any) -> ConnectionSettings:
    """Settings of a connection; what threads do is done at once."""
    chosen: dict[str, Any] = {"max_result": 1 << 20, "defer_to_thread": maybeDeferred} | more
    return ConnectionSettings(server="main", path="/proxy", timing=Timing(), **chosen)
