"""
The files that ``relayctl enroll`` writes: the relay's key, and its settings.

Nothing is overwritten unless a person says so.  What else a file of settings has stays as it is: it may hold the rules
of the site.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
import tomllib
from contextlib import suppress
from typing import Any, Final

import msgspec

from relayd.network.descriptors import words_of
from relayd.process.whole_files import sync_directory

#: A setting at the top of a TOML file, on a line of its own; and where tables begin.
_SETTING: Final = re.compile(r"""\s*["']?([a-z-]+)["']?\s*=""")
_TABLE: Final = re.compile(r"\s*\[")
#: What leads to the main server, as whom.
_NAMES: Final = ("server", "proxy-id", "api-key-file")


class FileInTheWay(Exception):
    """A file cannot be written; the text says why, and what to do."""


class NewFile:
    """
    A file that is about to be written: its directory takes one, and nothing is in its way.

    What can be checked is checked when it is made, before the token is used; it holds an empty file beside it.

    :param mode: of the file; one that takes the place of another keeps its owner, and is open to nobody else.
    :param replaces: whether it may take the place of one that exists.
    :raises FileInTheWay: when it cannot be written.
    """

    def __init__(self, path: str, mode: int, *, replaces: bool) -> None:
        self.path = os.path.abspath(path)
        self._replaces = replaces
        if not replaces and os.path.lexists(self.path):
            raise FileInTheWay(f"{path} exists; --force writes it anew")
        if os.path.isdir(self.path):
            raise FileInTheWay(f"{path} is a directory")
        try:
            descriptor, self._new = tempfile.mkstemp(
                prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(self.path)
            )
            os.fchmod(descriptor, mode)
            if replaces and os.path.exists(self.path):
                _make_like(descriptor, os.stat(self.path), mode)
            os.close(descriptor)
        except OSError as error:
            raise FileInTheWay(f"{path} cannot be written: {words_of(error)}") from None

    def write(self, content: bytes) -> None:
        """
        Write it whole, or not at all.

        :raises FileInTheWay: when that fails.
        """
        try:
            with open(self._new, "r+b") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if self._replaces:
                os.replace(self._new, self.path)
            else:
                os.link(self._new, self.path)  # fails where somebody else has made one meanwhile
                os.unlink(self._new)
            sync_directory(self.path)
        except OSError as error:
            reason = "it exists" if error.errno == errno.EEXIST else words_of(error)
            raise FileInTheWay(f"{self.path} cannot be written: {reason}") from None

    def discard(self) -> None:
        """Remove what is left of it, if it was not written."""
        with suppress(OSError):
            os.unlink(self._new)


def _make_like(descriptor: int, other: os.stat_result, mode: int) -> None:
    """Give a file the owner of *other*, and of *mode* what that has too."""
    with suppress(OSError):  # only root may give files away
        os.fchown(descriptor, other.st_uid, other.st_gid)
    os.fchmod(descriptor, other.st_mode & mode if other.st_mode & mode else mode)


def settings_before(path: str, *, force: bool) -> str:
    """
    The text of a file of settings that exists, empty if there is none.

    :param force: whether settings in it may be replaced.
    :raises FileInTheWay: when it is not TOML, or has settings that would be replaced.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        found = tomllib.loads(text)
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = words_of(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise FileInTheWay(f"{path} cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise FileInTheWay(f"{path} is not valid TOML: {error}") from None
    if "servers" in found:
        raise FileInTheWay(
            f"{path} has [[servers]] tables: add the new main server there by hand, with --config elsewhere"
        )
    taken = [name for name in _NAMES if name in found]
    if taken and not force:
        raise FileInTheWay(f"{path} has {', '.join(taken)} already; --force replaces these and leaves the rest")
    return text


def with_settings(before: str, values: dict[str, str]) -> str:
    """
    A text of settings with *values* at its top, in place of those of the same names and of `_NAMES`.

    :raises FileInTheWay: when what is there cannot be replaced line by line, such as a text of several lines.
    """
    replaced = {*_NAMES, *values}
    kept, at_top = [], True
    for line in before.splitlines():
        at_top = at_top and not _TABLE.match(line)
        setting = _SETTING.match(line) if at_top else None
        if setting is None or setting[1] not in replaced:
            kept.append(line)
    head = [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in values.items()]
    text = "\n".join([*head, *([""] if kept else []), *kept]) + "\n"
    old: dict[str, Any] = {name: value for name, value in tomllib.loads(before).items() if name not in replaced}
    try:
        good = tomllib.loads(text) == old | values
    except tomllib.TOMLDecodeError:
        good = False
    if not good:
        raise FileInTheWay(
            f"its settings cannot be replaced line by line; take {', '.join(sorted(replaced))} out of it"
        )
    return text
