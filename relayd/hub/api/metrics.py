"""
The metrics of the API: requests by route and status.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class RequestCounts(Collector):
    """How many requests each route answered with each status; routes are few, and no label is a client's own word."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int]] = Counter()

    def count(self, route: str, status: int) -> None:
        """A request was answered."""
        self._counts[route, status] += 1

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client`."""
        requests = CounterMetricFamily(
            "relayd_hub_requests", "Requests to the API, by route and status.", labels=["route", "status"]
        )
        for (route, status), count in sorted(self._counts.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
