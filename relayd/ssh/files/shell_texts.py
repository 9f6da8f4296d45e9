"""
The texts by which a POSIX shell writes and reads files, where a host has no SFTP or a command is another user's.

What is written goes by the shell's input, in lines that a terminal passes on, too, as a script does
(`relayd.ssh.channels.scripts`): no path and no content is in an argument. No I/O here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from relayd.ssh.channels.scripts import script_lines
from relayd.ssh.channels.surroundings import quoted
from relayd.ssh.files.orders import FileToRead, FileToWrite, beside

#: A path as it was sent: its escapes are read, and its tilde is the home directory.
_PATH: Final = 'relayd_p=$(printf %b "$relayd_p"); case $relayd_p in "~/"*) relayd_p=$HOME/${relayd_p#"~/"};; esac; '
#: ``$@`` has what is in place beside its goal, and that goal, for each file; the trap removes what is left of it.
_WRITER: Final = (
    "IFS= read -r relayd_n || exit 1; umask 077; set -Cf; relayd_t= relayd_i=0 relayd_e=; "
    'relayd_rm() { [ -z "$relayd_t" ] || rm -f "$relayd_t"; while [ $# -gt 1 ]; do rm -f "$1"; shift 2; done; }; '
    'relayd_say() { echo "relayd:$relayd_n:$1"; }; relayd_no() { relayd_say "no $1"; exit 1; }; '
    "trap 'relayd_rm \"$@\"' 0; trap 'exit 1' HUP INT TERM PIPE; relayd_say begin; "
    "while IFS= read -r relayd_m; do "
    "case $relayd_m in end) relayd_e=1; break;; esac; "
    "IFS= read -r relayd_z && IFS= read -r relayd_c && IFS= read -r relayd_r && IFS= read -r relayd_p || exit 1; "
    'relayd_i=$((relayd_i + 1)); relayd_say "file $relayd_i"; '
    + _PATH
    + '[ ! -e "$relayd_p" ] || [ -f "$relayd_p" ] || relayd_no kind; '
    "relayd_t=${relayd_p%/*}/$relayd_r; relayd_x=1; "
    # At no time can somebody read the content who may not.
    '{ chmod "$relayd_m" "$relayd_t" || exit 1; '
    "while IFS= read -r relayd_l; do "
    'case $relayd_l in "") relayd_x=; break;; esac; printf %b "$relayd_l" >&3 || exit 1; done; '
    '[ -z "$relayd_x" ] || exit 1; '
    'dd if=/dev/null conv=notrunc,fsync >&3 2>/dev/null; :; } 3>"$relayd_t" || exit 1; '
    '[ "$(set -- $(ls -lnd "$relayd_t"); echo "$5")" = "$relayd_z" ] || relayd_no size; '
    'if [ "$relayd_c" != - ]; then '
    'if command -v sha256sum >/dev/null; then relayd_h=$(sha256sum <"$relayd_t"); '
    'elif command -v shasum >/dev/null; then relayd_h=$(shasum -a 256 <"$relayd_t"); '
    'elif command -v openssl >/dev/null; then relayd_h=$(openssl dgst -sha256 <"$relayd_t"); '
    "else relayd_no tool; fi; "
    "case $relayd_h in *$relayd_c*) ;; *) relayd_no sum;; esac; fi; "
    'set -- "$@" "$relayd_t" "$relayd_p"; relayd_t=; '
    'done; [ "$relayd_e" ] || exit 1; relayd_i=0; '
    'while [ $# -gt 1 ]; do relayd_i=$((relayd_i + 1)); relayd_say "file $relayd_i"; '
    # mv(1) would put it into a directory.
    '[ ! -d "$2" ] || relayd_no kind; mv -f "$1" "$2" || exit 1; shift 2; done; relayd_say done'
)
_READER: Final = (
    "IFS= read -r relayd_n && IFS= read -r relayd_b || exit 1; set -f; exec 4>&1; "
    "relayd_say() { printf '%s\\n' \"relayd:$relayd_n:$1\"; }; relayd_say begin; "
    "if command -v base64 >/dev/null; then relayd_code() { base64; }; relayd_say base64; "
    "elif command -v od >/dev/null; then relayd_code() { od -An -v -tx1; }; relayd_say hex; "
    "elif command -v hexdump >/dev/null; then "
    'relayd_code() { hexdump -v -e \'16/1 "%02x" "\\n"\'; }; relayd_say hex; '
    "else relayd_say tool; exit 1; fi; "
    'if head -c 1 </dev/null 2>/dev/null; then relayd_head() { head -c "$1" "$2"; }; '
    'else relayd_head() { dd if="$2" bs=1024 count=$(($1 / 1024 + 1)) 2>/dev/null; }; fi; '
    "while IFS= read -r relayd_z; do "
    "case $relayd_z in end) relayd_say done; exit 0;; esac; IFS= read -r relayd_p || exit 1; relayd_say file; "
    + _PATH
    + 'relayd_w=$(ls -lndL "$relayd_p" 2>&1) || { relayd_say "words $relayd_w"; continue; }; '
    '[ -f "$relayd_p" ] || { relayd_say kind; continue; }; '
    'set -- $relayd_w; relayd_say "size $5"; relayd_say content; '
    # One byte more shows that there is more.
    "[ $relayd_z -le $((relayd_b + 1)) ] || relayd_z=$((relayd_b + 1)); "
    "[ $5 -lt $relayd_z ] && relayd_b=$((relayd_b - $5)) || relayd_b=$((relayd_b - relayd_z + 1)); "
    'relayd_w=$( { relayd_head "$relayd_z" "$relayd_p" | relayd_code >&4; } 2>&1 ); echo; relayd_say end; '
    '[ -z "$relayd_w" ] || relayd_say "words $relayd_w"; '
    "done; exit 1"
)

#: Not in a line as it is: printf(1) would read it, or a terminal.
_ESCAPED: Final = re.compile(rb"[\\\x00-\x1f\x7f]")


def _start(text: str) -> bytes:
    return f"exec /bin/sh -c {quoted(text)}".encode("ascii")


#: What the login shell gets.
WRITER: Final = _start(_WRITER)
READER: Final = _start(_READER)


def _path(path: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: b"\\0%03o" % found[0][0], path)


def writer_lines(nonce: str, writes: Sequence[FileToWrite]) -> bytes:
    """What `WRITER` reads."""
    lines = [b"%s\n" % nonce.encode("ascii")]
    for file in writes:
        checksum = file.sha256 or "-"
        beside_it = beside(b"/x").rpartition(b"/")[2]
        lines += (
            b"%04o\n%d\n%s\n%s\n" % (file.mode, len(file.content), checksum.encode("ascii"), beside_it),
            b"%s\n" % _path(file.path),
            script_lines(file.content),
        )
    return b"".join((*lines, b"end\n"))


def reader_lines(nonce: str, reads: Sequence[FileToRead], most: int) -> bytes:
    """
    What `READER` reads.

    :param most: bytes of all together; of each, one more is read.
    """
    lines = [b"%s\n%d\n" % (nonce.encode("ascii"), most)]
    lines += (b"%d\n%s\n" % (file.most + 1, _path(file.path)) for file in reads)
    return b"".join((*lines, b"end\n"))
