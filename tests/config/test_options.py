"""
relayd.config.options and what it is made of: where options come from, what they may be, and how a mistake is told.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from relayd.config import values
from relayd.config.options import OPTIONS, Config
from relayd.config.reading import load
from relayd.errors import ConfigError, KeyUnusable, UplinkError
from relayd.settings import limits_of, runner_settings_of, ssh_settings_of
from relayd.wire.messages import Secret

KEY = "k3y-" * 10


class ConfigCase(SynchronousTestCase):
    """Has a directory with a good API key file, and the options that every relay needs."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(self._remove)
        self.key_file = self.write("api-key", KEY + "\n")
        self.environ: dict[str, str] = {}
        self.argv: dict[str, str | bool | list[str] | None] = {
            "server": "wss://main.example",
            "proxy-id": "proxy-1",
            "api-key-file": self.key_file,
            "state-dir": str(self.directory / "state"),
        }

    def _remove(self) -> None:
        import shutil

        shutil.rmtree(self.directory)

    def write(self, name: str, content: str | bytes) -> str:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def load(self, toml: str | None = None, /, **argv: str | bool | list[str] | None) -> Config:
        """With *argv* added to the options that are needed, and with a file of *toml*."""
        if toml is not None:
            self.argv["config"] = self.write("relayd.toml", toml)
        self.argv.update({name.replace("_", "-"): value for name, value in argv.items()})
        return load(self.argv, self.environ)

    def refusal(self, toml: str | None = None, /, **argv: str | bool | list[str] | None) -> str:
        """The message of the mistake; it is always one line."""
        message = str(self.assertRaises(ConfigError, self.load, toml, **argv))
        self.assertNotIn("\n", message)
        return message


class SeveralTests(ConfigCase):
    """An option that holds several values: ``--label``."""

    def labels(self, toml: str | None = None, /, **argv: str | list[str]) -> tuple[str, ...] | None:
        return self.load(toml, **argv).label

    def test_where_they_come_from(self) -> None:
        self.assertIsNone(self.labels())
        for toml in (
            'label = ["site=berlin", "rack=7"]',
            'label = "site=berlin, rack=7"',
            'label = {site = "berlin", rack = 7}',
            '[label]\nsite = "berlin"\nrack = 7',
        ):
            self.assertEqual(self.labels(toml), ("site=berlin", "rack=7"), toml)
        self.environ["RELAYD_LABEL"] = "site=ulm,rack=8"
        self.assertEqual(self.labels(), ("site=ulm", "rack=8"))
        self.assertEqual(self.labels(label=["a=1", "b=2,c=3"]), ("a=1", "b=2", "c=3"), "the command line replaces them")

    def test_values(self) -> None:
        self.assertEqual(self.labels(label=["a.b/c-d_e=Köln: x=y"]), ("a.b/c-d_e=Köln: x=y",))
        self.assertEqual(self.labels(label=["a="]), ("a=",))
        self.assertEqual(self.labels(label=[f"k{number}=x" for number in range(32)])[-1:], ("k31=x",))
        for wrong in ("a", "=b", "a b=c", "ü=1", "-a=1", "a" * 64 + "=1", "a=" + "x" * 129, "a=\a", "a=1,,b=2", ""):
            self.assertIn("--label: expected labels like site=berlin", self.refusal(label=[wrong]), wrong)
        for repeated in ("a=1,a=2", ",".join(f"k{number}=x" for number in range(33))):
            self.assertIn("expected at most 32 labels, each key once", self.refusal(label=[repeated]))
        del self.argv["label"]
        for toml in ("label = [5]", 'label = ["a=1,b=2"]', "[label]\na = [1]", "label = true"):
            self.assertIn("label in ", self.refusal(toml))


class PrecedenceTests(ConfigCase):
    """Command line over environment over file over default."""

    def test_defaults(self) -> None:
        config = self.load()
        self.assertEqual((config.max_commands, config.max_queue), (64, 10000))
        self.assertEqual((config.max_sessions, config.max_connections), (10, 4))
        self.assertEqual((config.connect_timeout, config.idle_timeout), (15.0, 300.0))
        self.assertEqual((config.default_timeout, config.max_timeout, config.drain_timeout), (300.0, 86400.0, 30.0))
        self.assertEqual(config.timeout_margin, 0.5)
        self.assertEqual((config.max_output, config.working_directory), (8 * 1024 * 1024, "/"))
        self.assertEqual((config.dialect, config.host_keys, config.reconnect_delay), ("auto", "accept-new", 5.0))
        self.assertIs(config.allow_plaintext, False)
        self.assertIsNone(config.http_proxy)
        self.assertEqual(config.known_hosts, str(self.directory / "state" / "known_hosts"))

    def test_each_source_wins_over_the_next(self) -> None:
        file = "max-commands = 3"
        self.assertEqual(self.load(file).max_commands, 3)
        self.environ["RELAYD_MAX_COMMANDS"] = "2"
        self.assertEqual(self.load(file).max_commands, 2)
        self.assertEqual(self.load(file, max_commands="1").max_commands, 1)

    def test_the_file_can_be_named_in_the_environment(self) -> None:
        self.environ["RELAYD_CONFIG"] = self.write("other.toml", 'dialect = "native"')
        self.assertEqual(self.load().dialect, "native")

    def test_types_of_toml(self) -> None:
        config = self.load('idle-timeout = 1.5\nallow-plaintext = true\nmax-output = "512K"\nmax-queue = 0')
        self.assertEqual((config.idle_timeout, config.allow_plaintext), (1.5, True))
        self.assertEqual((config.max_output, config.max_queue), (512 * 1024, 0))

    def test_a_flag_that_was_not_given_leaves_it_to_the_others(self) -> None:
        self.environ["RELAYD_ALLOW_WEAK_KEY"] = "yes"
        self.assertIs(self.load(allow_weak_key=False).allow_weak_key, True)

    def test_an_empty_variable_is_not_set(self) -> None:
        self.environ.update(RELAYD_MAX_COMMANDS="", RELAYD_HTTP_PROXY="")
        self.assertEqual(self.load().max_commands, 64)

    def test_character_set_of_hosts(self) -> None:
        self.assertEqual(self.load().output_encoding, "utf-8")
        for written, name in (("GBK", "gbk"), ("latin-1", "iso8859-1"), ("UTF8", "utf-8")):
            self.assertEqual(self.load(output_encoding=written).output_encoding, name)
        for wrong in ("rot13", "base64", "nothing", ""):
            self.assertRaises(ConfigError, self.load, output_encoding=wrong)

    def test_rules_for_texts_want_them_exact(self) -> None:
        for rules, exact in (({}, False), ({"allow_commands": "x"}, True), ({"deny_commands": "x"}, True)):
            config = self.load(output_encoding="gbk", **rules)
            settings = runner_settings_of(config)
            self.assertEqual((settings.output_encoding, settings.exact_text), ("gbk", exact))
            self.assertEqual(limits_of(config).output_encoding, "gbk")
            for name in rules:
                del self.argv[name.replace("_", "-")]

    def test_an_empty_working_directory_means_the_login_directory(self) -> None:
        self.environ["RELAYD_WORKING_DIRECTORY"] = ""
        self.assertEqual(self.load().working_directory, "")
        del self.environ["RELAYD_WORKING_DIRECTORY"]
        self.assertEqual(self.load('working-directory = ""').working_directory, "")
        self.assertEqual(self.load(working_directory="").working_directory, "")

    def test_every_option_has_a_field_and_a_sound_default(self) -> None:
        config = self.load()
        for option in OPTIONS:
            self.assertTrue(hasattr(config, option.attribute), option.name)
            if option.default is not None:
                self.assertEqual(getattr(config, option.attribute), option.parse(option.default), option.name)

    def test_every_choice_is_explained(self) -> None:
        for option in OPTIONS:
            self.assertEqual([word for word in option.choices if word not in option.help], [], option.name)

    def test_every_option_shows_what_to_write(self) -> None:
        """A default, or an example; what could weaken relayd is a value that it takes."""
        for option in OPTIONS:
            if option.name != "config":
                option.parse(option.example or option.default or "")
            if option.weakness is not None:
                self.assertEqual(option.spell(option.parse(option.weakness.value)), option.weakness.value)

    def test_it_cannot_be_changed(self) -> None:
        config = self.load()
        self.assertRaises(AttributeError, setattr, config, "max_commands", 1)


class PathTests(ConfigCase):
    """twistd may change its working directory before any path is used."""

    def test_relative_to_the_working_directory(self) -> None:
        self.assertEqual(self.load(state_dir="here/state").state_dir, os.path.join(os.getcwd(), "here/state"))

    def test_relative_to_the_file_that_names_it(self) -> None:
        self.argv["state-dir"] = None
        self.assertEqual(self.load('state-dir = "beside"').state_dir, str(self.directory / "beside"))

    def test_home(self) -> None:
        self.assertEqual(self.load(known_hosts="~/hosts").known_hosts, os.path.expanduser("~/hosts"))

    def test_systemd_names_the_state_directory(self) -> None:
        self.environ["STATE_DIRECTORY"] = f"{self.directory}/relayd:{self.directory}/second"
        self.assertEqual(self.load(state_dir=None).state_dir, f"{self.directory}/relayd")

    def test_the_state_directory_without_systemd(self) -> None:
        self.environ["XDG_STATE_HOME"] = str(self.directory)
        self.patch(os, "geteuid", lambda: 1000)
        self.assertEqual(self.load(state_dir=None).state_dir, str(self.directory / "relayd"))
        self.patch(os, "geteuid", lambda: 0)
        self.assertEqual(self.load(state_dir=None).state_dir, "/var/lib/relayd")

    def test_a_state_directory_that_is_a_file(self) -> None:
        self.assertEqual(self.refusal(state_dir=self.key_file), f"--state-dir: {self.key_file} is not a directory")

    def test_a_state_directory_whose_name_is_too_long(self) -> None:
        self.assertRegex(self.refusal(state_dir="/" + "x" * 300), "^--state-dir: /x+ cannot be used: File name ")

    def test_a_state_directory_that_cannot_be_made(self) -> None:
        self.patch(os, "access", lambda path, mode: False)
        self.assertIn(f"this user cannot write to {self.directory}", self.refusal())

    def test_tls_files(self) -> None:
        self.assertEqual(
            self.refusal(tls_ca="/nowhere/ca.pem"), "--tls-ca: there is no file /nowhere/ca.pem; name one that is there"
        )
        self.assertEqual(self.refusal(tls_cert=self.key_file), "--tls-cert: needs --tls-key too")
        self.assertEqual(
            self.refusal(tls_ca=None, tls_cert=None, tls_key=self.key_file), "--tls-key: needs --tls-cert too"
        )
        config = self.load(tls_ca=self.key_file, tls_cert=self.key_file, tls_key=self.key_file)
        self.assertEqual(config.tls_cert, self.key_file)


class MistakeTests(ConfigCase):
    """A mistake says which option, from where, what it was, and what was expected."""

    def test_on_the_command_line(self) -> None:
        message = '--max-commands: expected a whole number from 1 to 1000000, not "many"'
        self.assertEqual(self.refusal(max_commands="many"), message)

    def test_in_the_environment(self) -> None:
        self.environ["RELAYD_IDLE_TIMEOUT"] = "5 parsecs"
        self.assertEqual(
            self.refusal(),
            "RELAYD_IDLE_TIMEOUT in the environment: expected a time from 100ms to 1d, like 5s, 2m or 1h, "
            'not "5 parsecs"',
        )

    def test_in_the_file(self) -> None:
        message = self.refusal('dialect = "socket-io"')
        self.assertEqual(
            message,
            f"dialect in {self.directory}/relayd.toml: expected one of auto, socketio, native "
            '(did you mean socketio?), not "socket-io"',
        )

    def test_an_unknown_key_of_the_file(self) -> None:
        self.assertIn("max_commands in ", message := self.refusal("max_commands = 7"))
        self.assertIn("did you mean max-commands?", message)
        self.assertIn("no such table", self.refusal("[section]\nserver = 1"))
        self.assertIn("no such option", self.refusal('config = "other.toml"'))

    def test_a_secret_under_an_unknown_name_is_not_shown(self) -> None:
        message = self.refusal(f'api-key = "{KEY}"')
        self.assertIn("did you mean api-key-file?", message)
        self.assertNotIn(KEY, message)
        self.argv["config"] = None
        self.environ["RELAYD_API_KEY"] = KEY
        message = self.refusal()
        self.assertIn("did you mean RELAYD_API_KEY_FILE?", message)
        self.assertNotIn(KEY, message)

    def test_a_misspelt_variable(self) -> None:
        self.environ["RELAYD_MAX_COMMAND"] = "5"
        self.assertIn("did you mean RELAYD_MAX_COMMANDS?", self.refusal())

    def test_variables_of_others_are_left_alone(self) -> None:
        self.environ.update(RELAYD_SERVICE_HOST="10.0.0.1", RELAYD_PORT="tcp://10.0.0.1:80", RELAYD_PORT_80_TCP="x")
        self.load()

    def test_a_file_that_is_no_toml(self) -> None:
        self.assertIn("relayd.toml: is not valid TOML: ", self.refusal("max-commands 64"))
        self.argv["config"] = self.write("binary.toml", b"\xff\xfe")
        self.assertIn("binary.toml: is not valid TOML: ", self.refusal())
        for text, words in (
            ("max-commands = " + "9" * 5000, "is not valid TOML: a number has thousands of digits"),
            ("max-commands = " + "[" * 5000, "is not valid TOML: it nests too deeply"),
            ("max-commands = 0x" + "f" * 5000, "the number is too large"),
        ):
            self.argv["config"] = self.write("odd.toml", text)
            self.assertIn(words, self.refusal())

    def test_a_file_that_is_missing(self) -> None:
        self.assertEqual(
            self.refusal(config="/nowhere/relayd.toml"),
            "--config: /nowhere/relayd.toml cannot be read: No such file or directory; write it, or name another",
        )

    def test_a_value_of_another_shape(self) -> None:
        self.assertIn("max-commands in ", message := self.refusal("max-commands = [64]"))
        self.assertIn("expected one value", message)

    def test_what_is_needed_is_missing(self) -> None:
        self.argv = {"state-dir": str(self.directory)}
        self.assertEqual(
            self.refusal(),
            "--server, --proxy-id and --api-key-file: missing; give --server URL --proxy-id NAME --api-key-file PATH, "
            "or RELAYD_SERVER in the environment, or server in the file of --config",
        )

    def test_one_is_missing(self) -> None:
        self.assertTrue(self.refusal(proxy_id=None).startswith("--proxy-id: missing; give --proxy-id NAME, or RELAYD_"))

    def test_default_timeout_beyond_the_maximum(self) -> None:
        expected = "--default-timeout must not be longer than --max-timeout, which is 1m"
        self.assertEqual(self.refusal(max_timeout="60"), f"--max-timeout: {expected}")
        self.assertEqual(self.refusal(default_timeout="2m"), f"--default-timeout: {expected}")


class PolicyTests(ConfigCase):
    """The rules of the site."""

    def test_from_all_sources(self) -> None:
        config = self.load(
            allow_hosts="10.1.0.0/16, db-*.internal", allow_users="deploy,!root", deny_commands=r"\brm\b"
        )
        self.assertEqual(config.allow_hosts, ("10.1.0.0/16", "db-*.internal"))
        self.assertEqual((config.allow_users, config.deny_commands), (("deploy", "!root"), r"\brm\b"))
        self.assertEqual((config.deny_hosts, config.allow_commands), (None, None))
        self.environ["RELAYD_DENY_HOSTS"] = "[10.1.*]:23"
        config = self.load("allow-commands = 'a\\.b'\ndeny-hosts = 'x'")
        self.assertEqual((config.deny_hosts, config.allow_commands), (("[10.1.*]:23",), r"a\.b"))

    def test_hosts_that_give_no_exit_status(self) -> None:
        self.assertEqual(ssh_settings_of(self.load()).no_exit_status_hosts, ())
        settings = ssh_settings_of(self.load('no-exit-status-hosts = ["pdu-*", "!pdu-9"]'))
        self.assertEqual(settings.no_exit_status_hosts, ("pdu-*", "!pdu-9"))

    def test_lists_in_the_file(self) -> None:
        config = self.load('allow-hosts = ["10.1.0.0/16", "web?"]\nallow-users = ["deploy"]')
        self.assertEqual((config.allow_hosts, config.allow_users), (("10.1.0.0/16", "web?"), ("deploy",)))
        for wrong in ('allow-hosts = ["a,b"]', "allow-hosts = [1]", 'allow-commands = ["a"]', "allow-hosts = {}"):
            self.assertIn("expected one value", self.refusal(wrong))

    def test_mistakes(self) -> None:
        self.assertEqual(
            self.refusal(deny_hosts="10.1.0.0/16,10.2.0.0/33"),
            '--deny-hosts: expected a network like 10.1.0.0/16, without bits beyond its length, not "10.2.0.0/33"',
        )
        self.assertEqual(
            self.refusal(deny_hosts=None, allow_hosts="db?.x:22"),
            '--allow-hosts: expected a network, an address, a name, or [PATTERN]:PORT for one port, not "db?.x:22"',
        )
        self.assertEqual(
            self.refusal(allow_hosts=None, allow_commands="(a?"),
            '--allow-commands: expected a regular expression of RE2 (missing ): (a?), not "(a?"',
        )
        self.assertIn("not the given value", self.refusal(allow_commands="a\nb"))
        self.assertIn("expected user names", self.refusal(allow_commands=None, allow_users="a,,b"))


class ServerTests(ConfigCase):
    """``--server`` and ``--http-proxy``."""

    def test_encrypted_or_loopback(self) -> None:
        for url in (
            "wss://main.example",
            "https://main.example:8443/base",
            "ws://127.0.0.1:3000",
            "http://localhost:3000",
            "ws://[::1]:3000",
            "http://127.9.9.9",
        ):
            self.assertEqual(self.load(server=url).server, (url,))

    def test_plaintext_is_refused(self) -> None:
        for url in ("ws://main.example", "http://10.0.0.1:3000", "ws://localhost.example", "http://[fe80::1]"):
            message = self.refusal(server=url)
            self.assertIn("unencrypted", message)
            self.assertIn("--allow-plaintext", message)
        self.assertEqual(self.load(allow_plaintext=True).server, ("http://[fe80::1]",))

    def test_no_url(self) -> None:
        for text in (
            "main.example",
            "ftp://main.example",
            "wss://",
            "wss://a:99999",
            "wss://a b",
            "wss://[::1",
            "wss://a\\proxy",
            "5",
        ):
            self.assertIn("expected a URL like wss://HOST", self.refusal(server=text))

    def test_a_key_in_the_url_is_refused_and_not_shown(self) -> None:
        for url, words in (
            (f"wss://main.example/proxy?apiKey={KEY}", "without proxyId or apiKey"),
            (f"wss://main.example?a=1&APIKEY={KEY}", "without proxyId or apiKey"),
            (f"wss://main.example?a=1;api%4bey={KEY}", "without proxyId or apiKey"),
            (f"wss://main.example?+proxyId=p&x={KEY}", "without proxyId or apiKey"),
            (f"wss://user:{KEY}@main.example", "without user or fragment"),
            (f"wss://{KEY}@main.example", "without user or fragment"),
            (f"wss://main.example\\@{KEY}", "expected a URL like wss://HOST"),
            (f"wss://main.example#{KEY}", "without user or fragment"),
            ("wss://main.example?a=1#", "without user or fragment"),
            # a password with a slash or a question mark in it: what comes before these looks like a port
            (f"https://user:12/{KEY}@main.example", "%40 for an @"),
            (f"https://user:12?{KEY}@main.example", "%40 for an @"),
            (f"https://12/{KEY}@main.example", "%40 for an @"),
            (f"ftp://{KEY}@x", "expected a URL like wss://HOST"),
        ):
            message = self.refusal(server=url)
            self.assertIn(words, message)
            self.assertNotIn(KEY, message)

    def test_a_query_and_a_path_are_taken(self) -> None:
        for url in ("wss://main.example/a/b?tenant=1", "wss://main.example?a=%2F+b&empty=&flag&p=100%"):
            self.assertEqual(self.load(server=url).server, (url,))

    def test_the_path_of_native(self) -> None:
        self.assertEqual(self.load().native_path, "/proxy")
        self.assertEqual(self.load(native_path=" /relay/ws/ ").native_path, "/relay/ws/")
        for path in ("ws", "", "wss://h/ws", "/ws?a=1", "/ws#a", "/a b", "/a\nb", "/a\\b"):
            self.assertIn("expected a path like /relay/ws", self.refusal(native_path=path))

    def test_the_proxy_is_a_secret(self) -> None:
        for text in (
            f"https://user:{KEY}@proxy:1",
            f"user:{KEY}@proxy",
            f"http://user:{KEY}@proxy",
            f"http://user:12/{KEY}@proxy:1",
            f"http://user:12?{KEY}@proxy:1",
            f"http://user:12#{KEY}@proxy:1",
        ):
            message = self.refusal(f'http-proxy = "{text}"')
            self.assertIn("expected a URL like http://PROXY:3128", message)
            self.assertNotIn(KEY, message)
        config = self.load(f'http-proxy = "http://user:{KEY}@proxy:3128"')
        self.assertEqual(config.http_proxy, f"http://user:{KEY}@proxy:3128")
        self.assertNotIn(KEY, repr(config))

    def test_a_proxy_password_on_the_command_line_is_refused(self) -> None:
        message = self.refusal(http_proxy=f"http://user:{KEY}@proxy:3128")
        self.assertIn("everybody can read a command line", message)
        self.assertNotIn(KEY, message)
        self.assertEqual(self.load(http_proxy="http://proxy:3128").http_proxy, "http://proxy:3128")

    def test_the_password_of_the_proxy_in_a_file(self) -> None:
        """It is read again each time; the user may stand on a command line then."""
        path = self.write("password", KEY + "\n")
        proxy = "http://us%40er@proxy:3128"
        config = self.load(http_proxy=proxy, http_proxy_password_file=path)
        self.assertEqual(config.read_proxy_password(), Secret(KEY))
        self.write("password", "an:other")
        self.assertEqual(config.read_proxy_password(), Secret("an:other"))
        for content in ("", "two\nlines", " blank", b"\xff", "x" * 5000):
            self.write("password", content)
            self.assertRaises(UplinkError, config.read_proxy_password)
            self.assertIn("--http-proxy-password-file: the proxy's password cannot be used: ", self.refusal())

    def test_a_password_file_needs_a_user(self) -> None:
        path = self.write("password", "p")
        for proxy in (None, "http://proxy:3128", "http://:x@proxy:3128"):
            self.assertIn(
                "needs --http-proxy with a user",
                self.refusal(f'http-proxy = "{proxy}"' if proxy else "", http_proxy_password_file=path),
            )
        message = self.refusal(f'http-proxy = "http://user:{KEY}@proxy:3128"', http_proxy_password_file=path)
        self.assertIn("needs --http-proxy with a user and no password", message)
        self.assertNotIn(KEY, message)
        message = self.refusal(http_proxy_password_file=KEY)  # the password itself, instead of its file
        self.assertNotIn(KEY, message)

    def test_a_user_alone_on_the_command_line(self) -> None:
        """Some proxies take a token for it."""
        self.assertIn("everybody can read", self.refusal(http_proxy=f"http://{KEY}@proxy:3128"))


class ApiKeyTests(ConfigCase):
    """The file of the API key."""

    def test_it_is_read_again_each_time(self) -> None:
        config = self.load()
        self.assertEqual(config.read_api_key(), Secret(KEY))
        self.write("api-key", "n" * 32)
        self.assertEqual(config.read_api_key(), Secret("n" * 32))

    def test_line_ends_are_no_part_of_it(self) -> None:
        self.write("api-key", "\ufeff" + KEY + "\r\n\n")  # nor is the signature of some editors
        self.assertEqual(self.load().read_api_key(), Secret(KEY))

    def test_unusable_keys(self) -> None:
        config = self.load()
        for content, reason in (
            ("short", "shorter than 32 characters"),
            ("x" * 31, "shorter than 32 characters"),
            ("", "empty"),
            ("\n", "empty"),
            (KEY + "\n" + KEY, "one line"),
            (KEY + " ", "one line"),
            ("x" * 5000, "one line"),
            (b"\xff" * 40, "not UTF-8"),
        ):
            self.write("api-key", content)
            error = self.assertRaises(KeyUnusable, config.read_api_key)
            self.assertIn(reason, str(error))
            self.assertNotIn("xxx", str(error))
            self.assertNotIn(KEY, str(error))
            self.assertIn(reason, self.refusal())

    def test_a_weak_key_can_be_allowed(self) -> None:
        self.write("api-key", "short")
        self.assertEqual(self.load(allow_weak_key=True).read_api_key(), Secret("short"))

    def test_a_missing_file(self) -> None:
        self.assertEqual(
            self.refusal(api_key_file="/nowhere/api-key"),
            "--api-key-file: the API key cannot be used: its file cannot be read (No such file or directory); name "
            "a file that is there, which holds it",
        )

    def test_the_key_itself_instead_of_its_file_is_not_shown(self) -> None:
        for key in (KEY, KEY + "/" + KEY, KEY + "\x00"):
            self.assertNotIn(KEY, self.refusal(api_key_file=key))

    def test_systemd_credential(self) -> None:
        self.environ["CREDENTIALS_DIRECTORY"] = str(self.directory)
        os.chmod(self.key_file, 0o440)  # what its access control list looks like
        with capturedLogs() as events:
            self.assertEqual(self.load(api_key_file=None).read_api_key(), Secret(KEY))
        self.assertEqual(events, [])

    def test_an_empty_credential_directory(self) -> None:
        self.environ["CREDENTIALS_DIRECTORY"] = str(self.directory / "none")
        self.assertIn("$CREDENTIALS_DIRECTORY/api-key: the API key cannot", self.refusal(api_key_file=None))

    def test_others_can_read_it(self) -> None:
        os.chmod(self.key_file, 0o644)
        with capturedLogs() as events:
            config = self.load()
            config.read_api_key()
        [event] = events  # told once
        self.assertIn("Other users can read", event["log_format"])
        self.assertNotIn(KEY, repr(event))

    def test_nobody_else_can_read_it(self) -> None:
        with capturedLogs() as events:
            self.load()
        self.assertEqual(events, [])

    def test_the_key_is_nowhere_in_the_configuration(self) -> None:
        self.assertNotIn(KEY, repr(self.load()))


class ValueTests(SynchronousTestCase):
    """relayd.config.values."""

    def test_durations(self) -> None:
        parse = values.duration(0, 86400)
        for text, seconds in (("5", 5), ("5s", 5), ("2m", 120), ("1h", 3600), ("1.5h", 5400), ("1d", 86400), ("0", 0)):
            self.assertEqual(parse(text), seconds)
        self.assertEqual(parse("250ms"), 0.25)
        for text in ("", "s", "5x", "-5", "1e3", "inf", "nan", "5 5", "25h", "1_000", "٥", "5sm", "0x5", "1.2.3"):
            self.assertRaises(ValueError, parse, text)

    def test_sizes(self) -> None:
        parse = values.size(1, 1024**3)
        for text, count in (("65536", 65536), ("512K", 524288), ("8M", 8388608), ("1G", 1024**3), ("0.5M", 524288)):
            self.assertEqual(parse(text), count)
        for text in ("", "K", "8m", "8MiB", "-1", "0", "2G", "1e6"):
            self.assertRaises(ValueError, parse, text)

    def test_flags(self) -> None:
        self.assertEqual([values.flag(text) for text in ("yes", "TRUE", "on", "1")], [True] * 4)
        self.assertEqual([values.flag(text) for text in ("no", "False", "off", "0")], [False] * 4)
        for text in ("", "y", "2", "nope"):
            self.assertRaises(ValueError, values.flag, text)

    def test_whole_numbers(self) -> None:
        parse = values.whole_number(0, 100)
        self.assertEqual([parse("0"), parse("100")], [0, 100])
        for text in ("", "101", "-1", "1.0", "٣", "9" * 5000, "+5", " 5"):
            self.assertRaises(ValueError, parse, text)

    @given(st.integers(0, 366 * 86400))
    def test_a_duration_is_read_as_it_is_spelt(self, seconds: int) -> None:
        self.assertEqual(values.duration(0, 366 * 86400)(values.spell_duration(seconds)), seconds)

    @given(st.integers(0, 1024**4))
    def test_a_size_is_read_as_it_is_spelt(self, count: int) -> None:
        self.assertEqual(values.size(0, 1024**4)(values.spell_size(count)), count)

    @settings(max_examples=300)
    @given(st.text(max_size=30))
    def test_a_parser_refuses_with_value_error_and_without_the_value(self, text: str) -> None:
        secret = "hunter2" + text
        for option in OPTIONS:
            if option.is_path or option.public or option.parse in (values.text, values.any_text):
                continue
            try:
                option.parse(secret)
            except ValueError as error:  # without assertRaises, which would take most of the time
                self.assertNotIn("hunter2", str(error))
            else:
                self.fail(f"{option.flag_name} takes {secret!r}")


class FileTests(SynchronousTestCase):
    """The spelling of options in TOML."""

    def test_names_are_bare_keys(self) -> None:
        for option in OPTIONS:
            self.assertEqual(tomllib.loads(f"{option.name} = 1"), {option.name: 1})
