"""
The hub's audit log: every act of a person or token, and every one that was refused, in the hash chain of
`relayd.audit`.

**An act is on the disk in the log before it is done**: its line with the outcome ``begun``.  A second line, with the
same ``act``, says what came of it: ``done``, or the code of an error.  If the hub dies in between there is no second
line, and the store says whether it was done.

**While the log cannot be written** (a full disk), acts are refused with ``audit-unavailable``, before anything is done,
and so are logins.  But acts that only take something away, `LESSENING`, are done all the same: to refuse them would be
worse than to have their lines late.  They wait in memory for the disk, and the hub's own log has them at once.
Reading is no act, and goes on.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from secrets import token_hex
from typing import Any, Final, TypeVar

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from relayd.audit.chain import Chain
from relayd.audit.events import LONGEST, MAX_NAME, Record, clip, length_in_line
from relayd.audit.keeping import Keeping
from relayd.audit.key import command_digest
from relayd.audit.refusals import INTERVAL, RefusalLimiter
from relayd.audit.writer import RETRY, AuditWriter, NotWritten, key_in
from relayd.hub.access.errors import AuditUnavailable
from relayd.hub.access.permissions import Principal
from relayd.language.errors import DescribedError
from relayd.language.texts import printable

_log = Logger("relayd.hub")

T = TypeVar("T")

#: Acts that only take something away: they are never refused because of the log.
LESSENING: Final = frozenset(
    {
        "logout",
        "session-end",
        "token-revoke",
        "relay-key-revoke",
        "run-pause",
        "run-cancel",
        "invocation-cancel",
    }
)
#: Outcomes that are no errors.
BEGUN: Final = "begun"
DONE: Final = "done"
#: What the hub says of an act that was cancelled or lost half-way.
UNKNOWN: Final = "unknown"
#: Names of acts and of fields.
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,40}")
#: Bytes of a line for the frame, and for the common fields.
_FRAME: Final = 1600
#: Items of a list that a line names at most.
_MOST_ITEMS: Final = 20
#: Fields that belong to the log.
_OWN_FIELDS: Final = frozenset(
    {"seq", "time", "event", "hub", "act", "principal", "address", "outcome", "prev", "torn", "foreign", "mac", "hash"}
)

#: What a field may hold; never a secret.
Value = str | int | bool | None | list[str]


class Actor(Struct, frozen=True):
    """
    Who does something.

    :ivar principal: ``user:NAME``, ``token:USER/NAME``, ``relay:NAME``, or ``hub`` for what the hub does by itself.
    :ivar address: from where.
    """

    principal: str
    address: str


def actor_of(principal: Principal) -> Actor:
    """Somebody who asks the hub for something."""
    return Actor(principal.name, principal.address)


class HubAuditSettings(Struct, frozen=True, kw_only=True):
    """
    What the site chose.

    :ivar path: the log.
    :ivar state_dir: folder of the key of digests and of the seal, which are made where they are missing.
    :ivar keeping: which files stay.
    :ivar hub: the hub's name.
    """

    path: str
    state_dir: str
    keeping: Keeping
    hub: str


class Entry:
    """One act that is under way: it is in the log, and `end` says what came of it."""

    def __init__(self, audit: HubAudit, actor: Actor, event: str, fields: Mapping[str, Value]) -> None:
        self._audit = audit
        self._actor = actor
        self._event = event
        self._fields = fields
        self._ended = False
        self.act = token_hex(8)

    def end(self, outcome: str = DONE, **more: Value) -> None:
        """
        Say what came of it; only the first call counts.

        :param outcome: ``done``, or the code of an error.
        :param more: what is known now, such as the id of what was made.
        """
        if not self._ended:
            self._ended = True
            self._audit.put(self._actor, self._event, outcome, {"act": self.act, **self._fields, **more}, ends=True)


class HubAudit:
    """
    The audit log of a running hub.

    :param reactor: provides time, and a way back from the log's thread.
    :param retry: seconds until what could not be written is tried again.
    """

    def __init__(self, reactor: Any, settings: HubAuditSettings, *, retry: float = RETRY) -> None:
        self._reactor = reactor
        self._settings = settings
        chain = Chain(settings.path, settings.state_dir, settings.keeping, {"hub": clip(settings.hub, MAX_NAME)})
        # Nobody is kept waiting for others: what comes while the disk works is written together anyway.
        self._writer = AuditWriter(reactor, chain, _unchanged, gather=0.0, refused="acts", retry=retry)
        self._key = b""
        self._refusals = RefusalLimiter()
        self._sum_call: IDelayedCall | None = None

    def start(self) -> None:
        """
        Open the log.

        :raises ConfigError: when it cannot be opened.
        """
        self._key = key_in(self._settings.state_dir)
        self._writer.start()

    def close(self) -> Deferred[None]:
        """Write what is pending and close; fails when the disk does not answer in time."""
        if self._sum_call is not None:
            self._sum_call.cancel()
            self._sum_up()
        return self._writer.close()

    @property
    def available(self) -> bool:
        """Whether it can be written."""
        return self._writer.available

    @property
    def path(self) -> str:
        """The file that it writes."""
        return self._settings.path

    @property
    def state_dir(self) -> str:
        """The folder with its seal."""
        return self._settings.state_dir

    def digest(self, text: str) -> str:
        """
        A keyed digest of the text of a command, which ``relayctl audit digest`` makes, too; its first 16 digits stand
        for a name that no user has, as it may be a password that was typed into the wrong field.
        """
        return command_digest(self._key, text)

    async def perform(
        self, actor: Actor, event: str, fields: Mapping[str, Value], function: Callable[[], Awaitable[T]]
    ) -> T:
        """
        Do something, and record it before and after.

        :param event: what is done, such as ``user-add``.
        :param fields: with what; never a secret.
        :raises AuditUnavailable: when it cannot be recorded; nothing was done then.
        """
        entry = await self.begin(actor, event, fields)
        try:
            result = await function()
        except BaseException as error:
            entry.end(outcome_of(error))
            raise
        entry.end()
        return result

    async def begin(self, actor: Actor, event: str, fields: Mapping[str, Value]) -> Entry:
        """
        Record that something is about to be done.

        :raises AuditUnavailable: when that is not on the disk; it must not be done then.
        """
        entry = Entry(self, actor, event, fields)
        begun = {"act": entry.act, **fields}
        if event in LESSENING and not self.available:
            _log.error(
                "{principal} from {address}: {event}, which the audit log will have once it can be written",
                principal=printable(actor.principal, MAX_NAME),
                address=printable(actor.address, MAX_NAME),
                event=event,
            )
            self.put(actor, event, BEGUN, begun, ends=True)
            return entry
        if not self.available:
            self.refused(actor, event, AuditUnavailable.code, fields)
            raise AuditUnavailable
        try:
            await self.record(actor, event, BEGUN, begun)
        except CancelledError:
            entry.end("cancelled")
            raise
        except AuditUnavailable:
            if event not in LESSENING:
                entry.end(AuditUnavailable.code)  # its first line is on its way, although late
                raise
        return entry

    async def record(self, actor: Actor, event: str, outcome: str, fields: Mapping[str, Value]) -> None:
        """
        Record something of which the outcome is known before it is done; it is on the disk when this returns.

        :raises AuditUnavailable: when it is not.
        """
        if not self.available:
            raise AuditUnavailable
        line = _fields_of(actor, event, outcome, fields)
        try:
            await self._writer.put_and_wait(event, line, _size(line))
        except NotWritten:
            raise AuditUnavailable from None

    def put(self, actor: Actor, event: str, outcome: str, fields: Mapping[str, Value], *, ends: bool = False) -> None:
        """Record something without waiting for the disk."""
        line = _fields_of(actor, event, outcome, fields)
        self._writer.put(event, line, _size(line), ends=ends)

    def refused(self, actor: Actor, event: str, outcome: str, fields: Mapping[str, Value]) -> None:
        """
        Record that something was refused, and so was not done.

        Of those that are alike, beyond some each minute, only their number is recorded: nobody can fill the disk with
        wrong passwords.

        :param outcome: the code of the error.
        """
        who = f"{actor.principal} {actor.address}"
        if self._refusals.admits(f"{event} {outcome}", who, who, time.monotonic()):
            self.put(actor, event, outcome, fields)
        elif self._sum_call is None and not self._writer.closing:
            self._sum_call = self._reactor.callLater(INTERVAL, self._sum_up)

    def _sum_up(self) -> None:
        self._sum_call = None
        for each in self._refusals.take_sums():
            event, _, outcome = each["outcome"].partition(" ")
            fields = {"refused": event, "outcome": outcome, "count": each["count"], "who": each["targets"]}
            self._writer.put("refusals", fields, _size(fields), ends=True)


def outcome_of(error: BaseException) -> str:
    """The outcome of an act that failed: a code, and never an error's text, which could hold anything."""
    if isinstance(error, DescribedError):
        return error.code
    return UNKNOWN if isinstance(error, CancelledError) else "internal"


def _unchanged(record: Record) -> Record:
    return record


def _fields_of(actor: Actor, event: str, outcome: str, fields: Mapping[str, Value]) -> dict[str, Any]:
    """The fields of a line, as many of them, and as much of each, as it has room for."""
    if _NAME.fullmatch(event) is None or not _OWN_FIELDS.isdisjoint(fields.keys() - {"act"}):
        raise ValueError(f"{event} cannot be recorded so")
    line: dict[str, Any] = {
        "principal": clip(actor.principal, MAX_NAME),
        "address": clip(actor.address, 100),
        "outcome": outcome,
    }
    room = LONGEST - _FRAME
    for name, value in fields.items():
        fitted = _fitted(value, room)
        room -= len(name) + _length(fitted) + 4
        line[name] = fitted
        if isinstance(value, list) and len(fitted) < len(value):
            line[f"{name}Count"] = len(value)
            line[f"{name}Digest"] = sha256("\0".join(value).encode("utf-8", "surrogatepass")).hexdigest()
            room -= 2 * len(name) + 100
    return line


def _fitted(value: Value, room: int) -> Any:
    if isinstance(value, str):
        return clip(value, max(64, min(MAX_NAME, room)))
    if isinstance(value, list):
        told: list[str] = []
        for item in value[:_MOST_ITEMS]:
            room -= length_in_line(item) + 3
            if room < 200:
                break
            told.append(item)
        return told
    return value


def _length(value: Any) -> int:
    if isinstance(value, str):
        return length_in_line(value)
    return sum(length_in_line(item) + 3 for item in value) if isinstance(value, list) else 24


def _size(fields: Mapping[str, Any]) -> int:
    return sum(len(value) for value in fields.values() if isinstance(value, str))


def default_path(state_dir: str) -> str:
    """Where the log is when nobody says where."""
    return os.path.join(state_dir, "audit.log")
