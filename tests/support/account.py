"""
The system accounts that real SSH servers log in: made when missing, their passwords known to this machine's tests only.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.process import PeerFailed

USER = "relayd-test"
#: What busybox is called to be a shell, which it is by its name only; see `ensure_busybox_shell`.
BUSYBOX_SHELL = "/var/lib/relayd-test-busybox/ash"
#: Every kind of login shell that commands are run by, each with an account of its own.
LOGIN_SHELLS = {
    "sh": "/bin/sh",
    "bash": "/bin/bash",
    "dash": "/bin/dash",
    "ksh": "/usr/bin/ksh",
    "mksh": "/usr/bin/mksh",
    "zsh": "/usr/bin/zsh",
    "busybox": BUSYBOX_SHELL,
    "rbash": "/bin/rbash",
    "fish": "/usr/bin/fish",
    "csh": "/bin/bsd-csh",
    "tcsh": "/bin/tcsh",
}
#: By account, the shell that its commands get.
SHELLS = {
    USER: "/bin/sh",
    "relayd-test-bash": "/bin/bash",
    "relayd-test-csh": "/bin/tcsh",
    "relayd-test-nologin": "/usr/sbin/nologin",
    "relayd-test-false": "/bin/false",
    "relayd-test-device": "/var/lib/relayd-test-device/shell",  # no shell at all, see `put_file`
    "relayd-test-parrot": "/var/lib/relayd-test-parrot/shell",  # likewise
    "relayd-test-strict": "/var/lib/relayd-test-strict/shell",  # likewise
    "relayd-test-hanging": "/bin/bash",
    "relayd-test-keyed": "/bin/sh",
    **{f"{USER}-in-{name}": path for name, path in LOGIN_SHELLS.items()},
}


@dataclass(frozen=True)
class Account:
    """A system account that may log in with *password*."""

    user: str
    password: str


def privileged(argv: Sequence[str]) -> list[str]:
    """*argv*, so that it runs as root."""
    return list(argv) if os.geteuid() == 0 else ["sudo", "-n", *argv]


def run_privileged(argv: Sequence[str], stdin: str = "") -> None:
    """
    Run *argv* as root and wait for it.

    :raises PeerFailed: when it fails, saying what the tests need.
    """
    try:
        done = subprocess.run(privileged(argv), input=stdin, capture_output=True, text=True, check=False, timeout=60)
        reason = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        reason = str(error)
    if reason:
        raise PeerFailed(
            f"The tests against a real SSH server need root, or sudo without a password, to run {argv[0]}: {reason}"
        )


@cache
def ensure_account(user: str = USER) -> Account:
    """
    An account of the tests; made when it is not there.  Test processes that run side by side agree on its password.

    :param user: one of `SHELLS`.
    :raises PeerFailed: without root and without ``sudo -n``.
    """
    home = Path(tempfile.gettempdir()) / f"relayd-test-{os.geteuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != os.geteuid() or home.stat().st_mode & 0o077:
        raise PeerFailed(f"{home} is not a directory of this user alone; remove it")
    with open(home / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = home / ("password" if user == USER else f"password-{user}")
        known = kept.read_text() if kept.exists() else ""
        if known and _exists(user):
            return Account(user, known)
        if not _exists(user):
            run_privileged([_tool("useradd"), "-m", "-s", SHELLS.get(user, "/bin/sh"), user])
        password = secrets.token_urlsafe(24)
        run_privileged([_tool("chpasswd")], f"{user}:{password}\n")
        kept.touch(mode=0o600)
        kept.write_text(password)
        return Account(user, password)


@cache
def keyed_account() -> tuple[Account, str]:
    """
    Another account, for servers that look for ``authorized_keys`` where it lives, and its private key, OpenSSH PEM
    text, which all test processes share.
    """
    from tests.support.sshd import make_key  # which imports this module

    account = ensure_account(f"{USER}-keyed")
    kept = Path(tempfile.gettempdir()) / f"relayd-test-{os.geteuid()}" / "key"
    with open(kept.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        home = pwd.getpwnam(account.user).pw_dir
        if not kept.exists():
            private, public = make_key()
            put_file(f"{home}/.ssh/authorized_keys", f"{public}\n")
            kept.touch(mode=0o600)
            kept.write_text(private)
        return account, kept.read_text()


def ensure_expired_account() -> Account:
    """Another account, whose password has to be changed at the next login."""
    account = ensure_account(f"{USER}-expired")
    run_privileged([_tool("chage"), "-d", "0", account.user])
    return account


def ensure_closed_account() -> Account:
    """Another account, which expired long ago."""
    account = ensure_account(f"{USER}-closed")
    run_privileged([_tool("chage"), "-E", "1", account.user])
    return account


def ensure_busybox_shell() -> None:
    """Make busybox a login shell."""
    run_privileged(["install", "-d", os.path.dirname(BUSYBOX_SHELL)])
    run_privileged(["ln", "-sfn", shutil.which("busybox") or "/bin/busybox", BUSYBOX_SHELL])


def put_file(path: str, text: str, mode: str = "644") -> None:
    """Write a file that belongs to root, which every account can read, and make its directory where it is missing."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        # Tests run side by side: what is there is replaced at once, and each process writes to a name of its own.
        new = f"{path}.{os.getpid()}.new"
        run_privileged(["install", "-D", "-m", mode, file.name, new])
        run_privileged(["mv", "-f", new, path])


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _tool(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or name
