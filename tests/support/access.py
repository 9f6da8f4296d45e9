"""
Users, principals and audit logs of a hub for tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relayd.audit.keeping import Keeping
from relayd.hub.access.access import Access
from relayd.hub.access.audit import HubAudit, HubAuditSettings
from relayd.hub.access.errors import NotAuthenticated
from relayd.hub.access.logins import LoggedIn
from relayd.hub.access.password_hashes import HashingCost
from relayd.hub.access.permissions import Principal, Role
from relayd.hub.store import users
from relayd.hub.store.ids import new_id
from relayd.hub.store.store import Store
from relayd.hub.store.users import User
from relayd.language.texts import Fault
from relayd.wire.secret import Secret
from tests.support.auditing import directory, entries, state
from tests.support.databases import OnBothStores

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


def read_selector(text: str) -> object:
    """Takes selectors with ``=``."""
    if "=" not in text:
        raise Fault("{typed} is no selector", typed=text)
    return text


class AccessCase(OnBothStores):
    """
    Has all of access, on both databases.

    :ivar access: what is tested.
    :ivar time: the time of day, in microseconds since 1970.
    :ivar folder: of the audit log.
    """

    access: Access
    time: int

    async def start(self) -> None:
        await super().start()
        self.time = 1_800_000_000_000_000
        self.folder = directory(self)
        self.log_path = self.folder / "audit.log"
        self.access = await self.made(self.log_path, self.store)

    async def made(self, log: Path, store: Store) -> Access:
        """All of access on *store*, with an audit log of its own."""
        from twisted.internet import reactor

        audit = hub_audit(reactor, log)
        audit.start()
        self.addCleanup(audit.close)
        access = Access(reactor, store, audit, read_selector, now=self.now, cost=CHEAP)
        access.start()
        self.addCleanup(access.stop)
        return access

    async def opened_again(self) -> Access:
        """Another hub on the same database, where that can be."""
        if not self.postgresql:
            return self.access
        log = self.folder / "other" / "audit.log"
        log.parent.mkdir()
        return await self.made(log, await self.opened(self.place))

    def now(self) -> int:
        return self.time

    async def user(self, name: str, role: str = "viewer", selectors: tuple[str, ...] | None = None) -> User:
        """A user who chose `PASSWORD`."""
        hashed = await self.access.hashes.make(Secret(PASSWORD))
        user = User(
            id=new_id(self.time),
            name=name,
            role=role,
            selectors=selectors,
            enabled=True,
            password_expires_at=None,
            created_at=self.time,
            version=1,
        )
        await self.store.run(users.add, user, hashed)
        return user

    async def administrator(self, name: str = "alice") -> Principal:
        """An administrator, with a session."""
        user = await self.user(name, "admin")
        return principal(user=name, user_id=user.id)

    async def logged_in(self, name: str, password: str = PASSWORD, address: str = ADDRESS) -> LoggedIn:
        return await self.access.logins.log_in(name, Secret(password), address)

    async def by_session(self, session_id: Secret) -> Principal:
        return await self.access.doorkeeper.by_session(session_id, ADDRESS, changes=False, csrf=None)

    async def assert_ended(self, session_id: Secret) -> None:
        with self.assertRaises(NotAuthenticated):
            await self.by_session(session_id)

    async def assert_token_ended(self, token: Secret) -> None:
        with self.assertRaises(NotAuthenticated):
            await self.access.doorkeeper.by_token(token, ADDRESS)

    async def acts(self, event: str = "") -> list[dict[str, Any]]:
        """The lines of the audit log, which is closed."""
        await self.access.audit.close()
        found = [entry for entry in entries(self.log_path) if entry["event"] not in ("file", "start")]
        return [entry for entry in found if event in ("", entry["event"])]
