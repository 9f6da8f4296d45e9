"""
The file of the API key, read anew at each connect so that the key can be changed while relayd runs.
"""

from __future__ import annotations

import os
import stat
from typing import NoReturn

from relayd.errors import KeyUnusable
from relayd.messages import Secret

#: The least length of an API key, in characters (specification, "security requirements", 2).
LEAST_LENGTH = 32
#: What is read of the file, in bytes; a longer one is some other file.
MOST_BYTES = 4096


class ApiKeyFile:
    """
    :param path: of the file; it holds one line.
    :param allow_weak: whether to take a key under `LEAST_LENGTH` characters.
    :param private: whether the file is safe whatever its mode looks like, as systemd's credentials are.
    """

    def __init__(self, path: str, *, allow_weak: bool, private: bool) -> None:
        self._path = path
        self._allow_weak = allow_weak
        self._warned = private

    def read(self) -> Secret:
        """
        The key as it is now.

        :raises KeyUnusable: when there is none, or a weak one that was not allowed.
        """
        try:
            with open(self._path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                raw = file.read(MOST_BYTES + 1)
            key = raw.decode().rstrip("\r\n")
        except OSError as error:
            self._refuse(f"its file cannot be read ({error.strerror})")
        except UnicodeDecodeError:
            self._refuse("its file is no UTF-8 text")
        if not key.strip():
            self._refuse("its file is empty")
        if len(raw) > MOST_BYTES or not key.isprintable() or key != key.strip():
            self._refuse("its file must hold one line, the key, without blanks around it")
        if len(key) < LEAST_LENGTH and not self._allow_weak:
            self._refuse(f"it is shorter than {LEAST_LENGTH} characters; make a longer one, or use --allow-weak-key")
        if stat.S_IMODE(mode) & 0o077 and not self._warned:
            self._warned = True
            from twisted.logger import Logger  # relayctl reads the options in every run, and would wait for this

            Logger().warn("Other users can read the API key in {path}: chmod 600 it", path=self._path)
        return Secret(key)

    def _refuse(self, reason: str) -> NoReturn:
        raise KeyUnusable(reason=reason) from None
