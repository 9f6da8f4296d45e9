"""
Validation of what arrives: every field, every kind of wrong value, and never a value in an error.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import InvalidMessage, Overloaded
from relayd.messages import (
    MAX_COMMAND_ID,
    CommandResult,
    Details,
    ExecuteCommand,
    Secret,
    failure_result,
    parse_command_result,
    parse_execute_command,
    parse_receipt,
    printable,
)

FINGERPRINT = "SHA256:" + "a" * 43
GOOD: dict[str, Any] = {
    "commandId": "cmd_1",
    "serverId": 123,
    "host": "192.168.1.100",
    "port": 22,
    "username": "root",
    "password": "password123",
    "command": "ls -la",
    "timeout": 30000,
}
REQUIRED = ("commandId", "serverId", "host", "port", "username", "command")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


class CommandTests(SynchronousTestCase):
    """``execute_command``"""

    def refused(self, data: object) -> InvalidMessage:
        return self.assertRaises(InvalidMessage, parse_execute_command, data)

    def test_the_example_of_the_specification(self) -> None:
        command = parse_execute_command(GOOD)
        self.assertEqual(
            command,
            ExecuteCommand(
                command_id="cmd_1",
                server_id=123,
                host="192.168.1.100",
                port=22,
                username="root",
                password=Secret("password123"),
                command="ls -la",
                timeout=30.0,
            ),
        )
        self.assertEqual(parse_execute_command(command.to_wire()), command)

    def test_every_field_goes_there_and_back(self) -> None:
        more = {"privateKey": "k", "passphrase": "p", "hostKey": f"ssh-ed25519 {FINGERPRINT}", "extended": True}
        command = parse_execute_command(GOOD | more)
        self.assertEqual(command.to_wire(), GOOD | more)

    def test_numbers_as_strings(self) -> None:
        command = parse_execute_command(GOOD | {"port": " 2222 ", "timeout": "1500.5", "serverId": "9"})
        self.assertEqual((command.port, command.timeout, command.server_id), (2222, 1.5005, 9))

    def test_absent_in_every_way(self) -> None:
        for nothing in (None, ""):
            fields = {name: nothing for name in ("privateKey", "passphrase", "hostKey", "timeout")}
            command = parse_execute_command(GOOD | fields)
            self.assertEqual((command.private_key, command.passphrase, command.host_key, command.timeout), (None,) * 4)
        self.assertIsNone(parse_execute_command(GOOD | {"timeout": 0}).timeout)
        self.assertFalse(parse_execute_command(GOOD | {"extended": None}).extended)

    def test_required(self) -> None:
        for name in REQUIRED:
            for data in ({key: value for key, value in GOOD.items() if key != name}, GOOD | {name: None}):
                error = self.refused(data)
                self.assertEqual((error.fields["field"], error.fields["reason"]), (name, "is missing"))
                self.assertEqual(error.command_id, None if name == "commandId" else "cmd_1")

    def test_a_credential_is_required(self) -> None:
        for nothing in ({}, {"password": None}, {"password": "", "privateKey": ""}):
            data = {key: value for key, value in GOOD.items() if key != "password"} | nothing
            self.assertIn("one of them is needed", str(self.refused(data)))
        parse_execute_command(GOOD | {"password": None, "privateKey": "key"})

    def test_wrong(self) -> None:
        wrong: dict[str, tuple[Any, ...]] = {
            "commandId": (5, "", "  ", "a\nb", "x" * (MAX_COMMAND_ID + 1), "\ud800", [], True),
            "serverId": ("abc", math.nan, math.inf, 10**400, [], True, "1_0", "9" * 40),
            "host": (5, "", "a b", "a/b", "user@host", "a,b", "*", "#x", "|1|x", "x" * 256, "a\0b", "\udfff"),
            "port": (0, -1, 65536, 22.5, "ssh", math.nan, True, "", [], "0x16"),
            "username": (5, "", "a\nb", "\t", "a\0b"),
            "password": (5, ["x"], "a\0b", "\ud800"),
            "privateKey": (5, {}, "a\0b"),
            "passphrase": (5, "a\0b"),
            "hostKey": (5, "SHA256:short", "MD5:" + "a" * 43, FINGERPRINT + "a", f"ssh-rsa  {FINGERPRINT}"),
            "command": (5, "", " \n ", "a\0b", "\ud800", None),
            "timeout": (-1, math.nan, -math.inf, 10**15, "soon", [], True),
            "extended": ("yes", 1),
        }
        for name, values in wrong.items():
            for value in values:
                error = self.refused(GOOD | {name: value})
                self.assertEqual(error.fields["field"], name, value)
                self.assertEqual(error.command_id, None if name == "commandId" else "cmd_1")

    def test_not_an_object(self) -> None:
        for data in (None, [], "x", 5, [GOOD]):
            error = self.refused(data)
            self.assertEqual((error.fields["field"], error.command_id), ("the data", None))

    def test_an_address_in_brackets(self) -> None:
        self.assertEqual(parse_execute_command(GOOD | {"host": "[::1]"}).host, "::1")

    @given(st.sampled_from(sorted(GOOD)), st.text(alphabet="qzxjkvw", min_size=12, max_size=20))
    def test_no_value_is_ever_shown(self, name: str, value: str) -> None:
        for wrong in ([value], {value: value}, value + "\0", f"{value}\n\0"):
            error = self.refused(GOOD | {name: wrong})
            self.assertNotIn(value, str(error) + repr(error) + repr(error.args) + repr(error.__dict__))
            self.assertIsNone(error.__cause__)

    @given(st.dictionaries(st.sampled_from([*GOOD, "privateKey", "hostKey", "extended", "other"]), JSON) | JSON)
    def test_whatever_comes(self, data: Any) -> None:
        merged = GOOD | data if isinstance(data, dict) else data
        try:
            command = parse_execute_command(merged)
        except InvalidMessage as error:
            json.dumps(str(error))
        else:
            self.assertTrue(1 <= command.port <= 65535)
            msgspec.json.encode(command.to_wire())  # no NaN and no half of a surrogate pair in it
            self.assertEqual(parse_execute_command(command.to_wire()).host, command.host)


class ResultTests(SynchronousTestCase):
    """``command_result`` and ``command_result_received``"""

    def test_the_specification_and_nothing_else(self) -> None:
        result = CommandResult(command_id="c", stdout="o", stderr="e", exit_code=3, details=Details(stdout_bytes=1))
        self.assertEqual(result.to_wire(), {"commandId": "c", "result": {"stdout": "o", "stderr": "e", "exitCode": 3}})
        self.assertEqual(parse_command_result(result.to_wire()).exit_code, 3)

    def test_extended(self) -> None:
        result = failure_result("c", Overloaded(running=1, queued=2), extended=True)
        body = result.to_wire()["result"]
        self.assertEqual((body["stdout"], body["exitCode"]), ("", 1))
        self.assertIn("relayd is full: 1 commands run and 2 wait", body["stderr"])
        self.assertEqual(body["error"], {"code": "overloaded", "phase": "queue", "executed": "no", "retriable": True})
        self.assertEqual(parse_command_result(result.to_wire()), result)

    def test_repr_shows_no_output(self) -> None:
        result = CommandResult(command_id="c", stdout="s3cret", stderr="s3cret", exit_code=0)
        self.assertNotIn("s3cret", repr(result))

    @given(JSON)
    def test_whatever_comes(self, data: Any) -> None:
        for parse in (parse_command_result, parse_receipt):
            for form in (data, {"commandId": "c", "result": data}, {"success": data}):
                try:
                    parse(form)
                except InvalidMessage as error:
                    str(error)

    def test_receipts(self) -> None:
        self.assertEqual(parse_receipt({"success": True}).command_id, None)
        receipt = parse_receipt({"success": False, "error": "no\x1b[2J id", "commandId": "c"})
        self.assertEqual((receipt.success, receipt.command_id, receipt.error), (False, "c", "no\ufffd[2J id"))
        for wrong in ({}, {"success": "true"}, {"success": 1}, None, []):
            self.assertRaises(InvalidMessage, parse_receipt, wrong)

    def test_printable(self) -> None:
        self.assertEqual(printable("a\nb" + "c" * 20, 5), "a\ufffdbc…")


class SecretTests(SynchronousTestCase):
    """`Secret` is shown by nothing but `Secret.reveal`."""

    def test_hidden(self) -> None:
        secret = Secret("s3cret")
        for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", repr([secret]), repr({1: secret})):
            self.assertNotIn("s3cret", text)
        self.assertNotIn("password123", repr(parse_execute_command(GOOD)))
        self.assertNotIn("ls -la", repr(parse_execute_command(GOOD)))
        self.assertRaises(TypeError, pickle.dumps, secret)
        self.assertRaises(TypeError, copy.copy, secret)
        self.assertRaises(TypeError, msgspec.json.encode, secret)
        self.assertEqual(secret.reveal(), "s3cret")

    def test_equality(self) -> None:
        self.assertEqual(Secret("a"), Secret("a"))
        self.assertNotEqual(Secret("a"), Secret("b"))
        self.assertNotEqual(Secret("a"), "a")
        self.assertEqual(len({Secret("a"), Secret("a"), Secret("\ud800")}), 2)
