"""
Roles, scopes, and who asks: one table says which role may do what.  No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from relayd.hub.access.errors import Forbidden, PasswordMustChange, Unusable
from relayd.language.texts import Text, printable


class Role(StrEnum):
    """What a user is."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Permission(StrEnum):
    """What somebody may do; by the same names a token is limited to some of them, which are its scopes."""

    #: See runs, invocations and their output.
    RUNS_READ = "runs:read"
    #: Order, pause, resume, cancel and repeat runs.
    RUNS_WRITE = "runs:write"
    #: See hosts, and the names of credentials.
    INVENTORY_READ = "inventory:read"
    #: Add, change, import and remove hosts and credentials.
    INVENTORY_WRITE = "inventory:write"
    #: See relays.
    RELAYS_READ = "relays:read"
    #: Add, change and remove relays, enrol them, and rotate and revoke their keys.
    RELAYS_WRITE = "relays:write"
    #: See, add, change and remove users and everybody's tokens. Who has it can give themselves all others.
    ACCESS_ADMIN = "access:admin"
    #: Read and export the audit log.
    AUDIT_READ = "audit:read"


_EVERYBODY: Final = frozenset(Role)
_WHO_ORDERS: Final = frozenset({Role.OPERATOR, Role.ADMIN})
_ADMINS: Final = frozenset({Role.ADMIN})

#: Which roles have which permission; what is not here, nobody has.
ROLES: Final = MappingProxyType(
    {
        Permission.RUNS_READ: _EVERYBODY,
        Permission.RUNS_WRITE: _WHO_ORDERS,
        Permission.INVENTORY_READ: _EVERYBODY,
        Permission.INVENTORY_WRITE: _ADMINS,
        Permission.RELAYS_READ: _EVERYBODY,
        Permission.RELAYS_WRITE: _ADMINS,
        Permission.ACCESS_ADMIN: _ADMINS,
        Permission.AUDIT_READ: _ADMINS,
    }
)


def permissions_of(role: Role) -> frozenset[Permission]:
    """All that a role may do."""
    return frozenset(permission for permission, roles in ROLES.items() if role in roles)


class Principal(Struct, frozen=True, kw_only=True):
    """
    Who asks: a user with a session, or with one of its tokens.

    Each request has a new one, made of what the user and the token are at that moment.

    :ivar user_id: id of the user.
    :ivar user: name of the user.
    :ivar role: role of the user now.
    :ivar selectors: the hosts that an operator may run commands on; ``None``: all.
    :ivar address: where the request comes from.
    :ivar token: name of the token; ``None``: it is a session.
    :ivar token_scopes: what the token is limited to.
    :ivar must_change_password: the user's password is temporary: until it is changed, the session may do nothing else.
    """

    user_id: str
    user: str
    role: Role
    selectors: tuple[str, ...] | None
    address: str
    token: str | None = None
    token_scopes: frozenset[Permission] = frozenset()
    must_change_password: bool = False

    @property
    def name(self) -> str:
        """``user:NAME``, or ``token:USER/NAME``: so the audit log and runs call it."""
        return f"user:{self.user}" if self.token is None else f"token:{self.user}/{self.token}"

    @property
    def scopes(self) -> frozenset[Permission]:
        """All that it may do now: what its role may, and of that, for a token, what is in its scopes."""
        if self.must_change_password:
            return frozenset()
        own = permissions_of(self.role)
        return own if self.token is None else own & self.token_scopes

    @property
    def has_session(self) -> bool:
        """Whether a person logged in; a token may not change passwords, nor make tokens that may more than itself."""
        return self.token is None

    @property
    def limits(self) -> tuple[str, ...] | None:
        """The selectors of hosts that it may run commands on; ``None``: all hosts."""
        return self.selectors if self.role is Role.OPERATOR else None

    def may(self, permission: Permission) -> bool:
        """Whether it may do something at all; on which hosts, `relayd.hub.access.limits` says."""
        return permission in self.scopes

    def require(self, permission: Permission) -> None:
        """
        Check that it may do something.

        :raises Forbidden: when it may not.
        :raises PasswordMustChange: when it may not before its password is changed.
        """
        if self.may(permission):
            return
        if self.must_change_password:
            raise PasswordMustChange(user=self.user)
        raise Forbidden(permission=permission.value, principal=self.name)


def parse_role(text: str) -> Role:
    """
    Read the name of a role.

    :raises Unusable: when there is none of that name.
    """
    try:
        return Role(text)
    except ValueError:
        names = ", ".join(Role)
        reason = Text("{typed} is not one of {names}", typed=printable(text, 60), names=names)
        raise Unusable(field=Text("role"), reason=reason) from None


def parse_scopes(names: Iterable[str]) -> frozenset[Permission]:
    """
    Read the scopes of a token.

    :raises Unusable: when one of them does not exist, or there is none.
    """
    found: set[Permission] = set()
    for name in names:
        try:
            found.add(Permission(name))
        except ValueError:
            reason = Text("{typed} is not one of {names}", typed=printable(name, 60), names=", ".join(Permission))
            raise Unusable(field=Text("scope"), reason=reason) from None
    if not found:
        raise Unusable(field=Text("scope"), reason=Text("a token without scopes can do nothing"))
    return frozenset(found)
