"""
What a main server says, in both dialects: text messages to events, and those to commands, receipts and questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from zope.interface import implementer

from relayd.errors import InvalidMessage, ProtocolError, RelayError
from relayd.interfaces import Acknowledge, Blame, ICommandReceiver, ILink
from relayd.network.flow import Flow
from relayd.uplink.connection import Outcome, UplinkConnection
from relayd.uplink.message_limit import MessageLimit
from relayd.uplink.presence import told_of
from relayd.uplink.settings import ConnectionSettings
from relayd.uplink.stages import Timing
from relayd.uplink.wire import Pieces, SessionListener
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import DialectEvent, EventReceived
from relayd.wire.failure_results import failure_result
from relayd.wire.messages import CommandState, ExecuteCommand, Receipt
from relayd.wire.parsing import parse_execute_command
from tests.fuzz.engine import CANARY, Target, check, check_words, grow
from tests.support.flows import RecordedFlow

#: Between two messages of an input; before one that is binary; and for an input that begins where events flow.
NEXT, BINARY, READY = b"\x1e", b"\x1f", b"\x1d"
#: Fields whose values no error may show.
_SECRET = ("password", "privateKey", "passphrase", "stdin", "env", "command")
#: Bytes that the relay may send for an input; each message has its answer.
_MOST_SENT = 4 * 2**20

OPEN = b'0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'
JOINED = b'40/proxy,{"sid":"t"}'
FINGERPRINT = "SHA256:" + "A" * 43

COMMANDS: tuple[dict[str, Any], ...] = (
    {
        "commandId": "c1",
        "serverId": 1,
        "host": "web1",
        "port": 22,
        "username": "root",
        "password": "p",
        "command": "id",
    },
    {
        "commandId": "c2",
        "serverId": "7",
        "host": "10.0.0.1",
        "port": "2222",
        "username": "u",
        "privateKey": "-----BEGIN",
        "passphrase": "q",
        "command": "a\nb",
        "timeout": 1500,
        "extended": True,
        "cwd": "~/x",
        "env": {"A": "b", "C": ""},
        "stdin": {"base64": "AAEC"},
        "files": [{"path": "/x", "content": {"base64": "AAEC"}, "mode": "0644", "sha256": "0" * 64}],
        "fetch": [{"path": "~/x", "maxBytes": 7}],
        "encoding": "base64",
        "stream": True,
        "pty": {"term": "xterm", "cols": 100},
        "become": {"method": "su", "user": "w", "password": "r"},
    },
    {
        "commandId": "c3",
        "serverId": 2.5,
        "host": "[fe80::1]",
        "port": 1,
        "username": "v",
        "password": "p",
        "command": "x",
        "stdin": "text",
        "hostKey": f"ssh-ed25519 {FINGERPRINT}",
        "certificate": "ssh-ed25519-cert-v01@openssh.com AAAA",
        "via": [
            {"host": "hop", "username": "j", "password": "r"},
            {"host": "hop2", "port": 2022, "username": "k", "privateKey": "s", "hostKey": FINGERPRINT},
        ],
    },
)
EVENTS: tuple[tuple[str, Any], ...] = (
    *(("execute_command", command) for command in COMMANDS),
    ("execute_command", {"commandId": "c4"}),
    ("execute_command", COMMANDS[0] | {"commandId": 5, "serverId": None, "port": None, "encoding": "gbk"}),
    ("execute_command", COMMANDS[0] | {"privateKey": {"type": "Buffer", "data": [107, 101, 121]}, "stdin": "x"}),
    ("cancel_command", {"commandId": 1.5}),
    ("command_result_received", {"success": True, "commandId": "c1"}),
    ("command_result_received", {"success": False, "error": {"a": [1, None]}}),
    ("cancel_command", {"commandId": "c1"}),
    ("command_status", {"commandId": "c1"}),
    ("other", [1, 2.5e3, None, "\\u00e4\\ud83d"]),
)
WORDS = (
    *(name for command in COMMANDS for name in command),
    *("execute_command", "command_result_received", "cancel_command", "command_status", "success", "error", "event"),
    *("/proxy,", "\\ud800", "\\u0000", "1e309", "null", "true", "base64", "9" * 400, '"', "[[[[[[[[", "{", "}", ":"),
    *(
        "451-/proxy,",
        "52-",
        "_placeholder",
        "Buffer",
        "num",
        '{"sid":"t"}',
        "40",
        "41",
        "42",
        "43",
        "44",
        "/proxy,0[",
        "\x1e",
        "\x1f",
    ),
)


class Planted:
    """
    A dialect that puts the canary in the place of every secret, so that whoever shows one is seen.

    :param dialect: the real one.
    """

    def __init__(self, dialect: Any) -> None:
        self._dialect = dialect

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dialect, name)

    def receive_text(self, text: str) -> Sequence[DialectEvent]:
        return self._planted(self._dialect.receive_text(text))

    def receive_binary(self, data: bytes) -> Sequence[DialectEvent]:
        return self._planted(self._dialect.receive_binary(data))

    def abandon(self, number: int) -> Sequence[DialectEvent]:
        return self._planted(self._dialect.abandon(number))

    def _planted(self, events: Sequence[DialectEvent]) -> Sequence[DialectEvent]:
        return [
            EventReceived(event.name, plant(event.data), event.ack_id) if isinstance(event, EventReceived) else event
            for event in events
        ]


def plant(data: object) -> object:
    """*data* with the canary in the place of each secret."""
    if not isinstance(data, dict):
        return data
    planted = {name: canaries(value) if name in _SECRET else value for name, value in data.items()}
    if isinstance(planted.get("via"), list):
        planted["via"] = [plant(hop) for hop in planted["via"]]
    return planted


def canaries(value: Any) -> Any:
    """*value* with the canary at the end of every text."""
    if isinstance(value, str):
        # what is wrong with it stays wrong
        return value + CANARY if value else value
    if isinstance(value, bytes):
        return value + CANARY.encode() if value else value
    if isinstance(value, dict):
        return {name: canaries(each) for name, each in value.items()}
    return [canaries(each) for each in value] if isinstance(value, list) else value


@implementer(ICommandReceiver)
class Receiver:
    """The command logic: looks at what it is told."""

    def __init__(self) -> None:
        self.ready = self.lost = 0

    def command_received(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        check_words(repr(command), 4000)
        again = parse_execute_command(command.to_wire())
        # on the wire, times are whole milliseconds
        if command.timeout is None or command.timeout >= 0.001:
            check(again == _rounded(command, again), "to_wire and back gives another command")
        acknowledge(None)

    def invalid_received(self, error: InvalidMessage, acknowledge: Acknowledge) -> None:
        check_words(error)
        if error.command_id is not None:
            msgspec.json.encode(failure_result(error.command_id, error, numeric_id=error.numeric_id).to_wire())
        acknowledge(error)

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        if receipt.error is not None:
            check_words(receipt.error, 200)

    def cancel_received(self, command_id: str) -> CommandState:
        return CommandState.RUNNING

    def status_asked(self, command_id: str) -> CommandState:
        return CommandState.QUEUED

    def check_asked(self, command: ExecuteCommand) -> RelayError | None:
        return None

    def link_ready(self, link: ILink) -> None:
        self.ready += 1

    def link_lost(self, link: ILink, blame: Blame) -> None:
        self.lost += 1


def _rounded(command: ExecuteCommand, again: ExecuteCommand) -> ExecuteCommand:
    if command.timeout is None or again.timeout is None or abs(command.timeout - again.timeout) > 0.0005001:
        return command
    return replace(command, timeout=again.timeout)


class Wire:
    """The WebSocket under a connection."""

    def __init__(self) -> None:
        self.flow: Flow = RecordedFlow()
        self.sent: list[bytes | Pieces] = []
        self.ended = False

    def report_to(self, listener: SessionListener) -> None:
        """Nothing to report but what the input says."""

    def send_text(self, payload: bytes | Pieces) -> None:
        self.sent.append(payload)

    def ping(self, payload: bytes = b"") -> None:
        """Nothing answers."""

    def hold(self, on: bool) -> None:
        """Everything comes all the same."""

    def close(self, code: int) -> None:
        check(1000 <= code < 1016, "a close code that there is not")
        self.ended = True

    def abort(self) -> None:
        self.ended = True


class Owner:
    """Keeps a connection."""

    def on_connection_ready(self, connection: UplinkConnection) -> None:
        """Events can flow."""

    def on_connection_accepted(self, connection: UplinkConnection) -> None:
        """The main server has really accepted the relay."""

    def on_message_ignored(self, connection: UplinkConnection) -> None:
        """The main server sent something that relayd does not use."""

    def on_status_update(self, connection: UplinkConnection, data: object) -> None:
        told_of(data, "p")


def connection_settings(timing: Timing) -> ConnectionSettings:
    """The settings of a connection that is fuzzed."""
    return ConnectionSettings(
        server="main", path="/proxy", timing=timing, max_result=1 << 20, defer_to_thread=maybeDeferred
    )


def _run(name: str, data: bytes) -> None:
    dialect, server = {
        "socketio": (socketio.SocketIORelayDialect, socketio.SocketIOServerDialect),
        "native": (native.NativeRelayDialect, native.NativeServerDialect),
    }[name]
    clock, receiver, wire, outcomes = Clock(), Receiver(), Wire(), list[Outcome]()
    timing = Timing()
    planted: Any = Planted(dialect())
    connection = UplinkConnection(
        clock, wire, planted, receiver, Owner(), MessageLimit(clock, "main"), connection_settings(timing)
    )
    note: Any = outcomes.append
    connection.finished.addCallback(note)
    connection.on_secured()
    connection.on_upgraded()
    if data.startswith(READY):
        data = data[len(READY) :]
        if name == "socketio":
            connection.on_text(OPEN.decode())
            connection.on_text(JOINED.decode())
        clock.advance(timing.probation + 1)
    for message in grow(data).split(NEXT):
        if wire.ended:
            break
        if message.startswith(BINARY):
            connection.on_binary(message[len(BINARY) :])
        else:
            connection.on_text(message.decode("utf-8", "ignore"))
        clock.advance(0.25)
    clock.pump([0.0] * 4)  # what had to wait for a turn of its own
    check(sum(map(len, wire.sent)) <= _MOST_SENT, "too much is sent")
    _check_sent(server(), wire.sent)
    connection.close()
    connection.on_closed(ConnectionDone())
    clock.pump([0.0] * 4)
    check(len(outcomes) == 1, "it does not end")
    check_words(outcomes[0].error)
    check(receiver.ready == receiver.lost <= 1, "a link that is not lost, or lost twice")
    check(not clock.getDelayedCalls(), "a timer is left")


def _check_sent(server: Any, sent: list[bytes | Pieces]) -> None:
    """The other role has to understand it."""
    server.opened()
    for payload in sent:
        try:
            server.receive_text(bytes(payload).decode())
        except ProtocolError as error:
            check(False, f"the other role does not understand: {error}")


def _seeds_socketio() -> Iterator[bytes]:
    frames = [f"42/proxy,{json.dumps(event)}".encode() for event in EVENTS]
    numbered = [f"42/proxy,{number}{json.dumps(event)}".encode() for number, event in enumerate(EVENTS)]
    yield NEXT.join((OPEN, JOINED, *frames))
    yield from (READY + frame for frame in (*frames, *numbered))
    yield NEXT.join((OPEN, b'44/proxy,{"message":"no"}'))
    yield NEXT.join((READY + b"2", b"2probe", b"3", b"6", b"41/proxy,"))
    yield NEXT.join((READY + b'451-/proxy,7["x",{"_placeholder":true,"num":0}]', BINARY + b"abc", b"43/proxy,1[2]"))
    place = {"_placeholder": True, "num": 0}
    for data in (COMMANDS[0] | {"privateKey": place}, COMMANDS[2] | {"stdin": place, "password": place | {"num": 1}}):
        frame = f"452-/proxy,7{json.dumps(['execute_command', data])}".encode()
        yield NEXT.join((READY + frame, b"2", BINARY + b"abc", BINARY + b"\xff", frame, BINARY + b"a", frames[0]))
    yield NEXT.join((READY + b"42/other,[1]", b"40/other,{}", b"1"))
    yield READY + b'42/proxy,["other","' + b"ab" * 8 + b'"]' + bytes((12, 1, 12, 0xFF))


def _seeds_native() -> Iterator[bytes]:
    frames = [json.dumps({"event": name, "data": data}).encode() for name, data in EVENTS]
    yield NEXT.join(frames)
    yield from (READY + frame for frame in frames)
    yield NEXT.join((b"[]", b'"hello"', BINARY + b"a", b'{"event":1}', b"ping", b"\xef\xbb\xbf" + frames[0]))
    yield from (READY + BINARY + frame for frame in frames)
    yield b'{"event":"x","data":[' + b"[[" + bytes((20, 0, 12, 0xFF))


TARGETS = {
    "relay-socketio": Target(partial(_run, "socketio"), _seeds_socketio, tuple(map(str.encode, WORDS))),
    "relay-native": Target(partial(_run, "native"), _seeds_native, tuple(map(str.encode, WORDS))),
}
