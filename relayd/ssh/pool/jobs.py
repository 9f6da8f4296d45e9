"""
Jobs: what wants a channel of a pooled connection, which is a command's session or a connection to another host.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from relayd.language.texts import Text, span
from relayd.ssh.channels.channel import ChannelUser
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.forward import OPEN_TIMEOUT, Forward
from relayd.ssh.errors import ConnectionLost, ForwardFailed, ForwardProhibited, SSHError
from relayd.ssh.pool.decisions import MAX_DROPS
from relayd.ssh.target import Target
from relayd.ssh.transport.numbers import OPEN_ADMINISTRATIVELY_PROHIBITED


class Job:
    """
    What wants a channel of a connection to a target: a command, or a connection to another host.

    :param on_failure: called at most once, with what kept the command from running or, with
        `relayd.ssh.errors.OutcomeUnknown`, from being seen to its end.
    :param payload: bytes of the largest packet that it takes to start it.
    :ivar connection: the one that it was last started on.
    :ivar drops: how often a connection was lost while it waited for its channel.
    :ivar refused: whether a connection that had run another command refused to run it.
    :ivar ending: the command was told to end: it is killed if the pool closes before it has.
    """

    __slots__ = ("channel", "connection", "drops", "ending", "on_failure", "payload", "refused", "target")

    def __init__(
        self, target: Target, channel: ChannelUser, on_failure: Callable[[SSHError], None], payload: int = 0
    ) -> None:
        self.target = target
        self.channel = channel
        self.on_failure = on_failure
        self.payload = payload
        self.connection: ClientConnection | None = None
        self.ending = False
        self.drops = 0
        self.refused = False

    def let_go(self) -> None:
        """Its owner has its result: what becomes of it now is not reported any more."""
        self.on_failure = _ignore


def _ignore(_error: SSHError) -> None:
    pass


class Forwarding:
    """
    A connection to another host through *via*, until it is open.

    :param submit: takes a job for *via*.
    :param withdraw: forgets a job that was submitted.
    :ivar opened: fires with the connection, or fails with an `relayd.ssh.errors.SSHError`; see
        `relayd.ssh.pool.pool.Pool.forward`.
    """

    def __init__(
        self,
        submit: Callable[[Job], None],
        withdraw: Callable[[Job], None],
        via: Target,
        host: str,
        port: int,
    ) -> None:
        self._submit_job = submit
        self._withdraw_job = withdraw
        self._via = via
        self._host = host
        self._port = port
        self._drops = 0
        self.opened: Deferred[Forward] = Deferred(self._cancel)
        self._submit()

    def _submit(self) -> None:
        self._forward: Forward | None = Forward(self._host, self._port, self._open, self._ended)
        # Both are let go when they are of no more use: each leads back to this, and to secrets.
        self._job: Job | None = Job(self._via, self._forward, self._failed)
        self._submit_job(self._job)

    def _open(self) -> None:
        forward, self._forward, self._job = self._forward, None, None
        if forward is not None:
            self.opened.callback(forward)

    def _ended(self) -> None:
        if self._forward is not None:
            self._failed(
                forward_error(self._forward, self._via, 0, Text("no answer within {time}", time=span(OPEN_TIMEOUT)))
            )

    def _failed(self, error: SSHError) -> None:
        if self._forward is None:
            return
        self._release()
        if isinstance(error, ConnectionLost) and self._drops < MAX_DROPS:
            # It was interrupted, not refused, so another connection may do.
            self._drops += 1
            self._submit()
            return
        error.at_jump_host = not isinstance(error, ForwardFailed)
        self.opened.errback(error)

    def _cancel(self, _opened: Deferred[Forward]) -> None:
        if self._job is not None:
            self._withdraw_job(self._job)
        self._release()

    def _release(self) -> None:
        """Have the channel give up what it holds; its end is not reported any more."""
        forward, self._forward, self._job = self._forward, None, None
        if forward is not None:
            forward.ended()


def forward_error(forward: Forward, via: Target, code: int, reason: str) -> ForwardFailed:
    """
    The error for a connection that *via* did not make.

    :param code: RFC 4254, section 5.1.
    """
    kind = ForwardProhibited if code == OPEN_ADMINISTRATIVELY_PROHIBITED else ForwardFailed
    return kind(
        host=forward.host, port=forward.port, via=f"{via.host}:{via.port}", reason=reason or Text("no reason given")
    )
