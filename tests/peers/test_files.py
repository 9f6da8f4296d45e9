"""
Files before and after commands on real servers: with SFTP, without it, as another user, and when something goes wrong.
"""

from __future__ import annotations

import os
from base64 import b64decode
from collections import Counter
from functools import partial
from hashlib import sha256
from pathlib import Path
from pwd import getpwnam
from typing import Any

from twisted.conch.ssh.filetransfer import FXP_WRITE
from twisted.internet.defer import Deferred

from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.ssh.channels.session import Command
from relayd.ssh.errors import FileNotWritten
from relayd.ssh.files import transfers
from relayd.ssh.files.orders import FileOrders, FileToRead, FileToWrite
from relayd.ssh.files.packets import Answer
from relayd.ssh.files.sftp import SFTPChannel
from relayd.ssh.target import Target
from relayd.wire.messages import Become, CommandResult, Fetch, Fetched, File, Pty
from tests.peers.test_become import FREE, OTHER, allow_sudo
from tests.peers.test_ssh_servers import DropbearCase
from tests.support.account import USER
from tests.support.ssh import DEADLINE, marked_sleep, processes
from tests.support.ssh_peers import started
from tests.test_ssh_runner import RunnerTestCase

SFTP = "Subsystem sftp internal-sftp"
#: What no text, line or terminal takes as it is.
BINARY = bytes(range(256)) * 700 + b"\r\n\\0101%s\n\n"


def bytes_of(fetched: Fetched) -> bytes:
    """The content of one."""
    assert fetched.content is not None, fetched.error
    return b64decode(fetched.content["base64"])


class FilesTestCase(RunnerTestCase):
    """
    Runs commands with files.

    :ivar place: a directory of the account that logs in.
    """

    config: tuple[str, ...] = (SFTP,)
    user = USER

    def setUp(self) -> None:
        super().setUp()
        self.place = self.make_place(self.user)

    def make_place(self, user: str) -> Path:
        """A directory of *user*."""
        place = self.directory / f"place-{user}"
        place.mkdir()
        self.directory.chmod(0o755)
        os.chown(place, getpwnam(user).pw_uid, getpwnam(user).pw_gid)
        return place

    async def begin(self, *more: str, **settings: Any) -> None:
        """Start the server and the runner."""
        self.server = await self.start_server(*self.config, *more, user=self.user)
        self.runner = self.make_runner(**settings)

    async def run_with(self, text: str, *files: File, fetch: tuple[Fetch, ...] = (), **more: Any) -> CommandResult:
        """Have a command run with files."""
        return await self.order(self.runner, self.server, text, files=files, fetch=fetch, **{"extended": True} | more)

    def assert_clean(self, *left: str) -> None:
        """Nothing but these is in the place."""
        self.assertEqual(sorted(os.listdir(self.place)), sorted(left))

    def assert_not_run(self, error: Any, code: str) -> None:
        """It was certainly not run."""
        self.assertEqual((error.code, error.executed), (code, "no"), str(error))


class WaysMixin:
    """The same by each way; the host decides which one it is."""

    async def test_written_before_and_read_after(self: Any) -> None:
        await self.begin()
        path, other = self.place / "it's a \\file $HOME é", self.place / "b"
        done = await self.run_with(
            f"cat {self.place}/b; stat -c '%a %U' {self.place}/*; echo new > {self.place}/new",
            File(path=str(path), content=BINARY, mode=0o640, sha256=sha256(BINARY).hexdigest()),
            File(path=str(other), content="grün\n".encode(), content_is_text=True),
            fetch=(Fetch(path=str(path)), Fetch(path=f"{self.place}/new"), Fetch(path=f"{self.place}/none")),
        )
        self.assertEqual(done.stdout.split("\n"), ["grün", f"600 {self.user}", f"640 {self.user}"], done.stderr)
        self.assertEqual(path.read_bytes(), BINARY)
        first, new, none = done.details.fetched
        self.assertEqual((bytes_of(first), first.size, first.sha256, first.truncated, first.error),
                         (BINARY, len(BINARY), sha256(BINARY).hexdigest(), False, None))  # fmt: skip
        self.assertEqual(bytes_of(new), b"new\n")
        self.assertEqual((none.path, none.content), (f"{self.place}/none", None))
        self.assertIn("o such file", none.error)
        self.assertLessEqual({"files", "fetch", "run"}, set(done.details.timings))
        self.assert_clean(path.name, "b", "new")

    async def test_a_file_is_replaced_and_a_link_is_not_followed(self: Any) -> None:
        await self.begin()
        old, target, link = self.place / "old", self.place / "target", self.place / "link"
        old.write_text("old")
        old.chmod(0o777)
        target.write_text("kept")
        link.symlink_to(target)
        done = await self.run_with(
            f"cat {old} {link} {target}", *(File(path=str(path), content=b"new,") for path in (old, link))
        )
        self.assertEqual(done.stdout, "new,new,kept", done.stderr)
        self.assertEqual((old.stat().st_mode & 0o777, link.is_symlink()), (0o600, False))
        self.assert_clean("old", "target", "link")

    async def test_home_and_an_empty_file(self: Any) -> None:
        await self.begin()
        name = f".relayd-test-{self.place.parent.name}"
        home = Path(getpwnam(self.user).pw_dir, name)
        self.addCleanup(home.unlink, missing_ok=True)
        done = await self.run_with(f"stat -c %s {home}", File(path=f"~/{name}"), fetch=(Fetch(path=f"~/{name}"),))
        self.assertEqual((done.stdout, bytes_of(done.details.fetched[0])), ("0", b""), done.stderr)

    async def test_what_cannot_be_written(self: Any) -> None:
        await self.begin()
        (self.place / "directory").mkdir()
        os.mkfifo(self.place / "fifo")
        for path, words in (
            (f"{self.place}/no/such", "o"),  # each in words of its own
            ("/etc/relayd-not-here", "ermission denied"),
            (f"{self.place}/directory", "no regular file"),
            (f"{self.place}/fifo", "no regular file"),
        ):
            good = File(path=f"{self.place}/good", content=b"x" * 100_000)
            try:
                await self.run_with(f"touch {self.place}/ran", good, File(path=path, content=b"x"))
            except Exception as error:
                self.assert_not_run(error, "file-not-written")
                self.assertIn(words, str(error))
                self.assertIn(path, str(error))
            else:
                self.fail(f"{path} was written")
            self.assert_clean("directory", "fifo")

    async def test_what_cannot_be_read_never_makes_the_command_fail(self: Any) -> None:
        await self.begin()
        os.mkfifo(self.place / "fifo")
        (self.place / "secret").write_text("x")
        paths = (f"{self.place}/fifo", str(self.place), "/dev/null", "/etc/shadow", f"{self.place}/n/o")
        done = await self.run_with("echo out; exit 3", fetch=tuple(Fetch(path=path) for path in paths))
        self.assertEqual((done.stdout, done.exit_code, done.details.error), ("out", 3, None))
        errors = [each.error for each in done.details.fetched]
        self.assertEqual([each.content for each in done.details.fetched], [None] * 5)
        for error in errors[:3]:
            self.assertIn("no regular file", error)
        self.assertIn("ermission denied", errors[3])
        self.assertIn("o such file", errors[4])

    async def test_bounds(self: Any) -> None:
        await self.begin(max_output=3000)
        big = self.place / "big"
        big.write_bytes(BINARY)
        done = await self.run_with(
            "true", fetch=(Fetch(path=str(big), max_bytes=1000), Fetch(path=str(big)), Fetch(path="/proc/self/maps"))
        )
        first, second, third = done.details.fetched
        self.assertEqual((bytes_of(first), first.size, first.sha256), (BINARY[:1000], len(BINARY), None))
        self.assertEqual((bytes_of(second), second.truncated), (BINARY[:2000], True))
        self.assertEqual((bytes_of(third), third.truncated), (b"", True))
        exact = self.place / "exact"
        exact.write_bytes(BINARY[:1000])
        done = await self.run_with("true", fetch=(Fetch(path=str(exact), max_bytes=1000), Fetch(path="/proc/version")))
        exactly, proc = done.details.fetched
        self.assertEqual((bytes_of(exactly), exactly.truncated), (BINARY[:1000], False))
        self.assertEqual(bytes_of(proc), Path("/proc/version").read_bytes())

    async def test_one_session_at_a_time(self: Any) -> None:
        await self.begin("MaxSessions 1", max_connections=1)
        path = f"{self.place}/x"
        for _ in range(3):
            done = await self.run_with(f"cat {path}", File(path=path, content=b"in"), fetch=(Fetch(path=path),))
            self.assertEqual((done.stdout, bytes_of(done.details.fetched[0])), ("in", b"in"))
        counts = self.runner.client.counts()
        self.assertEqual((counts.connections, counts.sessions), (1, 0), counts)

    async def test_fetched_without_extended(self: Any) -> None:
        await self.begin()
        done = await self.run_with("true", fetch=(Fetch(path="/proc/version"),), extended=False)
        self.assertEqual(set(done.to_wire()["result"]), {"stdout", "stderr", "exitCode", "fetched"})

    async def test_killed_while_files_are_written(self: Any) -> None:
        """Cancelled, and timed out: nothing is left, and nothing has run."""
        await self.begin()
        await self.run_with("true", File(path=f"{self.place}/first"))
        self.hold()
        for way in ("cancel", "timeout"):
            files = File(path=f"{self.place}/goal", content=b"x" * 3_000_000)
            running = self.order(
                self.runner,
                self.server,
                f"touch {self.place}/ran",
                files=(files,),
                timeout=60 if way == "cancel" else 4,
            )
            await self.until(lambda: any(".relayd-" in each for each in os.listdir(self.place)), "it has begun")
            if way == "cancel":
                running.cancel()
            error = (await self.failure_of(running)).value
            self.assert_not_run(error, {"cancel": "cancelled"}.get(way, way))
            await self.until(lambda: os.listdir(self.place) == ["first"], f"nothing is left: {way}")

    async def test_the_connection_is_lost_while_files_are_written(self: Any) -> None:
        await self.begin()
        await self.run_with("true", File(path=f"{self.place}/first"))
        self.hold()
        running = self.order(
            self.runner,
            self.server,
            f"touch {self.place}/ran",
            files=(File(path=f"{self.place}/goal", content=b"x" * 3_000_000),),
        )
        await self.until(lambda: any(".relayd-" in each for each in os.listdir(self.place)), "it has begun")
        pool = self.runner.client._pool
        for connection in list(pool._connections.members):
            connection.transport.abort()
        self.assert_not_run((await self.failure_of(running)).value, "connection-lost")
        await self.until(lambda: os.listdir(self.place) == ["first"], "nothing is left")

    async def failure_of(self: Any, running: Any) -> Any:
        """What it failed with."""
        caught: list[Any] = []
        running.addErrback(caught.append)
        await self.until(lambda: caught, "it fails")
        return caught[0]

    def hold(self: Any) -> None:
        """From now on, what is written does not come to its end."""
        raise NotImplementedError


class SFTPTests(WaysMixin, FilesTestCase):
    """On a server with SFTP."""

    def hold(self) -> None:
        real, asked = SFTPChannel.ask, Counter[SFTPChannel]()

        def ask(channel: SFTPChannel, kind: int, *fields: bytes) -> Deferred[Answer]:
            asked[channel] += kind == FXP_WRITE
            if kind != FXP_WRITE or asked[channel] < 20:
                return real(channel, kind, *fields)
            answer = channel._waiting[-asked[channel]] = Deferred()
            return answer

        self.patch(SFTPChannel, "ask", ask)

    async def test_it_is_sftp(self) -> None:
        self.patch(transfers, "WRITER", b"false")
        self.patch(transfers, "READER", b"false")
        await self.begin()
        path = f"{self.place}/x"
        done = await self.run_with("true", File(path=path, content=b"in"), fetch=(Fetch(path=path),))
        self.assertEqual(bytes_of(done.details.fetched[0]), b"in")

    async def test_without_a_shell(self) -> None:
        table = HostTable((HostRule(hosts=("*",), settings=HostSettings(shell="none")),))
        await self.begin(hosts=table)
        path = f"{self.place}/x"
        done = await self.run_with(f"cat {path}", File(path=path, content=b"in"), fetch=(Fetch(path=path),))
        self.assertEqual((done.stdout, bytes_of(done.details.fetched[0])), ("in", b"in"))

    async def test_a_server_that_renames_nothing(self) -> None:
        """The old file stays."""
        self.config = (f"{SFTP} -P rename,posix-rename",)
        await self.begin()
        goal = self.place / "goal"
        goal.write_text("old")
        with self.assertRaises(Exception) as caught:
            await self.run_with("true", File(path=str(goal), content=b"new"))
        self.assert_not_run(caught.exception, "file-not-written")
        self.assertEqual(goal.read_text(), "old")
        self.assert_clean("goal")

    async def test_a_server_without_posix_rename(self) -> None:
        self.config = (f"{SFTP} -P posix-rename",)
        await self.begin()
        goal = self.place / "goal"
        goal.write_text("old")
        done = await self.run_with(f"cat {goal}", File(path=str(goal), content=b"new"))
        self.assertEqual((done.stdout, done.stderr), ("new", ""))
        self.assert_clean("goal")

    async def test_a_forced_command_runs_once_at_most(self) -> None:
        ran = self.place / "ran"
        await self.begin(f"ForceCommand echo ran >> {ran}; echo forced")
        with self.assertRaises(Exception) as caught:
            await self.run_with("true", fetch=(Fetch(path="/etc/passwd"),))
        self.assert_not_run(caught.exception, "files-unsupported")
        self.assertEqual(ran.read_text().split(), ["ran"])


class ShellTests(WaysMixin, FilesTestCase):
    """On a server without SFTP."""

    config = ()

    def hold(self) -> None:
        real = transfers.writer_lines
        self.patch(transfers, "writer_lines", lambda *what: real(*what)[:-10])
        self.patch(transfers, "Command", partial(Command, stdin_open=True))

    async def test_without_a_shell(self) -> None:
        table = HostTable((HostRule(hosts=("*",), settings=HostSettings(shell="none")),))
        await self.begin(hosts=table)
        for order in ({"files": (File(path=f"{self.place}/x"),)}, {"fetch": (Fetch(path="/etc/passwd"),)}):
            with self.assertRaises(Exception) as caught:
                await self.order(self.runner, self.server, f"touch {self.place}/ran", **order)
            self.assert_not_run(caught.exception, "files-unsupported")
            self.assert_clean()

    async def test_that_there_is_none_is_remembered(self) -> None:
        await self.begin()
        await self.run_with("true", File(path=f"{self.place}/x"))
        asked: list[Any] = []
        self.patch(transfers.SFTPTransfer, "__init__", lambda *_: asked.append(1))
        done = await self.run_with("true", File(path=f"{self.place}/x"), fetch=(Fetch(path=f"{self.place}/x"),))
        self.assertEqual((bytes_of(done.details.fetched[0]), asked), (b"", []))

    async def test_wrong_checksum_of_what_arrived(self) -> None:
        await self.begin()
        file = File(path=f"{self.place}/x", content=b"in", sha256=sha256(b"other").hexdigest())
        with self.assertRaises(Exception) as caught:
            await self.run_with("true", file)
        self.assert_not_run(caught.exception, "file-not-written")
        self.assertIn("SHA-256", str(caught.exception))
        self.assert_clean()


class BecomeTests(FilesTestCase):
    """As another user: through that user's shell, though the server has SFTP."""

    user = FREE

    async def test_files_are_those_of_the_other_user(self) -> None:
        allow_sudo()
        await self.begin()
        self.place = self.make_place(OTHER)
        self.place.chmod(0o700)
        path = f"{self.place}/x"
        for more in ({}, {"pty": Pty()}):
            done = await self.run_with(
                f"stat -c %U {path}",
                File(path=path, content=BINARY, sha256=sha256(BINARY).hexdigest()),
                fetch=(Fetch(path=path),),
                become=Become(user=OTHER),
                **more,
            )
            self.assertEqual((done.stdout.strip(), bytes_of(done.details.fetched[0])), (OTHER, BINARY), done.stderr)
        self.assert_clean("x")

    async def test_a_timed_out_command_has_no_files(self) -> None:
        self.user = USER
        self.place = self.make_place(USER)
        await self.begin()
        marker, sleep = marked_sleep()
        done = await self.run_with(sleep, fetch=(Fetch(path="/etc/passwd"),), timeout=3)
        self.assertEqual(done.details.error["code"], "timeout")
        self.assertEqual(done.details.fetched[0].content, None)
        await self.until(lambda: not processes(marker), "it is gone")


class OtherServersTests(DropbearCase):
    """Servers that are not OpenSSH: with SFTP servers of their own, or without SFTP."""

    async def check_on(self, target: Target, place: str, *, sftp: bool = False, **settings: Any) -> None:
        """
        Write, run and read; twice, so that the file is replaced.

        :param sftp: whether nothing but SFTP is to do it.
        """
        client = self.make_client(host_keys="ignore", **settings)
        path = f"{place}/{target.port}"
        self.addCleanup(Path(path).unlink, missing_ok=True)
        orders = FileOrders(
            writes=(FileToWrite(path=path.encode(), name=path, content=BINARY, mode=0o644),),
            reads=(FileToRead(path=path.encode(), name=path, most=10**6),),
            posix=not sftp,
        )
        text = f"wc -c <{path}; stat -c %a {path}".encode()
        for _ in range(2):
            done = await client.run(target, text, self.reactor.seconds() + DEADLINE, files=orders)
            said = (done.error, done.stdout.text().split())
            self.assertEqual(said, (None, [str(len(BINARY)), "644"]), done.stderr.text())
            self.assertEqual((done.read[0].error, done.read[0].content), (None, BINARY))

    async def test_dropbear(self) -> None:
        account, port = await self.start_dropbear()
        await self.check_on(self.target(account, port=port, password=account.password), "/tmp")

    async def check_peer(self, name: str, *, sftp: bool = False) -> None:
        peer = started(name)
        await self.check_on(peer.target(), "/tmp", sftp=sftp, **peer.settings)

    async def test_asyncssh(self) -> None:
        await self.check_peer("asyncssh", sftp=True)

    async def test_conch(self) -> None:
        """Its SFTP server takes a home directory for something else than it is, and so finds no path at all."""
        peer = started("conch")
        orders = FileOrders(writes=(FileToWrite(path=b"/tmp/x", name="/tmp/x", content=b"x", mode=0o600),), posix=False)
        with self.assertRaises(FileNotWritten) as caught:
            await self.make_client(host_keys="ignore").run(
                peer.target(), b"true", self.reactor.seconds() + DEADLINE, files=orders
            )
        self.assertEqual(caught.exception.executed, "no")
        self.assertIn("the host said “open failed”", str(caught.exception))
        orders = FileOrders(reads=(FileToRead(path=b"/etc/passwd", name="/etc/passwd", most=100),), posix=False)
        done = await self.make_client(host_keys="ignore").run(
            peer.target(), b"echo out", self.reactor.seconds() + DEADLINE, files=orders
        )
        self.assertEqual((done.error, done.stdout.text(), done.read[0].content), (None, "out", None))
        self.assertIn("stat/lstat failed", str(done.read[0].error))

    async def test_tinysshd(self) -> None:
        await self.check_peer("tinysshd")
