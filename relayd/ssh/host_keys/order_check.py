"""
Asking the file of known host keys without waiting for it: in a thread of its own, with a limit.

The file may be large, on a server that does not answer, or in somebody else's hands; what is connected already, and
what needs no file, goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError

from relayd.language.texts import Text, span
from relayd.ssh.errors import KnownHostsUnusable
from relayd.ssh.host_keys.checks import check_for
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.host_keys.verifier import ExpectedHostKey, HostKeyVerifier
from relayd.ssh.target import Target


class ShownKey:
    """
    A `relayd.ssh.host_keys.verifier.HostKeyVerifier` that takes any key, and notes it for `FileChecks.check`, which
    has to be asked before anything else is done with the connection.

    :param check: what the key has to pass then.
    :param types: what to ask the host for first.
    :ivar blob: what the host showed, and proved to have the private key of.
    """

    def __init__(self, check: HostKeyVerifier, types: frozenset[bytes]) -> None:
        self.check = check
        self._types = types
        self.blob = b""

    def key_types(self, host: str, port: int) -> frozenset[bytes]:
        """See `HostKeyVerifier.key_types`."""
        return self._types

    def verify(self, host: str, port: int, blob: bytes) -> None:
        """See `HostKeyVerifier.verify`."""
        self.blob = blob


class FileChecks:
    """
    :param reactor: provides time.
    :param known_hosts: is used in that thread only.
    :param in_thread: runs a function there, one after another; `relayd.ssh.worker.Worker.run` does.
    """

    def __init__(self, reactor: Any, known_hosts: KnownHosts, in_thread: Callable[..., Deferred[Any]]) -> None:
        self._reactor = reactor
        self._known_hosts = known_hosts
        self._in_thread = in_thread

    async def begin(self, target: Target, timeout: float) -> HostKeyVerifier:
        """
        What the key of a host has to pass; where that is a `ShownKey`, `check` has to be asked, too.

        :param timeout: seconds that the file has.
        :raises KnownHostsUnusable: when it cannot be read.
        """
        check = check_for(target, self._known_hosts)
        if isinstance(check, ExpectedHostKey):  # which needs no file
            return check
        return ShownKey(check, await self._ask(check.key_types, timeout, target.host, target.port))

    async def check(self, target: Target, shown: ShownKey, timeout: float) -> None:
        """
        Whether what the host showed is to be trusted: see `HostKeyVerifier.verify`.

        :raises SSHError: when it must not be.
        """
        await self._ask(shown.check.verify, timeout, target.host, target.port, shown.blob)

    async def _ask(self, function: Callable[..., Any], timeout: float, *args: Any) -> Any:
        if self._known_hosts.policy == "ignore":
            return function(*args)  # which then does not look at the file
        try:
            return await self._in_thread(function, *args).addTimeout(timeout, self._reactor)
        except TimeoutError:
            reason = Text("it did not answer within {time}", time=span(timeout))
            raise KnownHostsUnusable(file=self._known_hosts.path, reason=reason) from None
