"""
Reads the data of events, which anybody may have sent, into the frozen values of `relayd.wire.messages`.

`relayd.wire.fields` reads each field, and says what is wrong with it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Struct

from relayd.errors import InvalidMessage
from relayd.language.texts import printable
from relayd.wire import fields, file_fields, running_fields, shapes
from relayd.wire.hosts import spelling_of_host
from relayd.wire.messages import (
    CANCEL_COMMAND,
    CHECK_COMMAND,
    COMMAND_OUTPUT,
    COMMAND_RESULT,
    COMMAND_RESULT_RECEIVED,
    COMMAND_STATUS,
    EXECUTE_COMMAND,
    RELAY_INFO,
    CommandId,
    CommandOutput,
    CommandResult,
    CommandStatus,
    Details,
    ExecuteCommand,
    JumpHost,
    Receipt,
    Secret,
)
from relayd.wire.plain_commands import plain_command
from relayd.wire.policy_answer import PolicyAnswer
from relayd.wire.relay_info import RelayInfo
from relayd.wire.type_errors import explain_type

_T = TypeVar("_T")


# What arrives. Every field of a command is optional here, and of any type: `relayd.wire.fields` says what is missing or
# wrong, in its own words. ``make schemas`` makes docs/schemas from these classes and their docstrings.


class WireServer(Struct, rename="camel"):
    """
    An SSH server on the way to the host.

    :ivar host: its name or address.
    :ivar port: its TCP port; 22 by default.
    :ivar username: who logs in.
    :ivar password: also answers keyboard-interactive questions for a password.
    :ivar private_key: the text of a private key: OpenSSH, PKCS#1, SEC 1, PKCS#8 or PuTTY.
    :ivar passphrase: decrypts the private key.
    :ivar certificate: the OpenSSH user certificate for the key.
    :ivar host_key: the fingerprint that the host's key must have: SHA256:… with or without the type of key before it.
    """

    host: Annotated[Any, shapes.HOST] = UNSET
    port: Annotated[Any, shapes.PORT] = UNSET
    username: Annotated[Any, shapes.USERNAME] = UNSET
    password: Annotated[Any, shapes.PASSWORD] = UNSET
    private_key: Annotated[Any, shapes.PRIVATE_KEY] = UNSET
    passphrase: Annotated[Any, shapes.PASSWORD] = UNSET
    certificate: Annotated[Any, shapes.CERTIFICATE] = UNSET
    host_key: Annotated[Any, shapes.FINGERPRINT] = UNSET


class WireCommand(WireServer, rename="camel"):
    """
    Run a command on a host.

    :ivar command_id: names the command; a command of the same id does not run again.
    :ivar server_id: the main server's name for the host, which relayd does not use.
    :ivar command: the text that the login shell gets.
    :ivar timeout: milliseconds from receipt, everything included; 0 is the same as no field.
    :ivar extended: asks for more in the result.
    :ivar cwd: where the command runs: an absolute path, or one that begins with ~.
    :ivar env: variables that are set for the command.
    :ivar stdin: its standard input: a text, or base64 for bytes.
    :ivar encoding: the character set of the host; or base64, for outputs in base64.
    :ivar stream: asks for the output as it arrives.
    :ivar via: jump hosts, the first one nearest to the relay.
    :ivar pty: runs it with a pseudo-terminal: true, or an object of term, cols and rows.
    :ivar become: runs it as another user, by sudo or su.
    :ivar script: the text of a script, in place of command.
    :ivar interpreter: the program that runs the script; /bin/sh by default.
    :ivar args: the arguments of the script.
    :ivar files: files that are written before the command runs.
    :ivar fetch: files that are read after the command, for the result.
    """

    command_id: Annotated[Any, shapes.COMMAND_ID] = UNSET
    server_id: Annotated[Any, shapes.ANYTHING] = UNSET
    command: Annotated[Any, shapes.COMMAND] = UNSET
    timeout: Annotated[Any, shapes.TIMEOUT] = UNSET
    extended: Annotated[Any, shapes.FLAG] = UNSET
    cwd: Annotated[Any, shapes.CWD] = UNSET
    env: Annotated[Any, shapes.ENVIRONMENT] = UNSET
    stdin: Annotated[Any, shapes.STDIN] = UNSET
    encoding: Annotated[Any, shapes.ENCODING] = UNSET
    stream: Annotated[Any, shapes.FLAG] = UNSET
    via: Annotated[Any, shapes.VIA] = UNSET
    pty: Annotated[Any, shapes.PTY] = UNSET
    become: Annotated[Any, shapes.BECOME] = UNSET
    script: Annotated[Any, shapes.SCRIPT] = UNSET
    interpreter: Annotated[Any, shapes.INTERPRETER] = UNSET
    args: Annotated[Any, shapes.ARGS] = UNSET
    files: Annotated[Any, shapes.FILES] = UNSET
    fetch: Annotated[Any, shapes.FETCH] = UNSET


#: The fields of a command that the specification has.
_SPECIFIED: Final = frozenset(
    ("commandId", "serverId", "host", "port", "username", "password", "privateKey", "command", "timeout")
)
#: The extensions that a main server may use: fields of a command, and events.
FEATURES: Final = tuple(
    sorted(
        {field.encode_name for field in msgspec.structs.fields(WireCommand)} - _SPECIFIED
        | {CANCEL_COMMAND, CHECK_COMMAND, COMMAND_OUTPUT, COMMAND_STATUS, RELAY_INFO}
    )
)


class WireResultBody(Struct, rename="camel"):
    """
    How the command ended.

    :ivar stdout: its standard output: a text without blanks at both ends; or base64, if encoding says so.
    :ivar stderr: its standard error in the same way; why it failed, if it has no exit status.
    :ivar exit_code: its exit status; 128 + signal number if a signal killed it; 1 for every failure of relayd.
    """

    stdout: str
    stderr: str
    exit_code: int


class WireResult(Struct, rename="camel"):
    """
    How a command ended: once for each command, until the main server confirms it.

    :ivar result: what became of it.
    """

    command_id: CommandId
    result: WireResultBody


class WireReceipt(Struct, rename="camel"):
    """
    The main server has a result, or refuses it.

    :ivar success: whether it has the result.
    :ivar command_id: which result it means; without it, the oldest one of this connection that has no receipt.
    :ivar error: why it refuses the result; for the relay's log.
    """

    success: bool
    command_id: CommandId | None = None
    error: Any = None


class WireQuestion(Struct, rename="camel"):
    """
    What cancel_command and command_status are about.

    :ivar command_id: of the command.
    """

    command_id: Annotated[Any, shapes.COMMAND_ID] = UNSET


def parse_execute_command(data: object, event: str = EXECUTE_COMMAND) -> ExecuteCommand:
    """
    Validate the data of an ``execute_command`` event.  A command without any credential is valid: whether it can do
    without is not for the message to say (`relayd.interfaces.ICommandRunner.refuses`).

    :param data: decoded JSON, of ``execute_command`` or of *event*, which has the same.
    :raises InvalidMessage: naming the field at fault, and the ``commandId`` where one can be read.
    """
    return plain_command(data) or parse_by_field(data, event)


def parse_by_field(data: object, event: str = EXECUTE_COMMAND) -> ExecuteCommand:
    """
    Do what `parse_execute_command` does, for a command that may be written in any way.

    :param event: the name of the event, for errors.

    :raises InvalidMessage: naming the field at fault, and the ``commandId`` where one can be read.
    """
    try:
        wire = _convert(data, WireCommand)
        command_id, numeric_id = fields.command_id(wire.command_id)
        server = _server("", wire)
        text, script = running_fields.script(wire.command, wire.script, wire.interpreter, wire.args)
        stdin, stdin_is_text = fields.stdin(wire.stdin)
        return ExecuteCommand(
            command_id=command_id,
            numeric_id=numeric_id,
            server_id=fields.server_id(wire.server_id),
            **server,
            command=text,
            script=script,
            timeout=fields.timeout(wire.timeout),
            extended=fields.flag("extended", wire.extended),
            cwd=fields.cwd(wire.cwd),
            env=fields.environment(wire.env),
            stdin=stdin,
            stdin_is_text=stdin_is_text,
            encoding=fields.encoding(wire.encoding),
            stream=fields.flag("stream", wire.stream),
            via=_via(wire.via),
            pty=running_fields.pty(wire.pty),
            become=running_fields.become(wire.become),
            files=file_fields.files(wire.files),
            fetch=file_fields.fetch(wire.fetch),
        )
    except (msgspec.ValidationError, fields.Invalid) as error:
        raise _refusal(event, error, data) from None


def parse_question(event: str, data: object) -> tuple[str, bool]:
    """
    Validate the data of a ``cancel_command`` or ``command_status`` event from the main server.

    :return: the ``commandId`` it is about, and whether it was a number.
    :raises InvalidMessage: when it names none.
    """
    try:
        return fields.command_id(_convert(data, WireQuestion).command_id)
    except (msgspec.ValidationError, fields.Invalid) as error:
        raise _refusal(event, error, data) from None


def parse_receipt(data: object) -> Receipt:
    """
    Validate the data of a ``command_result_received`` event.

    :raises InvalidMessage: when it has no boolean ``success``.
    """
    wire = _convert_said(data, WireReceipt, COMMAND_RESULT_RECEIVED)
    said = wire.error if isinstance(wire.error, str | None) else _as_json(wire.error)
    text = None if said is None else printable(said, 200)
    return Receipt(success=wire.success, command_id=wire.command_id, error=text)


def parse_command_result(data: object) -> CommandResult:
    """
    Validate the data of a ``command_result`` event: for the role that sends commands.

    :raises InvalidMessage: naming the field at fault.
    """
    try:
        data, numeric_id = _with_text_id(data)
        wire = _convert(data, WireResult)
        more = set(data["result"]) - {"stdout", "stderr", "exitCode"}  # type: ignore[index]  # convert has looked
        details = _convert(data["result"], Details) if more else Details()  # type: ignore[index]
    except (msgspec.ValidationError, fields.Invalid) as error:
        raise _refusal(COMMAND_RESULT, error, data) from None
    return CommandResult(
        command_id=wire.command_id,
        stdout=wire.result.stdout,
        stderr=wire.result.stderr,
        exit_code=wire.result.exit_code,
        details=details,
        extended=bool(more - {"encoding", "fetched"}),
        numeric_id=numeric_id,
    )


def parse_command_output(data: object) -> CommandOutput:
    """
    Validate the data of a ``command_output`` event: for the role that sends commands.

    :raises InvalidMessage: naming the field at fault.
    """
    return _convert_said(data, CommandOutput, COMMAND_OUTPUT)


def parse_command_status(data: object) -> CommandStatus:
    """
    Validate what a relay says of a command: for the role that sends commands.

    :raises InvalidMessage: naming the field at fault.
    """
    return _convert_said(data, CommandStatus, COMMAND_STATUS)


def parse_policy_answer(data: object) -> PolicyAnswer:
    """
    Validate what a relay says of a command that it was asked about: for the role that sends commands.

    :raises InvalidMessage: naming the field at fault.
    """
    return _convert_said(data, PolicyAnswer, CHECK_COMMAND)


def parse_relay_info(data: object) -> RelayInfo:
    """
    Validate what a relay tells of itself: for the role that sends commands.

    :raises InvalidMessage: naming the field at fault.
    """
    return _convert_said(data, RelayInfo, RELAY_INFO)


def _as_json(value: object) -> str:
    """*value* as it was on the wire, whatever shape it has."""
    try:
        return msgspec.json.encode(value, enc_hook=lambda _: None).decode()
    except RecursionError:
        return "an error that nests too deeply"


def _convert(data: object, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(data, kind)
    except UnicodeEncodeError:  # the name of a member; msgspec has no error of its own for that
        raise fields.half_a_pair("the data") from None


def _convert_said(data: object, kind: type[_T], event: str) -> _T:
    try:
        return _convert(_with_text_id(data)[0], kind)
    except (msgspec.ValidationError, fields.Invalid) as error:
        raise _refusal(event, error, data) from None


def _with_text_id(data: object) -> tuple[object, bool]:
    """*data* with a ``commandId`` that is a number as the text that spells it, and whether it was one."""
    if isinstance(data, dict) and "numericId" in data:  # ours alone, and never on the wire
        data = {name: value for name, value in data.items() if name != "numericId"}
    if isinstance(data, dict) and type(data.get("commandId")) in (int, float):
        text, numeric = fields.command_id(data["commandId"])
        return data | {"commandId": text}, numeric
    return data, False


def _refusal(event: str, error: msgspec.ValidationError | fields.Invalid, data: object) -> InvalidMessage:
    field, reason = (error.field, error.text) if isinstance(error, fields.Invalid) else explain_type(error)
    message = data if isinstance(data, dict) else {}
    command_id, numeric_id = fields.readable_id(message.get("commandId"))
    return InvalidMessage(
        event=event,
        field=field,
        reason=reason,
        command_id=command_id,
        numeric_id=numeric_id,
        extended=fields.readable_flag(message.get("extended")),
    )


def _via(value: object) -> tuple[JumpHost, ...]:
    if fields.absent(value):
        return ()
    value = fields.plain("via", value)
    if not isinstance(value, list):
        raise fields.Invalid("via", "is not an array of hosts")
    if len(value) > fields.MAX_HOPS:
        raise fields.Invalid("via", "names more than {most} hosts", most=fields.MAX_HOPS)
    return tuple(_hop(f"via[{index}]", hop) for index, hop in enumerate(value))


def _hop(field: str, value: object) -> JumpHost:
    value = fields.plain(field, value)
    if not isinstance(value, dict):
        raise fields.Invalid(field, "is not an object")
    return JumpHost(**_server(field + ".", _convert(value, WireServer)))


def _server(path: str, wire: WireServer) -> dict[str, Any]:
    """
    The fields that a command has for its host, and each of its jump hosts has too: where it is, and the login.

    :param path: stands before the names of fields in errors.
    """
    host, written = spelling_of_host(fields.host(path + "host", wire.host))
    return {
        "host": host,
        "written": written,
        "port": fields.port(path + "port", wire.port),
        "username": fields.username(path + "username", wire.username),
        "password": _secret(path + "password", wire.password, fields.MAX_PASSWORD),
        "private_key": _secret(path + "privateKey", wire.private_key, fields.MAX_PRIVATE_KEY),
        "passphrase": _secret(path + "passphrase", wire.passphrase, fields.MAX_PASSWORD),
        "certificate": fields.optional_text(path + "certificate", wire.certificate, fields.MAX_CERTIFICATE),
        "host_key": fields.fingerprint(path + "hostKey", wire.host_key),
    }


def _secret(field: str, value: object, most: int) -> Secret | None:
    text = fields.optional_text(field, value, most)
    return None if text is None else Secret(text)
