"""
How long parsed keys are kept, and how much of their parsing goes on at a time.
"""

from __future__ import annotations

import gc
import sys
import weakref
from threading import Event, get_ident
from typing import Any, cast

from twisted.conch.ssh.keys import Key
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, execute, maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relayd.ssh.keys import private
from relayd.ssh.keys.private import KEPT, KeyStore, parse_private_key
from relayd.ssh.target import Credential
from relayd.ssh.worker import Worker
from tests.support.ssh import key_pair, tool

TEXT = key_pair()[0]
KEY = parse_private_key(TEXT)


class KeepingTests(TestCase):
    """`KeyStore`"""

    timeout = 120

    def setUp(self) -> None:
        self.parsed: list[str] = []

    def store(self) -> KeyStore:
        def defer(*args: Any) -> Deferred[Key]:
            self.parsed.append(args[1])
            return execute(*args)

        self.clock = Clock()
        return KeyStore(self.clock, defer, defer)

    async def test_forgotten_when_it_is_not_used_any_more(self) -> None:
        store, first, second = self.store(), Credential(private_key=TEXT), Credential("x", TEXT)
        await store.load(first)
        self.clock.advance(KEPT - 1)
        await store.load(second)
        await store.load(first)
        self.clock.advance(KEPT - 1)
        await store.load(first)
        self.assertEqual(len(self.parsed), 2)
        kept = weakref.ref(await store.load(first)), weakref.ref(await store.load(second))
        self.clock.advance(KEPT - 1)
        await store.load(second)
        self.clock.advance(1)
        gc.collect()
        self.assertEqual([key() is None for key in kept], [True, False])
        self.clock.advance(KEPT)
        gc.collect()
        self.assertIsNone(kept[1]())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_closed(self) -> None:
        store = self.store()
        kept = weakref.ref(await store.load(Credential(private_key=key_pair()[0])))
        store.close()
        gc.collect()
        self.assertIsNone(kept())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_given_up_by_all_before_its_turn(self) -> None:
        queued: list[Deferred[Key]] = []

        def one_by_one(*_args: object) -> Deferred[Key]:
            queued.append(Deferred())
            return queued[-1]

        store = KeyStore(Clock(), self.fail, one_by_one)
        credential = Credential(private_key=TEXT, passphrase="passphrase")
        waiting = [store.load(credential), store.load(credential)]
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        self.assertFalse(queued[0].called)
        waiting[1].cancel()
        self.failureResultOf(waiting[1], CancelledError)
        self.assertTrue(queued[0].called)
        again = store.load(credential)
        self.assertEqual(len(queued), 2)
        queued[1].callback(KEY)
        self.assertIs(self.successResultOf(again), KEY)

    async def test_keys_with_a_passphrase_are_parsed_one_after_another(self) -> None:
        """Six at a time with 256 MiB each took 1.6 GB; and while they filled the pool, no name was looked up."""
        worker, release = Worker(reactor, "test"), Event()
        self.addCleanup(worker.close)
        self.addCleanup(release.set)
        running, most, parse = 0, 0, private.parse_private_key

        def slow(text: str, passphrase: str | None) -> Key:
            nonlocal running, most
            if passphrase is None:
                return parse(text)
            running += 1
            most = max(most, running)
            release.wait(60)
            running -= 1
            return parse(text, passphrase)

        self.patch(private, "parse_private_key", slow)
        store = KeyStore(Clock(), deferToThread, worker.run)
        costly = [store.load(Credential(str(number), TEXT, "passphrase")) for number in range(30)]
        await store.load(Credential(private_key=TEXT)).addTimeout(60, cast(Any, reactor))  # it needs no work
        await deferToThread(lambda: None).addTimeout(60, cast(Any, reactor))  # as the look-up of a name
        release.set()
        for each in costly:
            await each
        self.assertEqual(most, 1)

    async def test_long_keys_sign_in_a_thread(self) -> None:
        worker, threads, make = Worker(reactor, "signatures"), list[int](), private.sign
        self.addCleanup(worker.close)

        def watched(*args: Any) -> bytes:
            threads.append(get_ident())
            return make(*args)

        self.patch(private, "sign", watched)
        store = KeyStore(Clock(), self.fail, self.fail, worker.run)
        for kind, most, here in (("ed25519", 2048, True), ("rsa", 2048, True), ("rsa", 2047, False)):
            self.patch(private, "MAX_QUICK_RSA_BITS", most)
            key = parse_private_key(key_pair(kind)[0])
            algorithm = b"rsa-sha2-512" if kind == "rsa" else b"ssh-ed25519"
            signature = await maybeDeferred(store.sign, key, b"data", algorithm)
            self.assertTrue(key.public().verify(signature, b"data"))
            self.assertEqual(threads.pop() == get_ident(), here)

    async def test_what_is_not_needed_any_more_is_not_signed(self) -> None:
        worker, busy, go_on = Worker(reactor, "signatures"), Event(), Event()
        self.addCleanup(worker.close)
        self.addCleanup(go_on.set)
        self.patch(private, "MAX_QUICK_RSA_BITS", 1024)
        store = KeyStore(Clock(), self.fail, self.fail, worker.run)
        key = parse_private_key(key_pair("rsa")[0])
        first = worker.run(lambda: (busy.set(), go_on.wait(60)))
        busy.wait(60)
        signing = store.sign(key, b"data", b"rsa-sha2-512")
        assert isinstance(signing, Deferred)
        signing.cancel()
        self.failureResultOf(signing, CancelledError)
        self.patch(private, "sign", self.fail)
        gone = weakref.ref(key)
        del key, signing
        go_on.set()
        await first
        await worker.run(lambda: None)
        self.assertIsNone(gone())

    def test_the_most_memory_that_keys_can_take(self) -> None:
        """In a process of its own, as what was taken once is told by the system only as the most of all."""
        script = (
            "import resource, sys\n"
            "from twisted.internet import reactor, threads, defer\n"
            "from relayd.ssh.keys.private import KeyStore\n"
            "from relayd.ssh.target import Credential\n"
            "from relayd.ssh.worker import Worker\n"
            "from tests.support.costly import putty_key\n"
            "store = KeyStore(reactor, threads.deferToThread, Worker(reactor, 'keys').run)\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "made = [Credential(None, putty_key(n, 64 * 1024, 1), 'x') for n in range(6)]\n"
            "loads = [store.load(each) for each in made]\n"
            "done = defer.DeferredList(loads, consumeErrors=True)\n"
            "done.addCallback(lambda found: print([str(error.value) for _, error in found]))\n"
            "done.addBoth(lambda _: reactor.stop())\n"
            "reactor.run()\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
        )
        said, grown = tool(sys.executable, "-c", script).splitlines()
        self.assertEqual(said.count("the passphrase is wrong"), 6)
        self.assertLess(int(grown), 2 * 64)
