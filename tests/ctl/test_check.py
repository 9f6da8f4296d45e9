"""
relayctl check: what it finds on this machine, and as a process of its own beside a relay.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

import relayd.config.state_directory
import relayd.ctl.check_space
from relayd.config.reading import read
from relayd.config.state_directory import StateDirectory
from relayd.ctl import check_server
from relayd.ctl.check import check
from relayd.ctl.check_files import check_files, check_settings
from relayd.ctl.main import main, make_parser
from relayd.ctl.settings import Place
from relayd.errors import ConfigError
from relayd.hub import Hub
from relayd.wire.messages import Secret
from tests.config.test_options import KEY, ConfigCase
from tests.support.authority import Authority
from tests.support.relays import ROOT, Relayd
from tests.support.sshd import make_key

#: Where a test asks nobody.
NOWHERE = "ws://127.0.0.1:9"


def private_key(passphrase: str | None = None) -> str:
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption).decode()


def disk(free: int) -> SimpleNamespace:
    """What statvfs(3) says of a disk with *free* bytes for users."""
    return SimpleNamespace(f_bavail=free // 1024, f_frsize=1024)


class FilesCase(ConfigCase):
    """Has a relay's settings that are well."""

    def check(self, toml: str = "", **argv: str | bool | None) -> list[tuple[str, str, str]]:
        """What is found."""
        self.argv["config"] = self.write("relayd.toml", toml)
        self.argv.update({name.replace("_", "-"): value for name, value in argv.items()})
        reading = read(self.argv, self.environ)
        found: list[tuple[str, str, str]] = []

        def report(level: str, what: str, text: str) -> None:
            found.append((level, what, text))

        check_settings(reading, report)
        self.holder: str | None = None
        if reading.config is not None:
            self.holder = self.successResultOf(Deferred.fromCoroutine(check_files(reactor, reading.config, report)))
        self.assertNotIn(KEY, repr(found))
        self.assertNotIn("s3cret", repr(found))
        self.assertNotIn("\n", "".join(text for _, _, text in found))
        return found

    def assert_finds(self, level: str, what: str, text: str, toml: str = "", **argv: str | bool | None) -> None:
        found = self.check(toml, **argv)
        matching = [row for row in found if row[:2] == (level, what) and text in row[2]]
        self.assertEqual(len(matching), 1, found)

    def assert_well(self, toml: str = "", **argv: str | bool | None) -> None:
        self.assertEqual([row for row in self.check(toml, **argv) if row[0] != "ok"], [])


class SettingsTests(FilesCase):
    """Options and the files that they name."""

    def test_all_is_well(self) -> None:
        self.assert_well()
        self.assertIsNone(self.holder)

    def test_every_mistake(self) -> None:
        found = self.check("max-queue = -1\nmax_output = 1")
        self.assertEqual([row[:2] for row in found], [("fault", "settings")] * 2)

    def test_a_file_that_is_missing_is_told_once(self) -> None:
        found = self.check(api_key_file="/nowhere/key", tls_ca="/nowhere/ca")
        faults = [row for row in found if row[0] == "fault"]
        self.assertEqual([row[1] for row in faults], ["settings", "settings"], faults)

    def test_weak_choices(self) -> None:
        for toml, text in (
            ("allow-weak-key = true", "--allow-weak-key: "),
            ('host-keys = "ignore"', "--host-keys ignore: "),
            ('ssh-algorithms = "legacy"', "--ssh-algorithms legacy: "),
        ):
            self.assert_finds("warning", "settings", text, toml)
        self.assert_finds(
            "warning", "settings", "--allow-plaintext: ", "allow-plaintext = true", server="ws://a.example"
        )
        self.assert_well("allow-plaintext = true", server=NOWHERE)

    def test_weak_choices_for_single_hosts(self) -> None:
        for line, text in (
            ('host-keys = "ignore"', 'host-keys = "ignore" of [[hosts]] number 2: anybody on the path can read'),
            ('ssh-algorithms = "legacy"', 'ssh-algorithms = "legacy" of [[hosts]] number 2: SHA-1'),
        ):
            good = '[[hosts]]\nhosts = ["x"]\nhost-keys = "strict"\nssh-algorithms = "modern"\n'
            self.assert_finds("warning", "settings", text, f'{good}[[hosts]]\nhosts = ["h"]\n{line}')
            self.assert_well(good)

    def test_tables_that_never_apply(self) -> None:
        wide, narrow = '[[hosts]]\nhosts = ["db-*"]\n', '[[hosts]]\nhosts = ["db-1"]\n'
        text = "[[hosts]] number 2 never applies: for all of its hosts and users, [[hosts]] number 1 before it says"
        self.assert_finds("warning", "settings", text, f"{wide}pty = true\n{narrow}pty = false")
        self.assert_well(f"{narrow}pty = true\n{wide}pty = false")
        self.assert_well(f'{wide}pty = true\n{narrow}pty = false\nshell = "none"')
        login = 'password-file = "api-key"\n'
        credentials = f'[[credentials]]\nhosts = ["db-1"]\n{login}'
        text = "[[credentials]] number 1 never applies: for all of its hosts and users, [[hosts]] number 1 before it"
        self.assert_finds("warning", "settings", text, f"{wide}{login}{credentials}")

    def test_known_hosts_that_only_a_table_needs(self) -> None:
        toml = f'known-hosts = "{self.directory}"\nhost-keys = "ignore"\n[[hosts]]\nhosts = ["a"]\nhost-keys = "'
        self.assert_finds("fault", "known hosts", "cannot be used", toml + 'strict"')
        self.assertEqual([row for row in self.check(toml + 'ignore"') if row[1] == "known hosts"], [])

    def test_a_variable_of_somebody_else(self) -> None:
        self.environ["RELAYD_PORT"] = "s3cret"
        self.assert_finds("warning", "settings", "RELAYD_PORT in the environment is not an option")

    def test_who_may_read_and_change_the_file(self) -> None:
        path = self.directory / "relayd.toml"
        toml = 'http-proxy = "http://user:s3cret@proxy:1"'
        self.assert_well(toml)
        path.chmod(0o644)
        self.assert_finds("warning", "settings", "others can read", toml)
        self.assert_well("")
        path.chmod(0o666)
        self.assert_finds("warning", "settings", "others can change", "")

    def test_who_may_change_what_the_relay_trusts(self) -> None:
        folder = self.directory / "trust"
        folder.mkdir(mode=0o700)
        hosts = folder / "hosts"
        self.argv["known-hosts"] = str(hosts)
        self.assert_well("")
        hosts.touch(0o644)
        self.assert_well("")
        for path, mode, usual in ((hosts, 0o664, 0o644), (folder, 0o777, 0o700)):
            path.chmod(mode)
            self.assert_finds("warning", "settings", f"host keys of --known-hosts, in {hosts}: chmod go-w {path}", "")
            path.chmod(usual)
        folder.chmod(0o1777)  # as /tmp: nobody can put another file in its place
        self.assert_well("")
        authorities = self.write("ca", "PEM")
        os.chmod(authorities, 0o646)
        self.assert_finds("warning", "settings", "--tls-ca, in", "", tls_ca=authorities)

    def test_who_may_read_the_other_secrets(self) -> None:
        key, password = self.write("tls-key", "s3cret"), self.write("password", "s3cret")
        headers = self.write("headers", "X-Token: s3cret")
        self.argv |= {"tls-cert": key, "tls-key": key, "http-proxy-password-file": password, "header-file": headers}
        toml = 'http-proxy = "http://user@proxy:1"'
        self.assert_well(toml)
        files = (("--tls-key", key), ("--http-proxy-password-file", password), ("--header-file", headers))
        for option, path in files:
            os.chmod(path, 0o640)
            self.assert_finds("warning", "settings", f"{option} in {path}: chmod 600 it", toml)
        self.patch(os, "environ", {**os.environ, "CREDENTIALS_DIRECTORY": str(self.directory)})  # systemd's look so
        self.assert_well(toml)

    def test_the_password_of_the_proxy_in_the_environment(self) -> None:
        self.environ["RELAYD_HTTP_PROXY"] = "http://user:s3cret@proxy:1"
        self.assert_finds("warning", "settings", "RELAYD_HTTP_PROXY in the environment holds the proxy's password")
        self.environ["RELAYD_HTTP_PROXY"] = "http://user@proxy:1"
        self.assert_well("", http_proxy_password_file=self.write("password", "s3cret"))

    def test_who_may_read_the_api_key(self) -> None:
        os.chmod(self.key_file, 0o640)
        self.assert_finds("warning", "API key", "other users can read")


class StateTests(FilesCase):
    """What a relay keeps."""

    def setUp(self) -> None:
        super().setUp()
        self.state = StateDirectory(str(self.directory / "state"))

    def test_a_relay_that_runs(self) -> None:
        self.state.claim()
        self.addCleanup(self.state.release)
        self.assert_finds("ok", "state directory", f"a relay is using it (process {os.getpid()})")
        self.assertEqual(self.holder, str(os.getpid()))
        self.assertRaises(BlockingIOError, self._claim_again)  # to look did not let others in

    def test_a_file_system_without_locks(self) -> None:
        """As NFS has it: no other relay is to blame."""
        self.state.claim()
        self.state.release()

        def flock(descriptor: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        self.patch(relayd.config.state_directory.fcntl, "flock", flock)
        error = self.assertRaises(ConfigError, self.state.claim)
        self.assertIn("cannot lock files (No locks available); use a local directory", str(error))
        self.assertNotIn("another relayd", str(error))
        self.assert_finds("fault", "state directory", "the lock in it cannot be used: No locks available")

    def test_where_nothing_can_be_made(self) -> None:
        """More room would not help."""
        for number, advice in (
            (errno.EPERM, ""),
            (errno.ENOENT, ""),
            (errno.ENOSPC, "make room"),
            (errno.EDQUOT, "df -i"),
        ):

            def fail(number: int = number, **_: object) -> None:
                raise OSError(number, os.strerror(number))

            self.patch(relayd.ctl.check_space.tempfile, "TemporaryFile", fail)
            found = next(text for level, what, text in self.check() if (level, what) == ("fault", "state directory"))
            self.assertIn(f"{os.strerror(number)}", found)
            self.assertIn(advice, found)
            self.assertEqual("make room" in found, bool(advice), found)

    def test_the_part_of_the_disk_that_is_for_root(self) -> None:
        self.patch(relayd.ctl.check_space.os, "statvfs", lambda path: disk(1000))
        self.assert_finds("fault", "state directory", "No space left on device; make room")

    def test_what_may_not_fit(self) -> None:
        self.patch(relayd.ctl.check_space.os, "statvfs", lambda path: disk(600 << 20))
        self.assert_finds(
            "warning",
            "disk space",
            f"629.1 MB are free for {self.directory / 'state'}, but relayd may need 1.1 GB (--journal-max-size): make",
        )
        audit = f'audit-log = "{self.directory}/audit.log"\naudit-max-size = "50M"\n'
        limits = "but relayd may need 681.6 MB (--journal-max-size, --audit-max-size, --audit-keep)"
        self.assert_finds("warning", "disk space", limits, audit + 'journal-max-size = "100M"')
        (self.directory / "audit.log").touch()
        os.truncate(self.directory / "audit.log", 50 << 20)
        for name in ("audit.log.1", "audit.log.2"):
            (self.directory / name).touch()
            os.truncate(self.directory / name, 30 << 20)
        self.assert_finds("ok", "disk space", "relayd may need 566.2 MB", audit + 'journal-max-size = "100M"')
        self.assert_finds("ok", "disk space", "may need 461.4 MB", audit + 'journal = "memory"')
        self.assertEqual(
            [row for row in self.check('journal = "memory"', audit_log=None) if row[1] == "disk space"], []
        )

    def _claim_again(self) -> None:
        import fcntl

        with open(self.directory / "state" / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_a_relay_that_ran(self) -> None:
        self.state.claim()
        self.state.release()
        self.assert_finds("ok", "state directory", "no relay uses it now")
        self.state.claim()  # to look has kept nobody out
        self.state.release()

    def test_nothing_is_made(self) -> None:
        self.assert_well(audit_log=str(self.directory / "audit.log"))
        self.assertEqual(sorted(os.listdir(self.directory)), ["api-key", "relayd.toml"])

    def test_others_can_write_there(self) -> None:
        self.state.claim()
        self.state.release()
        os.chmod(self.state.path, 0o777)
        self.assert_finds("fault", "settings", f"--state-dir: others can write to {self.state.path}")

    def test_a_journal_that_is_none(self) -> None:
        journal = self.directory / "state" / "journal"
        journal.mkdir(parents=True)
        (journal / "journal.sqlite3").write_text("nonsense" * 1000)
        self.assert_finds("fault", "journal", "")
        self.assert_finds("ok", "journal", "in memory", 'journal = "memory"')

    def test_known_hosts(self) -> None:
        self.assert_finds("warning", "known hosts", "refuses every host", 'host-keys = "strict"')
        self.assert_finds("fault", "known hosts", "", known_hosts=str(self.directory))

    def test_a_port_that_is_taken(self) -> None:
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            listening = socket.create_server((host, 0), family=family)
            address = f"tcp:{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
            with listening:
                self.assert_finds(
                    "fault", "status", f"cannot listen at {address}: Address already in use", status=address
                )
            self.assert_finds("ok", "status", f"{address} is free", status=address)
        self.state.claim()  # by a relay that runs, and listens there
        self.addCleanup(self.state.release)
        self.assertEqual([row for row in self.check(status="tcp:127.0.0.1:1") if row[1] == "status"], [])

    def test_an_audit_log_that_cannot_be(self) -> None:
        self.assert_finds(
            "fault", "audit log", "does not exist: create it", audit_log=str(self.directory / "no" / "log")
        )


class CredentialTests(FilesCase):
    """What the site's own files hold."""

    def row(self, host: str = "*", **keys: str) -> str:
        return f'[[credentials]]\nhosts = ["{host}"]\n' + "\n".join(
            f'{name.replace("_", "-")} = "{value}"' for name, value in keys.items()
        )

    def test_good_ones(self) -> None:
        self.write("key", private_key())
        self.write("locked", private_key("s3cret"))
        self.write("passphrase", "s3cret\n")
        self.assert_well(
            "\n".join(
                [
                    self.row("a", key_file="key", via="jump@a"),
                    self.row("b", key_file="locked", passphrase_file="passphrase"),
                    self.row(password_file="passphrase"),
                ]
            )
        )

    def test_bad_ones(self) -> None:
        self.write("locked", private_key("s3cret"))
        self.write("nonsense", "s3cret")
        self.write("empty", "\n")
        for keys, text in (
            ({"key_file": "locked"}, "no passphrase was given"),
            ({"key_file": "nonsense"}, "key-file "),
            ({"key_file": "locked", "passphrase_file": "api-key"}, "the passphrase is wrong"),
            ({"password_file": "empty"}, "empty"),
            ({"agent": "nobody.sock"}, "its socket cannot be used"),
        ):
            self.assert_finds("fault", "credentials 1", text, self.row(**keys))

    def test_certificates(self) -> None:
        authority = Authority()
        self.addCleanup(authority.close)
        private, public = make_key("ed25519")
        self.write("key", private)
        self.write("good", authority.sign(public, "-n", "deploy"))
        self.write("other", authority.sign(make_key("ed25519")[1], "-n", "deploy"))
        self.write("expired", authority.sign(public, "-n", "deploy", "-V", "20200101:20200102"))
        self.assert_well(self.row(key_file="key", certificate_file="good"))
        for name, text in (("other", "is not for the private key"), ("expired", "expired")):
            self.assert_finds("fault", "credentials 1", text, self.row(key_file="key", certificate_file=name))

    def test_a_jump_host_without_a_credential(self) -> None:
        self.write("password", "s3cret\n")
        toml = self.row(via="jump@gate").replace('"*"', '"db-*"')
        self.assert_finds(
            "fault", "credentials 1", "jump host gate: no table with a credential covers jump there", toml
        )


class ProcessTests(TestCase):
    """``relayctl check`` beside a relay that runs."""

    timeout = 120

    async def test_interrupted(self) -> None:
        """What was not looked at is not said to be well, and what ends by that is nobody's fault."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        key = directory / "key"
        key.touch(mode=0o600)
        key.write_text(KEY)
        # As at a terminal, whatever started the tests.
        program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        program += "from relayd.ctl.main import main; sys.exit(main())"
        for scheme, last in (("wss", "can be reached"), ("ws", "is not used")):
            server = f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
            words = ("check", "--server", server, "--proxy-id", "p", "--api-key-file", str(key))
            process = subprocess.Popen(
                [sys.executable, "-c", program, *words, "--state-dir", str(directory / "state")],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert process.stdout is not None
            printed = ""
            while last not in printed:
                line = await deferToThread(process.stdout.readline)
                self.assertTrue(line, printed)
                printed += line
            process.send_signal(signal.SIGINT)
            rest, _ = await deferToThread(process.communicate, timeout=60)
            self.assertEqual((process.returncode, rest), (130, "\ninterrupted: not everything was checked\n"))

    async def test_nobody_reads_to_the_end(self) -> None:
        """Such as ``| head -1``."""
        program = "import sys; from relayd.ctl.main import main; sys.exit(main())"
        key = Path(self.mktemp())
        key.touch(mode=0o600)
        key.write_text(KEY)
        words = ("--server", NOWHERE, "--proxy-id", "p", "--api-key-file", str(key), "--state-dir", self.mktemp())
        reading, writing = os.pipe()
        os.close(reading)  # before it begins: it may be done sooner than a reader goes
        process = subprocess.Popen(
            [sys.executable, "-c", program, "check", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(writing)
        assert process.stderr is not None
        with process.stderr:
            self.assertEqual(await deferToThread(process.stderr.read), "")
        self.assertEqual(await deferToThread(process.wait, 60), 128 + signal.SIGPIPE)

    async def relayctl(self, *words: str, **environ: str) -> tuple[int, str]:
        """Exit code, and what it printed."""
        script = [sys.executable, "-c", "import sys; from relayd.ctl.main import main; sys.exit(main())"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*script, *words],
                env=clean | {"PYTHONPATH": str(ROOT)} | environ,
                capture_output=True,
                text=True,
                check=False,
                timeout=90,
            )

        done = await deferToThread(run)
        self.assertNotIn("Traceback", done.stderr)
        return done.returncode, done.stdout + done.stderr

    async def findings(self, environ: dict[str, str], *, dial: bool = False) -> tuple[int, str]:
        """The number of faults, and what ``relayctl check`` printed, in this process."""
        printed = io.StringIO()
        with redirect_stdout(printed):
            faults = await check(reactor, read({}, environ), Place({}), dial=dial)
        return faults, printed.getvalue()

    def said(self, *words: str) -> tuple[int, str]:
        """Exit code, and what it printed, in this process, where it ends by its parser."""
        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            end = self.assertRaises(SystemExit, main, words)
        return int(str(end.code)), printed.getvalue()

    async def test_a_relay_that_runs_is_left_alone(self) -> None:
        hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)})
        self.addCleanup(lambda: Deferred.fromCoroutine(hub.close()))
        port: Any = await hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        url = f"ws://127.0.0.1:{port.getHost().port}"
        relay = Relayd(url)
        self.addCleanup(relay.remove)
        settings = {
            "RELAYD_SERVER": url,
            "RELAYD_PROXY_ID": Relayd.proxy_id,
            "RELAYD_API_KEY_FILE": str(relay.directory / "api-key"),
            "RELAYD_STATE_DIR": str(relay.directory),
        }
        self.patch(check_server, "PROBATION", 0.5)
        faults, printed = await self.findings(settings)
        self.assertEqual(faults, 0, printed)
        self.assertIn(f"accepts {Relayd.proxy_id}", printed)
        self.assertIn("no fault", printed)
        relay.start()
        await hub.when_connected(Relayd.proxy_id)
        code, printed = await self.relayctl("check", **settings)
        self.assertEqual(code, 0, printed)
        self.assertIn(f"a relay is running (process {relay.pid})", printed)
        self.assertNotIn("accepts", printed)
        self.assertNotIn("Next attempt", relay.log)
        faults, printed = await self.findings(settings, dial=True)
        self.assertEqual(faults, 0, printed)
        self.assertIn(f"accepts {Relayd.proxy_id}", printed)
        self.assertNotIn(Relayd.api_key, printed)

    async def test_faults_and_mistakes(self) -> None:
        code, printed = await self.relayctl("check")
        self.assertEqual(code, 1)
        self.assertIn("fault    settings          --server, --proxy-id and --api-key-file: missing", printed)
        code, printed = self.said("check", "--sever", "s3cret")
        self.assertEqual((code, printed.count("\n")), (2, 1))
        self.assertIn("no such option: --sever (did you mean --server?)", printed)
        self.assertNotIn("s3cret", printed)

    def test_a_mistyped_subcommand(self) -> None:
        for words, expected in (
            (("chekc",), "relayctl: no such subcommand: chekc (did you mean check?); see relayctl --help\n"),
            (("audit", "verfy"), "relayctl audit: no such subcommand: verfy (did you mean verify?); see relayctl"),
            (("zzz",), "relayctl: no such subcommand: zzz (there are status, check, "),
        ):
            code, printed = self.said(*words)
            self.assertEqual((code, printed.count("\n")), (2, 1))
            self.assertIn(expected, printed)

    def test_exit_codes_are_in_the_help(self) -> None:
        for words in (("--help",), ("check", "--help"), ("journal", "--help")):
            code, printed = self.said(*words)
            self.assertEqual(code, 0)
            self.assertIn("exit status: 0 all is well", printed)

    async def test_the_parser_is_quick_to_make(self) -> None:
        """Completion makes it with each press of a key."""
        code = "import sys, relayd.ctl.main as m; m.make_parser(); print(*sorted(sys.modules))"
        done = await deferToThread(
            subprocess.run, [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True
        )
        heavy = {"twisted", "zope", "sqlite3", "cryptography", "autobahn", "OpenSSL"}
        self.assertEqual(heavy & set(done.stdout.decode().split()), set())

    def test_the_parser_needs_nothing(self) -> None:
        self.assertEqual(make_parser().prog, "relayctl")
