"""
Holds every event of the tests against docs/schemas: those of dialects in this process (`watch`), and those that peers
in other processes say they sent and got (`tests.support.script`).

An event that does not fit its schema is an error of the test that runs, unless the test has marked its data as
`malformed`.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import jsonschema_rs
import msgspec
from twisted.python import log

from relayd.errors import InvalidMessage
from relayd.uplink.link import Link
from relayd.wire.dialects.events import AckReceived, EventReceived
from relayd.wire.dialects.native import NativeRelayDialect, NativeServerDialect
from relayd.wire.dialects.socketio import SocketIORelayDialect, SocketIOServerDialect
from relayd.wire.messages import (
    CANCEL_COMMAND,
    CHECK_COMMAND,
    COMMAND_RESULT_RECEIVED,
    COMMAND_STATUS,
    EXECUTE_COMMAND,
)
from relayd.wire.parsing import parse_execute_command, parse_question, parse_receipt
from relayd.wire.unsent import Unsent

T = TypeVar("T")

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schemas"
TO_RELAY, TO_MAIN_SERVER = "to-relay", "to-main-server"

#: What reads each event at the relay.
READERS: dict[str, Callable[[Any], object]] = {
    EXECUTE_COMMAND: parse_execute_command,
    COMMAND_RESULT_RECEIVED: parse_receipt,
    CANCEL_COMMAND: functools.partial(parse_question, CANCEL_COMMAND),
    COMMAND_STATUS: functools.partial(parse_question, COMMAND_STATUS),
    CHECK_COMMAND: functools.partial(parse_execute_command, event=CHECK_COMMAND),
}
#: Faults that one process reports: a peer may send very many.
MOST_REPORTED: Final = 100
_reported: list[str] = []
#: The data, as JSON, that a test has marked.
_malformed: set[tuple[str, str]] = set()
#: Something while nothing is checked.
_unchecked: list[bool] = []


class Misfit(AssertionError):
    """An event does not fit its schema."""


def closed(schema: Any) -> Any:
    """A schema that refuses what it does not name: relayd sends nothing that its schemas do not have."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    tight = {name: closed(value) for name, value in schema.items()}
    return tight | {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else tight


def _validators(direction: str) -> Iterator[tuple[tuple[str, str], jsonschema_rs.Draft202012Validator]]:
    for path in (FOLDER / direction).glob("*.json"):
        schema = json.loads(path.read_text("utf-8"))
        strict = closed(schema) if direction == TO_MAIN_SERVER else schema
        yield (direction, path.stem), jsonschema_rs.Draft202012Validator(strict)


#: By direction and event.
VALIDATORS: Final = dict([*_validators(TO_RELAY), *_validators(TO_MAIN_SERVER)])


def report(fault: str) -> None:
    """Make *fault* an error of the test that runs; a program that is no test puts something else in its place."""
    if len(_reported) < MOST_REPORTED:
        _reported.append(fault)
        log.err(Misfit(fault))


def fault_of(direction: str, name: str, data: object) -> str | None:
    """Why an event does not fit its schema; ``None``: it does, or it has none."""
    found = VALIDATORS.get((direction, name))
    if found is None or found.is_valid(data):
        return None
    errors = [f"{'.'.join(map(str, each.instance_path))}: {each.message}" for each in found.iter_errors(data)]
    return "; ".join(error if len(error) < 300 else f"{error[:150]} … {error[-150:]}" for error in errors)


def malformed(data: T, name: str = EXECUTE_COMMAND, direction: str = TO_RELAY) -> T:
    """
    Mark the data of an event that is to break its schema.

    :return: *data*.
    :raises AssertionError: when it fits its schema.
    """
    plain = as_json(data)
    if fault_of(direction, name, plain) is None:
        raise AssertionError(f"{name} is not malformed: {data!r}")
    _malformed.add((name, json.dumps(plain)))
    return data


def wrong(data: T) -> T:
    """Mark the data of a command that relayd refuses, which its schema has perhaps no words for."""
    if fault_of(TO_RELAY, EXECUTE_COMMAND, as_json(data)) is not None:
        malformed(data)
    return data


@contextmanager
def unchecked() -> Iterator[None]:
    """Within this, events are any texts: a test of what frames them."""
    _unchecked.append(True)
    try:
        yield
    finally:
        _unchecked.pop()


def check_said(direction: str, name: str, data: object) -> None:
    """A main server in another process says that it sent an event, or got one from a relay."""
    if direction == TO_MAIN_SERVER:
        check_relay(name, data)
    else:
        check(direction, name, data)


def check_relay(name: str, data: object) -> None:
    """A relay, rather than a test, sends an event to the main server: as `check`, and it has to be one of ours."""
    if (TO_MAIN_SERVER, name) not in VALIDATORS:
        report(f"a relay sends the event {name}, which has no schema")
    check(TO_MAIN_SERVER, name, data)


def check(direction: str, name: str, data: object) -> None:
    """An event was sent: a fault of it, unless it is marked, is an error of the test that runs."""
    if _unchecked or (direction, name) not in VALIDATORS:
        return
    plain = as_json(data)
    fault = fault_of(direction, name, plain)
    if fault is None:
        return
    if (name, json.dumps(plain)) not in _malformed:
        report(f"{name} {direction} does not fit its schema, and is not marked as malformed: {fault}")
    elif direction == TO_RELAY and name in READERS and _is_read(name, data):
        report(f"{name} does not fit its schema, but relayd accepts it: {fault}")


def _is_read(name: str, data: object) -> bool:
    try:
        READERS[name](data)
    except InvalidMessage:
        return False
    return True


def as_json(data: object) -> object:
    """
    *data* as JSON has it: bytes as Node.js writes them, and what is no number as relayd reads it
    (`relayd.wire.dialects.codec.read_json`).
    """
    if isinstance(data, dict):
        return {name: as_json(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [as_json(value) for value in data]
    if isinstance(data, msgspec.Raw):
        return msgspec.json.decode(data)
    if isinstance(data, float) and not math.isfinite(data):
        return None if math.isnan(data) else int(math.copysign(sys.float_info.max, data))
    if isinstance(data, float) and data == int(data):
        return int(data)  # as JavaScript writes it
    return {"type": "Buffer", "data": list(data)} if isinstance(data, bytes) else data


# Dialects in this process --------------------------------------------------------------------------------------------


def watch() -> None:
    """From now on, check every event that a dialect in this process sends or gets, at both ends."""
    for relay in (SocketIORelayDialect, NativeRelayDialect):
        _check_sent(relay, "send_event", TO_MAIN_SERVER)
        _check_sent(relay, "event_frame", TO_MAIN_SERVER)
        _check_received(relay, TO_RELAY)
    for server in (SocketIOServerDialect, NativeServerDialect):
        _check_sent(server, "send_event", TO_RELAY)
        _check_received(server, TO_MAIN_SERVER)
    _check_sent(SocketIOServerDialect, "request", TO_RELAY)
    _check_acknowledged(SocketIORelayDialect)
    _check_link()


def _names(dialect: Any) -> dict[int, str]:
    """The events that want an acknowledgement, by its number."""
    names: dict[int, str] = dialect.__dict__.setdefault("events_to_acknowledge", {})
    return names


def _check_sent(kind: Any, method: str, direction: str) -> None:
    send = getattr(kind, method)

    @functools.wraps(send)
    def checked(self: Any, name: str, data: object) -> Any:
        check(direction, name, data)
        ack_id = send(self, name, data)
        if isinstance(ack_id, int):
            _names(self)[ack_id] = name
        return ack_id

    setattr(kind, method, checked)


def _check_link() -> None:
    send = Link.send_event

    @functools.wraps(send)
    def checked(self: Any, name: str, data: object) -> None:
        check_relay(name, data)
        send(self, name, data)

    Link.send_event = checked  # type: ignore[method-assign]


def _check_acknowledged(kind: Any) -> None:
    acknowledge = kind.acknowledge

    @functools.wraps(acknowledge)
    def checked(self: Any, ack_id: int, data: object | None) -> None:
        _check_answer(_names(self).get(ack_id), data)
        acknowledge(self, ack_id, data)

    kind.acknowledge = checked


def _check_received(kind: Any, direction: str) -> None:
    for method in ("receive_text", "receive_binary", "abandon"):
        setattr(kind, method, _checking(getattr(kind, method), direction))


def _checking(receive: Any, direction: str) -> Any:
    @functools.wraps(receive)
    def checked(self: Any, received: Any) -> Sequence[Any]:
        events: Sequence[Any] = receive(self, received)
        for event in events:
            if isinstance(event, EventReceived):
                if (direction, event.name) in VALIDATORS and not _has_unsent(event.data):
                    check(direction, event.name, event.data)
                if event.ack_id is not None:
                    _names(self)[event.ack_id] = event.name
            if isinstance(event, AckReceived):
                _check_answer(_names(self).get(event.ack_id), event.data)
        return events

    return checked


def _check_answer(name: str | None, data: object | None) -> None:
    if name is not None and data is not None:
        check(TO_MAIN_SERVER, f"{name}.ack", data)


def _has_unsent(data: object) -> bool:
    """Whether something stands for what did not come: this is then not the data that was sent."""
    if isinstance(data, dict | list):
        return any(map(_has_unsent, data.values() if isinstance(data, dict) else data))
    return isinstance(data, Unsent)
