"""
Secrets at rest: sealed with keys that are kept apart from the database, and opened only where they belong.

A sealed secret is a token of Fernet (AES-128-CBC and HMAC-SHA-256, github.com/fernet/spec).  What it belongs to is
sealed with it, so that somebody who can write to the database gains nothing by moving one to another row.
"""

from __future__ import annotations

import binascii
import hmac
import os
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final, NoReturn, Protocol

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from msgspec import Struct

from relayd.config.secret_files import is_credential
from relayd.hub.inventory.errors import NotOpened, SealingKeysUnusable
from relayd.language.texts import Text
from relayd.network.private_files import UnusableFile, fault_of_mode, read_file
from relayd.process.whole_files import write_whole

#: The largest file of keys that is read, in bytes.
MAX_FILE: Final = 64 * 1024
_CONTEXT: Final = sha256().digest_size
_HEADER: Final = b"# The keys that seal the hub's secrets, the newest first. Keep a copy: without them they are lost.\n"


class SecretBytes:
    """What was sealed: ``repr`` and ``str`` hide it, it cannot be pickled, and only `reveal` gives it."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def reveal(self) -> bytes:
        """The content itself. Call this as late as possible, and do not keep the answer in an attribute."""
        return self._content

    def __len__(self) -> int:
        return len(self._content)

    def __repr__(self) -> str:
        return "SecretBytes(…)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretBytes cannot be pickled or copied")


def new_key() -> bytes:
    """A new key, as a line of the file without its end."""
    return Fernet.generate_key()


class KeySource(Protocol):
    """Where a `Sealer` has its keys from."""

    def keys(self) -> tuple[bytes, ...]:
        """
        The keys as they are now, the newest first; at least one.

        :raises SealingKeysUnusable: when there is none that can be used.
        """


class FixedKeys(Struct, frozen=True):
    """Keys that do not change: for tests, and to look at what another file of keys can open."""

    given: tuple[bytes, ...]

    def keys(self) -> tuple[bytes, ...]:
        """See `KeySource.keys`."""
        return self.given

    def __repr__(self) -> str:
        return f"<FixedKeys: {len(self.given)}>"


class KeyFile:
    """
    A file of keys, one a line, the newest first; empty lines and lines that begin with ``#`` are left out.

    It is read again when it has changed, so that keys can be added and removed while the hub runs.

    :param environ: the environment, in which systemd names the folder of its credentials.
    """

    def __init__(self, path: str, environ: Mapping[str, str]) -> None:
        self.path = path
        self.is_credential = is_credential(path, environ)
        self._known: tuple[tuple[int, ...], tuple[bytes, ...]] | None = None

    def keys(self) -> tuple[bytes, ...]:
        """See `KeySource.keys`."""
        stamp: tuple[int, ...] = ()
        try:
            status = os.stat(self.path)
            stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)
        except (OSError, ValueError):
            pass  # to read it says why
        known = self._known
        if known is None or known[0] != stamp:
            self._known = None  # a file that cannot be used is read again the next time
            self._known = known = stamp, self._read()
        return known[1]

    def make(self) -> bool:
        """
        Make the file with one key, for this user alone, where there is none.

        Make none while something is sealed: its key was lost, or is elsewhere, and a new one would hide that.

        :return: whether it was made.
        :raises SealingKeysUnusable: when it cannot be made.
        """
        if os.path.lexists(self.path):
            return False
        if self.is_credential:
            reason = Text("there is none, and only systemd can put one there (LoadCredential= of the unit)")
            raise SealingKeysUnusable(path=self.path, reason=reason)
        try:
            write_whole(self.path, file_of_keys((new_key(),)), replace=False)
        except FileExistsError:
            return False
        except OSError as error:
            raise SealingKeysUnusable(path=self.path, reason=Text(error.strerror or type(error).__name__)) from None
        return True

    def _read(self) -> tuple[bytes, ...]:
        try:
            content = read_file(self.path, MAX_FILE, None if self.is_credential else _fault_of_file)
        except UnusableFile as fault:
            raise SealingKeysUnusable(path=self.path, reason=fault.text) from None
        found: list[bytes] = []
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
            key = line.strip()
            if not key or key.startswith(b"#"):
                continue
            if not _is_key(key):
                reason = Text("line {number} is not a key (32 bytes in base64, 44 characters)", number=number)
                raise SealingKeysUnusable(path=self.path, reason=reason)
            found.append(key)
        if not found:
            raise SealingKeysUnusable(path=self.path, reason=Text("it has no key"))
        return tuple(found)


class Sealer:
    """
    Seals secrets with the newest key, and opens what any of the keys has sealed.

    Any thread may use it.
    """

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._made: tuple[tuple[bytes, ...], MultiFernet, Fernet] | None = None

    def seal(self, content: bytes, context: str) -> bytes:
        """
        Seal a secret.

        :param context: what it belongs to, such as ``credential:ID``: it opens only with the same.
        :raises SealingKeysUnusable: when there is no key.
        """
        return self._fernets()[0].encrypt(_digest(context) + content)

    def open(self, sealed: bytes, context: str) -> SecretBytes:
        """
        Open a sealed secret.

        :raises NotOpened: when none of the keys opens it, or it belongs to something else.
        :raises SealingKeysUnusable: when there is no key.
        """
        try:
            content = self._fernets()[0].decrypt(sealed)
        except InvalidToken:
            raise NotOpened(reason=_NO_KEY) from None
        if not hmac.compare_digest(content[:_CONTEXT], _digest(context)):
            raise NotOpened(reason=Text("it was sealed for something else"))
        return SecretBytes(content[_CONTEXT:])

    def rotate(self, sealed: bytes) -> bytes:
        """
        Seal anew with the newest key; what it belongs to stays.

        :raises NotOpened: when none of the keys opens it.
        :raises SealingKeysUnusable: when there is no key.
        """
        try:
            return self._fernets()[0].rotate(sealed)
        except InvalidToken:
            raise NotOpened(reason=_NO_KEY) from None

    def is_current(self, sealed: bytes) -> bool:
        """
        Whether the newest key alone opens it.

        :raises SealingKeysUnusable: when there is no key.
        """
        try:
            self._fernets()[1].decrypt(sealed)
        except InvalidToken:
            return False
        return True

    def _fernets(self) -> tuple[MultiFernet, Fernet]:
        """All keys, and the newest alone."""
        keys = self._source.keys()
        made = self._made
        if made is None or made[0] is not keys:
            fernets = [Fernet(key) for key in keys]
            self._made = made = keys, MultiFernet(fernets), fernets[0]
        return made[1:]


_NO_KEY: Final = Text(
    "none of the sealing keys opens it: the key that sealed it is missing from their file, or it is damaged"
)


def file_of_keys(keys: Iterable[bytes]) -> bytes:
    """The content of a file with these keys, the newest first."""
    return _HEADER + b"".join(key + b"\n" for key in keys)


def _digest(context: str) -> bytes:
    return sha256(context.encode()).digest()


def _is_key(line: bytes) -> bool:
    try:
        return len(line) == 44 and len(urlsafe_b64decode(line)) == 32
    except (binascii.Error, ValueError):
        return False


def _fault_of_file(status: os.stat_result) -> Text | None:
    """What is wrong with owner and mode: who owns the file of another user can put other keys into it."""
    if status.st_uid not in (os.geteuid(), 0):
        return Text("it belongs to another user; chown it to the user that the hub runs as, or to root")
    return fault_of_mode(status)
