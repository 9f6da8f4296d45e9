"""
relayd.service: what a relay is made of, and the order in which it starts and stops.
"""

from __future__ import annotations

import os
import resource
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relayd.config.options import OPTIONS, Config
from relayd.config.reading import load
from relayd.config.state_directory import StateDirectory
from relayd.errors import ConfigError
from relayd.network.descriptors import RESERVED
from relayd.process.event_loop import LagMonitor
from relayd.service import Parts, RelayService, make_relay
from relayd.settings import ssh_settings_of
from relayd.status import server


class Recorder:
    """Plays uplink, dispatcher, runner and journal, and writes down what is asked of them, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.pending: dict[str, Deferred[None]] = {}
        self.drain_timeout: float | None = None

    def hold(self, step: str) -> Deferred[None]:
        """Let *step* take until the Deferred given back is fired."""
        self.pending[step] = Deferred()
        return self.pending[step]

    def ask(self, step: str) -> Deferred[None]:
        self.asked.append(step)
        return self.pending.get(step) or succeed(None)

    def drain(self, timeout: float) -> Deferred[None]:
        self.drain_timeout = timeout
        return self.ask("drain")


class RecordedUplink(Service):
    """An `IService` that tells a `Recorder`."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def startService(self) -> None:
        super().startService()
        self.recorder.ask("start uplink")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self.recorder.ask("stop uplink")


class Closer:
    """Runner, journal or audit log: its ``close`` tells a `Recorder`."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder = recorder
        self.name = name

    def open(self) -> list[tuple[str, str]]:
        return []

    def noted(self, name: str) -> str | None:
        return None

    def note(self, name: str, value: str) -> None:
        pass

    def start(self) -> None:
        self.recorder.ask(f"start {self.name}")

    def close(self) -> Deferred[None]:
        return self.recorder.ask(f"close {self.name}")


class ServiceCase(SynchronousTestCase):
    """Has a directory and a configuration."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        key = self.directory / "key"
        key.touch(mode=0o600)
        key.write_text("k" * 40)
        self.options: dict[str, str | bool | None] = {
            "server": "ws://127.0.0.1:1",
            "proxy-id": "proxy-1",
            "api-key-file": str(key),
            "state-dir": str(self.directory / "deep" / "state"),
            "drain-timeout": "7s",
        }

    def config(self, **options: str) -> Config:
        return load(self.options | {name.replace("_", "-"): value for name, value in options.items()}, {})


class RelayCase(ServiceCase):
    """Has a relay of recorded parts."""

    def setUp(self) -> None:
        super().setUp()
        self.recorder = Recorder()
        self.relay = self.make()

    def make(self, audited: bool = False) -> RelayService:
        recorder: Any = self.recorder
        audit: Any = Closer(recorder, "audit") if audited else None
        runner: Any = Closer(recorder, "runner")
        journal: Any = Closer(recorder, "journal")
        config = self.config()
        state = StateDirectory(config.state_dir)
        self.addCleanup(state.release)
        lag = LagMonitor(Clock())
        uplink: Any = RecordedUplink(recorder)
        return RelayService(
            config,
            Parts(
                state=state,
                uplink=uplink,
                dispatcher=recorder,
                runner=runner,
                journal=journal,
                lag=lag,
                audit=audit,
            ),
        )


class DescriptorTests(RelayCase):
    """A process that may have few files open."""

    def test_the_pool_keeps_within_the_limit(self) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        self.assertEqual(ssh_settings_of(self.config()).max_total_connections, 200 - RESERVED)
        self.assertEqual(ssh_settings_of(self.config(max_total_connections="50")).max_total_connections, 50)


class OrderTests(RelayCase):
    """A relay starts with the uplink and stops from the outside in."""

    def test_start(self) -> None:
        self.relay.startService()
        self.assertEqual(self.recorder.asked, ["start uplink"])
        self.assertTrue(self.relay.running)

    def test_results_are_delivered_before_the_uplink_closes(self) -> None:
        self.relay.startService()
        drained = self.recorder.hold("drain")
        stopped = self.relay.stopService()
        self.assertEqual(self.recorder.asked[1:], ["drain"])
        self.assertEqual(self.recorder.drain_timeout, 7.0)
        self.assertNoResult(stopped)
        drained.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.recorder.asked[1:], ["drain", "stop uplink", "close runner", "close journal"])

    def test_the_audit_log_is_there_first_and_last(self) -> None:
        relay = self.make(audited=True)
        relay.startService()
        self.successResultOf(relay.stopService())
        self.assertEqual(self.recorder.asked[:2], ["start audit", "start uplink"])
        self.assertEqual(self.recorder.asked[-2:], ["close journal", "close audit"])

    def test_what_an_earlier_process_left_is_audited(self) -> None:
        """With the main server that ordered it."""
        relay: Any = self.make(audited=True)
        recorded: list[tuple[str, ...]] = []
        relay._journal.open = lambda: [("c1", "outcome-unknown")]
        relay._dispatcher.origin_of = lambda command_id: f"wss://orders-{command_id}.example"
        relay._audit.record_recovered = lambda *said: recorded.append(said)
        relay.startService()
        self.assertEqual(recorded, [("c1", "outcome-unknown", "wss://orders-c1.example")])

    def test_each_step_waits_for_the_one_before(self) -> None:
        self.relay.startService()
        steps = ["stop uplink", "close runner", "close journal"]
        held = [self.recorder.hold(step) for step in steps]
        stopped = self.relay.stopService()
        for index, step in enumerate(steps):
            self.assertEqual(self.recorder.asked[-1], step)
            self.assertNoResult(stopped)
            held[index].callback(None)
        self.successResultOf(stopped)

    def test_a_part_that_fails_does_not_keep_the_others_open(self) -> None:
        self.relay.startService()
        self.recorder.hold("drain").errback(Failure(RuntimeError("broken")))
        self.recorder.hold("close runner").errback(Failure(RuntimeError("broken")))
        with capturedLogs() as events:
            self.successResultOf(self.relay.stopService())
        self.assertEqual(self.recorder.asked[-3:], ["stop uplink", "close runner", "close journal"])
        self.assertEqual([event.get("what") for event in events[:2]], ["drain commands", "close SSH connections"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_cancelling_is_not_taken_for_a_failed_part(self) -> None:
        self.relay.startService()
        self.recorder.hold("drain")
        stopped = self.relay.stopService()
        stopped.cancel()
        self.failureResultOf(stopped, CancelledError)
        self.assertEqual(self.recorder.asked[-1], "drain")


class StateDirectoryTests(RelayCase):
    """It is made at the start, for this user alone."""

    def test_it_is_private_whatever_the_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        self.relay.startService()
        self.assertEqual(stat.S_IMODE(os.stat(self.directory / "deep" / "state").st_mode), 0o700)

    def test_not_before_the_start(self) -> None:
        self.assertFalse((self.directory / "deep").exists())

    def test_one_that_others_can_write_to(self) -> None:
        """Whoever can change known_hosts and the journal decides what the relay remembers."""
        path = self.directory / "deep" / "state"
        path.mkdir(parents=True)
        for mode in (0o770, 0o707, 0o1777):
            path.chmod(mode)
            error = self.assertRaises(ConfigError, self.relay.startService)
            self.assertIn(f"--state-dir: others can write to {path}", str(error))
            self.assertEqual(os.listdir(path), [])
        self.assertEqual(self.recorder.asked, [])

    def test_one_that_cannot_be_made(self) -> None:
        (self.directory / "deep").write_text("a file")
        error = self.assertRaises(ConfigError, self.relay.startService)
        self.assertIn(f"--state-dir: {self.directory}/deep/state cannot be used: ", str(error))
        self.assertEqual(self.recorder.asked, [])


class MakeRelayTests(ServiceCase):
    """The concrete parts."""

    def test_nothing_is_touched_before_the_start(self) -> None:
        """twistd makes the service, and only then forks, changes its directory and gives up root."""
        reactor = MemoryReactorClock()
        relay = make_relay(reactor, self.config())
        self.assertTrue(IService.providedBy(relay))
        self.assertEqual((reactor.tcpClients, reactor.sslClients, reactor.getDelayedCalls()), ([], [], []))
        self.assertEqual(sorted(os.listdir(self.directory)), ["key"])

    def test_an_audit_log_that_cannot_be_opened(self) -> None:
        relay = make_relay(MemoryReactorClock(), self.config(audit_log=str(self.directory / "none" / "audit.log")))
        error = self.assertRaises(ConfigError, relay.startService)
        self.assertIn("--audit-log: ", str(error))

    def test_the_query_of_the_main_server_is_for_nobody_else(self) -> None:
        """Not for the log, the audit log, the status page and the service manager."""
        options = {"server": "ws://127.0.0.1:1/base?code=hunter2", "status": "tcp:127.0.0.1:8080", "journal": "memory"}
        sources: list[Any] = []
        self.patch(server, "StatusServer", lambda reactor, address, shown: sources.append(shown))
        audited: Any = make_relay(
            MemoryReactorClock(), self.config(audit_log=str(self.directory / "audit.log"), **options)
        )
        relay = make_relay(MemoryReactorClock(), self.config(**options))
        relay._status = None
        with capturedLogs() as events:
            relay.startService()
        self.addCleanup(relay.stopService)
        started = [formatEvent(event) for event in events]
        self.assertTrue(any("for ws://127.0.0.1:1/base; its state" in line for line in started), started)
        shown = [*started, repr(events), audited._audit._settings.server, sources[0].server]
        self.assertNotIn("hunter2", "\n".join([*shown, relay.standing().server]))

    def test_every_option_reaches_its_part(self) -> None:
        """An option that no part reads would be a promise without a keeper."""
        read: set[str] = set()
        config = self.config()

        class Watched:
            def __getattr__(self, name: str) -> Any:
                read.add(name)
                # There is one main server, and what is read of it counts.
                return (self,) if name == "each_server" else getattr(config, name)

        watched: Any = Watched()
        relay = make_relay(MemoryReactorClock(), watched)
        relay.startService()
        relay.describe(0.0)
        config = self.config(audit_log=str(self.directory / "audit.log"))  # without it, its other options mean nothing
        make_relay(MemoryReactorClock(), watched)
        self.addCleanup(relay.stopService)
        # The first six were used up by the configuration itself; the drain timeout is read when it is needed, and the
        # log is shaped before there is a relay (relayd.tap).
        elsewhere = {
            "config",
            "server",
            "api_key_file",
            "allow_weak_key",
            "allow_plaintext",
            "http_proxy_password_file",
            "drain_timeout",
            "log_format",
            "log_level",
        }
        self.assertEqual({option.attribute for option in OPTIONS} - read, elsewhere)
        self.assertLess({"read_api_key", "read_proxy_password"}, read)
