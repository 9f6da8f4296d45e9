"""
Validation of what arrives: every field, every kind of wrong value, and never a value in an error.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import InvalidMessage, Overloaded
from relayd.language.texts import printable
from relayd.wire.failure_results import failure_result
from relayd.wire.fields import MAX_COMMAND_ID, MAX_CWD, MAX_ENVIRONMENT, MAX_HOPS, MAX_VARIABLES
from relayd.wire.messages import (
    Become,
    CommandOutput,
    CommandResult,
    CommandState,
    CommandStatus,
    Details,
    ExecuteCommand,
    Fetch,
    File,
    JumpHost,
    Pty,
    Script,
    Secret,
)
from relayd.wire.parsing import (
    parse_command_output,
    parse_command_result,
    parse_command_status,
    parse_execute_command,
    parse_question,
    parse_receipt,
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
EXTENSIONS: dict[str, Any] = {
    "certificate": "ssh-ed25519-cert-v01@openssh.com AAAA",
    "hostKey": f"ssh-ed25519 {FINGERPRINT}",
    "extended": True,
    "cwd": "~deploy/app dir",
    "env": {"LANG": "C", "EMPTY": "", "LINES": "two\nlines"},
    "stdin": "yes\n\0",
    "encoding": "base64",
    "stream": True,
    "via": [
        {"host": "gate", "port": 22, "username": "jump", "password": "p1"},
        {
            "host": "::1",
            "port": 2222,
            "username": "inner",
            "privateKey": "k2",
            "passphrase": "p2",
            "certificate": "cert",
            "hostKey": FINGERPRINT,
        },
    ],
    "pty": {"term": "xterm-256color", "cols": 132, "rows": 50},
    "become": {"method": "su", "user": "app", "password": "p3"},
    "files": [
        {"path": "/etc/x", "content": "grün\n", "mode": "0644", "sha256": "ab" * 32},
        {"path": "~/a b", "content": {"base64": "AP8="}, "mode": "0600"},
    ],
    "fetch": [{"path": "/proc/version", "maxBytes": 100}, {"path": "C:/x/y", "maxBytes": 1048576}],
}
HOP: dict[str, Any] = {"host": "gate", "username": "u"}
REQUIRED = ("commandId", "host", "username", "command")
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
        more = EXTENSIONS | {"privateKey": "k", "passphrase": "p"}
        command = parse_execute_command(GOOD | more)
        self.assertEqual(command.to_wire(), GOOD | more)

    def test_terminals_and_other_users(self) -> None:
        """``true`` is what it usually is; ``false`` is not the same as no field: it wins over the site's tables."""
        for name, usual in (("pty", Pty()), ("become", Become())):
            for sent, read in ((True, usual), ("true", usual), (1, usual), (False, False), (0, False), ({}, None)):
                self.assertEqual(getattr(parse_execute_command(GOOD | {name: sent}), name), read, sent)
            self.assertEqual(getattr(parse_execute_command(GOOD), name), None)
        command = parse_execute_command(GOOD | {"pty": True, "become": {"user": "app"}})
        self.assertEqual(command.to_wire(), GOOD | {"pty": True, "become": {"method": "sudo", "user": "app"}})
        self.assertEqual(parse_execute_command(GOOD | {"pty": False, "become": False}).to_wire()["become"], False)
        self.assertEqual(Become(password="p"), Become(password=Secret("p")))  # type: ignore[arg-type]
        self.assertRaises(TypeError, Become, password=b"p")

    def test_files(self) -> None:
        """What is wrong with one names it; a path means what it says."""
        command = parse_execute_command(GOOD | {"files": [{"path": "/a//b/./c"}], "fetch": [{"path": "D:\\x\\y"}]})
        self.assertEqual(command.files, (File(path="/a/b/c"),))
        self.assertEqual(command.fetch, (Fetch(path="D:/x/y"),))
        self.assertNotIn("secret", repr(File(path="/x", content=b"secret")))
        for wrong, field in (
            ({"files": "x"}, "files"),
            ({"files": [{"path": "/x"}] * 101}, "files"),
            ({"files": [{"path": "/x"}, {"path": "/./x"}]}, "files[1].path"),
            ({"files": [7]}, "files[0]"),
            ({"files": [{"path": "/x", "owner": "root"}]}, "files[0]"),
            ({"files": [{}]}, "files[0].path"),
            ({"files": [{"path": "/x", "content": 7}]}, "files[0].content"),
            ({"files": [{"path": "/x", "content": {"base64": "*"}}]}, "files[0].content.base64"),
            *(({"files": [{"path": "/x", "mode": mode}]}, "files[0].mode") for mode in (644, "4755", "rw", "0o644")),
            *(({"files": [{"path": "/x", "sha256": sum}]}, "files[0].sha256") for sum in ("a" * 63, "z" * 64, 7)),
            *(({"fetch": [{"path": "/x", "maxBytes": most}]}, "fetch[0].maxBytes") for most in (0, -1, 1.5, 2**40)),
            *(
                ({"fetch": [{"path": path}]}, "fetch[0].path")
                for path in (
                    "x",
                    "a/b",
                    "~",
                    "~root/x",
                    "/",
                    "/x/",
                    "/x/.",
                    "/a/../b",
                    "C:\\..\\x",
                    "/a\nb",
                    "/\0",
                    7,
                )
            ),
        ):
            self.assertEqual(self.refused(GOOD | wrong).fields["field"], field, wrong)

    def test_scripts(self) -> None:
        """In place of a command."""
        plain = {name: value for name, value in GOOD.items() if name != "command"}
        text = "#!/bin/sh\r\necho x"
        command = parse_execute_command(plain | {"script": text})
        self.assertEqual((command.command, command.script), (text, Script()))
        more = plain | {"script": text, "interpreter": "python3", "args": ["-v", "", "a b"]}
        command = parse_execute_command(more | {"command": None})
        self.assertEqual(command.script, Script(interpreter="python3", args=("-v", "", "a b")))
        self.assertEqual(command.to_wire(), more)
        for wrong, field in (
            (GOOD | {"script": "x"}, "script"),
            (GOOD | {"interpreter": "sh"}, "interpreter"),
            (GOOD | {"args": ["x"]}, "args"),
            (plain | {"script": " "}, "script"),
            (plain | {"script": "a\0b"}, "script"),
            (plain | {"script": ""}, "command"),
            (plain | {"script": 5}, "script"),
            (more | {"interpreter": "a\nb"}, "interpreter"),
            (more | {"interpreter": "x" * (MAX_CWD + 1)}, "interpreter"),
            (more | {"args": "x"}, "args"),
            (more | {"args": ["x"] * 257}, "args"),
            (more | {"args": ["x" * 70_000]}, "args"),
            (more | {"args": ["x", 5]}, "args[1]"),
            (more | {"args": [None]}, "args[0]"),
            (more | {"args": ["a\nb"]}, "args[0]"),
        ):
            self.assertEqual(self.refused(wrong).fields["field"], field, wrong)

    def test_numbers_as_strings(self) -> None:
        command = parse_execute_command(GOOD | {"port": " 2222 ", "timeout": "1500.5", "serverId": "9"})
        self.assertEqual((command.port, command.timeout, command.server_id), (2222, 1.5005, "9"))

    def test_absent_in_every_way(self) -> None:
        plain = parse_execute_command({name: GOOD[name] for name in (*REQUIRED, "serverId")})
        for nothing in (None, ""):
            optional = ["password", "privateKey", "passphrase", "timeout", *(set(EXTENSIONS) - {"extended", "stream"})]
            self.assertEqual(parse_execute_command(GOOD | dict.fromkeys(optional, nothing)), plain)
        empty = {"env": {}, "via": [], "stdin": {}, "extended": None, "stream": None}
        self.assertEqual(parse_execute_command(GOOD | empty), parse_execute_command(GOOD))
        for stdin in ({"base64": ""}, {"base64": None}):
            self.assertEqual(parse_execute_command(GOOD | {"stdin": stdin}).stdin, b"")
        self.assertIsNone(parse_execute_command(GOOD | {"timeout": 0}).timeout)
        self.assertFalse(parse_execute_command(GOOD | {"extended": None}).extended)

    def test_required(self) -> None:
        for name in REQUIRED:
            for data in ({key: value for key, value in GOOD.items() if key != name}, GOOD | {name: None}):
                error = self.refused(data)
                self.assertEqual((error.fields["field"], error.fields["reason"]), (name, "is missing"))
                self.assertEqual(error.command_id, None if name == "commandId" else "cmd_1")

    def test_without_a_credential(self) -> None:
        """Whether it can do without is for the runner to say."""
        for nothing in ({}, {"password": None}, {"password": "", "privateKey": ""}):
            data = {key: value for key, value in GOOD.items() if key != "password"} | nothing
            command = parse_execute_command(data)
            self.assertEqual((command.password, command.private_key), (None, None))

    def test_wrong(self) -> None:
        wrong: dict[str, tuple[Any, ...]] = {
            "commandId": ("", "  ", "a\nb", "x" * (MAX_COMMAND_ID + 1), "\ud800", [], True, {}, 2**64, 1e300, math.nan),
            "host": (
                5,
                "",
                "a b",
                "a/b",
                "user@host",
                "a,b",
                "*",
                "#x",
                "|1|x",
                "x" * 256,
                "a\0b",
                "\udfff",
                ".",
                "a..b",
                "10.1.0.1-10.1.0.9",
                "10.1.2.300",
                "10.1.2.3.4",
                "fd00::g",
                "10.1.2.3%eth0",
                "a%eth0",
                "ｆf::１",
                "a:b",
            ),
            "port": (0, -1, 65536, 22.5, "ssh", math.nan, True, [22], "0x16"),
            "username": (5, "", "a\nb", "\t", "a\0b", "root:x", "root/x", " root", "root ", "root\u3000", "x" * 257),
            "password": (5, ["x"], "a\0b", "\ud800"),
            "privateKey": (5, {"a": 1}, ["x"], "a\0b"),
            "passphrase": (5, "a\0b"),
            "hostKey": (5, "SHA256:short", "MD5:" + "a" * 43, FINGERPRINT + "a", f"ssh-rsa  {FINGERPRINT}"),
            "command": (5, "", " \n ", "a\0b", "\ud800", None),
            "timeout": (-1, math.nan, -math.inf, 10**15, "soon", [1], True, "9" * 99),
            "extended": ("yes", 2, [1], 0.0),
            "stream": ("yes", -1, {"a": 1}),
            "certificate": (5, "a\0b"),
            "cwd": (
                *(5, "here", "./x", "a\0b", "/a\nb", "/a\rb", "/" * (MAX_CWD + 1), "/\ud800", "  "),
                *("C:x", "CC:\\x", "C\\x", "\\\\server\\x", "C:\\a\nb"),
            ),
            "encoding": (5, "hex", "rot13", "zlib", "idna", "unicode_escape", "BASE64", "nothing", "x" * 99, ["gbk"]),
            "env": (
                5,
                "A=b",
                ["A=b"],
                {"": "x"},
                {"1A": "x"},
                {"A-B": "x"},
                {"A=B": "x"},
                {"\u00c4": "x"},
                {f"A{number}": "x" for number in range(MAX_VARIABLES + 1)},
                {"A": "x" * MAX_ENVIRONMENT},
                {"A" * (MAX_ENVIRONMENT + 1): "x"},
                {"A": "\u20ac" * (MAX_ENVIRONMENT // 3 + 1)},
            ),
            "env.A": ({"A": None}, {"A": 5}, {"A": True}, {"A": ["x"]}, {"A": "a\0b"}, {"A": "\ud800"}),
            "stdin": (5, True, ["x"], "\ud800", {"text": "x"}, {"base64": "eA==", "more": 1}),
            "stdin.base64": ({"base64": 5}, {"base64": "eA="}, {"base64": "e-_A"}, {"base64": "\u00e4"}),
            "pty": (5, "yes", ["x"], {"TERM": "x"}, {"term": "x", "more": 1}),
            "pty.term": ({"term": 5}, {"term": " "}, {"term": "a b"}, {"term": "é"}, {"term": "x" * 65}),
            "pty.cols": ({"cols": 0}, {"cols": 10_000}, {"cols": 1.5}, {"cols": "wide"}, {"cols": True}),
            "pty.rows": ({"rows": -1},),
            "become": (5, "root", ["root"], {"username": "root"}, {"user": "root", "more": 1}),
            "become.method": ({"method": "doas"}, {"method": 5}, {"method": "SUDO"}, {"method": " "}),
            "become.user": (
                {"user": 5},
                {"user": "#0"},
                {"user": "-s"},
                {"user": "a:b"},
                {"user": "a\nb"},
                {"user": "+x"},
            ),
            "become.password": ({"password": 5}, {"password": "a\nb"}, {"password": "a\0b"}, {"password": "\x04"}),
            "via": ("gate", {"host": "gate"}, [HOP] * (MAX_HOPS + 1)),
            "via[1]": ([HOP, None], [HOP, "gate"]),
            "via[1].host": ([HOP, HOP | {"host": "a b"}], [HOP, {"username": "u"}], [HOP, HOP | {"host": 5}]),
            "via[0].port": ([HOP | {"port": 0}], [HOP | {"port": "x"}]),
            "via[0].username": ([{"host": "gate"}], [HOP | {"username": "a\nb"}], [HOP | {"username": "root:x"}]),
            "via[0].password": ([HOP | {"password": 5}], [HOP | {"password": "a\0b"}]),
            "via[0].hostKey": ([HOP | {"hostKey": "SHA256:short"}],),
        }
        for name, values in wrong.items():
            for value in values:
                error = self.refused(GOOD | {re.split(r"[.\[]", name)[0]: value})
                self.assertEqual(error.fields["field"], name, value)
                if name != "commandId":
                    self.assertEqual(error.command_id, "cmd_1")

    def test_what_was_sent_as_a_host(self) -> None:
        """It is named, and not shown: it may have a password in it."""
        for reason, hosts in {
            "names a port too; send the port as port": (
                "db1:2222",
                "10.0.0.5:22",
                "[::1]:2222",
                "[::ffff:10.0.0.5]:22",
                "db1：2222",
                "db1: 22",
                "db1:",
            ),
            "names a user too; send the user as username": ("root@db1", "root:secret-word@db1", "root@db1:22"),
            "is a URL; send the host's name or address alone": (
                "ssh://root:secret-word@db1:22",
                "https://db1/",
                "tcp://10.0.0.5:22",
            ),
            "has a blank, a comma or a semicolon in it; send one host in each command": (
                "db1,db2",
                "web server 1",  # which may be one
                "db1 # the old one",
                "db1 db2",
                "db1; db2",
                "10.0.0.5, 10.0.0.6",
            ),
            "is neither a host name nor an IP address": ("a:b", "fd00::g", "10.0.0.0/24", "10.1.2.300", "db-*", "::1:"),
        }.items():
            for host in hosts:
                for path, data in (("host", {"host": host}), ("via[0].host", {"via": [HOP | {"host": host}]})):
                    error = self.refused(GOOD | data)
                    self.assertEqual((error.fields["field"], error.fields["reason"]), (path, reason), host)
                    self.assertNotIn("secret-word", str(error))
        for host in ("::1", "[::1]", "fe80::1%eth0", "db1.internal.", "1.2.3.4"):
            parse_execute_command(GOOD | {"host": host})

    def test_what_is_wrong_may_ask_for_more(self) -> None:
        """As far as that can be read."""
        for flag, asks in (
            (True, True),
            ("1", True),
            (False, False),
            ("perhaps", False),
            ([True], False),
            (None, False),
        ):
            wrong = GOOD | {"port": 0, "extended": flag}
            self.assertEqual(self.assertRaises(InvalidMessage, parse_execute_command, wrong).extended, asks, flag)

    def test_numbers_are_no_values_of_variables(self) -> None:
        self.assertIn(
            'env.A is not a string; write numbers and booleans as strings, as in "1"',
            str(self.refused(GOOD | {"env": {"A": 1}})),
        )

    def test_standard_input_in_both_forms(self) -> None:
        for stdin, expected in (("\u20ac", "\u20ac".encode()), ({"base64": "/w\nA=\r\n"}, b"\xff\0")):
            command = parse_execute_command(GOOD | {"stdin": stdin})
            self.assertEqual(command.stdin, expected)
            self.assertEqual(parse_execute_command(command.to_wire()), command)

    def test_jump_hosts(self) -> None:
        blank = {"port": None, "password": "", "privateKey": None, "hostKey": "", "certificate": "", "other": 1}
        command = parse_execute_command(GOOD | {"via": [HOP | blank, HOP | {"host": "[::1]", "port": "2222"}]})
        self.assertEqual(
            command.via,
            (JumpHost(host="gate", username="u"), JumpHost(host="::1", port=2222, username="u")),
        )

    def test_directories_of_windows(self) -> None:
        for cwd in ("C:\\data", "c:/data", "Z:\\"):
            self.assertEqual(parse_execute_command(GOOD | {"cwd": cwd}).cwd, cwd)

    def test_limits_can_be_reached(self) -> None:
        env = {f"A{number}": "" for number in range(MAX_VARIABLES - 1)}
        env["B"] = "x" * (MAX_ENVIRONMENT - sum(map(len, env)) - 1)
        command = parse_execute_command(GOOD | {"env": env, "via": [HOP] * MAX_HOPS, "cwd": "/" * MAX_CWD})
        self.assertEqual((len(command.env), len(command.via)), (MAX_VARIABLES, MAX_HOPS))

    def test_not_an_object(self) -> None:
        for data in (None, [], "x", 5, [GOOD]):
            error = self.refused(data)
            self.assertEqual((error.fields["field"], error.command_id), ("the data", None))

    def test_an_address_in_brackets(self) -> None:
        self.assertEqual(parse_execute_command(GOOD | {"host": "[::1]"}).host, "::1")
        for zoned in ("[fe80::1%25eth0]", "[fe80::1%eth0]", "fe80::1%eth0"):  # in a URL % is %25 (RFC 6874)
            self.assertEqual(parse_execute_command(GOOD | {"host": zoned}).written_host, "fe80::1%eth0")
        self.assertEqual(parse_execute_command(GOOD | {"host": "fe80::1%25eth0"}).written_host, "fe80::1%25eth0")

    @given(
        st.sampled_from(sorted({*GOOD, *EXTENSIONS} - {"env", "stdin", "stream", "serverId"})),
        st.text(alphabet="qzxjkvw", min_size=12, max_size=20),
    )
    def test_no_value_is_ever_shown(self, name: str, value: str) -> None:
        for wrong in ([value], {value: value}, value + "\0", f"{value}\n\0"):
            error = self.refused(GOOD | {name: wrong})
            error.command_id = None  # which is there to be sent back, and never shown
            self.assertNotIn(value, str(error) + repr(error) + repr(error.args) + repr(error.__dict__))
            self.assertIsNone(error.__cause__)

    @given(st.text(alphabet="qzxjkvw", min_size=12, max_size=20))
    def test_no_value_of_the_extensions_is_shown(self, value: str) -> None:
        wrong: dict[str, tuple[Any, ...]] = {
            "env": (value, [value], {value + "\n": ""}, {"A": [value]}, {"A": value + "\0"}),
            "stdin": ([value], {value: value}, {"base64": value + "!"}, {"base64": [value]}),
            "via": (value, [value], [HOP | {"password": [value]}], [HOP | {"privateKey": value + "\0"}]),
        }
        for name, values in wrong.items():
            for each in values:
                error = self.refused(GOOD | {name: each})
                self.assertNotIn(value, str(error) + repr(error) + repr(error.args) + repr(error.__dict__))

    @given(st.dictionaries(st.sampled_from([*GOOD, *EXTENSIONS, "privateKey", "other"]), JSON) | JSON)
    def test_whatever_comes(self, data: Any) -> None:
        merged = GOOD | data if isinstance(data, dict) else data
        try:
            command = parse_execute_command(merged)
        except InvalidMessage as error:
            json.dumps(str(error))
        else:
            self.assertTrue(1 <= command.port <= 65535)
            msgspec.json.encode(command.to_wire())  # no NaN and no half of a surrogate pair in it
            self.assertEqual(parse_execute_command(command.to_wire()).env, command.env)

    @given(st.binary())
    def test_any_standard_input_goes_there_and_back(self, stdin: bytes) -> None:
        command = msgspec.structs.replace(parse_execute_command(GOOD), stdin=stdin)
        self.assertEqual(parse_execute_command(json.loads(json.dumps(command.to_wire()))).stdin, stdin)


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
        self.assertIn("relayd is full: 1 commands are running and 2 are queued", body["stderr"])
        self.assertEqual(body["error"], {"code": "overloaded", "phase": "queue", "executed": "no", "retriable": True})
        self.assertEqual(parse_command_result(result.to_wire()), result)

    def test_encoding_is_told_in_any_case(self) -> None:
        """Nothing else tells text from base64: not even a failure has to be in the encoding that was asked for."""
        for extended in (False, True):
            details = Details(encoding="base64", killed="confirmed" if extended else None)
            result = CommandResult(
                command_id="c", stdout="eA==", stderr="", exit_code=0, details=details, extended=extended
            )
            self.assertEqual(result.to_wire()["result"]["encoding"], "base64")
            self.assertEqual("killed" in result.to_wire()["result"], extended)
            self.assertEqual(parse_command_result(result.to_wire()), result)

    def test_output_and_status(self) -> None:
        output = CommandOutput(command_id="c", stream="stderr", offset=7, data="s3cret")
        wire = {"commandId": "c", "stream": "stderr", "offset": 7, "data": "s3cret"}
        self.assertEqual((output.to_wire(), parse_command_output(wire)), (wire, output))
        self.assertNotIn("s3cret", repr(output))
        self.assertEqual(parse_command_output(wire | {"encoding": "base64"}).encoding, "base64")
        status = CommandStatus(command_id="c", state=CommandState.QUEUED)
        self.assertEqual(status.to_wire(), {"commandId": "c", "state": "queued"})
        self.assertEqual(parse_command_status(status.to_wire()), status)
        for wrong in ({"offset": -1}, {"stream": "stdin"}, {"data": 5}, {"encoding": "hex"}, {"commandId": None}):
            self.assertRaises(InvalidMessage, parse_command_output, wire | wrong)
        self.assertRaises(InvalidMessage, parse_command_status, {"commandId": "c", "state": "asleep"})

    def test_no_word_is_shown(self) -> None:
        """msgspec would: whatever it is, however long."""
        word = "s3cret\x1b[2J - at `$.x`" * 1000
        result = {"stdout": "", "stderr": "", "exitCode": 0}
        for parse, data, field in (
            (parse_command_status, {"commandId": "c", "state": word}, "state"),
            (parse_command_output, {"commandId": "c", "stream": word, "offset": 0, "data": ""}, "stream"),
            (parse_command_result, {"commandId": "c", "result": result | {"killed": word}}, "killed"),
        ):
            error: Any = self.assertRaises(InvalidMessage, parse, data)  # type: ignore[arg-type]
            self.assertRegex(str(error), rf"was refused: {field} is not one of the words that are allowed there\.$")

    def test_half_a_surrogate_pair_in_a_name(self) -> None:
        half: dict[str, Any] = {"commandId": "c", "\ud800": 1}
        for parse in (parse_execute_command, parse_receipt, parse_command_output, parse_command_status):
            self.assertRaises(InvalidMessage, parse, half)
        self.assertRaises(InvalidMessage, parse_command_result, {"commandId": "c", "result": half})
        self.assertRaises(InvalidMessage, parse_question, "cancel_command", half)

    def test_questions(self) -> None:
        self.assertEqual(parse_question("cancel_command", {"commandId": "c", "why": 1}), ("c", False))
        self.assertEqual(parse_question("cancel_command", {"commandId": 5}), ("5", True))
        for wrong in (None, [], {}, {"commandId": [5]}, {"commandId": "a\nb"}):
            error = self.assertRaises(InvalidMessage, parse_question, "cancel_command", wrong)
            self.assertTrue(str(error).startswith("cancel_command was refused: "), error)

    def test_repr_shows_no_output(self) -> None:
        result = CommandResult(command_id="c", stdout="s3cret", stderr="s3cret", exit_code=0)
        self.assertNotIn("s3cret", repr(result))

    @given(JSON)
    def test_whatever_comes(self, data: Any) -> None:
        for parse in (parse_command_result, parse_receipt, parse_command_output, parse_command_status):
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
        hidden = GOOD | {
            "env": {"A": "s3cret"},
            "stdin": "s3cret",
            "via": [HOP | {"password": "s3cret"}],
            "become": {"password": "s3cret"},
        }
        command = parse_execute_command(hidden)
        self.assertNotIn("s3cret", repr(command) + str(command) + repr(command.via) + f"{command.via[0]}")
        self.assertRaises(TypeError, pickle.dumps, secret)
        self.assertRaises(TypeError, copy.copy, secret)
        self.assertRaises(TypeError, msgspec.json.encode, secret)
        self.assertEqual(secret.reveal(), "s3cret")

    def test_made_in_python(self) -> None:
        """A `str` becomes one at once, and anything else is refused at once, whatever it shows."""
        where: dict[str, Any] = {"host": "db1", "username": "me"}
        order: dict[str, Any] = where | {"command_id": "c1", "port": 22, "command": "true"}
        for name in ("password", "private_key", "passphrase"):
            for made in (ExecuteCommand(**order | {name: "s3cret"}), JumpHost(**where | {name: "s3cret"})):
                self.assertEqual(getattr(made, name), Secret("s3cret"))
                self.assertIn("s3cret", made.to_wire().values())
                self.assertNotIn("s3cret", repr(made))
                other = msgspec.structs.replace(made, **{name: "an0ther"})
                self.assertEqual(getattr(other, name), Secret("an0ther"))
            for wrong in (b"s3cret", 12345, ["s3cret"]):
                for kind, fields in ((ExecuteCommand, order), (JumpHost, where)):
                    error = self.assertRaises(TypeError, kind, **fields | {name: wrong})
                    self.assertEqual(str(error), f"{name} has to be a Secret or a str, not {type(wrong).__name__}")

    def test_other_fields_made_in_python(self) -> None:
        """A mistake shows where it is made, without the value."""
        where: dict[str, Any] = {"host": "db1", "username": "me"}
        order: dict[str, Any] = where | {"command_id": "c1", "port": 22, "command": "true"}
        for field, wrong, words in (
            ("stdin", "s3cret", "stdin has to be bytes, not str"),
            ("env", {"A": "s3cret"}, "env has to be tuple, not dict"),
            ("env", ("s3cret",), "env has to be a tuple of pairs of str"),
            ("env", (("A", b"s3cret"),), "env has to be a tuple of pairs of str"),
            ("timeout", "30", "timeout has to be int or float or None, not str"),
            ("timeout", True, "timeout has to be int or float or None, not bool"),
            ("command", b"s3cret", "command has to be str, not bytes"),
            ("command_id", 7, "command_id has to be str, not int"),
            ("extended", "yes", "extended has to be bool, not str"),
            ("via", ({"host": "s3cret"},), "each of via has to be JumpHost, not dict"),
            ("pty", "s3cret", "pty has to be Pty or bool or None, not str"),
            ("become", {"password": "s3cret"}, "become has to be Become or bool or None, not dict"),
            ("cwd", Path("/srv"), "cwd has to be str or None, not PosixPath"),
        ):
            error = self.assertRaises(TypeError, ExecuteCommand, **order | {field: wrong})
            self.assertIn(words, str(error))
            self.assertNotIn("s3cret", str(error))
        for kind, fields in ((ExecuteCommand, order), (JumpHost, where)):
            for field, wrong in (("port", "22"), ("host", b"db1"), ("username", None), ("certificate", b"s3cret")):
                self.assertIn(f"{field} has to be ", str(self.assertRaises(TypeError, kind, **fields | {field: wrong})))

    def test_equality(self) -> None:
        self.assertEqual(Secret("a"), Secret("a"))
        self.assertNotEqual(Secret("a"), Secret("b"))
        self.assertNotEqual(Secret("a"), "a")
        self.assertEqual(len({Secret("a"), Secret("a"), Secret("\ud800")}), 2)
