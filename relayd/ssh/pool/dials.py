"""
The connections that are being opened for the pool, and what the failure of one means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.errors import ConnectionDropped, LoginDropped, LoginRefused, NoDescriptor, PasswordExpired, SSHError
from relayd.ssh.pool.dialer import Dialer, DialOwner
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.members import Member

_log = Logger("relayd.ssh")


class DialFailure(Struct, frozen=True):
    """
    Why a connection could not be opened.

    :ivar hung_up: the host hung up before the login, as one does that has too many newcomers.
    :ivar shortage: this process had no file descriptor left.
    :ivar refused: the host refused the login.
    """

    error: SSHError
    hung_up: bool
    shortage: bool
    refused: bool


class Dials:
    """
    Has connections opened, by *dialer*.

    :param on_open: called with a connection that is open.
    :param on_failure: called when it could not be opened, which the log has already.
    """

    def __init__(
        self,
        dialer: Dialer,
        owner: DialOwner,
        on_open: Callable[[ClientConnection, Member[Job]], None],
        on_failure: Callable[[Member[Job], DialFailure], None],
    ) -> None:
        self._dialer = dialer
        self._owner = owner
        self._on_open = on_open
        self._on_failure = on_failure
        self._dials: dict[Member[Job], Deferred[Any]] = {}
        self._cancelled = False

    def begin(self, member: Member[Job]) -> None:
        """Open *member*."""
        dial: Deferred[Any] = Deferred.fromCoroutine(self._dialer.dial(member.target, self._owner))
        self._dials[member] = dial
        dial.addCallbacks(self._opened, self._failed, callbackArgs=(member,), errbackArgs=(member,))

    def cancel(self) -> None:
        """Open none of them, if that can still be helped; nothing more of them is logged."""
        self._cancelled = True
        for dial in list(self._dials.values()):
            dial.cancel()

    def _opened(self, connection: ClientConnection, member: Member[Job]) -> None:
        del self._dials[member]
        self._on_open(connection, member)

    def _failed(self, failure: Failure, member: Member[Job]) -> None:
        del self._dials[member]
        reason = failure.value
        frames = () if isinstance(reason, SSHError) else failure.frames
        # The frames of its traceback hold what waited for it, and so the error itself, and the secrets of the login:
        # left as they are, all of it would stay until garbage is collected.
        failure.cleanFailure()
        if isinstance(reason, SSHError):
            error = reason
        else:
            error = SSHError()
            if not self._cancelled:
                # A fault of ours. Its text might hold what the host or the main server sent.
                _log.error(
                    "{target}: connecting failed unexpectedly: {kind} at {where}",
                    kind=type(reason).__name__,
                    where=frames[-1][:3] if frames else "",
                    **member.target.log_fields,
                )
        here = not error.at_jump_host
        if error is reason and not self._cancelled:
            names_host = here and "host" in error.fields
            _log.info("{error}" if names_host else "{target}: {error}", error=str(error), **member.target.log_fields)
        self._on_failure(
            member,
            DialFailure(
                error,
                hung_up=here and isinstance(error, ConnectionDropped) and not isinstance(error, LoginDropped),
                shortage=isinstance(error, NoDescriptor),
                refused=here and isinstance(error, LoginRefused | PasswordExpired),
            ),
        )
