"""
Which processes of a host belong to a command: asked of a POSIX shell there, and told apart here.

SSH does not tell a client the number of the process that it started.  But each command is a child of the server's
process for its connection, with that one's addresses in its environment.  OpenSSH makes it the leader of a session
of its own; with dropbear it is in the session of the server's process.  No I/O here.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

#: The command to give to a host, whatever the user's shell: from there on, a POSIX shell reads our lines.
SHELL = b"exec /bin/sh"

#: Defines ``leaders`` and ``hit SIGNAL SESSION SKIP``. Only what every Linux has: a shell, /proc, grep, tr, sed.
#: proc(5): after the command name, which may hold anything, "state ppid pgrp session … starttime" (the 20th of these).
SCRIPT = rb"""
leaders() {
echo "me $$ $PPID"
for d in $(grep -l SSH_CONNECTION= /proc/[0-9]*/environ); do
d=${d%/environ} p=${d#/proc/} p=${p%/environ}
IFS= read -r s < $d/stat || continue
set -- ${s##*) }
[ "$p" = "$4" ] || [ "$2" = "$4" ] || continue
c=$(tr '\0\n' '\n ' < $d/environ | sed -n 's/^SSH_CONNECTION=//p')
echo "leader $p $2 $4 ${20} $1 [$c] $(tr '\0\n' '\001 ' < $d/cmdline)"
done
echo end
} 2>/dev/null
hit() {
[ $3 != 0 ] || kill -s $1 -- -$2
k=$1 l=$2 m=$3 n=0
for f in /proc/[0-9]*/stat; do
IFS= read -r s < $f || continue
set -- ${s##*) }
[ "$4" = $l ] || continue
p=${f#/proc/} p=${p%/stat}
case $1$p in Z*|X*|?$m) continue;; esac
n=$((n+1))
[ $m = 0 ] && [ $3 = $l ] || kill -s $k $p
done
echo left $n
} 2>/dev/null
leaders
"""


class Leader(Struct, frozen=True):
    """
    The process that a command began with.

    :ivar session: number of its session (POSIX), by which its children are known too.
    :ivar start: clock ticks from the host's start to the process's.
    :ivar client_port: of the SSH connection that it came by.
    """

    pid: int
    parent: int
    session: int
    start: int
    client_port: int
    argv: tuple[bytes, ...]

    def may_run(self, command: bytes) -> bool:
        """Whether this may be *command*: a shell runs it, or what the shell became for its last part."""
        return self.runs(command) or self.argv[1:2] != (b"-c",)

    def runs(self, command: bytes) -> bool:
        """Whether a shell runs *command* here."""
        return self.argv[1:] == (b"-c", command.replace(b"\n", b" "))

    def hit(self, signal: str) -> bytes:
        """
        The line that sends a signal to all processes of the command; what leads their session is the server's own
        process where it is not the command.

        :param signal: without ``SIG``; ``0`` only looks.
        :return: what the shell answers with ``left N``: how many processes there were.
        """
        skip = 0 if self.pid == self.session else self.session
        return b"hit %s %d %d\n" % (signal.encode("ascii"), self.session, skip)


class Listing(Struct, frozen=True):
    """
    What ``leaders`` told.

    :ivar own: number of the shell that told it, and its parent's.
    """

    own: int
    parent: int
    leaders: tuple[Leader, ...]

    def find(self, command: bytes, place: int, commands: Sequence[bytes], client_port: int | None) -> Leader | None:
        """
        The process of one command.

        :param command: as it was sent.
        :param place: its place among *commands*.
        :param commands: all that may be running on its connection, in the order in which they were sent; without the
            shell that told this.
        :param client_port: of its connection, where the shell runs on another one; ``None``: on the same.
        :return: ``None`` where there is any doubt.
        """
        here = sorted(
            (
                leader
                for leader in self.leaders
                if leader.pid != self.own
                and (leader.parent == self.parent if client_port is None else leader.client_port == client_port)
            ),
            key=lambda leader: (leader.start, leader.pid),
        )
        if len(here) == len(commands) and all(map(Leader.may_run, here, commands)):
            return here[place]
        running = [leader for leader in here if leader.runs(command)]
        if len(running) == 1 and commands.count(command) == 1:
            return running[0]
        return None


def parse_listing(lines: Sequence[bytes]) -> Listing | None:
    """
    Read what ``leaders`` wrote.

    :return: ``None`` when that is not what it is.
    """
    own: tuple[int, int] | None = None
    found = []
    try:
        for line in lines:
            if line.startswith(b"me "):
                pid, parent = line.split()[1:3]
                own = int(pid), int(parent)
            elif line.startswith(b"leader "):
                numbers, _, rest = line.partition(b" [")
                connection, _, arguments = rest.partition(b"] ")
                _, pid, parent, session, start, state = numbers.split()
                if state not in (b"Z", b"X"):
                    # SSH_CONNECTION: the client's address and port, the server's address and port
                    port = int(connection.split()[1])
                    argv = tuple(arguments.rstrip(b"\1").split(b"\1"))
                    leader = Leader(int(pid), int(parent), int(session), int(start), port, argv)
                    if leader.pid < 2 or leader.session < 1:  # kill(2) takes such a number for everybody
                        return None
                    found.append(leader)
    except (ValueError, IndexError):
        return None
    # The children of these are listed as well.
    begun = {leader.pid for leader in found}
    tops = tuple(leader for leader in found if leader.parent not in begun)
    return None if own is None else Listing(*own, tops)
