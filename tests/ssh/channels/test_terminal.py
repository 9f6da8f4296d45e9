"""
Tests of `relayd.ssh.channels.terminal`, and of a session that has a terminal: what is sent, and when.
"""

from __future__ import annotations

from typing import cast

from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.channels.channel import State, UsedConnection
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.channels.terminal import Terminal, typed_to_the_end

EXEC = NS(b"exec") + b"\1" + NS(b"id")


class Recorder:
    """A connection that keeps what a session sends on it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def request(self, _: object, request: bytes) -> None:
        self.sent.append(request)

    def write(self, _: object, data: bytes) -> int:
        self.sent.append(data)
        return 0


class TerminalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.started = 0
        self.connection = Recorder()

    def session(self, *, permission: Deferred[None] | None = None, **fields: object) -> Session:
        command = Command(b"id", 100, terminal=Terminal(), **fields)  # type: ignore[arg-type]
        given = None if permission is None else (lambda: permission)
        session = Session(command, self.start, lambda: None, permission=given)
        session.opening(cast(UsedConnection, self.connection))
        return session

    def start(self) -> None:
        self.started += 1

    def test_request(self) -> None:
        """RFC 4254, sections 6.2 and 8: name, size in characters and pixels, modes."""
        size = bytes.fromhex("00000064 00000032 00000000 00000000")
        for plain, modes in ((False, "35 00000000 00"), (True, "35 00000000 46 00000000 00")):
            expected = NS(b"pty-req") + b"\1" + NS(b"xterm") + size + NS(bytes.fromhex(modes))
            self.assertEqual(Terminal("xterm", 100, 50, plain).request(), expected)

    def test_the_end_of_input(self) -> None:
        """A key that ends a line which has begun, and then the input of each reader."""
        self.assertEqual(typed_to_the_end(b""), b"\x04" * 8)
        self.assertEqual(typed_to_the_end(b"a\n"), b"a\n" + b"\x04" * 8)
        self.assertEqual(typed_to_the_end(b"a"), b"a" + b"\x04" * 9)

    def test_the_command_waits_for_it(self) -> None:
        session = self.session(stdin=b"in\n", env=[("A", b"b")])
        self.assertEqual((session.stdin, session.stdin_open), (b"", True))
        self.assertEqual(session.opened(), [Terminal().request()])
        self.assertEqual((session.state, self.started, self.connection.sent), (State.OPENING, 0, []))
        self.assertTrue(session.exec_answered(True))
        environment = NS(b"env") + b"\0" + NS(b"A") + NS(b"b")
        self.assertEqual(self.connection.sent, [environment, EXEC, b"in\n" + b"\x04" * 8])
        self.assertEqual((session.state, self.started), (State.STARTING, 1))
        self.assertTrue(session.exec_answered(True))
        self.assertEqual((session.state, session.accepted), (State.RUNNING, True))

    def test_without_it_the_command_is_not_sent(self) -> None:
        session = self.session()
        session.opened()
        self.assertFalse(session.exec_answered(False))
        self.assertEqual((session.terminal_refused, session.exec_refused), (True, True))
        self.assertEqual((self.connection.sent, self.started), ([], 0))

    def test_another_connection(self) -> None:
        """What was asked of the first one is asked of the next one again; its late answer means nothing."""
        session = self.session()
        session.opened()
        other = self.connection = Recorder()
        session.state = State.WAITING
        self.assertTrue(session.exec_answered(True))
        session.opening(cast(UsedConnection, other))
        self.assertEqual(session.opened(), [Terminal().request()])
        session.exec_answered(True)
        self.assertEqual(other.sent[0], EXEC)

    def test_a_command_without_a_terminal_is_sent_at_once(self) -> None:
        session = Session(Command(b"id", 100, stdin=b"in"), self.start, lambda: None)
        session.opening(cast(UsedConnection, self.connection))
        self.assertEqual((session.opened(), session.stdin, session.stdin_open), ([EXEC], b"in", False))
        self.assertEqual(self.connection.sent, [])
