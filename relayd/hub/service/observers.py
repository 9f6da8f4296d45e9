"""
Who learns what relays tell: the runs, and what keeps when relays were seen.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from relayd.hub.links.links import LinkObserver
from relayd.hub.links.protocol import RelayConnection
from relayd.hub.relays.presence import Presence
from relayd.wire.messages import CommandOutput, CommandResult


class Observers:
    """
    The `LinkObserver` of a hub.

    Links are made before what observes them, so that is given later.

    :ivar presence: learns who is there.
    :ivar runs: learns all.
    """

    presence: Presence
    runs: LinkObserver

    def relay_connected(self, link: RelayConnection) -> None:
        """See `LinkObserver`."""
        self.presence.relay_connected(link)
        self.runs.relay_connected(link)

    def relay_lost(self, link: RelayConnection) -> None:
        """See `LinkObserver`."""
        self.presence.relay_lost(link)
        self.runs.relay_lost(link)

    def accepted(self, proxy_id: str, command_id: str) -> None:
        """See `LinkObserver`."""
        self.runs.accepted(proxy_id, command_id)

    def refused(self, proxy_id: str, command_id: str, error: str) -> None:
        """See `LinkObserver`."""
        self.runs.refused(proxy_id, command_id, error)

    def result(self, proxy_id: str, result: CommandResult) -> Deferred[object] | None:
        """See `LinkObserver`."""
        return self.runs.result(proxy_id, result)

    def output(self, proxy_id: str, output: CommandOutput) -> None:
        """See `LinkObserver`."""
        self.runs.output(proxy_id, output)
