"""
Descriptors that run out: who makes room, what is said, and what a process may have.
"""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from relayd.journal.sqlite_errors import as_unavailable
from relayd.language.texts import Text
from relayd.network.descriptors import FEWEST, RESERVED, connections_within, is_shortage, shortage, words_of
from relayd.ssh.errors import LoginRefused, NoDescriptor
from relayd.ssh.transport.numbers import MSG_CHANNEL_CLOSE
from tests.support.memory_pool import PoolTestCase
from tests.support.relays import ROOT
from tests.support.ssh_connection import numbers
from tests.support.ssh_pool import A, user

WORDS = Text("Too many open files: this relay's limit is 64")


def shortage_for(host: str) -> NoDescriptor:
    return NoDescriptor(host=host, port=22, reason=WORDS)


class LimitCase(SynchronousTestCase):
    """May lower the limit of this process."""

    def limit(self, most: int) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))


class WordsTests(LimitCase):
    """What is said of it."""

    def test_the_limit_is_named(self) -> None:
        self.limit(64)
        words = words_of(OSError(errno.EMFILE, "Too many open files"))
        self.assertEqual(
            words, "Too many open files: this relay's limit is 64 (LimitNOFILE= of its unit, or ulimit -n)"
        )
        self.assertIn("fs.file-max", words_of(OSError(errno.ENFILE, "")))

    def test_other_errors(self) -> None:
        self.assertEqual(words_of(OSError(errno.ENOSPC, "No space left on device")), "No space left on device")
        self.assertEqual(words_of(OSError("odd")), "OSError")
        self.assertEqual(words_of(OSError("odd"), "odd"), "odd")

    def test_is_shortage(self) -> None:
        self.assertTrue(is_shortage(words_of(OSError(errno.EMFILE, ""))))
        self.assertFalse(is_shortage(words_of(OSError(errno.ENOSPC, ""))))
        self.assertFalse(is_shortage("Too many open files"))
        self.assertFalse(is_shortage(None))

    def test_now(self) -> None:
        self.assertIsNone(shortage())
        self.limit(max(map(int, os.listdir("/proc/self/fd"))) + 1)
        taken = []
        try:
            while True:
                taken.append(os.dup(2))
        except OSError:
            pass
        try:
            self.assertTrue(is_shortage(shortage()))
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorname = "SQLITE_CANTOPEN"
            self.assertIn("this relay's limit is", str(as_unavailable(error)))
        finally:
            for descriptor in taken:
                os.close(descriptor)
        self.assertIn("its folder is gone", str(as_unavailable(error)))


class StartTests(LimitCase):
    """What a process may have."""

    def test_connections_within(self) -> None:
        self.limit(200)
        self.assertEqual(connections_within(1000), 200 - RESERVED)
        self.assertEqual(connections_within(100), 100)
        self.limit(RESERVED)
        self.assertEqual(connections_within(1000), FEWEST)

    def test_it_takes_what_it_may(self) -> None:
        script = (
            "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (100, 300)); "
            "from relayd.network.descriptors import raise_limit; raise_limit(); print(r.getrlimit(r.RLIMIT_NOFILE))"
        )
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "(300, 300)\n")


class RoomTests(PoolTestCase):
    """A connection that no descriptor is left for waits until another one has ended, as at --max-total-connections."""

    def test_an_idle_one_makes_room(self) -> None:
        job = self.submit(A)
        idle = self.dialer.succeed()
        self.pool.withdraw(job)
        self.confirm(idle)
        idle.packetReceived(MSG_CHANNEL_CLOSE, numbers(0))
        self.submit(user("b", "other"))
        self.dialer.fail(shortage_for("other"))
        self.assertEqual((self.errors, self.dialer.targets()), ([], []))
        self.assertEqual(self.disconnected(idle), "another connection needs its place")
        self.lose(idle)
        self.assertEqual(self.dialer.targets(), [user("b", "other")])

    def test_a_busy_one_is_waited_for(self) -> None:
        self.submit(A)
        busy = self.dialer.succeed()
        self.confirm(busy)
        for name in ("one", "two"):
            self.submit(user(name, name))
        self.dialer.fail(shortage_for("one"))
        self.dialer.fail(shortage_for("two"))
        self.assertEqual((self.errors, self.dialer.targets(), self.disconnected(busy)), ([], [], ""))
        self.assertIn("limit is 64", self.pool.waits_for(user("one", "one")))
        busy.packetReceived(MSG_CHANNEL_CLOSE, numbers(0))
        self.lose(busy)
        self.assertEqual(len(self.dialer.targets()), 1)

    def test_it_is_tried_again_after_a_while(self) -> None:
        """Who took the descriptors may have been somebody else."""
        self.submit(A)
        self.confirm(self.dialer.succeed())
        self.submit(user("b", "other"))
        self.dialer.fail(shortage_for("other"))
        self.clock.advance(29)
        self.assertEqual(self.dialer.targets(), [])
        self.clock.advance(2)
        self.assertEqual(self.dialer.targets(), [user("b", "other")])
        self.assertNotIn("limit", self.pool.waits_for(user("b", "other")))

    def test_with_no_connection_there_is_nothing_to_wait_for(self) -> None:
        self.submit(A)
        self.dialer.fail(shortage_for("host"))
        self.assertEqual([type(error) for error in self.errors], [NoDescriptor])
        self.assertTrue(NoDescriptor.retriable)
        self.assertFalse(LoginRefused.retriable)
