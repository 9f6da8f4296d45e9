"""
Ends a command on a host of Windows: there are no signals, so its processes are found and terminated.

PowerShell in a second session finds them by their arguments, which hold what no other command of the host has, and all
that descends from them; then it terminates them, and says how many are left.  It is started only where the shell has
reached the command, so that nothing else can run in its place.  Where that is not possible, the server itself is asked.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relayd.ssh.channels.channel import State
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.ending.ending import Killed
from relayd.ssh.errors import SSHError
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.pool import Pool
from relayd.ssh.shells.powershell import encoded

_log = Logger("relayd.ssh")

#: Seconds after which a command that still runs is left alone. PowerShell alone takes one or two to start.
LEAVE_AFTER: Final = 10.0
#: Seconds for which the script goes on.
_TRIES_FOR: Final = 6
#: Bytes of the answer that are kept.
_MOST: Final = 4096

#: ``$w`` has all processes that belong to the command, also those that are gone: their children are known by them. A
#: number may be given away again, so the time of creation belongs to it. The script's own process and its parents are
#: none of them: their arguments hold only the script, in base64.
_SCRIPT: Final = r"""$ErrorActionPreference='SilentlyContinue'
$ProgressPreference='SilentlyContinue'
$w=@{{}};$e=(Get-Date).AddSeconds({seconds})
do{{
$p=@(Get-CimInstance Win32_Process)
foreach($x in $p){{
if($x.CommandLine -and $x.CommandLine.Contains('{needle}')){{$w[[string]$x.ProcessId]=$x.CreationDate}}}}
do{{$a=0
foreach($x in $p){{$q=$w[[string]$x.ParentProcessId]
if($q -and -not $w[[string]$x.ProcessId] -and $x.ProcessId -ne $PID -and $x.CreationDate -ge $q){{
$w[[string]$x.ProcessId]=$x.CreationDate;$a=1}}}}}}while($a)
$r=@($p|Where-Object{{$w[[string]$_.ProcessId] -and $w[[string]$_.ProcessId] -eq $_.CreationDate}})
foreach($x in $r){{& "$env:SystemRoot\System32\taskkill.exe" /T /F /PID $x.ProcessId >$null 2>&1}}
if($r){{Start-Sleep -Milliseconds 200}}
}}while($r -and (Get-Date) -lt $e)
[Console]::Out.Write('relayd:'+'{mark} '+$w.Count+' '+@($r).Count+[char]10)
"""


def script(needle: str, mark: str) -> str:
    """
    The script that terminates a command; its answer is ``relayd:MARK FOUND LEFT``, with numbers of processes.

    :param needle: what the arguments of the command's processes contain: letters, digits, ``+`` and ``/`` only.
    """
    if not re.fullmatch(r"[A-Za-z0-9+/]+", needle):
        raise ValueError("not made by relayd.ssh.shells")
    return _SCRIPT.format(needle=needle, mark=mark, seconds=_TRIES_FOR)


def parse_answer(said: bytes, mark: str) -> Killed:
    """What is known of the command's processes, by the answer of the script."""
    found = re.search(rb"^relayd:%s (\d{1,6}) (\d{1,6})\r?$" % mark.encode("ascii"), said, re.MULTILINE)
    if found is None:
        return "unsupported"
    return "confirmed" if int(found[1]) and not int(found[2]) else "unconfirmed"


class WindowsEnding:
    """
    Ends one command; it is used as `relayd.ssh.ending.ending.Ending` is.

    :param needle: see `script`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        pool: Pool,
        job: Job,
        session: Session,
        needle: str,
        on_settled: Callable[[], None],
    ) -> None:
        self.killed: Killed = "unconfirmed"
        self.over = False
        self._clock = clock
        self._pool = pool
        self._job = job
        self._session = session
        self._on_settled = on_settled
        self._mark = secrets.token_hex(16)
        self._sent = False
        self._asked = False
        self._call: IDelayedCall | None = None
        text = encoded(script(needle, self._mark)).encode("ascii")
        target = job.target.shared()
        self._killer = Session(Command(text, _MOST), self._starts, self._answered)
        self._killer_job = Job(target, self._killer, self._failed)

    def begin(self) -> None:
        """Start to end the command; returns at once."""
        self._job.ending = True
        self._call = self._clock.callLater(LEAVE_AFTER, self._leave)
        progress = self._session.progress
        if progress is not None and progress.missing is None:
            self._pool.submit(self._killer_job, near=self._job.connection)
        else:
            self._ask_server()

    def channel_ended(self) -> bool:
        """See `Ending.channel_ended`."""
        ours = self._sent or self._asked
        if not self._sent:
            self._stop(settled=ours)
        return ours

    def _starts(self) -> None:
        self._sent = True

    def _answered(self) -> None:
        if not self.over:
            self._settle(parse_answer(self._killer.stdout.raw(), self._mark))

    def _failed(self, _error: SSHError) -> None:
        if not self.over:
            self._settle("unsupported")

    def _settle(self, killed: Killed) -> None:
        self.killed = killed
        self._sent = False
        if killed == "confirmed" or self._session.state is State.ENDED:
            self._stop()
        else:
            self._ask_server()

    def _ask_server(self) -> None:
        """OpenSSH passes signals on; to Windows each means an end."""
        self._asked = True
        if self._job.connection is not None:
            self._job.connection.signal(self._session, "KILL")

    def _leave(self) -> None:
        if self._session.state is not State.ENDED:
            _log.warn("{target}: a command that was to end may still be running", **self._job.target.log_fields)
        self._stop()

    def _stop(self, *, settled: bool = True) -> None:
        if self.over:
            return
        self.over = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._pool.withdraw(self._job)
        self._pool.withdraw(self._killer_job)
        self._killer.let_go()
        self._killer_job.let_go()
        on_settled, self._on_settled = self._on_settled, _nothing
        if settled:
            on_settled()


def _nothing() -> None:
    pass
