"""
One command with its files: they are written, then it runs, then those that it wants are read; one deadline covers all.

Each of the three has sessions of its own, one after another, so that a host that gives one at a time is enough. Files
that are not in place keep the command from running; a file that cannot be read never makes it fail.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.language.texts import Text, span
from relayd.network.steady_clock import steady_seconds
from relayd.ssh.channels.terminal import Terminal
from relayd.ssh.errors import FilesUnsupported, NoExitStatus, NotRun, SessionTimeout, SSHError
from relayd.ssh.execution import RunRequest
from relayd.ssh.files.by_sftp import SFTPReader, SFTPWriter
from relayd.ssh.files.orders import FileOrders, ReadFile, unread
from relayd.ssh.files.sftp import NoSFTP
from relayd.ssh.files.transfers import GivenUp, SFTPTransfer, Transfer, shell_reader, shell_writer
from relayd.ssh.outcome import Completed, give
from relayd.ssh.pool.members import Where, where_is
from relayd.ssh.pool.pool import Pool
from relayd.ssh.target import Target

#: Logins of which it is remembered whether they have SFTP, and the seconds for which it is.
_REMEMBERED: Final = 1024
_REMEMBERED_FOR: Final = 3600.0

_TIME_OVER: Final = Text("the time of the command was over before it was read")
_CANCELLED: Final = Text("the command was cancelled before it was read")
_NOT_ENDED: Final = Text("the command did not come to its end, so it was not read")


class Ways:
    """Whether logins have SFTP, as far as that is known."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[Where, str], tuple[bool, float]] = OrderedDict()

    def known(self, target: Target) -> bool | None:
        """Whether there is SFTP; ``None``: it is not known."""
        served, until = self._known.get(_key(target), (None, 0.0))
        return served if self._clock.seconds() < until else None

    def remember(self, target: Target, served: bool) -> None:
        """It turned out whether there is SFTP."""
        self._known[_key(target)] = served, self._clock.seconds() + _REMEMBERED_FOR
        self._known.move_to_end(_key(target))
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _key(target: Target) -> tuple[Where, str]:
    # Behind different jump hosts, one private address is another machine.
    return where_is(target), target.username


class WithFiles:
    """
    Runs one command with its files.

    :param execute: runs the command alone.
    :ivar done: as that of `relayd.ssh.client.SSHClient.run`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        pool: Pool,
        ways: Ways,
        request: RunRequest,
        files: FileOrders,
        execute: Callable[[RunRequest], Deferred[Completed]],
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._ways = ways
        left = request.deadline - clock.seconds()
        self._timeout = (round(left, 1) or left) if request.timeout is None else request.timeout
        self._request = structs.replace(request, timeout=self._timeout)
        self._files = files
        self._execute = execute
        # Of what there is one at a time
        self._transfer: Transfer | None = None
        self._execution: Deferred[Completed] | None = None
        # Once the command has ended
        self._completed: Completed | None = None
        self._found: list[ReadFile] = []
        self._call: IDelayedCall | None = None
        self._cancelled = False
        self.done: Deferred[Completed] = Deferred(self._cancel)
        self._watch()
        Deferred.fromCoroutine(self._run()).addErrback(self._give)

    async def _run(self) -> None:
        begun = steady_seconds(self._clock)
        if self._files.writes:
            await self._write()
        elif self._request.become is None and self._ways.known(self._request.target) is None:
            # A host that cannot do it is found out before the command runs.
            await self._by_sftp(None)
        self._unwatch()
        taken = steady_seconds(self._clock) - begun
        if self.done.called:
            return
        self._execution = self._execute(self._request)
        completed = await self._execution
        self._execution = None
        timings = {"files": taken} | completed.timings if self._files.writes else completed.timings
        await self._read(structs.replace(completed, timings=timings))

    # Before the command

    async def _write(self) -> None:
        target, writes = self._request.target, self._files.writes
        if not await self._by_sftp(SFTPWriter(writes)):
            await self._follow(shell_writer(self._pool, target, writes, self._request.become, self._terminal()))

    async def _by_sftp(self, work: SFTPWriter | SFTPReader | None) -> bool:
        """Do it by SFTP; says whether that could be done."""
        request, target = self._request, self._request.target
        if request.become is not None or (self._ways.known(target) is False and self._files.posix):
            return False
        transfer = SFTPTransfer(self._clock, self._pool, target, work)
        try:
            await self._follow(transfer)
        except NoSFTP:
            if not self._files.posix or transfer.on_windows:
                reason = Text("it serves no SFTP, and it has no POSIX shell")
                raise FilesUnsupported(host=target.host, port=target.port, reason=reason) from None
            if not transfer.refused_by_chance:
                self._ways.remember(target, False)
            return False
        self._ways.remember(target, True)
        return True

    async def _follow(self, transfer: Transfer) -> None:
        self._transfer = transfer
        await transfer.done
        self._transfer = None

    def _terminal(self) -> Terminal | None:
        """Another user's session has a terminal where that of the command has one: sudo may want it."""
        has_one = self._request.become is not None and self._request.terminal is not None
        return Terminal(plain=True) if has_one else None

    # After the command

    async def _read(self, completed: Completed) -> None:
        self._completed = completed
        reads = self._files.reads
        if not reads or (completed.error is not None and not isinstance(completed.error, NoExitStatus)):
            self._finish(_NOT_ENDED)
            return
        if self._cancelled:
            self._finish(_CANCELLED)
            return
        begun = steady_seconds(self._clock)
        self._watch()
        why = _TIME_OVER
        try:
            await self._read_all()
        except GivenUp:
            return
        except SSHError as error:
            why = error.text
        timings = completed.timings | {"fetch": steady_seconds(self._clock) - begun}
        self._completed = structs.replace(completed, timings=timings)
        self._finish(why)

    async def _read_all(self) -> None:
        target, reads, most = self._request.target, self._files.reads, self._files.most
        by_sftp = SFTPReader(reads, most)
        self._found = by_sftp.found
        if not await self._by_sftp(by_sftp):
            transfer, answers = shell_reader(self._pool, target, reads, most, self._request.become, self._terminal())
            self._found = answers.found
            await self._follow(transfer)

    def _finish(self, why: Text) -> None:
        """
        Give the result.

        :param why: those files were not read that were not.
        """
        if self._completed is not None:
            rest = unread(self._files.reads[len(self._found) :], why)
            self._give(structs.replace(self._completed, read=(*self._found, *rest)))

    # Ending it early

    def _watch(self) -> None:
        left = self._request.deadline - self._clock.seconds()
        self._call = self._clock.callLater(max(0.0, left), self._timed_out)

    def _unwatch(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _timed_out(self) -> None:
        self._call = None
        if self._completed is not None:
            self._finish(_TIME_OVER)
            return
        target = self._request.target
        waits = self._transfer is None or self._transfer.waits
        why = self._pool.waits_for(target) if waits else Text("its files were not in place")
        self._give(SessionTimeout(host=target.host, port=target.port, time=span(self._timeout), waited_for=why))

    def _cancel(self, _done: Deferred[Completed]) -> None:
        self._cancelled = True
        if self._execution is not None:
            # It fires at once, and what follows ends with `done`.
            self._execution.cancel()
        elif self._completed is not None:
            self._finish(_CANCELLED)
        else:
            self._give(NotRun(host=self._request.target.host, port=self._request.target.port))

    def _give(self, result: Completed | SSHError | Failure) -> None:
        self._unwatch()
        transfer, self._transfer = self._transfer, None
        give(self.done, result)
        if transfer is not None:
            transfer.stop()
