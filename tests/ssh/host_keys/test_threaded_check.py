"""
Asking known_hosts in a thread: nothing waits for a file that hangs, and nothing is sent to a host before the answer.
"""

from __future__ import annotations

import gc
import weakref
from threading import Event
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.errors import HostKeyRevoked, KnownHostsUnusable, LoginDropped
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.host_keys.threaded_check import FileChecks, ShownKey
from relayd.ssh.target import Credential, Target
from relayd.ssh.worker import Worker
from tests.support.costly import SelfCertified, locked
from tests.support.evil import Evil, EvilServer
from tests.support.ssh import DEADLINE, ServerTestCase, blob_of, key_pair
from tests.support.sshd import make_key

TARGET = Target("host", 22, "u", Credential("p"))


class AskingTests(SynchronousTestCase):
    """`FileChecks` by itself."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[tuple[Any, ...]] = []
        self.answer: Deferred[Any] = Deferred()

    def checks(self) -> FileChecks:
        def in_thread(*args: Any) -> Deferred[Any]:
            self.asked.append(args)
            return self.answer

        return FileChecks(self.clock, KnownHosts("/the/file", "accept-new"), in_thread)

    def test_a_file_that_does_not_answer(self) -> None:
        asking = Deferred.fromCoroutine(self.checks().begin(TARGET, 7, "strict"))
        self.clock.advance(6.9)
        self.assertNoResult(asking)
        self.clock.advance(0.2)
        error = self.failureResultOf(asking, KnownHostsUnusable).value
        self.assertIn("/the/file cannot be used: it did not answer within 7 s", str(error))

    def test_what_the_host_showed_is_what_is_checked(self) -> None:
        checks = self.checks()
        beginning = Deferred.fromCoroutine(checks.begin(TARGET, 7, "strict"))
        self.answer.callback(frozenset((b"ssh-rsa",)))
        shown = self.successResultOf(beginning)
        assert isinstance(shown, ShownKey)
        self.assertEqual(shown.key_types("host", 22), {b"ssh-rsa"})
        shown.verify("host", 22, b"blob")
        self.answer = Deferred()
        checking = Deferred.fromCoroutine(checks.check(TARGET, shown, 7))
        self.assertEqual(self.asked[-1][1:], ("host", 22, b"blob"))
        self.answer.errback(HostKeyRevoked(host="host", port=22, shown="", line=1, file=""))
        self.failureResultOf(checking, HostKeyRevoked)

    def test_no_file_is_needed_where_nothing_is_checked(self) -> None:
        checks = self.checks()
        shown = self.successResultOf(Deferred.fromCoroutine(checks.begin(TARGET, 7, "ignore")))
        assert isinstance(shown, ShownKey)
        self.successResultOf(Deferred.fromCoroutine(checks.check(TARGET, shown, 7)))
        self.assertEqual(self.asked, [])


class WorkerTests(ServerTestCase):
    """`Worker` by itself."""

    async def test_one_after_another_and_beside_the_pool(self) -> None:
        worker, release, running, most = Worker(self.reactor, "test"), Event(), 0, 0
        self.addCleanup(worker.close)
        self.addCleanup(release.set)

        def work(number: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            release.wait(DEADLINE)
            running -= 1
            return number

        done = [worker.run(work, number) for number in range(30)]
        # All threads of the pool are free for names.
        self.assertEqual(await deferToThread(lambda: 7).addTimeout(DEADLINE, self.reactor), 7)
        release.set()
        self.assertEqual([await each for each in done], list(range(30)))
        self.assertEqual(most, 1)

    async def test_what_nobody_waits_for(self) -> None:
        worker, release = Worker(self.reactor, "test"), Event()
        self.addCleanup(worker.close)
        begun: list[int] = []
        first = worker.run(release.wait, DEADLINE)
        given_up = [worker.run(begun.append, number) for number in range(5)]
        for each in given_up:
            each.addErrback(lambda failure: None)
            each.cancel()
        last = worker.run(begun.append, 9)
        release.set()
        await first
        await last
        self.assertEqual(begun, [9])

    async def test_failures(self) -> None:
        worker = Worker(self.reactor, "test")
        await self.error_of(worker.run(int, "x"), ValueError)
        self.assertEqual(await worker.run(int, "7"), 7)
        worker.close()
        self.assertEqual(await worker.run(int, "8"), 8)
        worker.close()

    async def test_keeps_nothing_of_what_failed(self) -> None:
        """Not even until garbage is collected."""

        class Text(str):
            __slots__ = ("__weakref__",)

        worker, secret = Worker(self.reactor, "test"), Text("secret")
        self.addCleanup(worker.close)
        held = weakref.ref(secret)
        running = worker.run(int, secret)
        del secret
        gc.disable()
        self.addCleanup(gc.enable)
        await running.addErrback(lambda _failure: None)
        del running
        await self.until(lambda: held() is None, "it is gone")


class _HangsUp(Evil):
    def secured(self) -> None:
        self.transport.loseConnection()


class _Silent(Evil):
    """Says who asked for anything once the connection was secure."""

    asked = 0

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if messageNum in (5, 50):
            type(self).asked += 1
        super().dispatchMessage(messageNum, payload)


class ServerTests(ServerTestCase):
    """Real connections."""

    def hang(self) -> Event:
        """From now on, a check waits for the event; and then it finds the key revoked."""
        release = Event()
        self.addCleanup(release.set)

        def verify(_self: KnownHosts, host: str, port: int, _blob: bytes) -> None:
            release.wait(DEADLINE)
            raise HostKeyRevoked(host=host, port=port, shown="x", line=1, file="y")

        self.patch(KnownHosts, "verify", verify)
        return release

    def evil(self, kind: type[Evil]) -> EvilServer:
        server = EvilServer(self.reactor, kind)
        self.addCleanup(server.stop)
        return server

    async def test_nothing_is_sent_before_the_answer(self) -> None:
        _Silent.asked = 0
        release, server, client = self.hang(), self.evil(_Silent), self.make_client()
        running = self.run_command(client, server.target, "true")
        await self.until(lambda: server.connections and server.connections[0].sessionID, "keys are exchanged")
        await self.sleep(0.3)
        self.assertEqual(_Silent.asked, 0)
        release.set()
        await self.error_of(running, HostKeyRevoked)
        self.assertEqual(_Silent.asked, 0)

    async def test_others_go_on(self) -> None:
        good, other, client = self.evil(Evil), self.evil(Evil), self.make_client(connect_timeout=1)
        self.assertEqual((await self.run_command(client, good.target, "true")).stdout.text(), "ok")
        release = self.hang()
        running = self.run_command(client, other.target, "true")
        for _ in range(5):
            self.assertEqual((await self.run_command(client, good.target, "true")).stdout.text(), "ok")
        error = await self.error_of(running, KnownHostsUnusable)
        self.assertIn("did not answer within 1 s", str(error))
        release.set()

    async def test_a_host_that_hangs_up_meanwhile(self) -> None:
        release, server, client = Event(), self.evil(_HangsUp), self.make_client(connect_timeout=40)
        self.addCleanup(release.set)
        self.patch(KnownHosts, "verify", lambda *args: release.wait(DEADLINE))
        running = self.run_command(client, server.target, "true", 30)
        await self.until(lambda: server.accepted and not server.connections, "the server has hung up")
        await self.sleep(0.2)
        release.set()
        await self.error_of(running, LoginDropped)

    async def test_somebody_holds_a_lock_on_the_file(self) -> None:
        self.known_hosts.write_text(f"other {make_key()[1]}\n")
        server, client = self.evil(Evil), self.make_client()
        with locked(str(self.known_hosts)):
            done = await self.run_command(client, server.target, "true")
        self.assertEqual(done.stdout.text(), "ok")
        self.assertIn(key_pair()[1], self.known_hosts.read_text())

    async def test_certificates_that_nobody_signed(self) -> None:
        kind, base = make_key()[1].split()
        self.known_hosts.write_text(f"@cert-authority * {kind} {base}\n")
        server = SelfCertified(self.reactor, blob_of(f"{kind} {base}"))
        self.addCleanup(server.stop)
        client = self.make_client()
        error = (await self.failure_of(self.run_command(client, server.target, "true"))).value
        self.assertIn("signature is wrong", str(error))
