"""
Every route of the API, and the document that is made of them.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from relayd.hub.api import openapi
from relayd.hub.api.calls import Answer, Call, NoQuery
from relayd.hub.api.resources import (
    audit,
    credentials,
    hosts,
    inventory,
    invocations,
    operation,
    relays,
    run_orders,
    runs,
    sessions,
    tokens,
    users,
)
from relayd.hub.api.routes import Anyone, Route

#: The version of the interface, as its paths have it.
VERSION: Final = "1"


async def _show_document(hub: object, call: Call[NoQuery, None]) -> Answer:
    return Answer(body=openapi_document())


ROUTES: Final = (
    *sessions.ROUTES,
    *users.ROUTES,
    *tokens.ROUTES,
    *relays.ROUTES,
    *hosts.ROUTES,
    *credentials.ROUTES,
    *inventory.ROUTES,
    *run_orders.ROUTES,
    *runs.ROUTES,
    *invocations.ROUTES,
    *audit.ROUTES,
    *operation.ROUTES,
    Route(
        method="GET",
        path="/openapi.json",
        handler=_show_document,
        permission=Anyone.PUBLIC,
        answers=bytes,
        summary="This document",
    ),
)


@cache
def openapi_document() -> bytes:
    """The OpenAPI document, which the same code always gives."""
    return openapi.encoded(ROUTES, VERSION)
