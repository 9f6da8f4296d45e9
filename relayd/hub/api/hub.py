"""
The parts of the hub that the API's handlers use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred

from relayd.hub.access.access import Access
from relayd.hub.decisions.ends import Rerun
from relayd.hub.inventory.sealing import Sealer
from relayd.hub.relays.administration import RelayAdministration
from relayd.hub.relays.enrolment import Enrolment
from relayd.hub.runs.dry_run import Planned
from relayd.hub.runs.ordering import Allowed
from relayd.hub.runs.orders import Order
from relayd.hub.store.runs import Run
from relayd.hub.store.store import Store


class RunEngine(Protocol):
    """What is done with runs: `relayd.hub.runs.engine.Engine`."""

    def create(
        self, order: Order, created_by: str, *, key: str | None = None, allowed: Allowed = None
    ) -> Deferred[Run]:
        """Order a run; fires once it is stored."""

    def dry_run(self, order: Order, *, allowed: Allowed = None) -> Deferred[list[Planned]]:
        """What an order would do; nothing is ordered."""

    def rerun(
        self, run_id: str, which: Rerun, created_by: str, *, key: str | None = None, allowed: Allowed = None
    ) -> Deferred[Run]:
        """Order invocations of a run that has ended once more."""

    def pause(self, run_id: str) -> Deferred[None]:
        """Send nothing new."""

    def resume(self, run_id: str) -> Deferred[None]:
        """Go on."""

    def cancel(self, run_id: str) -> Deferred[None]:
        """Send nothing new, and have relays end what is under way."""

    def cancel_invocation(self, invocation_id: str) -> Deferred[None]:
        """Have one invocation end."""

    def watch(self, run_id: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Have *changed* called each time that changes of a run are stored; what is returned ends that."""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """
    :ivar reactor: provides time and threads.
    :ivar now: microseconds since 1970.
    :ivar public_url: where relays and people find the hub; without, as the request names it.
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
    engine: RunEngine
    obstacles: Callable[[], list[str]]
    registry: CollectorRegistry
