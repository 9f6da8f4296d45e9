"""
The parts of the hub that the API's handlers use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from relayd.hub.access.access import Access
from relayd.hub.api.metrics import RequestCounts
from relayd.hub.inventory.sealing import Sealer
from relayd.hub.relays.administration import RelayAdministration
from relayd.hub.relays.enrolment import Enrolment
from relayd.hub.store.store import Store


class RunSignals(Protocol):
    """Who says that something happened in a run."""

    def watch(self, run_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Have *wake* called after each change of a run; what is returned undoes it."""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """
    :ivar reactor: provides time and threads.
    :ivar now: microseconds since 1970.
    :ivar public_url: where relays and people find the hub; without, as the request names it.
    :ivar signals: of runs; without, streams look into the store each second.
    :ivar obstacles: codes of why the hub could not take and do an order now, such as ``database``; empty when it could.
    :ivar registry: metrics.
    """

    reactor: Any
    now: Callable[[], int]
    store: Store
    access: Access
    sealer: Sealer
    relays: RelayAdministration
    enrolment: Enrolment
    public_url: str | None = None
    signals: RunSignals | None = None
    obstacles: Callable[[], list[str]]
    registry: CollectorRegistry
    counts: RequestCounts
