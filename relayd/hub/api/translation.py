"""
What other parts of the hub raise, as problems: one table of their errors.

Their code and words stay; only the HTTP status and the title are added.  What is not here is an internal error.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from relayd.hub.access import errors as access
from relayd.hub.api.problems import AUTHENTICATE, InvalidRequest, Mistake, Problem
from relayd.hub.inventory import errors as inventory
from relayd.hub.inventory.checks import HostMistake
from relayd.hub.inventory.credentials import CredentialMistake
from relayd.hub.relays import errors as relays
from relayd.hub.runs import errors as runs
from relayd.hub.store import errors as store
from relayd.language.errors import DescribedError

#: Seconds after which what is unavailable may be tried again.
_SOON: Final = 2


class Status(Struct, frozen=True):
    """How an error is answered."""

    status: int
    title: str
    headers: dict[str, str] = {}


_CONFLICT: Final = Status(409, "Conflict")
_NOT_FOUND: Final = Status(404, "Not found")
_FORBIDDEN: Final = Status(403, "Forbidden")
_UNAUTHENTICATED: Final = Status(401, "Not authenticated", AUTHENTICATE)
_CHANGED: Final = Status(412, "Changed in the meantime")
_INVALID: Final = Status(422, "Invalid request")
_UNAVAILABLE: Final = Status(503, "Unavailable", {"Retry-After": str(_SOON)})

#: By class; an error's nearest class decides.
STATUSES: Final[dict[type[DescribedError], Status]] = {
    access.LoginFailed: Status(401, "Wrong user or password", AUTHENTICATE),
    access.LoginThrottled: Status(429, "Too many logins"),
    access.LoginsBusy: Status(503, "Too many logins"),
    access.LoginInsecure: _FORBIDDEN,
    access.NotAuthenticated: _UNAUTHENTICATED,
    access.CsrfWrong: _FORBIDDEN,
    access.Forbidden: _FORBIDDEN,
    access.PasswordMustChange: _FORBIDDEN,
    access.HostsForbidden: _FORBIDDEN,
    access.Unusable: _INVALID,
    access.WeakPassword: _INVALID,
    access.UserExists: _CONFLICT,
    access.TokenExists: _CONFLICT,
    access.NoSuchUser: _NOT_FOUND,
    access.NoSuchToken: _NOT_FOUND,
    access.NoSuchSession: _NOT_FOUND,
    access.UserChanged: _CHANGED,
    access.TooManyTokens: _CONFLICT,
    access.LastAdministrator: _CONFLICT,
    access.UsersExist: _CONFLICT,
    access.AuditUnavailable: _UNAVAILABLE,
    relays.BadRelay: _INVALID,
    relays.EnrolmentRefused: _FORBIDDEN,
    runs.InvalidOrder: _INVALID,
    runs.NoHosts: _INVALID,
    runs.SecretsGone: _CONFLICT,
    runs.NotNow: _CONFLICT,
    runs.RunError: _CONFLICT,
    runs.TooManyOpen: _UNAVAILABLE,
    inventory.SealingKeysUnusable: _UNAVAILABLE,
    store.StoreUnavailable: _UNAVAILABLE,
    store.Conflict: _CONFLICT,
    store.StillReferred: _CONFLICT,
    store.NotFound: _NOT_FOUND,
    store.Changed: _CHANGED,
    store.Unstorable: _INVALID,
    store.BadCursor: Status(400, "Bad cursor"),
}


def _places_of(error: DescribedError) -> list[Mistake]:
    """Where in the request it is, as far as the error says."""
    field = error.fields.get("field")
    if not isinstance(error, runs.InvalidOrder | relays.BadRelay) or not isinstance(field, str):
        return []
    return [Mistake(str(error.fields.get("reason", "")), f"/{field}")]


class Described(Problem):
    """An error of another part of the hub, as a problem."""

    def __init__(self, error: DescribedError, status: Status, headers: dict[str, str]) -> None:
        super().__init__(headers={**status.headers, **headers}, errors=_places_of(error))
        self.code = error.code
        self.status = status.status  # type: ignore[misc]
        self.title = status.title  # type: ignore[misc]
        words = str(error).rstrip()
        self._words = words if words.endswith((".", "!", "?")) else f"{words}."

    def __str__(self) -> str:
        return self._words


def problem_of(error: BaseException) -> Problem | None:
    """The problem that an error is; ``None``: it is an internal one, of which nothing is said."""
    if isinstance(error, HostMistake | CredentialMistake):
        return InvalidRequest([Mistake(str(error.text), f"/{error.field}")])
    if not isinstance(error, DescribedError):
        return None
    try:
        status = status_of(type(error))
    except LookupError:
        return None
    seconds: Any = getattr(error, "seconds", None)
    return Described(error, status, {} if seconds is None else {"Retry-After": str(seconds)})


def status_of(kind: type[DescribedError]) -> Status:
    """
    How errors of a class are answered.

    :raises LookupError: when they are internal errors.
    """
    for base in kind.__mro__:
        if base in STATUSES:
            return STATUSES[base]
    raise LookupError(kind)
