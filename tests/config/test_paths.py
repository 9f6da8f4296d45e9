"""
relayd.config.paths: $CREDENTIALS_DIRECTORY in the paths of settings, and files that only the relay can read.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from relayd.config import command_line
from relayd.config.paths import Elsewhere
from relayd.config.reading import read
from relayd.process.unit_files import loaded_credentials
from relayd.tap import Options
from tests.config.test_options import KEY, ConfigCase

ROW = '[[credentials]]\nhosts = ["*"]\nkey-file = "$CREDENTIALS_DIRECTORY/deploy"\n'


class CredentialsTests(ConfigCase):
    """What systemd passes on."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = self.directory / "credentials"
        self.folder.mkdir()

    def pass_on(self, **files: str) -> None:
        self.environ["CREDENTIALS_DIRECTORY"] = str(self.folder)
        for name, text in files.items():
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o400)

    def test_in_the_file(self) -> None:
        self.pass_on(deploy="s3cret", ca="PEM")
        config = self.load(f'tls-ca = "${{CREDENTIALS_DIRECTORY}}/ca"\n{ROW}')
        self.assertEqual(config.credentials[0].key_file, str(self.folder / "deploy"))
        self.assertEqual(config.tls_ca, str(self.folder / "ca"))

    def test_on_the_command_line_and_in_the_environment(self) -> None:
        self.pass_on(key=KEY, headers="X: y")
        self.environ["RELAYD_HEADER_FILE"] = "$CREDENTIALS_DIRECTORY/headers"
        config = self.load(api_key_file="$CREDENTIALS_DIRECTORY/key")
        self.assertEqual((config.read_api_key().reveal(), config.header_file), (KEY, str(self.folder / "headers")))

    def test_nobody_passes_any(self) -> None:
        reason = "CREDENTIALS_DIRECTORY is not set; systemd sets it for a unit that has LoadCredential="
        path = self.directory / "relayd.toml"
        self.assertEqual(self.refusal(ROW), f"key-file of [[credentials]] number 1 in {path}: {reason}")
        self.assertEqual(self.refusal('tls-ca = "$CREDENTIALS_DIRECTORY/ca"'), f"tls-ca in {path}: {reason}")

    def test_one_that_is_not_passed(self) -> None:
        self.pass_on()
        self.assertTrue(
            self.refusal(ROW).endswith(
                "expected the path of a file; there is none; the unit passes on no credential deploy: put "
                "LoadCredential=deploy:FILE into a drop-in"
            )
        )
        self.pass_on(depoly=KEY)
        self.assertIn("no credential deploy (it passes on depoly): put", self.refusal(ROW))

    def test_other_words_are_names(self) -> None:
        self.pass_on(deploy="s3cret")
        (self.directory / "credentialsX").mkdir()
        self.write("credentialsX/deploy", "s3cret")
        for path in ("$CREDENTIALS_DIRECTORYX/deploy", "$HOME/deploy", "x/$CREDENTIALS_DIRECTORY/deploy"):
            self.assertIn(
                "expected the path of a file", self.refusal(ROW.replace("$CREDENTIALS_DIRECTORY/deploy", path))
            )


class UnseenTests(ConfigCase):
    """A reload of a unit reads the settings where systemd does not show the credentials."""

    def test_nothing_is_said_of_them(self) -> None:
        folder = "/run/credentials/relayd.service"
        self.environ["CREDENTIALS_DIRECTORY"] = folder
        config = self.write("relayd.toml", f'tls-ca = "{folder}/ca"\nheader-file = "/nowhere"\n{ROW}')
        argv = self.argv | {"config": config, "api-key-file": None}
        self.assertEqual(len(read(argv, self.environ).mistakes), 1)  # of the table, and no more is known
        self.assertEqual(read(argv, self.environ, elsewhere=Elsewhere(unseen=(folder,))).mistakes, ())
        proxy = argv | {"http-proxy": "http://user@proxy:1", "http-proxy-password-file": f"{folder}/password"}
        self.assertEqual(read(proxy, self.environ, elsewhere=Elsewhere(unseen=(folder,))).mistakes, ())

    def test_what_is_beside_them_is_looked_at(self) -> None:
        elsewhere = Elsewhere(unseen=(f"{self.directory}/cred",))
        for name in ("credx", "key"):
            argv = self.argv | {"api-key-file": str(self.directory / name)}
            self.assertEqual(len(read(argv, self.environ, elsewhere=elsewhere).mistakes), 1)


class MissingKeyTests(ConfigCase):
    """The packaged unit starts without its key, and relayd says which file is missing."""

    def test_it_names_the_file(self) -> None:
        files = self.directory / "files"
        files.mkdir()
        (files / "relayd@a.service").write_text("[Service]\nLoadCredential=api-key:/etc/relayd/the-key\n")
        self.patch(command_line, "loaded_credentials", lambda unit: loaded_credentials(unit, (files,)))
        folder = self.directory / "relayd@a.service"
        folder.mkdir()
        (folder / "api-key").write_text("\n")
        self.patch(command_line, "CREDENTIALS_ROOT", str(self.directory))
        self.patch(os, "environ", {"CREDENTIALS_DIRECTORY": str(folder)})
        with open(self.directory / "said", "w+") as said:
            self.patch(sys, "stderr", said)
            state = ["--state-dir", str(self.directory / "state")]
            self.assertRaises(SystemExit, Options().parseOptions, ["--server", "wss://a", "--proxy-id", "p", *state])
        self.assertEqual(
            Path(self.directory / "said").read_text(),
            "relayd: $CREDENTIALS_DIRECTORY/api-key: the API key cannot be used: its file is empty; put it into "
            "/etc/relayd/the-key, from where systemd passes it on (LoadCredential=api-key)\n",
        )
