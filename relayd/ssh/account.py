"""
Accounts that may log in but run nothing: their host answers every command with the same words, as if it had run.

OpenSSH does so for a password that has to be changed, nologin(8) for an account that is closed. A command may write the
same words, having asked another host; so whether it was the command or the account is found out with a command that
writes nothing.  It must not start a command that the host's site put in its place: see `relayd.ssh.limits.guarded`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from relayd.ssh.errors import AccountClosed, PasswordExpired, SSHError
from relayd.ssh.jobs import Job
from relayd.ssh.limits import guarded
from relayd.ssh.session import Session
from relayd.ssh.target import Target
from relayd.ssh.text import last_lines

if TYPE_CHECKING:
    from relayd.ssh.pool import Pool

#: On stderr, of OpenSSH (session.c, ``do_pwchange``)
_MUST_CHANGE = b"Password change required but no TTY available.\n"
#: On stdout, of nologin(8) by util-linux, shadow and BSD
_NOLOGIN = b"This account is currently not available.\n"
#: Bytes of output beyond which it is not these words alone.
_MOST_SAID = 300
#: A command that every shell knows, and that writes nothing.
_SILENT = b"true"


def answers_for_account(session: Session) -> bool:
    """Whether it may be the account, and not the command, that answered in a session which has ended."""
    return (
        session.exit.status == 1 and session.stdout.total + session.stderr.total <= _MOST_SAID and bool(_said(session))
    )


def _said(session: Session) -> bytes:
    stdout, stderr = session.stdout.raw(), session.stderr.raw()
    if not stdout and stderr.endswith(_MUST_CHANGE):
        return stderr
    return stdout if stdout == _NOLOGIN and not stderr else b""


class AccountCheck:
    """
    Whether the account answers another command with the same.

    :param job: of the command, which has ended.
    :param session: that of the command.
    :param on_result: called once, with the error that it is, or with ``None`` when the command itself answered or
        nothing could be found out; at once where it is known already; not after `stop`.
    """

    def __init__(self, pool: Pool, job: Job, session: Session, on_result: Callable[[SSHError | None], None]) -> None:
        self._pool = pool
        self._target = job.target
        self._before = session
        self._on_result = on_result
        connection = job.connection
        known = None if connection is None else connection.runs_nothing
        version = b"" if connection is None else connection.transport.otherVersionString
        command = guarded(_SILENT, version, by_key=job.target.credential.has_key)
        self._probe = Session(command or b"", _MOST_SAID, lambda: None, self._ended)
        self._job = Job(job.target, self._probe, self._failed)
        if known is not None or connection is None or command is None:
            on_result(known)
        else:
            pool.submit(self._job, near=connection)

    def stop(self) -> None:
        """It is not wanted any more."""
        self._pool.withdraw(self._job)

    def _failed(self, error: SSHError) -> None:
        # While it waited for its turn, another check may have found it out.
        self._on_result(error if isinstance(error, AccountClosed | PasswordExpired) else None)

    def _ended(self) -> None:
        before, probe = self._before, self._probe
        if not answers_for_account(probe) or _said(probe) != _said(before):
            self._on_result(None)
            return
        error = _error(self._target, _said(probe))
        self._pool.account_closed(self._target, error)
        self._on_result(error)


def _error(target: Target, said: bytes) -> SSHError:
    where = {"host": target.host, "port": target.port, "username": target.username}
    if said.endswith(_MUST_CHANGE):
        return PasswordExpired(**where)
    return AccountClosed(**where, words=last_lines(said))
