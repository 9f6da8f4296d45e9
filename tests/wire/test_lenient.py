"""
What main servers send besides what the specification shows: numbers as ids, columns without a value, bytes; and in
which words they are told what is not taken.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import InvalidMessage
from relayd.language.texts import Text
from relayd.wire.failure_results import failure_result
from relayd.wire.fields import MAX_COMMAND_ID, MAX_PASSWORD
from relayd.wire.messages import CommandOutput, CommandResult, CommandState, CommandStatus, ExecuteCommand
from relayd.wire.parsing import (
    parse_command_output,
    parse_command_result,
    parse_command_status,
    parse_execute_command,
    parse_question,
    parse_receipt,
)
from relayd.wire.unsent import Unsent
from tests.wire.test_messages import EXTENSIONS, GOOD, JSON

#: Words of Python and of msgspec's that mean nothing to an operator.
JARGON = re.compile(r"[`|]|\b(expected|got|str|int|float|bool|dict|list|None|NoneType|UNSET|object at)\b")


class Case(SynchronousTestCase):
    def refused(self, data: object) -> InvalidMessage:
        return self.assertRaises(InvalidMessage, parse_execute_command, data)


class NumbersAsIdsTests(Case):
    """A number comes back as a number, and is the same command as the text that spells it."""

    @given(st.integers(-(2**63), 2**64 - 1) | st.floats(-(2.0**62), 2.0**62))
    def test_there_and_back(self, number: float) -> None:
        command = parse_execute_command(GOOD | {"commandId": number})
        self.assertIs(type(command.command_id), str)
        for wire in (
            command.to_wire(),
            CommandResult(
                command_id=command.command_id, numeric_id=command.numeric_id, stdout="", stderr="", exit_code=0
            ).to_wire(),
            CommandOutput(command_id=command.command_id, numeric_id=True, stream="stdout", offset=0, data="").to_wire(),
            CommandStatus(command_id=command.command_id, numeric_id=True, state=CommandState.QUEUED).to_wire(),
        ):
            self.assertNotIn("numericId", wire)
            back = msgspec.json.decode(msgspec.json.encode(wire))["commandId"]
            self.assertIn(type(back), (int, float))
            self.assertEqual(back, number)

    def test_how_it_is_spelt(self) -> None:
        for number, text in ((1, "1"), (1.0, "1"), (-0.0, "0"), (1.5, "1.5"), (2**64 - 1, "18446744073709551615")):
            self.assertEqual(parse_execute_command(GOOD | {"commandId": number}).command_id, text)

    def test_too_many_bits(self) -> None:
        """Several numbers of the sender's may be this one by now; it is told, by that number."""
        for number in (2**64, -(2**63) - 1, -(2**64), 1e19, 10**200, 9e307):
            error = self.refused(GOOD | {"commandId": number})
            self.assertIn("send it as a string", str(error))
            wire = failure_result(str(error.command_id), error, numeric_id=error.numeric_id).to_wire()
            self.assertEqual(msgspec.json.decode(msgspec.json.encode(wire))["commandId"], float(number))
        self.assertIsNone(self.refused(GOOD | {"commandId": 10**308}).command_id)

    def test_all_that_names_a_command(self) -> None:
        self.assertEqual(parse_question("command_status", {"commandId": 7}), ("7", True))
        self.assertEqual(parse_receipt({"success": True, "commandId": 7}).command_id, "7")
        result = parse_command_result({"commandId": 7, "result": {"stdout": "", "stderr": "", "exitCode": 0}})
        self.assertEqual((result.command_id, result.numeric_id), ("7", True))
        output = {"commandId": 7, "stream": "stdout", "offset": 0, "data": "x", "numericId": True}
        self.assertEqual(parse_command_output(output).to_wire()["commandId"], "7")
        self.assertEqual(parse_command_status({"commandId": 7, "state": "queued"}).command_id, "7")


class NamedTests(Case):
    """An id that is not valid is named as far as it can be."""

    def test_names(self) -> None:
        for sent, named in (
            ("a\nb\x1b[2J", "a\nb\x1b[2J"),
            ("a\0b", "a\0b"),
            ("  ", "  "),
            ("x" * 5000, "x" * (MAX_COMMAND_ID - 1) + "…"),
            ("\ud800x", "?x"),
            ("", None),
            (None, None),
            (True, None),
            ([1], None),
        ):
            error = self.refused(GOOD | {"commandId": sent})
            self.assertEqual((error.command_id, error.numeric_id), (named, False))
            self.assertNotIn("\x1b", str(error))
            if named is not None:
                json.dumps(failure_result(named, error).to_wire())


class LenientTests(Case):
    """What relayd has no use for refuses nothing."""

    @given(JSON)
    def test_any_server_id(self, value: Any) -> None:
        command = parse_execute_command(GOOD | {"serverId": value})
        json.dumps(command.to_wire(), allow_nan=False)

    def test_server_id(self) -> None:
        for value in (1, 2.5, "web-1"):
            self.assertEqual(parse_execute_command(GOOD | {"serverId": value}).to_wire()["serverId"], value)
        without = {name: value for name, value in GOOD.items() if name != "serverId"}
        self.assertNotIn("serverId", parse_execute_command(without).to_wire())

    def test_port(self) -> None:
        without = {name: value for name, value in GOOD.items() if name != "port"}
        for port in (
            None,
            "",
            "  ",
            [],
            {},
            "22",
            " 22 ",
            22.0,
            "22.0",
            b"22",
            b"",
            {"type": "Buffer", "data": [50, 50]},
        ):
            self.assertEqual(parse_execute_command(GOOD | {"port": port}).port, 22)
        self.assertEqual(parse_execute_command(without).port, 22)
        for port in ("ssh", "0x16", "２２", "2_2", True, [22], b"\xff", "22/tcp"):
            self.assertRegex(str(self.refused(GOOD | {"port": port})), "port (is not a number|came as bytes)")

    def test_timeout(self) -> None:
        for timeout in (None, "", " ", [], {}, 0, "0", b"", -0.0):
            self.assertIsNone(parse_execute_command(GOOD | {"timeout": timeout}).timeout)
        for timeout in ("30", 30, 30.0, b"30", "3e1"):
            self.assertEqual(parse_execute_command(GOOD | {"timeout": timeout}).timeout, 0.03)

    def test_flags_as_databases_have_them(self) -> None:
        for value, flag in ((1, True), (0, False), ("true", True), ("FALSE", False), ("1", True), (None, False)):
            for given_as in (value, value.encode() if isinstance(value, str) else value):
                command = parse_execute_command(GOOD | {"extended": given_as, "stream": given_as})
                self.assertEqual((command.extended, command.stream), (flag, flag))


class BytesTests(Case):
    """Bytes come in a binary event, and in JSON as Node.js writes a Buffer."""

    def forms(self, data: bytes) -> tuple[object, ...]:
        return data, {"type": "Buffer", "data": list(data)}

    def test_texts(self) -> None:
        for form in self.forms("ключ\n".encode()):
            fields = dict.fromkeys(("password", "privateKey", "passphrase", "certificate", "command", "cwd"), form)
            cwd = {"cwd": b"/t\xc3\xa9"}
            hop = {"host": "gate", "username": "u", "password": form}
            command = parse_execute_command(GOOD | fields | cwd | {"env": {"A": form}, "via": [hop]})
            for secret in (command.password, command.private_key, command.passphrase, command.via[0].password):
                assert secret is not None
                self.assertEqual(secret.reveal(), "ключ\n")
            self.assertEqual((command.command, command.cwd), ("ключ\n", "/té"))
            self.assertEqual(command.env, (("A", "ключ\n"),))

    def test_standard_input_is_not_decoded(self) -> None:
        for form in self.forms(b"\xff\0"):
            self.assertEqual(parse_execute_command(GOOD | {"stdin": form}).stdin, b"\xff\0")

    def test_what_is_no_text(self) -> None:
        for form in self.forms(b"\xff"):
            for name in ("password", "command", "username"):
                self.assertIn(f"{name} came as bytes that are not UTF-8", str(self.refused(GOOD | {name: form})))
            self.assertIn("env.A came as bytes", str(self.refused(GOOD | {"env": {"A": form}})))
        for wrong in ([256], [-1], [2**100], [1.0], ["x"], [[]], [None]):
            error = self.refused(GOOD | {"privateKey": {"type": "Buffer", "data": wrong}})
            self.assertIn("privateKey is a Buffer that holds something other than bytes", str(error))

    def test_bounds(self) -> None:
        for form in self.forms(b"x" * (MAX_PASSWORD + 1)):
            self.assertIn("is longer than", str(self.refused(GOOD | {"password": form})))
        self.assertIn("takes more than", str(self.refused(GOOD | {"env": {"A": b"x" * 10**6, "B": b"\xff"}})))

    def test_what_was_not_sent(self) -> None:
        """Never taken for a field that is absent: another credential would be used."""
        unsent = Unsent(Text("did not come"))
        for name in sorted({*GOOD, *EXTENSIONS, "privateKey", "passphrase"} - {"serverId", "commandId"}):
            error = self.refused(GOOD | {name: unsent})
            self.assertEqual((error.fields["field"], error.command_id), (name, "cmd_1"))
            self.assertEqual(str(error), f"execute_command was refused: {name} did not come.")
        for data, name in (
            ({"via": [unsent]}, "via[0]"),
            ({"via": [{"host": "h", "username": "u", "port": unsent}]}, "via[0].port"),
            ({"env": {"A": unsent}}, "env.A"),
            ({"stdin": {"base64": unsent}}, "stdin.base64"),
            ({"commandId": unsent}, "commandId"),
        ):
            self.assertEqual(str(self.refused(GOOD | data)), f"execute_command was refused: {name} did not come.")
        self.assertIsNone(parse_execute_command(GOOD | {"serverId": unsent, "other": unsent}).server_id)

    def test_what_is_no_text_may_come_as_bytes_too(self) -> None:
        for form in self.forms(b"gbk"):
            self.assertEqual(parse_execute_command(GOOD | {"encoding": form}).encoding, "gbk")
        for form in self.forms(b"eA=="):
            self.assertEqual(parse_execute_command(GOOD | {"stdin": {"base64": form}}).stdin, b"x")


class WordsTests(Case):
    """Plain English."""

    @given(st.sampled_from([*GOOD, *EXTENSIONS, "privateKey", "passphrase"]), JSON)
    def test_orders(self, name: str, value: Any) -> None:
        try:
            parse_execute_command(GOOD | {name: value})
        except InvalidMessage as error:
            self.assertIsNone(JARGON.search(str(error).replace(f"env.{name}", "")), str(error))

    @given(
        st.dictionaries(st.sampled_from(["success", "commandId", "error", "result", "stream", "state"]), JSON) | JSON
    )
    def test_others(self, data: Any) -> None:
        for parse in (parse_receipt, parse_command_result, parse_command_output, parse_command_status):
            try:
                parse(data)  # type: ignore[operator]
            except InvalidMessage as error:
                self.assertIsNone(JARGON.search(str(error)), str(error))

    def test_examples(self) -> None:
        for given_id in (True, [1], {"a": 1}):
            self.assertIn(
                "commandId is neither a string nor a number", str(self.refused(GOOD | {"commandId": given_id}))
            )
        for data, words in (
            ({}, "success is missing"),
            ({"success": 1}, "success is neither true nor false"),
            ([], "the data is not an object"),
            ({"success": True, "commandId": []}, "commandId is not a string"),
        ):
            error = self.assertRaises(InvalidMessage, parse_receipt, data)
            self.assertEqual(str(error), f"command_result_received was refused: {words}.")

    def test_the_error_of_a_receipt(self) -> None:
        """As it was on the wire."""
        deep: list[Any] = []
        for _ in range(900):
            deep = [deep]
        for error, shown in (
            ({"code": None, "at": [True, b"x", Unsent(Text("did not come"))]}, '{"code":null,"at":[true,"eA==",null]}'),
            (False, "false"),
            (1.5, "1.5"),
            (10**50, "1" + "0" * 50),
            (["x" * 1000], '["' + "x" * 197 + "…"),
            (deep, "[" * 199 + "…"),
        ):
            self.assertEqual(parse_receipt({"success": False, "error": error}).error, shown)

    @given(JSON)
    def test_any_error_of_a_receipt(self, value: Any) -> None:
        self.assertLessEqual(len(parse_receipt({"success": False, "error": value}).error or ""), 200)

    def test_a_command_that_is_whole(self) -> None:
        self.assertIsInstance(parse_execute_command(GOOD | EXTENSIONS), ExecuteCommand)
