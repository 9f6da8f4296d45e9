"""
Where the paths in the settings lead: relative ones, those of systemd's credentials, and those of a relay that runs
elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

#: The variable that a path may begin with. systemd.exec(5), "Credentials".
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
#: The folder in which systemd has a folder of credentials for each unit.
CREDENTIALS_ROOT: Final = "/run/credentials"
#: Credentials whose names are shown.
_MOST_NAMES: Final = 5


class Elsewhere(Struct, frozen=True):
    """
    What is different where the settings of a relay are read outside of its process.

    :ivar sources: the files that systemd makes credentials from, by the path that each credential has for the relay.
    :ivar in_unit: whether the credentials themselves are read; otherwise the files are, which they are made from.
    :ivar unseen: files and folders that only the relay can read. Nothing is said of them.
    :ivar places: for variables and options of a command line the words that say where they were set.
    """

    sources: Mapping[str, str] = {}
    in_unit: bool = False
    unseen: tuple[str, ...] = ()
    places: Mapping[str, str] = {}


def passed_on(name: str) -> str:
    """What to do where a path of the settings is that of a file that systemd passes on as credential *name*."""
    return f"systemd passes it on, and only that can be read: give ${CREDENTIALS}/{name}, or leave the option out"


def state_directory(environ: Mapping[str, str], name: str) -> str:
    """The directory of a program's state where nothing else is said."""
    # Never below the working directory: relayd started from another one would have forgotten all host keys.
    personal = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    fallback = f"/var/lib/{name}" if os.geteuid() == 0 else os.path.join(personal, name)
    return os.path.abspath(environ.get("STATE_DIRECTORY", "").split(":")[0] or fallback)


class Paths:
    """
    The paths of one reading of the settings.

    :param environ: the relay's environment.
    """

    def __init__(self, environ: Mapping[str, str], elsewhere: Elsewhere = Elsewhere()) -> None:  # noqa: B008  # frozen
        #: The folder of systemd's credentials, as the relay sees it; empty: there is none.
        self.credentials = os.path.normpath(environ[CREDENTIALS]) if environ.get(CREDENTIALS) else ""
        self._elsewhere = elsewhere

    def resolve(self, text: str, directory: str) -> str:
        """
        The path of a file, absolute: where it can be read now.

        :param directory: what relative paths are relative to.
        :raises ValueError: when it begins with ``$CREDENTIALS_DIRECTORY``, and there is none.
        """
        text = text.strip()
        for name in (f"${CREDENTIALS}", f"${{{CREDENTIALS}}}"):
            if text.partition("/")[0] == name:
                if not self.credentials:
                    raise ValueError(f"{CREDENTIALS} is not set; systemd sets it for a unit that has LoadCredential=")
                text = self.credentials + text.removeprefix(name)
        path = os.path.abspath(os.path.join(directory, os.path.expanduser(text)))
        return path if self._elsewhere.in_unit else self._elsewhere.sources.get(path, path)

    def is_unseen(self, path: str) -> bool:
        """Whether only the relay can read a file, see `Elsewhere`."""
        return any(path == each or path.startswith(f"{each}/") for each in self._elsewhere.unseen)

    def place(self, name: str, otherwise: str = "") -> str:
        """Where a variable or an option of the command line was set, in words: *otherwise*, or its name."""
        return self._elsewhere.places.get(name, otherwise or name)

    def origin(self, path: str) -> str:
        """For a message about the file of a credential: where systemd takes it from. Empty for other files."""
        for credential, source in self._elsewhere.sources.items():
            if path in (credential, source):
                name = os.path.basename(credential)
                if path == source and self._elsewhere.in_unit:
                    return passed_on(name)
                return f"put it into {source}, from where systemd passes it on (LoadCredential={name})"
        if not self.credentials or os.path.dirname(path) != self.credentials:
            return ""
        name = os.path.basename(path)
        # A blank one is what SetCredential= of the packaged unit makes, so that the relay can start and say this.
        if os.path.exists(path) and os.path.getsize(path) > len("\n"):
            return f"put it where LoadCredential={name} of the unit says"
        others = ", ".join([each for each in self._passed_on() if each != name][:_MOST_NAMES])
        instead = f" (it passes on {others})" if others else ""
        return f"the unit passes on no credential {name}{instead}: put LoadCredential={name}:FILE into a drop-in"

    def _passed_on(self) -> list[str]:
        """The names of the credentials that there are."""
        if self._elsewhere.sources and not self._elsewhere.in_unit:
            return [os.path.basename(credential) for credential in self._elsewhere.sources]
        try:
            return sorted(os.listdir(self.credentials))
        except OSError:
            return []
