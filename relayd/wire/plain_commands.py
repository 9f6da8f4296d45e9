"""
Reads commands that are written as nearly all are, in one go. `relayd.wire.parsing` reads all others, field by field.

Both give the same. Whatever is wrong or unusual is left to the other one, which has the words for it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from relayd.wire import fields
from relayd.wire.hosts import spelling_of_host
from relayd.wire.messages import MAX_COMMAND_ID, ExecuteCommand, Secret


class _PlainCommand(Struct, rename="camel"):
    """A command without extensions but flags. Its bounds are those of `relayd.wire.fields`."""

    command_id: Annotated[str, Meta(max_length=MAX_COMMAND_ID)]
    host: str
    username: str
    command: str
    port: Annotated[int, Meta(ge=1, le=65535)] = fields.SSH_PORT
    password: Annotated[str, Meta(max_length=fields.MAX_PASSWORD)] | None = None
    private_key: Annotated[str, Meta(max_length=fields.MAX_PRIVATE_KEY)] | None = None
    passphrase: Annotated[str, Meta(max_length=fields.MAX_PASSWORD)] | None = None
    timeout: Annotated[float, Meta(ge=0, le=fields.MAX_TIMEOUT * 1000)] | None = None
    server_id: Any = None
    extended: bool | None = None
    stream: bool | None = None
    certificate: None = None
    host_key: None = None
    cwd: None = None
    env: None = None
    stdin: None = None
    encoding: None = None
    via: None = None
    pty: None = None
    become: None = None
    script: None = None
    interpreter: None = None
    args: None = None
    files: None = None
    fetch: None = None


def plain_command(data: object) -> ExecuteCommand | None:
    """
    The command in the data of an ``execute_command`` event; ``None``: it is not written plainly, or not valid.

    :param data: decoded JSON.
    """
    try:
        wire = msgspec.convert(data, _PlainCommand)
        host, written = _host(wire.host)
        username = _username(wire.username)
        for text in (wire.command, wire.password, wire.private_key, wire.passphrase):
            if text is not None and "\0" in text:
                return None
            if text is not None and not text.isascii():
                text.encode()  # which half of a surrogate pair has no UTF-8 for
    except (msgspec.ValidationError, UnicodeError, fields.Invalid):
        return None
    command_id, server_id, timeout = wire.command_id, wire.server_id, wire.timeout
    if not (command_id.isprintable() and command_id.strip() and wire.command.strip()):
        return None
    password, private_key, passphrase = wire.password, wire.private_key, wire.passphrase
    return ExecuteCommand(
        command_id=command_id,
        server_id=None if server_id is None else fields.server_id(server_id),
        host=host,
        written=written,
        port=wire.port,
        username=username,
        command=wire.command,
        password=Secret(password) if password else None,
        private_key=Secret(private_key) if private_key else None,
        passphrase=Secret(passphrase) if passphrase else None,
        timeout=timeout / 1000 if timeout else None,
        extended=wire.extended or False,
        stream=wire.stream or False,
    )


@lru_cache(4096)  # commands are for the same hosts again and again
def _host(text: str) -> tuple[str, str | None]:
    """
    A host in its canonical spelling, and as it is written where that differs.

    :raises Invalid: when it is not a host.
    """
    return spelling_of_host(fields.host("host", text))


@lru_cache(4096)
def _username(text: str) -> str:
    """
    A user's name.

    :raises Invalid: when it is not taken.
    """
    return fields.username("username", text)
