"""
docs/schemas against what reads and writes messages: a schema refuses nothing that relayd accepts, and knows all fields.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import InvalidMessage, Overloaded
from relayd.uplink.presence import told_of
from relayd.wire.failure_results import describe_error
from relayd.wire.messages import CommandOutput, CommandResult, CommandState, CommandStatus, Details
from relayd.wire.parsing import WireCommand, WireServer, parse_execute_command, parse_question, parse_receipt
from tests.support import schemas
from tests.support.schemas import FOLDER, TO_MAIN_SERVER, TO_RELAY, as_json, check, closed, fault_of, malformed
from tests.wire.test_messages import EXTENSIONS, FINGERPRINT, GOOD, HOP, JSON, REQUIRED

#: Bytes as they may come in place of a text.
BUFFERS = (b"root", b"", b"22", {"type": "Buffer", "data": [49]})
#: Values that some field accepts, or nearly.
VALUES = (
    *(None, "", {}, [], True, False, 0, 1, 22, 22.0, 22.5, -1, 65535, 65536, 2**63, 2**64, 1e300),
    *("0", "1", "true", "FALSE", "22", " 22 ", "22.0", "2.2e1", "+22", "nan", "inf", "x", " ", "\u3000", "\x1c22\x85"),
    *(
        "a\nb",
        "a\0b",
        "a b",
        " a ",
        "a:b",
        "a/b",
        "::1",
        "[::1]",
        "[fe80::1%25eth0]",
        "ü.example",
        "x" * 256,
        "x" * 257,
    ),
    *("/", "~", "~x/y", "/a b", "/a\n", "gbk", "base64", FINGERPRINT, f"ssh-rsa {FINGERPRINT}=", f" {FINGERPRINT} "),
    *({"A": "1"}, {"A": b"1"}, {"1": "1"}, {"A": 1}, {"base64": "eA=="}, {"base64": " eA\n=="}, {"base64": None}),
    *([HOP], [HOP] * 8, [HOP] * 9, [HOP | {"port": None}], [HOP | {"port": "x"}], [{"host": "h"}]),
)
FIELDS = st.sampled_from([*GOOD, *EXTENSIONS, "privateKey", "passphrase"])
ANY = st.sampled_from([*VALUES, *BUFFERS]) | JSON | st.text(max_size=300)


def schema(direction: str, name: str) -> Any:
    return json.loads((FOLDER / direction / f"{name}.json").read_text())


class CommandTests(SynchronousTestCase):
    """``execute_command``."""

    @given(FIELDS, ANY)
    @example("port", "\x1c22\x85")
    @example("timeout", "\u3000" * 40)
    @example("command", "\ufeff")
    def test_nothing_is_refused_that_relayd_accepts(self, name: str, value: Any) -> None:
        order = GOOD | {name: value}
        try:
            parse_execute_command(order)
        except InvalidMessage:
            return
        self.assertIsNone(fault_of(TO_RELAY, "execute_command", as_json(order)))

    def test_nothing_of_these_either(self) -> None:
        """Each value in each field, whatever hypothesis chooses."""
        accepted = 0
        for name in (*GOOD, *EXTENSIONS, "privateKey", "passphrase"):
            for value in (*VALUES, *BUFFERS):
                order = GOOD | {name: value}
                try:
                    parse_execute_command(order)
                except InvalidMessage:
                    continue
                accepted += 1
                self.assertIsNone(fault_of(TO_RELAY, "execute_command", as_json(order)), (name, value))
        self.assertGreater(accepted, 400)

    def test_most_mistakes_are_seen(self) -> None:
        """Each field has some; what JSON Schema has no words for is left to relayd."""
        seen: set[str] = set()
        unseen = []
        for name in (*GOOD, *EXTENSIONS, "privateKey", "passphrase"):
            for value in VALUES:
                order = GOOD | {name: value}
                try:
                    parse_execute_command(order)
                except InvalidMessage:
                    if fault_of(TO_RELAY, "execute_command", as_json(order)) is None:
                        unseen.append((name, value))
                    else:
                        seen.add(name)
        self.assertEqual(seen, {*GOOD, *EXTENSIONS, "privateKey", "passphrase"} - {"serverId"})
        self.assertLess(len(unseen), 60, unseen)

    def test_fields(self) -> None:
        described = schema(TO_RELAY, "execute_command")
        names = msgspec.structs.fields(WireCommand)
        self.assertEqual(set(described["properties"]), {field.encode_name for field in names})
        hop = described["$defs"]["JumpHost"]
        self.assertEqual(set(hop["properties"]), {field.encode_name for field in msgspec.structs.fields(WireServer)})
        self.assertEqual({*described["required"], "command"}, set(REQUIRED))
        self.assertEqual([each["required"] for each in described["anyOf"]], [["command"], ["script"]])
        for name, of in (described["properties"] | hop["properties"]).items():
            self.assertTrue(of["description"], name)
            self.assertEqual(set(of) == {"description"}, name == "serverId", name)

    def test_everything_at_once(self) -> None:
        self.assertIsNone(fault_of(TO_RELAY, "execute_command", GOOD | EXTENSIONS | {"more": [1]}))
        script = {"script": "x", "interpreter": "python3", "args": ["a", ""]}
        self.assertIsNone(fault_of(TO_RELAY, "execute_command", GOOD | script | {"command": None}))
        without = {name: value for name, value in GOOD.items() if name != "command"}
        self.assertIsNone(fault_of(TO_RELAY, "execute_command", without | script))
        self.assertIsNotNone(fault_of(TO_RELAY, "execute_command", without))


class OtherTests(SynchronousTestCase):
    """The other events."""

    @given(st.dictionaries(st.sampled_from(["success", "commandId", "error"]), ANY))
    def test_of_the_main_server(self, data: dict[str, Any]) -> None:
        for name, read in (
            ("command_result_received", parse_receipt),
            ("cancel_command", lambda each: parse_question("cancel_command", each)),
            ("command_status", lambda each: parse_question("command_status", each)),
        ):
            try:
                read(data)
            except InvalidMessage:
                continue
            self.assertIsNone(fault_of(TO_RELAY, name, as_json(data)), name)

    @given(st.dictionaries(st.sampled_from(["id", "proxyId", "more"]), ANY | st.just("p")), st.sampled_from(["p", "1"]))
    @example({"id": None, "proxyId": "p"}, "p")
    @example({"id": 1}, "1")
    def test_of_presence(self, data: dict[str, Any], relay: str) -> None:
        data |= {"status": "offline"}
        if told_of(data, relay) is not None:
            self.assertIsNone(fault_of(TO_RELAY, "proxy_status_update", as_json(data)))

    def test_results(self) -> None:
        details = Details(
            error=describe_error(Overloaded(running=1, queued=1)),
            signal="KILL",
            truncated=True,
            stdout_bytes=1,
            stderr_bytes=1,
            timings=dict.fromkeys(("wait", "connect", "keyExchange", "login", "run"), 0.5),
            killed="confirmed",
            output_open=True,
            encoding="base64",
        )
        for command_id, numeric in (("c1", False), ("7", True), ("1.5", True)):
            result = CommandResult(command_id=command_id, numeric_id=numeric, stdout="", stderr="", exit_code=137)
            for wire in (result, msgspec.structs.replace(result, details=details, extended=True)):
                self.assertIsNone(fault_of(TO_MAIN_SERVER, "command_result", wire.to_wire()))
        body = schema(TO_MAIN_SERVER, "command_result")["properties"]["result"]
        names = {field.encode_name for field in msgspec.structs.fields(Details)}
        self.assertEqual(set(body["properties"]), names | {"stdout", "stderr", "exitCode"})

    def test_output_and_status(self) -> None:
        output = CommandOutput(command_id="7", numeric_id=True, stream="stderr", offset=1, data="x", encoding="base64")
        self.assertIsNone(fault_of(TO_MAIN_SERVER, "command_output", output.to_wire()))
        for state in CommandState:
            status = CommandStatus(command_id="c1", state=state).to_wire()
            for name in ("command_status", "command_status.ack", "cancel_command.ack"):
                self.assertIsNone(fault_of(TO_MAIN_SERVER, name, status))


class HookTests(SynchronousTestCase):
    """What holds every event of the tests against the schemas: it would see a fault."""

    def faults(self) -> int:
        schemas._reported.clear()
        return len(self.flushLoggedErrors(schemas.Misfit))

    def test_a_fault_is_an_error(self) -> None:
        result = {"commandId": "c1", "result": {"stdout": "", "stderr": "", "exitCode": 0, "more": 1}}
        for direction, name, data in (
            (TO_RELAY, "execute_command", GOOD | {"port": "x"}),
            (TO_MAIN_SERVER, "command_result", result),
            (TO_MAIN_SERVER, "command_status.ack", {"state": "queued"}),
        ):
            check(direction, name, data)
            self.assertEqual(self.faults(), 1, name)
        schemas.check_said(TO_MAIN_SERVER, "news", None)
        self.assertEqual(self.faults(), 1)

    def test_what_is_marked_is_none(self) -> None:
        check(TO_RELAY, "execute_command", malformed(GOOD | {"port": "marked"}))
        self.assertEqual(self.faults(), 0)
        self.assertRaises(AssertionError, malformed, GOOD)

    def test_a_schema_that_is_too_strict(self) -> None:
        """relayd accepts what the schema refuses: that is a fault, marked or not."""
        self.patch(schemas, "fault_of", lambda *_: "no")
        check(TO_RELAY, "execute_command", malformed(GOOD | {"command": "too strict"}))
        self.assertEqual(self.faults(), 1)

    def test_closed(self) -> None:
        self.assertEqual(
            closed({"properties": {"a": {"properties": {}}}}),
            {"properties": {"a": {"properties": {}, "additionalProperties": False}}, "additionalProperties": False},
        )

    def test_dialects_are_watched(self) -> None:
        from relayd.wire.dialects.native import NativeRelayDialect, NativeServerDialect

        server, relay = NativeServerDialect(), NativeRelayDialect()
        server.send_event("cancel_command", {"command": "c1"})
        self.assertEqual(self.faults(), 1)
        relay.receive_text(server.frames_to_send()[0])
        self.assertEqual(self.faults(), 1)
