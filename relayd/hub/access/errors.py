"""
Why the hub does not let somebody do something, as one list.

As `DescribedError` says, the docstring of a class is the message.  None of them holds a password, a token, the id of a
session, or anything that the one who asks may not see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from relayd.language.errors import DescribedError
from relayd.language.texts import Text

#: Hosts that a message names at most.
_MOST_NAMED: Final = 20


class AccessError(DescribedError):
    """The hub refused this."""

    code = "access"


# Logging in ----------------------------------------------------------------------------------------------------------


class LoginFailed(AccessError):
    """User and password do not match, or the user is disabled, or its temporary password has expired."""

    code = "login-failed"


class LoginThrottled(AccessError):
    """Too many logins have failed. Wait {seconds} s, then try again."""

    code = "login-throttled"
    retriable = True

    def __init__(self, *, seconds: int) -> None:
        super().__init__(seconds=seconds)
        #: Whole seconds until it can be tried again.
        self.seconds = seconds


class LoginsBusy(AccessError):
    """More passwords wait to be checked than the hub takes at once. Try again in {seconds} s."""

    code = "logins-busy"
    retriable = True

    def __init__(self, *, seconds: int) -> None:
        super().__init__(seconds=seconds)
        #: Whole seconds until it can be tried again.
        self.seconds = seconds


class LoginInsecure(AccessError):
    """A password may only be sent over TLS, or on the hub's own machine. Use https."""

    code = "login-insecure"


class NotAuthenticated(AccessError):
    """The session or the API token is not known, or has ended. Log in again, or use another token."""

    code = "not-authenticated"


class CsrfWrong(AccessError):
    """The CSRF token of this session is missing or wrong. Nothing was done; load the page again."""

    code = "csrf-token-wrong"


# What somebody may not do --------------------------------------------------------------------------------------------


class Forbidden(AccessError):
    """This needs the permission {permission}, which {principal} does not have. Ask an administrator."""

    code = "forbidden"


class SessionNeeded(Forbidden):
    """This needs a session, and {principal} is an API token. Log in with user and password."""

    code = "session-needed"


class PasswordMustChange(AccessError):
    """The password of {user} is temporary. Choose one of your own first."""

    code = "password-must-change"


class HostsForbidden(AccessError):
    """{hosts} outside of what {principal} may run commands on. Nothing was done; leave them out, or ask an
    administrator."""

    code = "hosts-forbidden"

    def __init__(self, *, principal: str, names: Sequence[str], count: int) -> None:
        """
        :param names: of the hosts, or none, if *principal* must not see them.
        :param count: how many there are.
        """
        shown = ", ".join(names[:_MOST_NAMED])
        if not names and count == 1:
            hosts = Text("One of the hosts is")
        elif not names:
            hosts = Text("{count} of the hosts are", count=count)
        elif count > len(names[:_MOST_NAMED]):
            hosts = Text("{names} and {count} more are", names=shown, count=count - _MOST_NAMED)
        elif count == 1:
            hosts = Text("The host {names} is", names=shown)
        else:
            hosts = Text("The hosts {names} are", names=shown)
        super().__init__(hosts=hosts, principal=principal)
        #: The hosts that may be named.
        self.names = tuple(names)
        #: How many there are.
        self.count = count


# What cannot be so ---------------------------------------------------------------------------------------------------


class Unusable(AccessError):
    """The {field} cannot be used: {reason}."""

    code = "unusable-value"


class WeakPassword(AccessError):
    """This password is not accepted: {reason}."""

    code = "weak-password"


class UserExists(AccessError):
    """There is already a user {name}."""

    code = "user-exists"


class TokenExists(AccessError):
    """{user} already has, or had, a token {name}. Choose another name, so that the audit log stays plain."""

    code = "token-exists"


class NoSuchUser(AccessError):
    """There is no user {name}."""

    code = "no-such-user"


class NoSuchToken(AccessError):
    """There is no such token."""

    code = "no-such-token"


class NoSuchSession(AccessError):
    """There is no such session."""

    code = "no-such-session"


class UserChanged(AccessError):
    """The user {name} was changed by somebody else meanwhile. Read it again, and then change it."""

    code = "user-changed"


class TooManyTokens(AccessError):
    """{user} has {count} tokens that are in use, and cannot have more. Revoke some."""

    code = "too-many-tokens"


class LastAdministrator(AccessError):
    """{name} is the last administrator who can log in. Make another one first."""

    code = "last-administrator"


class UsersExist(AccessError):
    """This hub has users already. The first administrator can only be made where there is none."""

    code = "users-exist"


# The audit log -------------------------------------------------------------------------------------------------------


class AuditUnavailable(AccessError):
    """The hub cannot write its audit log, and does nothing that belongs there. The hub's log says why: check its disk,
    and try again."""

    code = "audit-unavailable"
    retriable = True
