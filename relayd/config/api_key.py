"""
The file of the API key, read anew at each connect so that the key can be changed while relayd runs.
"""

from __future__ import annotations

from relayd.config.secret_files import Unusable, open_to_others, read_line
from relayd.errors import KeyUnusable
from relayd.wire.messages import Secret

#: The least length of an API key, in characters (specification, "security requirements", 2).
LEAST_LENGTH = 32


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
            key = read_line(self._path)
        except Unusable as error:
            raise KeyUnusable(reason=str(error)) from None
        if len(key.reveal()) < LEAST_LENGTH and not self._allow_weak:
            reason = f"it is shorter than {LEAST_LENGTH} characters; make a longer one, or use --allow-weak-key"
            raise KeyUnusable(reason=reason)
        if not self._warned and open_to_others(self._path, {}):
            self._warned = True
            from twisted.logger import Logger  # relayctl reads the options in every run, and would wait for this

            Logger("relayd.config").warn("Other users can read the API key in {path}: chmod 600 it", path=self._path)
        return key
