"""
What operators and their tools ask: health, readiness and metrics.
"""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST

from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Answer, Call, NoQuery
from relayd.hub.api.hub import Hub
from relayd.hub.api.routes import Anyone, Route
from relayd.status.metrics import render

_TEXT: Final = "text/plain; charset=utf-8"


async def health(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """The process is there and answers."""
    return Answer(body=b"ok\n")


async def readiness(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """Whether it would take an order now."""
    obstacles = hub.obstacles()
    if not obstacles:
        return Answer(body=b"ready\n")
    return Answer(status=503, body="".join(f"not ready: {each}\n" for each in obstacles).encode())


async def metrics(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """All metrics."""
    return Answer(body=render(hub.registry))


_ROOT: Final[dict[str, Any]] = {"method": "GET", "rooted": True, "answers": bytes}

ROUTES: Final = (
    Route(
        path="/healthz",
        handler=health,
        permission=Anyone.PUBLIC,
        produces=_TEXT,
        summary="Whether the process answers",
        **_ROOT,
    ),
    Route(
        path="/readyz",
        handler=readiness,
        permission=Anyone.PUBLIC,
        produces=_TEXT,
        summary="Whether the hub would take an order now; 503 if not",
        **_ROOT,
    ),
    Route(
        path="/metrics",
        handler=metrics,
        permission=Permission.RELAYS_READ,
        produces=CONTENT_TYPE_LATEST,
        summary="Metrics in Prometheus' text format",
        **_ROOT,
    ),
)
