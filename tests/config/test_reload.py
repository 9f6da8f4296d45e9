"""
relayd.config.reload: what SIGHUP changes, what it leaves alone, and what it says of both.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from ipaddress import ip_address
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.dispatcher import Limits
from relayd.config.option import Effect
from relayd.config.options import OPTIONS
from relayd.config.reading import read
from relayd.config.reload import Change, Changes, ReloadOnSignal, compare
from relayd.errors import ConfigError
from relayd.policy.rules import Policy
from relayd.service import make_relay
from relayd.tap import Options
from tests.config.test_options import KEY, ConfigCase
from tests.support.dispatching import Desk, command


class CompareTests(ConfigCase):
    """What is different, and what of it can count at once."""

    def test_an_option_takes_effect_when_it_says_so(self) -> None:
        """Each option, changed alone: it is taken over, unless it waits for a restart."""
        old = self.load()
        for option in OPTIONS:
            other = dataclasses.replace(old, **{option.attribute: "other"})
            effective, changes = compare(old, other)
            self.assertEqual(list(changes.of(option.effect)), [option.name])
            self.assertEqual([effect for effect in Effect if changes.of(effect)], [option.effect])
            taken = getattr(effective, option.attribute) == "other"
            self.assertEqual(taken, option.effect is not Effect.RESTART, option.name)

    def test_nothing(self) -> None:
        config = self.load()
        self.assertEqual(compare(config, self.load()), (config, Changes()))

    def test_some_count_and_others_wait_for_a_restart(self) -> None:
        old = self.load()
        new = self.load('max-commands = 5\nmax-sessions = 3\nserver = "wss://other.example"', server=None)
        effective, changes = compare(old, new)
        self.assertEqual((effective.max_commands, effective.max_sessions, effective.server), (5, 10, old.server))
        self.assertEqual(changes.of(Effect.COMMANDS), {"max-commands": "max-commands (64 -> 5)"})
        pending = changes.of(Effect.RESTART)
        self.assertEqual(
            pending,
            {
                "config": pending["config"],
                "server": "server (wss://main.example -> wss://other.example)",
                "max-sessions": "max-sessions (10 -> 3)",
            },
        )

    def test_secrets_and_long_values_are_not_told(self) -> None:
        old = self.load("")
        new = self.load(f'http-proxy = "http://user:{KEY}@proxy:1"\nallow-commands = "{"a" * 100}"')
        changes = compare(old, new)[1]
        self.assertEqual(changes.of(Effect.CONNECTION), {"http-proxy": "http-proxy"})
        self.assertEqual(changes.of(Effect.COMMANDS), {"allow-commands": "allow-commands"})

    def test_the_query_of_the_main_server_is_not_told(self) -> None:
        old = self.load(server=f"wss://a?code={KEY}")
        for server, told in ((f"wss://b/x?code={KEY}", "server (wss://a -> wss://b/x)"), ("wss://a?code=2", "server")):
            self.assertEqual(compare(old, self.load(server=server))[1].of(Effect.RESTART)["server"], told)

    def test_the_api_key_comes_from_the_new_file(self) -> None:
        old, new = self.load(), self.load(api_key_file=self.write("other", "n" * 40))
        effective, changes = compare(old, new)
        self.assertEqual(effective.read_api_key().reveal(), "n" * 40)
        self.assertEqual(changes.of(*Effect), {"api-key-file": "api-key-file"})

    def test_credentials(self) -> None:
        old = self.load("")
        new = self.load('[[credentials]]\nhosts = ["*"]\npassword-file = "api-key"')
        effective, changes = compare(old, new)
        self.assertEqual(effective.credentials, new.credentials)
        self.assertEqual(changes.of(*Effect), {"[[credentials]]": "[[credentials]] (0 -> 1 tables)"})

    def test_hosts(self) -> None:
        old = self.load('[[hosts]]\nhosts = ["a"]\nshell = "none"')
        new = self.load('[[hosts]]\nhosts = ["a"]\nshell = "posix"')
        effective, changes = compare(old, new)
        self.assertEqual(effective.hosts, new.hosts)
        self.assertEqual(changes.of(Effect.COMMANDS), {"[[hosts]]": "[[hosts]] (1 -> 1 tables)"})


class FakeRelay:
    """Notes what it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.running = 1
        self.given: list[Any] = []
        self.error = error

    def apply(self, config: Any) -> Changes:
        self.given.append(config)
        if self.error is not None:
            raise self.error
        return Changes(
            (
                Change("server", "server (a -> b)", Effect.RESTART),
                Change("tls-ca", "tls-ca", Effect.CONNECTION),
                Change("max-queue", "max-queue (1 -> 2)", Effect.COMMANDS),
            )
        )


class SignalTests(ConfigCase):
    """The service in the process."""

    def reload(self, toml: str, relay: FakeRelay) -> list[str]:
        """What it logs."""
        self.argv["config"] = self.write("relayd.toml", toml)
        service = ReloadOnSignal(MemoryReactorClock(), lambda: read(self.argv, {}), relay)
        with capturedLogs() as events:
            service.reload()
        return [f"{event['log_level'].name} {formatEvent(event)}" for event in events]

    def test_what_was_changed(self) -> None:
        relay = FakeRelay()
        self.assertEqual(
            self.reload("max-queue = 2", relay),
            [
                "info SIGHUP: settings read again; changed for new commands: max-queue (1 -> 2), and from the next "
                "connection to the main server: tls-ca. API key and certificates are read at each connection anyway",
                "warn SIGHUP: these take effect after a restart: server (a -> b)",
            ],
        )
        self.assertEqual(relay.given[0].max_queue, 2)

    def test_a_mistake_changes_nothing(self) -> None:
        relay = FakeRelay()
        self.assertEqual(
            self.reload("max-queue = 2\nmax-output = 0\nmax_commands = 5", relay),
            [
                f"error SIGHUP: nothing was changed, because of max_commands in {self.directory}/relayd.toml: "
                "no such option; did you mean max-commands? (and 1 more: relayctl check lists them)"
            ],
        )
        self.assertEqual(relay.given, [])

    def test_what_cannot_be_applied(self) -> None:
        relay = FakeRelay(ConfigError(option="--audit-log", reason="no"))
        self.assertEqual(self.reload("", relay), ["error SIGHUP: nothing was changed, because of --audit-log: no"])

    def test_a_fault_of_ours_does_not_end_the_relay(self) -> None:
        [line] = self.reload("", FakeRelay(RuntimeError("x")))
        self.assertIn("could not be read again", line)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_relay_that_stops(self) -> None:
        relay = FakeRelay()
        relay.running = 0
        self.assertEqual(self.reload("", relay), ["info SIGHUP: relayd is stopping; its settings stay as they are"])
        self.assertEqual(relay.given, [])

    def test_the_handler(self) -> None:
        self.addCleanup(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL))
        reactor: Any = MemoryReactorClock()
        calls: list[Any] = []
        reactor.callWhenRunning = lambda call: call()
        reactor.callFromThread = calls.append
        service = ReloadOnSignal(reactor, lambda: read(self.argv, {}), FakeRelay())
        service.startService()
        signal.raise_signal(signal.SIGHUP)
        self.assertEqual(calls, [service.reload])
        service.stopService()
        signal.raise_signal(signal.SIGHUP)  # while commands drain it must not end the process
        self.assertEqual(len(calls), 2)

    def test_a_handler_of_somebody_else_stays(self) -> None:
        def theirs(*_: object) -> None:
            """Nothing."""

        self.addCleanup(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, theirs))
        reactor: Any = MemoryReactorClock()
        reactor.callWhenRunning = lambda call: call()
        ReloadOnSignal(reactor, lambda: read(self.argv, {}), FakeRelay()).startService()
        self.assertIs(signal.getsignal(signal.SIGHUP), theirs)

    def test_paths_mean_what_they_meant_at_the_start(self) -> None:
        """twistd has changed its directory since then."""
        self.addCleanup(os.chdir, os.getcwd())
        self.write("relayd.toml", "max-queue = 5")
        os.chdir(self.directory)
        self.patch(os, "environ", {"RELAYD_STATE_DIR": "here"})
        options = Options()
        options.parseOptions(
            ["--config", "relayd.toml", "--server", "wss://a.example", "--proxy-id", "p", "--api-key-file", "api-key"]
        )
        os.chdir("/")
        self.write("relayd.toml", "max-queue = 6")
        config = options.read().config
        assert config is not None
        self.assertEqual((config.max_queue, config.state_dir), (6, str(self.directory / "here")))


class DispatcherTests(SynchronousTestCase):
    """`Dispatcher.configure`."""

    def configure(self, desk: Desk, policy: Policy | None = None, **limits: Any) -> None:
        usual = {"max_commands": 4, "max_queue": 4, "default_timeout": 60.0, "max_timeout": 600.0}
        desk.dispatcher.configure(Limits(**(usual | limits)), policy or Policy())

    def test_more_slots_are_used_at_once(self) -> None:
        desk = Desk(max_commands=1)
        for number in range(5):
            desk.order(command(f"c{number}", host=f"host-{number}"))
        self.assertEqual(desk.runner.ids(), ["c0"])
        self.configure(desk, max_commands=3)
        self.assertEqual(desk.runner.ids(), ["c0", "c1", "c2"])

    def test_fewer_slots_end_nothing_that_runs(self) -> None:
        desk = Desk(max_commands=3)
        for number in range(5):
            desk.order(command(f"c{number}", host=f"host-{number}"))
        self.configure(desk, max_commands=1)
        self.assertEqual(desk.runner.ids(), ["c0", "c1", "c2"])
        for run in range(2):
            desk.runner.runs[run].finish()
        self.assertEqual(desk.runner.ids(), ["c0", "c1", "c2"])
        desk.runner.runs[2].finish()
        self.assertEqual(desk.runner.ids(), ["c0", "c1", "c2", "c3"])
        self.assertEqual(desk.dispatcher.queued, 1)

    def test_a_shorter_queue_refuses_what_comes(self) -> None:
        desk = Desk(max_commands=1)
        for number in range(3):
            desk.order(command(f"c{number}"))
        self.configure(desk, max_commands=1, max_queue=1)
        desk.order(command("late"))
        self.assertEqual(desk.link.ids(), ["late"])
        self.assertEqual(desk.dispatcher.queued, 2)

    def test_timeouts(self) -> None:
        desk = Desk()
        desk.order(command("c1"))
        self.configure(desk, default_timeout=5.0)
        desk.order(command("c2"))
        self.assertEqual([run.deadline for run in desk.runner.runs], [60.0, 5.0])

    def test_what_is_forbidden_now_is_not_run(self) -> None:
        desk = Desk(max_commands=1)
        desk.order(command("runs", host="a"))
        desk.order(command("waits", host="a", extended=True))
        desk.order(command("other", host="b"))
        self.configure(desk, Policy(deny_hosts=["a"]), max_commands=1)
        self.assertEqual(desk.link.ids(), ["waits"])
        self.assertEqual(desk.link.codes(), ["forbidden-host"])
        desk.order(command("new", host="a"))
        self.assertEqual(desk.link.ids(), ["waits", "new"])
        desk.runner.runs[0].finish()
        self.assertEqual(desk.runner.ids(), ["runs", "other"])


class ApplyTests(ConfigCase):
    """`RelayService.apply`, with the real parts."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor = MemoryReactorClock()
        audit = str(self.directory / "audit.log")
        self.relay: Any = make_relay(self.reactor, self.load("", audit_log=audit, audit_commands="none"))

        (self.directory / "state").mkdir()

    def apply(self, toml: str, **argv: str) -> Changes:
        changes: Changes = self.relay.apply(self.load(toml, **argv))
        return changes

    def test_every_part_has_it(self) -> None:
        retired: list[bool] = []
        self.patch(self.relay._runner.client, "retire_all", lambda: retired.append(True))
        changes = self.apply(
            """
            allow-users = "x"
            max-commands = 3
            max-output = "2M"
            drain-timeout = 1
            reconnect-delay = "9s"
            working-directory = "/tmp"
            connect-timeout = 3
            idle-timeout = 7
            default-timeout = 5
            timeout-margin = "2s"
            [[credentials]]
            hosts = ["*"]
            password-file = "api-key"
            [[hosts]]
            hosts = ["odd"]
            max-sessions = 2
            """,
            audit_commands="digest",
        )
        self.assertEqual(changes.of(Effect.RESTART), {})
        relay, client = self.relay, self.relay._runner.client
        self.assertEqual(relay.drain_timeout, 1.0)
        self.assertEqual(relay._dispatcher._limits.default_timeout, 5.0)
        self.assertEqual(relay._dispatcher._limits.timeout_margin, 2.0)
        self.assertEqual(relay._dispatcher._admission._max_running, 3)
        self.assertFalse(relay._dispatcher._policy.judge_user("y").allowed)
        self.assertEqual(relay._uplink.servers[0].settings.reconnect_delay, 9.0)
        self.assertEqual(relay._uplink.servers[0].retry.delay, 9.0)
        self.assertEqual((client._settings.max_output, relay._runner._settings.working_directory), (2 << 20, "/tmp"))
        self.assertEqual((client._dialer._settings.connect_timeout, client._pool._idle_timeout), (3.0, 7.0))
        self.assertIsNotNone(relay._runner._credentials.find("a", 22, "b"))
        odd = {table.of("odd", 22, "b").max_sessions for table in (
            relay._runner._settings.hosts, client._settings.hosts, client._dialer._settings.hosts,
            client._pool._state._places._table, relay._dispatcher._streams.hosts,
        )}  # fmt: skip
        self.assertEqual(odd, {2})
        self.assertEqual(relay._audit._settings.commands, "digest")
        self.assertEqual(len(relay._audit._key), 32)
        self.assertEqual(retired, [])

    def test_rules_on_hosts_count_for_connections_too(self) -> None:
        retired: list[bool] = []
        self.patch(self.relay._runner.client, "retire_all", lambda: retired.append(True))
        self.apply('deny-hosts = ["10.0.0.0/8"]')
        self.assertEqual(retired, [True])
        dialer = self.relay._runner.client._dialer
        self.assertFalse(dialer._allows("name", 22, ip_address("10.1.2.3")))
        self.assertTrue(dialer._allows("name", 22, ip_address("11.1.2.3")))

    def test_what_connections_were_opened_with_counts_for_new_commands(self) -> None:
        """As where a table changes it: open connections keep their algorithms and probes."""
        for line in ('ssh-algorithms = "compatible"', 'keepalive-interval = "40s"'):
            retired: list[bool] = []
            self.patch(self.relay._runner.client, "retire_all", lambda retired=retired: retired.append(True))
            self.apply(line)
            self.assertEqual(retired, [True], line)

    def test_a_check_of_host_keys_counts_for_connections_too(self) -> None:
        """What was let pass before is not known to be the host."""
        retired: list[bool] = []
        self.patch(self.relay._runner.client, "retire_all", lambda: retired.append(True))
        self.apply('host-keys = "strict"')
        self.assertEqual(retired, [True])
        self.assertEqual(self.relay._runner.client._dialer._settings.host_keys, "strict")

    def test_a_restart_is_needed_until_there_is_one(self) -> None:
        for text in ("max-sessions = 3", "max-sessions = 3\nmax-queue = 1"):
            self.assertEqual(list(self.apply(text).of(Effect.RESTART)), ["max-sessions"])

    def test_a_key_of_digests_that_cannot_be_had_changes_nothing(self) -> None:
        (self.directory / "state" / "audit-key").mkdir()
        config = self.load("max-commands = 3", audit_commands="digest")
        error = self.assertRaises(ConfigError, self.relay.apply, config)
        self.assertIn("--audit-log: ", str(error))
        self.assertEqual(self.relay._dispatcher._limits.max_commands, 64)
        self.assertEqual(self.relay._audit._settings.commands, "none")
