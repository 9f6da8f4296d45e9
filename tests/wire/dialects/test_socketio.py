"""
The Socket.IO dialect: both roles against each other, the wire letter for letter, and anything at all against each role.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relayd.errors import ProtocolError
from relayd.wire.dialects import packets, socketio
from relayd.wire.dialects.attachments import MAX_BYTES
from relayd.wire.dialects.codec import NO_LIMIT
from relayd.wire.dialects.events import (
    AckReceived,
    AttachmentsDue,
    Broken,
    Connected,
    DialectEvent,
    Disconnected,
    EventReceived,
    HandshakeReceived,
    HeartbeatReceived,
    IDialect,
    Ignored,
)
from relayd.wire.unsent import Unsent
from tests.support.schemas import unchecked
from tests.wire.dialects.test_native import json_values, names

OPEN = '0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'
JOINED = '40/proxy,{"sid":"t"}'
Dialect = socketio.SocketIORelayDialect | socketio.SocketIOServerDialect


def joined_relay() -> socketio.SocketIORelayDialect:
    relay = socketio.SocketIORelayDialect()
    relay.opened()
    relay.receive_text(OPEN)
    relay.receive_text(JOINED)
    relay.frames_to_send()
    return relay


def joined_server() -> socketio.SocketIOServerDialect:
    server = socketio.SocketIOServerDialect()
    server.opened()
    server.receive_text("40/proxy,")
    server.frames_to_send()
    return server


def pump(sender: Dialect, receiver: Dialect) -> list[DialectEvent]:
    return [event for frame in sender.frames_to_send() for event in receiver.receive_text(frame)]


class Dialogue(SynchronousTestCase):
    """Both roles in memory."""

    def setUp(self) -> None:
        self.relay = socketio.SocketIORelayDialect()
        self.server = socketio.SocketIOServerDialect(ping_interval=10, ping_timeout=5, accepts=123_456)

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
    @unchecked()
    def test_events(self, name: str, data: Any) -> None:
        relay, server = joined_relay(), joined_server()
        relay.send_event(name, data)
        (frame,) = relay.frames_to_send()
        self.assertEqual(relay.event_frame(name, data), frame.encode())
        self.assertEqual(list(server.receive_text(frame)), [EventReceived(name, data)])
        server.send_event(name, data)
        self.assertEqual(pump(server, relay), [EventReceived(name, data)])
        self.assertEqual(server.request(name, data), 0)
        self.assertEqual(server.request(name, data), 1)
        self.assertEqual(pump(server, relay), [EventReceived(name, data, 0), EventReceived(name, data, 1)])
        relay.acknowledge(0, None)
        relay.acknowledge(1, {"error": name})
        self.assertEqual(pump(relay, server), [AckReceived(0, None), AckReceived(1, {"error": name})])

    @given(st.lists(st.tuples(names, json_values, st.booleans()), max_size=20), st.integers(0, 20))
    @unchecked()
    def test_events_before_the_answer_to_connect(self, sent: list[tuple[str, Any, bool]], early: int) -> None:
        """What python-socketio's connect handler emits comes before that answer, and is handled after it, in order."""
        relay, server = socketio.SocketIORelayDialect(), socketio.SocketIOServerDialect()
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
        relay = socketio.SocketIORelayDialect()
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

    def test_disconnected_with_words(self) -> None:
        """python-socketio's ``always_connect`` lets everybody in, and says in the disconnect what is wrong."""
        self.join()
        (event,) = self.relay.receive_text('41/proxy,{"message":"unknown relay","data":{"why":7}}')
        words = 'it disconnected the namespace: unknown relay ({"why":7})'
        self.assertEqual(event, Disconnected(words, refused=False))

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
        relay = socketio.SocketIORelayDialect()
        relay.opened()
        relay.receive_text(OPEN)
        self.assertEqual(relay.frames_to_send(), ["40/proxy,"])
        relay.receive_text(JOINED)
        self.assertEqual(
            list(relay.receive_text('42/proxy,17["cancel_command",{"commandId":"c"},1]')),
            [EventReceived("cancel_command", {"commandId": "c"}, 17)],
        )
        relay.acknowledge(17, None)
        relay.acknowledge(18, {"error": "no"})
        relay.send_event("command_status", {"commandId": "c", "state": "queued"})
        relay.receive_text("2")
        relay.receive_text("2probe")
        relay.close()
        self.assertEqual(
            relay.frames_to_send(),
            [
                "43/proxy,17[]",
                '43/proxy,18[{"error":"no"}]',
                '42/proxy,["command_status",{"commandId":"c","state":"queued"}]',
                "3",
                "3probe",
                "41/proxy,",
            ],
        )

    def test_close_before_joining(self) -> None:
        relay = socketio.SocketIORelayDialect()
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
            self.assertLessEqual(len(event.reason), packets.MAX_WORDS)
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

    def test_our_own_parameters_are_sent_once(self) -> None:
        """Such as those of a URL that was copied out of a browser."""
        server = "https://h?EIO=3&transport=polling&t=x&sid=old&tenant=a+b&proxyId=x&api%4Bey=y"
        sent = parse_qs(urlsplit(socketio.url(server, "p", "k", sid="new")).query)
        own = {"EIO": ["4"], "transport": ["websocket"], "proxyId": ["p"], "apiKey": ["k"], "sid": ["new"]}
        self.assertEqual(sent, own | {"tenant": ["a b"]})
        self.assertNotIn("sid=", socketio.url(server, "p", "k"))


class Binary(SynchronousTestCase):
    """Binary events: the attachments come into their places, within bounds, and nothing is left unanswered."""

    PLACE: ClassVar[dict[str, Any]] = {"_placeholder": True, "num": 0}
    EVENT = '452-/proxy,9["file",{"a":[{"_placeholder":true,"num":1}],"b":{"_placeholder":true,"num":0}}]'

    def announced(self, relay: socketio.SocketIORelayDialect, frame: str) -> int:
        (due,) = relay.receive_text(frame)
        assert isinstance(due, AttachmentsDue)
        return due.number

    def faults(self, event: DialectEvent) -> list[str]:
        """Of an event that was told without its attachments."""
        assert isinstance(event, EventReceived)
        data: Any = event.data
        return [each.fault for each in data.values() if isinstance(each, Unsent)]

    def frame(self, count: int, **data: Any) -> str:
        return f"45{count}-/proxy,{json.dumps(['e', data])}"

    def test_complete(self) -> None:
        relay = joined_relay()
        number = self.announced(relay, self.EVENT)
        self.assertEqual(list(relay.receive_binary(b"1")), [])
        self.assertEqual(list(relay.receive_text("2")), [HeartbeatReceived()], "a heartbeat may come in between")
        self.assertEqual(list(relay.receive_binary(b"2")), [EventReceived("file", {"a": [b"2"], "b": b"1"}, 9)])
        self.assertEqual(list(relay.abandon(number)), [])
        self.assertEqual(list(relay.receive_text('42/proxy,["e"]')), [EventReceived("e", None)])
        self.assertRaises(ProtocolError, relay.receive_binary, b"x")

    def test_the_same_one_in_several_places(self) -> None:
        relay = joined_relay()
        self.announced(relay, self.frame(1, a=self.PLACE, b=[[self.PLACE]]))
        self.assertEqual(list(relay.receive_binary(b"1")), [EventReceived("e", {"a": b"1", "b": [[b"1"]]})])

    def test_places_of_none(self) -> None:
        for number in (1, -1, 1.0, True, None, "0", [0]):
            relay = joined_relay()
            self.announced(relay, self.frame(1, a={"_placeholder": True, "num": number}, b=self.PLACE))
            (event,) = relay.receive_binary(b"1")
            self.assertEqual(self.faults(event), ["came without the binary attachment that it names"], number)

    def test_depth(self) -> None:
        relay = joined_relay()
        self.announced(relay, '451-/proxy,["e",' + "[" * 900 + '{"_placeholder":true,"num":0}' + "]" * 900 + "]")
        (event,) = relay.receive_binary(b"1")
        data: Any = event.data  # type: ignore[union-attr]
        for _ in range(900):
            (data,) = data
        self.assertEqual(data, b"1")

    def test_before_the_answer_to_connect(self) -> None:
        """A binary event that is kept until then, whether its attachments have come or not."""
        for come in (True, False):
            relay = socketio.SocketIORelayDialect()
            relay.receive_text(OPEN)
            number = self.announced(relay, self.frame(1, a=self.PLACE))
            self.assertIsInstance((relay.receive_binary(b"1") if come else relay.abandon(number))[0], Ignored)
            connected, event = relay.receive_text(JOINED)
            self.assertEqual(connected, Connected())
            self.assertEqual(len(self.faults(event)), 0 if come else 1)
        relay = socketio.SocketIORelayDialect()
        relay.receive_text(OPEN)
        self.announced(relay, self.frame(1, a=self.PLACE))
        connected, event = relay.receive_text(JOINED)
        self.assertEqual((connected, len(self.faults(event))), (Connected(), 1))
        relay = socketio.SocketIORelayDialect()
        relay.receive_text(OPEN)
        for _ in range(3):
            self.announced(relay, self.frame(1, a=self.PLACE))
            relay.receive_binary(b"x" * (1 << 18))
        self.announced(relay, self.frame(1, a=self.PLACE))
        self.assertRaises(ProtocolError, relay.receive_binary, b"x" * (1 << 19))

    def test_without_attachments(self) -> None:
        self.assertEqual(list(joined_relay().receive_text('450-/proxy,["e",1]')), [EventReceived("e", 1)])

    def test_the_end_of_the_session_comes_first(self) -> None:
        """What was ordered is told first, so that it is answered on another connection."""
        for end in ("1", "41/proxy,"):
            relay = joined_relay()
            self.announced(relay, self.frame(1, a=self.PLACE))
            event, over = relay.receive_text(end)
            self.assertEqual(self.faults(event), ["came without the binary attachment that it names"])
            self.assertIsInstance(over, Disconnected)

    def test_another_packet_comes_first(self) -> None:
        """What was announced is told as far as it came, and so is what came; late attachments are dropped."""
        relay = joined_relay()
        self.announced(relay, self.frame(2, a=self.PLACE, b={"_placeholder": True, "num": 1}))
        relay.receive_binary(b"1")
        first, second = relay.receive_text('42/proxy,["next",1]')
        self.assertEqual(self.faults(first), ["came without the binary attachment that it names"])
        self.assertEqual(first.data["a"], b"1")  # type: ignore[union-attr, index, call-overload]
        self.assertEqual(second, EventReceived("next", 1))
        self.assertIsInstance(relay.receive_binary(b"2")[0], Ignored)
        self.assertRaises(ProtocolError, relay.receive_binary, b"3")

    def test_nonsense_comes_first(self) -> None:
        relay = joined_relay()
        self.announced(relay, self.frame(1, a=self.PLACE))
        first, second = relay.receive_text("42/proxy,{}")
        self.assertEqual(len(self.faults(first)), 1)
        self.assertEqual(second, Broken("an event whose arguments are not an array"))

    def test_another_binary_event_comes_first(self) -> None:
        """Both are told; but whose attachments would come next is not to be known."""
        relay = joined_relay()
        self.announced(relay, self.frame(1, a=self.PLACE))
        first, second, broken = relay.receive_text(self.frame(1, b=self.PLACE))
        self.assertEqual((len(self.faults(first)), len(self.faults(second))), (1, 1))
        self.assertIsInstance(broken, Broken)

    def test_they_never_come(self) -> None:
        relay = joined_relay()
        number = self.announced(relay, self.frame(1, a=self.PLACE))
        self.assertEqual(list(relay.abandon(number + 1)), [])
        (event,) = relay.abandon(number)
        self.assertEqual(len(self.faults(event)), 1)
        self.assertEqual(list(relay.abandon(number)), [])
        self.assertEqual(list(relay.receive_text('42/proxy,["e"]')), [EventReceived("e", None)])
        self.assertIsInstance(relay.receive_binary(b"late")[0], Ignored)

    def test_too_many(self) -> None:
        for count in (65, 999_999_999):
            relay = joined_relay()
            (event,) = relay.receive_text(self.frame(count, a=self.PLACE))
            self.assertIn("more than 64", self.faults(event)[0])
            self.assertIsInstance(relay.receive_binary(b"x")[0], Ignored)
            self.assertEqual(list(relay.receive_text('42/proxy,["e"]')), [EventReceived("e", None)])
        self.announced(joined_relay(), self.frame(64, a=self.PLACE))
        self.assertRaises(ProtocolError, joined_relay().receive_text, self.frame(10**11))

    def test_too_large(self) -> None:
        relay = joined_relay()
        self.announced(relay, self.frame(4, a=self.PLACE))
        for _ in range(2):
            self.assertEqual(list(relay.receive_binary(b"x" * (MAX_BYTES // 2))), [])
        (event,) = relay.receive_binary(b"x")
        self.assertIn("more than 8 MiB", self.faults(event)[0])
        self.assertIsInstance(relay.receive_binary(b"x")[0], Ignored)
        self.assertRaises(ProtocolError, relay.receive_binary, b"x")

    def test_not_for_us(self) -> None:
        """Acknowledgements and other namespaces: their attachments pass by, unstored."""
        for frame in ('461-/proxy,0[{"_placeholder":true,"num":0}]', '451-/other,["e",{"_placeholder":true,"num":0}]'):
            relay = joined_relay()
            self.assertIsInstance(relay.receive_text(frame)[0], Ignored)
            self.assertIsInstance(relay.receive_binary(b"1")[0], Ignored)
            self.assertEqual(list(relay.receive_text('42/proxy,["e"]')), [EventReceived("e", None)])

    def test_unannounced(self) -> None:
        self.assertRaises(ProtocolError, joined_relay().receive_binary, b"x")

    def test_after_the_good_bye(self) -> None:
        relay = joined_relay()
        number = self.announced(relay, self.frame(1, a=self.PLACE))
        relay.close()
        self.assertIsInstance(relay.receive_binary(b"x")[0], Ignored)
        self.assertEqual(list(relay.abandon(number)), [])


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
            self.assertRaises(ProtocolError, socketio.SocketIORelayDialect().receive_text, frame)

    def test_max_payload(self) -> None:
        """Older servers do not say; JavaScript's Infinity is JSON's null; 0 is no limit, and so is what is larger."""
        for value, expected in ((None, NO_LIMIT), (1e300, NO_LIMIT), (0, NO_LIMIT), (5000, 5000), (300, 300)):
            relay = socketio.SocketIORelayDialect()
            relay.receive_text("0" + json.dumps({**json.loads(OPEN[1:]), "maxPayload": value}))
            self.assertEqual(relay.max_payload, expected)
        relay = socketio.SocketIORelayDialect()
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
            '42/proxy,["e",Nan]',
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
        relay = socketio.SocketIORelayDialect()
        self.assertRaises(ProtocolError, relay.receive_text, '42/proxy,["e"]')
        relay.receive_text(OPEN)
        self.assertRaises(ProtocolError, relay.receive_text, "43/proxy,1[]")
        self.assertRaises(ProtocolError, relay.receive_text, "40/proxy,")  # Socket.IO 2: no sid
        server = socketio.SocketIOServerDialect()
        self.assertRaises(ProtocolError, server.receive_text, "40/proxy,")
        server.opened()
        self.assertRaises(ProtocolError, server.receive_text, '42/proxy,["command_result",{}]')

    def test_too_much_too_early(self) -> None:
        """The number of events that are kept has a bound, and so has their size, but for a single one."""
        small, quarter, huge = ('42/proxy,["e","%s"]' % ("x" * size) for size in (0, 1 << 18, 2 << 20))
        for kept, one_more in (([small] * socketio.MAX_EARLY, small), ([quarter] * 3, quarter), ([huge], small)):
            relay = socketio.SocketIORelayDialect()
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
    @unchecked()
    def test_anything(self, frames: list[str | bytes]) -> None:
        for dialect in (
            socketio.SocketIORelayDialect(),
            joined_relay(),
            socketio.SocketIOServerDialect(),
            joined_server(),
        ):
            try:
                for frame in frames:
                    if isinstance(frame, bytes):
                        dialect.receive_binary(frame)
                    else:
                        dialect.receive_text(frame)
            except ProtocolError:
                pass
            dialect.frames_to_send()
