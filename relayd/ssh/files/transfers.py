"""
One session in which files are written or read: over SFTP, or by a shell.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import structs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.language.texts import Text, last_lines
from relayd.ssh.become.dialogue import BecomeDialogue
from relayd.ssh.become.texts import Become
from relayd.ssh.channels.channel import State
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.channels.terminal import Terminal
from relayd.ssh.errors import (
    ConnectionLost,
    ExecRefused,
    FileNotWritten,
    FilesUnsupported,
    OutcomeUnknown,
    SSHError,
    TerminalRefused,
)
from relayd.ssh.files.by_sftp import FileFailure, SFTPReader, SFTPWriter, Sweep
from relayd.ssh.files.orders import FileToRead, FileToWrite
from relayd.ssh.files.packets import NotSFTP, Version
from relayd.ssh.files.sftp import ChannelGone, SFTPChannel
from relayd.ssh.files.shell_answers import NO_CODE, ReaderAnswers, WriterAnswers
from relayd.ssh.files.shell_texts import READER, WRITER, reader_lines, writer_lines
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.pool import Pool
from relayd.ssh.shells.windows import is_windows
from relayd.ssh.target import Target
from relayd.ssh.transport.server_limits import guarded

#: Seconds that a server has to end its session when all is done; some count it against the next one.
CLOSE_WITHIN: Final = 2.0
#: Seconds for which a session that was given up stays open, so that what it has begun is removed.
CLEAN_WITHIN: Final = 10.0
#: Bytes of a shell's words that are kept.
_MOST_SAID: Final = 4096


class GivenUp(Exception):
    """The transfer was stopped."""


class Transfer(Protocol):
    """
    Writes or reads files.

    :ivar done: fires when it has been done, and fails with an `SSHError`, `NoSFTP` or `GivenUp`.
    """

    done: Deferred[None]

    @property
    def waits(self) -> bool:
        """Whether it has no session yet."""

    def stop(self) -> None:
        """Give it up; what was begun is removed."""


class SFTPTransfer:
    """
    See `Transfer`.

    :param work: what is done; ``None``: it is only found out whether the host serves SFTP.
    """

    def __init__(
        self,
        clock: IReactorTime,
        pool: Pool,
        target: Target,
        work: SFTPWriter | SFTPReader | Sweep | None,
    ) -> None:
        self.done: Deferred[None] = Deferred()
        self._clock = clock
        self._pool = pool
        self._target = target
        self._work = work
        self._lost: SSHError | None = None
        self._result: Failure | None = None
        self._over = False
        self._call: IDelayedCall | None = None
        self._channel = SFTPChannel(self._ended)
        self._job = Job(target, self._channel, self._failed)
        self._channel.ready.addCallback(self._begin)
        self._channel.ready.addCallbacks(self._close, self._close)
        pool.submit(self._job)

    @property
    def refused_by_chance(self) -> bool:
        """Whether the connection had run something before: some servers serve one session on each, and no other."""
        return self._job.connection is None or self._job.connection.has_run

    @property
    def on_windows(self) -> bool:
        """Whether the server says that it runs on Windows."""
        return self._job.connection is not None and is_windows(self._job.connection)

    @property
    def waits(self) -> bool:
        """See `Transfer`, for this and the following."""
        return self._channel.state in (State.WAITING, State.OPENING)

    def stop(self) -> None:
        if self._over:
            return
        self._over = True
        if self._work is not None and self._channel.answered:
            self._channel.abandon()
            self._work.clean(self._channel).addBoth(lambda _: self._channel.finish())
            self._close_within(CLEAN_WITHIN)
        else:
            self._channel.abandon()
            self._let_go()
        self.done.errback(GivenUp())

    def _begin(self, version: Version) -> Deferred[None]:
        if isinstance(self._work, SFTPWriter):
            self._work.exact_mode = not self.on_windows
        if self._work is None:
            return succeed(None)
        return Deferred.fromCoroutine(self._work.work(self._channel, version))

    def _close(self, result: Failure | None) -> None:
        """All is done, or something went wrong: the server ends its session, which is waited for."""
        if self._over:
            return
        self._result = result
        if isinstance(result, Failure) and not result.check(FileFailure):
            self._give()
        else:
            self._channel.finish()
            self._close_within(CLOSE_WITHIN)

    def _close_within(self, seconds: float) -> None:
        self._call = self._clock.callLater(seconds, self._late)

    def _late(self) -> None:
        self._call = None
        self._give()

    def _ended(self) -> None:
        if self._call is not None:
            self._give()

    def _failed(self, error: SSHError) -> None:
        self._lost = error
        self._channel.ended()

    def _give(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
        self._let_go()
        if self._over:
            return
        self._over = True
        result = self._result
        if isinstance(result, Failure):
            self._sweep()
            self.done.errback(self._error(result))
        else:
            self.done.callback(None)

    def _error(self, failure: Failure) -> BaseException | Failure:
        error = failure.value
        where = {"host": self._target.host, "port": self._target.port}
        if isinstance(error, FileFailure):
            return FileNotWritten(**where, path=error.name, reason=error.reason)
        if isinstance(error, NotSFTP):
            reason = Text("what it sends in place of SFTP is not that: {reason}", reason=error.reason)
            return FilesUnsupported(**where, reason=reason)
        if isinstance(error, ChannelGone) and self._lost is not None:
            return _not_run(self._lost, self._target)
        if isinstance(error, ChannelGone):
            return FilesUnsupported(**where, reason=Text("its SFTP server ended before it was done"))
        return failure

    def _sweep(self) -> None:
        """Have removed elsewhere what cannot be removed on this channel any more."""
        left = self._work.left if isinstance(self._work, SFTPWriter) else []
        if left:
            self._work = None
            sweep = SFTPTransfer(self._clock, self._pool, self._target.shared(), Sweep(left))
            giving_up = self._clock.callLater(3 * CLEAN_WITHIN, sweep.stop)
            sweep.done.addBoth(lambda _: giving_up.cancel() if giving_up.active() else None)

    def _let_go(self) -> None:
        self._pool.withdraw(self._job)
        self._channel.let_go()
        self._job.let_go()


def _not_run(error: SSHError, target: Target) -> SSHError:
    """What kept files from being written; the command has not run, whatever became of the connection."""
    if isinstance(error, OutcomeUnknown):
        return ConnectionLost(host=target.host, port=target.port, reason=error.fields["reason"])
    return error


class ShellTransfer:
    """
    See `Transfer`.

    :param answers: reads what the shell says.
    """

    def __init__(
        self,
        pool: Pool,
        target: Target,
        answers: WriterAnswers | ReaderAnswers,
        text: bytes,
        lines: bytes,
        become: Become | None,
        terminal: Terminal | None,
    ) -> None:
        self.done: Deferred[None] = Deferred()
        self._pool = pool
        self._target = target
        self._answers = answers
        dialogue = None
        if become is not None:
            dialogue = BecomeDialogue(become, text, lines, on_terminal=terminal is not None)
            text, lines = dialogue.start, b""
        self._command = Command(text, _MOST_SAID, stdin=lines, terminal=terminal, dialogue=dialogue)
        self._over = False
        self._session = Session(
            self._command,
            lambda: None,
            self._ended,
            reader=self._read,
            permission=self._permit,
            on_forbidden=self._forbidden,
        )
        self._job = Job(target, self._session, self._failed)
        pool.submit(self._job)

    @property
    def waits(self) -> bool:
        """See `Transfer`, for this and the following."""
        return self._session.state in (State.WAITING, State.OPENING)

    def stop(self) -> None:
        if not self._over:
            self._hang_up()
            self._fail(GivenUp())

    def _hang_up(self) -> None:
        """The end of its input ends the shell, which removes what it has begun."""
        if self._job.connection is not None:
            self._job.connection.finish(self._session)
        self._pool.withdraw(self._job)

    def _permit(self) -> Deferred[None]:
        connection = self._job.connection
        if connection is None:
            return succeed(None)
        if is_windows(connection):
            return fail(self._unsupported(Text("it is a host of Windows that serves no SFTP")))
        if connection.transport.forced_command:
            return fail(self._unsupported(Text("it runs a command of its own in place of each that it is sent")))
        text = guarded(
            self._command.text, connection.transport.otherVersionString, by_key=self._target.credential.has_key
        )
        if text is not None:
            self._session.replace(structs.replace(self._command, text=text))
        return succeed(None)

    def _forbidden(self, failure: Failure) -> None:
        self._pool.withdraw(self._job)
        self._fail(failure.value)

    def _unsupported(self, reason: Text) -> FilesUnsupported:
        return FilesUnsupported(host=self._target.host, port=self._target.port, reason=reason)

    def _read(self, is_stderr: bool, data: bytes) -> None:
        if is_stderr or self._over:
            return
        self._answers.feed(data)
        if isinstance(self._answers, ReaderAnswers) and self._answers.excessive:
            self._hang_up()
            self._fail(self._unsupported(Text("it sends more than it was asked for")))

    def _ended(self) -> None:
        session, answers = self._session, self._answers
        where = {"host": self._target.host, "port": self._target.port, "username": self._target.username}
        if session.exec_refused:
            self._fail((TerminalRefused if session.terminal_refused else ExecRefused)(**where))
        elif session.dialogue is not None and not session.dialogue.ready:
            self._fail(session.dialogue.failure(self._target))
        elif answers.done:
            if isinstance(answers, ReaderAnswers):
                answers.finish()
            self._fail(None)
        elif isinstance(answers, ReaderAnswers) and answers.no_code:
            self._fail(self._unsupported(NO_CODE))
        elif isinstance(answers, WriterAnswers) and answers.begun:
            reason = answers.reason(session.stderr.raw() or session.stdout.raw())
            self._fail(
                FileNotWritten(host=self._target.host, port=self._target.port, path=answers.at.name, reason=reason)
            )
        else:
            words = last_lines(session.stderr.raw() or session.stdout.raw())
            said = Text("it said “{words}”", words=words) if words else Text("it said nothing")
            self._fail(self._unsupported(Text("its shell did not do it; {said}", said=said)))

    def _failed(self, error: SSHError) -> None:
        self._fail(_not_run(error, self._target))

    def _fail(self, error: BaseException | None) -> None:
        if self._over:
            return
        self._over = True
        self._let_go()
        if error is None:
            self.done.callback(None)
        else:
            self.done.errback(error)

    def _let_go(self) -> None:
        # Else this would hold itself, with what the files hold, until the next collection of garbage.
        self._session.let_go()
        self._session.reader = None
        self._job.let_go()


def shell_writer(
    pool: Pool, target: Target, writes: Sequence[FileToWrite], become: Become | None, terminal: Terminal | None
) -> ShellTransfer:
    """Have a shell write files."""
    nonce = secrets.token_hex(16)
    answers = WriterAnswers(nonce, writes)
    return ShellTransfer(pool, target, answers, WRITER, writer_lines(nonce, writes), become, terminal)


def shell_reader(
    pool: Pool,
    target: Target,
    reads: Sequence[FileToRead],
    most: int,
    become: Become | None,
    terminal: Terminal | None,
) -> tuple[ShellTransfer, ReaderAnswers]:
    """Have a shell read files; what it has read so far is in the second."""
    nonce = secrets.token_hex(16)
    answers = ReaderAnswers(nonce, reads, most)
    return ShellTransfer(pool, target, answers, READER, reader_lines(nonce, reads, most), become, terminal), answers
