"""
The parts of the uplink that decide: the life of a connection, the retry delay, the cutting of results, addresses.
"""

from __future__ import annotations

import errno
import os
import random
from base64 import b64decode, b64encode
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectBindError, ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import (
    ConfigError,
    RelayError,
    UplinkBusy,
    UplinkDisplaced,
    UplinkLost,
    UplinkRefused,
    UplinkSilent,
    UplinkTimeout,
)
from relayd.network.lookup import NoNameService
from relayd.uplink.cutting import fit
from relayd.uplink.endpoint import describe, make_endpoint
from relayd.uplink.retry import RetryPolicy, seconds_of
from relayd.uplink.settings import ServerAddress, UplinkSettings
from relayd.uplink.stages import LinkCore, Stage, Timing, start_machine
from relayd.wire.messages import CommandResult, Details, Fetched, Secret
from tests.support.names import NamedReactor, ScriptedNames

LOST = UplinkLost(server="s", reason="r")


class Owner:
    """Writes down what the machine says."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ends: list[tuple[RelayError, Stage]] = []
        self.unsent = False

    def on_ready(self) -> None:
        self.said.append("ready")

    def on_accepted(self) -> None:
        self.said.append("accepted")

    def on_over(self, error: RelayError, stage: Stage) -> None:
        self.said.append("over")
        self.ends.append((error, stage))

    def on_ping_due(self) -> None:
        self.said.append("ping")


class Machine(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.owner = Owner()
        self.core = LinkCore(self.clock, self.owner, "https://main", Timing())
        self.machine = start_machine(self.core)

    def tearDown(self) -> None:
        self.machine.failed(LOST)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.owner.said.count("over"), 1)

    def connect(self, heartbeat: float | None = 45.0) -> None:
        self.machine.secured()
        self.machine.upgraded()
        self.machine.connected(heartbeat)

    def ended(self, kind: type[RelayError], stage: Stage) -> str:
        ((error, at),) = self.owner.ends
        self.assertIs(type(error), kind)
        self.assertIs(at, stage)
        return str(error)

    def test_deadlines(self) -> None:
        """Each stage on the way has a deadline, and the error names what was waited for."""
        for steps, stage, seconds in (
            ([], Stage.SECURING, 15),
            (["secured"], Stage.UPGRADING, 20),
            (["secured", "upgraded"], Stage.GREETING, 20),
        ):
            self.setUp()
            for step in steps:
                self.clock.advance(10)
                getattr(self.machine, step)()
            self.clock.advance(seconds - 0.1)
            self.assertEqual(self.owner.said, [])
            self.clock.advance(0.2)
            text = self.ended(UplinkTimeout, stage)
            self.assertIn(f"did not finish the {stage.value} within {seconds} s", text)

    def test_accepted_by_time(self) -> None:
        self.connect()
        self.assertEqual(self.owner.said, ["ready"])
        self.clock.advance(1.9)
        self.assertEqual(self.owner.said, ["ready"])
        self.clock.advance(0.2)
        self.assertEqual(self.owner.said, ["ready", "accepted"])

    def test_accepted_by_event(self) -> None:
        self.connect()
        self.machine.event_received()
        self.machine.event_received()
        self.clock.advance(3)
        self.assertEqual(self.owner.said, ["ready", "accepted"])

    def test_turned_away(self) -> None:
        """Before it is accepted, a relay that is sent away was refused; afterwards it was only disconnected."""
        self.connect()
        self.machine.turned_away("it says no")
        self.assertIn("wrong proxyId or apiKey", self.ended(UplinkRefused, Stage.PROBATION))
        self.setUp()
        self.connect()
        self.clock.advance(2)
        self.machine.turned_away("it says no")
        self.assertIn("(it says no), although it had accepted", self.ended(UplinkDisplaced, Stage.ACCEPTED))

    def test_failure_in_probation(self) -> None:
        """A link that breaks says nothing about the key."""
        self.connect()
        self.machine.failed(LOST)
        self.ended(UplinkLost, Stage.PROBATION)

    def test_after_the_end(self) -> None:
        """What is still on its way changes nothing."""
        self.connect()
        self.machine.failed(LOST)
        self.connect()
        for late in (self.machine.event_received, self.machine.time_up, self.machine.silent):
            late()
        self.machine.turned_away("x")
        self.clock.advance(1000)
        self.assertEqual(self.owner.said, ["ready", "over"])

    def test_silence(self) -> None:
        """A link is dead that long after the last byte, whatever came before."""
        self.connect(heartbeat=45.0)
        for _ in range(4):
            self.clock.advance(44)
            self.core.last_heard = self.clock.seconds()
        self.assertNotIn("over", self.owner.said)
        self.clock.advance(44.9)
        self.assertNotIn("over", self.owner.said)
        self.clock.advance(0.2)
        self.assertIn("nothing arrived from it for 45 s", self.ended(UplinkSilent, Stage.ACCEPTED))
        self.assertNotIn("ping", self.owner.said)

    def test_pings(self) -> None:
        """Without a heartbeat of the dialect, pings are ours: every 25 s; 20 s without an answer are death."""
        self.connect(heartbeat=None)
        for _ in range(3):
            self.clock.pump([24.9, 0.1])
            self.core.last_heard = self.clock.seconds()
        self.assertEqual(self.owner.said, ["ready", "accepted", "ping", "ping", "ping"])
        self.clock.pump([1.0] * 44)
        self.assertNotIn("over", self.owner.said)
        self.clock.pump([1.0] * 2)
        self.ended(UplinkSilent, Stage.ACCEPTED)

    def test_reentrant(self) -> None:
        """The owner may end it while it is told that it is ready."""
        self.owner.on_ready = lambda: self.machine.failed(LOST)  # type: ignore[method-assign]
        self.connect()
        self.ended(UplinkLost, Stage.PROBATION)


class Retry(SynchronousTestCase):
    def setUp(self) -> None:
        self.policy = RetryPolicy(5.0, random.Random(1))
        self.refused = UplinkRefused(server="s", reason="r")

    def between(self, error: RelayError, middle: float, least: float = 0.6) -> None:
        delay = self.policy.delay_after(error)
        self.assertTrue(middle * least <= delay <= middle * 1.4, f"{delay} is not about {middle}")

    def test_constant(self) -> None:
        """The specification's interval, however often; but not the same for all relays."""
        for _ in range(50):
            self.between(LOST, 5)
        self.assertGreater(len({self.policy.delay_after(LOST) for _ in range(20)}), 10)

    def test_refused(self) -> None:
        for middle in (5, 10, 20, 40, 80, 160, 300, 300):
            self.between(self.refused, middle)
            self.between(LOST, 5)
        self.policy.accepted()
        self.between(self.refused, 5)

    def test_refused_for_years(self) -> None:
        for _ in range(5000):
            self.policy.delay_after(self.refused)
        self.between(self.refused, 300)

    def test_busy(self) -> None:
        """As long as it asks for, within reason, and never less."""
        for seconds, middle in ((0.0, 5), (60.0, 60), (1e9, 3600)):
            for _ in range(50):
                self.between(UplinkBusy(server="s", status=503, reason="HTTP 503", seconds=seconds), middle, least=1)

    def test_a_thousand_relays(self) -> None:
        """They lose their main server in the same instant, and do not come back in one: the first return counts."""
        relays = [RetryPolicy(5.0, random.Random(seed)) for seed in range(1000)]
        for relay in relays:
            relay.accepted()
        returns = sorted(relay.delay_after(LOST) for relay in relays)
        self.assertTrue(3 <= returns[0] < 3.2 and 6.8 < returns[-1] <= 7, returns)
        self.assertLess(abs(sum(returns) / 1000 - 5), 0.2)  # the specification's interval
        busiest = max(sum(start <= other < start + 0.1 for other in returns) for start in returns)
        self.assertLess(busiest, 60, "in a tenth of a second")

    def test_long_delay_is_never_shortened(self) -> None:
        self.policy = RetryPolicy(900.0, random.Random(1))
        self.between(self.refused, 900)


def measure(result: CommandResult) -> int:
    return len(b'42/proxy,["command_result",]' + msgspec.json.encode(result.to_wire()))


def result_of(stdout: str, stderr: str = "", **fields: Any) -> CommandResult:
    return CommandResult(command_id="c" * 20, stdout=stdout, stderr=stderr, exit_code=1, **fields)


texts = st.text(st.characters(exclude_categories=["Cs"]))
#: Texts in which all of, the start of, or the end of what is written needs escapes of up to six bytes a character.
outputs = st.one_of(
    st.builds(lambda text, times: text * times, texts, st.integers(0, 2000)),
    st.builds(lambda a, b, n, m: a * n + b * m, texts, st.sampled_from(["\x00", "\n", "\\", '"', "é", "😀"]),
              st.integers(0, 500), st.integers(0, 9000)),
)  # fmt: skip

long_binaries = st.builds(lambda data, times: data * times, st.binary(max_size=40), st.integers(0, 500))


class Fitting(SynchronousTestCase):
    @given(st.lists(st.integers(0, 3000), max_size=5), st.integers(600, 20_000))
    def test_files_share_the_room(self, sizes: list[int], limit: int) -> None:
        """What is small stays whole, and what is cut says so."""
        files = tuple(
            Fetched(path="/x", size=size, sha256="0" * 64, content={"base64": "ab" * 2 * size}) for size in sizes
        )
        result = msgspec.structs.replace(result_of("a" * 5_000), details=Details(fetched=files))
        cut = fit(result, measure, limit)
        self.assertLessEqual(measure(cut), limit)
        for before, after in zip(files, cut.details.fetched, strict=False):
            self.assertEqual(after.truncated, after.length < before.length)
            self.assertEqual(after.length % 4, 0)
        if measure(result) <= limit:
            self.assertEqual(cut, result)
        elif cut.details.fetched:
            # No file was cut that is smaller than one that was not.
            most = max((each.length for each in cut.details.fetched), default=0)
            for before, after in zip(files, cut.details.fetched, strict=True):
                self.assertTrue(after.length == before.length or after.length + 4 > most // 4 * 4 - 4, cut)

    @given(outputs, outputs, st.integers(600, 20_000), st.booleans())
    def test_always_fits(self, stdout: str, stderr: str, limit: int, extended: bool) -> None:
        result = result_of(stdout, stderr, extended=extended)
        cut = fit(result, measure, limit)
        self.assertLessEqual(measure(cut), limit)
        if measure(result) <= limit:
            self.assertIs(cut, result)
        else:
            self.assertTrue(cut.details.truncated)
            self.assertEqual((cut.command_id, cut.exit_code), (result.command_id, result.exit_code))
            for whole, part in ((stdout, cut.stdout), (stderr, cut.stderr)):
                if part != whole:
                    head, marker, tail = part.partition("\n[relayd: ")
                    self.assertTrue(marker)
                    self.assertTrue(whole.startswith(head))
                    self.assertTrue(whole.endswith(tail.partition("--max-output]\n")[2]))

    @given(outputs, outputs, st.integers(0, 700), st.booleans(), st.booleans())
    def test_links_that_take_next_to_nothing(
        self, stdout: str, stderr: str, limit: int, extended: bool, base64: bool
    ) -> None:
        """What goes is first what the specification does not have, then the marker, then all output."""
        details = Details(encoding="base64" if base64 else None, timings={"run": 1.0}, stdout_bytes=1)
        texts = [b64encode(text.encode()).decode() if base64 else text for text in (stdout, stderr)]
        result = result_of(*texts, extended=extended, details=details)
        cut = fit(result, measure, limit)
        least = measure(result_of("", "", details=Details(encoding=details.encoding)))
        self.assertLessEqual(measure(cut), max(limit, least))
        self.assertEqual((cut.command_id, cut.exit_code), (result.command_id, result.exit_code))
        if base64:
            for text in (cut.stdout, cut.stderr):
                b64decode(text, validate=True)

    def test_uneven_escapes(self) -> None:
        """Escapes at the very edges, where an average says nothing."""
        for output in ("\x00" * 300 + "x" * 90_000, "x" * 90_000 + "\x00" * 300):
            cut = fit(result_of(output), measure, 2500)
            self.assertLessEqual(measure(cut), 2500)

    def test_marker_counts(self) -> None:
        """The marker says how many bytes are missing: with what is left, it makes the whole."""
        output = "".join(f"{number:07}é\n" for number in range(300_000))
        result = fit(result_of(output), measure, 1_000_000)
        self.assertGreater(measure(result), 960_000, "room was wasted")
        cut = result.stdout
        head, _, rest = cut.partition("\n[relayd: ")
        count, _, tail = rest.partition(" bytes cut here to fit the link; see --max-output]\n")
        self.assertEqual(len((head + tail).encode()) + int(count.replace(",", "")), len(output.encode()))

    def test_small_output_stays_whole(self) -> None:
        """A long output does not cost the short one anything, whichever it is."""
        for stdout, stderr in (("x" * 90_000, "short" * 100), ("short" * 100, "x" * 90_000)):
            cut = fit(result_of(stdout, stderr), measure, 10_000)
            self.assertIn("short" * 100, (cut.stdout, cut.stderr))
            self.assertGreater(measure(cut), 9_500)

    def test_both_share(self) -> None:
        cut = fit(result_of("a" * 90_000, "b" * 50_000), measure, 10_000)
        self.assertLess(abs(len(cut.stdout) - len(cut.stderr)), 300)

    def test_details_stay(self) -> None:
        details = Details(stdout_bytes=90_000, signal="KILL")
        cut = fit(result_of("a" * 90_000, extended=True, details=details), measure, 10_000)
        self.assertEqual(cut.to_wire()["result"]["stdoutBytes"], 90_000)
        self.assertIs(cut.to_wire()["result"]["truncated"], True)

    @given(long_binaries, long_binaries, st.integers(600, 20_000))
    def test_base64_is_cut_as_what_it_stands_for(self, stdout: bytes, stderr: bytes, limit: int) -> None:
        whole = (stdout, stderr)
        result = result_of(*(b64encode(data).decode() for data in whole), details=Details(encoding="base64"))
        cut = fit(result, measure, limit)
        self.assertLessEqual(measure(cut), limit)
        self.assertEqual(cut is result, measure(result) <= limit)
        for data, text in zip(whole, (cut.stdout, cut.stderr), strict=True):
            part = b64decode(text, validate=True)
            if part != data:
                head, marker, rest = part.partition(b"\n[relayd: ")
                count, _, tail = rest.partition(b" bytes cut here to fit the link; see --max-output]\n")
                self.assertTrue(marker)
                self.assertTrue(data.startswith(head) and data.endswith(tail))
                self.assertEqual(len(head + tail) + int(count.replace(b",", b"")), len(data))

    def test_few_passes(self) -> None:
        """The frame is measured twice at most, and never in its full size."""
        sizes: list[int] = []

        def counting(result: CommandResult) -> int:
            sizes.append(measure(result))
            return sizes[-1]

        fit(result_of("\x00" * 3_000_000), counting, 1_000_000)
        self.assertEqual(len(sizes), 1)
        self.assertLess(sizes[0], 1000)


class Descriptions(SynchronousTestCase):
    def test_errors_of_the_system(self) -> None:
        """In the system's words, not Twisted's, which have the number in front and a full stop behind."""
        for error in (ConnectError(errno.ECONNRESET, "x"), ConnectBindError(errno.EACCES, "x")):
            self.assertEqual(describe(error), os.strerror(error.osError))
        self.assertRegex(
            describe(ConnectBindError(errno.EMFILE, "x")), r"^Too many open files: this relay's limit is \d+ \("
        )
        self.assertEqual(describe(ConnectError(None, "odd")), str(ConnectError(None, "odd")))


class RetryAfter(SynchronousTestCase):
    def test_a_date_counts_from_the_main_servers_time(self) -> None:
        """Ours may be wrong."""
        dates = {"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT", "date": "Sun, 06 Nov 1994 08:48:07 GMT"}
        self.assertEqual(seconds_of(dates), 90)
        self.assertEqual(seconds_of(dates | {"date": "whenever"}), 0)
        for text in ("", "soon", "-1", "Sun, 06 Nov 1994 08:49:37"):
            self.assertIsNone(seconds_of({"retry-after": text}), text)
        self.assertEqual(seconds_of({"retry-after": " 120 "}), 120)


class Addresses(SynchronousTestCase):
    def test_forms(self) -> None:
        """As it was given in logs, and as host and port for the network."""
        for url, text, netloc in (
            ("wss://main.example/x?y=hunter2", "wss://main.example/x", "main.example:443"),
            (" https://main.example:443/ ", "https://main.example:443/", "main.example:443"),
            ("http://user:hunter2@main.example:8080", "http://main.example:8080", "main.example:8080"),
            ("ws://[::1]:3000", "ws://[::1]:3000", "[::1]:3000"),
            ("https://bücher.example", "https://bücher.example", "xn--bcher-kva.example:443"),
            ("https://Straße.example", "https://Straße.example", "xn--strae-oqa.example:443"),
            ("wss://my_host", "wss://my_host", "my_host:443"),
            ("ws://[FE80::1%25Eth0]:1", "ws://[FE80::1%25Eth0]:1", "[fe80::1%Eth0]:1"),  # as RFC 6874 has it in a URL
            ("ws://[fe80::1%eth0]:1", "ws://[fe80::1%eth0]:1", "[fe80::1%eth0]:1"),  # and as people write it
            ("ws://r4--a.bü:1", "ws://r4--a.bü:1", "r4--a.xn--b-eha:1"),
            ("ws://main/\x1b[2J", "ws://main/\N{REPLACEMENT CHARACTER}[2J", "main:80"),
        ):
            address = ServerAddress.of(url)
            self.assertEqual((str(address), address.netloc), (text, netloc))

    def test_names_that_idna_does_not_have(self) -> None:
        """Main server and proxy: the system looks them up."""
        for url, proxy, asked in (
            ("ws://my_host:3000", None, "my_host"),
            ("wss://end-.example:3000", None, "end-.example"),
            ("wss://main.example", "http://r4--a:3000", "r4--a"),
        ):
            names = ScriptedNames(["192.0.2.9"])
            reactor = NamedReactor(names)
            settings = UplinkSettings(server=url, proxy_id="p", read_api_key=lambda: Secret("k"), http_proxy=proxy)
            connecting = make_endpoint(reactor, ServerAddress.of(url), settings).connect(Factory.forProtocol(Protocol))
            self.assertEqual((names.asked, reactor.dialled()), ([asked], [("192.0.2.9", 3000)]))
            connecting.addErrback(lambda _: None)
            connecting.cancel()

    def test_a_name_server_that_says_nothing(self) -> None:
        """It is not the name that is wrong."""
        names = ScriptedNames([])
        self.patch(names, "resolveHostName", lambda receiver, name, *_, **__: receiver.resolutionBegan(None))
        reactor = NamedReactor(names)
        settings = UplinkSettings(server="ws://main", proxy_id="p", read_api_key=lambda: Secret("k"))
        connecting = make_endpoint(reactor, ServerAddress.of("ws://main"), settings).connect(
            Factory.forProtocol(Protocol)
        )
        reactor.advance(14.9)
        self.assertNoResult(connecting)
        reactor.advance(0.2)
        words = describe(self.failureResultOf(connecting, NoNameService).value)
        self.assertEqual(words, "its name could not be looked up within 15 s; look at the name service of this machine")

    def test_refused(self) -> None:
        for url in ("main.example", "ftp://h", "ws://", "ws://h:99999", "ws://[::1", "ws://" + "ü" * 80):
            error = self.assertRaises(ConfigError, ServerAddress.of, url, "--http-proxy")
            self.assertIn("--http-proxy", str(error))
