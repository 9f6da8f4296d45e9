"""
The schemas of all messages between relay and main server, from the types of ``relayd.wire``: JSON Schema, and AsyncAPI.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from relayd.wire import messages, parsing, policy_answer, relay_info, shapes
from relayd.wire.dialects.codec import PROXY_PATH

Schema = dict[str, Any]

FOLDER = "docs/schemas"
#: The version of the specification, and of the events below.
VERSION = "1.0"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"

# Messages ------------------------------------------------------------------------------------------------------------

#: Fields of a command and of a jump host that have to be there. No type says so: `relayd.wire.fields` does.
_REQUIRED = {
    parsing.WireCommand: ["commandId", "host", "username"],
    parsing.WireServer: ["host", "username"],
    parsing.WireQuestion: ["commandId"],
}
#: Of several fields, one is required.
_ONE_OF = {parsing.WireCommand: ["command", "script"]}
#: What is known of fields that the types of results leave open.
_SENT: dict[str, Schema] = {
    "commandId": {
        "description": "Names the command: a number where the main server's id is one.",
        "type": ["string", "number"],
        "maxLength": messages.MAX_COMMAND_ID,
    },
    "error": {
        "type": "object",
        "properties": {
            "code": {"type": "string", "description": "A stable name: see docs/howto/errors.rst."},
            "phase": {"type": "string", "description": "How far the command had come."},
            "executed": {"enum": ["yes", "no", "unknown"], "description": "Whether the command ran."},
            "retriable": {"type": "boolean", "description": "Whether the same command may succeed later."},
        },
        "required": ["code", "phase", "executed", "retriable"],
    },
    "timings": {
        "type": "object",
        "properties": {phase: {"type": "number", "minimum": 0} for phase in messages.Timings.__annotations__},
        "required": ["wait", "run"],
    },
}

_PROXY_STATUS: Schema = {
    "description": "A relay is online or offline: for all relays. A relay that is offline by this connects again.",
    "type": "object",
    "properties": {
        "id": {"description": "The proxyId of the relay, a string or an integer."},
        "proxyId": {"type": ["string", "integer"], "description": "The same. If it is there, id does not count."},
        "status": {"type": "string", "description": "online or offline; relays ignore any other."},
    },
    "required": ["status"],
    "if": {"properties": {"proxyId": True}, "required": ["proxyId"]},
    "else": {"properties": {"id": {"type": ["string", "integer"]}}},
}
_CONNECT: Schema = {
    "description": "The payload of Socket.IO's CONNECT packet (handshake.auth); the URL's query has both as well.",
    "type": "object",
    "properties": {"proxyId": {"type": "string", "minLength": 1}, "apiKey": {"type": "string", "minLength": 1}},
    "required": ["proxyId", "apiKey"],
}


def _of_type(kind: type[msgspec.Struct]) -> Schema:
    """The schema of a type, with the descriptions of its docstring."""
    schema: Schema = msgspec.json.schema(kind, ref_template=shapes.REFERENCE)
    schema = schema["$defs"][kind.__name__]
    about, _, described = (kind.__doc__ or "").partition("\n    :ivar ")
    texts = dict(_described(described))
    properties = {name: _plain(of) for name, of in schema["properties"].items() if name != "numericId"}
    for name, of in properties.items():
        if texts.get(name):
            properties[name] = {"description": texts[name]} | of
    required = _REQUIRED.get(kind, schema["required"])
    one_of = [{"properties": {name: True}, "required": [name]} for name in _ONE_OF.get(kind, ())]
    first = [*required, *_ONE_OF.get(kind, ())]
    return {
        "description": _words(about.split("\n\n", 1)[0]),
        "type": "object",
        "properties": {**{name: properties[name] for name in first}, **properties},
        "required": required,
        **({"anyOf": one_of} if one_of else {}),
    }


def _described(text: str) -> Iterator[tuple[str, str]]:
    """Names on the wire and texts of ``:ivar name: text``."""
    for entry in text.split("\n    :ivar "):
        name, _, words = entry.partition(":")
        head, *more = name.split("_")
        yield head + "".join(word.capitalize() for word in more), _words(words)


def _words(text: str) -> str:
    """The text of a docstring without its lines and its markup, as a sentence."""
    words = re.sub(r"`+", "", " ".join(textwrap.dedent(text).split()))
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "…")) else ".")


def _plain(schema: Schema) -> Schema:
    """A property without its default, which is not on the wire."""
    return {name: value for name, value in schema.items() if name != "default"}


def _sent(schema: Schema) -> Schema:
    """What relayd itself sends: without nulls, which it leaves out, and with what the types leave open."""
    properties = {}
    for name, of in schema["properties"].items():
        kinds = [kind for kind in of.get("anyOf", []) if kind != {"type": "null"}]
        if name in _SENT:
            kept = _SENT[name]
        elif len(kinds) == 1:
            kept = kinds[0]
        else:
            kept = {key: value for key, value in of.items() if key != "description"}
        if None in kept.get("enum", ()):
            kept = {"enum": [word for word in kept["enum"] if word is not None]}
        properties[name] = ({"description": of["description"]} if "description" in of else {}) | kept
    return schema | {"properties": properties}


def _result() -> Schema:
    body, details = _sent(_of_type(parsing.WireResultBody)), _sent(_of_type(messages.Details))
    body["properties"] |= details["properties"]
    result = _sent(_of_type(parsing.WireResult))
    result["properties"]["result"] = body
    return result


def _status() -> Schema:
    status = _sent(_of_type(messages.CommandStatus))
    status["properties"]["state"] |= {"enum": [state.value for state in messages.CommandState]}
    status["properties"]["state"].pop("$ref", None)
    return status


def _fetched() -> Schema:
    fetched = _of_type(messages.Fetched)
    described = {name: of["description"] for name, of in fetched["properties"].items()}
    fetched = _sent(fetched)
    fetched["properties"]["error"] = {"description": described["error"], "type": "string"}
    fetched["properties"]["content"] = {
        "description": described["content"],
        "type": "object",
        "properties": {"base64": {"type": "string"}},
        "required": ["base64"],
    }
    return fetched


def _receipt() -> Schema:
    receipt = _of_type(parsing.WireReceipt)
    del receipt["properties"]["commandId"]["anyOf"]
    receipt["properties"]["commandId"] |= {"type": ["string", "number", "null"], "maxLength": messages.MAX_COMMAND_ID}
    return receipt


def _answer(*schemas: Schema) -> Schema:
    return {
        "description": "The argument of the acknowledgement, if the main server asked for one; there may be none.",
        "anyOf": [*schemas, _shared("Refusal")],
    }


def _shared(name: str) -> Schema:
    return {"$ref": shapes.REFERENCE.format(name=name)}


def to_relay() -> dict[str, Schema]:
    """What the main server sends, by the name of the event."""
    question = _of_type(parsing.WireQuestion)
    return {
        messages.EXECUTE_COMMAND: _of_type(parsing.WireCommand),
        messages.COMMAND_RESULT_RECEIVED: _receipt(),
        messages.CANCEL_COMMAND: question | {"description": "End this command."},
        messages.COMMAND_STATUS: question | {"description": "How far has this command come?"},
        messages.CHECK_COMMAND: _of_type(parsing.WireCommand)
        | {"description": "Do the rules of your site allow this command? It is not run, and needs no secret."},
        messages.RELAY_INFO: {"description": "What are you? The data means nothing, and may be missing."},
        messages.PROXY_STATUS_UPDATE: _PROXY_STATUS,
    }


def to_main_server() -> dict[str, Schema]:
    """What the relay sends: events, and the payload of CONNECT and of acknowledgements in Socket.IO."""
    return {
        messages.COMMAND_RESULT: _result(),
        messages.COMMAND_OUTPUT: _sent(_of_type(messages.CommandOutput)),
        messages.COMMAND_STATUS: _status(),
        messages.CHECK_COMMAND: {"anyOf": [_shared("PolicyAnswer"), _shared("Refusal")]},
        messages.RELAY_INFO: {"anyOf": [_shared("RelayInfo"), _shared("Refusal")]},
        "connect": _CONNECT,
        f"{messages.EXECUTE_COMMAND}.ack": _answer(),
        f"{messages.CANCEL_COMMAND}.ack": _answer(_shared("CommandStatus")),
        f"{messages.COMMAND_STATUS}.ack": _answer(_shared("CommandStatus")),
        f"{messages.CHECK_COMMAND}.ack": _answer(_shared("PolicyAnswer")),
        f"{messages.RELAY_INFO}.ack": _answer(_shared("RelayInfo")),
    }


def shared() -> dict[str, Schema]:
    """What several of them refer to."""
    about_itself = (relay_info.RelayInfo, relay_info.RelayLimits, relay_info.KnownHosts, relay_info.MainServers)
    told = (*about_itself, policy_answer.PolicyAnswer)
    return (
        shapes.SHARED
        | {"JumpHost": _of_type(parsing.WireServer), "CommandStatus": _status(), "Fetched": _fetched()}
        | {kind.__name__: _sent(_of_type(kind)) for kind in told}
    )


def files() -> dict[str, str]:
    """The AsyncAPI description and the JSON Schema of each message, each complete in itself, by its file."""
    made = {f"{FOLDER}/asyncapi.json": asyncapi()}
    for direction, schemas in (("to-relay", to_relay()), ("to-main-server", to_main_server())):
        for name, schema in schemas.items():
            whole: Schema = {"$schema": _DIALECT, "title": name, **schema}
            if used := _used(schema):
                whole["$defs"] = used
            made[f"{FOLDER}/{direction}/{name}.json"] = _json(whole)
    return made


def _used(schema: Schema) -> dict[str, Schema]:
    """The shared schemas that *schema* needs, and those that these need."""
    found: dict[str, Schema] = {}
    waiting = [schema]
    while waiting:
        for name in re.findall(r'"#/\$defs/(\w+)"', json.dumps(waiting.pop())):
            if name not in found:
                found[name] = shared()[name]
                waiting.append(found[name])
    return dict(sorted(found.items()))


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# AsyncAPI ------------------------------------------------------------------------------------------------------------

_ABOUT = """\
relayd, seen from the relay: it dials the main server, receives commands, and sends results. docs/protocol.rst has
everything that schemas cannot say.

Fields that a schema does not name are ignored. A later version of relayd may send more fields, in extended results.
"""
_CHANNELS: dict[str, dict[str, str]] = {
    "socketio": {
        "address": "/socket.io/",
        "description": f"Socket.IO 5 in the namespace {PROXY_PATH}: the payload is the argument of the event.",
    },
    "native": {
        "address": PROXY_PATH,
        "description": "A plain WebSocket: each event is one text message in JSON, with the payload in it as data.",
    },
}
_QUERY = {"proxyId": {"type": "string"}, "apiKey": {"type": "string"}}
_QUERIES: dict[str, Schema] = {
    "socketio": {"EIO": {"const": "4"}, "transport": {"enum": ["websocket", "polling"]}} | _QUERY,
    "native": _QUERY,
}


def asyncapi() -> str:
    """The AsyncAPI description of both dialects."""
    made = {"receive": to_relay(), "send": to_main_server()}
    schemas = dict(shared())
    schemas |= {f"{action}.{name}": schema for action, all_of in made.items() for name, schema in all_of.items()}
    whole: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {"title": "relayd", "version": VERSION, "description": _ABOUT},
        "defaultContentType": "application/json",
        "channels": {},
        "operations": {},
        "components": {"messages": {}, "schemas": schemas},
    }
    for dialect in _CHANNELS:
        _add_channel(whole, dialect, made)
    return _json(whole).replace("#/$defs/", "#/components/schemas/")


def _add_channel(whole: dict[str, Any], dialect: str, made: dict[str, dict[str, Schema]]) -> None:
    query = {"type": "object", "properties": _QUERIES[dialect], "required": list(_QUERIES[dialect])}
    channel: dict[str, Any] = {**_CHANNELS[dialect], "messages": {}, "bindings": {"ws": {"query": query}}}
    whole["channels"][dialect] = channel
    for action, schemas in made.items():
        for name in schemas:
            event, _, answer = name.partition(".")
            if dialect == "native" and (answer or event == "connect"):  # it has neither
                continue
            key = f"{dialect}.{action}.{name}"
            payload: Schema = {"$ref": f"#/components/schemas/{action}.{name}"}
            if dialect == "native":
                frame = {"event": {"const": event}, "data": payload}
                payload = {"type": "object", "properties": frame, "required": ["event", "data"]}
            whole["components"]["messages"][key] = {"name": event, "title": name, "payload": payload}
            channel["messages"][key] = {"$ref": f"#/components/messages/{key}"}
            if not answer:
                whole["operations"][key] = _operation(action, dialect, key)
    for name in made["send"]:
        event, _, answer = name.partition(".")
        if answer and dialect != "native":
            whole["operations"][f"{dialect}.receive.{event}"]["reply"] = {
                "channel": {"$ref": f"#/channels/{dialect}"},
                "messages": [{"$ref": f"#/channels/{dialect}/messages/{dialect}.send.{name}"}],
            }


def _operation(action: str, dialect: str, key: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{dialect}"},
        "messages": [{"$ref": f"#/channels/{dialect}/messages/{key}"}],
    }
