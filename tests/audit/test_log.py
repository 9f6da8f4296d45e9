"""
Tests of `relayd.audit.log`: what a running relay writes, and what becomes of commands while it cannot; docs/audit.rst.
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import formatEvent
from zope.interface.verify import verifyObject

from relayd.audit import log as audit_log
from relayd.audit import writer
from relayd.audit.chain import Chain
from relayd.audit.events import LONGEST
from relayd.audit.key import command_digest, read_key
from relayd.audit.lines import encode_line
from relayd.audit.log import AuditLog
from relayd.audit.refusals import BURST
from relayd.audit.seal import seal_file
from relayd.errors import ConfigError, CredentialMissing
from relayd.interfaces import IAudit
from relayd.wire.messages import Fetch, File, JumpHost, Secret
from relayd.wire.running import Become
from tests.support.auditing import AuditCase, edit, entries, faults, files, fill, settings, small_disk, state, write
from tests.support.dispatching import PASSWORD, Desk, command, result, watch_log

ROOT = Path(__file__).resolve().parents[2]
HOP = JumpHost(host="gate", port=2222, username="jump", password=Secret(PASSWORD))


class EventTests(AuditCase):
    """The lines."""

    async def test_interface(self) -> None:
        log = self.start()
        self.assertTrue(verifyObject(IAudit, log))
        await log.close()

    async def test_host_as_it_was_written(self) -> None:
        """Who looks for a host finds it by its one spelling; what was ordered stands beside it."""
        log = self.start()
        log.record_accepted(command("c1", host="10.1.2.3", written="0x0a010203"))
        await log.close()
        accepted = entries(self.path)[-1]
        self.assertEqual((accepted["host"], accepted["written"]), ("10.1.2.3", "0x0a010203"))

    async def test_a_command_from_acceptance_to_end(self) -> None:
        log = self.start()
        order = command("c1", via=(HOP,), env=(("TOKEN", "canary-env"),), stdin=b"canary-stdin", cwd="/canary-cwd")
        log.record_accepted(order)
        log.record_ended(order, "nonzero", result("c1", "canary-output", exit_code=3), 1.23456789)
        await log.close()
        self.assertEqual(faults(self.path, harmless=True), [])
        file, start, accepted, ended = entries(self.path)
        self.assertEqual((file["event"], start["event"]), ("file", "start"))
        who = {"server": "wss://main.example", "proxyId": "site-1"}
        what = {"commandId": "c1", "host": "web1", "port": 22, "user": "root"}
        digest = command_digest(read_key(str(self.path.parent / "state" / "audit-key"), make=False), "uptime")
        frame = ("seq", "time", "prev", "mac", "hash")
        self.assertEqual(
            {name: value for name, value in accepted.items() if name not in frame},
            who | what | {"event": "accepted", "via": ["jump@gate:2222"], "commandDigest": digest},
        )
        self.assertEqual(
            {name: value for name, value in ended.items() if name not in frame},
            who
            | what
            | {
                "event": "ended",
                "outcome": "nonzero",
                "exitCode": 3,
                "duration": 1.234568,
                "stdoutBytes": 13,
                "stderrBytes": 0,
            },
        )
        self.assertRegex(accepted["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
        self.assertNotIn("canary", self.path.read_text())

    async def test_a_refusal(self) -> None:
        log = self.start()
        log.record_refused(command("c1"), CredentialMissing(username="root", host="web1"))
        await log.close()
        refused = entries(self.path)[-1]
        self.assertEqual((refused["event"], refused["outcome"], refused["host"]), ("refused", "no-credential", "web1"))

    async def test_the_text_of_commands(self) -> None:
        log = self.start(commands="text")
        log.record_accepted(command(text="echo größe\n"))
        log.record_accepted(command(text="\N{GRINNING FACE}" * 100_000))
        await log.close()
        short, long = entries(self.path)[-2:]
        self.assertEqual(short["command"], "echo größe\n")
        self.assertNotIn("commandDigest", short)
        self.assertTrue(long["command"])
        self.assertEqual(set(long["command"]), {"\N{GRINNING FACE}"})
        key = read_key(str(self.path.parent / "state" / "audit-key"), make=False)
        self.assertEqual(long["commandDigest"], command_digest(key, "\N{GRINNING FACE}" * 100_000))

    async def test_which_main_server_ordered(self) -> None:
        """Where a relay has several; also one with a long URL."""
        log = self.start(server="wss://a.example")
        log.record_accepted(command())
        for origin in ("wss://b.example", "wss://" + "b" * 600):
            log.record_accepted(replace(command(), origin=origin))
        log.record_ended(replace(command(), origin="wss://b.example"), "ok", result(), 1.0)
        log.record_recovered("c2", "outcome-unknown", "wss://b.example")
        log.record_recovered("c3", "outcome-unknown")
        await log.close()
        servers = [entry["server"] for entry in entries(self.path) if "commandId" in entry]
        self.assertEqual([*servers[:2], servers[3]], ["wss://a.example", "wss://b.example", "wss://b.example"])
        self.assertEqual(servers[4:], ["wss://b.example", "wss://a.example"])
        self.assertLess(len(servers[2]), 330)

    async def test_nothing_of_commands(self) -> None:
        log = self.start(commands="none")
        log.record_accepted(command())
        await log.close()
        self.assertEqual({"command", "commandDigest"} & set(entries(self.path)[-1]), set())
        self.assertFalse((state(self.path) / "audit-key").exists())

    async def test_no_line_is_longer_than_4_kib(self) -> None:
        """Whatever a main server sends: each line tells the most that there is room for."""
        for letter in ("\N{GRINNING FACE}", "x", "\x01"):
            huge = letter * 6_000
            hops = tuple(JumpHost(host=huge, username=huge) for _ in range(8))
            for commands in ("text", "digest"):
                log = self.start(commands=commands, server="wss://" + huge, proxy_id=huge)
                order = replace(command(letter * 256, host=huge, written=huge, text=huge, via=hops), username=huge)
                log.record_accepted(order)
                for _ in range(BURST + 20):
                    log.record_refused(order, CredentialMissing(username="root", host="web1"))
                log.record_ended(order, "ok", result(), 1.0)
                log.record_recovered(letter * 256, "outcome-unknown")
                await log.close()
        longest = max(map(len, self.path.read_bytes().splitlines(keepends=True)))
        self.assertLessEqual(longest, LONGEST)
        self.assertEqual(LONGEST, 4096)
        self.assertEqual(faults(self.path), [])

    async def test_a_command_of_usual_length_is_told_as_a_whole(self) -> None:
        text = "x" * 2000
        log = self.start(commands="text")
        log.record_accepted(command(text=text, host="h" * 253, via=(HOP,)))
        await log.close()
        accepted = entries(self.path)[-1]
        self.assertEqual((accepted["command"], accepted["host"]), (text, "h" * 253))
        self.assertNotIn("commandDigest", accepted)

    async def test_long_names_that_begin_alike(self) -> None:
        log = self.start()
        log.record_accepted(command(host="h" * 1000 + "1"))
        log.record_accepted(command(host="h" * 1000 + "2"))
        await log.close()
        first, second = (entry["host"] for entry in entries(self.path)[-2:])
        self.assertNotEqual(first, second)
        self.assertRegex(first, "^h{200,}…#[0-9a-f]{16}$")

    async def test_all_that_is_pending_is_written_at_the_end(self) -> None:
        log = self.start(max_size=100_000)
        for number in range(5000):
            log.record_accepted(command(f"c{number}"))
        await log.close()
        paths = files(self.path)
        self.assertGreater(len(paths), 2)
        self.assertEqual(faults(*paths), [])
        found = {entry.get("commandId") for entry in entries(*paths)}
        self.assertEqual(found - {None}, {f"c{number}" for number in range(5000)})

    async def test_closed_while_it_writes(self) -> None:
        writes, go_on = threading.Event(), threading.Event()
        prepare = Chain.prepare

        def slow(chain: Chain) -> None:
            writes.set()
            go_on.wait(60)
            prepare(chain)

        self.patch(Chain, "prepare", slow)
        log = self.start()
        await self.until(writes.is_set)
        closed = log.close()
        go_on.set()
        await closed
        self.assertEqual(len(entries(self.path)), 2)

    async def test_closed_before_it_was_started(self) -> None:
        await AuditLog(reactor, settings(self.path)).close()
        self.assertEqual([*self.path.parent.glob("*.log*"), *state(self.path).iterdir()], [])

    def test_what_cannot_be_opened(self) -> None:
        away = self.path.parent / "none" / "audit.log"
        error = self.assertRaises(ConfigError, self.start, away, commands="none")
        self.assertIn("/audit.log cannot be used: No such file or directory; its directory has to be there", str(error))
        (state(self.path) / "audit-key").write_text("no key")
        error = self.assertRaises(ConfigError, self.start)
        self.assertIn("state/audit-key cannot be used: it does not hold a key of 64 hexadecimal digits", str(error))


class UnavailableTests(AuditCase):
    """While it cannot be written."""

    async def test_full_disk(self) -> None:
        """New commands are refused, those that run end as they should, and everything is written later, in order."""
        disk = small_disk(self)
        logged = watch_log(self)
        log = self.start(disk / "audit.log", commands="none")
        desk = Desk(audit=log)
        desk.order(command("c1"))
        await self.until(lambda: b"c1" in (disk / "audit.log").read_bytes())
        filler = fill(disk)
        for number in range(20):  # more than fits into what is left of the last page
            desk.order(command(f"x{number}", host="h" * 1000))
        await self.until(lambda: not log.available)
        desk.order(command("c2", extended=True))
        self.assertEqual(desk.acks[-1], ("c2", "audit-unavailable"))
        self.assertEqual(
            desk.link.sent[-1].details.error,
            {"code": "audit-unavailable", "phase": "queue", "executed": "no", "retriable": True},
        )
        await deferLater(reactor, 0.1)  # type: ignore[arg-type]  # it is tried again, and told of once
        desk.runner.runs[0].finish()
        self.assertEqual(desk.link.ids()[-1], "c1")
        filler.unlink()
        await self.until(lambda: log.available)
        desk.order(command("c3"))
        self.assertEqual(desk.acks[-1], ("c3", "ok"))
        await log.close()
        self.assertEqual(faults(disk / "audit.log", harmless=True), [])
        told = [(entry["event"], entry.get("commandId")) for entry in entries(disk / "audit.log")]
        self.assertEqual(told[-3:], [("refused", "c2"), ("ended", "c1"), ("accepted", "c3")])
        self.assertEqual(len(told), 2 + 1 + 20 + 3)
        lines = [line for line in map(formatEvent, logged) if line and "audit log" in line]
        self.assertEqual(len(lines), 2, lines)
        self.assertIn("cannot be written, so new commands are refused: No space left on device; make room", lines[0])
        self.assertIn("can be written again", lines[1])

    async def test_closed_while_the_disk_is_full(self) -> None:
        disk = small_disk(self)
        logged = watch_log(self)
        log = self.start(disk / "audit.log")
        await self.until((disk / "audit.log").exists)
        fill(disk)
        for _ in range(20):
            log.record_accepted(command(host="h" * 1000))
        await self.until(lambda: not log.available)
        log.record_accepted(command())
        await log.close()
        self.assertTrue([line for line in map(formatEvent, logged) if line and "is closed without its last" in line])

    async def test_what_is_too_much_to_keep_is_counted(self) -> None:
        self.patch(writer, "MAX_PENDING", 20 * 1024)
        self.patch(audit_log, "GATHER", 0.2)
        log = self.start()
        for number in range(15):
            log.record_accepted(command(f"a{number}"))
        self.assertFalse(log.available)
        for number in range(30):  # the last half is for these
            log.record_ended(command(f"e{number}"), "ok", result(), 1.0)
        await self.until(lambda: log.available)
        log.record_accepted(command("later"))
        await log.close()
        self.assertEqual(faults(self.path), [])
        found = [entry for entry in entries(self.path) if entry["event"] not in ("file", "start")]
        accepted = sum(entry["event"] == "accepted" for entry in found) - 1
        ended = sum(entry["event"] == "ended" for entry in found)
        self.assertEqual(accepted + ended + found[-2]["count"], 45)
        self.assertGreaterEqual(ended, 10)
        self.assertEqual([entry["event"] for entry in found[-2:]], ["lost", "accepted"])

    async def test_credentials_do_not_wait_with_an_event(self) -> None:
        log = AuditLog(reactor, settings(self.path))
        log.record_accepted(command(via=(HOP,), written="Web1"))
        log.record_ended(command(), "ok", result(stdout="canary-output"), 1.0)
        self.assertNotIn("ExecuteCommand", repr(log._writer._pending))
        self.assertNotIn("CommandResult", repr(log._writer._pending))
        self.assertNotIn("canary", repr(log._writer._pending))


class FindingTests(AuditCase):
    """What relayd's own log says of an audit log that somebody changed while it was stopped."""

    async def told(self) -> list[str]:
        logged = watch_log(self)
        await self.start().close()
        return [line for line in map(formatEvent, logged) if line and "audit log" in line]

    async def test_nothing(self) -> None:
        self.assertEqual(await self.told(), [])
        self.assertEqual(await self.told(), [])

    async def test_a_forged_line(self) -> None:
        await self.told()
        last = entries(self.path)[-1]
        edit(self.path, lambda lines: [*lines, encode_line(3, 1e9, "accepted", {}, last["hash"], b"k" * 32)[0]])
        [line] = await self.told()
        self.assertIn("has 1 lines after its line 2 that relayd did not write", line)
        self.assertEqual(await self.told(), [])

    async def test_lines_that_were_removed(self) -> None:
        await self.told()
        edit(self.path, lambda lines: lines[:1])
        [line] = await self.told()
        self.assertIn("ends at line 1: somebody removed 1 lines", line)

    async def test_the_seal_is_gone(self) -> None:
        await self.told()
        Path(seal_file(str(state(self.path)))).unlink()
        [line] = await self.told()
        self.assertIn("it cannot show who wrote the lines up to 2", line)


class DispatcherTests(AuditCase):
    """What the dispatcher tells."""

    async def test_every_way_of_a_command(self) -> None:
        log = self.start()
        desk = Desk(max_commands=1, max_queue=1, audit=log)
        desk.order(command("c1"))
        desk.order(command("c2"))
        desk.order(command("c3"))  # no room
        desk.order(command("c1"))  # joins
        desk.order(command("c1", text="another"))
        desk.dispatcher.cancel_received("c2")
        desk.clock.advance(2.0)
        desk.runner.runs[0].finish(exit_code=3)
        desk.dispatcher.drain(1.0)
        desk.order(command("c4"))
        await log.close()
        told = [(entry["event"], entry.get("commandId"), entry.get("outcome")) for entry in entries(self.path)[2:]]
        self.assertEqual(
            told,
            [
                ("accepted", "c1", None),
                ("accepted", "c2", None),
                ("refused", "c3", "overloaded"),
                ("refused", "c1", "duplicate-mismatch"),
                ("ended", "c2", "cancelled"),
                ("ended", "c1", "nonzero"),
                ("refused", "c4", "shutting-down"),
            ],
        )
        self.assertEqual(entries(self.path)[-2]["duration"], 2.0)
        self.assertNotIn(PASSWORD, self.path.read_text())


class DocumentTests(AuditCase):
    """docs/audit.rst against the code."""

    async def test_fields(self) -> None:
        """Its table has every field, and says on which events it is."""
        text = (ROOT / "docs" / "audit.rst").read_text("utf-8")
        documented = {
            name: set(re.findall(r"``(\w+)``", events)) or {"all"}
            for name, events in re.findall(r"   \* - ``(\w+)``\n     - (.*)\n     - \S", text)
        }
        for number, commands in enumerate(("digest", "text")):
            self.path.open("ab").write(b"x" * number)  # torn
            log = self.start(commands=commands)
            many = {
                "files": tuple(File(path=f"/{each}") for each in range(100)),
                "fetch": tuple(Fetch(path=f"/{'x' * 100}{each}") for each in range(100)),
            }
            order = command(via=(HOP,), written="Web1", become=Become())
            log.record_accepted(order)
            log.record_accepted(command(**many))
            log.record_refused(command(**many), CredentialMissing(username="root", host="web1"))
            for _ in range(BURST + 1):
                log.record_refused(
                    command(via=(HOP,), written="Web1", become=Become()),
                    CredentialMissing(username="root", host="web1"),
                )
            done = result()
            done = replace(done, details=replace(done.details, ran_as="root"))
            log.record_ended(command(written="Web1"), "ok", done, 1.0)
            log._writer._lost = 1
            await log.close()
        lines = [json.loads(line) for line in self.path.read_bytes().splitlines() if line != b"x"]
        other = self.path.parent / "other.log"
        write(other, 20, max_size=1000, keep=2)
        lines += entries(*files(other))
        events = {line["event"] for line in lines}
        found: dict[str, set[str]] = {}
        for line in lines:
            for name in line:
                found.setdefault(name, set()).add(line["event"])
        for name in ("torn", "foreign"):
            found[name] |= {"file"}  # when there is nothing else in it
        self.assertEqual(documented, {name: {"all"} if on == events else on for name, on in found.items()})
