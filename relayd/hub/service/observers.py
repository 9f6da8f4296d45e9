"""
Who learns what relays tell: the runs, and what keeps when relays were seen.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail

from relayd.hub.links.links import LinkObserver
from relayd.hub.links.protocol import RelayConnection
from relayd.hub.relays.presence import Presence
from relayd.hub.store.errors import StoreUnavailable
from relayd.language.texts import Text
from relayd.wire.messages import CommandOutput, CommandResult


class Observers:
    """
    The `LinkObserver` of a hub.

    Links are made before what observes them, so that is given later.

    :ivar presence: learns who is there.
    :ivar runs: learns all; without it, relays keep their results.
    """

    presence: Presence
    runs: LinkObserver | None = None

    def relay_connected(self, link: RelayConnection) -> None:
        """See `LinkObserver`."""
        self.presence.relay_connected(link)
        if self.runs is not None:
            self.runs.relay_connected(link)

    def relay_lost(self, link: RelayConnection) -> None:
        """See `LinkObserver`."""
        self.presence.relay_lost(link)
        if self.runs is not None:
            self.runs.relay_lost(link)

    def accepted(self, proxy_id: str, command_id: str) -> None:
        """See `LinkObserver`."""
        if self.runs is not None:
            self.runs.accepted(proxy_id, command_id)

    def refused(self, proxy_id: str, command_id: str, error: str) -> None:
        """See `LinkObserver`."""
        if self.runs is not None:
            self.runs.refused(proxy_id, command_id, error)

    def result(self, proxy_id: str, result: CommandResult) -> Deferred[object] | None:
        """See `LinkObserver`."""
        if self.runs is None:
            return fail(StoreUnavailable(reason=Text("the hub has no runs yet")))
        return self.runs.result(proxy_id, result)

    def output(self, proxy_id: str, output: CommandOutput) -> None:
        """See `LinkObserver`."""
        if self.runs is not None:
            self.runs.output(proxy_id, output)
