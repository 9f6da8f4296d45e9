"""
relayctl and the units of systemd: where a unit looks for its settings, and what its relay can reach.
"""

from __future__ import annotations

import io
import os
import pwd
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

import relayd.ctl.check_unit
import relayd.ctl.settings
import relayd.ctl.unit_settings
from relayd.config.options import Config
from relayd.config.reading import Reading
from relayd.ctl import units
from relayd.ctl.check import check
from relayd.ctl.check_unit import _acting_as, _Identity, check_holder, check_unit, check_what_the_unit_sees
from relayd.ctl.main import main, make_parser
from relayd.ctl.settings import Place, read_all
from relayd.ctl.unit_settings import options_of_command
from relayd.ctl.units import NoUnit
from relayd.errors import MISTAKES, ConfigError
from tests.config.test_options import KEY, ConfigCase
from tests.support.units import FakeSystemd, command


class UnitCase(ConfigCase):
    """
    Has ``relayd.service``, whose files are in the test's directory, and an environment in which nothing is set.

    :ivar unit: what is different from the packaged one.
    """

    def setUp(self) -> None:
        super().setUp()
        self.systemd = FakeSystemd()
        self.unit: dict[str, Any] = self.systemd.units["relayd.service"]
        self.config = self.write("relayd.toml", 'server = "ws://127.0.0.1:9"\nproxy-id = "site-1"\n')
        self.variables = self.write("default", "")
        self.start("--config", self.config)
        self.directory.chmod(0o755)
        os.chmod(self.config, 0o644)
        self.unit |= {"ProtectHome": "no", "PrivateTmp": False, "EnvironmentFiles": [[self.variables, True]]}
        self.unit["LoadCredential"] = [["api-key", self.key_file]]
        self.shell = {"PATH": os.environ["PATH"]}
        self.patch(os, "environ", self.shell)
        for name in ("read_unit", "running_units"):
            real = getattr(units, name)
            self.patch(relayd.ctl.settings, name, lambda word, real=real: real(word, self.systemd))
        self.patch(relayd.ctl.settings, "FILE", "/nowhere/relayd.toml")
        self.patch(relayd.ctl.settings, "STATE", str(self.directory / "state"))
        roots = {name: (key, str(self.directory / key)) for name, (key, _) in units._ROOTS.items()}
        self.patch(units, "_ROOTS", roots)
        self.state = f"{roots['STATE_DIRECTORY'][1]}/relayd"

    def start(self, *words: str) -> None:
        self.unit["ExecStart"] = command("/opt/relayd/bin/twistd", "--nodaemon", "--pidfile=", "relayd", *words)

    def read(self, *words: str) -> tuple[Reading, Place]:
        """What ``relayctl check`` reads, in a process of its own."""
        self.patch(os, "environ", dict(self.shell))
        return read_all(make_parser().parse_args(["check", *words]))

    def relayctl(self, *words: str) -> str:
        """What it prints when all is well, in a process of its own."""
        self.patch(os, "environ", dict(self.shell))
        printed = io.StringIO()
        with redirect_stdout(printed):
            self.assertEqual(main(words), 0)
        return printed.getvalue()

    def check(self, reading: Reading, place: Place) -> tuple[int, str]:
        """The number of faults that ``relayctl check`` finds, and what it prints."""
        printed = io.StringIO()
        with redirect_stdout(printed):
            faults = self.successResultOf(Deferred.fromCoroutine(check(reactor, reading, place, dial=False)))
        return faults, printed.getvalue()

    def nobody(self) -> AbstractContextManager[None]:
        """Somebody who is not root."""
        return _acting_as(_Identity(65534, (65534,))) if os.geteuid() == 0 else nullcontext()

    def settings(self, *words: str) -> Config:
        reading, _ = self.read(*words)
        self.assertEqual(reading.mistakes, ())
        assert reading.config is not None
        return reading.config

    def mistake(self, *words: str) -> str:
        reading, _ = self.read(*words)
        [mistake] = reading.mistakes
        self.assertNotIn(KEY, str(mistake))
        return str(mistake)


class PlaceTests(UnitCase):
    """Where the settings are, if nothing is said, or little."""

    def test_nothing_is_said(self) -> None:
        reading, place = self.read()
        self.assertEqual(place.note, "relayd.service: /lib/systemd/system/relayd.service")
        config = reading.config
        assert config is not None
        self.assertEqual((reading.mistakes, config.proxy_id, config.state_dir), ((), "site-1", self.state))
        self.assertEqual((config.api_key_file, config.read_api_key().reveal()), (self.key_file, KEY))

    def test_a_unit_by_name(self) -> None:
        other = self.write("other.toml", 'server = "wss://other.example"\nproxy-id = "site-2"\n')
        self.systemd.units["relayd@b.service"] = {**self.unit, "ExecStart": command("relayd", "--config", other)}
        for name in ("relayd@b", "relayd@b.service"):
            self.assertEqual(self.settings("--unit", name).proxy_id, "site-2")

    def test_what_is_said_is_taken(self) -> None:
        """The unit is not asked, and the environment stays."""
        for words, environ in (
            (["--config", self.config], {}),
            ([], {"RELAYD_PROXY_ID": "x"}),
            ([], {"CREDENTIALS_DIRECTORY": str(self.directory)}),
        ):
            self.shell = environ
            _, place = self.read(*words)
            self.assertEqual((place.of_unit, place.note, dict(os.environ)), (None, "", environ))

    def test_options_beside_the_unit(self) -> None:
        """They override its own, and relative paths are those of the caller."""
        self.shell = {"RELAYD_PROXY_ID": "of the shell", "RELAYD_MAX_QUEUE": "7"}
        key = self.mktemp()
        os.close(os.open(key, os.O_CREAT, 0o600))
        Path(key).write_text(KEY)
        config = self.settings("--unit", "relayd", "--max-commands", "3", "--api-key-file", key)
        self.assertEqual((config.max_commands, config.proxy_id, config.max_queue), (3, "site-1", 10000))
        self.assertEqual(config.api_key_file, os.path.abspath(key))

    def test_another_unit_that_runs(self) -> None:
        """Who runs only relayd@b means that."""
        self.systemd.units["relayd@b.service"] = {**self.unit, "ActiveState": "active"}
        note = self.read()[1].note
        self.assertTrue(note.startswith("relayd@b.service: "), note)
        self.assertTrue(note.endswith("; --unit for others: relayd.service"), note)
        self.unit["ActiveState"] = "failed"
        note = self.read()[1].note
        self.assertIn("relayd.service: ", note)
        self.assertIn("; --unit for others: relayd@b.service", note)
        del self.systemd.units["relayd.service"]
        note = self.read()[1].note
        self.assertTrue(note.startswith("relayd@b.service: "), note)

    def test_no_systemd(self) -> None:
        def none(_: str) -> None:
            raise NoUnit("systemd does not run here")

        self.patch(relayd.ctl.settings, "read_unit", none)
        self.patch(relayd.ctl.settings, "running_units", none)
        self.assertEqual(self.read()[1].note, "")
        self.patch(relayd.ctl.settings, "FILE", self.config)
        self.patch(relayd.ctl.settings, "loaded_credentials", lambda unit: {"api-key": self.key_file})
        reading, place = self.read()
        note = "; of relayd.service nothing is known but its LoadCredential: systemd does not run here"
        self.assertEqual((reading.mistakes, place.note), ((), self.config + note))
        assert reading.config is not None
        self.assertEqual((reading.config.proxy_id, reading.config.read_api_key().reveal()), ("site-1", KEY))
        os.chmod(self.key_file, 0)
        with self.nobody():
            faults, printed = self.check(*self.read())
        self.assertEqual(faults, 0, printed)
        self.assertIn(f"skipped  files             this user cannot read {self.key_file}: run as root\n", printed)
        self.patch(relayd.ctl.settings, "loaded_credentials", lambda unit: {})
        self.assertIn("--api-key-file: missing", self.mistake())
        self.directory.chmod(0)
        self.addCleanup(self.directory.chmod, 0o755)
        with self.nobody():  # who does not see whether the file exists
            self.assertIn(f"{self.config} cannot be read: Permission denied", self.mistake())
        error = self.assertRaises(ConfigError, self.read, "--unit", "relayd")
        self.assertEqual(str(error), "--unit: systemd does not run here")

    def test_paths_that_are_given_beside_a_unit(self) -> None:
        """They are relative to where relayctl was called, and credentials are those of the unit."""
        self.unit["User"], self.unit["DynamicUser"] = "nobody", False
        self.shell["HOME"] = str(self.directory)
        words = ("--unit", "relayd", "--known-hosts", "~/known", "--audit-log", "audit")
        config = self.settings(*words, "--api-key-file", "$CREDENTIALS_DIRECTORY/api-key")
        self.assertEqual(config.api_key_file, self.key_file)
        self.assertEqual((config.known_hosts, config.audit_log), (f"{self.directory}/known", os.path.abspath("audit")))

    def test_a_unit_that_cannot_be_started(self) -> None:
        """The file alone would say nothing of that."""
        self.patch(relayd.ctl.settings, "FILE", self.config)
        self.unit["LoadState"] = "masked"
        for words in ((), ("--unit", "relayd")):
            error = self.assertRaises(ConfigError, self.read, *words)
            self.assertIn("unit: systemd cannot start relayd.service: it is masked; systemctl unmask", str(error))

    def test_no_such_unit(self) -> None:
        error = self.assertRaises(ConfigError, self.read, "--unit", "rleayd")
        self.assertEqual(str(error), "--unit: systemd has no unit rleayd.service; did you mean relayd?")

    def test_the_other_subcommands(self) -> None:
        """What policy says of a site's rules must be the rules of its relay."""
        Path(self.config).write_text(
            'server = "ws://127.0.0.1:9"\nproxy-id = "site-1"\nallow-hosts = ["10.9.0.0/16"]\n'
        )
        for words in (["policy"], ["policy", "--unit", "relayd"], ["config"], ["config", "--toml"]):
            printed = self.relayctl(*words)
            self.assertTrue(printed.startswith("# relayd.service: /lib/systemd/"), printed)
            self.assertIn("10.9.0.0/16", printed)


class EnvironmentTests(UnitCase):
    """What a unit sets besides the file."""

    def test_variables(self) -> None:
        Path(self.variables).write_text('# options\nRELAYD_MAX_QUEUE="7"\nRELAYD_DRAIN_TIMEOUT=2m\n')
        self.unit["Environment"] = ["RELAYD_MAX_QUEUE=1", "RELAYD_MAX_COMMANDS=5", "SSL_CERT_FILE=/ca with blank"]
        reading, _ = self.read()
        config = reading.config
        assert config is not None
        self.assertEqual((config.max_queue, config.max_commands, config.drain_timeout), (7, 5, 120.0))
        self.assertEqual(reading.given["max-queue"].where, f"RELAYD_MAX_QUEUE in {self.variables}")
        self.assertEqual(reading.given["max-commands"].where, "RELAYD_MAX_COMMANDS in Environment of relayd.service")
        self.assertEqual(os.environ["SSL_CERT_FILE"], "/ca with blank")

    def test_a_mistake_names_its_place(self) -> None:
        Path(self.variables).write_text("RELAYD_MAX_QUEUE=x\n")
        self.assertTrue(self.mistake().startswith(f"RELAYD_MAX_QUEUE in {self.variables}: expected a whole number"))
        Path(self.variables).write_text("")
        self.start("--config", self.config, "--max-queue=-1")
        self.assertTrue(self.mistake().startswith("--max-queue in ExecStart of relayd.service: expected a whole"))

    def test_the_command_line(self) -> None:
        more = "MORE=--max-queue 7 --allow-weak-key --proxy-id 'site 2'"
        self.unit["Environment"] = ["FILE=" + self.config, more]
        self.start("--config", "${FILE}", "$MORE")
        config = self.settings()
        self.assertEqual((config.proxy_id, config.max_queue, config.allow_weak_key), ("site 2", 7, True))

    def test_command_lines(self) -> None:
        def options(*argv: str) -> dict[str, str | bool | list[str] | None]:
            return options_of_command(argv, {"A": "x y", "B": "z"}, "ExecStart")

        given = {"proxy-id": "a b", "allow-weak-key": True}
        for begin in (("/bin/relayd",), ("/usr/bin/twistd", "-n", "relayd"), ("/v/bin/twist", "relayd")):
            self.assertEqual(options(*begin, "--proxy-id", "a b", "--allow-weak-key"), given)
        self.assertEqual(options("relayd", "--proxy-id=${B}$$${A}"), {"proxy-id": "z$x y"})
        self.assertEqual(options("relayd", "--label", "a=1", "--label=b=2"), {"label": ["a=1", "b=2"]})
        self.assertEqual(options("twistd", "-ny", "/opt/relayd.tac"), {})
        self.assertEqual(options(), {})
        open_quote = {"A": "--proxy-id it's"}
        self.assertEqual(options_of_command(("relayd", "$A"), open_quote, "ExecStart"), {"proxy-id": "it's"})
        for words, reason in (
            (("--sever", KEY), "--sever is not an option of relayd"),
            ((f"--sever={KEY}",), "--sever is not an option of relayd"),
            ((KEY,), "an argument is not an option of relayd"),
            (("--proxy-id",), "argument --proxy-id: expected one argument"),
            ((f"--allow-weak-key={KEY}",), "argument --allow-weak-key: takes no value"),
        ):
            error = self.assertRaises(ConfigError, options, "relayd", *words)
            self.assertEqual(str(error), f"ExecStart: {reason}")


class CredentialTests(UnitCase):
    """What systemd passes to a relay, and to nobody else."""

    def row(self, path: str) -> None:
        text = (
            f'server = "ws://127.0.0.1:9"\nproxy-id = "p"\n[[credentials]]\nhosts = ["*"]\npassword-file = "{path}"\n'
        )
        Path(self.config).write_text(text)

    def test_both_ways_to_name_one(self) -> None:
        password = self.write("password", "s3cret\n")
        self.unit["LoadCredential"].append(["deploy", password])
        for path in (
            "$CREDENTIALS_DIRECTORY/deploy",
            "${CREDENTIALS_DIRECTORY}/deploy",
            "/run/credentials/relayd.service/deploy",
        ):
            self.row(path)
            self.assertEqual(self.settings().credentials[0].password_file, password)
            self.assertIn('password-file = "/run/credentials/relayd.service/deploy"', self.relayctl("config"))

    def test_one_that_is_missing_is_named(self) -> None:
        self.row("$CREDENTIALS_DIRECTORY/deploy")
        self.assertIn(
            "the unit passes on no credential deploy (it passes on api-key): put LoadCredential=deploy:FILE into a",
            self.mistake(),
        )
        self.unit["LoadCredential"].append(["deploy", "/nowhere/deploy"])
        self.assertIn(
            "there is none; put it into /nowhere/deploy, from where systemd passes it on (LoadCredential=deploy)",
            self.mistake(),
        )

    def test_a_key_of_another_name(self) -> None:
        self.unit["LoadCredential"] = [["apikey", self.key_file]]
        self.assertTrue(
            self.mistake().endswith(
                "; the unit passes on no credential api-key (it passes on apikey): put LoadCredential=api-key:FILE "
                "into a drop-in"
            ),
            self.mistake(),
        )

    def test_a_folder(self) -> None:
        """Each file in it is a credential (systemd.exec(5), "LoadCredential")."""
        folder = self.directory / "keys"
        (folder / "more").mkdir(parents=True)
        password = self.write("keys/more/deploy", "s3cret\n")
        self.unit["LoadCredential"].append(["ssh", str(folder)])
        self.row("$CREDENTIALS_DIRECTORY/ssh_more_deploy")
        self.assertEqual(self.settings().credentials[0].password_file, password)
        for name in ("ssh", "ssh_other"):
            self.row(f"$CREDENTIALS_DIRECTORY/{name}")
            self.assertIn(f"no credential {name} (it passes on api-key, ssh_more_deploy)", self.mistake())

    def test_a_missing_key_is_one_fault(self) -> None:
        os.unlink(self.key_file)
        self.assertEqual(
            self.mistake(),
            "$CREDENTIALS_DIRECTORY/api-key: the API key cannot be used: its file cannot be read (No such file or "
            f"directory); put it into {self.key_file}, from where systemd passes it on (LoadCredential=api-key)",
        )
        faults, printed = self.check(*self.read())
        self.assertEqual((faults, printed.count("\nfault  ")), (1, 1), printed)
        self.assertTrue(printed.startswith("ok       unit              relayd.service: /lib/"), printed)

    def test_a_store(self) -> None:
        store = self.directory / "credstore"
        store.mkdir()
        (store / "relayd-key").write_text(KEY + "\n")
        self.patch(relayd.ctl.unit_settings, "_STORES", ("/nowhere", str(store)))
        self.unit["LoadCredential"] = [["api-key", "relayd-key"]]
        self.assertEqual(self.settings().api_key_file, str(store / "relayd-key"))

    def test_what_only_systemd_can_read(self) -> None:
        self.unit["LoadCredential"] = []
        self.unit["SetCredential"] = []
        self.unit["LoadCredentialEncrypted"] = [["api-key", "/etc/relayd/api-key.cred"]]
        reading, place = self.read()
        self.assertEqual(reading.mistakes, ())
        faults, printed = self.check(reading, place)
        self.assertEqual(faults, 0, printed)
        self.assertIn("skipped  files             only systemd can read the credential api-key", printed)
        self.assertIn("skipped  main server", printed)

    def test_what_this_user_cannot_read(self) -> None:
        Path(self.state).mkdir(parents=True)
        for path in (self.key_file, self.variables, self.state):
            os.chmod(path, 0)
        with self.nobody():
            reading, place = self.read()
            faults, printed = self.check(reading, place)
            policy = self.relayctl("policy")
        os.chmod(self.state, 0o700)
        self.assertEqual((reading.mistakes, faults), ((), 0), printed)
        for path in (self.key_file, self.variables, self.state):
            self.assertIn(f"skipped  files             this user cannot read {path}: run as root\n", printed)
        note = (
            f"relayd.service: /lib/systemd/system/relayd.service, without {self.variables}, which this user cannot read"
        )
        self.assertTrue(policy.startswith(f"# {note}\n"), policy)


class FindingsTests(UnitCase):
    """What is wrong with the unit itself, and what its relay cannot reach."""

    def found(self) -> list[tuple[str, str]]:
        """Level and text of the findings about the unit, after the first."""
        reading, place = self.read()
        assert place.of_unit is not None
        found: list[tuple[str, str]] = []

        def report(level: str, what: str, text: str) -> None:
            self.assertEqual(what, "unit")
            found.append((level, text))

        check_unit(place.of_unit, place.note, report)
        check_what_the_unit_sees(place.of_unit, reading, report)
        self.first = found[0]
        return found[1:]

    def set_options(self, text: str) -> None:
        Path(self.config).write_text(f'server = "ws://127.0.0.1:9"\nproxy-id = "site-1"\n{text}\n')

    def test_all_is_well(self) -> None:
        self.assertEqual(self.found(), [])
        self.assertEqual(self.first, ("ok", "relayd.service: /lib/systemd/system/relayd.service; it is inactive"))

    def test_how_it_is(self) -> None:
        for changes, level, text in (
            (
                {"UnitFileState": "disabled"},
                "ok",
                "it is inactive (systemctl enable relayd.service starts it at boot)",
            ),
            ({"ActiveState": "active", "StatusText": "accepted by h:1\x1b"}, "ok", "boot): accepted by h:1\ufffd"),
            (
                {"ActiveState": "activating", "StatusText": "not connected to h:1", "UnitFileState": "enabled"},
                "warning",
                "it is activating: not connected to h:1",
            ),
            (
                {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": 1},
                "warning",
                "it has failed: status 1;",
            ),
            ({"ActiveState": "failed", "Result": "timeout"}, "warning", "it has failed: timeout;"),
            (
                {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": MISTAKES},
                "warning",
                "it has failed: there is a mistake in its settings; journalctl -u relayd.service says more",
            ),
        ):
            self.unit |= changes
            self.found()
            self.assertEqual(self.first[0], level)
            self.assertTrue(self.first[1].endswith(text) or f"{text} journalctl" in self.first[1], self.first)

    def test_its_files(self) -> None:
        self.unit |= {"NeedDaemonReload": True, "EnvironmentFiles": [["/nowhere/default", False], ["/nowhere/x", True]]}
        self.unit["LoadCredential"].append(["deploy", "/nowhere/deploy"])
        self.assertEqual(
            self.found(),
            [
                ("warning", "its files have changed since systemd read them: systemctl daemon-reload"),
                (
                    "fault",
                    "there is no file /nowhere/default, which EnvironmentFile names: systemd cannot start it",
                ),
                (
                    "fault",
                    "there is no file /nowhere/deploy, which LoadCredential=deploy:/nowhere/deploy names: systemd "
                    "cannot start the unit",
                ),
            ],
        )

    def test_a_credential_that_has_changed(self) -> None:
        """The relay has the old one until it is started again."""
        self.patch(relayd.ctl.unit_settings, "CREDENTIALS_ROOT", str(self.directory / "credentials"))
        loaded = self.directory / "credentials" / "relayd.service" / "api-key"
        loaded.parent.mkdir(parents=True)
        loaded.write_text(KEY + "\n")
        self.unit["MainPID"] = 42
        self.assertEqual(self.found(), [])
        loaded.write_text("the old key")
        expected = (
            f"{self.key_file} has changed since relayd.service started, and the relay has what it was then: systemctl"
        )
        self.assertEqual(self.found(), [("warning", f"{expected} restart relayd.service")])
        loaded.unlink()
        self.assertEqual(self.found(), [])

    def test_what_is_hidden(self) -> None:
        headers = self.write("headers", "X: y")
        self.set_options(f'header-file = "{headers}"')
        os.chmod(headers, 0o644)
        self.assertEqual(self.found(), [])
        self.patch(relayd.ctl.check_unit, "_HOMES", (str(self.directory),))
        self.unit["ProtectHome"] = "yes"
        texts = [text for _, text in self.found()]
        self.assertEqual([text.partition(":")[0] for text in texts], ["--header-file", "--config"])
        self.assertIn(
            f"ProtectHome=yes hides {headers} from relayd.service: put LoadCredential=NAME:{headers}", texts[0]
        )

    def test_who_may_read(self) -> None:
        """As root, or as a user who is not: both say the truth about files that everybody can read."""
        authorities, headers = self.write("ca.pem", "PEM"), self.write("headers", "X: y")
        self.set_options(f'tls-ca = "{authorities}"\nheader-file = "{headers}"')
        for path in (authorities, headers):
            os.chmod(path, 0o644)
        self.assertEqual(self.found(), [])
        for path in (authorities, headers):
            os.chmod(path, 0o600)
        begin = "the user of relayd.service cannot read"
        expected = [
            ("fault", f"--tls-ca: {begin} {authorities}: chmod a+r it, and a+x its folders"),
            (
                "fault",
                f"--header-file: {begin} {headers}: put LoadCredential=NAME:{headers} into a drop-in, and give "
                "$CREDENTIALS_DIRECTORY/NAME as the path",
            ),
        ]
        self.assertEqual(self.found(), expected if os.geteuid() == 0 else [])
        self.unit |= {"DynamicUser": False, "User": "root", "Group": ""}
        self.assertEqual(self.found(), [])

    def test_a_unit_that_ends_again_and_again(self) -> None:
        self.unit |= {"ActiveState": "activating", "Result": "exit-code", "ExecMainStatus": 1}
        self.assertEqual(self.found(), [])
        level, text = self.first
        self.assertEqual(level, "warning")
        self.assertIn("it ended with status 1, and systemd starts it again; journalctl -u relayd.service says", text)

    def test_a_user_by_number(self) -> None:
        """The defaults are those of its home."""
        entry = pwd.getpwnam("daemon")
        self.unit |= {"DynamicUser": False, "User": str(entry.pw_uid), "StateDirectory": []}
        self.assertEqual(self.settings().state_dir, f"{entry.pw_dir}/.local/state/relayd")

    def test_a_user_that_does_not_exist(self) -> None:
        self.unit |= {"DynamicUser": False, "User": "no-such-user", "Group": ""}
        [(level, text)] = self.found()
        self.assertEqual(level, "fault")
        self.assertIn("there is no user no-such-user, whom User=no-such-user names: create it", text)
        self.unit["User"] = "4711"
        self.assertNotIn("there is no user", str(self.found()))

    def test_a_relay_by_hand(self) -> None:
        """It keeps the unit from its state; the unit's own process does not."""
        _, place = self.read()
        assert place.of_unit is not None
        unit, found = place.of_unit.unit, []
        for holder in (None, "", str(unit.pid), "4711"):
            check_holder(unit, holder, lambda *each: found.append(each))
        [(level, what, text)] = found
        self.assertEqual((level, what), ("fault", "state directory"))
        self.assertIn("process 4711 uses it, not relayd.service", text)

    def test_files_of_another_user(self) -> None:
        os.makedirs(self.state)
        file = Path(self.state, "lock")
        file.touch()
        self.assertEqual(self.found(), [])
        if os.geteuid() == 0:
            os.chown(file, 4711, -1)
            text = f"owns {file}: chown -R --reference={self.state}/ {self.state}/"
            self.assertEqual([text in each for _, each in self.found()], [True])

    def test_the_file_of_a_credential_by_its_own_path(self) -> None:
        """The relay cannot read the file that systemd passes on, but under the name that it has then."""
        key = next(path for path in self.directory.rglob("*api-key*"))
        key.chmod(0o600)
        self.set_options(f'api-key-file = "{key}"')
        text = (
            f"--api-key-file: the user of relayd.service cannot read {key}; systemd passes it on, and only that can be"
        )
        self.assertEqual([text in each for _, each in self.found()], [True] if os.geteuid() == 0 else [])
        key.chmod(0o644)
        self.assertEqual(self.found(), [])

    def test_where_it_may_write(self) -> None:
        other = self.directory / "other"
        other.mkdir()
        other.chmod(0o777)
        sockets = self.directory / "sockets"
        sockets.mkdir()
        sockets.chmod(0o777)
        self.set_options(f'state-dir = "{other}/state"')
        [(_, text)] = self.found()  # and no second one of known hosts, which are in it
        self.assertTrue(
            text.startswith(f"--state-dir: ProtectSystem=strict keeps relayd.service from writing to {other}")
        )
        self.set_options(f'audit-log = "{other}/audit.log"\nstatus = "unix:{sockets}/status"')
        self.unit["ReadWritePaths"] = [f"-{sockets}"]
        [(level, text)] = self.found()
        expected = (
            f"--audit-log: ProtectSystem=strict keeps relayd.service from writing to {other}: put ReadWritePaths="
        )
        self.assertEqual((level, text[: len(expected)]), ("fault", expected))
        self.assertIn(f"or use one that the unit has: {self.state}", text)
        self.unit["ReadWritePaths"] = [str(other), f"+{sockets}"]
        self.assertEqual(self.found(), [])
        other.chmod(0o700)
        self.assertEqual(
            [text.partition(": let")[0] for _, text in self.found()],
            [f"--audit-log: the user of relayd.service cannot write to {other}"] if os.geteuid() == 0 else [],
        )
