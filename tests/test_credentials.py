"""
relayd.credentials: which rows a TOML file may have, whom they cover, and how a mistake is told.
"""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from relayd.credentials import HostPattern, SiteCredential, SiteHop, read_credentials
from relayd.errors import ConfigError
from tests.test_config import ConfigCase


class CredentialsCase(ConfigCase):
    """Has files that a row may name."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("deploy", "deploy.pass", "lab.password", "deploy-cert.pub"):
            self.write(name, "s3cret")

    def rows(self, *tables: str) -> tuple[SiteCredential, ...]:
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
            hosts = ["10.1.0.0/16", "!DB-9.internal."]
            users = ["deploy", "root"]
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
        first = SiteCredential(
            hosts=(HostPattern("10.1.0.0/16"), HostPattern("db-9.internal", negated=True)),
            users=("deploy", "root"),
            key_file=str(self.directory / "deploy"),
            passphrase_file=str(self.directory / "deploy.pass"),
            certificate_file=str(self.directory / "deploy-cert.pub"),
            password_file=str(self.directory / "lab.password"),
            agent="/run/agent",
            via=(SiteHop("bastion", 2222, "jump"), SiteHop("second")),
        )
        hops = SiteHop("::1", 24), SiteHop("10.0.0.1"), SiteHop("fd00::1", 22, "j@x")
        self.assertEqual(
            rows,
            (
                first,
                SiteCredential(hosts=(HostPattern("*"),), agent=str(self.directory / "agent.sock")),
                SiteCredential(hosts=(HostPattern("*"),), via=hops),
            ),
        )
        self.assertEqual([row.has_credential for row in rows], [True, True, False])

    def test_paths_in_the_home_directory(self) -> None:
        self.patch(os.path, "expanduser", lambda path: path.replace("~", str(self.directory)))
        [row] = self.rows('hosts = ["*"]\nkey-file = "~/deploy"')
        self.assertEqual(row.key_file, str(self.directory / "deploy"))

    def test_file_of_systemd(self) -> None:
        os.chmod(self.directory / "deploy", 0o444)
        self.assertIn("other users can read the file", self.mistake('hosts = ["*"]\nkey-file = "deploy"'))
        self.environ["CREDENTIALS_DIRECTORY"] = str(self.directory)
        self.rows('hosts = ["*"]\nkey-file = "deploy"')

    def test_only_in_the_file(self) -> None:
        self.environ["RELAYD_CREDENTIALS"] = "x"
        self.argv["credentials"] = "x"
        self.assertEqual(self.load().credentials, ())


class CoverTests(CredentialsCase):
    """Whom a row is for."""

    def covered(self, hosts: str, *names: str) -> list[str]:
        [row] = self.rows(f"hosts = [{hosts}]\nagent = '/x'")
        return [name for name in names if row.covers(name, "root")]

    def test_names(self) -> None:
        names = ("db-1.internal", "DB-1.Internal.", "db-12.internal", "db-1.internal.example.com", "xdb-1.internal")
        self.assertEqual(self.covered('"db-1.internal"', *names), ["db-1.internal", "DB-1.Internal."])
        self.assertEqual(self.covered('"db-?.internal"', *names), ["db-1.internal", "DB-1.Internal."])
        self.assertEqual(self.covered('"db-*.internal"', *names), [*names[:3]])
        self.assertEqual(self.covered('"*"', *names), list(names))
        self.assertEqual(self.covered('"db+1.internal", "db.1"', "dbb1.internal", "dbx1"), [])

    def test_exceptions_win_wherever_they_stand(self) -> None:
        for hosts in ('"*", "!db-9.*"', '"!DB-9.*", "*"'):
            self.assertEqual(self.covered(hosts, "db-9.x", "DB-9.X.", "db-8.x"), ["db-8.x"])

    def test_addresses(self) -> None:
        names = ("10.1.2.3", "::ffff:10.1.2.3", "10.2.0.1", "10.1.example.com", "ten.internal")
        for pattern in ("10.1.*", "10.1.0.0/16", "::ffff:10.1.0.0/112", "10.1.2.3", "10.1.2.?", "10.*.3"):
            self.assertEqual(self.covered(f'"{pattern}"', *names), [*names[:2]], pattern)
        self.assertEqual(self.covered('"*", "!10.1.2.3"', *names), [*names[2:]])

    def test_addresses_of_version_6(self) -> None:
        names = ("fd00::1", "FD00:0:0::1", "fd01::1")
        for pattern in ("fd00::/16", "fd00::1", "fd00:0::1", "FD00:*"):
            self.assertEqual(self.covered(f'"{pattern}"', *names), [*names[:2]], pattern)

    def test_users(self) -> None:
        [row] = self.rows("hosts = ['*']\nusers = ['deploy', 'root']\nagent = '/x'")
        self.assertEqual([row.covers("h", name) for name in ("deploy", "root", "Root", "")], [True, True, False, False])

    @given(st.text(alphabet="ab1.*?!/:[", max_size=12), st.text(alphabet="ab1.:", max_size=12))
    def test_any_pattern(self, pattern: str, host: str) -> None:
        table = {"hosts": [pattern, "*"], "agent": "/x"}
        try:
            [row] = read_credentials([table], "/etc/relayd.toml", {})
        except ConfigError as error:
            self.assertIn("hosts of [[credentials]] number 1 in /etc/relayd.toml", str(error))
        else:
            self.assertEqual(row.covers(host, "u"), not pattern.startswith("!") or not row.hosts[0].matches(host))


class MistakeTests(CredentialsCase):
    """One line, with the number of the row and the key."""

    good = 'hosts = ["*"]\nkey-file = "deploy"'

    def test_unknown_key(self) -> None:
        path = self.directory / "relayd.toml"
        self.assertEqual(
            self.mistake(self.good, 'hosts = ["*"]\nkey-fil = "deploy"'),
            f'"key-fil" of [[credentials]] number 2 in {path}: there is no such key; did you mean key-file?',
        )
        self.assertIn("did you mean password-file?", self.mistake('hosts = ["*"]\npassword = "s3cret"'))
        self.assertTrue(self.mistake('hosts = ["*"]\nzzz = 1').endswith("there is no such key"))
        self.assertIn("what is there of [[cred", self.mistake('hosts = ["*"]\n"a\\nb" = 1'))

    def test_shape(self) -> None:
        for toml in ("credentials = 5", 'credentials = ["x"]', "[credentials]\nhosts = ['*']"):
            self.assertIn("expected tables, each begun by [[credentials]]", self.refusal(toml))
        self.assertIn("did you mean credentials?", self.refusal("[[credential]]\nhosts = ['*']"))

    def test_hosts(self) -> None:
        self.assertIn("hosts of [[credentials]] number 1", message := self.mistake('key-file = "deploy"'))
        self.assertIn("missing; give a list", message)
        for hosts in ("[]", '"*"', "[5]", '[""]', '["a\\nb"]', "[['x']]"):
            self.assertIn("expected a list of texts, like", self.mistake(f"hosts = {hosts}\nagent = '/x'"))
        for host in ("10.1.2.3/8", "10.1.0.0/40", "a/b", "/"):
            self.assertIn(
                f'expected a network like 10.1.0.0/16, not "{host}"', self.mistake(f"hosts = ['{host}']\nagent = '/x'")
            )
        for host in ("a b", "u@h", "[::1]", "a,b", "!", "!!a", "."):
            self.assertIn("expected a name, a pattern or a network", self.mistake(f"hosts = ['{host}']\nagent = '/x'"))
        self.assertIn('expected a host without ! too, like "*"', self.mistake("hosts = ['!a']\nagent = '/x'"))

    def test_users(self) -> None:
        for users in ("[]", '"root"', "[5]"):
            message = self.mistake(f"{self.good}\nusers = {users}")
            self.assertIn("users of [[credentials]] number 1", message)
            self.assertIn('expected a list of texts, like ["deploy"]', message)

    def test_files(self) -> None:
        other = 'hosts = ["*"]\nagent = "/x"\n'
        for key in ("key-file", "password-file"):
            message = self.mistake(other + f'{key} = "s3cret-pasted-here"')
            self.assertIn(f"{key} of [[credentials]] number 1", message)
            self.assertIn(f"and there is none (paths are relative to {self.directory})", message)
            self.assertIn("expected the path of a file", self.mistake(other + f'{key} = "-----BEGIN\\ns3cret"'))
            self.assertIn("expected the path of a file", self.mistake(other + f"{key} = true"))
            self.assertIn("expected the path of a file, and this is none", self.mistake(other + f'{key} = "."'))
        self.assertIn(
            f"there is none at {self.directory}/nowhere", self.mistake(other + 'certificate-file = "nowhere"')
        )

    def test_files_that_cannot_be_read(self) -> None:
        self.patch(os, "access", lambda path, mode: False)
        self.assertIn("this user cannot read the file", self.mistake(self.good))

    def test_files_that_others_can_read(self) -> None:
        for name, key in (("deploy", "key-file"), ("lab.password", "password-file")):
            os.chmod(self.directory / name, 0o640)
            message = self.mistake(f'hosts = ["*"]\n{key} = "{name}"')
            self.assertIn("other users can read the file: chmod 600 it", message)
        os.chmod(self.directory / "deploy", 0o600)
        os.chmod(self.directory / "deploy-cert.pub", 0o644)
        self.rows(self.good + '\ncertificate-file = "deploy-cert.pub"')

    def test_agent(self) -> None:
        self.assertIn("SSH_AUTH_SOCK is not in the environment", self.mistake('hosts = ["*"]\nagent = true'))
        for agent in ("5", '""', "['/x']"):
            self.assertIn("expected true (for $SSH_AUTH_SOCK)", self.mistake(f'hosts = ["*"]\nagent = {agent}'))

    def test_via(self) -> None:
        for via in ("", "a,,b", "@a", "a:", "a:0", "a:ssh", "a:99999", "a b", "[::1", "u@", "a/b", "a?b", "::1"):
            message = self.mistake(f'{self.good}\nvia = "{via}"')
            self.assertIn("via of [[credentials]] number 1", message)
            self.assertIn("like jump@bastion:2222,second", message)
        self.assertIn("expected jump hosts", self.mistake(f"{self.good}\nvia = 5"))
        self.assertIn("at most 8 jump hosts", self.mistake(f'{self.good}\nvia = "{",".join("abcdefghi")}"'))

    def test_row_without_a_use(self) -> None:
        expected = "[[credentials]] number 1 in {}/relayd.toml: expected one of key-file, password-file, agent and via"
        self.assertEqual(self.mistake('hosts = ["*"]'), expected.format(self.directory))
        self.assertIn("expected one of", self.mistake('hosts = ["*"]\nagent = false'))

    def test_companions(self) -> None:
        other = 'hosts = ["*"]\npassword-file = "lab.password"\n'
        self.assertIn("needs key-file beside it", self.mistake(other + 'passphrase-file = "deploy.pass"'))
        self.assertIn("needs key-file or agent beside", self.mistake(other + 'certificate-file = "deploy-cert.pub"'))
