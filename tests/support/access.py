"""
Users, principals and audit logs of a hub for tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relayd.audit.keeping import Keeping
from relayd.hub.access.audit import HubAudit, HubAuditSettings
from relayd.hub.access.password_hashes import HashingCost
from relayd.hub.access.permissions import Principal, Role
from tests.support.auditing import state

#: Passwords that are checked at once.
CHEAP = HashingCost(passes=1, kib=64)
#: A good one, and another.
PASSWORD = "canary correct horse"
OTHER_PASSWORD = "canary battery staple"
ADDRESS = "192.0.2.7"


def principal(**chosen: Any) -> Principal:
    """The user alice, an administrator, who has a session."""
    given: dict[str, Any] = {
        "user_id": "id-alice",
        "user": "alice",
        "role": Role.ADMIN,
        "selectors": None,
        "address": ADDRESS,
    }
    return Principal(**(given | chosen))


def hub_audit(reactor: Any, path: Path, **keeping: Any) -> HubAudit:
    """An audit log at *path*, not started; its state directory is that of `tests.support.auditing`."""
    settings = HubAuditSettings(path=str(path), state_dir=str(state(path)), keeping=Keeping(**keeping), hub="hub-1")
    return HubAudit(reactor, settings, retry=0.01)
