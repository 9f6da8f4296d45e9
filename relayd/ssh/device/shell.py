"""
The channel on which a device offers its command line: a pseudo-terminal and a shell, open for many commands.

Source: RFC 4254, sections 6.2 and 6.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred

from relayd.ssh.channels.channel import State, WithoutCommand
from relayd.ssh.device.screen import WIDTH

#: Lines of the terminal: many, as some devices show pages of that size whatever they are told.
HEIGHT: Final = 1000
#: The terminal offers nothing: devices then send few control sequences, and none that wants an answer.
_PTY: Final = (
    NS(b"pty-req") + b"\0" + NS(b"dumb") + WIDTH.to_bytes(4, "big") + HEIGHT.to_bytes(4, "big") + bytes(8) + NS(b"\0")
)
_SHELL: Final = NS(b"shell") + b"\1"


class DeviceShell(WithoutCommand):
    """
    See `relayd.ssh.channels.channel.ChannelUser`.

    :param on_open: called when the device was asked for its command line.
    :param on_data: called with what it writes. A Deferred keeps it from writing more until it fires.
    :param on_end: called once when the channel has closed; with whether the device refused a command line.
    """

    def __init__(
        self,
        on_open: Callable[[], None],
        on_data: Callable[[bytes], Deferred[None] | None],
        on_end: Callable[[bool], None],
    ) -> None:
        super().__init__()
        self._on_open = on_open
        self._on_data = on_data
        self._on_end = on_end

    def write(self, data: bytes) -> None:
        """Send *data*."""
        if self._connection is not None and self.state is State.RUNNING:
            self._connection.write(self, data)

    def opened(self) -> list[bytes]:
        """See `relayd.ssh.channels.channel.ChannelUser`, for this and the following methods."""
        self.state = State.RUNNING
        self._on_open()
        return [_PTY, _SHELL]

    def received(self, data: bytes, is_stderr: bool) -> Deferred[None] | None:
        return None if is_stderr else self._on_data(data)

    def ended(self) -> None:
        if self.state is not State.ENDED:
            self.state = State.ENDED
            self._on_end(self._refused)
