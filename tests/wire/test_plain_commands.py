"""Commands that are read in one go are the same as those that are read field by field."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import astuple
from twisted.trial.unittest import SynchronousTestCase

from relayd.wire.fields import MAX_PASSWORD, MAX_PRIVATE_KEY, MAX_TIMEOUT
from relayd.wire.messages import MAX_COMMAND_ID
from relayd.wire.parsing import parse_by_field, parse_execute_command
from relayd.wire.plain_commands import plain_command
from relayd.wire.unsent import Unsent
from tests.wire.test_messages import EXTENSIONS, GOOD, JSON

#: Values at which something changes, for any field.
EDGES: tuple[Any, ...] = (
    None, True, False, "", " ", "a", " a ", "a\0b", "a\nb", "\ud800", "\x7f", "\u200b", "\u00a0", "\u2028", "密码",
    0, 1, -1, 22, 65535, 65536, 0.0, -0.0, 0.5, 22.0, 22.5, 1e300, math.nan, math.inf, 2**63, 2**64, 10**400,
    "22", "0x16", "1e3", "nan", "true", "TRUE", "0", [], {}, ["a"], {"a": 1}, {1: 2}, b"bytes", b"\xff",
    {"type": "Buffer", "data": [104, 105]}, {"type": "Buffer", "data": [0]}, Unsent("no bytes came"),  # type: ignore[arg-type]
    "10.1", "::1", "[::1]", "[fe80::1%25eth0]", "::ffff:10.1.2.3", "host:22", "http://host", "HOST.", "bücher.example",
    "root:x", "ro/ot", " root", "x" * 255, "x" * 256, "x" * 257, "x" * MAX_PASSWORD, "x" * (MAX_PASSWORD + 1),
    "x" * MAX_PRIVATE_KEY, "x" * (MAX_PRIVATE_KEY + 1), "é" * MAX_COMMAND_ID,
    MAX_TIMEOUT * 1000, MAX_TIMEOUT * 1000 + 1, int(MAX_TIMEOUT) * 1000, 12345.678,
)  # fmt: skip
FIELDS = (*GOOD, *EXTENSIONS, "privateKey", "passphrase", "unknown")


class PlainCommandTests(SynchronousTestCase):
    """`plain_command` against `parse_by_field`."""

    def check(self, data: Any) -> None:
        plain = plain_command(data)
        if plain is None:
            return
        careful = parse_by_field(data)
        self.assertEqual(plain, careful)
        self.assertEqual([type(each) for each in astuple(plain)], [type(each) for each in astuple(careful)])

    @given(st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(EDGES) | JSON, max_size=3))
    @example({"port": 22.0, "timeout": 5, "serverId": 1.0})
    def test_the_same_for_anything(self, changes: dict[str, Any]) -> None:
        self.check(GOOD | changes)

    @given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, st.sampled_from(EDGES))) | JSON)
    def test_the_same_for_any_data(self, data: Any) -> None:
        self.check(data)

    def test_each_edge_in_each_field(self) -> None:
        for field in FIELDS:
            for value in EDGES:
                self.check(GOOD | {field: value})
        for field in GOOD:
            self.check({name: value for name, value in GOOD.items() if name != field})

    def test_what_main_servers_send_is_plain(self) -> None:
        """With the fields of the specification, nothing is read twice."""
        for more in (
            {},
            {"privateKey": "-----BEGIN…\n", "passphrase": "x", "password": None},
            {"password": "", "timeout": None, "serverId": None},
            {"command": "echo 你好\nuptime", "host": "DB.example.", "serverId": "s-1"},
            {"extended": True, "stream": False, "note": "unknown to relayd"},
        ):
            data = json.loads(json.dumps(GOOD | more))
            self.assertIsNotNone(plain_command(data), more)
            self.assertEqual(parse_execute_command(data), parse_by_field(data))

    def test_what_is_not_plain(self) -> None:
        for name, value in EXTENSIONS.items():
            if name not in ("extended", "stream"):
                self.assertIsNone(plain_command(GOOD | {name: value}), name)
