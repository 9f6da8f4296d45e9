"""
A host of Windows as far as Wine is one: an account of a real sshd whose commands go to Wine's cmd.exe, in the way in
which OpenSSH for Windows hands them over.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from functools import cache
from hashlib import sha256
from pathlib import Path

from relayd.wire.messages import CommandResult
from tests.support.account import USER, ensure_account, privileged, put_file, run_privileged
from tests.support.process import PeerFailed

WINE = shutil.which("wine")
COMPILER = shutil.which("x86_64-w64-mingw32-gcc")
#: A Windows of its own, which is made once and kept, as the accounts are; 700 MB.
PLACE = Path("/var/lib/relayd-test-wine")
_SOURCE = Path(__file__).with_name("windows_shell.c")
_ENVIRONMENT = f"""\
unset DISPLAY
export LC_ALL=C.UTF-8 WINEPREFIX={PLACE}/prefix WINEDEBUG=-all WINEDLLOVERRIDES=mscoree,mshtml=
"""
#: Seconds for which Wine's server waits for more to do, and for which making a Windows may take.
_LINGERS, _PATIENCE = 120, 300
#: What the loader of this system says where Wine's own process crashes as it ends, after the command has ended.
CRASHED = "Inconsistency detected by ld.so: dl-fini.c"
#: Crashes that one test puts up with.
_MOST_CRASHES = 2


def is_there() -> bool:
    """Whether Wine and its compiler are installed."""
    return WINE is not None and COMPILER is not None


@cache
def _programs() -> Path:
    """What starts a shell; compiled if it is missing."""
    if WINE is None or COMPILER is None:
        raise PeerFailed(
            "wine or its compiler (gcc-mingw-w64-x86-64-win32) is missing; tests/bootstrap.sh installs both"
        )
    program = PLACE / f"shell-{sha256(_SOURCE.read_bytes()).hexdigest()[:16]}.exe"
    if not program.exists():
        run_privileged(["install", "-d", "-o", USER, str(PLACE)])
        # Tests run side by side: each process compiles to a name of its own, and the last one stays.
        new = f"{program}.{os.getpid()}.new"
        run_privileged([COMPILER, "-O1", "-s", "-o", new, str(_SOURCE)])
        run_privileged(["mv", "-f", new, str(program)])
    return program


def ensure_wine() -> list[str]:
    """
    Have Wine run for the tests' account.

    :return: lines of sshd_config that give its commands to Wine.
    """
    ensure_account(USER)
    program = _programs()
    script = PLACE / "command"
    put_file(str(script), f"#!/bin/sh\n{_ENVIRONMENT}exec {WINE} {program}\n", "755")
    home = pwd.getpwnam(USER).pw_dir
    with Path(tempfile.gettempdir(), f"relayd-test-wine-{os.geteuid()}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (f"wineserver -p{_LINGERS}", f"{WINE} cmd /c exit"):
            text = f"{_ENVIRONMENT}export HOME={home}; cd; exec {words}"
            # Else what Wine starts for all would keep the output of the first command open.
            subprocess.run(
                privileged(["runuser", "-u", USER, "--", "sh", "-c", text]), check=False, timeout=_PATIENCE, cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
    return [f"ForceCommand {script}"]


class CrashGuard:
    """
    Runs a command once more where Wine's own process crashed as it ended: that answer has to be right.

    It does so twice in a test. The crash after that is the test's answer.
    """

    def __init__(self) -> None:
        self._left = _MOST_CRASHES

    async def result_of(self, run: Callable[[], Awaitable[CommandResult]]) -> CommandResult:
        """What came of a command; *run* orders it, each time under an id of its own."""
        while self._is_crash((result := await run()).stderr):
            pass
        return result

    def output_of(self, run: Callable[[], subprocess.CompletedProcess[bytes]]) -> subprocess.CompletedProcess[bytes]:
        """The same for a process of this machine."""
        while self._is_crash((done := run()).stderr.decode(errors="replace")):
            pass
        return done

    def _is_crash(self, stderr: str) -> bool:
        """Whether the command is to be run once more."""
        if CRASHED not in stderr or self._left == 0:
            return False
        self._left -= 1
        return True


def run_in_wine(text: str) -> subprocess.CompletedProcess[bytes]:
    """Have the shell run *text*, as the server does."""
    script = PLACE / "command"
    argv = [
        "runuser",
        "-u",
        USER,
        "--",
        "env",
        f"HOME={pwd.getpwnam(USER).pw_dir}",
        f"SSH_ORIGINAL_COMMAND={text}",
        str(script),
    ]
    return subprocess.run(
        privileged(argv), capture_output=True, check=False, timeout=_PATIENCE, cwd="/", stdin=subprocess.DEVNULL
    )
