"""
relayd.config.credentials: which rows a TOML file may have, whom they cover, and how a mistake is told.
"""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from relayd.config.credentials import read_credential
from relayd.config.paths import Paths
from relayd.config.tables import Surroundings, read_tables
from relayd.errors import ConfigError
from relayd.network.credential_rules import CredentialRule, parse_via
from relayd.ssh.login.site_credentials import CredentialTable
from tests.config.test_options import ConfigCase


class CredentialsCase(ConfigCase):
    """Has files that a row may name."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("deploy", "deploy.pass", "lab.password", "deploy-cert.pub"):
            self.write(name, "s3cret")

    def rows(self, *tables: str) -> tuple[CredentialRule, ...]:
        return self.load("\n".join(f"[[credentials]]\n{table}" for table in tables)).credentials

    def mistake(self, *tables: str) -> str:
        message = self.refusal("\n".join(f"[[credentials]]\n{table}" for table in tables))
        self.assertNotIn("s3cret", message)
        return message


class RowTests(CredentialsCase):
    """Rows as they should be."""

    def test_none(self) -> None:
        self.assertEqual(self.load().credentials, ())
        self.assertEqual(self.load("max-commands = 3").credentials, ())

    def test_every_key(self) -> None:
        self.environ["SSH_AUTH_SOCK"] = "/run/agent"
        rows = self.rows(
            """
            hosts = ["10.1.0.0/16", "!DB-9.internal", "[*]:2222"]
            users = ["deploy", " app-* ", "!app-x"]
            key-file = "deploy"
            passphrase-file = "./deploy.pass"
            certificate-file = "deploy-cert.pub"
            password-file = "lab.password"
            agent = true
            via = "jump@bastion:2222, second"
            """,
            'hosts = ["*"]\nagent = "agent.sock"',
            'hosts = ["*"]\nvia = "[::1]:24,10.0.0.1,j@x@[fd00::1]"\nagent = false',
        )
        first = CredentialRule(
            hosts=("10.1.0.0/16", "!DB-9.internal", "[*]:2222"),
            users=("deploy", "app-*", "!app-x"),
            key_file=str(self.directory / "deploy"),
            passphrase_file=str(self.directory / "deploy.pass"),
            certificate_file=str(self.directory / "deploy-cert.pub"),
            password_file=str(self.directory / "lab.password"),
            agent="/run/agent",
            via="jump@bastion:2222,second",
        )
        self.assertEqual(
            rows,
            (
                first,
                CredentialRule(hosts=("*",), agent=str(self.directory / "agent.sock")),
                CredentialRule(hosts=("*",), via="[::1]:24,10.0.0.1,j@x@[fd00::1]"),
            ),
        )

    def test_paths_in_the_home_directory(self) -> None:
        self.patch(os.path, "expanduser", lambda path: path.replace("~", str(self.directory)))
        [row] = self.rows('hosts = ["*"]\nkey-file = "~/deploy"')
        self.assertEqual(row.key_file, str(self.directory / "deploy"))

    def test_file_of_somebody_else(self) -> None:
        """Whoever owns it answers for who may read it."""
        os.chmod(self.directory / "deploy", 0o440)
        self.assertIn("other users can read the file", self.mistake('hosts = ["*"]\nkey-file = "deploy"'))
        self.patch(os, "geteuid", lambda: os.getuid() + 1)
        self.rows('hosts = ["*"]\nkey-file = "deploy"')

    def test_only_in_the_file(self) -> None:
        self.environ["RELAYD_CREDENTIALS"] = "x"
        self.argv["credentials"] = "x"
        self.assertEqual(self.load().credentials, ())


class RuleTests(CredentialsCase):
    """What passes here has a meaning for those that use it."""

    @given(
        st.lists(st.text(alphabet="ab1.*?!/:[]@ ", max_size=12), max_size=3),
        st.lists(st.text(alphabet="ab*?! ", max_size=5), max_size=3),
        st.text(alphabet="ab1.:@[],/ ", max_size=16),
    )
    def test_any_row(self, hosts: list[str], users: list[str], via: str) -> None:
        table = {"hosts": [*hosts, "*"], "users": [*users, "*"], "agent": "/x"} | ({"via": via} if via else {})
        mistakes: list[ConfigError] = []
        surroundings = Surroundings("/etc/relayd.toml", {}, Paths({}))
        rows = read_tables("credentials", [table], surroundings, read_credential, mistakes.append)
        for mistake in mistakes:
            self.assertIn(" of [[credentials]] number 1 in /etc/relayd.toml: expected ", str(mistake))
        self.assertEqual(len(rows) + len(mistakes), 1)
        for row in rows:
            CredentialTable([row]).find("a.b1", 22, "a")
            self.assertEqual(len(parse_via(row.via or "")), via.count(",") + bool(via))


class MistakeTests(CredentialsCase):
    """One line, with the number of the row and the key."""

    good = 'hosts = ["*"]\nkey-file = "deploy"'

    def test_unknown_key(self) -> None:
        path = self.directory / "relayd.toml"
        self.assertEqual(
            self.mistake(self.good, 'hosts = ["*"]\nkey-fil = "deploy"'),
            f'"key-fil" of [[credentials]] number 2 in {path}: no such key; did you mean key-file?',
        )
        self.assertIn("did you mean password-file?", self.mistake('hosts = ["*"]\npassword = "s3cret"'))
        self.assertTrue(self.mistake('hosts = ["*"]\nzzz = 1').endswith("no such key"))
        self.assertIn("a key of [[cred", self.mistake('hosts = ["*"]\n"a\\nb" = 1'))

    def test_shape(self) -> None:
        for toml in ("credentials = 5", 'credentials = ["x"]', "[credentials]\nhosts = ['*']"):
            self.assertIn("expected tables that each begin with [[credentials]]", self.refusal(toml))
        self.assertIn("did you mean credentials?", self.refusal("[[credential]]\nhosts = ['*']"))

    def test_hosts(self) -> None:
        self.assertIn("hosts of [[credentials]] number 1", message := self.mistake('key-file = "deploy"'))
        self.assertIn("missing; give a list", message)
        for hosts in ("[]", '"*"', "[5]", '[""]', '["a\\nb"]', "[['x']]"):
            self.assertIn("expected a list of texts, such as", self.mistake(f"hosts = {hosts}\nagent = '/x'"))
        for host in ("10.1.2.3/8", "10.1.0.0/40", "a/b", "/"):
            self.assertIn(
                f'expected a network like 10.1.0.0/16, without bits beyond its length, not "{host}"',
                self.mistake(f"hosts = ['{host}']\nagent = '/x'"),
            )
        for host in ("u@h", "[::1]", "a,b", "!!a", "[a]:0", "[a]:65536", "[a]:x", "a b", "!"):
            message = self.mistake(f"hosts = ['*', '{host}']\nagent = '/x'")
            self.assertIn("PORT", message)
            self.assertIn(f'not "{host}"', message)
        for host in ("10.1.0.1-10.1.0.9", "!10.1.0.1-9", "10.1.2.300", "0x0a010203", "10.1.2", "fd00::1-fd00::9"):
            message = self.mistake(f"hosts = ['*', '{host}']\nagent = '/x'")
            self.assertIn("expected an address as it is usually written, like 10.1.2.3 or fd00::1, or a net", message)
        self.assertIn(
            'expected at least one pattern without !, such as "*"', self.mistake("hosts = ['!a']\nagent = '/x'")
        )

    def test_users(self) -> None:
        for users in ("[]", '"root"', "[5]"):
            message = self.mistake(f"{self.good}\nusers = {users}")
            self.assertIn("users of [[credentials]] number 1", message)
            self.assertIn('expected a list of texts, such as ["deploy", "app-*"]', message)
        for user in ("root:x", "!root/x", "!"):
            message = self.mistake(f"{self.good}\nusers = ['*', '{user}']")
            self.assertIn("expected a user name or a pattern of user names, without : and /", message)
            self.assertIn(f'not "{user}"', message)
        self.assertIn("expected at least one pattern without !", self.mistake(f"{self.good}\nusers = ['!root']"))

    def test_files(self) -> None:
        other = 'hosts = ["*"]\nagent = "/x"\n'
        for key in ("key-file", "password-file"):
            message = self.mistake(other + f'{key} = "s3cret-pasted-here"')
            self.assertIn(f"{key} of [[credentials]] number 1", message)
            self.assertIn(f"there is none (paths are relative to {self.directory})", message)
            self.assertIn("expected the path of a file", self.mistake(other + f'{key} = "-----BEGIN\\ns3cret"'))
            self.assertIn("expected the path of a file", self.mistake(other + f"{key} = true"))
            self.assertIn("expected the path of a regular file", self.mistake(other + f'{key} = "."'))
        self.assertIn(
            f"there is none at {self.directory}/nowhere", self.mistake(other + 'certificate-file = "nowhere"')
        )

    def test_a_file_below_home(self) -> None:
        """A unit does not see it, whatever its administrator sees."""
        said = self.mistake(
            f'{self.good}\n[[credentials]]\nhosts = ["*"]\nusers = ["*"]\nkey-file = "/home/no-such/id"'
        )
        self.assertIn("(ProtectHome= of a unit hides it); let systemd pass it on (LoadCredential= in the unit)", said)
        self.assertNotIn("/home/no-such", said)

    def test_files_that_cannot_be_read(self) -> None:
        self.patch(os, "access", lambda path, mode: False)
        self.assertIn("this user cannot read the file; let systemd pass it on", self.mistake(self.good))

    def test_files_that_others_can_read(self) -> None:
        for name, key in (("deploy", "key-file"), ("lab.password", "password-file")):
            os.chmod(self.directory / name, 0o640)
            message = self.mistake(f'hosts = ["*"]\n{key} = "{name}"')
            self.assertIn("other users can read the file: chmod 600 it", message)
        os.chmod(self.directory / "deploy", 0o600)
        os.chmod(self.directory / "deploy-cert.pub", 0o644)
        self.rows(self.good + '\ncertificate-file = "deploy-cert.pub"')

    def test_agent(self) -> None:
        self.assertIn("SSH_AUTH_SOCK is not set", self.mistake('hosts = ["*"]\nagent = true'))
        for agent in ("5", '""', "['/x']"):
            self.assertIn("expected true (for $SSH_AUTH_SOCK)", self.mistake(f'hosts = ["*"]\nagent = {agent}'))

    def test_via(self) -> None:
        for via in ("", "a,,b", "@a", "a:", "a:0", "a:ssh", "a:99999", "a b", "[::1", "u@", "a/b", "a?b", "::1",
                    "10.1.0.1-10.1.0.9", "10.1.2.300", "[fd00::g]", "root:x@a", "r/x@a"):  # fmt: skip
            message = self.mistake(f'{self.good}\nvia = "{via}"')
            self.assertIn("via of [[credentials]] number 1", message)
            self.assertIn("like jump@bastion:2222,second", message)
        self.assertIn("expected jump hosts", self.mistake(f"{self.good}\nvia = 5"))
        self.assertIn("at most 8 jump hosts", self.mistake(f'{self.good}\nvia = "{",".join("abcdefghi")}"'))

    def test_row_without_a_use(self) -> None:
        expected = (
            "[[credentials]] number 1 in {}/relayd.toml: needs at least one of key-file, password-file, agent and via"
        )
        self.assertEqual(self.mistake('hosts = ["*"]'), expected.format(self.directory))
        self.assertIn("needs at least one of", self.mistake('hosts = ["*"]\nagent = false'))

    def test_companions(self) -> None:
        other = 'hosts = ["*"]\npassword-file = "lab.password"\n'
        self.assertIn("needs key-file too", self.mistake(other + 'passphrase-file = "deploy.pass"'))
        self.assertIn("needs key-file or agent too", self.mistake(other + 'certificate-file = "deploy-cert.pub"'))
