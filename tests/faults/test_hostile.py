"""
A main server that sends whatever it likes, in both dialects: the relay survives with bounded memory, answers each
command that can be named, and goes on.  And commands whose output is no text.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.faults import NATIVE, SOCKETIO, FaultCase
from tests.support.relays import ROOT

MIB = 1 << 20

#: Raw messages that end the connection: the relay closes it, and is back.
FATAL_SOCKETIO: Sequence[dict[str, Any]] = (
    {"text": ""},
    {"text": "9what"},
    {"text": "42/proxy,[Nan]"},
    {"text": '42/proxy,["execute_command",'},
    {"text": "4"},
    {"text": "49/proxy,[]"},
    {"text": '42/proxy,99999999999999999999["execute_command",{}]'},
    {"text": "45999999999-/proxy,[]"},
    {"text": "4565-/proxy,[]"},
    {"text": "binary that nobody announced", "binary": True},
    {"text": '0{"sid":"x","upgrades":[],"pingInterval":1,"pingTimeout":1}'},
    {"text": '42/proxy,["execute_command",', "repeat": "[", "times": 100_000, "tail": "]"},
    {"text": '42/proxy,["x",', "repeat": '{"a":', "times": 100_000, "tail": "1}"},
    {"text": "", "repeat": "x", "times": 9 * MIB},
    {"text": "42/proxy,", "repeat": "1", "times": 5000},
    {"text": "", "repeat": "\u0000", "times": 1000},
)
FATAL_NATIVE: Sequence[dict[str, Any]] = (
    {"text": '{"event":"x","data":', "repeat": '{"a":', "times": 100_000, "tail": "1}"},
    {"text": '{"event": "execute_command", "data": ', "repeat": "x", "times": 100_000},
    {"text": "", "repeat": "x", "times": 9 * MIB},
)
#: Messages that change nothing, whatever they are.
HARMLESS_SOCKETIO: Sequence[dict[str, Any]] = (
    {"text": "2probe"},
    {"text": "6"},
    {"text": "5"},
    {"text": "42/proxy,[NaN]"},
    {"text": '42/proxy,["execute_command",{"commandId":NaN,"timeout":Infinity}]'},
    {"text": '42/other,["execute_command",{"commandId":"other"}]'},
    {"text": '42["execute_command",{"commandId":"none"}]'},
    {"text": '42/proxy,["no such event",{"a":[1,2,{"b":null}]}]'},
    {"text": "42/proxy,[1,2,3]"},
    {"text": '450-/proxy,["no attachment"]'},
    {"text": '42/proxy,["execute_command"]'},
    {"text": '42/proxy,["\\ud800\\udfff",{"lone":"\\ud83d"}]'},
    {"text": '43/proxy,7["an answer to nothing"]'},
    {"text": '40/proxy,{"sid":"again"}'},
    {"text": '42/proxy,["x","', "repeat": "y", "times": 7 * MIB, "tail": '"]'},
)
HARMLESS_NATIVE: Sequence[dict[str, Any]] = (
    {"text": ""},
    {"text": "NaN"},
    {"text": "1e400"},
    {"text": '{"event": "execute_command", "data": '},
    {"text": '{"event": "execute_command", "data": {"timeout": NaN}}'},
    {"text": "", "repeat": "[", "times": 100_000},
    {"text": "", "repeat": "\u0000", "times": 1000},
    {"text": "[]"},
    {"text": "{}"},
    {"text": '{"event": 1}'},
    {"text": '{"event": null, "data": {}}'},
    {"text": '{"event": "\\ud800\\udfff", "data": {"lone": "\\ud83d"}}'},
    {"text": '{"event": "no such event", "data": [[[]]]}'},
    {"text": '{"event": "command_result_received", "data": "what"}'},
    {"text": "\u0000\u0001", "binary": True},
    {"text": "", "repeat": "b", "times": MIB, "binary": True},
    {"text": '{"event":"x","data":"', "repeat": "y", "times": 7 * MIB, "tail": '"}'},
)

#: What can be wrong with a command that names itself.
INVALID: Sequence[dict[str, Any]] = (
    *({name: value} for name in ("host", "username", "command") for value in (None, "", 7, [], {}, "a\u0000b", True)),
    *({"port": value} for value in (0, -1, 65536, 1e9, "x", "22x", [1], 22.5, 1e308)),
    *({"timeout": value} for value in ("soon", -1, [1], {"a": 1}, 1e308, True)),
    *({"privateKey": value} for value in (7, [], {"a": 1}, "no key", "-----BEGIN OPENSSH PRIVATE KEY-----\n")),
    *({"cwd": value} for value in (7, "a\u0000b", "x" * 5000)),
    *({"env": value} for value in (7, [1], {"A": 1}, {"a b": "c"}, {"A": "\u0000"}, {str(n): "x" for n in range(999)})),
    *({"stdin": value} for value in (7, [1], {"base64": "***"}, {"other": "x"})),
    *({"via": value} for value in (7, "x", [{}], [{"host": "h"}] * 9, [[]])),
    *({"script": value} for value in (7, "x", {"a": 1})),
    *({name: value} for name in ("interpreter", "args") for value in (7, "x", ["x"])),
    *({name: value} for name in ("files", "fetch") for value in (7, "x", [1], [{}], [{"path": "x"}], [{"a": 1}] * 101)),
    *({"pty": value} for value in (7, [1], {"cols": 0}, {"x": 1})),
    *({"become": value} for value in (7, "root", {"user": "#0"}, {"method": "doas"}, {"password": {"a": 1}})),
    *({"encoding": value} for value in (7, "rot13", ["utf-8"])),
    *({"hostKey": value} for value in (7, "x", "SHA256:x")),
    {"host": "h" * 100_000},
    {"username": "-oProxyCommand=x\n"},
    {"password": {"a": 1}},
)  # fmt: skip


class HostileCase(FaultCase):
    def memory(self) -> int:
        """Bytes of physical memory that the relay takes (proc(5), VmRSS)."""
        lines = Path(f"/proc/{self.relay.pid}/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024


class HostileTests(HostileCase):
    async def survives(self, script: str, fatal: Sequence[dict[str, Any]], harmless: Sequence[dict[str, Any]]) -> None:
        await self.begin(script)
        self.order("first", "echo ok")
        await self.settled()
        before = self.memory()
        for message in harmless:
            self.server.send({"op": "raw", **message})
            await self.works()
        self.assertEqual(self.connections(), 1, "the link stays")
        for number, message in enumerate(fatal):
            self.order(f"running-{number}", "sleep 0.3; echo ok")
            await self.until(self.running(f"running-{number}"), "a command runs")
            times = self.connections()
            self.server.send({"op": "raw", **message})
            await self.until(lambda times=times: self.connections() > times, f"back after {message}")  # type: ignore[misc]
            self.assertEqual(await self.result(f"running-{number}"), ("ok", "", 0), message)
        await self.check()
        self.assertLess(self.memory(), before + 120 * MIB)

    async def test_socketio(self) -> None:
        await self.survives(SOCKETIO, FATAL_SOCKETIO, HARMLESS_SOCKETIO)

    async def test_native(self) -> None:
        await self.survives(NATIVE, FATAL_NATIVE, HARMLESS_NATIVE)

    async def test_attachment_floods(self) -> None:
        """Binary events with as many attachments as are swallowed, which nobody answers; memory does not grow."""
        await self.begin()
        self.order("first", "echo ok")
        await self.settled()
        before = self.memory()
        for number in range(20):
            self.server.send({"op": "raw", "text": f'4564-/proxy,{number}["execute_command",{{"commandId":"x"}}]'})
            for _ in range(64):
                self.server.send({"op": "raw", "binary": True, "repeat": "x", "times": MIB // 4})
        await self.works()
        self.assertEqual(self.connections(), 1)
        self.assertLess(self.memory(), before + 60 * MIB)
        await self.check()

    async def invalid_commands(self, script: str) -> None:
        """Each has a result that says what is wrong with it, and none ran."""
        await self.begin(script)
        never = []
        for number, fields in enumerate(INVALID):
            never.append(f"invalid-{number}")
            self.order(never[-1], fields={"timeout": 5000, **fields})
        await self.settled()
        wrong = []
        for number, fields in enumerate(INVALID):
            _, stderr, code = self.results()[f"invalid-{number}"][0]
            if code != 1 or not 0 < len(stderr) < 1200:
                wrong.append((fields, code, stderr[:100]))
        self.assertEqual(wrong, [])
        self.assertEqual(self.connections(), 1)
        await self.check(not_run=never)

    async def test_invalid_commands(self) -> None:
        await self.invalid_commands(SOCKETIO)

    async def test_invalid_commands_on_plain_websockets(self) -> None:
        await self.invalid_commands(NATIVE)


class BinaryOutput(HostileCase):
    """Every byte there is, in every place where it could do harm."""

    async def arrives(self, script: str) -> None:
        await self.begin(script)
        data = bytes(range(256)) + b"\xf0\x9f\x9a\xff\xed\xa0\x80\x00\xc0\xaf" + bytes(reversed(range(256)))
        escapes = "".join(f"\\{byte:03o}" for byte in data)
        for name, encoding in (("text", "utf-8"), ("exact", "base64")):
            self.order(name, f"printf '{escapes}'; printf '{escapes}' >&2; exit 3", encoding=encoding)
        text = data.decode("utf-8", "replace").strip(" \t\n\v\f\r")
        self.assertEqual(await self.result("text"), (text, text, 3))
        stdout, stderr, code = await self.result("exact")
        self.assertEqual((b64decode(stdout, validate=True), b64decode(stderr, validate=True), code), (data, data, 3))
        self.order("nothing but NUL", "head -c 5000 /dev/zero")
        self.assertEqual(await self.result("nothing but NUL"), ("\0" * 5000, "", 0))
        self.assertEqual(self.connections(), 1)

    async def test_socketio(self) -> None:
        await self.arrives(SOCKETIO)

    async def test_native(self) -> None:
        await self.arrives(NATIVE)


class TableTests(SynchronousTestCase):
    """What the documents say of how often each was sent."""

    def test_numbers(self) -> None:
        text = (ROOT / "docs" / "reliability.rst").read_text()
        for count in (
            f"{len(FATAL_SOCKETIO)} on Socket.IO, {len(FATAL_NATIVE)} on native",
            f"{len(HARMLESS_SOCKETIO)} on Socket.IO, {len(HARMLESS_NATIVE)} on native",
            f"2 × {len(INVALID)} commands",
        ):
            self.assertIn(f"     - {count}\n     - ``tests.faults.test_hostile``", text)
