"""
Who asks and what that gives, as routes need it; `relayd.hub.access` decides it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Scope(StrEnum):
    """What a token may be limited to; a role gives all of some."""

    RUNS_READ = "runs:read"
    RUNS_WRITE = "runs:write"
    INVENTORY_READ = "inventory:read"
    INVENTORY_WRITE = "inventory:write"
    RELAYS_READ = "relays:read"
    RELAYS_WRITE = "relays:write"
    ACCESS_ADMIN = "access:admin"
    AUDIT_READ = "audit:read"


class Principal(Protocol):
    """A person or token that asks."""

    @property
    def name(self) -> str:
        """``user:NAME`` or ``token:NAME``."""

    @property
    def scopes(self) -> frozenset[Scope]:
        """What it may do."""
