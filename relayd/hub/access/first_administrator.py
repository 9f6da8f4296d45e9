"""
The first administrator of a hub, for ``relayctl hub init``: made in the store itself, on the machine of the hub, and
only where there is no user.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from getpass import getpass
from typing import Any

from sqlalchemy import Connection

from relayd.config.secret_files import Unusable as UnusableFile
from relayd.config.secret_files import read_line
from relayd.hub.access.audit import Actor, HubAudit
from relayd.hub.access.errors import Unusable, UsersExist
from relayd.hub.access.password_hashes import PasswordHashes
from relayd.hub.access.password_rules import check_password
from relayd.hub.access.permissions import Role
from relayd.hub.access.sessions import Now
from relayd.hub.access.user_names import check_user_name
from relayd.hub.store import users
from relayd.hub.store.ids import new_id
from relayd.hub.store.store import Store
from relayd.hub.store.users import User
from relayd.language.texts import Text
from relayd.wire.secret import Secret


def read_new_password(path: str | None, ask: Callable[[str], str] = getpass, terminal: Any = None) -> Secret:
    """
    A new password, from a file or a terminal; it is never given on a command line, which others can see.

    :param path: of a file that holds it as its one line; ``None``: a person types it, twice.
    :param ask: reads a line without showing it.
    :param terminal: standard input.
    :raises Unusable: when there is none, or the second is not the first.
    """
    field = Text("password")
    if path is not None:
        try:
            return read_line(path)
        except UnusableFile as error:
            raise Unusable(field=field, reason=str(error)) from None
    if not (terminal or sys.stdin).isatty():
        raise Unusable(field=field, reason=Text("standard input is no terminal; name a file that holds it"))
    first = Secret(ask("Password: "))
    if first != Secret(ask("The same again: ")):
        raise Unusable(field=field, reason=Text("the second one was another; nothing was done"))
    return first


async def make_first_administrator(
    store: Store,
    hashes: PasswordHashes,
    audit: HubAudit,
    actor: Actor,
    now: Now,
    name: str,
    password: Secret,
) -> User:
    """
    Make the first user of a hub, an administrator.

    :param actor: who does this, such as ``local:root``.
    :param now: the time of day.
    :raises Unusable: when no user can have this name.
    :raises WeakPassword: when the password is easily guessed.
    :raises UsersExist: when there is a user already.
    :raises AuditUnavailable: when it cannot be recorded.
    """
    check_user_name(name)
    check_password(password, name)
    at = now()
    user = User(
        id=new_id(at),
        name=name,
        role=Role.ADMIN.value,
        selectors=None,
        enabled=True,
        password_expires_at=None,
        created_at=at,
        version=1,
    )
    hashed = await hashes.make(password)

    async def add() -> None:
        if not await store.run(_add, user, hashed):
            raise UsersExist

    await audit.perform(actor, "first-administrator", {"user": name}, add)
    return user


def _add(connection: Connection, user: User, hashed: str) -> bool:
    if not users.is_empty(connection):
        return False
    users.add(connection, user, hashed)
    return True
