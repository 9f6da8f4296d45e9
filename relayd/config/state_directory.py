"""
The directory of a relay's or a hub's state: private to its user, and used by one process at a time.
"""

from __future__ import annotations

import fcntl
import os
from errno import EDQUOT, ENOSPC
from pathlib import Path

from relayd.errors import ConfigError
from relayd.network.descriptors import words_of
from relayd.process.whole_files import write_whole

#: What to do about a directory that this user cannot write to.
_ELSEWHERE = "name a directory that it can write to; under systemd, leave --state-dir out"
#: Bytes of the key of the fingerprints of requests.
KEY_BYTES = 32


class StateDirectory:
    """
    The directory of one relay's state, or one hub's.

    :param path: its path; it need not exist.
    :param owner: ``relay`` or ``hub``.
    """

    def __init__(self, path: str, owner: str = "relay") -> None:
        self.path = path
        self._owner = owner
        self._lock: int | None = None
        self._key = b""

    def claim(self) -> None:
        """
        Create the directory if it is missing, and keep others out of it until `release`, or the process ends.

        :raises ConfigError: when it cannot be used, or another process uses it.
        """
        self._make()
        try:
            lock = os.open(self._at("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(self._with_cure(f"{self._at('lock')}: ", error)) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _process_in(lock)
            os.close(lock)
            process = f" (process {holder})" if holder else ""
            program = "relayd" if self._owner == "relay" else f"relayd-{self._owner}"
            advice = f"give each {self._owner} a directory of its own"
            reason = f"{self.path} is in use by another {program}{process}; {advice}"
            raise ConfigError(option="--state-dir", reason=reason) from None
        except OSError as error:
            # For example on NFS, when its server has no lock manager.
            os.close(lock)
            reason = f"its file system cannot lock files ({words_of(error)}); use a local directory"
            raise self._unusable(reason) from None
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            os.close(lock)
            raise self._unusable(self._with_cure("", error)) from None
        self._lock = lock
        if self._owner != "relay":
            return  # only a journal has fingerprints
        try:
            self._key = self._read_key()
        except ConfigError:
            self.release()
            raise

    def release(self) -> None:
        """Let others use the directory again."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def holder(self) -> str | None:
        """
        The process id of the relay or hub that uses the directory now, empty if it is not known; ``None``: none does.

        :raises OSError: when that cannot be found out.
        """
        try:
            lock = os.open(
                self._at("lock"), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            )  # somebody may have put a pipe there
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _process_in(lock)
        finally:
            os.close(lock)
        return None

    def fingerprint_key(self) -> bytes:
        """
        The secret key of the fingerprints of requests in the journal. It is known once the directory is claimed, and
        stays the same as long as the directory exists.
        """
        return self._key

    def _read_key(self) -> bytes:
        path = self._at("fingerprint-key")
        try:
            try:
                with open(path, "rb") as file:
                    key = file.read(KEY_BYTES + 1)
                if len(key) == KEY_BYTES:
                    return key
            except FileNotFoundError:
                pass
            key = os.urandom(KEY_BYTES)
            write_whole(path, key)
        except OSError as error:
            raise self._unusable(self._with_cure(f"{path}: ", error)) from None
        return key

    def _at(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _make(self) -> None:
        """Create it private to this user, whatever umask twistd set."""
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            usable = os.access(self.path, os.R_OK | os.W_OK | os.X_OK)
        except OSError as error:
            raise self._unusable(self._with_cure("", error)) from None
        if not usable:
            raise self._unusable("this user cannot write there; make it the owner (chown)")
        if hindrance := directory_hindrance(self.path, self._owner):
            raise ConfigError(option="--state-dir", reason=hindrance)

    def _with_cure(self, what: str, error: OSError) -> str:
        """The words for *error*, which *what* leads to, and what to do about it."""
        cure = ""
        if isinstance(error, PermissionError):
            cure = f"; another user may own it: {give_back(self.path)}"
        elif error.errno in (ENOSPC, EDQUOT):
            cure = "; make room (see df, and df -i)"
        return f"{what}{words_of(error)}{cure}"

    def _unusable(self, reason: str) -> ConfigError:
        return ConfigError(option="--state-dir", reason=f"{self.path} cannot be used: {reason}")


def directory_hindrance(path: str, owner: str = "relay") -> str:
    """
    Why a directory cannot be used, as far as that is known before it is created, perhaps by another user (``twistd
    --uid``); empty: no reason is known.
    """
    existing = Path(path)
    try:
        while not existing.exists():
            existing = existing.parent
    except OSError as error:  # such as a name that is too long
        return f"{path} cannot be used: {error.strerror}"
    if not existing.is_dir():
        return f"{existing} is not a directory"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{path} cannot be used: this user cannot write to {existing}; {_ELSEWHERE}"
    if existing == Path(path) and existing.stat().st_mode & 0o022:
        advice = "chmod go-w it, or use a directory in it that does not exist yet"
        return f"others can write to {path} and so change the {owner}'s state: {advice}"
    return ""


def give_back(path: str) -> str:
    """How to make the owner of a directory the owner of all that is in it."""
    return f"chown -R --reference={path}/ {path}/"


def _process_in(lock: int) -> str:
    text = os.read(lock, 20).decode("ascii", "replace").strip()
    return text if text.isdigit() else ""
