"""
The texts for the host by which a command runs as another user: sudo or su starts a shell, which reads the command.

Neither the password nor the command is in an argument or a variable, which sudo would log and other users could see:
both go by the session's input, the command only when its user is there. No I/O here.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from msgspec import Struct

from relayd.ssh.channels.surroundings import quoted

#: How a command becomes another user.
Method = Literal["sudo", "su"]

#: Bytes of a line of the command as it is sent: a terminal takes 4,095.
_LINE: Final = 1000
#: Not in a line as it is: printf(1) would read it.
_ESCAPED = re.compile(rb"[\\\n\r\x00-\x08\x0b-\x1f\x7f]")


class Become(Struct, frozen=True, kw_only=True):
    """
    As whom a command runs.

    :ivar user: the name of an account of the host.
    :ivar password: for sudo that of the user who logs in, for su that of *user*; ``None``: none is needed.
    """

    method: Method = "sudo"
    user: str = "root"
    password: bytes | None = None

    def __repr__(self) -> str:
        return f"Become({self.method} {self.user!r})"


#: What the login shell starts: a shell that says so, and becomes ``sudo`` or ``su``. The texts that it writes are put
#: together here, so that a shell that repeats its input, as some do in an error, does not seem to have come so far.
#: What sudo and su say is read here, so they speak English; the command gets its own language back.
_START: Final = (
    "relayd_l=${LC_ALL+x} relayd_v=$LC_ALL LC_ALL=C; export LC_ALL; relayd_n=%(nonce)s; "
    'echo "relayd:$relayd_n:start;" >&2; '
    'command -v %(method)s >/dev/null || { echo "relayd:$relayd_n:missing;" >&2; exit 127; }; '
    "exec %(program)s"
)
_PROGRAMS: Final[dict[str, str]] = {
    # Of its own accord, sudo logs the name of the shell and the numbers.
    "sudo": 'sudo -H %(how)s -u %(user)s -- /bin/sh -c %(reader)s sh "$relayd_n" $$ "$relayd_l" "$relayd_v"',
    "su": 'su -s /bin/sh -c %(reader)s -- %(user)s sh "$relayd_n" $$ "$relayd_l" "$relayd_v"',
}
#: Without a password sudo is not to ask at all: a question that gets no answer may count as a wrong one.
_NEVER_ASK: Final = "-n"
_ASK_INPUT: Final = '-S -p "relayd:$relayd_n:password;"'
_ASK_TERMINAL: Final = '-p "relayd:$relayd_n:password;"'

#: Reads the command, as the other user. It says when it is ready, with what the command's processes are known by: a
#: process, its session, and clock ticks until it began. It is the session's leader where the session is the command's
#: own:
#: where the shell that was started at first leads it, or sudo or su made it; else the first process stands for all.
_READER: Final = (
    "case $3 in x) LC_ALL=$4; export LC_ALL;; *) unset LC_ALL;; esac; "
    "relayd_n=$1 relayd_o=$2; "
    'relayd_stat() { relayd_s=; while IFS= read -r relayd_i; do relayd_s="$relayd_s$relayd_i"; done </proc/$1/stat '
    "|| return; set -- ${relayd_s##*\\) }; relayd_q=$2 relayd_y=$4 relayd_t=${20}; }; "
    'relayd_l=; { relayd_stat $$ && relayd_l="$$ $relayd_y $relayd_t" && [ $relayd_y != $$ ] && '
    "relayd_stat $relayd_y && { [ $relayd_y = $relayd_o ] || [ $relayd_q = $relayd_o ]; } && "
    'relayd_l="$relayd_y $relayd_y $relayd_t"; } 2>/dev/null; '
    'echo "relayd:$relayd_n:ready $relayd_l;" >&2; '
    # A command that did not come as a whole is not run.
    "relayd_c= relayd_s=1; while IFS= read -r relayd_i; do "
    'case $relayd_i in "") relayd_s=; break;; esac; relayd_c="$relayd_c$relayd_i"; done; [ -z "$relayd_s" ] || exit 1; '
    'set --; eval "unset relayd_n relayd_o relayd_s relayd_i relayd_q relayd_y relayd_t relayd_l relayd_c; '
    'unset -f relayd_stat; $(printf %b "$relayd_c")"'
)


def start_text(become: Become, nonce: str, *, on_terminal: bool) -> bytes:
    """
    The text for the login shell.

    :param nonce: in all that is written before the command.
    """
    how = _NEVER_ASK
    if become.password is not None:
        how = _ASK_TERMINAL if on_terminal else _ASK_INPUT
    user = quoted(become.user.encode("utf-8").decode("latin-1"))
    program = _PROGRAMS[become.method] % {"how": how, "user": user, "reader": quoted(_READER)}
    script = _START % {"nonce": quoted(nonce), "method": become.method, "program": program}
    return b"exec /bin/sh -c " + quoted(script).encode("latin-1")


def for_reader(text: bytes) -> bytes:
    """The command as the reader takes it: lines, and an empty one. What follows them is the command's own input."""
    written = _ESCAPED.sub(_escape, text)
    lines = (written[at : at + _LINE] for at in range(0, len(written), _LINE))
    return b"".join(b"%s\n" % line for line in lines) + b"\n"


def _escape(found: re.Match[bytes]) -> bytes:
    return b"\\0%03o" % found[0][0]
