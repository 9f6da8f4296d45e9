"""
The file of the API key, read anew for each connection so that the key can be changed while relayd runs.
"""

from __future__ import annotations

from relayd.config.secret_files import Unusable, open_to_others, read_line
from relayd.errors import KeyUnusable
from relayd.wire.messages import Secret

#: The minimum length of an API key, in characters (specification, "security requirements", 2).
LEAST_LENGTH = 32


class ApiKeyFile:
    """
    The file of an API key.

    :param path: the path of the file, which holds one line.
    :param allow_weak: whether to accept a key of fewer than `LEAST_LENGTH` characters.
    :param private: whether the file is safe whatever its mode looks like, as systemd's credentials are.
    """

    def __init__(self, path: str, *, allow_weak: bool, private: bool) -> None:
        self._path = path
        self._allow_weak = allow_weak
        self._warned = private

    def read(self) -> Secret:
        """
        The key in the file now.

        :raises KeyUnusable: when the file holds no key, or a weak one that was not allowed.
        """
        try:
            key = read_line(self._path)
        except Unusable as error:
            raise KeyUnusable(reason=str(error), cure=error.cure) from None
        if len(key.reveal()) < LEAST_LENGTH and not self._allow_weak:
            reason = f"it is shorter than {LEAST_LENGTH} characters; make a longer one, or use --allow-weak-key"
            raise KeyUnusable(reason=reason)
        if not self._warned and open_to_others(self._path, {}):
            self._warned = True
            from twisted.logger import Logger  # a slow import, which would hold up every run of relayctl

            _log = Logger("relayd.config")
            _log.warn("Other users can read the API key in {path}: chmod 600 it", path=self._path)
        return key
