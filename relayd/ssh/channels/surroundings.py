"""
The text before a command that brings a directory or variables: the login shell does all of it, or does not reach the
command, and its output shows how far it came.

The shell is not known: sh, bash, dash, ksh, mksh, zsh, busybox, fish, csh and tcsh read the same text.  The login shell
itself runs the command, which so means the same with and without a directory.  No I/O here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from relayd.ssh.errors import DirectoryUnusable, ShellUnsuitable, SSHError, VariablesRefused

_HOME = re.compile(r"~[A-Za-z0-9._-]*/?")
_PLAIN = re.compile(r"[A-Za-z0-9_./:,+@%-]+")
_SPECIAL = re.compile(r"([\\'!])")

#: Follows what may fail. In a list, csh ignores ``exit``; a restricted shell has no ``exec``.
_STOP: Final = " || exit 1 || exec /bin/sh -c false ; "
#: Stops shells of other kinds: cmd.exe finds no such file, and PowerShell cannot read ``<``, so neither runs anything.
_GATE: Final = "true </dev/null && "

# Each family of shells counts backslashes in its own way. Each of these tests is true in all families but one.
#: csh: within double quotes a backslash is no escape.
_NOT_CSH: Final = r'test "\\" = \\'
#: fish: within single quotes a backslash is one.
_NOT_FISH: Final = r"test '\\' != \\"
#: What follows POSIX: there alone these are one and two.
_NOT_POSIX: Final = r"""test "\\" = '\\'"""

#: After some mistakes csh gives up the line but goes on with the next one, which therefore begins with a check.
_SET_READY: Final = f"{_NOT_CSH} || set relayd_ready"
_CHECK_READY: Final = f"{_NOT_CSH} || eval 'test $?relayd_ready = 1'{_STOP}"

#: Sets a variable and checks it: bash accepts a value for ``GROUPS`` or ``RANDOM`` and ignores it.
_SET: Final = (
    'relayd_set() { export "$1=$2" && eval "test \\"x\\$$1\\" = \\"x\\$2\\"" || '
    '{ echo "$1: the shell keeps its own value" >&2; return 1; }; }'
)

#: A variable with a line feed, for values: within quotes, csh would end the command there.
_NEWLINE: Final = "relayd_newline"


class Progress:
    """
    Watches the output of a command for the marks that are written before it, and takes them out.

    :param mark: written after each stage.
    :param stages: for each stage in order, the error that its missing mark means.
    """

    __slots__ = ("_held", "_mark", "_stages")

    def __init__(self, mark: bytes, stages: Sequence[type[SSHError]]) -> None:
        self._mark = mark
        self._stages = list(stages)
        self._held = b""

    def on_terminal(self) -> None:
        """The host makes CR LF of each end of a line."""
        if not self._mark.endswith(b"\r\n"):
            self._mark = self._mark.removesuffix(b"\n") + b"\r\n"

    @property
    def missing(self) -> type[SSHError] | None:
        """The error of the first stage without a mark; ``None`` when the shell has reached the command."""
        return self._stages[0] if self._stages else None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the output; gives the bytes that are no mark, with those held back before."""
        if not self._stages:
            return data
        data, self._held = self._held + data, b""
        passed = b""
        while self._stages:
            before, mark, after = data.partition(self._mark)
            if not mark:
                # A mark may be cut anywhere: the longest end that may be the start of one is held back.
                size = next(size for size in range(len(self._mark) - 1, -1, -1) if data.endswith(self._mark[:size]))
                self._held = data[len(data) - size :]
                return passed + data[: len(data) - size]
            passed += before
            data = after
            del self._stages[0]
        return passed + data

    def rest(self) -> bytes:
        """Nothing more comes; gives what was held back as the possible start of a mark."""
        rest, self._held = self._held, b""
        return rest


def surround(
    command: bytes, cwd: bytes, directory: bytes, env: Sequence[tuple[str, bytes]]
) -> tuple[bytes, Progress | None]:
    """
    Make the text for the login shell.

    It works on bytes: in some character sets the byte of a backslash can be part of a character. A shell that is set to
    another character set takes it for a backslash, and so it is quoted as one.

    :param cwd: the command runs there, or not at all; may be empty.
    :param directory: without *cwd*, the command runs there if it can, and else in the home directory. Empty: it runs in
        the home directory, and *env* is not part of the text.
    :return: with it, what finds out whether the shell has reached the command; ``None`` where nothing can stop it.
    """
    if not cwd and not (env and directory):
        # As the specification's example relay does, to the byte.
        if directory:
            command = _change_directory(directory) + command
        return command, None
    text, progress = _before(_bytewise(cwd), _bytewise(directory), [(name, _bytewise(value)) for name, value in env])
    return text.encode("latin-1") + command, progress


@lru_cache(maxsize=16)  # it is a setting of the relay, in a few character sets
def _change_directory(directory: bytes) -> bytes:
    return f"cd {_quoted_directory(_bytewise(directory))} ; ".encode("latin-1")


def _bytewise(data: bytes) -> str:
    """One character for each byte."""
    return data.decode("latin-1")


def _before(cwd: str, directory: str, env: Sequence[tuple[str, str]]) -> tuple[str, Progress]:
    nonce = secrets.token_hex(8)
    # Made of two words, so that a host that repeats its input, as some do in an error, does not seem to have run it.
    tell = f"echo relayd:'{nonce}'"
    text = f"{_GATE}{tell}{_STOP}"
    stages: list[type[SSHError]] = [ShellUnsuitable]
    if cwd:
        text += f"cd {_quoted_directory(cwd)}{_STOP}{tell}{_STOP}"
        stages.append(DirectoryUnusable)
    else:
        text += f"cd {_quoted_directory(directory)} ; "
    path: list[tuple[str, str]] = []
    if env:
        # In csh, ``test`` is a program, which a new PATH may hide: that comes last.
        path = [variable for variable in env if variable[0] == "PATH"]
        others = [variable for variable in env if variable[0] != "PATH"]
        text += f"{_posix(env)}{_fish(env)}{_csh(others)}{tell}{_STOP}"
        stages.append(VariablesRefused)
    # The last mark: a shell that gives up before it, as that of Plan 9 and ``tcsh -e``, has not reached the command.
    text += f"{_SET_READY}\n{_CHECK_READY}{_csh(path)}{tell}{_STOP}".removesuffix(" ; ")
    stages.append(ShellUnsuitable)
    # The command has a line of its own: most shells read it only then, and report its mistakes as usual.
    return f"{text}\n", Progress(f"relayd:{nonce}\n".encode("ascii"), stages)


def _posix(env: Sequence[tuple[str, str]]) -> str:
    orders = [_SET, *(f"relayd_set {name} {_with_newlines(value)}" for name, value in env), "unset -f relayd_set"]
    if any("\n" in value for _, value in env):
        newline = f'{_NEWLINE}=$(printf "\\nx") && {_NEWLINE}=${{{_NEWLINE}%x}}'
        orders = [newline, *orders, f"unset {_NEWLINE}"]
    return f"{_NOT_POSIX} || eval {quoted(' && '.join(orders))}{_STOP}"


def _with_newlines(value: str) -> str:
    return f'"${_NEWLINE}"'.join(quoted(line) for line in value.split("\n"))


def _fish(env: Sequence[tuple[str, str]]) -> str:
    # ``set`` leaves the status as it finds it unless it fails; fish's own ``export`` drops values of several lines.
    orders = (f"; and set -gx {name} " + r"\n".join(map(quoted, value.split("\n"))) for name, value in env)
    return f"{_NOT_FISH} || eval {quoted('true' + ''.join(orders))}{_STOP}"


def _csh(env: Sequence[tuple[str, str]]) -> str:
    return "".join(
        f"{_NOT_CSH} || setenv {name} " + "'\\\n'".join(map(quoted, value.split("\n"))) + _STOP for name, value in env
    )


def _quoted_directory(path: str) -> str:
    """A path for the shell, with its tilde not quoted, so that the shell expands it."""
    home = _HOME.match(path)
    if home is None:
        return quoted(path)
    rest = path[home.end() :]
    return home[0] + (quoted(rest) if rest else "")


def quoted(text: str) -> str:
    """
    A word that all shells read as *text*, which has one line.

    It is in single quotes, except for the backslash (special to fish there), ``!`` (to csh), and the quote itself.
    """
    if _PLAIN.fullmatch(text):
        return text
    pieces = (f"\\{piece}" if piece in ("\\", "'", "!") else f"'{piece}'" for piece in _SPECIAL.split(text) if piece)
    return "".join(pieces) or "''"
