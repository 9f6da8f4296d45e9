"""
The messages of the protocol as frozen values, and the validation of everything that arrives.

Source: the specification's "execute_command", "command_result" and "command_result_received"; see docs/protocol.rst.
"""

from __future__ import annotations

import hmac
import math
import re
from typing import Any, NoReturn

import msgspec
from msgspec import UNSET, Struct, UnsetType

from relayd.errors import InvalidMessage, RelayError

EXECUTE_COMMAND = "execute_command"
COMMAND_RESULT = "command_result"
COMMAND_RESULT_RECEIVED = "command_result_received"

#: Longest ``commandId`` taken, in characters: it is a key of the journal and stands in each log line.
MAX_COMMAND_ID = 256
#: Longest timeout taken, in seconds (a year); larger numbers are surely another unit.
MAX_TIMEOUT = 366 * 86400.0
_FINGERPRINT = re.compile(r"([a-z0-9@.-]{1,64} )?SHA256:[A-Za-z0-9+/]{43}=?")


class Secret:
    """
    A text that is never shown: its ``repr`` and ``str`` hide it, it cannot be pickled, and only `reveal` gives it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Call this as late as possible, and keep the answer in no attribute."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")

    def _bytes(self) -> bytes:
        return self._text.encode("utf-8", "surrogatepass")


class ExecuteCommand(Struct, frozen=True, kw_only=True):
    """
    One order of the main server, validated.

    :ivar timeout: seconds from receipt, or ``None`` where the main server leaves it to the relay.
    :ivar passphrase: decrypts the private key.
    :ivar host_key: the fingerprint that the host's key must have, see `relayd.ssh.hostkeys.ExpectedHostKey`.
    :ivar extended: whether the result may carry more than the specification has (`CommandResult.details`).
    """

    command_id: str
    server_id: float
    host: str
    port: int
    username: str
    command: str
    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None
    host_key: str | None = None
    timeout: float | None = None
    extended: bool = False

    def __repr__(self) -> str:
        return f"<ExecuteCommand {self.command_id!r} for {self.username}@{self.host}:{self.port}>"

    def to_wire(self) -> dict[str, Any]:
        """The specification's object, secrets revealed: for the role that sends commands."""
        wire: dict[str, Any] = {
            "commandId": self.command_id,
            "serverId": self.server_id,
            "host": self.host,
            "port": self.port,
            "username": self.username,
            "command": self.command,
        }
        if self.password is not None:
            wire["password"] = self.password.reveal()
        if self.private_key is not None:
            wire["privateKey"] = self.private_key.reveal()
        if self.passphrase is not None:
            wire["passphrase"] = self.passphrase.reveal()
        if self.host_key is not None:
            wire["hostKey"] = self.host_key
        if self.timeout is not None:
            wire["timeout"] = round(self.timeout * 1000)
        if self.extended:
            wire["extended"] = True
        return wire


class Details(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """
    What an extended result says beyond the specification.

    :ivar error: ``code``, ``phase``, ``executed`` (yes, no or unknown) and ``retriable`` of a failure.
    :ivar signal: the name of the signal that ended the command, without ``SIG`` (RFC 4254, section 6.10).
    :ivar stdout_bytes: bytes that the command wrote, before trimming and cutting; likewise ``stderr_bytes``.
    :ivar timings: seconds spent in each phase.
    """

    error: dict[str, str | bool] | None = None
    signal: str | None = None
    truncated: bool = False
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    timings: dict[str, float] | None = None


class CommandResult(Struct, frozen=True, kw_only=True):
    """
    How a command ended.

    :ivar exit_code: 0 for success; 128 + signal number for a command that a signal killed; 1 for any failure of relayd.
    :ivar details: for logs and metrics always; on the wire only where the command asked with ``extended``.
    """

    command_id: str
    stdout: str
    stderr: str
    exit_code: int
    details: Details = Details()
    extended: bool = False

    def __repr__(self) -> str:  # output may hold anything
        return f"<CommandResult of {self.command_id!r}: exit {self.exit_code}>"

    def to_wire(self) -> dict[str, Any]:
        """The specification's object."""
        result: dict[str, Any] = {"stdout": self.stdout, "stderr": self.stderr, "exitCode": self.exit_code}
        if self.extended:
            result.update(msgspec.to_builtins(self.details))
        return {"commandId": self.command_id, "result": result}


class Receipt(Struct, frozen=True, kw_only=True):
    """
    The main server's answer to a result.

    :ivar command_id: which result it means, where the main server says so; the specification does not ask it to.
    """

    success: bool
    command_id: str | None = None
    error: str | None = None


def failure_result(command_id: str, error: RelayError, *, extended: bool = False) -> CommandResult:
    """The result of a command that did not get as far as an exit code (specification, "command execution error")."""
    details = Details(error=describe_error(error))
    return CommandResult(
        command_id=command_id, stdout="", stderr=str(error), exit_code=1, details=details, extended=extended
    )


def describe_error(error: RelayError) -> dict[str, str | bool]:
    """What an extended result tells programs of an error (`Details.error`)."""
    return {
        "code": error.code,
        "phase": error.phase,
        "executed": error.executed,
        "retriable": error.retriable,
    }


# Reading what arrives ------------------------------------------------------------------------------------------------
#
# msgspec checks the JSON types in one pass, with errors that name the path and never the value; what is left for us is
# what a type cannot say.  Every field is optional here, so that one that is missing is reported like one that is wrong.


class _WireCommand(Struct, rename="camel"):
    command_id: str | UnsetType | None = UNSET
    server_id: int | float | str | UnsetType | None = UNSET
    host: str | UnsetType | None = UNSET
    port: int | float | str | UnsetType | None = UNSET
    username: str | UnsetType | None = UNSET
    password: str | UnsetType | None = UNSET
    private_key: str | UnsetType | None = UNSET
    passphrase: str | UnsetType | None = UNSET
    host_key: str | UnsetType | None = UNSET
    command: str | UnsetType | None = UNSET
    timeout: int | float | str | UnsetType | None = UNSET
    extended: bool | UnsetType | None = UNSET


class _WireResultBody(Struct, rename="camel"):
    stdout: str
    stderr: str
    exit_code: int


class _WireResult(Struct, rename="camel"):
    command_id: str
    result: _WireResultBody


class _WireReceipt(Struct, rename="camel"):
    success: bool
    command_id: str | None = None
    error: Any = None


class _Invalid(Exception):
    """A field is wrong: its name and the reason, never its value."""


def parse_execute_command(data: object) -> ExecuteCommand:
    """
    Validate the data of an ``execute_command`` event.

    :param data: decoded JSON.
    :raises InvalidMessage: naming the field at fault, and the ``commandId`` where one can be read.
    """
    try:
        wire = msgspec.convert(data, _WireCommand)
        command = ExecuteCommand(
            command_id=_command_id(wire.command_id),
            server_id=_number("serverId", wire.server_id, required=True),
            host=_host(wire.host),
            port=_port(wire.port),
            username=_text("username", wire.username),
            command=_text("command", wire.command, single_line=False),
            password=_secret("password", wire.password),
            private_key=_secret("privateKey", wire.private_key),
            passphrase=_secret("passphrase", wire.passphrase),
            host_key=_fingerprint(wire.host_key),
            timeout=_timeout(wire.timeout),
            extended=wire.extended is True,
        )
        if command.password is None and command.private_key is None:
            raise _Invalid("password", "is missing, and so is privateKey: one of them is needed")
        return command
    except msgspec.ValidationError as error:
        field, reason = _describe(error)
    except _Invalid as error:
        field, reason = error.args
    raise InvalidMessage(event=EXECUTE_COMMAND, field=field, reason=reason, command_id=_readable_id(data)) from None


def parse_receipt(data: object) -> Receipt:
    """
    Validate the data of a ``command_result_received`` event.

    :raises InvalidMessage: when it has no boolean ``success``.
    """
    try:
        wire = msgspec.convert(data, _WireReceipt)
    except msgspec.ValidationError as error:
        field, reason = _describe(error)
        raise InvalidMessage(
            event=COMMAND_RESULT_RECEIVED, field=field, reason=reason, command_id=_readable_id(data)
        ) from None
    text = None if wire.error is None else printable(str(wire.error), 200)
    return Receipt(success=wire.success, command_id=wire.command_id, error=text)


def parse_command_result(data: object) -> CommandResult:
    """
    Validate the data of a ``command_result`` event: for the role that sends commands.

    :raises InvalidMessage: naming the field at fault.
    """
    try:
        wire = msgspec.convert(data, _WireResult)
        extended = set(data["result"]) - {"stdout", "stderr", "exitCode"}  # type: ignore[index]  # convert has looked
        details = msgspec.convert(data["result"], Details) if extended else Details()  # type: ignore[index]
    except msgspec.ValidationError as error:
        field, reason = _describe(error)
        raise InvalidMessage(event=COMMAND_RESULT, field=field, reason=reason, command_id=_readable_id(data)) from None
    return CommandResult(
        command_id=wire.command_id,
        stdout=wire.result.stdout,
        stderr=wire.result.stderr,
        exit_code=wire.result.exit_code,
        details=details,
        extended=bool(extended),
    )


def printable(text: str, limit: int) -> str:
    """A remote text made fit for a log line: no control characters, at most *limit* characters."""
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def _describe(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's ``Expected `str`, got `int` - at `$.host``` as field and reason."""
    text, _, path = str(error).partition(" - at ")
    field = path.strip("`").removeprefix("$.").removeprefix("$") or "the data"
    return field, "is of the wrong type: " + text[:1].lower() + text[1:].replace("`", "")


def _readable_id(data: object) -> str | None:
    if isinstance(data, dict):
        try:
            return _command_id(data.get("commandId"))
        except _Invalid:
            pass
    return None


def _command_id(value: object) -> str:
    text = _text("commandId", value)
    if len(text) > MAX_COMMAND_ID:
        raise _Invalid("commandId", f"is longer than {MAX_COMMAND_ID} characters")
    return text


def _text(field: str, value: object, *, single_line: bool = True) -> str:
    if value is UNSET or value is None:
        raise _Invalid(field, "is missing")
    if not isinstance(value, str):
        raise _Invalid(field, "is not a string")
    if not value.strip():
        raise _Invalid(field, "is empty")
    if "\0" in value:
        raise _Invalid(field, "contains a NUL character")
    if single_line and not value.isprintable():
        raise _Invalid(field, "contains a control character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Invalid(field, "contains half of a surrogate pair") from None
    return value


def _host(value: object) -> str:
    host = _text("host", value).strip()
    if host.startswith("[") and host.endswith("]"):  # an IPv6 address as it stands in a URL
        host = host[1:-1]
    if len(host) > 255:
        raise _Invalid("host", "is longer than 255 characters")
    if any(char.isspace() or char in "/@,;*?!|#[]" for char in host):
        raise _Invalid("host", "is neither a host name nor an IP address")
    return host


def _fingerprint(value: object) -> str | None:
    if value is UNSET or value is None or value == "":
        return None
    text = _text("hostKey", value).strip()
    if not _FINGERPRINT.fullmatch(text):
        raise _Invalid("hostKey", "is not a fingerprint as ssh-keygen -l shows it: SHA256: and 43 characters")
    return text


def _secret(field: str, value: object) -> Secret | None:
    """A blank one counts as absent: main servers send the empty string from an empty column."""
    if not isinstance(value, str) or not value:
        return None
    if "\0" in value:
        raise _Invalid(field, "contains a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Invalid(field, "contains half of a surrogate pair") from None
    return Secret(value)


def _number(field: str, value: object, *, required: bool = False) -> float:
    """A number, or a string that holds one, as databases give them; finite."""
    if value is UNSET or value is None or (isinstance(value, str) and not value.strip()):
        if required:
            raise _Invalid(field, "is missing")
        return 0
    if isinstance(value, str):
        try:
            value = float(value) if len(value) <= 32 and value.isascii() and "_" not in value else math.nan
        except ValueError:
            value = math.nan
    if not isinstance(value, (int, float)) or not abs(value) <= 2**63:
        raise _Invalid(field, "is not a finite number of at most 63 bits")
    return int(value) if value == int(value) else value


def _port(value: object) -> int:
    number = _number("port", value, required=True)
    if number != int(number) or not 1 <= number <= 65535:
        raise _Invalid("port", "is not a whole number from 1 to 65535")
    return int(number)


def _timeout(value: object) -> float | None:
    """Milliseconds on the wire; 0, null and absence leave it to the relay."""
    seconds = _number("timeout", value) / 1000
    if seconds < 0:
        raise _Invalid("timeout", "is negative")
    if seconds > MAX_TIMEOUT:
        raise _Invalid("timeout", "is longer than a year; it is in milliseconds")
    return seconds or None
