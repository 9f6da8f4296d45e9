"""
Reading what arrives: data of events, which anybody may have sent, to the frozen values of `relayd.wire.messages`.

What is wrong with a field is for `relayd.wire.fields` to say, which names it and never shows its value.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct

from relayd.errors import InvalidMessage
from relayd.language.texts import printable
from relayd.network.spelling import canonical_host
from relayd.wire import fields
from relayd.wire.messages import (
    COMMAND_OUTPUT,
    COMMAND_RESULT,
    COMMAND_RESULT_RECEIVED,
    COMMAND_STATUS,
    EXECUTE_COMMAND,
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

_T = TypeVar("_T")


# Every field is optional here, and of any type: what is missing or wrong is for `relayd.wire.fields` to say, in its
# words.


class _WireHop(Struct, rename="camel"):
    host: Any = UNSET
    port: Any = UNSET
    username: Any = UNSET
    password: Any = UNSET
    private_key: Any = UNSET
    passphrase: Any = UNSET
    certificate: Any = UNSET
    host_key: Any = UNSET


class _WireCommand(_WireHop, rename="camel"):
    command_id: Any = UNSET
    server_id: Any = UNSET
    command: Any = UNSET
    timeout: Any = UNSET
    extended: Any = UNSET
    cwd: Any = UNSET
    env: Any = UNSET
    stdin: Any = UNSET
    encoding: Any = UNSET
    stream: Any = UNSET
    via: Any = UNSET


class _WireResultBody(Struct, rename="camel"):
    stdout: str
    stderr: str
    exit_code: int


class _WireResult(Struct, rename="camel"):
    command_id: CommandId
    result: _WireResultBody


class _WireReceipt(Struct, rename="camel"):
    success: bool
    command_id: CommandId | None = None
    error: Any = None


class _WireQuestion(Struct, rename="camel"):
    command_id: Any = UNSET


def parse_execute_command(data: object) -> ExecuteCommand:
    """
    Validate the data of an ``execute_command`` event.  A command without any credential is valid: whether it can do
    without is not for the message to say (`relayd.interfaces.ICommandRunner.refuses`).

    :param data: decoded JSON.
    :raises InvalidMessage: naming the field at fault, and the ``commandId`` where one can be read.
    """
    try:
        wire = _convert(data, _WireCommand)
        command_id, numeric_id = fields.command_id(wire.command_id)
        host, written = _host("host", wire.host)
        stdin, stdin_is_text = fields.stdin(wire.stdin)
        return ExecuteCommand(
            command_id=command_id,
            numeric_id=numeric_id,
            server_id=fields.server_id(wire.server_id),
            host=host,
            port=fields.port("port", wire.port),
            username=fields.username("username", wire.username),
            command=fields.text("command", wire.command, single_line=False),
            **_credential("", wire),
            timeout=fields.timeout(wire.timeout),
            extended=fields.flag("extended", wire.extended),
            cwd=fields.cwd(wire.cwd),
            env=fields.environment(wire.env),
            stdin=stdin,
            stdin_is_text=stdin_is_text,
            encoding=fields.encoding(wire.encoding),
            stream=fields.flag("stream", wire.stream),
            via=_via(wire.via),
            written=written,
        )
    except (msgspec.ValidationError, fields.Invalid) as error:
        raise _refusal(EXECUTE_COMMAND, error, data) from None


def parse_question(event: str, data: object) -> tuple[str, bool]:
    """
    Validate the data of a ``cancel_command`` or ``command_status`` event from the main server.

    :return: the ``commandId`` it is about, and whether it was a number.
    :raises InvalidMessage: when it names none.
    """
    try:
        return fields.command_id(_convert(data, _WireQuestion).command_id)
    except (msgspec.ValidationError, fields.Invalid) as error:
        raise _refusal(event, error, data) from None


def parse_receipt(data: object) -> Receipt:
    """
    Validate the data of a ``command_result_received`` event.

    :raises InvalidMessage: when it has no boolean ``success``.
    """
    try:
        wire = _convert(_with_text_id(data)[0], _WireReceipt)
    except (msgspec.ValidationError, fields.Invalid) as error:
        raise _refusal(COMMAND_RESULT_RECEIVED, error, data) from None
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
        wire = _convert(data, _WireResult)
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
        extended=bool(more - {"encoding"}),
        numeric_id=numeric_id,
    )


def parse_command_output(data: object) -> CommandOutput:
    """
    Validate the data of a ``command_output`` event: for the role that sends commands.

    :raises InvalidMessage: naming the field at fault.
    """
    try:
        return _convert(_with_text_id(data)[0], CommandOutput)
    except (msgspec.ValidationError, fields.Invalid) as error:
        raise _refusal(COMMAND_OUTPUT, error, data) from None


def parse_command_status(data: object) -> CommandStatus:
    """
    Validate what a relay says of a command: for the role that sends commands.

    :raises InvalidMessage: naming the field at fault.
    """
    try:
        return _convert(_with_text_id(data)[0], CommandStatus)
    except (msgspec.ValidationError, fields.Invalid) as error:
        raise _refusal(COMMAND_STATUS, error, data) from None


def _as_json(value: object) -> str:
    """What a peer said, whatever shape it has, as it was on the wire."""
    try:
        return msgspec.json.encode(value, enc_hook=lambda _: None).decode()
    except RecursionError:
        return "what nests too deeply"


def _convert(data: object, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(data, kind)
    except UnicodeEncodeError:  # the name of a member; msgspec has no error of its own for that
        raise fields.Invalid("the data", "contains half of a surrogate pair") from None


def _with_text_id(data: object) -> tuple[object, bool]:
    """*data* with a ``commandId`` that is a number as the text that spells it, and whether it was one."""
    if isinstance(data, dict) and "numericId" in data:  # ours alone, and never on the wire
        data = {name: value for name, value in data.items() if name != "numericId"}
    if isinstance(data, dict) and type(data.get("commandId")) in (int, float):
        text, numeric = fields.command_id(data["commandId"])
        return data | {"commandId": text}, numeric
    return data, False


def _refusal(event: str, error: msgspec.ValidationError | fields.Invalid, data: object) -> InvalidMessage:
    field, reason = (error.field, error.text) if isinstance(error, fields.Invalid) else fields.explain(error)
    command_id, numeric_id = fields.readable_id(data.get("commandId")) if isinstance(data, dict) else (None, False)
    return InvalidMessage(event=event, field=field, reason=reason, command_id=command_id, numeric_id=numeric_id)


def _secret(field: str, value: object, most: int) -> Secret | None:
    text = fields.optional_text(field, value, most)
    return None if text is None else Secret(text)


def _via(value: object) -> tuple[JumpHost, ...]:
    if fields.absent(value):
        return ()
    if not isinstance(value := fields.plain("via", value), list):
        raise fields.Invalid("via", "is not an array of hosts")
    if len(value) > fields.MAX_HOPS:
        raise fields.Invalid("via", "names more than {most} hosts", most=fields.MAX_HOPS)
    return tuple(_hop(f"via[{index}]", hop) for index, hop in enumerate(value))


def _host(field: str, value: object) -> tuple[str, str | None]:
    """A host by its one spelling, and as it was written where that differs."""
    written = fields.host(field, value)
    host = canonical_host(written)
    return host, None if written == host else written


def _credential(path: str, wire: _WireHop) -> dict[str, Any]:
    """What is to be shown to a host, and what that has to show; *path* stands before the names of fields in errors."""
    return {
        "password": _secret(path + "password", wire.password, fields.MAX_PASSWORD),
        "private_key": _secret(path + "privateKey", wire.private_key, fields.MAX_PRIVATE_KEY),
        "passphrase": _secret(path + "passphrase", wire.passphrase, fields.MAX_PASSWORD),
        "certificate": fields.optional_text(path + "certificate", wire.certificate, fields.MAX_CERTIFICATE),
        "host_key": fields.fingerprint(path + "hostKey", wire.host_key),
    }


def _hop(field: str, value: object) -> JumpHost:
    if not isinstance(value := fields.plain(field, value), dict):
        raise fields.Invalid(field, "is not an object")
    wire, path = _convert(value, _WireHop), field + "."
    host, written = _host(path + "host", wire.host)
    return JumpHost(
        host=host,
        port=fields.port(path + "port", wire.port),
        username=fields.username(path + "username", wire.username),
        **_credential(path, wire),
        written=written,
    )
