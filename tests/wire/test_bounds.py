"""
Every text that a main server sends has a bound: beyond it the order is refused, by the field's name, and none is shown.
"""

from __future__ import annotations

import json
import re
from typing import Any
from unittest import mock

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import InvalidMessage, ProtocolError
from relayd.network import spelling
from relayd.wire import fields, parsing
from relayd.wire.dialects import codec, engineio, native, packets, repair, socketio
from relayd.wire.dialects.codec import MAX_NAME
from relayd.wire.dialects.events import EventReceived, Ignored
from relayd.wire.messages import MAX_COMMAND_ID, Receipt
from relayd.wire.parsing import (
    parse_command_output,
    parse_command_result,
    parse_command_status,
    parse_execute_command,
    parse_question,
    parse_receipt,
)

#: A character that nothing else has.
CANARY = "\N{SNOWMAN}"
HUGE = CANARY * (6 << 20)
ORDER = {"commandId": "c1", "serverId": 1, "host": "h", "port": 22, "username": "u", "password": "p", "command": "id"}
HOP = {"host": "h", "username": "u"}
MOST = {
    "host": spelling.MAX_NAME,
    "username": spelling.MAX_USERNAME,
    "password": fields.MAX_PASSWORD,
    "passphrase": fields.MAX_PASSWORD,
    "privateKey": fields.MAX_PRIVATE_KEY,
    "certificate": fields.MAX_CERTIFICATE,
}
#: What may be as large as a message, or is looked at no further.
FREE = {"command", "stdin", "serverId"}


def order(place: str, name: str, value: object) -> dict[str, Any]:
    """An order with *value* in one of its fields, or of its jump host's."""
    if place:
        return {**ORDER, "via": [{**HOP, name: value}]}
    return {**ORDER, name: value}


class OrderTests(SynchronousTestCase):
    def refused(self, data: object, field: str) -> str:
        error = self.assertRaises(InvalidMessage, parse_execute_command, data)
        self.assertEqual(error.fields["field"], field)
        self.assertNotIn(CANARY, str(error))
        self.assertLess(len(str(error)), 200)
        return str(error)

    def test_names_and_credentials(self) -> None:
        for place in ("", "via[0]."):
            for name, most in MOST.items():
                parse_execute_command(order(place, name, "x" * most))
                for value in ("x" * most + CANARY, HUGE):
                    words = self.refused(order(place, name, value), place + name)
                    self.assertIn(f"{place}{name} is longer than {most} characters", words)

    def test_an_id_that_is_too_long_is_named_by_its_beginning(self) -> None:
        error = self.assertRaises(InvalidMessage, parse_execute_command, {**ORDER, "commandId": HUGE})
        self.assertEqual(error.command_id, HUGE[: MAX_COMMAND_ID - 1] + "…")
        self.assertNotIn(HUGE[:20], str(error))

    def test_whatever_field_there_is(self) -> None:
        """Also those that are to come."""
        for place, kind in (("", parsing.WireCommand), ("via[0].", parsing.WireServer)):
            for field in msgspec.structs.fields(kind):
                name = field.encode_name
                if name in FREE:
                    continue
                values: list[Any] = [HUGE]
                if name in ("env", "via"):
                    values += [{HUGE: "x"}, {"A": HUGE}, [{HUGE: "x"}], [HUGE]]
                for value in values:
                    error = self.assertRaises(InvalidMessage, parse_execute_command, order(place, name, value))
                    self.assertTrue(str(error.fields["field"]).startswith(place + name), (name, str(error)))
                    self.assertNotIn(CANARY, str(error))
                    self.assertLess(len(str(error)), 250)

    def test_what_may_be_large(self) -> None:
        for name in FREE:
            parse_execute_command({**ORDER, name: HUGE})

    def test_real_keys_fit(self) -> None:
        """An RSA key of 16,384 bits, in PEM, takes 12,728 characters; in OpenSSH's own format a little less."""
        self.assertGreater(fields.MAX_PRIVATE_KEY, 4 * 12_728)


class OtherMessages(SynchronousTestCase):
    """Questions, receipts, and what relays send to a main server."""

    def test_ids(self) -> None:
        long = CANARY * (MAX_COMMAND_ID + 1)
        body = {"stdout": "", "stderr": "", "exitCode": 0}
        for parse, data in (
            (lambda data: parse_question("cancel_command", data), {}),
            (lambda data: parse_question("command_status", data), {}),
            (parse_receipt, {"success": True}),
            (parse_command_result, {"result": body}),
            (parse_command_output, {"stream": "stdout", "offset": 0, "data": ""}),
            (parse_command_status, {"state": "running"}),
        ):
            parse({**data, "commandId": "x" * MAX_COMMAND_ID})
            error = self.assertRaises(InvalidMessage, parse, {**data, "commandId": long})
            self.assertEqual(error.fields["field"], "commandId")
            self.assertNotIn(CANARY, str(error))

    def test_what_a_receipt_says_of_an_error(self) -> None:
        for error in (HUGE, {"message": HUGE}, {HUGE: 1}, [HUGE] * 3, [[[[[[HUGE]]]]]], [1] * 10**6, 10**4000):
            receipt: Receipt = parse_receipt({"success": False, "error": error})
            self.assertLessEqual(len(receipt.error or ""), 200)
        self.assertEqual(parse_receipt({"success": False, "error": {"a": "b"}}).error, '{"a":"b"}')


class DialectTests(SynchronousTestCase):
    """What stands around the data."""

    def join(self) -> socketio.SocketIORelayDialect:
        dialect = socketio.SocketIORelayDialect()
        dialect.receive_text('0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000}')
        dialect.receive_text('40/proxy,{"sid":"y"}')
        return dialect

    def test_the_open_packet(self) -> None:
        text = '0{"sid":"' + "x" * engineio.MAX_OPEN + '","upgrades":[],"pingInterval":25000,"pingTimeout":20000}'
        error = self.assertRaises(ProtocolError, socketio.SocketIORelayDialect().receive_text, text)
        self.assertIn("an open packet of more than 16384 characters", str(error))

    def test_namespaces(self) -> None:
        self.join().receive_text(f"42/{'n' * (MAX_NAME - 1)},[1]")
        for text in (f'42/{HUGE},["x"]', f"40/{HUGE}", f"41/{HUGE},", f'44/{HUGE},{{"message":"x"}}'):
            error = self.assertRaises(ProtocolError, self.join().receive_text, text)
            self.assertNotIn(CANARY, str(error))
        server = socketio.SocketIOServerDialect()
        server.opened()
        server.frames_to_send()
        self.assertRaises(ProtocolError, server.receive_text, f"40/{HUGE}")
        self.assertEqual(server.frames_to_send(), [], "none of it comes back")

    def test_names_of_events(self) -> None:
        for length, kind in ((MAX_NAME, EventReceived), (MAX_NAME + 1, Ignored)):
            name = "e" * length
            (event,) = self.join().receive_text(f'42/proxy,["{name}",1]')
            self.assertIsInstance(event, kind)
            (event,) = native.NativeRelayDialect().receive_text(f'{{"event": "{name}"}}')
            self.assertIsInstance(event, kind)

    def test_acknowledgement_ids(self) -> None:
        for digits in ("9" * 17, "9" * 5000, "1" * (1 << 20)):
            self.assertRaises(ProtocolError, self.join().receive_text, f'42/proxy,{digits}["x"]')

    def test_reasons(self) -> None:
        (event,) = self.join().receive_text(f'44/proxy,{{"message":"{HUGE}"}}')
        self.assertLessEqual(len(event.reason), packets.MAX_WORDS)  # type: ignore[union-attr]


VALUES = st.recursive(
    st.text(alphabet='a"\\[,é') | st.integers(),
    lambda values: st.lists(values) | st.dictionaries(st.text(alphabet='a"\\'), values),
)


class StructureTests(SynchronousTestCase):
    """What counts for a message that is all values: the two ways to find it agree."""

    @given(VALUES)
    def test_what_is_outside_of_strings(self, value: object) -> None:
        text = json.dumps(value)
        exact = re.sub(r'"(?:[^"\\]|\\.)*"', '"', text)
        for few in (10_000, -1):
            with mock.patch.object(repair, "_FEW_QUOTES", few):
                self.assertEqual(repair.outside_of_strings(text, len(text)), exact)
                self.assertEqual(repair.outside_of_strings(text, len(exact) - 1), None)
                self.assertEqual('"'.join(repair._pieces(text)), text)
                self.assertEqual('"'.join(repair._pieces(text)[::2]), exact)

    def test_a_string_without_an_end(self) -> None:
        for few in (10_000, -1):
            with mock.patch.object(repair, "_FEW_QUOTES", few):
                for text in ('["abc', '["abc\\', '["abc\\"'):
                    self.assertLessEqual(len(repair.outside_of_strings(text, 100) or ""), 4)


class CostTests(SynchronousTestCase):
    """What would hold up the event loop for long is refused, or left as it is."""

    def receive(self, text: str) -> Any:
        (event,) = native.NativeRelayDialect().receive_text(text)
        return event

    def refused(self, text: str, *words: str) -> None:
        error = self.assertRaises(ProtocolError, self.receive, text)
        for word in words:
            self.assertIn(word, str(error))

    def test_values(self) -> None:
        """Also in lines that came in one message, and that one by one are small."""
        line = '{"event":"x","data":[' + "[]," * 4000 + "0]}"
        self.assertLess(len(line), codec.MOST_UNCHECKED)
        events = native.NativeRelayDialect().receive_text("\n".join([line] * 30))
        self.assertEqual([type(event) for event in events], [EventReceived] * 30)
        for first in (line, '{"event":"', '"'):  # a quote too many must not hide what comes after it
            self.refused("\n".join(['{"event":"x"}', first] + [line] * 60), "too many values")

    def test_huge_numbers(self) -> None:
        """msgspec takes 10 µs for each."""
        for number in ("1e300", "-1.5E+308", "1e0308"):
            text = '{"event":"x","data":[' + f"{number}," * 20_000 + "0]}"
            self.refused(text, "too many numbers from 1e300 on")
        (data,) = self.receive('{"event":"x","data":["' + "1e300," * 20_000 + '"]}').data
        self.assertEqual(data, "1e300," * 20_000)
        self.assertEqual(len(self.receive('{"event":"x","data":[' + "1e200," * 20_000 + "0]}").data), 20_001)

    def test_lines(self) -> None:
        lines = '{"event":"x"}' + "\n" * 5000 + '{"event":"y"}'
        self.assertEqual(len(native.NativeRelayDialect().receive_text(lines)), 2)
        self.refused('{"event":"x"}' + "\n" * 500_000 + '{"event":"y"}')

    def test_before_and_after(self) -> None:
        self.assertEqual(self.receive(" " * 60_000 + '{"event":"x"}').name, "x")
        self.assertIsInstance(self.receive(" " * 100_000 + '{"event":"x"}'), Ignored)
        self.assertEqual(self.receive('{"event":"x"}' + "\0" * 64).name, "x")
        self.assertIsInstance(self.receive('{"event":"x"}' + "\0" * 1000), Ignored)
        self.refused('{"event":"x"}' + "\0" * 1_000_000)

    def test_half_a_surrogate_pair_in_a_long_string(self) -> None:
        for around in ("x", "\\n", '\\"', "\\\\", "汉", r"\ud83d\ude00", r"\uD83D\uDE00", r"\u6c49"):
            string = around * 9000
            whole = json.loads(f'"{string}"')
            event = self.receive(f'{{"event":"x","data":"{string}\\ud83d{string}\\\\\\uDE00","odd":NaN}}')
            self.assertEqual(event.data, f"{whole}\ufffd{whole}\\\ufffd")

    def test_more_faults_than_a_mistake_makes(self) -> None:
        for fault in (r'"\ud83d",', "NaN,", "1e999,"):
            data = f'{{"event":"x","data":[{fault * 200}0]}}'
            self.assertEqual(len(self.receive(data).data), 201)
            self.refused(f'{{"event":"x","data":[{fault * 50_000}0]}}')
        self.assertEqual(self.receive('{"event":"x","data":' + "[" * 90_000 + "]" * 90_000 + "}").name, "x")
        self.refused('{"event":"x","data":' + "[" * 120_000 + "]" * 120_000 + "}")
