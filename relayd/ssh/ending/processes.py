"""
Finds the processes of a command: a POSIX shell on the host lists them, and they are told apart here.

SSH does not tell a client the number of the process that it started.  But each command is a child of the server's
process, and OpenSSH, dropbear, lsh and Conch give it the addresses of its connection as a variable.  With OpenSSH and
lsh it leads a session of its own; with the others it is in the session of the server's process.

Servers that give no addresses, as those of Go's library, may have one process for all connections.  There a command is
known by its text, which is an argument of the shell, or the end of which a shell became, and by its start: nothing else
that the server started at about that time may come into question.

Other users of the host can give their processes any name, arguments and environment.  So the shell sends nothing that
a process can choose: it compares, and answers with numbers.  No I/O here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

#: The command that starts a POSIX shell, which reads our lines, from any login shell.
SHELL = b"exec /bin/sh"
#: The same where the lines come from a terminal, to which a shell would write prompts, and repeat what it reads.
SHELL_BESIDE_TERMINAL = b"cat | /bin/sh"

#: Bytes that are kept of a line. Ours are shorter: a longer one has another source.
MAX_LINE = 256

#: Ticks (of 10 ms, as on all Linux) by which the start of a process may differ from that of the command.
NEAR = 200

#: Defines ``leaders`` and ``hit SIGNAL PID START SESSION``, after what `script` sets: ``n``, the mark of our lines;
#: ``w``, the arguments of a shell that runs the command; ``p``, the client's port of the command's connection, or
#: nothing where it is the shell's own; ``age``, ticks from the start of the command to that of our shell.  Only what
#: every Linux has: a shell, /proc, grep, tr, sed.
#:
#: proc(5): after the command name, which may hold anything, "state ppid pgrp session … starttime" (the 20th of these).
#: The name has 15 bytes, so 60 digits in a row are none of it.
#:
#: A leader has our user's ids only: a setuid program has the arguments and the environment that its caller gave it. It
#: leads its session, or is in that of the server's process, which its parent or our shell tells.
#: Its parent is our own, or on another connection a process like that: by ids, name and, where one may look, program.
#: ``m`` is the variable with the addresses (``a``). One that the server itself inherited, as from the login of who
#: started it, says nothing.
#: A number of a process or session may be given away again; start times tell whether it was. A session's is not
#: while any of its processes, known from before (``h``), is left. In a session that it shares with others, what
#: descends from the command belongs to it; what lost its parent there could be anybody's, and leaves a doubt.
_SCRIPT = rb"""h= e='
'
LC_ALL=C
export LC_ALL
st() {
s=
while IFS= read -r r; do s=$s$r; done </proc/$1/stat || return
set -- ${s##*\) }
z=$1 q=$2 g=$3 y=$4 t=${20}
[ "$t" ]
}
ids() {
u=
while IFS= read -r r; do case $r in Uid:*) u=$r;; esac; done </proc/$1/status
[ "$u" ]
}
like() {
ids $PPID && v=$u && ids $1 && [ "$u" = "$v" ] && st $PPID && c=${s%\)*} && st $1 && s=${s%\)*} &&
[ "${s#*\(}" = "${c#*\(}" ] && { [ ! -e /proc/$PPID/exe ] || [ /proc/$1/exe -ef /proc/$PPID/exe ]; }
}
given() {
tr '\0\n' '\n ' </proc/$1/environ | sed -n "s/^$m=//p"
}
near() {
d=$((b - t - age))
[ $d -ge -NEAR ] && [ $d -le NEAR ]
}
leads() {
[ $1 != $$ ] && [ $PPID -gt 1 ] && [ -O /proc/$1 ] && st $1 && [ $y -gt 1 ] || return
case $z in [ZX]) return 1;; esac
[ $1 = $y ] || [ $q = $y ] || [ $y = $ours ] || return
[ "$m" ] || near || return
l="$1 $y $t"
ids $$ && v=$u && ids $1 && [ "$u" = "$v" ] || return
[ $q = $PPID ] || { [ "$p" ] && like $q; } || return
[ -z "$m" ] || [ "$(given $1)" = "$a" ]
}
leaders() {
st $$
b=$t ours=$y m= o=child
set -- $SSH_CONNECTION
case $2 in [1-9]*) m=SSH_CONNECTION a="$1 ${p:-$2} $3 $4";; *)
set -- $SSH_CLIENT
case $2 in [1-9]*) m=SSH_CLIENT a="$1 ${p:-$2} $3";; esac;;
esac
if [ "$m" ]; then
o=leader
eval "c=\$$m"
[ "$(given $PPID)" != "$c" ] || m= o=child
fi
if [ "$m" ] && [ "$p" ]; then f=$(grep -l "$m=$a" /proc/[0-9]*/environ)
elif [ "$p" ]; then f=$(echo /proc/[0-9]*)
else f=$(grep -l ") . $PPID [-0-9 ]\{60,\}\$" /proc/[0-9]*/stat); fi
for i in $f; do
i=${i#/proc/} i=${i%/*}
leads $i || continue
c=$(tr '\0\n' '\n ' </proc/$i/cmdline)
s=$(tr '\0\n' '  ' </proc/$i/cmdline)
case ${c#*"$e"} in "$w") c=same;; -c"$e"*) c=shell;; *)
case $w in *[\;\&\ "$e"]"${s% }") c=tail;; *) c=program;; esac;;
esac
echo "
$n $o $l $c"
done
echo "
$n end"
} 2>/dev/null
grow() {
a=1
while [ $a = 1 ]; do
a=0
for i in $x; do case "$o " in *" ${i%:*} "*) ;; *" ${i##*:}:"*) o="$o ${i%:*}" a=1;; esac; done
done
}
hit() {
[ "$h" ] || { h=" $2:$3" j=; st $2 && [ $t = $3 ] && j=$q; }
x= k= o=
for i in $(grep -l ") . [0-9]* [0-9]* $4 [-0-9 ]\{60,\}\$" /proc/[0-9]*/stat); do
i=${i#/proc/} i=${i%/*}
st $i && [ $y = $4 ] && [ $i != "$j" ] && { [ $i != $4 ] || [ $2 = $4 ]; } || continue
case $z in [ZX]) continue;; esac
x="$x $i:$t:$q"
case "$h " in *" $i:$t "*) k="$k $i:$t";; esac
done
if [ $2 = $4 ]; then
for i in $x; do o="$o ${i%:*}"; done
[ "$k" ] || [ -z "$o" ] || o=lost
d=$o
else
o=$k; grow; d=$o
o=" $4:0 $j:0"; grow; f="$o$d "; o=$d
for i in $x; do case "$f" in *" ${i%:*} "*) ;; *) d="$d ${i%:*}";; esac; done
fi
case $o in lost) echo "
$n lost"; return;; esac
c=
[ $1 = 0 ] || for i in $o; do
st ${i%:*} && [ $y:$t = $4:${i#*:} ] || continue
if [ $2:$g != $4:$4 ]; then kill -s $1 ${i%:*}
elif [ -z "$c" ]; then c=1; kill -s $1 -- -$4; fi
done
h=$o
set -- $d
echo "
$n left $#"
} 2>/dev/null
""".replace(b"NEAR", b"%d" % NEAR)

_LEADER = re.compile(rb"(leader|child) (\d{1,10}) (\d{1,10}) (\d{1,20}) (same|shell|tail|program)")


def script(mark: str, command: bytes, client_port: int | None, age: float) -> bytes:
    """
    The script that the shell reads first; the shell answers with a listing.

    :param mark: begins each line of its answers; nobody on the host can guess it.
    :param command: as it was sent.
    :param client_port: of the command's connection, where the shell runs on another one; ``None``: on the same.
    :param age: seconds since the command was sent.
    """
    # The shell sees ends of arguments as ends of lines, and ends of lines as blanks.
    arguments = b"-c\n" + command.replace(b"\n", b" ").replace(b"\0", b"")
    quoted = arguments.replace(b"'", b"'\\''")
    port = b"" if client_port is None else b"%d" % client_port
    values = mark.encode("ascii"), port, round(100 * age), quoted
    return b"unset n w p age\nn=%s p=%s age=%d w='%s'\n%s%s" % (*values, _SCRIPT, LIST)


def script_to_signal(mark: str) -> bytes:
    """The same script for a shell that is only to signal processes that are known (`Leader.hit`)."""
    return b"unset n w p age\nn=%s p= age=0 w=\n%s" % (mark.encode("ascii"), _SCRIPT)


#: The line that asks for a listing: ``leader PID SESSION START WHAT`` for each process that a command of the
#: connection began with, or ``child …`` for each that the server started at the time of the command, whatever the
#: connection; then ``end``.
LIST = b"leaders\n"


class ShellAnswers:
    """
    Finds our lines in the output of the shell, to which login scripts, and what they left running, may write as well.

    :param mark: see `script`.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode("ascii") + b" "
        self._line = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their mark."""
        first, *others = data.split(b"\n")
        lines = [self._line + first, *others]
        # A line that is too long is none of ours, whatever its rest is.
        self._line = lines.pop()[:MAX_LINE]
        size = len(self._mark)
        return [line[size:] for line in lines if line.startswith(self._mark) and len(line) < MAX_LINE]


class Leader(Struct, frozen=True):
    """
    The process that a command began with.

    :ivar session: number of its session (POSIX), by which its children are known too.
    :ivar start: clock ticks from the host's start to the process's.
    :ivar what: a shell that runs the ``same`` command as the one looked for, a ``shell`` that runs another one, or a
        ``program``, which a shell may have become for the last part of its command. The arguments of a ``tail`` are
        the end of the command looked for.
    :ivar here: whether it is known to be of the command's connection.
    """

    pid: int
    session: int
    start: int
    what: str
    here: bool = True

    def may_run(self, command: bytes, wanted: bytes) -> bool:
        """
        Whether this may be the process of *command*.

        :param wanted: the command that the listing was made for.
        """
        return self.what in ("program", "tail") or (self.what == "same") == (command == wanted)

    def hit(self, signal: str) -> bytes:
        """
        The line that sends a signal to all processes of the command.

        :param signal: without ``SIG``; ``0`` only looks.
        :return: what the shell answers with ``left N``: how many processes there were; or with ``lost``: none that is
            known from before, and others that may belong to somebody else by now, which got no signal.
        """
        return b"hit %s %d %d %d\n" % (signal.encode("ascii"), self.pid, self.start, self.session)


def find(
    leaders: Sequence[Leader], command: bytes, place: int, commands: Sequence[bytes], elsewhere: Sequence[bytes] = ()
) -> Leader | None:
    """
    Find the process of one command.

    :param leaders: what `parse_listing` read.
    :param command: as it was sent; the listing was made for it.
    :param place: its place among *commands*.
    :param commands: all that may be running on its connection, in the order in which they were sent; without the
        shell that listed.
    :param elsewhere: all that may be running on other connections to the host.
    :return: ``None`` in case of any doubt.
    """
    if not all(leader.here for leader in leaders):
        # What is at its end already may have been another command with the same text.
        candidates = [leader for leader in leaders if leader.what != "shell"]
        alone = [*commands, *elsewhere].count(command) == 1
        return candidates[0] if alone and len(candidates) == 1 and candidates[0].what != "program" else None
    here = sorted(leaders, key=lambda leader: (leader.start, leader.pid))
    if len(here) == len(commands) and all(map(Leader.may_run, here, commands, [command] * len(here))):
        return here[place]
    running = [leader for leader in here if leader.what == "same"]
    if len(running) == 1 and commands.count(command) == 1:
        return running[0]
    return None


def parse_listing(lines: Sequence[bytes]) -> list[Leader] | None:
    """
    Read what ``leaders`` wrote.

    :return: ``None`` when the lines make no sense.
    """
    leaders = []
    for line in lines:
        found = _LEADER.fullmatch(line)
        if found is None:
            return None
        pid, session, start = map(int, found.group(2, 3, 4))
        leader = Leader(pid, session, start, what=found[5].decode("ascii"), here=found[1] == b"leader")
        if leader.pid < 2 or leader.session < 2:  # to kill(2) such a number means all processes
            return None
        leaders.append(leader)
    return leaders
