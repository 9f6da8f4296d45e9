"""
Tests of `relayd.commands.streaming` behind its dispatcher: what is sent of the output of a command that still runs.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relayd.commands.dispatcher import Dispatcher, Limits
from relayd.commands.stats import Stats
from relayd.commands.streaming import MAX_PIECE, PATIENCE, Streams
from relayd.interfaces import Blame, ILink, IOutputSink
from relayd.journal.memory import MemoryJournal
from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.policy.rules import Policy
from relayd.wire.fields import MAX_COMMAND_ID
from relayd.wire.messages import CommandOutput, CommandResult, ExecuteCommand
from tests.support.dispatching import (
    Desk,
    FunctionRunner,
    HeldRunner,
    RecordingLink,
    Run,
    SlowJournal,
    command,
    result,
    watch_log,
)


def joined(outputs: list[CommandOutput], stream: str = "stdout") -> str:
    return "".join(output.data for output in outputs if output.stream == stream)


class StreamingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = Desk()
        self.link = self.desk.link
        self.stats = self.desk.dispatcher.stats

    def run_one(self, **fields: Any) -> Run:
        self.desk.order(command("c1", stream=True, **fields))
        return self.desk.runner.runs[-1]

    def pieces(self) -> list[tuple[int, str]]:
        return [(output.offset, output.data) for output in self.link.outputs()]


class WayOfOutputTests(StreamingCase):
    """From the runner to the link."""

    def test_interfaces(self) -> None:
        self.assertTrue(verifyObject(IOutputSink, self.run_one().output))
        self.assertTrue(verifyObject(ILink, self.link))

    def test_only_where_it_was_asked_for(self) -> None:
        self.desk.order(command("c1"))
        self.assertIsNone(self.desk.runner.runs[0].output)

    def test_output_comes_before_the_result(self) -> None:
        run = self.run_one()
        self.assertIsNone(run.write(b"one "))
        run.write(b"oops", stream="stderr")
        run.write(b"two", 4)
        self.assertEqual(self.stats.streamed, 3)
        run.finish("one two")
        self.assertEqual(
            self.link.events,
            [
                CommandOutput(command_id="c1", stream="stdout", offset=0, data="one "),
                CommandOutput(command_id="c1", stream="stderr", offset=0, data="oops"),
                CommandOutput(command_id="c1", stream="stdout", offset=4, data="two"),
                result("c1", "one two"),
            ],
        )

    def test_output_comes_before_the_result_although_the_journal_is_slow(self) -> None:
        journal = SlowJournal()
        self.desk = Desk(journal=journal)
        self.desk.order(command("c1", stream=True))
        journal.record()
        journal.record()
        self.desk.runner.runs[0].write(b"x")
        self.desk.runner.runs[0].finish()
        journal.record()
        self.assertEqual([type(event) for event in self.desk.link.events], [CommandOutput, CommandResult])

    def test_nothing_after_the_end(self) -> None:
        run = self.run_one()
        run.finish()
        self.assertIsNone(run.write(b"late"))
        self.assertEqual(self.link.outputs(), [])

    def test_output_that_is_written_as_the_command_starts(self) -> None:
        def run(_: ExecuteCommand, output: IOutputSink | None) -> Deferred[CommandResult]:
            assert output is not None
            output.write("stdout", 0, b"quick")
            return succeed(result("c1"))

        limits = Limits(max_commands=1, max_queue=1, default_timeout=60.0, max_timeout=60.0)
        dispatcher, link = Dispatcher(Clock(), FunctionRunner(run), MemoryJournal(), limits), RecordingLink()
        dispatcher.link_ready(link)
        dispatcher.command_received(command("c1", stream=True), lambda _: None)
        self.assertEqual([type(event) for event in link.events], [CommandOutput, CommandResult])


class EncodingTests(StreamingCase):
    """Bytes to texts, and to pieces that a frame can carry."""

    def test_character_that_is_split(self) -> None:
        run = self.run_one()
        data = "a€b😀".encode()
        for position in range(len(data)):
            run.write(data[position : position + 1], position)
        self.assertEqual(self.pieces(), [(0, "a"), (1, "€"), (4, "b"), (5, "😀")])

    def test_streams_do_not_mix(self) -> None:
        run = self.run_one()
        run.write(b"\xe2\x82")
        run.write(b"x", stream="stderr")
        run.write(b"\xac", 2)
        self.assertEqual((joined(self.link.outputs()), joined(self.link.outputs(), "stderr")), ("€", "x"))

    def test_what_is_not_utf_8(self) -> None:
        run = self.run_one()
        run.write(b"a\xffb\xe2\x82")
        run.write(b"c\xe2", 5)
        run.finish()
        self.assertEqual(self.pieces(), [(0, "a\ufffdb"), (3, "\ufffdc"), (6, "\ufffd")])

    def test_base64(self) -> None:
        run = self.run_one(encoding="base64")
        run.write(b"\xff\xfe")
        run.write(b"\0", 2)
        run.finish()
        self.assertEqual(self.pieces(), [(0, "//4="), (2, "AA==")])
        self.assertEqual({output.encoding for output in self.link.outputs()}, {"base64"})

    @given(st.binary(max_size=300), st.lists(st.integers(1, 20), max_size=30), st.booleans())
    def test_any_output_in_any_pieces(self, data: bytes, sizes: list[int], base64: bool) -> None:
        link, streams = RecordingLink(), Streams(Clock(), Stats())
        streams.link_ready(link)
        sink = streams.open_stream(command("c1", stream=True, encoding="base64" if base64 else "utf-8"))
        position = 0
        for size in [*sizes, len(data)]:
            sink.write("stdout", position, data[position : position + size])
            position = min(len(data), position + size)
        sink.close()
        if base64:
            self.assertEqual(b"".join(b64decode(output.data) for output in link.outputs()), data)
        else:
            self.assertEqual(joined(link.outputs()), data.decode("utf-8", "replace"))
        for output in link.outputs():
            if "\ufffd" not in output.data:
                part = b64decode(output.data) if base64 else output.data.encode()
                self.assertEqual(data[output.offset : output.offset + len(part)], part)

    def test_character_sets(self) -> None:
        """That of the command, or of the site; characters that are split stay whole."""
        for encoding, name in (("gbk", "gbk"), (None, "big5"), ("utf-16", "utf-16"), ("base64", "")):
            link, streams = RecordingLink(), Streams(Clock(), Stats(), "big5")
            streams.link_ready(link)
            sink = streams.open_stream(command("c1", stream=True, encoding=encoding))
            data = "中a文".encode(name or "gbk")
            for position in range(len(data)):
                sink.write("stdout", position, data[position : position + 1])
            sink.close()
            if encoding == "base64":
                self.assertEqual(b"".join(b64decode(output.data) for output in link.outputs()), data)
                continue
            self.assertEqual(joined(link.outputs()), "中a文")
            mark = 2 if name == "utf-16" else 0
            for output in link.outputs()[1:]:
                before = joined(link.outputs()).index(output.data)
                part = "中a文"[:before].encode("utf-16-le" if mark else name)
                self.assertEqual(output.offset, mark + len(part))
            self.assertEqual({output.encoding for output in link.outputs()}, {None})

    def test_the_site_changes_its_mind(self) -> None:
        hosts = HostTable((HostRule(hosts=("*",), settings=HostSettings(output_encoding="big5")),))
        changes: tuple[tuple[dict[str, Any], str], ...] = (
            ({"output_encoding": "gbk"}, "gbk"),
            ({"hosts": hosts}, "big5"),
        )
        for said, charset in changes:
            limits = msgspec.structs.replace(self.desk.dispatcher.limits, **said)
            self.desk.dispatcher.configure(limits, Policy())
            sink = self.desk.dispatcher._streams.open_stream(command("c1", stream=True))
            self.desk.dispatcher._streams.link_ready(link := RecordingLink())
            sink.write("stdout", 0, "中".encode(charset))
            self.assertEqual(joined(link.outputs()), "中")

    def test_pieces_fit_the_link(self) -> None:
        """In the worst of cases: the smallest limit, the longest id, and bytes that take the most room."""
        for encoding in ("utf-8", "base64", "gbk", "iso8859-1", "cp037", "utf-16", "big5hkscs"):
            for data in (b"\x01" * 5000, b"\xff" * 5000, "😀".encode() * 2000, b'"\\' * 3000, b"x" * 9000):
                link, streams = RecordingLink(max_payload=4096), Streams(Clock(), Stats())
                streams.link_ready(link)
                sink = streams.open_stream(command("😀" * MAX_COMMAND_ID, stream=True, encoding=encoding))
                sink.write("stdout", 0, data)
                offsets = [output.offset for output in link.outputs()]
                self.assertEqual(offsets, sorted(set(offsets)))
                for output in link.outputs():
                    frame = msgspec.json.encode(["command_output", output.to_wire()])
                    self.assertLessEqual(len(frame) + len("42/proxy,"), 4096)
                self.assertGreater(len(link.outputs()), 1)

    def test_links_that_take_next_to_nothing(self) -> None:
        """Their output is passed over, and the result has it."""
        for limit in (0, 100, 640, 650):
            link, streams = RecordingLink(max_payload=limit), Streams(Clock(), Stats())
            streams.link_ready(link)
            sink = streams.open_stream(command("c1", stream=True))
            sink.write("stdout", 0, b"x" * 20)
            sink.close()
            self.assertEqual(bool(link.outputs()), limit == 650, limit)
            self.assertEqual(streams.stats.passed_over, 0 if limit == 650 else 20)
            for output in link.outputs():
                self.assertLessEqual(len(msgspec.json.encode(["command_output", output.to_wire()])), limit)

    def test_pieces_are_of_a_sound_size_where_the_link_has_no_limit(self) -> None:
        link = self.link = self.desk.connect(RecordingLink(max_payload=2**62))
        self.run_one().write(b"x" * (3 * MAX_PIECE + 1))
        self.assertEqual([len(output.data) for output in link.outputs()], [MAX_PIECE] * 3 + [1])


class LinkTests(StreamingCase):
    """While links come and go, and while they are full."""

    def test_without_a_link_output_is_passed_over(self) -> None:
        run = self.run_one()
        run.write(b"one")
        self.desk.disconnect()
        self.assertIsNone(run.write(b"two", 3))
        self.assertEqual((self.stats.streamed, self.stats.passed_over), (1, 3))
        again = self.desk.connect()
        run.write(b"three", 6)
        self.assertEqual([(output.offset, output.data) for output in again.outputs()], [(6, "three")])
        self.assertEqual(self.pieces(), [(0, "one")])
        run.finish("one two three")
        self.assertEqual(again.sent, [result("c1", "one two three")])

    def test_nothing_is_sent_again(self) -> None:
        run = self.run_one()
        run.write(b"one")
        run.finish()
        self.desk.disconnect()
        self.assertEqual(self.desk.connect().events, [result("c1")])

    def test_character_of_which_a_part_was_passed_over(self) -> None:
        run = self.run_one()
        self.desk.disconnect()
        run.write(b"ab\xe2\x82")
        again = self.desk.connect()
        run.write(b"\xac!", 4)
        self.assertEqual([(output.offset, output.data) for output in again.outputs()], [(2, "€!")])

    def test_gap_that_the_runner_made(self) -> None:
        run = self.run_one()
        run.write(b"a\xe2")
        run.write(b"b", 10)
        self.assertEqual(self.pieces(), [(0, "a"), (10, "b")])

    def test_newer_link_takes_over_and_the_loss_of_the_older_changes_nothing(self) -> None:
        run = self.run_one()
        newer = self.desk.connect()
        self.desk.dispatcher.link_lost(self.link, Blame.POSSIBLE)
        run.write(b"x")
        self.assertEqual((len(newer.outputs()), self.link.outputs()), (1, []))

    def test_full_link(self) -> None:
        run = self.run_one()
        self.link.flow.pauseProducing()
        waiting = run.write(b"x")
        assert waiting is not None
        self.assertEqual(len(self.link.outputs()), 1, "the piece itself is sent, or there would be a gap")
        self.assertNoResult(waiting)
        self.link.flow.resumeProducing()
        self.assertIsNone(self.successResultOf(waiting))
        self.assertIsNone(run.write(b"y", 1))
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_full_link_that_is_lost(self) -> None:
        run = self.run_one()
        self.link.flow.pauseProducing()
        waiting = run.write(b"x")
        assert waiting is not None
        self.desk.disconnect()
        self.assertIsNone(self.successResultOf(waiting))
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_those_that_wait_go_one_after_the_other(self) -> None:
        """Whoever is first may fill the link again; the others then wait on."""
        runs = []
        for number in range(3):
            self.desk.order(command(f"c{number}", host=f"h{number}", stream=True))
            runs.append(self.desk.runner.runs[-1])
        self.link.flow.pauseProducing()
        waits: list[Any] = [run.write(b"x") for run in runs]
        waits[0].addCallback(lambda _: self.link.flow.pauseProducing())
        self.link.flow.resumeProducing()
        self.assertEqual([waiting.called for waiting in waits], [True, False, False])
        self.link.flow.resumeProducing()
        self.assertEqual([waiting.called for waiting in waits], [True, True, True])

    def test_stuck_link_does_not_hold_up_the_command(self) -> None:
        logged = watch_log(self)
        run = self.run_one()
        self.link.flow.pauseProducing()
        waiting = run.write(b"one")
        assert waiting is not None
        self.desk.clock.advance(PATIENCE - 0.1)
        self.assertNoResult(waiting)
        self.desk.clock.advance(0.2)
        self.assertIsNone(self.successResultOf(waiting))
        [line] = [formatEvent(event) for event in logged if event["log_level"] is LogLevel.warn]
        self.assertIn("output of c1 is passed over", line)
        self.assertIsNone(run.write(b"two\xe2", 3), "nobody waits for it again")
        self.assertEqual((self.pieces(), self.stats.passed_over), ([(0, "one")], 4))
        self.link.flow.resumeProducing()
        run.write(b"\x82\xac", 7)
        self.assertEqual(self.pieces()[1:], [(6, "€")])
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_stuck_link_is_of_no_concern_to_the_next(self) -> None:
        run = self.run_one()
        self.link.flow.pauseProducing()
        run.write(b"one")
        self.desk.clock.advance(PATIENCE)
        again = self.desk.connect()
        run.write(b"two", 3)
        self.assertEqual([output.data for output in again.outputs()], ["two"])

    def test_rest_is_not_sent_on_a_stuck_link(self) -> None:
        run = self.run_one()
        self.link.flow.pauseProducing()
        run.write(b"one")
        self.desk.clock.advance(PATIENCE)
        run.write(b"\xe2", 3)
        run.finish()
        self.assertEqual(self.pieces(), [(0, "one")])

    def test_end_while_the_link_is_full(self) -> None:
        run = self.run_one()
        self.link.flow.pauseProducing()
        waits = [run.write(b"x"), run.write(b"y", stream="stderr")]
        run.finish()
        for waiting in waits:
            assert waiting is not None
            self.assertIsNone(self.successResultOf(waiting))
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])
        self.assertEqual(self.link.sent, [], "it waits its turn, in the journal")
        self.link.flow.resumeProducing()
        self.assertEqual(self.link.sent, [result("c1")])

    def test_whoever_waits_may_give_up(self) -> None:
        run = self.run_one()
        self.link.flow.pauseProducing()
        waiting = run.write(b"x")
        assert waiting is not None
        waiting.cancel()
        self.assertIsNone(self.successResultOf(waiting))
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])
        self.link.flow.resumeProducing()
        run.write(b"y", 1)
        self.assertEqual(len(self.link.outputs()), 2)

    def test_cancelled_command(self) -> None:
        """What it wrote at last still comes before its result."""
        desk = Desk(runner=HeldRunner(lingers=True))
        desk.order(command("c1", stream=True))
        desk.dispatcher.cancel_received("c1")
        desk.runner.runs[0].write(b"last words")
        desk.runner.runs[0].finish()
        self.assertEqual([type(event) for event in desk.link.events], [CommandOutput, CommandResult])
