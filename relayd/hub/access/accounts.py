"""
Users: added, changed, given passwords and removed.  There is always an administrator who can log in.

Whatever takes something from a user ends the user's sessions: another password, role or limit, and being disabled.
Tokens go on after another password, within what the user may do then; they have their own end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import UNSET, Struct, UnsetType
from sqlalchemy import Connection

from relayd.hub.access.audit import HubAudit, Value, actor_of
from relayd.hub.access.errors import (
    LastAdministrator,
    LoginFailed,
    NoSuchUser,
    SessionNeeded,
    Unusable,
    UserChanged,
    UserExists,
)
from relayd.hub.access.limits import check_selectors
from relayd.hub.access.logins import Logins
from relayd.hub.access.password_hashes import PasswordHashes
from relayd.hub.access.password_rules import check_password
from relayd.hub.access.permissions import Permission, Principal, Role, parse_role
from relayd.hub.access.sessions import Now
from relayd.hub.access.user_names import check_user_name
from relayd.hub.store import sessions, users
from relayd.hub.store.errors import Conflict
from relayd.hub.store.ids import new_id
from relayd.hub.store.paging import USUAL, Page
from relayd.hub.store.store import Store
from relayd.hub.store.users import User, UserChange
from relayd.language.texts import Text
from relayd.wire.secret import Secret

#: Microseconds for which a password that somebody else chose can be used to choose another one.
TEMPORARY: Final = 7 * 24 * 3600 * 1_000_000


class AccountChange(Struct, frozen=True, kw_only=True):
    """
    What of a user is to change.

    :ivar selectors: ``None``: all hosts.  Needed where somebody becomes an operator.
    """

    role: str | UnsetType = UNSET
    selectors: Sequence[str] | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


class Accounts:
    """
    The users of the hub, for those who may change them.

    :param read_selector: reads a selector, and raises `relayd.language.texts.Fault` when it cannot.
    :param now: the time of day.
    """

    def __init__(
        self,
        store: Store,
        hashes: PasswordHashes,
        logins: Logins,
        audit: HubAudit,
        read_selector: Callable[[str], object],
        now: Now,
    ) -> None:
        self._store = store
        self._hashes = hashes
        self._logins = logins
        self._audit = audit
        self._read_selector = read_selector
        self._now = now

    async def list_page(self, principal: Principal, cursor: str | None = None, limit: int = USUAL) -> Page[User]:
        """A page of the users, in the order of their names."""
        principal.require(Permission.ACCESS_ADMIN)
        return await self._store.read(users.fetch, cursor, limit)

    async def get(self, principal: Principal, name: str) -> User:
        """
        A user; everybody may see their own.

        :raises NoSuchUser: when there is none of that name.
        """
        if name != principal.user:
            principal.require(Permission.ACCESS_ADMIN)
        found = await self._store.read(users.find, name)
        if found is None:
            raise NoSuchUser(name=name)
        return found

    async def add(
        self,
        principal: Principal,
        name: str,
        password: Secret,
        role: str,
        selectors: Sequence[str] | None = None,
    ) -> User:
        """
        Add a user, whose password is temporary: at the first login, within a week, the user chooses another one.

        :param selectors: the hosts that an operator is limited to; ``None``: all hosts.
        :raises Unusable: when a value cannot be used.
        :raises WeakPassword: when the password is easily guessed.
        :raises UserExists: when there is a user of that name.
        """
        principal.require(Permission.ACCESS_ADMIN)
        check_user_name(name)
        limits = self._limits(parse_role(role), selectors)
        check_password(password, name)
        now = self._now()
        user = User(
            id=new_id(now),
            name=name,
            role=role,
            selectors=limits,
            enabled=True,
            password_expires_at=now + TEMPORARY,
            created_at=now,
            version=1,
        )
        hashed = await self._hashes.make(password)

        async def add() -> None:
            try:
                await self._store.run(users.add, user, hashed)
            except Conflict:
                raise UserExists(name=name) from None

        await self._audit.perform(actor_of(principal), "user-add", {"user": name, "role": role} | _told(limits), add)
        return user

    async def change(self, principal: Principal, name: str, changes: AccountChange, version: int | None = None) -> User:
        """
        Change a user's role, limits, or whether the user is enabled.  That ends the user's sessions.

        :param version: the one that *principal* saw; ``None``: any.
        :raises Unusable: when a value cannot be used.
        :raises NoSuchUser: when there is none of that name.
        :raises UserChanged: when it has another version.
        :raises LastAdministrator: when no administrator who can log in would be left.
        """
        principal.require(Permission.ACCESS_ADMIN)
        before = await self.get(principal, name)
        wanted = self._wanted(before, changes)
        fields: dict[str, Value] = {"user": name}
        if wanted.role is not UNSET:
            fields["role"] = wanted.role
        if wanted.selectors is not UNSET:
            fields |= _told(wanted.selectors)
        if wanted.enabled is not UNSET:
            fields["enabled"] = wanted.enabled

        async def change() -> User:
            return await self._store.run(_change, before, wanted, version)

        return await self._audit.perform(actor_of(principal), "user-change", fields, change)

    async def remove(self, principal: Principal, name: str, version: int | None = None) -> None:
        """
        Remove a user, with the sessions and tokens.  What the user ordered stays.

        :param version: the one that *principal* saw; ``None``: any.
        :raises NoSuchUser: when there is none of that name.
        :raises UserChanged: when it has another version.
        :raises LastAdministrator: when no administrator who can log in would be left.
        """
        principal.require(Permission.ACCESS_ADMIN)
        await self._audit.perform(
            actor_of(principal), "user-remove", {"user": name}, lambda: self._store.run(_remove, name, version)
        )

    async def give_password(self, principal: Principal, name: str, password: Secret) -> None:
        """
        Give another user a temporary password, which ends that user's sessions: within a week, the user chooses another
        one.

        :raises Unusable: when it is the own password.
        :raises WeakPassword: when the password is easily guessed.
        :raises NoSuchUser: when there is none of that name.
        """
        principal.require(Permission.ACCESS_ADMIN)
        if name == principal.user:
            raise Unusable(field=Text("user"), reason=Text("to change your own password, give the one of now with it"))
        check_password(password, name)
        expires = self._now() + TEMPORARY
        await self._set_password(principal, name, password, None, expires)

    async def change_password(self, principal: Principal, current: Secret, new: Secret) -> None:
        """
        Change the own password, which ends all sessions of the user, also the one that asks.

        :raises SessionNeeded: when a token asks.
        :raises LoginFailed: when *current* is not the password.
        :raises LoginThrottled: when too many attempts failed.
        :raises WeakPassword: when the new password is easily guessed, or the one of now.
        """
        if not principal.has_session:
            raise SessionNeeded(principal=principal.name)
        _, hashed = await self._logins.check(principal.user, current, principal.address, "password-change")
        check_password(new, principal.user)
        if current == new:
            raise Unusable(field=Text("new password"), reason=Text("it is the one of now"))
        await self._set_password(principal, principal.user, new, hashed, None)

    async def _set_password(
        self, principal: Principal, name: str, password: Secret, old: str | None, expires: int | None
    ) -> None:
        hashed = await self._hashes.make(password)
        await self._audit.perform(
            actor_of(principal),
            "password-change",
            {"user": name, "temporary": expires is not None},
            lambda: self._store.run(_set_password, name, hashed, old, expires),
        )

    def _limits(self, role: Role, selectors: Sequence[str] | None) -> tuple[str, ...] | None:
        if selectors is not None and role is not Role.OPERATOR:
            raise Unusable(field=Text("selectors"), reason=Text("only operators are limited to hosts"))
        return check_selectors(selectors, self._read_selector)

    def _wanted(self, before: User, changes: AccountChange) -> UserChange:
        role = before.role if changes.role is UNSET else parse_role(changes.role).value
        selectors: Sequence[str] | UnsetType | None = changes.selectors
        if selectors is not UNSET:
            selectors = self._limits(Role(role), selectors)
        elif role != before.role and role == Role.OPERATOR:
            reason = Text("say which hosts this operator may use; null means all hosts")
            raise Unusable(field=Text("selectors"), reason=reason)
        elif role != Role.OPERATOR and before.selectors is not None:
            selectors = None  # else they would be there again if the user became an operator again
        return UserChange(role=changes.role, selectors=selectors, enabled=changes.enabled)


# In the store's thread


def _change(connection: Connection, before: User, wanted: UserChange, version: int | None) -> User:
    administrators = users.lock_administrators(connection)
    current = _current(connection, before.name, version)
    if current.role != before.role or current.selectors != before.selectors:
        raise UserChanged(name=before.name)  # what is wanted was made of what was there before
    stays = wanted.role in (UNSET, Role.ADMIN) and wanted.enabled is not False
    _check_last(administrators, before.name, stays)
    changed = users.change(connection, before.name, wanted)
    assert changed is not None
    sessions.remove_of(connection, changed.id)
    return changed


def _remove(connection: Connection, name: str, version: int | None) -> None:
    administrators = users.lock_administrators(connection)
    _current(connection, name, version)
    _check_last(administrators, name, False)
    users.remove(connection, name)


def _set_password(connection: Connection, name: str, hashed: str, old: str | None, expires: int | None) -> None:
    found = users.find_password(connection, name)
    if found is None:
        raise NoSuchUser(name=name)
    if old is not None and found[1] != old:
        raise LoginFailed  # it was changed while it was checked
    users.set_password(connection, name, hashed, expires)
    sessions.remove_of(connection, found[0].id)


def _current(connection: Connection, name: str, version: int | None) -> User:
    current = users.find(connection, name)
    if current is None:
        raise NoSuchUser(name=name)
    if version is not None and current.version != version:
        raise UserChanged(name=name)
    return current


def _check_last(administrators: list[str], name: str, stays: bool) -> None:
    if administrators == [name] and not stays:
        raise LastAdministrator(name=name)


def _told(selectors: Sequence[str] | None) -> dict[str, Value]:
    return {} if selectors is None else {"selectors": list(selectors)}
