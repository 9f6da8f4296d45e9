"""
The Socket.IO dialect: both roles against each other, the wire letter for letter, and anything at all against each role.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relayd.dialects import socketio
from relayd.dialects.base import NO_LIMIT
from relayd.errors import ProtocolError
from relayd.interfaces import (
    AckReceived,
    Connected,
    DialectEvent,
    Disconnected,
    EventReceived,
    HandshakeReceived,
    HeartbeatReceived,
    IDialect,
    Ignored,
)
from tests.test_dialects_native import json_values, names

OPEN = '0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'
JOINED = '40/proxy,{"sid":"t"}'
Dialect = socketio.RelayDialect | socketio.ServerDialect


def joined_relay() -> socketio.RelayDialect:
    relay = socketio.RelayDialect()
    relay.opened()
    relay.receive_text(OPEN)
    relay.receive_text(JOINED)
    relay.frames_to_send()
    return relay


def joined_server() -> socketio.ServerDialect:
    server = socketio.ServerDialect()
    server.opened()
    server.receive_text("40/proxy,")
    server.frames_to_send()
    return server


def pump(sender: Dialect, receiver: Dialect) -> list[DialectEvent]:
    return [event for frame in sender.frames_to_send() for event in receiver.receive_text(frame)]


class Dialogue(SynchronousTestCase):
    """Both roles in memory."""

    def setUp(self) -> None:
        self.relay = socketio.RelayDialect()
        self.server = socketio.ServerDialect(ping_interval=10, ping_timeout=5, accepts=123_456)

    def join(self) -> None:
        self.assertEqual(list(self.relay.opened()), [])
        self.assertEqual(list(self.server.opened()), [HandshakeReceived(15.0)])
        self.assertEqual(pump(self.server, self.relay), [HandshakeReceived(15.0)])
        self.assertEqual(pump(self.relay, self.server), [Connected()])
        self.assertEqual(pump(self.server, self.relay), [Connected()])
        self.assertEqual(self.relay.max_payload, 123_456)

    def test_interface(self) -> None:
        verifyObject(IDialect, self.relay)
        verifyObject(IDialect, self.server)

    @given(names, json_values)
    def test_events(self, name: str, data: Any) -> None:
        relay, server = joined_relay(), joined_server()
        relay.send_event(name, data)
        self.assertEqual(pump(relay, server), [EventReceived(name, data)])
        server.send_event(name, data)
        self.assertEqual(pump(server, relay), [EventReceived(name, data)])
        self.assertEqual(server.request(name, data), 0)
        self.assertEqual(server.request(name, data), 1)
        self.assertEqual(pump(server, relay), [EventReceived(name, data, 0), EventReceived(name, data, 1)])
        relay.acknowledge(0, None)
        relay.acknowledge(1, {"error": name})
        self.assertEqual(pump(relay, server), [AckReceived(0, None), AckReceived(1, {"error": name})])

    @given(st.lists(st.tuples(names, json_values, st.booleans()), max_size=20), st.integers(0, 20))
    def test_events_before_the_answer_to_connect(self, sent: list[tuple[str, Any, bool]], early: int) -> None:
        """What python-socketio's connect handler emits comes before that answer, and is handled after it, in order."""
        relay, server = socketio.RelayDialect(), socketio.ServerDialect()
        server.opened()
        self.assertEqual([type(event) for event in pump(server, relay)], [HandshakeReceived])
        expected: list[DialectEvent] = []

        def send(name: str, data: Any, asks: bool) -> None:
            number = server.request(name, data) if asks else server.send_event(name, data)
            expected.append(EventReceived(name, data, number))

        for event in sent[:early]:
            send(*event)
        server.ping()
        heard = pump(server, relay)
        self.assertEqual({type(event) for event in heard}, {HeartbeatReceived} | ({Ignored} if expected else set()))
        self.assertEqual(relay.frames_to_send()[1:], ["3"], "nothing is said before the namespace is joined")
        server.receive_text("40/proxy,")
        for event in sent[early:]:
            send(*event)
        self.assertEqual(pump(server, relay), [Connected(), *expected])

    def test_refused_after_early_events(self) -> None:
        """What came before a connect error is nobody's business."""
        relay = socketio.RelayDialect()
        relay.receive_text(OPEN)
        relay.receive_text('42/proxy,["welcome"]')
        self.assertEqual(relay.receive_text('44/proxy,{"message":"no"}'), (Disconnected("no", refused=True),))
        self.assertIsInstance(relay.receive_text(JOINED)[0], Ignored)

    def test_heartbeat(self) -> None:
        self.join()
        self.server.ping()
        self.assertEqual(pump(self.server, self.relay), [HeartbeatReceived()])
        self.assertEqual(pump(self.relay, self.server), [HeartbeatReceived()])
        self.relay.ping()
        self.assertEqual(self.relay.frames_to_send(), [])

    def test_close(self) -> None:
        self.join()
        self.relay.close()
        self.assertEqual(pump(self.relay, self.server), [Disconnected("it disconnected the namespace", refused=False)])
        self.assertIsInstance(self.server.receive_text('42/proxy,["e"]')[0], Ignored)

    def test_disconnected_by_server(self) -> None:
        """The known main server's answer to a wrong key."""
        self.join()
        self.server.refuse("who are you")
        self.assertEqual(pump(self.server, self.relay), [Disconnected("it disconnected the namespace", refused=False)])
        self.relay.close()
        self.assertEqual(self.relay.frames_to_send(), [], "nothing is left to take leave of")

    def test_refused_by_server(self) -> None:
        self.relay.opened()
        self.server.opened()
        self.server.refuse("wrong\nkey")
        pump(self.server, self.relay)
        self.assertEqual(pump(self.relay, self.server), [Disconnected("it was refused", refused=True)])
        self.assertEqual(pump(self.server, self.relay), [Disconnected("wrong\ufffdkey", refused=True)])

    def test_foreign_namespace(self) -> None:
        server = joined_server()
        self.assertIsInstance(server.receive_text("40/other,{}")[0], Ignored)
        self.assertIsInstance(server.receive_text("40")[0], Ignored)
        self.assertEqual(
            server.frames_to_send(), ['44/other,{"message":"Invalid namespace"}', '44{"message":"Invalid namespace"}']
        )


class Wire(SynchronousTestCase):
    """What the relay says and understands, letter for letter."""

    def test_relay(self) -> None:
        relay = socketio.RelayDialect()
        relay.opened()
        relay.receive_text(OPEN)
        self.assertEqual(relay.frames_to_send(), ["40/proxy,"])
        relay.receive_text(JOINED)
        self.assertEqual(
            list(relay.receive_text('42/proxy,17["execute_command",{"commandId":"c"},1]')),
            [EventReceived("execute_command", {"commandId": "c"}, 17)],
        )
        relay.acknowledge(17, None)
        relay.acknowledge(18, {"error": "no"})
        relay.send_event("command_result", {"commandId": "c"})
        relay.receive_text("2")
        relay.receive_text("2probe")
        relay.close()
        self.assertEqual(
            relay.frames_to_send(),
            [
                "43/proxy,17[]",
                '43/proxy,18[{"error":"no"}]',
                '42/proxy,["command_result",{"commandId":"c"}]',
                "3",
                "3probe",
                "41/proxy,",
            ],
        )

    def test_close_before_joining(self) -> None:
        relay = socketio.RelayDialect()
        relay.close()
        self.assertEqual(relay.frames_to_send(), [])

    def test_ends(self) -> None:
        for frame, reason, refused in (
            ("41/proxy,", "disconnected the namespace", False),
            ("1", "closed the Engine.IO session", False),
            ('44/proxy,{"message":"Invalid key"}', "Invalid key", True),
            ('44/proxy,"old"', "old", True),
            ("44/proxy,{}", "without a reason", True),
            ('44/proxy,{"message":"' + "x" * 9999 + '"}', "xxx", True),
        ):
            (event,) = joined_relay().receive_text(frame)
            assert isinstance(event, Disconnected)
            self.assertIn(reason, event.reason)
            self.assertLessEqual(len(event.reason), 200)
            self.assertEqual(event.refused, refused)

    def test_tolerated(self) -> None:
        """Other namespaces, later Engine.IO features and odd events do no harm."""
        foreign = ['42/other,["e"]', '42["e"]', "44/other,{}", "41", '43/o,1["x"]']
        for frame in [*foreign, "6", "5", JOINED, "42/proxy,[5,1]"]:
            self.assertIsInstance(joined_relay().receive_text(frame)[0], Ignored, frame)
        self.assertEqual(list(joined_relay().receive_text("3")), [HeartbeatReceived()])
        self.assertEqual(list(joined_relay().receive_text('42/proxy,["e"]')), [EventReceived("e", None)])

    def test_namespace_query_is_dropped(self) -> None:
        self.assertEqual(list(joined_relay().receive_text('42/proxy?x=1,["e"]')), [EventReceived("e", None)])

    def test_url(self) -> None:
        url = socketio.url("https://h.example/base/proxy", "p 1", "k&=+")
        parts = urlsplit(url)
        self.assertEqual((parts.scheme, parts.netloc, parts.path), ("wss", "h.example", "/base/socket.io/"))
        self.assertEqual(
            parse_qs(parts.query), {"EIO": ["4"], "transport": ["websocket"], "proxyId": ["p 1"], "apiKey": ["k&=+"]}
        )


class Binary(SynchronousTestCase):
    """Binary events are refused politely: their attachments pass by, unstored, and the link lives."""

    EVENT = '452-/proxy,9["file",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'

    def test_refused(self) -> None:
        relay = joined_relay()
        self.assertIsInstance(relay.receive_text(self.EVENT)[0], Ignored)
        self.assertEqual(relay.frames_to_send(), ['43/proxy,9[{"error":"binary events are not supported"}]'])
        self.assertEqual(list(relay.receive_text("2")), [HeartbeatReceived()], "a heartbeat may come in between")
        self.assertIsInstance(relay.receive_binary(b"1")[0], Ignored)
        self.assertRaises(ProtocolError, relay.receive_text, '42/proxy,["e"]')
        self.assertIsInstance(relay.receive_binary(b"2")[0], Ignored)
        self.assertEqual(list(relay.receive_text('42/proxy,["e"]')), [EventReceived("e", None)])

    def test_without_id(self) -> None:
        relay = joined_relay()
        relay.receive_text(self.EVENT.replace("9[", "["))
        self.assertEqual(relay.frames_to_send(), [])

    def test_binary_ack(self) -> None:
        relay = joined_relay()
        self.assertIsInstance(relay.receive_text('461-/proxy,0[{"_placeholder":true,"num":0}]')[0], Ignored)
        self.assertIsInstance(relay.receive_binary(b"1")[0], Ignored)

    def test_unannounced(self) -> None:
        self.assertRaises(ProtocolError, joined_relay().receive_binary, b"x")

    def test_too_many(self) -> None:
        self.assertRaises(ProtocolError, joined_relay().receive_text, '45999999999-/proxy,["e"]')
        self.assertRaises(ProtocolError, joined_relay().receive_text, '4565-/proxy,["e"]')
        joined_relay().receive_text('4564-/proxy,["e"]')


class Malformed(SynchronousTestCase):
    def test_handshake(self) -> None:
        good = json.loads(OPEN[1:])
        bad: list[str] = ["", "2", JOINED, '42/proxy,["e"]', "0", "0[]", "0{}", "hello", '{"event":"x"}', "\u0660"]
        for change in (
            {"pingInterval": 0},
            {"pingInterval": -1},
            {"pingTimeout": -1},
            {"pingInterval": 1e12},
            {"pingInterval": "25000"},
            {"maxPayload": -1},
            {"maxPayload": "x"},
            {"sid": None},
        ):
            bad.append("0" + json.dumps(good | change))
        for frame in bad:
            self.assertRaises(ProtocolError, socketio.RelayDialect().receive_text, frame)

    def test_max_payload(self) -> None:
        """Older servers do not say; JavaScript's Infinity is JSON's null; 0 is no limit, and so is what is larger."""
        for value, expected in ((None, NO_LIMIT), (1e300, NO_LIMIT), (0, NO_LIMIT), (5000, 5000), (300, 300)):
            relay = socketio.RelayDialect()
            relay.receive_text("0" + json.dumps({**json.loads(OPEN[1:]), "maxPayload": value}))
            self.assertEqual(relay.max_payload, expected)
        relay = socketio.RelayDialect()
        relay.receive_text('0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000}')
        self.assertEqual(relay.max_payload, 1_000_000)

    def test_packets(self) -> None:
        """Each is refused, in words that hold nothing of what arrived."""
        for frame in (
            "4",
            "4x",
            "47/proxy,",
            "49",
            "7",
            "bAAAA",
            "x",
            "",
            "42/proxy,",
            "42/proxy,[]",
            "42/proxy,{}",
            '42/proxy,"hunter2"',
            '42/proxy,["hunter2"',
            '42/proxy,["e",NaN]',
            '42/proxy,["e",-Infinity]',
            '42/proxy,["e"]hunter2',
            "42/proxy," + "[" * 100_000,
            "42/proxy," + "1" * 101 + '["e"]',
            "42/proxy," + "9" * 90 + '["e"]',
            "42/proxy,\u00b2[]",
            "4\u00b2",
            "4\u00b2-",
            '421-/proxy,["e"]',
            "45\u00b2-/proxy,[]",
            "4599999999999-/proxy,[]",
            '43/proxy,["x"]',
            "43/proxy,1{}",
            "43/proxy,1",
        ):
            error = self.assertRaises(ProtocolError, joined_relay().receive_text, frame)
            self.assertNotIn("hunter2", str(error), frame)

    def test_too_early(self) -> None:
        relay = socketio.RelayDialect()
        self.assertRaises(ProtocolError, relay.receive_text, '42/proxy,["e"]')
        relay.receive_text(OPEN)
        self.assertRaises(ProtocolError, relay.receive_text, "43/proxy,1[]")
        self.assertRaises(ProtocolError, relay.receive_text, "40/proxy,")  # Socket.IO 2: no sid
        server = socketio.ServerDialect()
        self.assertRaises(ProtocolError, server.receive_text, "40/proxy,")
        server.opened()
        self.assertRaises(ProtocolError, server.receive_text, '42/proxy,["command_result",{}]')

    def test_too_much_too_early(self) -> None:
        """The number of events that are kept has a bound, and so has their size, but for a single one."""
        small, quarter, huge = ('42/proxy,["e","%s"]' % ("x" * size) for size in (0, 1 << 18, 2 << 20))
        for kept, one_more in (([small] * socketio.MAX_EARLY, small), ([quarter] * 3, quarter), ([huge], small)):
            relay = socketio.RelayDialect()
            for frame in (OPEN, *kept):
                relay.receive_text(frame)
            error = self.assertRaises(ProtocolError, relay.receive_text, one_more)
            self.assertIn("too many events before the namespace was joined", str(error))

    @given(
        st.lists(
            st.text()
            | st.builds("4{}/proxy,{}".format, st.sampled_from("0123456789"), st.text())
            | st.builds("4{}-/proxy,{}".format, st.integers(40, 70), json_values.map(json.dumps))
            | st.builds("42/proxy,{}{}".format, st.integers(0), json_values.map(json.dumps))
            | st.builds("0{}".format, json_values.map(json.dumps))
            | st.sampled_from([OPEN, JOINED, "40/proxy,", "41/proxy,", "1", "2", "3"])
            | st.binary(max_size=4),
            max_size=6,
        )
    )
    def test_anything(self, frames: list[str | bytes]) -> None:
        for dialect in (socketio.RelayDialect(), joined_relay(), socketio.ServerDialect(), joined_server()):
            try:
                for frame in frames:
                    if isinstance(frame, bytes):
                        dialect.receive_binary(frame)
                    else:
                        dialect.receive_text(frame)
            except ProtocolError:
                pass
            dialect.frames_to_send()
