"""
relayd.config.host_tables: what a [[hosts]] table may say, and how a mistake in one is told.
"""

from __future__ import annotations

import os
from dataclasses import replace

from relayd.config.host_tables import HOST_KEYS, SETTINGS, table_of_host
from relayd.config.reading import read
from relayd.network.credential_rules import CredentialRule
from relayd.network.host_rules import Become, HostRule, HostSettings, HostTable
from relayd.settings import credentials_of, live_ssh_settings_of, runner_settings_of
from tests.config.test_options import ConfigCase

EVERYTHING = """
[[hosts]]
name = "old switches"
hosts = ["sw-*", "!sw-9", "[10.1.0.0/16]:2222"]
users = ["admin"]
ssh-algorithms = "legacy"
host-keys = "ignore"
connect-timeout = "1m"
keepalive-interval = 30
max-sessions = 1
max-connections = "2"
commands-per-connection = 1
working-directory = ""
output-encoding = "GBK"
no-exit-status = 0
shell = "posix"
pty = true
become = "sudo"
become-user = "app"
become-password-file = "secret"
key-file = "secret"
passphrase-file = "secret"
certificate-file = "secret"
password-file = "secret"
agent = "agent.sock"
via = "jump@gate:2222, second"
"""


class HostsCase(ConfigCase):
    """Has a file that a table may name for a secret."""

    def setUp(self) -> None:
        super().setUp()
        self.secret = self.write("secret", "s3cret")

    def rules(self, *tables: str) -> tuple[HostRule, ...]:
        return self.load("\n".join(f"[[hosts]]\n{table}" for table in tables)).hosts

    def mistake(self, *tables: str) -> str:
        message = self.refusal("\n".join(f"[[hosts]]\n{table}" for table in tables))
        self.assertNotIn("s3cret", message)
        return message


class TableTests(HostsCase):
    """Tables as they should be."""

    def test_none(self) -> None:
        self.assertEqual((self.load().hosts, self.load("max-commands = 3").hosts), ((), ()))

    def test_every_key(self) -> None:
        [rule] = self.load(EVERYTHING).hosts
        patterns = ("sw-*", "!sw-9", "[10.1.0.0/16]:2222")
        settings = HostSettings(
            ssh_algorithms="legacy",
            host_keys="ignore",
            connect_timeout=60.0,
            keepalive_interval=30.0,
            max_sessions=1,
            max_connections=2,
            commands_per_connection=1,
            working_directory="",
            output_encoding="gbk",
            no_exit_status=0,
            shell="posix",
            pty=True,
            become=Become(method="sudo", user="app", password_file=self.secret),
        )
        login = CredentialRule(
            hosts=patterns,
            users=("admin",),
            key_file=self.secret,
            passphrase_file=self.secret,
            certificate_file=self.secret,
            password_file=self.secret,
            agent=str(self.directory / "agent.sock"),
            via="jump@gate:2222,second",
        )
        expected = HostRule(hosts=patterns, users=("admin",), name="old switches", settings=settings, credential=login)
        self.assertEqual(rule, expected)
        # What this test leaves out might be what nothing reads.
        unsaid = [name for name in HostSettings.__struct_fields__ if getattr(settings, name) is None]
        self.assertEqual(unsaid, ["family"])  # the one key that goes with no other shell than that of devices
        [device] = self.rules('hosts = ["*"]\nshell = "device"\nfamily = "huawei"')
        self.assertEqual(device.settings, HostSettings(shell="device", family="huawei"))
        self.assertEqual(set(SETTINGS) - {name.replace("_", "-") for name in HostSettings.__struct_fields__}, set())
        self.assertEqual(set(HOST_KEYS) - set(table_of_host(rule)) - set(table_of_host(device)), set())

    def test_one_setting_is_enough(self) -> None:
        first, second = self.rules('hosts = ["*"]\nmax-sessions = 1', 'hosts = ["b"]\nvia = "gate"')
        self.assertEqual(first.settings, HostSettings(max_sessions=1))
        self.assertEqual((first.users, first.credential), (("*",), None))
        self.assertEqual(second.credential, CredentialRule(hosts=("b",), via="gate"))

    def test_the_parts_of_the_relay_get_them(self) -> None:
        config = self.load('[[hosts]]\nhosts = ["a"]\nshell = "none"')
        for settings in (live_ssh_settings_of(config), runner_settings_of(config)):
            self.assertEqual(settings.hosts, HostTable(config.hosts))
            self.assertEqual(settings.hosts.of("a", 22, "u").shell, "none")

    def test_what_is_said_of_hosts_comes_before_credentials(self) -> None:
        for name in ("first", "second"):
            self.write(name, "x")
        config = self.load(
            '[[credentials]]\nhosts = ["*"]\npassword-file = "first"\nvia = "gate"\n'
            '[[hosts]]\nhosts = ["db"]\npassword-file = "second"\n[[hosts]]\nhosts = ["web"]\nshell = "none"'
        )
        self.assertEqual([login[:2] for login in config.logins], [("hosts", 1), ("credentials", 1)])
        table = credentials_of(config)
        for host, file in (("db", "second"), ("web", "first")):
            rule = table.find(host, 22, "u")
            self.assertEqual(None if rule is None else rule.password_file, str(self.directory / file))
            self.assertEqual([hop.host for hop in table.hops(host, 22, "u")], ["gate"])


class MistakeTests(HostsCase):
    """One line, with the number of the table and the key."""

    good = 'hosts = ["*"]\nshell = "none"'

    def test_shape(self) -> None:
        for toml in ("hosts = 5", 'hosts = ["x"]', "[hosts]\nhosts = ['*']"):
            self.assertIn("expected tables that each begin with [[hosts]]", self.refusal(toml))
        self.assertIn("did you mean hosts?", self.refusal("[[host]]\nhosts = ['*']"))

    def test_keys(self) -> None:
        path = self.directory / "relayd.toml"
        self.assertEqual(
            self.mistake(self.good, 'hosts = ["*"]\nshel = "none"'),
            f'"shel" of [[hosts]] number 2 in {path}: no such key; did you mean shell?',
        )
        self.assertIn("did you mean become-password-file?", self.mistake(self.good + '\nbecome-password = "s3cret"'))
        self.assertIn("is an option; move it above the first [[hosts]]", self.mistake(self.good + "\nmax-commands = 5"))
        for table, key, said in (
            ("credentials", "shell", "is a key of [[hosts]] tables; move it into such one"),
            (
                "credentials",
                "max-sessions",
                "is an option, and a key of [[hosts]] tables; move it above all tables, or",
            ),
        ):
            message = self.refusal(f"[[{table}]]\nhosts = ['*']\n{key} = 1")
            self.assertIn(f'"{key}" of [[{table}]] number 1 in {path}: {said}', message)
        self.assertIn("hosts of [[hosts]] number 1", message := self.mistake('shell = "none"'))
        self.assertIn("missing; give a list", message)
        self.assertIn("users of [[hosts]] number 1", self.mistake(self.good + "\nusers = []"))

    def test_values(self) -> None:
        for line, expected in (
            ('ssh-algorithms = "legcy"', 'one of modern, compatible, legacy (did you mean legacy?), not "legcy"'),
            ('host-keys = "yes"', "one of accept-new, strict, ignore"),
            ("connect-timeout = 0", 'a time from 100ms to 1h, like 5s, 2m or 1h, not "0"'),
            ('keepalive-interval = "2h"', "a time from 1s to 1h"),
            ("max-sessions = 0", "a whole number from 1 to 1000"),
            ("max-sessions = true", 'a whole number from 1 to 1000, not "true"'),
            ("max-connections = 1.5", "a whole number from 1 to 1000"),
            ("commands-per-connection = -1", "a whole number from 1 to 1000000"),
            ('output-encoding = "utf-9"', "the name of a character set"),
            ("no-exit-status = 256", "a whole number from 0 to 255"),
            ('shell = "bash"', "one of posix, none, cmd, powershell, device"),
            ('pty = "maybe"', "yes or no"),
            ('become = "doas"', "one of sudo, su"),
            ('become = "su"\nbecome-user = "-x"', "the name of a user"),
            ('become = "su"\nbecome-user = "a:b"', "the name of a user"),
            ('name = ""', "a single line of text"),
            ("pty = []", "one value"),
        ):
            key = line.splitlines()[-1].partition(" ")[0]
            message = self.mistake(self.good.replace('shell = "none"', "") + "\n" + line)
            self.assertIn(
                f"{key} of [[hosts]] number 1 in {self.directory / 'relayd.toml'}: expected {expected}", message
            )

    def test_companions(self) -> None:
        self.assertIn("become-user of [[hosts]] number 1", self.mistake(self.good + '\nbecome-user = "app"'))
        message = self.mistake(self.good + '\nbecome-password-file = "secret"')
        self.assertIn('needs become = "sudo", "su" or "enable" too', message)
        self.assertIn('missing; become = "enable" needs the secret', self.mistake(self.good + '\nbecome = "enable"'))
        self.assertIn("needs key-file too", self.mistake(self.good + '\npassphrase-file = "secret"'))

    def test_become_that_does_not_fit_the_shell(self) -> None:
        """Where the shell stands in the same table, or no table has the one that is needed."""
        hosts = 'hosts = ["*"]\n'
        enable = 'become = "enable"\nbecome-password-file = "secret"'
        for shell in ("none", "cmd", "powershell", "device"):
            message = self.mistake(f'{hosts}shell = "{shell}"\nbecome = "sudo"')
            self.assertIn("become of [[hosts]] number 1", message)
            self.assertIn(f'is "sudo", which needs shell = "posix", and not "{shell}"', message)
        for shell in ("posix", "none", "cmd", "powershell"):
            message = self.mistake(f'{hosts}shell = "{shell}"\n{enable}')
            self.assertIn(f'is "enable", which needs shell = "device", and not "{shell}"', message)
        message = self.mistake(self.good, hosts + enable)
        self.assertIn("become of [[hosts]] number 2", message)
        self.assertIn('is "enable", which needs shell = "device", and no table says that', message)
        self.assertIn("has no user", self.mistake(f'{hosts}shell = "device"\nbecome-user = "x"\n{enable}'))
        for family in ("juniper", "mikrotik", "generic"):
            message = self.mistake(f'{hosts}shell = "device"\nfamily = "{family}"\n{enable}')
            self.assertIn("become of [[hosts]] number 1", message)
            self.assertIn(f'is "enable", which the family {family} has not; only cisco, huawei, h3c have it', message)
        device = 'hosts = ["sw-*"]\nshell = "device"'
        for tables in ((hosts + enable, device), (hosts + 'become = "su"', device), (f"{device}\n{enable}",)):
            self.load("\n".join(f"[[hosts]]\n{table}" for table in tables))

    def test_a_family_of_what_is_no_device(self) -> None:
        hosts = 'hosts = ["*"]\n'
        for shell in ("posix", "none", "cmd", "powershell"):
            message = self.mistake(f'{hosts}shell = "{shell}"\nfamily = "huawei"')
            self.assertIn("family of [[hosts]] number 1", message)
            self.assertIn(f'needs shell = "device", and not "{shell}"', message)
        message = self.mistake(self.good, f'{hosts}family = "huawei"')
        self.assertIn("family of [[hosts]] number 2", message)
        self.assertIn('needs shell = "device", and no table says that', message)
        self.load('[[hosts]]\nhosts = ["a*"]\nfamily = "huawei"\n[[hosts]]\nhosts = ["*"]\nshell = "device"')

    def test_files_that_others_can_read(self) -> None:
        os.chmod(self.secret, 0o644)
        for line in ('become = "su"\nbecome-password-file = "secret"', 'password-file = "secret"'):
            self.assertIn("other users can read the file: chmod 600 it", self.mistake(f"{self.good}\n{line}"))

    def test_a_table_that_says_nothing(self) -> None:
        for rest in ("", '\nname = "x"', "\nagent = false"):
            self.assertIn("says nothing of its hosts", self.mistake('hosts = ["*"]' + rest))

    def test_a_mistake_in_each(self) -> None:
        self.argv["config"] = self.write("relayd.toml", "[[hosts]]\n[[hosts]]\nx = 1")
        found = [str(mistake) for mistake in read(self.argv, self.environ).mistakes]
        self.assertEqual(len(found), 2)
        self.assertIn("number 2", found[1])

    def test_equal_files_are_equal_settings(self) -> None:
        self.assertEqual(self.load(EVERYTHING), replace(self.load(EVERYTHING)))
