"""
Sessions on one connection: the packets of RFC 4254 in both directions, on a transport that records them.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred

from relayd.ssh.channels.channel import MAX_PACKET, WINDOW, State
from relayd.ssh.channels.closes import CLOSE_LINGER
from relayd.ssh.channels.keepalive import MAX_MISSED_PROBES
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.pool.members import COOL_DOWN
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
)
from tests.support.ssh_connection import INTERVAL, ConnectionTestCase, numbers, request


class SessionTests(ConnectionTestCase):
    """The life of one session."""

    def test_order_of_the_requests(self) -> None:
        session = self.session(b"echo \xc3\xa9")
        self.connection.start(session)
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_OPEN, NS(b"session") + numbers(0, WINDOW, MAX_PACKET))])
        self.assertEqual((session.state, self.events), (State.OPENING, []))
        self.confirm()
        self.assertEqual(
            self.transport.take(),
            [
                (MSG_CHANNEL_REQUEST, request(100, b"exec", NS(b"echo \xc3\xa9"), reply=True)),
                (MSG_CHANNEL_EOF, numbers(100)),
            ],
        )
        self.assertEqual((session.state, self.events), (State.STARTING, ["started"]))
        self.receive(MSG_CHANNEL_SUCCESS, numbers(0))
        self.assertEqual(session.state, State.RUNNING)
        self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(b"out"))
        self.receive(MSG_CHANNEL_EXTENDED_DATA, numbers(0, 1) + NS(b"err"))
        self.receive(MSG_CHANNEL_EXTENDED_DATA, numbers(0, 2) + NS(b"neither"))
        self.receive(MSG_CHANNEL_REQUEST, request(0, b"exit-status", numbers(3)))
        self.receive(MSG_CHANNEL_EOF, numbers(0))
        self.assertEqual(self.transport.take(), [])
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual(self.transport.take(), [])
        self.clock.advance(CLOSE_LINGER)
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_CLOSE, numbers(100))])
        self.assertEqual((session.stdout.text(), session.stderr.text()), ("out", "err"))
        self.assertEqual((session.exit.status, session.exit.signal), (3, None))
        self.assertEqual((session.state, self.events), (State.ENDED, ["started", "ended"]))
        self.assertEqual((self.owner.closed, len(self.connection._channels.by_number)), ([session], 0))

    def test_the_end_of_a_channel_goes_with_the_next_command(self) -> None:
        self.running()
        self.transport.take()
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.connection.start(self.session())
        self.assertEqual([message for message, _ in self.transport.take()], [MSG_CHANNEL_CLOSE, MSG_CHANNEL_OPEN])
        self.clock.advance(CLOSE_LINGER)
        self.assertEqual(self.transport.take(), [])

    def test_the_end_of_a_channel_is_sent_before_its_place_is_used_again(self) -> None:
        self.assertLess(CLOSE_LINGER, COOL_DOWN)

    def test_place_is_free_before_the_end_is_told(self) -> None:
        seen: list[int] = []
        session = Session(Command(b"true", 10), lambda: None, lambda: seen.append(len(self.owner.closed)))
        self.connection.start(session)
        self.confirm()
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual(seen, [1])

    def test_exit_signal(self) -> None:
        session = self.running()
        self.receive(MSG_CHANNEL_REQUEST, request(0, b"exit-signal", NS(b"TERM") + b"\0" + NS(b"killed") + NS(b"en")))
        self.assertEqual((session.exit.status, session.exit.signal), (None, "TERM"))
        self.assertEqual(session.exit.exit_code, 143)

    def test_end_without_a_status(self) -> None:
        session = self.running()
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertFalse(session.exit.known)
        self.assertEqual(self.events, ["started", "ended"])

    def test_sessions_side_by_side(self) -> None:
        first, second = self.running(), self.running()
        self.receive(MSG_CHANNEL_DATA, numbers(1) + NS(b"two"))
        self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(b"one"))
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.receive(MSG_CHANNEL_DATA, numbers(1) + NS(b" more"))
        self.assertEqual((first.stdout.text(), second.stdout.text()), ("one", "two more"))
        self.assertEqual((first.state, second.state), (State.ENDED, State.RUNNING))

    def test_open_refused(self) -> None:
        session = self.session()
        self.connection.start(session)
        self.receive(MSG_CHANNEL_OPEN_FAILURE, numbers(0, 2) + NS(b"open \x1bfailed") + NS(b""))
        self.assertEqual(self.owner.refused, [(session, "open ?failed", State.WAITING)])
        self.assertEqual((len(self.connection._channels.by_number), self.events), (0, []))

    def test_exec_refused(self) -> None:
        session = self.session()
        self.connection.start(session)
        self.confirm()
        self.transport.take()
        self.receive(MSG_CHANNEL_FAILURE, numbers(0))
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_CLOSE, numbers(100))])
        self.assertTrue(session.exec_refused)
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual(self.transport.take(), [])  # not twice
        self.assertEqual((self.owner.closed, self.events), ([session], ["started", "ended"]))

    def test_signal(self) -> None:
        session = self.session()
        self.connection.signal(session, "TERM")  # no channel yet
        self.connection.start(session)
        self.transport.take()
        self.connection.signal(session, "TERM")
        self.assertEqual(self.transport.take(), [])
        self.confirm()
        self.transport.take()
        self.connection.signal(session, "TERM")
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_REQUEST, request(100, b"signal", NS(b"TERM")))])
        self.connection.close(session)
        self.transport.take()
        self.connection.signal(session, "KILL")
        self.assertEqual(self.transport.take(), [])  # nothing may follow CLOSE (RFC 4254, section 5.3)

    def test_requests_of_the_server_on_a_channel_are_refused(self) -> None:
        self.running()
        self.receive(MSG_CHANNEL_REQUEST, request(0, b"keepalive@openssh.com", b"", reply=True))
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_FAILURE, numbers(100))])
        self.receive(MSG_CHANNEL_REQUEST, request(0, b"eow@openssh.com", b""))
        self.assertEqual(self.transport.take(), [])


class AbandonTests(ConnectionTestCase):
    """Sessions that nobody wants any more."""

    def test_abandoned_while_opening(self) -> None:
        session = self.session()
        self.connection.start(session)
        self.transport.take()
        self.connection.close(session)
        self.assertEqual(self.transport.take(), [])
        self.confirm()
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_CLOSE, numbers(100))])  # and no exec
        self.assertEqual(len(self.connection._channels.by_number), 1)  # the server still holds it
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual((self.owner.closed, self.events, self.transport.take()), ([session], [], []))

    def test_abandoned_while_opening_and_then_refused(self) -> None:
        session = self.session()
        self.connection.start(session)
        self.connection.close(session)
        self.receive(MSG_CHANNEL_OPEN_FAILURE, numbers(0, 2) + NS(b"") + NS(b""))
        self.assertEqual([refused for refused, *_ in self.owner.refused], [session])

    def test_abandoned_while_running(self) -> None:
        session = self.running()
        self.connection.close(session)
        self.connection.close(session)
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_CLOSE, numbers(100))])
        self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(bytes(MAX_PACKET)))
        self.receive(MSG_CHANNEL_REQUEST, request(0, b"x", b"", reply=True))
        self.assertEqual(self.transport.take(), [])
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual((self.owner.closed, self.transport.take()), ([session], []))


class WindowTests(ConnectionTestCase):
    """The server may always send more, and never unasked."""

    @settings(max_examples=20)
    @given(st.lists(st.tuples(st.booleans(), st.sampled_from([0, 1, 1000, MAX_PACKET])), min_size=400, max_size=600))
    def test_window_is_refilled_with_what_came(self, packets: list[tuple[bool, int]]) -> None:
        self.setUp()
        session = self.running()
        window, sent = WINDOW, 0
        packets += [(False, MAX_PACKET)] * (2 * WINDOW // MAX_PACKET)
        for stderr, wanted in packets:
            size = min(wanted, window)
            if stderr:
                self.receive(MSG_CHANNEL_EXTENDED_DATA, numbers(0, 1) + NS(bytes(size)))
            else:
                self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(bytes(size)))
            window -= size
            sent += size
            for message, packet in self.transport.take():
                self.assertEqual((message, packet[:4]), (MSG_CHANNEL_WINDOW_ADJUST, numbers(100)))
                window += int.from_bytes(packet[4:], "big")
            self.assertLessEqual(window, WINDOW)
            self.assertGreaterEqual(window, WINDOW // 2)
        self.assertEqual(session.stdout.total + session.stderr.total, sent)


class LossTests(ConnectionTestCase):
    """What becomes of the sessions when the connection ends."""

    def lose(self) -> list[Session]:
        self.connection.serviceStopped()
        ((interrupted, self.reason),) = self.owner.lost
        return interrupted

    def test_in_each_state(self) -> None:
        opening, starting, running = self.session(), self.session(), self.session()
        for session in (opening, starting, running):
            self.connection.start(session)
        for number in (1, 2):
            self.confirm(number)
        self.receive(MSG_CHANNEL_SUCCESS, numbers(2))
        self.transport.lost_reason = "it said: bye"
        self.assertEqual(self.lose(), [opening, starting, running])
        self.assertEqual(
            [session.state for session in (opening, starting, running)], [State.WAITING, State.STARTING, State.RUNNING]
        )
        self.assertEqual(self.reason, "it said: bye")
        self.assertEqual((self.events, len(self.connection._channels.by_number)), (["started"] * 2, 0))

    def test_only_the_good_bye_was_missing(self) -> None:
        session = self.running()
        self.receive(MSG_CHANNEL_REQUEST, request(0, b"exit-status", numbers(0)))
        self.receive(MSG_CHANNEL_EOF, numbers(0))
        self.assertEqual(self.lose(), [])
        self.assertEqual((session.state, self.events), (State.ENDED, ["started", "ended"]))

    def test_a_status_without_the_end_of_the_output_is_no_end(self) -> None:
        session = self.running()
        self.receive(MSG_CHANNEL_REQUEST, request(0, b"exit-status", numbers(0)))
        self.assertEqual(self.lose(), [session])

    def test_nothing_is_left_to_call(self) -> None:
        self.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_disconnect(self) -> None:
        self.connection.disconnect("relayd closes")
        self.assertEqual(self.transport.disconnected, "relayd closes")
        self.lose()
        self.assertEqual(self.reason, "relayd closes")


class ProbeTests(ConnectionTestCase):
    """A peer that is silent is asked; one that answered before, and does not any more, is gone."""

    def test_dead_peer(self) -> None:
        self.receive(MSG_REQUEST_FAILURE, b"")
        probes = 0
        while not self.transport.aborted:
            self.assertLessEqual(probes, MAX_MISSED_PROBES)
            self.clock.advance(INTERVAL)
            probes += len(self.transport.take())
        self.assertEqual(probes, MAX_MISSED_PROBES)
        self.connection.serviceStopped()
        self.assertIn("stopped answering", self.owner.lost[0][1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_server_that_never_answers(self) -> None:
        """It may be alive all the same: whether its machine is, the kernel knows."""
        self.receive(MSG_GLOBAL_REQUEST, NS(b"hostkeys-00@openssh.com") + b"\0")
        for _ in range(100):
            self.clock.advance(INTERVAL)
        self.assertFalse(self.transport.aborted)

    def test_other_messages_are_a_sign_of_life(self) -> None:
        """``IGNORE`` and ``DEBUG`` do not reach this layer."""
        self.receive(MSG_REQUEST_FAILURE, b"")
        for _ in range(20):
            self.clock.advance(INTERVAL)
            self.transport.heard += 1
        self.assertFalse(self.transport.aborted)

    def test_a_server_that_does_not_know_global_requests(self) -> None:
        """``UNIMPLEMENTED`` is an answer as well."""
        unimplemented = self.transport.on_unimplemented
        assert unimplemented is not None
        unimplemented()
        while not self.transport.aborted:
            self.clock.advance(INTERVAL)

    def test_answers_keep_it_alive(self) -> None:
        for _ in range(20):
            self.clock.advance(INTERVAL)
            self.assertEqual(self.transport.take(), [(MSG_GLOBAL_REQUEST, NS(b"keepalive@openssh.com") + b"\1")])
            self.receive(MSG_REQUEST_FAILURE, b"")
        self.assertFalse(self.transport.aborted)


class ServerInitiativeTests(ConnectionTestCase):
    """Nothing that a server asks of us is granted."""

    def test_channels(self) -> None:
        for kind in (b"x11", b"forwarded-tcpip", b"auth-agent@openssh.com", b"session"):
            self.receive(MSG_CHANNEL_OPEN, NS(kind) + numbers(42, 2**21, 32768))
            ((message, packet),) = self.transport.take()
            self.assertEqual((message, packet[:8]), (MSG_CHANNEL_OPEN_FAILURE, numbers(42, 1)))
        self.assertEqual(len(self.connection._channels.by_number), 0)

    def test_global_requests(self) -> None:
        self.receive(MSG_GLOBAL_REQUEST, NS(b"hostkeys-00@openssh.com") + b"\0" + NS(b"blob"))
        self.assertEqual(self.transport.take(), [])
        self.receive(MSG_GLOBAL_REQUEST, NS(b"tcpip-forward") + b"\1" + NS(b"") + numbers(80))
        self.assertEqual(self.transport.take(), [(MSG_REQUEST_FAILURE, b"")])


class ReaderTests(ConnectionTestCase):
    """Output that somebody reads as it arrives, and decides how much more may come."""

    def setUp(self) -> None:
        super().setUp()
        self.reading: list[Deferred[None]] = []
        self.slow = Session(Command(b"true", 10), lambda: None, lambda: None, reader=self.read)
        self.connection.start(self.slow)
        self.confirm()
        self.transport.take()

    def read(self, is_stderr: bool, data: bytes) -> Deferred[None]:
        self.reading.append(Deferred())
        return self.reading[-1]

    def flood(self) -> None:
        for _ in range(WINDOW // MAX_PACKET):
            self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(bytes(MAX_PACKET)))

    def test_window_waits_for_the_reader(self) -> None:
        self.flood()
        self.assertEqual(self.transport.take(), [])
        for reading in self.reading[: len(self.reading) // 2]:
            reading.callback(None)
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_WINDOW_ADJUST, numbers(100, WINDOW // 2))])

    def test_reader_that_fails_holds_up_nothing(self) -> None:
        self.flood()
        for reading in self.reading:
            reading.errback(RuntimeError())
            reading.addErrback(lambda _: None)
        self.assertEqual(len(self.transport.take()), 2)

    def test_more_than_the_window(self) -> None:
        self.flood()
        self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(bytes(MAX_PACKET)))
        with self.assertRaises(Breach):
            self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(b"x"))

    def test_reader_that_is_ready_after_the_end(self) -> None:
        self.flood()
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.transport.take()
        for reading in self.reading:
            reading.callback(None)
        self.assertEqual(self.transport.take(), [])

    def test_answer_to_no_question(self) -> None:
        self.receive(MSG_CHANNEL_SUCCESS, numbers(0))
        self.receive(MSG_CHANNEL_FAILURE, numbers(0))
        self.assertEqual((self.slow.state, self.slow.exec_refused), (State.RUNNING, False))
        self.assertEqual(self.transport.take(), [])


class WriteTests(ConnectionTestCase):
    """Standard input that is written while a command runs."""

    def test_as_the_server_takes_it(self) -> None:
        session = Session(Command(b"cat", 10, stdin_open=True), lambda: None, lambda: None)
        self.connection.start(session)
        self.receive(MSG_CHANNEL_OPEN_CONFIRMATION, numbers(0, 100, 500, 300))
        self.transport.take()
        self.connection.write(session, b"a" * 300 + b"b" * 400)
        self.assertEqual(
            self.transport.take(),
            [(MSG_CHANNEL_DATA, numbers(100) + NS(b"a" * 300)), (MSG_CHANNEL_DATA, numbers(100) + NS(b"b" * 200))],
        )
        self.assertEqual(self.connection.write(session, b"h"), 201)
        self.receive(MSG_CHANNEL_WINDOW_ADJUST, numbers(0, 1000))
        self.assertEqual(self.transport.take(), [(MSG_CHANNEL_DATA, numbers(100) + NS(b"b" * 200 + b"h"))])
        self.assertEqual(self.connection.write(session, b"i"), 0)


class PermissionTests(ConnectionTestCase):
    """Commands that may not be sent before somebody says so."""

    def setUp(self) -> None:
        super().setUp()
        self.asked: list[Deferred[None]] = []
        self.forbidden: list[object] = []
        self.session_held = Session(
            Command(b"true", 1000),
            lambda: self.events.append("started"),
            lambda: self.events.append("ended"),
            permission=self.ask,
            on_forbidden=self.forbidden.append,
        )

    def ask(self) -> Deferred[None]:
        self.asked.append(asked := Deferred[None]())
        return asked

    def sent(self) -> list[int]:
        return [message for message, _ in self.transport.take()]

    def test_it_is_asked_for_while_the_channel_is_opened(self) -> None:
        self.connection.start(self.session_held)
        self.assertEqual((len(self.asked), self.sent()), (1, [MSG_CHANNEL_OPEN]))
        self.confirm()
        self.assertEqual((self.sent(), self.events, self.connection.executing()), ([], [], []))
        self.asked[0].callback(None)
        self.assertEqual((self.sent(), self.events), ([MSG_CHANNEL_REQUEST, MSG_CHANNEL_EOF], ["started"]))

    def test_given_before_the_channel_is_open(self) -> None:
        self.connection.start(self.session_held)
        self.asked[0].callback(None)
        self.assertEqual(self.sent(), [MSG_CHANNEL_OPEN])
        self.confirm()
        self.assertEqual(self.sent(), [MSG_CHANNEL_REQUEST, MSG_CHANNEL_EOF])

    def test_asked_for_once_however_often_a_channel_is_refused(self) -> None:
        for _ in range(2):
            self.connection.start(self.session_held)
            self.receive(MSG_CHANNEL_OPEN_FAILURE, numbers(self.connection._channels._next - 1, 2) + NS(b"") + NS(b""))
        self.connection.start(self.session_held)
        self.assertEqual(len(self.asked), 1)
        self.asked[0].callback(None)
        self.sent()
        self.confirm(2)
        self.assertEqual(self.sent(), [MSG_CHANNEL_REQUEST, MSG_CHANNEL_EOF])

    def test_refused(self) -> None:
        self.connection.start(self.session_held)
        self.confirm()
        self.sent()
        self.asked[0].errback(OSError("no"))
        self.assertEqual((len(self.forbidden), self.sent(), self.events), (1, [], []))
        self.connection.close(self.session_held)
        self.assertEqual(self.sent(), [MSG_CHANNEL_CLOSE])

    def test_given_too_late(self) -> None:
        self.connection.start(self.session_held)
        self.confirm()
        self.connection.close(self.session_held)
        self.sent()
        self.asked[0].callback(None)
        self.assertEqual((self.sent(), self.events), ([], []))
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual((self.owner.closed, self.owner.refused), ([self.session_held], []))

    def test_closed_by_the_server_before_it_is_given(self) -> None:
        """The command was not sent: it may be run elsewhere."""
        self.connection.start(self.session_held)
        self.confirm()
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual(
            (self.owner.refused, self.events), ([(self.session_held, "it closed the session again", State.WAITING)], [])
        )
        self.clock.advance(CLOSE_LINGER)
        self.sent()
        self.asked[0].callback(None)
        self.assertEqual((self.sent(), self.events), ([], []))

    def test_connection_lost_before_it_is_given(self) -> None:
        self.connection.start(self.session_held)
        self.confirm()
        self.connection.serviceStopped()
        self.assertEqual([state.state for state in self.owner.lost[0][0]], [State.WAITING])
        self.sent()
        self.asked[0].callback(None)
        self.assertEqual((self.sent(), self.events), ([], []))
