"""
What an operator can choose: one table of options, and what is read from the command line, the environment and a file.
Every mistake becomes one `ConfigError` that names the option, where it was set, and what was expected there.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from relayd.config import values
from relayd.config.api_key import LEAST_LENGTH, ApiKeyFile
from relayd.config.credentials import SiteCredential, read_credentials
from relayd.config.listen_address import ListenAddress, listen_address
from relayd.config.secret_files import Unusable, read_line
from relayd.config.sources import Given, Option, Sources
from relayd.errors import ConfigError, KeyUnusable, UplinkError
from relayd.policy import rules
from relayd.wire.messages import Secret

_DAY = 86400.0
_YEAR = 366 * _DAY


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
    native_path: str = _option(
        "native-path",
        SERVER,
        "path of its WebSocket in the native dialect, after that of --server",
        values.url_path,
        "/proxy",
        "PATH",
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
        "go through this proxy (CONNECT): http://[USER@]HOST:PORT",
        values.proxy_url,
        metavar="URL",
        hidden=True,
    )
    http_proxy_password_file: str | None = _path(
        "http-proxy-password-file",
        SERVER,
        "file of its user's password, read at each connect; what stands in an environment, others can see",
        hidden=True,  # some will put the password itself there
    )
    header_file: str | None = _path(
        "header-file", SERVER, "file of headers for the main server, one 'Name: value' a line, read at each connect"
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
    output_encoding: str = _option(
        "output-encoding",
        HOSTS,
        "character set of hosts, for output and commands: utf-8, gbk, big5, shift_jis, latin-1 …",
        values.charset,
        "utf-8",
        "NAME",
    )
    no_exit_status_hosts: tuple[str, ...] | None = _option(
        "no-exit-status-hosts",
        HOSTS,
        "of these, which never say how a command ended, its end in good order is success; as --allow-hosts, ! before "
        "exceptions",
        rules.host_patterns_with_exceptions,
        metavar="PATTERNS",
        public=True,
    )
    allow_hosts: tuple[str, ...] | None = _rule(
        "allow-hosts",
        "only these: networks, addresses, names with * and ?, each also as [PATTERN]:PORT; commas between",
        rules.host_patterns,
    )
    deny_hosts: tuple[str, ...] | None = _rule("deny-hosts", "none of these, allowed or not", rules.host_patterns)
    allow_users: tuple[str, ...] | None = _rule(
        "allow-users", "commands run as these only: names with * and ?, ! before exceptions", rules.user_patterns
    )
    allow_commands: str | None = _rule(
        "allow-commands", "only commands of which it matches the whole text", rules.command_pattern, "REGEX"
    )
    deny_commands: str | None = _rule(
        "deny-commands", "no commands of which it matches any part", rules.command_pattern, "REGEX"
    )
    max_commands: int = _count("max-commands", LIMITS, 64, "commands that run at a time")
    max_queue: int = _count("max-queue", LIMITS, 10000, "commands that wait; more are refused", least=0)
    default_timeout: float = _time("default-timeout", LIMITS, "5m", "for commands that come without one", most=_YEAR)
    max_timeout: float = _time("max-timeout", LIMITS, "1d", "more is cut to this", most=_YEAR)
    timeout_margin: float = _time(
        "timeout-margin",
        LIMITS,
        "500ms",
        "end commands this much before their timeout, a tenth of it at most, so that results arrive in time",
        least=0,
        most=3600,
    )
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
    audit_keep: int = _count("audit-keep", RELAY, 10, "files that were moved aside always stay; 0: all", least=0)
    audit_keep_for: float = _time(
        "audit-keep-for", RELAY, "14d", "more of them stay for that long", least=0, most=_YEAR
    )
    audit_max_total: int = _option(
        "audit-max-total",
        RELAY,
        "of those, while they take no more than this; 0: what the disk has",
        values.size(0, 1024**4),
        "4G",
        "SIZE",
    )
    status: ListenAddress | None = _option(  # noqa: RUF009
        "status",
        RELAY,
        "serve status and metrics by HTTP at tcp:127.0.0.1:PORT or unix:PATH",
        listen_address,
        metavar="ENDPOINT",
    )
    log_level: Literal["debug", "info", "warn", "error"] = _option(
        "log-level",
        RELAY,
        "the least that is logged; debug follows each command from step to step",
        values.choice("debug", "info", "warn", "error"),
        "info",
        "LEVEL",
    )
    log_format: Literal["text", "json"] = _option(
        "log-format", RELAY, "lines for people, or one JSON object a line", values.choice("text", "json"), "text", "HOW"
    )
    #: What this site can log in with by itself: the ``[[credentials]]`` tables of the file, in their order.
    credentials: tuple[SiteCredential, ...] = ()
    _key_file: ApiKeyFile = dataclasses.field(repr=False, compare=False)

    def read_api_key(self) -> Secret:
        """
        The API key as it is in its file now, so that it can be changed while relayd runs.

        :raises KeyUnusable: when there is none, or a weak one that was not allowed.
        """
        return self._key_file.read()

    def read_proxy_password(self) -> Secret | None:
        """
        The password of the proxy's user as it is in its file now; ``None`` where there is no such file.

        :raises UplinkError: when the file holds none.
        """
        if self.http_proxy_password_file is None:
            return None
        try:
            return read_line(self.http_proxy_password_file)
        except Unusable as error:
            raise UplinkError(reason=f"the proxy's password cannot be used: {error}") from None


OPTIONS: tuple[Option, ...] = tuple(
    field.metadata["option"] for field in dataclasses.fields(Config) if "option" in field.metadata
)
_BY_NAME = {option.name: option for option in OPTIONS}


@dataclasses.dataclass(frozen=True)
class Reading:
    """
    What `read` found.

    :ivar config: the choices; ``None`` where a mistake leaves no way to know them.
    :ivar mistakes: all that was found, in the order of command line, environment and file.
    :ivar given: what somebody set, by the names of the options; all others have their defaults.
    :ivar unknown: variables of the environment that may have been meant for relayd, and say nothing to it.
    """

    config: Config | None
    mistakes: tuple[ConfigError, ...]
    given: Mapping[str, Given]
    unknown: tuple[str, ...]


def load(argv_options: Mapping[str, str | bool | None], environ: Mapping[str, str], *, complete: bool = True) -> Config:
    """
    The choices alone; for the parameters see `read`.

    :raises ConfigError: for the first mistake.
    """
    reading = read(argv_options, environ, complete=complete)
    if reading.config is None or reading.mistakes:
        raise reading.mistakes[0]
    return reading.config


def read(
    argv_options: Mapping[str, str | bool | None],
    environ: Mapping[str, str],
    *,
    complete: bool = True,
    directory: str | None = None,
) -> Reading:
    """
    Read the options: the command line wins over the environment, that over the file, that over the default.

    :param argv_options: from an option's name to its text, or to whether a flag was given.
    :param complete: whether a relay is to run with them; if not, those without a default may be missing, and nothing
        is looked up on the disk.
    :param directory: what relative paths of command line and environment are relative to; by default where we are.
    """
    mistakes: list[ConfigError] = []
    sources = Sources(OPTIONS, os.getcwd() if directory is None else directory, mistakes.append)
    sources.read_argv(argv_options)
    sources.read_environment(environ)
    credentials: tuple[SiteCredential, ...] = ()
    given = sources.given
    path = sources.value(_BY_NAME["config"], given["config"]) if "config" in given else None
    if path is not None:
        content = sources.read_toml(path, given["config"].where)
        credentials = read_credentials(content.pop("credentials", []), path, environ, _BY_NAME, mistakes.append)
        sources.read_file(content, path)
    chosen = {
        option.attribute: sources.value(option, given[option.name]) if option.name in given else _default(option)
        for option in OPTIONS
        if option.name != "config"
    }
    chosen["config"] = path
    private = _derive(chosen, environ)
    known = not mistakes  # a value that could not be read is not known, and neither is what goes with it
    if complete and known:
        mistakes += _missing(chosen)
        mistakes += _at_odds(chosen, given)
    key_file = ApiKeyFile(chosen["api_key_file"], allow_weak=chosen["allow_weak_key"], private=private)
    config = Config(**chosen, credentials=credentials, _key_file=key_file) if known else None
    if complete and config is not None and config.api_key_file is not None:
        try:
            config.read_api_key()
        except KeyUnusable as error:
            where = _where(given, "api-key-file", "$CREDENTIALS_DIRECTORY/api-key")
            reason = f"the API key cannot be used: {error.fields['reason']}"
            mistakes.append(ConfigError(option=where, reason=reason))
    if complete and config is not None:
        try:
            config.read_proxy_password()
        except UplinkError as error:
            reason = str(error.fields["reason"])
            mistakes.append(ConfigError(option=_where(given, "http-proxy-password-file"), reason=reason))
    return Reading(config, tuple(mistakes), given, tuple(sources.unknown))


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


def _missing(chosen: Mapping[str, Any]) -> Iterator[ConfigError]:
    needed = (_BY_NAME[name] for name in ("server", "proxy-id", "api-key-file"))
    missing = [option for option in needed if chosen[option.attribute] is None]
    if missing:
        names = [option.flag_name for option in missing]
        yield ConfigError(
            option=" and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:]),
            reason=f"missing; give {' '.join(f'{option.flag_name} {option.metavar}' for option in missing)}, or "
            f"{missing[0].environment_name} in the environment, or {missing[0].name} in the file of --config",
        )


def _at_odds(chosen: Mapping[str, Any], given: Mapping[str, Given]) -> Iterator[ConfigError]:
    """What no option says alone."""
    server = chosen["server"]
    if server is not None and not chosen["allow_plaintext"] and not values.is_private(server, chosen["http_proxy"]):
        whom = " to the proxy" if values.is_private(server, None) else ""
        reason = (
            f"would send the API key and all passwords unencrypted{whom}; use wss:// or https://, or --allow-plaintext"
        )
        shown = given["server"].show(_BY_NAME["server"])
        yield ConfigError(option=_where(given, "server"), reason=f"{shown} {reason}")
    proxy = given.get("http-proxy")
    user, password = values.user_of(chosen["http_proxy"] or "")
    password_file = chosen["http_proxy_password_file"]
    if proxy is not None and proxy.on_command_line and (password or (user and not password_file)):
        reason = "everybody can read a command line: put the password into the file of --http-proxy-password-file"
        yield ConfigError(option=proxy.where, reason=reason)
    if password_file and (password or not user):
        reason = "needs --http-proxy with a user and no password beside it: http://USER@HOST:PORT"
        yield ConfigError(option=_where(given, "http-proxy-password-file"), reason=reason)
    for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if chosen[one] and not chosen[other]:
            name = one.replace("_", "-")
            yield ConfigError(option=_where(given, name), reason=f"needs --{other.replace('_', '-')} beside it")
    for name in ("tls-ca", "tls-cert", "tls-key"):
        path = chosen[_BY_NAME[name].attribute]
        if path and not os.path.isfile(path):
            yield ConfigError(option=_where(given, name), reason=f"there is no file {path}")
    if chosen["default_timeout"] > chosen["max_timeout"]:
        limit = values.spell_duration(chosen["max_timeout"])
        culprit = "default-timeout" if "default-timeout" in given else "max-timeout"
        reason = f"--default-timeout must not be longer than --max-timeout, which is {limit}"
        yield ConfigError(option=_where(given, culprit), reason=reason)
    hindrance = directory_hindrance(chosen["state_dir"])
    if hindrance:
        yield ConfigError(option=_where(given, "state-dir"), reason=hindrance)


def directory_hindrance(path: str) -> str:
    """
    Why a directory cannot be used, as far as that is known before it is made, perhaps by another user (``twistd
    --uid``); empty: nothing is known against it.
    """
    existing = Path(path)
    try:
        while not existing.exists():
            existing = existing.parent
    except OSError as error:  # such as a name that is too long for a file
        return f"{path} cannot be used: {error.strerror}"
    if not existing.is_dir():
        return f"{existing} is no directory"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{path} cannot be used: this user cannot write to {existing}"
    if existing == Path(path) and existing.stat().st_mode & 0o022:
        advice = "chmod go-w it, or name a directory in it that is not there yet"
        return f"others can write to {path}, and change what the relay has to remember: {advice}"
    return ""


def _where(given: Mapping[str, Given], name: str, otherwise: str = "") -> str:
    return given[name].where if name in given else otherwise or _BY_NAME[name].flag_name
