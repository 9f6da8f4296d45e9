"""
What hosts in memory do, well or badly, and what they are asked to do.
"""

from __future__ import annotations

import enum
from enum import Enum

from msgspec import Struct


class Misbehaviour(Enum):
    """
    How a host fails.  The value is the code of the error that a client then gives (`relayd.ssh.SSHError.code`).

    Wrong credentials (``login-refused``), unknown names (``name-not-found``) and a new host key (``host-key-changed``)
    need no misbehaviour.
    """

    # TCP
    REFUSES_CONNECTIONS = "connect-refused"
    UNREACHABLE = "unreachable"
    DOES_NOT_ANSWER = "connect-timeout"
    # Key exchange
    IS_SILENT = "key-exchange-timeout"
    SPEAKS_HTTP = "not-ssh"
    HANGS_UP = "connection-dropped"
    HAS_OLD_CIPHERS = "no-common-algorithm"
    # Login
    STALLS_LOGINS = "login-timeout"
    CLOSES_LOGINS = "login-closed"
    WANTS_NEW_PASSWORD = "password-expired"
    # Session
    REFUSES_SESSIONS = "session-refused"
    REFUSES_COMMANDS = "exec-refused"
    # Run
    DROPS_COMMANDS = "outcome-unknown"
    GIVES_NO_STATUS = "no-exit-status"
    NEVER_ENDS = "timeout"


class Habit(Enum):
    """
    What a host does in its own way, though it works: a client learns it, and runs its commands all the same.
    """

    REFUSES_SECOND_COMMAND = enum.auto()
    REFUSES_SECOND_SESSION = enum.auto()
    IGNORES_SECOND_SESSION = enum.auto()  # while the first is open
    CLOSES_WITH_ANY_SESSION = enum.auto()
    CLOSES_INSTEAD_OF_SESSION = enum.auto()  # TCP closes after the exit status
    IGNORES_PROBES = enum.auto()
    SENDS_IGNORE = enum.auto()  # when it is probed
    SENDS_UNIMPLEMENTED = enum.auto()  # in answer to probes


class Reply(Struct, frozen=True, kw_only=True):
    """
    What comes of a command.

    :ivar after: seconds until the command ends; its output comes at once.
    """

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    after: float = 0.0


class ReceivedCommand(Struct, kw_only=True):
    """
    A command that a host was asked to run.

    :ivar stdin: what has arrived of its standard input.
    :ivar env: the variables that came with it.
    :ivar signals: the names of the signals that were sent to it, such as ``TERM``.
    """

    username: str
    command: bytes
    env: dict[str, bytes]
    stdin: bytes = b""
    signals: list[str] = []
