"""
How a command ended: what a program gets of it, and which error describes an end that is not a plain one.
"""

from __future__ import annotations

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd.language.errors import Executed
from relayd.language.texts import Text, span
from relayd.ssh.channels.channel import State
from relayd.ssh.channels.output import OutputBuffer
from relayd.ssh.channels.session import ExitInfo, Session
from relayd.ssh.ending.ending import Killed
from relayd.ssh.errors import CommandNotStarted, CommandReplaced, ShellUnsuitable, SSHError
from relayd.ssh.files.orders import ReadFile
from relayd.ssh.target import Target
from relayd.ssh.transport.server_limits import ALWAYS_STARTS, most_of_command, not_started

#: The line below the output of a command that has ended while something that it left running keeps the output open.
HELD = Text(
    "[relayd: the command has ended, but something that it left running keeps its output open. relayd does not touch "
    "it, and reports none of its further output. To avoid the wait, redirect its output: COMMAND >/dev/null 2>&1 &]"
)
#: The same where the deadline came, or the command was cancelled, before that was certain.
CUT = Text(
    "[relayd: the command has ended, but its output has not: something that it left running may keep it open, or the "
    "rest is still on its way. Output from here on is not reported]"
)

_OUTCOMES: dict[Killed, str] = {
    "confirmed": Text("It was ended: none of its processes is left."),
    "unconfirmed": Text("It was told to end; whether all of it did is not known yet."),
    "unsupported": Text("It was told to end, but the host offers no way to make sure: it may still be running."),
}
# The same for a command that the shell had not reached yet: it was busy with its directory and variables.
_NOT_REACHED = Text("The shell had not reached it: it was not run, and will not be.")
_PERHAPS_NOT_REACHED = Text(
    "The shell had not reached it yet, and was told to end; whether it still runs it is not known."
)


class Completed(Struct, frozen=True, kw_only=True):
    """
    How a command that was started ended.

    :ivar exit: what the server said of its end.
    :ivar error: why that is not all there is to know: the command ran out of time, was cancelled, ended without a
        status, or lost its connection; the output is what had come until then. ``None`` for a plain end.
    :ivar open: why the output may not be complete though the command has ended: something that it left running holds
        it, or the connection was lost.
    :ivar killed: what had become of a command that was to end early, by the time of this.
    :ivar timings: seconds that it took, by phase: ``wait`` until the command was sent; within that, where a connection
        was opened for it, ``connect``, ``keyExchange`` and ``login``; then ``run``.
    """

    exit: ExitInfo
    stdout: OutputBuffer
    stderr: OutputBuffer
    error: SSHError | None
    open: Text | None
    killed: Killed | None
    timings: dict[str, float]
    read: tuple[ReadFile, ...] = ()


def give(done: Deferred[Completed], result: Completed | SSHError | Failure) -> None:
    """Fire *done* with how a command ended, or why it was not run, unless it has fired."""
    if done.called:
        return
    if isinstance(result, SSHError | Failure):
        done.errback(result)
    else:
        done.callback(result)


def outcome_of(killed: Killed) -> str:
    """What is said of the end of a command that was to end early."""
    return _OUTCOMES[killed]


def connection_lost(error: SSHError) -> Text:
    """The line below the output of a command whose connection was lost, with *error*, after its end was known."""
    return Text(
        "[relayd: the command has ended, but then the connection was lost: {reason}. The end of its output may "
        "be missing]",
        reason=error.fields["reason"],
    )


def reached(session: Session) -> bool:
    """Whether the shell is known to have reached the command."""
    return session.progress is None or session.progress.missing is None


def not_reached(session: Session, target: Target, *, complete: bool, forced: bool) -> SSHError | None:
    """
    Why the shell did not reach the command, where its session has ended in good order.

    :param complete: whether all of the output is here, which would tell.
    :param forced: whether the server said that it runs a command of its own.
    """
    kind = None if session.progress is None else session.progress.missing
    if kind is None:
        return None
    # Another command may have run instead, as far as anybody can tell.
    if not complete or (kind is ShellUnsuitable and (forced or session.exit.status == 0)):
        kind = CommandReplaced
    return kind(host=target.host, port=target.port, username=target.username)


def too_long_to_start(session: Session, target: Target, payload: int) -> SSHError | None:
    """
    Whether the host's system found the command too long to start it.

    :param payload: bytes of the packet that it was sent in.
    """
    size = most_of_command(payload)
    if size <= ALWAYS_STARTS:
        return None
    words = not_started(session.exit.status, session.stdout.total, session.stderr.raw())
    if words is None:
        return None
    return CommandNotStarted(host=target.host, port=target.port, words=words, size=size)


def ended_early(kind: type[SSHError], session: Session, target: Target, killed: Killed, timeout: float) -> SSHError:
    """
    The error of a command that was to end before it did by itself.

    :param kind: why: it ran out of time, or was cancelled.
    :param killed: what is known of its processes.
    :param timeout: the seconds that it had.
    """
    outcome: str = _OUTCOMES[killed]
    executed: Executed = "yes"
    if not reached(session):
        # An end in good order comes after all output, so after the mark that the shell has reached the command.
        ended = session.state is State.ENDED and session.exit.known
        never = ended and killed == "confirmed"
        outcome = _NOT_REACHED if never else _PERHAPS_NOT_REACHED
        executed = "no" if never else "unknown"
    error = kind(host=target.host, port=target.port, time=span(timeout), outcome=outcome)
    error.executed = executed
    return error
