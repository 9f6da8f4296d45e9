"""
A `relayd.network.flow.Flow` for tests: it belongs to nobody, and what it sends is kept.
"""

from __future__ import annotations

from relayd.network.flow import Flow


class RecordedFlow(Flow):
    """
    :ivar sent: what the transport got.
    :ivar said: what the flow told its owner.
    """

    def __init__(self) -> None:
        super().__init__(self._take, self)
        self.sent: list[bytes] = []
        self.said: list[str] = []

    def _take(self, data: bytes) -> None:
        self.sent.append(data)

    def on_full(self) -> None:
        self.said.append("full")

    def on_taken(self) -> None:
        self.said.append("taken")

    def on_behind(self, on: bool) -> None:
        self.said.append("behind" if on else "not behind")
