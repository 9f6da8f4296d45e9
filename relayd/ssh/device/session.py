"""
One command line of one device, from the wait for a connection until it is closed; many commands run on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.language.texts import Text, span
from relayd.ssh.channels.channel import State
from relayd.ssh.device.families import Family, Prompt
from relayd.ssh.device.greeting import ENTER, Greeting
from relayd.ssh.device.order import Carried, LineOrder
from relayd.ssh.device.shell import DeviceShell
from relayd.ssh.device.terminal import Pause, Terminal
from relayd.ssh.errors import DeviceNotReady, ExecRefused, OutcomeUnknown, PrivilegeRefused, SSHError
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.pool import Pool
from relayd.ssh.target import Target

#: Seconds that a device has until it takes lines, from the opening of its command line.
READY_WITHIN: Final = 30.0
#: Seconds for which a command line is used again without a look whether it is still there.
FRESH: Final = 5.0

Reading = Callable[[bytes], Deferred[None] | None]


class SessionOwner(Protocol):
    """What a session reports; nothing more after `session_over`."""

    def session_ready(self, session: DeviceSession) -> None:
        """It takes lines."""

    def session_over(self, session: DeviceSession, error: SSHError) -> None:
        """
        It takes no more lines.

        :param error: why; of a session that was never ready, why it could not be.
        """


class DeviceSession:
    """
    It is ready some time after `begin`.

    :param secret: for the privileged mode.
    :ivar usable: whether it takes lines now.
    :ivar proven: whether it was ever ready.
    :ivar idle_since: when its last command ended, in seconds of the clock.
    """

    def __init__(
        self,
        clock: IReactorTime,
        pool: Pool,
        target: Target,
        family: Family,
        secret: bytes | None,
        owner: SessionOwner,
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._family = family
        self._owner = owner
        self.usable = self.proven = self._over = False
        self.idle_since = clock.seconds()
        self._commands = 0
        self._prompt: Prompt | None = None
        self._terminal: Terminal | None = None
        self._reading: Deferred[None] | None = None
        self._call: IDelayedCall | None = None
        self._greeting = Greeting(self, family, secret)
        self._shell = DeviceShell(self._opened, self._received, self._ended)
        # Devices have few command lines, and some close the whole connection with one.
        self._job = Job(structs.replace(target, alone=True), self._shell, self._failed)

    def begin(self) -> None:
        """Open it: its owner hears of it from now on."""
        self._pool.submit(self._job)

    def takes_more(self, most_commands: int | None) -> bool:
        """
        Whether it may be given another command, once it is usable.

        :param most_commands: that it may carry out in all.
        """
        spent = most_commands is not None and self._commands >= most_commands
        return not spent and self._pool.gives_more(self._job)

    @property
    def starting(self) -> bool:
        """Whether the pool has no open connection for it yet."""
        return self._shell.state in (State.WAITING, State.OPENING)

    def carry_out(self, lines: Sequence[bytes], on_output: Reading, on_end: Callable[[Carried], None]) -> None:
        """Have the device carry out *lines*; it must be usable. See `LineOrder`."""
        assert self._terminal is not None and self._prompt is not None

        def output(data: bytes) -> None:
            self._reading = on_output(data)

        def ended(carried: Carried) -> None:
            self.usable = carried.at_base
            self.idle_since = self._clock.seconds()
            on_end(carried)

        self.usable = False
        self._commands += 1
        order = LineOrder(self._terminal, self._family, self._prompt, lines, output, ended)
        self._terminal.listener = order
        order.begin()

    def look(self) -> None:
        """Ask for the prompt: `SessionOwner.session_ready` follows, or `SessionOwner.session_over`."""
        assert self._terminal is not None and self._prompt is not None
        self.usable = False
        self._terminal.listener = _Look(self._prompt, self._looked)
        self._terminal.send(ENTER)

    def close(self) -> None:
        """Close it; its owner hears nothing more."""
        self._stop()
        self._pool.withdraw(self._job)

    def _looked(self, is_there: bool) -> None:
        if is_there:
            self.usable = True
            self._owner.session_ready(self)
        else:
            self._end(DeviceNotReady(**self._where, reason=Text("it does not show its prompt any more")))

    # From the greeting

    def ready(self, prompt: Prompt) -> None:
        """See `relayd.ssh.device.greeting.GreetingOwner`."""
        self._cancel_call()
        self._prompt = prompt
        self.usable = self.proven = True
        self.idle_since = self._clock.seconds()
        self._owner.session_ready(self)

    def not_ready(self, reason: str, *, privilege: bool) -> None:
        """See `relayd.ssh.device.greeting.GreetingOwner`."""
        kind = PrivilegeRefused if privilege else DeviceNotReady
        self._end(kind(**self._where, reason=reason))

    def _too_slow(self) -> None:
        self._call = None
        words = self._greeting.so_far
        reason = Text("after {time} it showed no prompt, and {words}", time=span(READY_WITHIN), words=words)
        self._end(DeviceNotReady(**self._where, reason=reason))

    # From the channel and the pool

    def _opened(self) -> None:
        terminal = self._terminal = Terminal(self._clock, self._shell.write, self._greeting)
        self._greeting.terminal = terminal
        self._call = self._clock.callLater(READY_WITHIN, self._too_slow)

    def _received(self, data: bytes) -> Deferred[None] | None:
        self._reading = None
        if self._terminal is not None:
            self._terminal.received(data)
        return self._reading

    def _ended(self, refused: bool) -> None:
        if refused:
            self._end(ExecRefused(**self._where, username=self._job.target.username))
        else:
            self._end(OutcomeUnknown(**self._where, reason=Text("the device closed its command line")))

    def _failed(self, error: SSHError) -> None:
        self._end(error)

    # The end

    @property
    def _where(self) -> dict[str, object]:
        return {"host": self._job.target.host, "port": self._job.target.port}

    def _end(self, error: SSHError) -> None:
        if not self._over:
            self.close()
            self._owner.session_over(self, error)

    def _stop(self) -> None:
        self._over = True
        self.usable = False
        self._cancel_call()
        if self._terminal is not None:
            self._terminal.stop()

    def _cancel_call(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()


class _Look:
    """Waits for the prompt; see `relayd.ssh.device.terminal.Listener`."""

    def __init__(self, prompt: Prompt, on_result: Callable[[bool], None]) -> None:
        self._prompt = prompt
        self._on_result = on_result

    def line(self, line: bytes) -> None:
        """See `relayd.ssh.device.terminal.Listener`, for this and the following methods."""

    def fed(self) -> None:
        """It keeps nothing."""

    def pause(self, line: bytes, pause: Pause) -> None:
        if self._prompt.is_base(line):
            self._on_result(True)
        elif pause is Pause.VERY_LONG:
            self._on_result(False)
