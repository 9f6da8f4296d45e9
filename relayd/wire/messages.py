"""
The messages of the protocol as frozen values; `relayd.wire.parsing` reads them from what arrives.

Source: the specification's "execute_command", "command_result" and "command_result_received"; see docs/protocol.rst.
"""

from __future__ import annotations

from base64 import b64encode
from enum import Enum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import astuple, force_setattr

from relayd.wire import field_types
from relayd.wire.files import Fetch as Fetch  # noqa: PLC0414 -- programs import these from here
from relayd.wire.files import Fetched as Fetched  # noqa: PLC0414
from relayd.wire.files import File as File  # noqa: PLC0414
from relayd.wire.files import length_of
from relayd.wire.running import Become as Become  # noqa: PLC0414 -- and these
from relayd.wire.running import Pty as Pty  # noqa: PLC0414
from relayd.wire.running import Script as Script  # noqa: PLC0414
from relayd.wire.running import Timings as Timings  # noqa: PLC0414
from relayd.wire.secret import Secret as Secret  # noqa: PLC0414 -- programs import it from here
from relayd.wire.secret import as_secret

EXECUTE_COMMAND = "execute_command"
COMMAND_RESULT = "command_result"
COMMAND_RESULT_RECEIVED = "command_result_received"
# extensions
CANCEL_COMMAND = "cancel_command"
COMMAND_STATUS = "command_status"
COMMAND_OUTPUT = "command_output"
RELAY_INFO = "relay_info"
CHECK_COMMAND = "check_command"

# The known main server sends this to all of its relays, about each of them.
PROXY_STATUS_UPDATE = "proxy_status_update"

StreamName = Literal["stdout", "stderr"]

#: Longest ``commandId`` taken, in characters: it is a key in the journal and stands in each log line.
MAX_COMMAND_ID: Final = 256
#: The ``commandId`` in what a peer says about a command.
CommandId = Annotated[str, Meta(max_length=MAX_COMMAND_ID)]
#: The ``encoding`` of a command that wants the bytes of its outputs; any other names a character set.
BASE64: Final = "base64"


def wire_id(command_id: str, numeric: bool) -> str | float:
    """
    A ``commandId`` as the main server wrote it.

    :param numeric: whether it wrote a number.
    """
    if not numeric:
        return command_id
    return int(command_id) if command_id.lstrip("-").isdigit() else float(command_id)


#: What a field for a secret holds, once it is one.
_SECRETS: Final = (Secret, type(None))
#: Types of all fields of a message, and its own, that were found valid before: each command has its fields checked.
_valid_types: set[tuple[type, ...]] = set()


class _Login(Struct, frozen=True, kw_only=True):
    """
    Where to log in, and with what: a command, and each of its jump hosts. A secret given as `str` becomes a `Secret`.

    :ivar host: in its canonical spelling, see `relayd.network.spelling.CanonicalHost`: rules, known keys and limits go
        by it. A main server may use any spelling: the relay finds the canonical one.
    :ivar passphrase: decrypts the private key.
    :ivar certificate: the certificate for the key: the text of a file like ``id_ed25519-cert.pub``.
    :ivar host_key: the fingerprint that the host's key must have, see `relayd.ssh.target.Target.host_key`.
    :ivar written: how the command spells the host, where that differs; see `written_host`.
    :raises TypeError: when a field is of another type; it names the field, and shows no value.
    """

    host: str
    port: int
    username: str
    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None
    certificate: str | None = None
    host_key: str | None = None
    written: str | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("password", self.password),
            ("private_key", self.private_key),
            ("passphrase", self.passphrase),
        ):
            if value.__class__ not in _SECRETS:
                force_setattr(self, name, as_secret(name, value))
        types = (type(self), *map(type, astuple(self)))
        if types not in _valid_types:
            self._check_types()
            _valid_types.add(types)

    def _check_types(self) -> None:
        field_types.check_fields(self, field_types.LOGIN)

    @property
    def written_host(self) -> str:
        """The host as a person wrote it: for people, and to send it on."""
        return self.host if self.written is None else self.written

    def _credential_to_wire(self) -> dict[str, str]:
        secrets = {"password": self.password, "privateKey": self.private_key, "passphrase": self.passphrase}
        wire = {name: secret.reveal() for name, secret in secrets.items() if secret is not None}
        texts = {"certificate": self.certificate, "hostKey": self.host_key}
        return wire | {name: text for name, text in texts.items() if text is not None}


class JumpHost(_Login, frozen=True, kw_only=True):
    """An SSH server on the way to another one (``ssh -J``)."""

    port: int = 22

    def __repr__(self) -> str:
        return f"<JumpHost {self.username}@{self.written_host}:{self.port}>"

    def to_wire(self) -> dict[str, Any]:
        """Its object in ``via``, secrets revealed."""
        return {"host": self.written_host, "port": self.port, "username": self.username} | self._credential_to_wire()


class ExecuteCommand(_Login, frozen=True, kw_only=True):
    """
    One command of the main server, validated.

    :ivar numeric_id: whether ``commandId`` was a number: then every message about the command has a number, too. The
        number and the text of the same digits name the same command: a main server that changes from one to the other
        must not have it run twice.
    :ivar server_id: the main server's name for the host, which relayd does not use.
    :ivar timeout: seconds from receipt; ``None``: the relay chooses.
    :ivar extended: whether the result may carry more than the specification has (`CommandResult.details`).
    :ivar cwd: where it runs, absolute or beginning with ``~``; ``None``: the relay chooses.
    :ivar env: variables that are set for it; values may be secrets.
    :ivar stdin: its standard input; may hold secrets.
    :ivar stdin_is_text: whether that is a text in UTF-8, which the host gets in the character set of the command.
    :ivar encoding: the character set of its text and its outputs, as `relayd.language.charsets.charset` names it; or
        `BASE64` for the bytes of the outputs; ``None``: the relay chooses.
    :ivar stream: whether its output is also sent as it arrives (`CommandOutput`).
    :ivar via: jump hosts, the first one first.
    :ivar pty: its pseudo-terminal; ``False``: none; ``None``: the relay chooses.
    :ivar become: as whom it runs; ``False``: as the user who logs in; ``None``: the relay chooses.
    :ivar script: what runs *command*, where that is the text of a script; ``None``: the login shell.
    :ivar files: written before it runs.
    :ivar fetch: read after it has ended.
    :ivar origin: the name of the main server that ordered it, where a relay has several. It is not on the wire.
    """

    command_id: str
    numeric_id: bool = False
    server_id: float | str | None = None
    command: str
    timeout: float | None = None
    extended: bool = False
    cwd: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    stdin: bytes = b""
    stdin_is_text: bool = False
    encoding: str | None = None
    stream: bool = False
    via: tuple[JumpHost, ...] = ()
    pty: Pty | bool | None = None
    become: Become | bool | None = None
    script: Script | None = None
    files: tuple[File, ...] = ()
    fetch: tuple[Fetch, ...] = ()
    origin: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.env or self.via or self.files or self.fetch:
            field_types.check_contents(self.env, self.via, JumpHost)
            field_types.check_members("files", self.files, File)
            field_types.check_members("fetch", self.fetch, Fetch)

    def _check_types(self) -> None:
        super()._check_types()
        field_types.check_fields(self, field_types.ORDER)

    def __repr__(self) -> str:
        return f"<ExecuteCommand {self.command_id!r} for {self.username}@{self.written_host}:{self.port}>"

    def to_wire(self) -> dict[str, Any]:
        """The object on the wire, secrets revealed: for the role that sends commands."""
        wire: dict[str, Any] = {
            "commandId": wire_id(self.command_id, self.numeric_id),
            "host": self.written_host,
            "port": self.port,
            "username": self.username,
            "command": self.command,
        }
        wire |= self._credential_to_wire()
        optional = {
            "serverId": self.server_id,
            "timeout": None if self.timeout is None else round(self.timeout * 1000),
            "cwd": self.cwd,
            "encoding": self.encoding,
            "pty": self.pty.to_wire() if isinstance(self.pty, Pty) else self.pty,
            "become": self.become.to_wire() if isinstance(self.become, Become) else self.become,
        }
        wire |= {name: value for name, value in optional.items() if value is not None}
        if self.env:
            wire["env"] = dict(self.env)
        if self.stdin:
            text = self.stdin_is_text
            wire["stdin"] = self.stdin.decode() if text else {"base64": b64encode(self.stdin).decode()}
        if self.script is not None:
            wire["script"] = wire.pop("command")
            wire["interpreter"] = self.script.interpreter
            if self.script.args:
                wire["args"] = list(self.script.args)
        wire |= {name: True for name in ("extended", "stream") if getattr(self, name)}
        for name, members in (("via", self.via), ("files", self.files), ("fetch", self.fetch)):
            if members:
                wire[name] = [member.to_wire() for member in members]
        return wire


class Details(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """
    The part of an extended result that the specification does not have.

    :ivar error: ``code``, ``phase``, ``executed`` (yes, no or unknown) and ``retriable`` of a failure.
    :ivar signal: the name of the signal that ended the command, without ``SIG`` (RFC 4254, section 6.10).
    :ivar stdout_bytes: bytes that the command wrote, before trimming and cutting.
    :ivar stderr_bytes: the same for the other output.
    :ivar timings: seconds spent in each phase (`Timings`).
    :ivar killed: whether the processes of a command that was ended early are gone: ``confirmed``, ``unconfirmed``, or
        ``unsupported`` where the host cannot tell.
    :ivar output_open: whether the command has ended and its output perhaps has not: see the last line of ``stderr``.
    :ivar pty: whether it had a pseudo-terminal: then ``stdout`` has both outputs.
    :ivar ran_as: the user that it was to run as, where that is another one than who logged in.
    :ivar encoding: ``base64`` where both outputs are base64; always on the wire, since nothing else says so.
    :ivar fetched: the files that the command wanted, in its order; always on the wire, as it asked for them.
    """

    error: dict[str, str | bool] | None = None
    signal: str | None = None
    truncated: bool = False
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    timings: Timings | None = None
    killed: Literal["confirmed", "unconfirmed", "unsupported"] | None = None
    output_open: bool = False
    pty: bool = False
    ran_as: str | None = None
    encoding: Literal["base64"] | None = None
    fetched: tuple[Fetched, ...] = ()


class CommandResult(Struct, frozen=True, kw_only=True):
    """
    How a command ended.

    :ivar numeric_id: see `ExecuteCommand`.
    :ivar exit_code: 0 for success; 128 + signal number for a command that a signal killed; 1 for any failure of relayd.
    :ivar details: for logs and metrics always; on the wire only where the command asked with ``extended``.
    """

    command_id: str
    stdout: str
    stderr: str
    exit_code: int
    details: Details = Details()
    extended: bool = False
    numeric_id: bool = False

    def __repr__(self) -> str:  # output may hold anything
        return f"<CommandResult of {self.command_id!r}: exit {self.exit_code}>"

    @property
    def length(self) -> int:
        """Characters of all that can be long in it; in constant time."""
        size = len(self.stdout) + len(self.stderr)
        return size + length_of(self.details.fetched) if self.details.fetched else size

    def to_wire(self) -> dict[str, Any]:
        """The specification's object."""
        result: dict[str, Any] = {"stdout": self.stdout, "stderr": self.stderr, "exitCode": self.exit_code}
        if self.extended:
            result.update(msgspec.to_builtins(self.details))
        else:
            if self.details.encoding is not None:
                result["encoding"] = self.details.encoding
            if self.details.fetched:
                result["fetched"] = msgspec.to_builtins(self.details.fetched)
        command_id = wire_id(self.command_id, True) if self.numeric_id else self.command_id
        return {"commandId": command_id, "result": result}


class Receipt(Struct, frozen=True, kw_only=True):
    """
    The main server's answer to a result.

    :ivar command_id: which result it means, where the main server says so: the specification does not require that.
    """

    success: bool
    command_id: str | None = None
    error: str | None = None


class CommandOutput(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """
    A piece of what a running command writes.

    :ivar numeric_id: see `ExecuteCommand`; never on the wire.
    :ivar offset: how many bytes of that stream came before it; where the pieces before had fewer, the difference was
        not sent, and is only in the result.
    :ivar data: a text, or base64 where ``encoding`` says so.
    """

    command_id: CommandId
    stream: StreamName
    offset: Annotated[int, Meta(ge=0)]
    data: str
    encoding: Literal["base64"] | None = None
    numeric_id: bool = False

    def __repr__(self) -> str:  # output may hold anything
        return f"<CommandOutput of {self.command_id!r}: {self.stream} from {self.offset}>"

    def to_wire(self) -> dict[str, Any]:
        """The data of a ``command_output`` event."""
        wire: dict[str, Any] = msgspec.to_builtins(self)
        return _with_wire_id(wire)


class CommandState(Enum):
    """How far a command has come; the value is in the answer to ``command_status`` and ``cancel_command``."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    UNKNOWN = "unknown"


class CommandStatus(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """
    How far the relay has come with a command.

    :ivar numeric_id: see `ExecuteCommand`; never on the wire.
    """

    command_id: CommandId
    state: CommandState
    numeric_id: bool = False

    def to_wire(self) -> dict[str, Any]:
        """The data of a ``command_status`` event, or of an acknowledgement."""
        wire: dict[str, Any] = msgspec.to_builtins(self)
        return _with_wire_id(wire)


def _with_wire_id(wire: dict[str, Any]) -> dict[str, Any]:
    if wire.pop("numericId", False):
        wire["commandId"] = wire_id(wire["commandId"], True)
    return wire
