"""
Every route of the API, and the document that is made of them.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from relayd import __version__
from relayd.hub.api import openapi
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
)


@cache
def openapi_document() -> bytes:
    """The OpenAPI document, which the same release always gives."""
    return openapi.encoded(ROUTES, __version__)
