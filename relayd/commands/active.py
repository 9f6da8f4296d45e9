"""
A command that is under way: what is known of it from its receipt until its result is recorded.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from relayd.commands.streaming import OutputStream
from relayd.interfaces import Acknowledge
from relayd.wire.messages import CommandResult, CommandState, ExecuteCommand


class ActiveCommand:
    """
    One command from its receipt until its result is recorded.

    :param timeout: seconds from receipt; messages name it.
    :param margin: seconds of the timeout by which the command is ended early, so that its result arrives in time.
    :ivar acknowledges: called when the journal has it, or cannot take it.
    :ivar accepted: whether the journal has it.
    :ivar grace: seconds after the deadline by which a result has to be there; ``None``: it may take its time.
    :ivar has_slot: whether its turn came.
    :ivar began: when it was given to the runner.
    :ivar cancelled: whether its end was asked for.
    :ivar dropped: whether the journal did not take it: what happens to it then is ignored.
    :ivar output: where its output goes as it arrives, if the command asked for that.
    :ivar run: what the runner gave for it.
    :ivar result: how it ended; after that it is only recorded.
    """

    __slots__ = (
        "accepted", "acknowledges", "began", "cancelled", "command", "deadline", "dropped", "fingerprint", "grace",
        "has_slot", "key", "output", "received", "result", "run", "timeout",
    )  # fmt: skip

    def __init__(
        self,
        command: ExecuteCommand,
        fingerprint: bytes,
        received: float,
        timeout: float,
        acknowledge: Acknowledge,
        margin: float = 0.0,
    ) -> None:
        self.command = command
        self.fingerprint = fingerprint
        self.key = (command.host, command.port)
        self.received = received
        self.timeout = timeout
        self.deadline = received + timeout - margin
        # The other half is for the way of the order, as main servers count from sending, and for the way of the result.
        self.grace = margin / 2 if margin else None
        self.acknowledges = [acknowledge]
        self.accepted = False
        self.has_slot = False
        self.began: float | None = None
        self.cancelled = False
        self.dropped = False
        self.output: OutputStream | None = None
        self.run: Deferred[CommandResult] | None = None
        self.result: CommandResult | None = None

    @property
    def state(self) -> CommandState:
        """How far it has come."""
        if self.result is not None:
            return CommandState.FINISHED
        return CommandState.QUEUED if self.run is None else CommandState.RUNNING
