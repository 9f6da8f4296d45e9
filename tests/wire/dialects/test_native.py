"""
The native dialect: both roles against each other, and anything at all against each role.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relayd.errors import ConfigError, ProtocolError
from relayd.wire.dialects import native
from relayd.wire.dialects.codec import read_json
from relayd.wire.dialects.events import Broken, Connected, EventReceived, HandshakeReceived, IDialect, Ignored
from relayd.wire.unsent import NO_UTF8, Unsent
from tests.support.schemas import unchecked

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


class Dialogue(SynchronousTestCase):
    def test_interface(self) -> None:
        verifyObject(IDialect, native.NativeRelayDialect())
        verifyObject(IDialect, native.NativeServerDialect())

    def test_opened_is_connected(self) -> None:
        """There is no handshake beyond the WebSocket's, and its own pings are the heartbeat."""
        for dialect in (native.NativeRelayDialect(), native.NativeServerDialect()):
            self.assertEqual(list(dialect.opened()), [HandshakeReceived(None), Connected()])
            dialect.ping()
            dialect.close()
            dialect.acknowledge(1, None)
            self.assertEqual(dialect.frames_to_send(), [])

    def test_wire(self) -> None:
        """The framing of Nest's WsAdapter, letter for letter."""
        relay = native.NativeRelayDialect()
        relay.send_event("command_status", {"commandId": "é", "state": "queued"})
        self.assertEqual(
            relay.frames_to_send(), ['{"event":"command_status","data":{"commandId":"é","state":"queued"}}']
        )
        self.assertEqual(relay.frames_to_send(), [])

    @given(names, json_values)
    @unchecked()
    def test_both_roles(self, name: str, data: Any) -> None:
        relay, server = native.NativeRelayDialect(), native.NativeServerDialect()
        for sender, receiver in ((relay, server), (server, relay)):
            sender.send_event(name, data)
            (frame,) = sender.frames_to_send()
            self.assertEqual(sender.event_frame(name, data), frame.encode())
            self.assertEqual(list(receiver.receive_text(frame)), [EventReceived(name, data)])
        self.assertIsNone(server.request(name, data))
        self.assertEqual(list(relay.receive_text(server.frames_to_send()[0])), [EventReceived(name, data)])


class Input(SynchronousTestCase):
    def receive(self, text: str) -> list[Any]:
        return list(native.NativeRelayDialect().receive_text(text))

    def test_half_a_surrogate_pair(self) -> None:
        """JavaScript sends such texts, cut in the middle of an emoji; whole pairs, and what only looks so, stay."""
        text = r'{"event":"e","data":"a\ud83d b\uDE00 \ud83d\ude00 \\ud83d \\\udead \u00e9"}'
        self.assertEqual(self.receive(text), [EventReceived("e", "a\ufffd b\ufffd 😀 \\ud83d \\\ufffd é")])
        for broken in (r'{"event":"\ud83d', r'{"event":\ud83d}', '{"event":"\ud83d"}'):
            self.assertIsInstance(self.receive(broken)[0], Ignored)

    def test_extra_members(self) -> None:
        self.assertEqual(self.receive(' \n{"id": 4, "event": "e", "x": {}}'), [EventReceived("e", None)])

    def test_no_event(self) -> None:
        """A greeting of a hand-written server, or its text ``ping``, is no reason to leave it."""
        shapes = ['{"type": "welcome"}', '{"event": 5}', '{"event": ""}', "[1]", '"ping"', "5"]
        texts = ["", "ping", "hello hunter2", "\ufeff", " \n", "[" * 100_000, '"\ud800"', "2", "0{", "<html>"]
        broken = ['{"event": "hunter2', '{"event": "e", "data": Nan}', '{"event": "e"} hunter2', '{"data": +Infinity}']
        for text in (*shapes, *texts, *broken):
            (event,) = self.receive(text)
            self.assertIsInstance(event, Ignored, text)
            self.assertTrue(event.strange)
            self.assertNotIn("hunter2", event.what)

    def test_byte_order_mark(self) -> None:
        for text in ('\ufeff{"event": "e"}', ' \ufeff{"event": "e"}', '\ufeff\r\n{"event": "e"}'):
            self.assertEqual(self.receive(text.lstrip()), [EventReceived("e", None)])

    def test_binary(self) -> None:
        """JSON in a binary message, as servers send that write bytes."""
        relay = native.NativeRelayDialect()
        self.assertEqual(list(relay.receive_binary('{"event": "é"}'.encode())), [EventReceived("é", None)])
        self.assertEqual(list(relay.receive_binary(b'\xef\xbb\xbf{"event": "e"}')), [EventReceived("e", None)])
        for data in (b"{}", b"", b"\xff\x00", b"\x89PNG", b"\0", b"\0\0", b"{\0", b"\0{\xd8"):
            self.assertIsInstance(relay.receive_binary(data)[0], Ignored)

    def test_binary_in_other_encodings(self) -> None:
        """RFC 4627 tells by the first bytes which one of Unicode's it is."""
        for name in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
            data = '{"event": "e", "data": "é汉😀"}'.encode(name)
            self.assertEqual(
                list(native.NativeRelayDialect().receive_binary(data)), [EventReceived("e", "é汉😀")], name
            )

    def test_binary_that_cannot_be_read(self) -> None:
        """What is not ASCII in a character set that nobody names is not guessed; the rest of the event is there."""
        text = '{"event": "e", "data": {"id": "c1", "a": "文字", "b": ["x", {"c": "é文"}], "d": ""}}'
        for name in ("gbk", "gb18030", "big5"):
            data = text.replace("é", "").encode(name)
            (event,) = native.NativeRelayDialect().receive_binary(data)
            assert isinstance(event, EventReceived)
            read: Any = event.data
            self.assertEqual((read["id"], read["b"][0], read["d"]), ("c1", "x", ""))
            self.assertEqual({value.fault for value in (read["a"], read["b"][1]["c"])}, {NO_UTF8})
        (event,) = native.NativeRelayDialect().receive_binary(b'{"event": "e", "data": "\xe9"}')
        self.assertIsInstance(event.data, Unsent)  # type: ignore[union-attr]

    def test_what_waited_comes_in_lines(self) -> None:
        """Servers in Go that follow the example of their library put all that waits into one message."""
        lines = '{"event":"a","data":"\\n"}\n{"event":"b"}\r\n\n \nping\n{"event":"c"}\n'
        told = self.receive(lines)
        self.assertEqual([each.name for each in told if isinstance(each, EventReceived)], ["a", "b", "c"])
        self.assertEqual(sum(isinstance(each, Ignored) for each in told), 1)
        pretty = json.dumps({"event": "e", "data": {"a": [1, 2]}}, indent=2)
        self.assertEqual(self.receive(pretty), [EventReceived("e", {"a": [1, 2]})])
        *before, last = self.receive('{"event":"a"}\n{"event":"b"}\n{"event":' + "x" * 100_000 + '\n{"event":"c"}')
        self.assertEqual(before, [EventReceived("a", None), EventReceived("b", None)])
        self.assertIsInstance(last, Broken)
        self.assertRaises(ProtocolError, self.receive, '{"event":"a"}\n' * 5000)

    def test_the_zero_after_a_text_of_c(self) -> None:
        self.assertEqual(self.receive('{"event":"e"}\0'), [EventReceived("e", None)])
        self.assertEqual(
            list(native.NativeRelayDialect().receive_binary(b'{"event":"e"}\0\0')), [EventReceived("e", None)]
        )

    def test_refused(self) -> None:
        """What is large and no JSON, or no end of brackets; and who speaks the other dialect."""
        large = '{"event": "hunter2' + "x" * 100_000
        greeting = '0{"sid":"hunter2","upgrades":[],"pingInterval":25000}'
        for text in (large, '{"event": "e", "data": ' + "[" * 100_000, greeting):
            error = self.assertRaises(ProtocolError, self.receive, text)
            self.assertNotIn("hunter2", str(error))

    @given(st.text() | st.builds(lambda text: '{"event":' + text, st.text()))
    def test_anything(self, text: str) -> None:
        for dialect in (native.NativeRelayDialect(), native.NativeServerDialect()):
            with contextlib.suppress(ProtocolError):
                dialect.receive_text(text)


class URL(SynchronousTestCase):
    def test_forms(self) -> None:
        for server, expected in (
            ("https://relay.example", "wss://relay.example/proxy"),
            ("wss://relay.example/", "wss://relay.example/proxy"),
            ("HTTP://Relay.example:8080/base/", "ws://relay.example:8080/base/proxy"),
            ("ws://[::1]:3000/proxy", "ws://[::1]:3000/proxy"),
            ("ws://h/base/proxy/", "ws://h/base/proxy/"),
            ("ws://h/a proxy", "ws://h/a%20proxy/proxy"),
        ):
            self.assertEqual(native.url(server, "p", "k"), expected + "?proxyId=p&apiKey=k")

    def test_encoded(self) -> None:
        """Nothing in a key or a name can end the parameter it stands in."""
        self.assertEqual(
            native.url("ws://h", "代理 1&", "a+b=c/?#%"),
            "ws://h/proxy?proxyId=%E4%BB%A3%E7%90%86%201%26&apiKey=a%2Bb%3Dc%2F%3F%23%25",
        )

    def test_query_is_kept(self) -> None:
        for query, expected in (
            ("t=1#f", "t=1"),
            ("a=%2F+b&&empty=&flag&a=2", "a=%2F+b&empty=&flag&a=2"),
            ("part=100%&x=%zz&é=ü|", "part=100%25&x=%25zz&%C3%A9=%C3%BC%7C"),
            ("q=a?b/c:d@e;f,g", "q=a?b/c:d@e;f,g"),
        ):
            self.assertEqual(native.url(f"ws://h/?{query}", "p", "k"), f"ws://h/proxy?{expected}&proxyId=p&apiKey=k")

    def test_our_own_parameters_are_sent_once(self) -> None:
        """However they are spelt in the URL; those of Engine.IO mean nothing here."""
        for query in ("proxyId=x&apiKey=y", "%70roxyId=x", "apiKey", "=&proxyId"):
            parameters = parse_qsl(urlsplit(native.url(f"ws://h?{query}", "p", "k")).query)
            self.assertEqual(parameters, [("proxyId", "p"), ("apiKey", "k")])
        self.assertIn("?EIO=9&sid=s&", native.url("ws://h?EIO=9&sid=s", "p", "k"))

    def test_another_path(self) -> None:
        for server, path, expected in (
            ("wss://h", "/relay/ws", "wss://h/relay/ws"),
            ("wss://h/base/", "/ws/", "wss://h/base/ws/"),
            ("wss://h/base/proxy/", "/ws", "wss://h/base/ws"),
            ("wss://h/base?a=1", "/ws", "wss://h/base/ws?a=1"),
            ("wss://h", "/", "wss://h/"),
            ("wss://h", "/中 继/100%", "wss://h/%E4%B8%AD%20%E7%BB%A7/100%25"),
        ):
            whole = native.url(server, "p", "k", path)
            self.assertEqual(whole, expected + ("&" if "?" in expected else "?") + "proxyId=p&apiKey=k")

    def test_refused(self) -> None:
        for server in ("", "relay.example", "ftp://h", "ws://", "ws://h:port", "ws://[::1"):
            self.assertRaises(ConfigError, native.url, server, "p", "k")


class Lenient(SynchronousTestCase):
    """JSON that is none by the letter, as main servers send it."""

    def read(self, text: str) -> Any:
        return read_json(text)

    @given(json_values, st.sampled_from(["NaN", "[NaN,Infinity]", '"\\ud83d"', "1e999", "-" + "9" * 5000]))
    def test_the_rest_stays_as_it_is(self, value: Any, odd: str) -> None:
        told = self.read(f'{{"a":{json.dumps(value)},"odd":{odd},"b":{json.dumps(value, ensure_ascii=False)}}}')
        self.assertEqual((told["a"], told["b"]), (value, value))

    def test_numbers_of_other_languages(self) -> None:
        """What is no number is nothing, as JavaScript writes it; what is too large stays too large for any field."""
        for text, expected in (
            ("NaN", None), ("-NaN", None), ("Infinity", sys.float_info.max), ("-Infinity", -sys.float_info.max),
            ("1e400", sys.float_info.max), ("-1e400", -sys.float_info.max), ("9" * 5000, sys.float_info.max),
            ('"NaN"', "NaN"), ('"\\"NaN"', '"NaN'), ("1e-400", 0.0),
        ):  # fmt: skip
            self.assertEqual(self.read(f"[NaN,{text}]"), [None, expected], text)
        for broken in ("Nan", "nan", "+Infinity", "NaNN", "1NaN", "Infinityx", "0x10", "{NaN:1}", '["NaN'):
            self.assertRaises(ProtocolError, self.read, f"[{broken}]")

    def test_depth(self) -> None:
        for opening, closing in (("[", "]"), ('{"a":', "}"), ('[{"]":"}","a":', "}]")):
            for depth in (50, 5000, 20_000):
                deep = opening * depth + "NaN" + closing * depth
                told = self.read(f'{{"id":"c1","x":{deep},"y":{deep},"z":"[[{{"}}')
                self.assertEqual((told["id"], told["z"]), ("c1", "[[{"))
        for broken in ("[" * 5000, "[" * 5000 + "]" * 4999, "[" * 5000 + "]" * 5001):
            self.assertRaises(ProtocolError, self.read, broken)

    @given(st.text(alphabet='[]{}",:\\0eNaInfity- ud8'))
    def test_anything(self, text: str) -> None:
        for odd in (text, f"[NaN,{text}]", "[" * 2000 + text):
            with contextlib.suppress(ProtocolError):
                self.read(odd)


class Size(SynchronousTestCase):
    """What is large must be so by its strings: all else takes too long to decode."""

    def read(self, data: str) -> object:
        event: Any
        (event,) = native.NativeRelayDialect().receive_text('{"event":"x","data":' + data + "}")
        return event.data

    def test_many_values(self) -> None:
        for value in ("[]", "{}", "1", '""', '"a"', "[[]]"):
            self.assertRaises(ProtocolError, self.read, "[" + f"{value}," * 600_000 + "0]")

    def test_long_strings(self) -> None:
        for part in ("x", ",", '\\"', "\\\\", '\\\\\\"', "[{}],", "汉"):
            text = part * 600_000
            self.assertEqual(self.read(f'["{text}", 1, "{text}"]'), json.loads(f'["{text}", 1, "{text}"]'))
