"""
What an operator can choose: one table of options, read from the command line, the environment and a TOML file.
Every mistake becomes one `ConfigError` that names the option, where it was set, and what was expected there.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

from relayd import policy, values
from relayd.apikey import LEAST_LENGTH, ApiKeyFile
from relayd.credentials import SiteCredential, read_credentials
from relayd.errors import ConfigError, KeyUnusable
from relayd.messages import Secret

_DAY = 86400.0
_YEAR = 366 * _DAY


@dataclasses.dataclass(frozen=True)
class Option:
    """
    One option; its name on the command line, in the environment and in the TOML file follow from `name`.

    :ivar parse: its text to its value; a ValueError says what was expected.
    :ivar default: as the text that a person would write; ``None``: it may be absent.
    :ivar hidden: whether its value may hold a secret, and is therefore not shown.
    :ivar public: whether its value can never hold one, and is shown whatever is in it.
    :ivar is_path: whether it is a path, and made absolute: twistd changes its working directory.
    """

    name: str
    section: str
    help: str
    parse: Callable[[str], object]
    default: str | None = None
    metavar: str = ""
    default_help: str = ""
    hidden: bool = False
    public: bool = False
    is_path: bool = False

    @property
    def is_flag(self) -> bool:
        """Whether it stands alone on the command line."""
        return self.parse is values.flag

    @property
    def flag_name(self) -> str:
        """On the command line."""
        return f"--{self.name}"

    @property
    def environment_name(self) -> str:
        """In the environment."""
        return "RELAYD_" + self.attribute.upper()

    @property
    def attribute(self) -> str:
        """In Python."""
        return self.name.replace("-", "_")


def _option(*arguments: Any, **keywords: Any) -> Any:
    option = Option(*arguments, **keywords)
    return dataclasses.field(metadata={"option": option}, repr=not option.hidden)


def _path(name: str, section: str, help: str, **keywords: Any) -> Any:
    return _option(name, section, help, values.text, metavar="PATH", is_path=True, **keywords)


def _time(name: str, section: str, default: str, help: str, least: float = 0.1, most: float = _DAY) -> Any:
    return _option(name, section, help, values.duration(least, most), default, "TIME")


def _count(name: str, section: str, default: int, help: str, least: int = 1, most: int = 1_000_000) -> Any:
    return _option(name, section, help, values.whole_number(least, most), str(default), "N")


def _rule(name: str, help: str, parse: Callable[[str], object], metavar: str = "PATTERNS") -> Any:
    return _option(name, POLICY, help, parse, metavar=metavar, public=True)


SERVER, HOSTS, POLICY, LIMITS, RELAY = "Main server", "SSH hosts", "Site policy", "Limits", "This relay"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """
    The choices of one relay.  Times are in seconds, sizes in bytes, paths absolute.

    Its fields are the table of options: everything that shows or reads options goes through `OPTIONS`.
    """

    server: str = _option(
        "server", SERVER, "where it is: wss://HOST, or https://, ws://, http://", values.server_url, metavar="URL"
    )
    proxy_id: str = _option("proxy-id", SERVER, "this relay's name there", values.text, metavar="NAME")
    api_key_file: str = _path(
        "api-key-file",
        SERVER,
        "file of the API key, read at each connect",
        default_help="$CREDENTIALS_DIRECTORY/api-key",
        hidden=True,  # some will put the key itself there
    )
    dialect: Literal["auto", "socketio", "native"] = _option(
        "dialect", SERVER, "how it frames events", values.choice("auto", "socketio", "native"), "auto", "NAME"
    )
    reconnect_delay: float = _time(
        "reconnect-delay", SERVER, "5s", "wait before dialling again, 40 % more or less", most=3600
    )
    tls_ca: str | None = _path("tls-ca", SERVER, "PEM file of the CAs to trust instead of the system's")
    tls_cert: str | None = _path("tls-cert", SERVER, "PEM file of this relay's certificate and its chain")
    tls_key: str | None = _path("tls-key", SERVER, "PEM file of the certificate's private key")
    http_proxy: str | None = _option(
        "http-proxy",
        SERVER,
        "go through this proxy (CONNECT): http://HOST:PORT; user and password in the file or environment only",
        values.proxy_url,
        metavar="URL",
        hidden=True,
    )
    allow_plaintext: bool = _option(
        "allow-plaintext", SERVER, "send the API key and all passwords unencrypted over ws://", values.flag, "no"
    )
    allow_weak_key: bool = _option(
        "allow-weak-key", SERVER, f"take an API key under {LEAST_LENGTH} characters", values.flag, "no"
    )
    host_keys: Literal["accept-new", "strict", "ignore"] = _option(
        "host-keys",
        HOSTS,
        "hosts not known yet: remember (accept-new) or refuse (strict); ignore checks nothing",
        values.choice("accept-new", "strict", "ignore"),
        "accept-new",
        "MODE",
    )
    known_hosts: str = _path("known-hosts", HOSTS, "file of the hosts' keys", default_help="STATE_DIR/known_hosts")
    ssh_algorithms: Literal["modern", "compatible", "legacy"] = _option(
        "ssh-algorithms",
        HOSTS,
        "what to offer hosts: sound, with more for older servers, or with SHA-1 and CBC for old appliances",
        values.choice("modern", "compatible", "legacy"),
        "modern",
        "POLICY",
    )
    max_sessions: int = _count("max-sessions", HOSTS, 10, "commands at a time on one connection", most=1000)
    max_connections: int = _count("max-connections", HOSTS, 4, "connections to one target", most=1000)
    max_total_connections: int = _count("max-total-connections", HOSTS, 1000, "SSH connections in all")
    connect_timeout: float = _time("connect-timeout", HOSTS, "15s", "for each of TCP, key exchange, login", most=3600)
    idle_timeout: float = _time("idle-timeout", HOSTS, "5m", "until an unused connection is closed")
    working_directory: str = _option(
        "working-directory",
        HOSTS,
        "where commands run; empty: the login directory",
        values.any_text,
        "/",
        "DIRECTORY",
    )
    allow_hosts: tuple[str, ...] | None = _rule(
        "allow-hosts",
        "only these: networks, addresses, names with * and ?, each also as [PATTERN]:PORT; commas between",
        policy.host_patterns,
    )
    deny_hosts: tuple[str, ...] | None = _rule("deny-hosts", "none of these, allowed or not", policy.host_patterns)
    allow_users: tuple[str, ...] | None = _rule(
        "allow-users", "commands run as these only: names with * and ?, ! before exceptions", policy.user_patterns
    )
    allow_commands: str | None = _rule(
        "allow-commands", "only commands of which it matches the whole text", policy.command_pattern, "REGEX"
    )
    deny_commands: str | None = _rule(
        "deny-commands", "no commands of which it matches any part", policy.command_pattern, "REGEX"
    )
    max_commands: int = _count("max-commands", LIMITS, 64, "commands that run at a time")
    max_queue: int = _count("max-queue", LIMITS, 10000, "commands that wait; more are refused", least=0)
    default_timeout: float = _time("default-timeout", LIMITS, "5m", "for commands that come without one", most=_YEAR)
    max_timeout: float = _time("max-timeout", LIMITS, "1d", "more is cut to this", most=_YEAR)
    max_output: int = _option(
        "max-output",
        LIMITS,
        "kept of each of stdout and stderr",
        values.size(1024, 1024**3),
        "8M",
        "SIZE",
    )
    drain_timeout: float = _time("drain-timeout", LIMITS, "30s", "for running commands when it is stopped", least=0)
    journal: Literal["full", "normal", "memory"] = _option(
        "journal",
        RELAY,
        "commands and results outlive a loss of power (full), of the process (normal), or neither (memory)",
        values.choice("full", "normal", "memory"),
        "full",
        "MODE",
    )
    journal_max_size: int = _option(
        "journal-max-size",
        RELAY,
        "results that may wait for confirmation; with more, no command is taken",
        values.size(1 << 20, 1 << 40),
        "1G",
        "SIZE",
    )
    journal_retention: float = _time(
        "journal-retention",
        RELAY,
        "7d",
        "how long ids of confirmed commands, and results that nobody confirms, are kept",
        least=60,
        most=_YEAR,
    )
    config: str | None = _path("config", RELAY, "TOML file of options, as in: max-commands = 64")
    state_dir: str = _path(
        "state-dir",
        RELAY,
        "directory of what it must remember",
        default_help="$STATE_DIRECTORY; /var/lib/relayd as root, else ~/.local/state/relayd",
    )
    language: Literal["en", "zh"] = _option(
        "language",
        RELAY,
        "of what the main server's users read: English or Chinese; the log stays English",
        values.choice("en", "zh"),
        "en",
        "NAME",
    )
    audit_log: str | None = _path("audit-log", RELAY, "file of who ordered what and what came of it, in a hash chain")
    audit_commands: Literal["digest", "text", "none"] = _option(
        "audit-commands", RELAY, "what it tells of commands", values.choice("digest", "text", "none"), "digest", "HOW"
    )
    audit_max_size: int = _option(
        "audit-max-size", RELAY, "then its file is moved aside; 0: never", values.size(0, 1024**4), "64M", "SIZE"
    )
    audit_keep: int = _count("audit-keep", RELAY, 10, "files that were moved aside are kept; 0: all", least=0)
    #: What this site can log in with by itself: the ``[[credentials]]`` tables of the file, in their order.
    credentials: tuple[SiteCredential, ...] = ()
    _key_file: ApiKeyFile = dataclasses.field(repr=False, compare=False)

    def read_api_key(self) -> Secret:
        """
        The API key as it is in its file now, so that it can be changed while relayd runs.

        :raises KeyUnusable: when there is none, or a weak one that was not allowed.
        """
        return self._key_file.read()


OPTIONS: tuple[Option, ...] = tuple(
    field.metadata["option"] for field in dataclasses.fields(Config) if "option" in field.metadata
)
_BY_NAME = {option.name: option for option in OPTIONS}
_BY_ENVIRONMENT = {option.environment_name: option for option in OPTIONS}


#: Characters of a wrong value that is shown: longer ones are keys rather than words, numbers or times.
_LONGEST_SHOWN = 24


@dataclasses.dataclass(frozen=True)
class _Given:
    """
    A text that somebody set.

    :ivar where: as the operator would find it.
    :ivar directory: what a relative path is relative to.
    """

    text: str
    where: str
    directory: str
    on_command_line: bool = False

    def show(self, option: Option, part: str | None = None) -> str:
        """
        The text, or *part* of it, for a message; not where it may hold a secret, as URLs with a user or a query and
        long words do.
        """
        text = self.text if part is None else part
        private = not option.public and (set(text) & set("@?") or len(text) > _LONGEST_SHOWN)
        return "what is there" if option.hidden or private or not text.isprintable() else f'"{text}"'


def load(argv_options: Mapping[str, str | bool | None], environ: Mapping[str, str], *, complete: bool = True) -> Config:
    """
    Read the options: the command line wins over the environment, that over the file, that over the default.

    :param argv_options: from an option's name to its text, or to whether a flag was given.
    :param complete: whether a relay is to run with them; if not, those without a default may be missing, and nothing
        is looked up on the disk.
    :raises ConfigError: for the first mistake found.
    """
    given = dict(_from_argv(argv_options))
    for name, value in _from_environment(environ):
        given.setdefault(name, value)
    credentials: tuple[SiteCredential, ...] = ()
    if "config" in given:
        path = str(_value(_BY_NAME["config"], given["config"]))
        content = _read_toml(path, given["config"].where)
        credentials = read_credentials(content.pop("credentials", []), path, environ)
        for name, value in _from_file(content, path):
            given.setdefault(name, value)
    chosen = {
        option.attribute: _value(option, given[option.name]) if option.name in given else _default(option)
        for option in OPTIONS
    }
    private = _derive(chosen, environ)
    if complete:
        _require(chosen)
        _check_together(chosen, given)
    key_file = ApiKeyFile(chosen["api_key_file"], allow_weak=chosen["allow_weak_key"], private=private)
    config = Config(**chosen, credentials=credentials, _key_file=key_file)
    if not complete:
        return config
    try:
        config.read_api_key()
    except KeyUnusable as error:
        raise ConfigError(
            option=_where(given, "api-key-file", "$CREDENTIALS_DIRECTORY/api-key"),
            reason=f"the API key cannot be used: {error.fields['reason']}",
        ) from None
    return config


# Where options come from ---------------------------------------------------------------------------------------------


def _from_argv(argv_options: Mapping[str, str | bool | None]) -> Iterator[tuple[str, _Given]]:
    for name, value in argv_options.items():
        if name in _BY_NAME and value is not None and value is not False:
            text = "yes" if value is True else str(value)
            yield name, _Given(text, _BY_NAME[name].flag_name, os.getcwd(), on_command_line=True)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    for variable, text in environ.items():
        option = _BY_ENVIRONMENT.get(variable)
        where = f"{variable} in the environment"
        if option is not None:
            if text or option.parse is values.any_text:  # an empty variable is the usual way to say "not set"
                yield option.name, _Given(text, where, os.getcwd())
        elif variable.startswith("RELAYD_") and values.near(variable, _BY_ENVIRONMENT, 0.8):
            _refuse_unknown(variable, where, _BY_ENVIRONMENT, 0.8)  # others may be some other program's


def _read_toml(path: str, where_path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(option=where_path, reason=f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(option=path, reason=f"is no TOML: {error}") from None


def _from_file(content: Mapping[str, Any], path: str) -> Iterator[tuple[str, _Given]]:
    known = set(_BY_NAME) - {"config"}
    for name, value in content.items():
        where = f"{name} in {path}"
        if name not in known:
            _refuse_unknown(name, where, known | {"credentials"})
        if isinstance(value, list) and _BY_NAME[name].metavar == "PATTERNS" and all(map(_is_item, value)):
            text = ",".join(value)
        elif isinstance(value, (str, int, float)):
            text = str(value).lower() if isinstance(value, bool) else str(value)
        else:
            raise ConfigError(option=where, reason='expected one value, like max-commands = 64 or dialect = "auto"')
        yield name, _Given(text, where, str(Path(path).parent))


def _is_item(value: object) -> bool:
    return isinstance(value, str) and "," not in value


def _refuse_unknown(name: str, where: str, known: Collection[str], cutoff: float = 0.6) -> NoReturn:
    meant = values.near(name, known, cutoff)
    raise ConfigError(option=where, reason="there is no such option" + (f"; did you mean {meant}?" if meant else ""))


# From texts to values ------------------------------------------------------------------------------------------------


def _value(option: Option, given: _Given) -> Any:
    try:
        value = option.parse(given.text)
    except ValueError as error:
        expected, *part = error.args  # of a list, the part that is wrong
        raise ConfigError(option=given.where, reason=f"expected {expected}, not {given.show(option, *part)}") from None
    if option.is_path:
        return os.path.abspath(os.path.join(given.directory, os.path.expanduser(str(value))))
    return value


def _default(option: Option) -> Any:
    return None if option.default is None else option.parse(option.default)


def _derive(chosen: dict[str, Any], environ: Mapping[str, str]) -> bool:
    """
    Fill in the defaults that depend on the machine.

    :return: whether the API key comes from systemd.
    """
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    private = chosen["api_key_file"] is None and bool(credentials)
    if private:
        chosen["api_key_file"] = os.path.join(str(credentials), "api-key")
    if chosen["state_dir"] is None:
        # Never below the working directory: relayd started from another one would have forgotten all host keys.
        personal = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        fallback = "/var/lib/relayd" if os.geteuid() == 0 else os.path.join(personal, "relayd")
        chosen["state_dir"] = os.path.abspath(environ.get("STATE_DIRECTORY", "").split(":")[0] or fallback)
    if chosen["known_hosts"] is None:
        chosen["known_hosts"] = os.path.join(chosen["state_dir"], "known_hosts")
    return private


def _require(chosen: Mapping[str, Any]) -> None:
    needed = (_BY_NAME[name] for name in ("server", "proxy-id", "api-key-file"))
    missing = [option for option in needed if chosen[option.attribute] is None]
    if missing:
        names = [option.flag_name for option in missing]
        raise ConfigError(
            option=" and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:]),
            reason=f"missing; give {' '.join(f'{option.flag_name} {option.metavar}' for option in missing)}, or "
            f"{missing[0].environment_name} in the environment, or {missing[0].name} in the file of --config",
        )


def _check_together(chosen: Mapping[str, Any], given: Mapping[str, _Given]) -> None:
    """What no option says alone."""
    if not chosen["allow_plaintext"] and not values.is_encrypted_or_local(chosen["server"]):
        reason = "would send the API key and all passwords unencrypted; use wss:// or https://, or --allow-plaintext"
        raise ConfigError(option=_where(given, "server"), reason=f"{given['server'].show(_BY_NAME['server'])} {reason}")
    proxy = given.get("http-proxy")
    if proxy is not None and proxy.on_command_line and "@" in proxy.text:
        reason = "everybody can read a command line: put a URL with a password into the file of --config"
        raise ConfigError(option=proxy.where, reason=reason)
    for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if chosen[one] and not chosen[other]:
            name = one.replace("_", "-")
            raise ConfigError(option=_where(given, name), reason=f"needs --{other.replace('_', '-')} beside it")
    for name in ("tls-ca", "tls-cert", "tls-key"):
        path = chosen[_BY_NAME[name].attribute]
        if path and not os.path.isfile(path):
            raise ConfigError(option=_where(given, name), reason=f"there is no file {path}")
    if chosen["default_timeout"] > chosen["max_timeout"]:
        limit = values.spell_duration(chosen["max_timeout"])
        culprit = "default-timeout" if "default-timeout" in given else "max-timeout"
        reason = f"--default-timeout must not be longer than --max-timeout, which is {limit}"
        raise ConfigError(option=_where(given, culprit), reason=reason)
    _check_directory(chosen["state_dir"], _where(given, "state-dir"))


def _check_directory(path: str, where: str) -> None:
    """It is made at the start, perhaps by another user (``twistd --uid``); tell what is known to fail now."""
    existing = Path(path)
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise ConfigError(option=where, reason=f"{existing} is no directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(option=where, reason=f"{path} cannot be used: this user cannot write to {existing}")


def _where(given: Mapping[str, _Given], name: str, otherwise: str = "") -> str:
    return given[name].where if name in given else otherwise or _BY_NAME[name].flag_name
