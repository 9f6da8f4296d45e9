"""
relayd.hub.config: the hub's options, from all the places where people set them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relayd.config.reading import read as read_relay
from relayd.errors import ConfigError
from relayd.hub.config.options import HUB_TABLE, HubConfig
from relayd.hub.config.reading import exposures, load, read
from relayd.hub.config.values import database_url, password_in, public_url, without_password


class HubOptionsCase(SynchronousTestCase):
    """Tests with a state directory."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.state = {"state-dir": str(self.folder / "state")}

    def write(self, name: str, content: str, mode: int = 0o600) -> str:
        """The path of a new file."""
        path = self.folder / name
        path.write_text(content)
        path.chmod(mode)
        return str(path)

    def mistakes(self, **options: str | list[str]) -> list[str]:
        """What is wrong with options of the command line."""
        given = {name.replace("_", "-"): value for name, value in options.items()}
        return [str(mistake) for mistake in read(self.state | given, {}).mistakes]


class ReadingTests(HubOptionsCase):
    """`read`."""

    def test_defaults(self) -> None:
        config = load({}, {"STATE_DIRECTORY": str(self.folder)}, complete=False)
        self.assertEqual(str(config.listen), "tcp:127.0.0.1:8765")
        self.assertEqual((config.state_dir, config.secrets_file), (str(self.folder), f"{self.folder}/secrets"))
        self.assertEqual((config.addresses, config.database_of()), ((config.listen,), None))
        self.assertEqual(config.trusted_proxies, ())
        for option in HUB_TABLE.options:
            if option.default is not None:
                self.assertEqual(option.parse(option.default), getattr(config, option.attribute), option.name)
                self.assertEqual(option.parse(option.spell(option.parse(option.default))), option.parse(option.default))
            if option.example:
                option.parse(option.example)

    def test_places(self) -> None:
        path = self.write("hub.toml", 'log-level = "debug"\nkeep-runs = "10d"\ntrusted-proxy = ["10.0.0.0/8", "::1"]\n')
        environ = {"RELAYD_HUB_KEEP_RUNS": "20d", "RELAYD_HUB_CONFIG": path, "RELAYD_HUB_LOG_FORMAT": "json"}
        config = load(self.state | {"log-format": "text"}, environ)
        self.assertEqual((config.log_level, config.log_format, config.keep_runs), ("debug", "text", 20 * 86400.0))
        self.assertEqual(config.trusted_proxy, ("10.0.0.0/8", "::1/128"))

    def test_variables_of_the_other_program(self) -> None:
        """They begin in the same way, and are similar to its own."""
        environ = {"RELAYD_HUB_STATE_DIR": "/x", "RELAYD_HUB_QQQQQQQQQQQQQQQQ": "x", "RELAYD_STATE_DIR": "/y"}
        relay = read_relay({}, environ, complete=False)
        self.assertEqual((relay.mistakes, relay.unknown), ((), ()))
        hub = read(self.state, environ)
        self.assertEqual((hub.mistakes, hub.unknown), ((), ("RELAYD_HUB_QQQQQQQQQQQQQQQQ",)))
        meant = read(self.state, {"RELAYD_HUB_LOG_LEVL": "x"}).mistakes
        self.assertIn("did you mean RELAYD_HUB_LOG_LEVEL?", str(meant[0]))

    def test_credentials_of_systemd(self) -> None:
        self.write("secrets", "x")
        config = load(self.state, {"CREDENTIALS_DIRECTORY": str(self.folder)})
        self.assertEqual(config.secrets_file, str(self.folder / "secrets"))

    def test_mistakes(self) -> None:
        key = self.write("key.pem", "")
        for options, said in (
            ({"tls_cert": key}, "--tls-cert: needs --tls-key too"),
            ({"tls_cert": key, "tls_key": "/nowhere"}, "--tls-key: there is no file /nowhere"),
            ({"listen": "tcp:0.0.0.0:80"}, "is reached from other machines, and nothing encrypts"),
            ({"api_listen": "tcp:0.0.0.0:80"}, "--api-listen: tcp:0.0.0.0:80 is reached from other machines"),
            ({"listen": "unix:/a", "api_listen": "unix:/a:mode=600"}, "--api-listen: is the address of --listen"),
            (
                {"trusted_proxy": ["10.0.0.0/8", "proxy"]},
                'expected networks like 10.0.0.0/8, or addresses, not "proxy"',
            ),
            ({"public_url": "https://hub/path"}, "--public-url: expected a URL without user, path and query"),
            ({"database": "mysql://x/y"}, "expected a URL like postgresql://HOST/NAME, not the given value"),
            ({"database": "postgresql://u:pw@h/n"}, "everybody can read a command line"),
            ({"database": "postgresql://h/n", "database_file": key}, "is given by --database already"),
            ({"database_file": key}, "the URL cannot be used: its file is empty"),
            ({"keep_runs": "1s"}, "expected a time from 1h to 36500d"),
            ({"state_dir": key}, f"{key} is not a directory"),
        ):
            found = self.mistakes(**options)
            self.assertEqual(len(found), 1, found)
            self.assertIn(said, found[0])
            self.assertNotIn("pw", found[0])
        self.assertEqual(self.mistakes(listen="tcp:0.0.0.0:80", allow_plaintext="yes"), [])

    def test_the_database(self) -> None:
        path = self.write("url", "postgresql://u:hunter2@h/n\n")
        config = load(self.state | {"database-file": path}, {})
        url = config.database_of()
        assert url is not None
        self.assertEqual(url.reveal(), "postgresql://u:hunter2@h/n")
        config = load(self.state, {"RELAYD_HUB_DATABASE": "postgresql://u:hunter2@h/n"})
        self.assertNotIn("hunter2", repr(config))
        self.write("url", "mysql://u:hunter2@h/n")
        config = load(self.state | {"database-file": path}, {}, complete=False)
        error = self.assertRaises(ConfigError, HubConfig.database_of, config)
        self.assertNotIn("hunter2", str(error))

    def test_exposures(self) -> None:
        environ = {
            "RELAYD_HUB_DATABASE": "postgresql://u:hunter2@h/n",
            "RELAYD_HUB_TLS_KEY": self.write("k", "", 0o644),
        }
        environ["RELAYD_HUB_TLS_CERT"] = environ["RELAYD_HUB_TLS_KEY"]
        found = exposures(read(self.state, environ), environ)
        self.assertEqual(len(found), 2, found)
        self.assertIn("other users can read the private key of --tls-key", found[0])
        self.assertIn("RELAYD_HUB_DATABASE in the environment holds the database's password", found[1])
        self.assertNotIn("hunter2", "".join(found))
        path = self.write("hub.toml", 'database = "postgresql://u:hunter2@h/n"', 0o644)
        self.assertIn(f"others can read {path}", exposures(read(self.state | {"config": path}, {}), {})[0])
        self.assertEqual(exposures(read(self.state, {}), os.environ), [])


class ValueTests(SynchronousTestCase):
    """The parsers of the hub's own values."""

    def test_urls(self) -> None:
        self.assertEqual(public_url("https://hub.example.com:8443/"), "https://hub.example.com:8443")
        self.assertEqual(database_url("postgres://h/n"), "postgresql://h/n")
        self.assertEqual(database_url("postgresql:///n?host=/run"), "postgresql:///n?host=/run")
        for wrong in ("hub", "https://u@hub", "https://hub?x", "ftp://hub", "https://h:99999", "https://a b"):
            self.assertRaises(ValueError, public_url, wrong)
        for url in ("postgresql://u:pw@h/n", "postgresql://h/n?password=pw"):
            self.assertTrue(password_in(url))
            self.assertEqual(without_password(url), "postgresql://h/n")
        self.assertFalse(password_in("postgresql://u@h/n"))
