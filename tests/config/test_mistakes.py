"""
What people get wrong in the settings: each mistake is one line that names the option and says what was expected.
"""

from __future__ import annotations

import io
import sys

from relayd.config.options import OPTIONS
from relayd.config.reading import read
from relayd.errors import MISTAKES
from relayd.tap import Options
from tests.config.test_options import KEY, ConfigCase

#: What stands in the file, and what is said of it, without the path of the file.
IN_THE_FILE = (
    ("MAX-COMMANDS = 5", "MAX-COMMANDS in FILE: no such option; did you mean max-commands?"),
    ("max_commands = 5", "max_commands in FILE: no such option; did you mean max-commands?"),
    ("zzz = 5", "zzz in FILE: no such option"),
    ('"a\\nb" = 5', "a key in FILE: no such option"),
    (f'"{KEY}" = 5', "a key in FILE: no such option"),
    (
        "[relayd]\nmax-commands = 5",
        "relayd in FILE: no such table; options belong at the top of the file, outside of tables",
    ),
    ("[credentials]", "credentials in FILE: expected tables that each begin with [[credentials]]"),
    (
        '[[credentials]]\nhosts = ["*"]\npassword-file = "api-key"\nmax-commands = 5',
        '"max-commands" of [[credentials]] number 1 in FILE: is an option; move it above the',
    ),
    ('host-keys = "STRICT"', "(did you mean strict?)"),
    ('host-keys = ["strict"]', 'host-keys in FILE: expected one value, like max-commands = 64 or dialect = "auto"'),
    (
        "idle-timeout = 2020-01-01",
        'idle-timeout in FILE: expected one value, like max-commands = 64 or dialect = "auto"',
    ),
    ("max-commands = 1.0", 'max-commands in FILE: expected a whole number from 1 to 1000000, not "1.0"'),
    ("max-commands = -1", 'max-commands in FILE: expected a whole number from 1 to 1000000, not "-1"'),
    ("max-commands = true", 'max-commands in FILE: expected a whole number from 1 to 1000000, not "true"'),
    ('idle-timeout = "5min"', 'idle-timeout in FILE: expected a time from 100ms to 1d, like 5s, 2m or 1h, not "5min"'),
    ('max-output = "8MiB"', 'max-output in FILE: expected a size from 1K to 1G, like 512K or 8M, not "8MiB"'),
    ('allow-plaintext = "maybe"', 'allow-plaintext in FILE: expected yes or no, not "maybe"'),
    ("allow-hosts = []", 'allow-hosts in FILE: expected networks, addresses and names, with commas between, not ""'),
    ('proxy-id = " "', 'proxy-id in FILE: expected a single line of text, not " "'),
    (f'http-proxy = "{KEY}"', "http-proxy in FILE: expected a URL like http://PROXY:3128, not the given value"),
    (
        "server = wss://main.example",
        "FILE: is not valid TOML: Invalid value (at line 1, column 10); put texts in quotes",
    ),
    ("max-commands = 5\nmax-commands = 6", "it is set twice: remove one of the two"),
    ("\ufeffmax-commands = 0", 'max-commands in FILE: expected a whole number from 1 to 1000000, not "0"'),
    ('tls-ca = "."', "tls-ca in FILE: there is no file FOLDER"),
    ('tls-cert = "api-key"', "tls-cert in FILE: needs --tls-key too"),
    ('default-timeout = "2d"', "--default-timeout must not be longer than --max-timeout, which is 1d"),
    ('state-dir = "api-key"', "state-dir in FILE: FOLDER/api-key is not a directory"),
    (
        'api-key-file = "."',
        "api-key-file in FILE: the API key cannot be used: its file cannot be read (Is a directory)",
    ),
    ('server = "ws://main.example"', 'server in FILE: "ws://main.example" would send the API key and all passwords'),
    ('proxy-id = ""', 'proxy-id in FILE: expected a single line of text, not ""'),
)


class OneByOneTests(ConfigCase):
    """Each mistake alone."""

    def test_in_the_file(self) -> None:
        for toml, expected in IN_THE_FILE:
            path = self.write("relayd.toml", toml)
            self.argv = {name: text for name, text in self.needed.items() if not toml.startswith(name)}
            message = self.refusal(config=path)
            where = expected.replace("FILE", path).replace("FOLDER", str(self.directory))
            self.assertIn(where, message, toml)
            self.assertNotIn(KEY, message)

    def setUp(self) -> None:
        super().setUp()
        self.needed = dict(self.argv)


class AllAtOnceTests(ConfigCase):
    """Whoever made three mistakes hears of three."""

    def test_of_all_sources(self) -> None:
        self.environ["RELAYD_IDLE_TIMEOUT"] = "x"
        self.environ["RELAYD_DRAIN_TIMOUT"] = "5s"
        self.environ["RELAYD_PORT"] = "tcp://10.0.0.1:80"
        path = self.write("relayd.toml", "max-queue = -1\nmax_output = 5\n[[credentials]]\n[[credentials]]\nx = 1")
        reading = read({**self.argv, "max-commands": "0", "config": path}, self.environ)
        self.assertIsNone(reading.config)
        self.assertEqual(
            sorted(str(mistake).partition(": ")[0] for mistake in reading.mistakes),
            sorted(
                [
                    "--max-commands",
                    "RELAYD_IDLE_TIMEOUT in the environment",
                    "RELAYD_DRAIN_TIMOUT in the environment",
                    f"max-queue in {path}",
                    f"max_output in {path}",
                    f"hosts of [[credentials]] number 1 in {path}",
                    f'"x" of [[credentials]] number 2 in {path}',
                ]
            ),
        )
        self.assertEqual(reading.unknown, ("RELAYD_PORT",))

    def test_what_does_not_go_together(self) -> None:
        options = {"server": "ws://main.example", "tls-ca": "/nowhere", "max-timeout": "1m", "api-key-file": "/nowhere"}
        reading = read(self.argv | options, {})
        self.assertIsNotNone(reading.config)
        self.assertEqual(
            [str(mistake).partition(": ")[0] for mistake in reading.mistakes],
            ["--server", "--tls-ca", "--max-timeout", "--api-key-file"],
        )

    def refused(self, *arguments: str) -> list[str]:
        """The lines of the process that has these arguments."""
        self.patch(sys, "stderr", said := io.StringIO())
        end = self.assertRaises(SystemExit, Options().parseOptions, arguments)
        self.assertEqual(end.code, MISTAKES)
        return said.getvalue().splitlines()

    def test_the_process_tells_all(self) -> None:
        lines = self.refused("--max-commands", "0", "--max-queue", "x")
        self.assertEqual([line[:16] for line in lines], ["relayd: --max-co", "relayd: --max-qu"])

    def test_an_option_of_twistd(self) -> None:
        expected = "relayd: --pidfile: is an option of twistd; put it before the word relayd"
        self.assertEqual(self.refused("--pidfile="), [expected])


class SpellingTests(ConfigCase):
    """`Option.spell` is what `Option.parse` reads."""

    def test_defaults_and_others(self) -> None:
        changed = self.load('allow-hosts = ["a", "b"]\nidle-timeout = 1.5\nmax-output = 1025\nallow-weak-key = true')
        for config in (self.load(config=None), changed):
            for option in OPTIONS:
                value = getattr(config, option.attribute)
                if value is not None:
                    self.assertEqual(option.parse(option.spell(value)), value, option.name)
