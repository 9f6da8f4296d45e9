"""
What the fields of messages may be in JSON: for the schemas that ``make schemas`` writes (docs/schemas).

A schema never refuses what `relayd.wire.fields` accepts. It accepts some of what that refuses: JSON Schema has no words
for sizes in bytes, or for what a name means.

The patterns mean the same in the regular expressions of JavaScript, Python and Rust. So they have no ``\\p``, and have
``\\s`` only where more than blanks does no harm.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Meta

from relayd.network.spelling import MAX_NAME, MAX_USERNAME
from relayd.wire.fields import (
    MAX_CERTIFICATE,
    MAX_CWD,
    MAX_FINGERPRINT,
    MAX_HOPS,
    MAX_PASSWORD,
    MAX_PRIVATE_KEY,
    MAX_TIMEOUT,
    MAX_VARIABLES,
)
from relayd.wire.file_fields import MAX_FETCH, MAX_FILES
from relayd.wire.messages import MAX_COMMAND_ID
from relayd.wire.running_fields import MAX_ARGS, MAX_SIZE, MAX_TERM

Schema = dict[str, Any]

#: Where the schemas that several fields share are found.
REFERENCE: Final = "#/$defs/{name}"

#: Control characters, as they stand in a class of characters.
_CONTROL: Final = r"\u0000-\u001f\u007f-\u009f"
#: Blanks, as Python's `str.strip` knows them.
_BLANK: Final = r"\s\u001c-\u001f\u0085"
_NO_NUL: Final = r"^[^\u0000]*$"
#: A number as a text, or nothing but blanks.
_NUMBER: Final = rf"^[-+.eE0-9{_BLANK}]*$"


def _shared(name: str) -> Schema:
    return {"$ref": REFERENCE.format(name=name)}


_BUFFER: Final = _shared("Buffer")
_ABSENT: Final = _shared("Absent")


def _one_of(*alternatives: Schema) -> Meta:
    return Meta(extra_json_schema={"anyOf": list(alternatives)})


def _text(pattern: str, *, most: int | None = None, least: int = 0) -> Schema:
    """The schema of a text of *least* to *most* characters."""
    bounds = {"minLength": least or None, "maxLength": most}
    return {"type": "string", "pattern": pattern} | {name: bound for name, bound in bounds.items() if bound is not None}


def _optional_text(most: int) -> Meta:
    return _one_of(_text(_NO_NUL, most=most), _BUFFER, _ABSENT)


#: Shared by name.
SHARED: Final[dict[str, Schema]] = {
    "Absent": {"description": "The same as no field.", "enum": [None, "", {}, []]},
    "Buffer": {
        "description": "Bytes in place of a text, which they hold in UTF-8: a Buffer, as Node.js writes it in JSON.",
        "type": "object",
        "properties": {
            "type": {"const": "Buffer"},
            "data": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
        },
        "required": ["type", "data"],
    },
    "Refusal": {
        "description": "Why the relay refuses a command or a question.",
        "type": "object",
        "properties": {"error": {"type": "string"}},
        "required": ["error"],
    },
}

ANYTHING: Final = Meta(extra_json_schema={})
COMMAND_ID: Final = _one_of(
    _text(rf"^ *[^{_CONTROL} ][^{_CONTROL}]*$", most=MAX_COMMAND_ID, least=1),
    {"type": "number", "minimum": -(2**63), "maximum": 2**64 - 1},
    _BUFFER,
)
HOST: Final = _one_of(_text(rf"^ *[^{_CONTROL} /@,;*?!|#]+ *$", most=MAX_NAME, least=1), _BUFFER)
PORT: Final = _one_of({"type": "integer", "minimum": 1, "maximum": 65535}, _text(_NUMBER), _BUFFER, _ABSENT)
USERNAME: Final = _one_of(
    _text(rf"^[^{_CONTROL} :/]([^{_CONTROL}:/]*[^{_CONTROL} :/])?$", most=MAX_USERNAME, least=1), _BUFFER
)
COMMAND: Final = _one_of(_text(r"^[ \t\r\n]*[^ \t\r\n\u0000][^\u0000]*$", least=1), _BUFFER, _ABSENT)
SCRIPT: Final = COMMAND
INTERPRETER: Final = _one_of(_text(rf"^[^{_CONTROL}]+$", most=MAX_CWD), _BUFFER, _ABSENT)
ARGS: Final = _one_of(
    {"type": "array", "items": {"anyOf": [_text(r"^[^\r\n\u0000]*$"), _BUFFER, _ABSENT]}, "maxItems": MAX_ARGS}, _ABSENT
)
PASSWORD: Final = _optional_text(MAX_PASSWORD)
PRIVATE_KEY: Final = _optional_text(MAX_PRIVATE_KEY)
CERTIFICATE: Final = _optional_text(MAX_CERTIFICATE)
FINGERPRINT: Final = _one_of(
    _text(r"^ *([a-z0-9@.-]{1,64} )?SHA256:[A-Za-z0-9+/]{43}=? *$", most=MAX_FINGERPRINT), _BUFFER, _ABSENT
)
TIMEOUT: Final = _one_of(
    {"type": "number", "minimum": 0, "maximum": MAX_TIMEOUT * 1000}, _text(_NUMBER), _BUFFER, _ABSENT
)
_FLAGS: Final[tuple[Schema, ...]] = (
    {"type": "boolean"},
    {"enum": [0, 1]},
    _text("^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|0|1)$"),
    _BUFFER,
    _ABSENT,
)
FLAG: Final = _one_of(*_FLAGS)
CWD: Final = _one_of(_text(r"^([/~]|[A-Za-z]:[\\/])[^\r\n\u0000]*$", most=MAX_CWD), _BUFFER, _ABSENT)
ENVIRONMENT: Final = _one_of(
    {
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": {"anyOf": [_text(_NO_NUL), _BUFFER]},
        "maxProperties": MAX_VARIABLES,
    },
    _ABSENT,
)
_BYTES: Final[tuple[Schema, ...]] = (
    {"type": "string"},
    {
        "type": "object",
        "properties": {"base64": {"anyOf": [_text(rf"^[A-Za-z0-9+/={_BLANK}]*$"), _BUFFER, _ABSENT]}},
        "required": ["base64"],
        "additionalProperties": False,
    },
    _BUFFER,
    _ABSENT,
)
STDIN: Final = _one_of(*_BYTES)
#: The path of a file; that it has no ``..`` is for `relayd.wire.file_fields` to see.
_PATH: Final = {"anyOf": [_text(r"^(~?/|[A-Za-z]:[\\/])[^\r\n\u0000]*[^/\r\n\u0000]$", most=MAX_CWD), _BUFFER]}


def _members(properties: Schema) -> Meta:
    """An array of objects, each with a path."""
    member = {
        "type": "object",
        "properties": {"path": _PATH} | properties,
        "required": ["path"],
        "additionalProperties": False,
    }
    return _one_of({"type": "array", "items": member, "maxItems": MAX_FILES}, _ABSENT)


FILES: Final = _members(
    {
        "content": {"anyOf": list(_BYTES)},
        "mode": {"anyOf": [_text("^0?[0-7]{3}$"), _BUFFER, _ABSENT]},
        "sha256": {"anyOf": [_text("^[0-9a-fA-F]{64}$"), _BUFFER, _ABSENT]},
    }
)
FETCH: Final = _members(
    {"maxBytes": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_FETCH}, _text(_NUMBER), _BUFFER, _ABSENT]}}
)
ENCODING: Final = _one_of(_text("^[A-Za-z0-9 ._:-]*$"), _BUFFER, _ABSENT)
VIA: Final = _one_of({"type": "array", "items": _shared("JumpHost"), "maxItems": MAX_HOPS}, _ABSENT)
_SIZE: Final = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_SIZE}, _text(_NUMBER), _BUFFER, _ABSENT]}
PTY: Final = _one_of(
    *_FLAGS,
    {
        "type": "object",
        "properties": {
            "term": {"anyOf": [_text("^[A-Za-z0-9][A-Za-z0-9._+-]*$", most=MAX_TERM), _BUFFER, _ABSENT]},
            "cols": _SIZE,
            "rows": _SIZE,
        },
        "additionalProperties": False,
    },
)
BECOME: Final = _one_of(
    *_FLAGS,
    {
        "type": "object",
        "properties": {
            "method": {"anyOf": [{"enum": ["sudo", "su"]}, _BUFFER, _ABSENT]},
            "user": {
                "anyOf": [
                    _text(rf"^[^{_CONTROL} :/#-]([^{_CONTROL}:/]*[^{_CONTROL} :/])?$", most=MAX_USERNAME),
                    _BUFFER,
                    _ABSENT,
                ]
            },
            "password": {"anyOf": [_text(rf"^[^{_CONTROL}]*$", most=MAX_PASSWORD), _BUFFER, _ABSENT]},
        },
        "additionalProperties": False,
    },
)
