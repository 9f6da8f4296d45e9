"""
Finds accounts that may log in but run nothing: their host answers every command with the same words, as if it had run.

OpenSSH does so for a password that has to be changed, nologin(8) for an account that is closed. But a command may write
the same words, for example because it asked another host. A command that writes nothing tells the two apart.  It must
not start a forced command: see `relayd.ssh.transport.server_limits.guarded`.

Where PAM opens no session at a login, OpenSSH ends every command on that connection with the same exit status. The
output of the first one is what PAM said.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd.language.texts import Text, last_lines
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.errors import AccountClosed, NoSession, PasswordExpired, SSHError
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.pool import Pool
from relayd.ssh.target import Target
from relayd.ssh.transport.server_limits import guarded

#: On stderr, of OpenSSH (session.c, ``do_pwchange``)
_MUST_CHANGE = b"Password change required but no TTY available.\n"
#: On stdout, of nologin(8) by util-linux, shadow and BSD
_NOLOGIN = b"This account is currently not available.\n"
#: The longest output, in bytes, that may be these words alone.
_MOST_SAID = 300
#: The exit status of OpenSSH where PAM opened no session (session.c, ``do_child``)
_NO_SESSION = 254
#: Bytes that PAM may write then to stdout, with its notices.
_MOST_OF_PAM = 4096
#: How often the check is repeated while there is no room on the connection in question.
_MOST_PROBES = 8
#: A command that every shell knows, and that writes nothing.
_SILENT = b"true"


def answers_for_account(session: Session) -> bool:
    """Whether it may be the account, and not the command, that answered in a session which has ended."""
    if session.exit.status == _NO_SESSION:
        return not session.stderr.total and session.stdout.total <= _MOST_OF_PAM
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
    Checks whether the account gives the same answer to another command.

    :param job: of the command, which has ended.
    :param session: that of the command.
    :param on_result: called once, with the error that the account is in, or with ``None`` when the command itself
        answered or nothing could be found out; at once where it is known already; not after `stop`.
    """

    def __init__(self, pool: Pool, job: Job, session: Session, on_result: Callable[[SSHError | None], None]) -> None:
        self._pool = pool
        self._target = job.target
        self._before = session
        self._by_pam = session.exit.status == _NO_SESSION
        self._connection = job.connection
        self._on_result = on_result
        self._left = _MOST_PROBES
        self._ask()

    def _ask(self) -> None:
        """Run the silent command, if that can find out anything."""
        connection, known = self._connection, self._known()
        version = b"" if connection is None else connection.transport.otherVersionString
        command = guarded(_SILENT, version, by_key=self._target.credential.has_key)
        self._left -= 1
        self._probe = Session(Command(command or b"", _MOST_OF_PAM), lambda: None, self._ended)
        self._job = Job(self._target, self._probe, self._failed)
        if known is not None or connection is None or command is None or (self._by_pam and b"-OpenSSH" not in version):
            self._give(known)
        else:
            self._pool.submit(self._job, near=connection)

    def _known(self) -> SSHError | None:
        """What was found out about the connection of the command, if that is what it answered with."""
        known = None if self._connection is None else self._connection.runs_nothing
        return known if isinstance(known, NoSession) == self._by_pam else None

    def stop(self) -> None:
        """The result is not wanted any more."""
        self._pool.withdraw(self._job)
        self._let_go()

    def _failed(self, error: SSHError) -> None:
        # While this check waited for its turn, another one may have found it out.
        known = self._known()
        if known is None and not self._by_pam and isinstance(error, AccountClosed | PasswordExpired):
            known = error
        self._give(known)

    def _ended(self) -> None:
        if not self._by_pam:
            self._give(self._known() or self._closed())
            return
        self._look_for_session()
        # PAM decides for each connection: the answer of another one says nothing about that of the command.
        if self._job.connection is self._connection or not self._left:
            self._give(self._known())
        else:
            self._ask()

    def _give(self, result: SSHError | None) -> None:
        on_result = self._on_result
        self._let_go()
        on_result(result)

    def _let_go(self) -> None:
        """Hold nothing that leads back here: the command, and its secrets, would stay until garbage is collected."""
        self._probe.let_go()
        self._job.let_go()
        self._on_result = _ignore

    def _look_for_session(self) -> None:
        probe, connection = self._probe, self._job.connection
        if connection is None or connection.runs_nothing is not None:
            return
        if probe.exit.status == _NO_SESSION and answers_for_account(probe):
            words = last_lines(self._before.stdout.raw() or probe.stdout.raw())
            reason = Text("it said “{words}”", words=words) if words else Text("it did not say why")
            self._pool.session_denied(connection, NoSession(**_where(self._target), reason=reason))

    def _closed(self) -> SSHError | None:
        before, probe = self._before, self._probe
        if not answers_for_account(probe) or _said(probe) != _said(before):
            return None
        error = _error(self._target, _said(probe))
        self._pool.account_closed(self._target, error)
        return error


def _ignore(_result: SSHError | None) -> None:
    pass


def _where(target: Target) -> dict[str, object]:
    return {"host": target.host, "port": target.port, "username": target.username}


def _error(target: Target, said: bytes) -> SSHError:
    if said.endswith(_MUST_CHANGE):
        return PasswordExpired(**_where(target))
    return AccountClosed(**_where(target), words=last_lines(said))
