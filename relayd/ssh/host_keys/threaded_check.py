"""
The check of a host's key for one command, in a thread and with a time limit.

The file of known hosts may be large, or on a file server that does not answer. Connections that are open, and those
that need no file, go on meanwhile.
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
from relayd.ssh.settings import HostKeyPolicy
from relayd.ssh.target import Target


class ShownKey:
    """
    A `relayd.ssh.host_keys.verifier.HostKeyVerifier` that accepts any key, and keeps it for `FileChecks.check`.

    Nothing else must be done with the connection before that has accepted the key.

    :param check: the check that the key has to pass then.
    :param types: the types of keys to ask the host for first.
    :param in_file: whether the check reads a file.
    :ivar blob: the key or certificate that the host showed. It has proved that it has the private key.
    """

    def __init__(self, check: HostKeyVerifier, types: frozenset[bytes], *, in_file: bool) -> None:
        self.check = check
        self.in_file = in_file
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
    Checks host keys in a thread.

    :param reactor: provides time.
    :param known_hosts: used in that thread only.
    :param in_thread: runs functions there, one after another, as `relayd.ssh.worker.Worker.run`.
    """

    def __init__(self, reactor: Any, known_hosts: KnownHosts, in_thread: Callable[..., Deferred[Any]]) -> None:
        self._reactor = reactor
        self._known_hosts = known_hosts
        self._in_thread = in_thread

    async def begin(self, target: Target, timeout: float, policy: HostKeyPolicy) -> HostKeyVerifier:
        """
        The check that the key of a host has to pass. If it is a `ShownKey`, `check` has to accept that afterwards.

        :param policy: for keys that are not in the file.
        :param timeout: seconds that the file may take.
        :raises KnownHostsUnusable: when it cannot be read.
        """
        check = check_for(target, self._known_hosts.under(policy))
        if isinstance(check, ExpectedHostKey):  # needs no file
            return check
        in_file = policy != "ignore"
        types = await self._ask(in_file, check.key_types, timeout, target.host, target.port)
        return ShownKey(check, types, in_file=in_file)

    async def check(self, target: Target, shown: ShownKey, timeout: float) -> None:
        """
        Check the key that the host showed: see `HostKeyVerifier.verify`.

        :raises SSHError: when it must not be trusted.
        """
        await self._ask(shown.in_file, shown.check.verify, timeout, target.host, target.port, shown.blob)

    async def _ask(self, in_file: bool, function: Callable[..., Any], timeout: float, *args: Any) -> Any:
        if not in_file:
            return function(*args)
        try:
            return await self._in_thread(function, *args).addTimeout(timeout, self._reactor)
        except TimeoutError:
            reason = Text("it did not answer within {time}", time=span(timeout))
            raise KnownHostsUnusable(file=self._known_hosts.path, reason=reason) from None
