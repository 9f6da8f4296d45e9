"""
How many requests of its own a server may make: they cost it nothing, and it may never read the answers.
"""

from __future__ import annotations

from typing import Final

from relayd.ssh.transport.breach import Breach

#: Requests that a server may make until `FloodLimit.reset` is called.
MAX_REQUESTS: Final = 1000
#: A key exchange without a reason is as bad as so many requests.
KEY_EXCHANGE: Final = 100


class FloodLimit:
    """Counts the requests of a server that makes us answer, and ends the connection where they do not end."""

    __slots__ = ("_requests",)

    def __init__(self) -> None:
        self._requests = 0

    def count_request(self) -> None:
        """
        The server has made a request that must be answered.

        :raises Breach: when there were too many.
        """
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            raise Breach("more requests than any server needs")

    def count_key_exchange(self) -> None:
        """
        The server has begun a key exchange without a reason.

        :raises Breach: when there were too many.
        """
        self._requests += KEY_EXCHANGE
        if self._requests > MAX_REQUESTS:
            raise Breach("too many requests for new keys")

    def reset(self) -> None:
        """Forget all requests until now."""
        self._requests = 0
