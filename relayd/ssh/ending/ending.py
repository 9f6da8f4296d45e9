"""
Ends a command that ran out of time or was cancelled: asks it to end, makes it end, and checks whether it did.

A second session on the host finds the command's processes (`relayd.ssh.ending.processes`) and signals all of them.  It
must not run a command that the host's site put in the place of ours: see `relayd.ssh.transport.server_limits.guarded`.
Where that is not possible, the server itself is asked to pass signals on (RFC 4254, section 6.9): OpenSSH does since
7.9, but not to forced commands; dropbear does, to the command's first process. What came of it remains unknown then.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Literal

from msgspec import structs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relayd.network.steady_clock import steady_seconds
from relayd.ssh.become.dialogue import BecomeDialogue
from relayd.ssh.channels.channel import State
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.channels.terminal import Terminal
from relayd.ssh.ending.processes import (
    LIST,
    SHELL,
    SHELL_BESIDE_TERMINAL,
    Leader,
    ShellAnswers,
    find,
    parse_listing,
    script,
    script_to_signal,
)
from relayd.ssh.errors import SSHError
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.pool import Pool
from relayd.ssh.transport.server_limits import guarded, passes_signals

_log = Logger("relayd.ssh")

#: What is known of a command's processes: none is left; they were signalled; the host offers no way to look.
Killed = Literal["confirmed", "unconfirmed", "unsupported"]

#: Seconds that it may take to find the processes before the server is asked to signal them.
FIND_WITHIN = 0.25
#: Seconds more for the request for the shell, which is long, to arrive.
ARRIVE_WITHIN = 1.25
#: Seconds for which a host may send no more of a flood. After that a command that cleans up can write again, and the
#: server can close the channel of one that has ended, which it does only when all of its output was sent.
RESUME_AFTER = 1.0
#: Seconds that a command has to end by itself after the first signal.
KILL_AFTER = 2.0
#: Seconds after which a command that still runs is left alone.
LEAVE_AFTER = 4.5
#: Seconds until the processes are checked for the first time; the time doubles with each further check.
FIRST_LOOK = 0.02
LONGEST_LOOK = 0.5
#: How often the processes are listed while other commands on the connection begin or end.
MAX_LISTINGS = 4
#: Bytes that the host may send for all of this. A listing has some 80 for each command.
MAX_HEARD = 256 * 1024


class Ending:
    """
    Ends one command.

    :param job: the command, which runs.
    :param session: the session of the job.
    :param started: when the command was sent, in seconds of a steady clock.
    :param shell: whether the host is supposed to have a POSIX shell, so that a second session may look there.
    :param on_settled: called once, when nothing more will become known.
    :ivar killed: what is known by now.
    :ivar over: whether nothing more will become known.
    """

    def __init__(
        self,
        clock: IReactorTime,
        pool: Pool,
        job: Job,
        session: Session,
        started: float,
        shell: bool,
        on_settled: Callable[[], None],
    ) -> None:
        self.killed: Killed = "unconfirmed"
        self._clock = clock
        self._pool = pool
        self._job = job
        self._session = session
        self._started = started
        self._on_settled = on_settled
        # Made anew each time, and sent on the shell's input only, where no other user of the host can see it.
        self._mark = secrets.token_hex(16)
        self._answers = ShellAnswers(self._mark)
        self._heard = 0
        self._listing: list[bytes] = []
        self._listings = 0
        self._expected: list[Session] = []
        # The command's processes, once they are found
        self._leader: Leader | None = None
        self._look_after = FIRST_LOOK
        self._look_call: IDelayedCall | None = None
        self._calls: list[IDelayedCall] = []
        self._asked = False
        self.over = False
        self._shell: Session | None = None
        #: By which the second session becomes the command's user, where that is another one than logs in.
        self._becoming: BecomeDialogue | None = None
        self._shell_gone = False
        self._shell_job: Job | None = None
        if shell or session.dialogue is not None:
            self._prepare_shell()

    def _prepare_shell(self) -> None:
        """Make the second session, unless the host might run a forced command in its place."""
        job, connection = self._job, self._job.connection
        if connection is None or connection.transport.forced_command:
            return
        target = job.target.shared()
        version = connection.transport.otherVersionString
        command = self._shell_command()
        text = None if command is None else guarded(command.text, version, by_key=target.credential.has_key)
        if command is not None and text is not None:
            command = structs.replace(command, text=text)
            self._shell = Session(command, self._shell_starts, self._no_shell, reader=self._read)
            self._shell_job = Job(target, self._shell, self._shell_failed)

    def _shell_command(self) -> Command | None:
        """What the second session runs; ``None``: it could not look."""
        of_other = self._session.dialogue
        if not isinstance(of_other, BecomeDialogue):
            return Command(SHELL, 0, stdin_open=True)
        # Only the user whom the command became may signal its processes. What they are known by, the host has said.
        if of_other.leader is None:
            return None
        self._leader = leader = Leader(*of_other.leader, "same")
        terminal = Terminal(plain=True) if of_other.on_terminal else None
        orders = script_to_signal(self._mark) + leader.hit("TERM")
        shell = SHELL if terminal is None else SHELL_BESIDE_TERMINAL
        self._becoming = BecomeDialogue(
            of_other.become, shell, orders, stdin_open=True, on_terminal=of_other.on_terminal
        )
        return Command(self._becoming.start, 0, stdin_open=True, terminal=terminal, dialogue=self._becoming)

    def begin(self) -> None:
        """Start to end the command; returns at once."""
        self._job.ending = True
        # A command that floods its output would go on, and delay its own result and others. Its output was too long
        # already.
        self._halt(self._session.stdout.truncated or self._session.stderr.truncated)
        self._calls = [
            self._clock.callLater(FIND_WITHIN, self._ask_if_late),
            self._clock.callLater(RESUME_AFTER, self._halt, False),
            self._clock.callLater(KILL_AFTER, self._kill),
            self._clock.callLater(LEAVE_AFTER, self._leave),
        ]
        if self._shell_job is None:
            self._no_shell()
        else:
            self._pool.submit(self._shell_job, near=self._job.connection)

    def channel_ended(self) -> bool:
        """
        The command's channel is closed, or gone with its connection.

        :return: whether we ended it; if not, there is nothing more to do, or to find out.
        """
        ours = self._asked or self._leader is not None
        if self._leader is None:
            # What it left behind, if anything, can no longer be found.
            self._stop(settled=ours)
        return ours

    # Through the server

    def _ask_if_late(self) -> None:
        if self._shell is not None and self._shell.state is State.STARTING:
            # A signal now would end the first process, by which the others are found.
            self._calls.append(self._clock.callLater(ARRIVE_WITHIN, self._ask))
        else:
            self._ask()

    def _ask(self) -> None:
        """Have the server pass on the signal, as the shell has not found the processes so far."""
        if self._leader is None and not self._asked:
            self._signal("TERM")

    def _signal(self, name: str) -> None:
        self._asked = True
        if self._job.connection is not None:
            self._job.connection.signal(self._session, name)

    # Through a shell on the host

    def _shell_starts(self) -> None:
        self._expected = self._commands()
        connection = self._job.connection
        if (
            self._becoming is None
            and self._shell is not None
            and self._shell_job is not None
            and connection is not None
        ):
            own = self._shell_job.connection is connection
            port = None if own else connection.transport.local_port()
            age = steady_seconds(self._clock) - self._started
            self._shell.stdin = script(self._mark, self._session.command, port, age)

    def _commands(self) -> list[Session]:
        """What runs on the command's connection, including the command, without our shell."""
        connection = self._job.connection
        running = () if connection is None else connection.executing()
        return [session for session in running if session is not self._shell and not session.exit.known]

    def _read(self, is_stderr: bool, data: bytes) -> None:
        if self.over or self._shell_gone:
            return
        self._heard += len(data)
        if self._heard > MAX_HEARD:
            self._give_up_shell()
            return
        for line in () if is_stderr else self._answers.feed(data):
            if self._shell_gone or self.over:
                break
            if line == b"end":
                listing, self._listing = self._listing, []
                self._found(listing)
            elif line == b"lost" or line.startswith(b"left "):
                self._counted(line)
            else:
                self._listing.append(line)

    def _found(self, lines: list[bytes]) -> None:
        leaders = parse_listing(lines)
        if leaders is None:
            self._give_up_shell()
            return
        if self._leader is not None:
            return
        commands = self._commands()
        self._listings += 1
        leader = None
        # A command that began or ended while the host listed its processes could be mistaken for another one.
        if (
            commands == self._expected
            and self._session in commands
            and all(session.state is State.RUNNING for session in commands)
        ):
            texts = [session.command for session in commands]
            elsewhere = self._pool.commands_elsewhere(self._job)
            leader = find(leaders, self._session.command, commands.index(self._session), texts, elsewhere)
        if leader is not None:
            self._leader = leader
            self._write(leader.hit("TERM"))
        elif self._listings < MAX_LISTINGS:
            self._expected = commands
            self._write(LIST)
        else:
            if not self._passes_signals():
                self.killed = "unsupported"
            self._ask()

    def _passes_signals(self) -> bool:
        """Whether the server is known to pass signals on."""
        connection = self._job.connection
        return connection is not None and passes_signals(connection.transport.otherVersionString)

    def _counted(self, line: bytes) -> None:
        if self._leader is None:
            return
        if line == b"left 0":
            self.killed = "confirmed"
            self._stop()
        elif line[5:].isdigit():
            if self._look_call is None:
                self._look_call = self._clock.callLater(self._look_after, self._look)
                self._look_after = min(2 * self._look_after, LONGEST_LOOK)
        else:
            self._give_up_shell()

    def _look(self) -> None:
        self._look_call = None
        if self._leader is not None:
            self._write(self._leader.hit("0"))

    def _write(self, line: bytes) -> None:
        if self._becoming is not None and not self._becoming.ready:
            # Now it would be an answer to a question for the password.
            self._becoming.add(line)
        elif self._shell_job is not None and self._shell is not None and self._shell_job.connection is not None:
            self._shell_job.connection.write(self._shell, line)

    def _shell_failed(self, _error: SSHError) -> None:
        self._no_shell()

    def _give_up_shell(self) -> None:
        """What it says makes no sense."""
        self._no_shell()
        if self._shell_job is not None:
            self._pool.withdraw(self._shell_job)

    def _no_shell(self) -> None:
        """There is no shell to look with, or no longer one."""
        if self.over or self._shell_gone:
            return
        self._shell_gone = True
        if self._leader is None or (self._becoming is not None and not self._becoming.ready):
            self.killed = "unsupported"
        self._leader = None
        self._signal("TERM")
        if self._session.state is State.ENDED:
            self._stop()

    def _halt(self, on: bool) -> None:
        if self._job.connection is not None:
            self._job.connection.halt(self._session, on)

    # By force

    def _kill(self) -> None:
        if self._leader is None:
            self._signal("KILL")
        else:
            self._write(self._leader.hit("KILL"))

    def _leave(self) -> None:
        if self._session.state is not State.ENDED:
            _log.warn("{target}: a command that was to end may still be running", **self._job.target.log_fields)
        self._stop()

    def _stop(self, *, settled: bool = True) -> None:
        if self.over:
            return
        self.over = True
        for call in (*self._calls, self._look_call):
            if call is not None and call.active():
                call.cancel()
        self._pool.withdraw(self._job)
        if self._shell_job is not None:
            self._write(b"exit\n")  # tinysshd leaves it there when its channel is closed
            self._pool.withdraw(self._shell_job)
        self._let_go()
        on_settled, self._on_settled = self._on_settled, _nothing
        if settled:
            on_settled()

    def _let_go(self) -> None:
        """Hold nothing that leads back here: the command, and its secrets, would stay until garbage is collected."""
        self._calls.clear()
        self._look_call = None
        self._expected.clear()
        if self._shell is not None and self._shell_job is not None:
            self._shell.let_go()
            self._shell_job.let_go()
        self._shell = self._shell_job = None


def _nothing() -> None:
    pass
