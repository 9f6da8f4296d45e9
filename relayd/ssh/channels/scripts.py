"""
The text for the login shell that runs a script: a POSIX shell reads the script, and gives it to an interpreter.

The interpreter gets a file that has no name any more when the first byte is written to it: nothing is left of it,
however the script ends. The script comes by the session's input, in lines that a terminal passes on, too; after it
comes the script's own input. No I/O here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Final

from relayd.ssh.channels.surroundings import Progress, quoted
from relayd.ssh.errors import ScriptNotStarted, SSHError

#: Bytes of the script in a line: a terminal takes 4,095, and five may stand for one.
_PIECE: Final = 800
#: Not in a line as it is: printf(1) would read it, or a terminal.
_ESCAPED: Final = re.compile(rb"[\\\x00-\x1f\x7f]")

_READER: Final = (
    "relayd_u=$(umask); umask 077; set -C; "
    'for relayd_d in "${TMPDIR:-/tmp}" /tmp /var/tmp /dev/shm "$HOME"; do relayd_f=$relayd_d/.relayd-%(nonce)s; '
    '( : >"$relayd_f" ) 2>/dev/null && break; relayd_f=; done; '
    '[ "$relayd_f" ] || { echo "no directory for temporary files may be written to" >&2; exit 1; }; '
    'exec 3>>"$relayd_f" 4<"$relayd_f"; rm -f "$relayd_f"; set +C; umask "$relayd_u"; '
    # A script that did not come as a whole is not run.
    "relayd_s=1; while IFS= read -r relayd_i; do "
    'case $relayd_i in "") relayd_s=; break;; esac; printf %%b "$relayd_i" >&3 || exit 1; done; '
    '[ -z "$relayd_s" ] || exit 1; exec 3>&-; echo relayd:%(mark)s; '
    'relayd_p=$1; shift; exec "$relayd_p" /dev/fd/4 "$@"'
)


class ScriptProgress(Progress):
    """
    Watches for the mark of a script, after those of what is before it.

    :param before: watches for these; ``None``: there is nothing before it.
    """

    __slots__ = ("_before",)

    def __init__(self, before: Progress | None, mark: bytes) -> None:
        super().__init__(mark, [ScriptNotStarted])
        self._before = before

    def on_terminal(self) -> None:
        """See `Progress`, for this and the following methods."""
        super().on_terminal()
        if self._before is not None:
            self._before.on_terminal()

    @property
    def missing(self) -> type[SSHError] | None:
        return (None if self._before is None else self._before.missing) or super().missing

    def feed(self, data: bytes) -> bytes:
        return super().feed(data if self._before is None else self._before.feed(data))

    def rest(self) -> bytes:
        before = b"" if self._before is None else self._before.rest()
        return super().feed(before) + super().rest()


def script_text(interpreter: bytes, args: Sequence[bytes]) -> tuple[bytes, bytes]:
    """
    The text for the login shell, and the mark for `ScriptProgress`.

    :param interpreter: a program; its first argument is the script.
    :param args: of the script; one line each.
    """
    nonce = secrets.token_hex(16)
    # Of two words, so that a host that repeats its input does not seem to have run it.
    reader = _READER % {"nonce": nonce, "mark": f"'{nonce}'"}
    words = (reader, "sh", *(word.decode("latin-1") for word in (interpreter, *args)))
    return f"exec /bin/sh -c {' '.join(map(quoted, words))}".encode("latin-1"), b"relayd:%s\n" % nonce.encode("ascii")


def script_lines(script: bytes) -> bytes:
    """The script as it is sent before the input of its own."""
    pieces = (script[at : at + _PIECE] for at in range(0, len(script), _PIECE))
    lines = (_ESCAPED.sub(lambda found: b"\\0%03o" % found[0][0], piece) for piece in pieces)
    return b"".join(b"%s\n" % line for line in lines) + b"\n"
