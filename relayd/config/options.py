"""
The one table of options. Everything that reads, shows or describes options is made from it.

This module is long as it is a list.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Literal

from relayd.config import values
from relayd.config.api_key import LEAST_LENGTH, ApiKeyFile
from relayd.config.listen_address import ListenAddress, listen_address
from relayd.config.option import DAY, Effect, Option, Section, Weakness, options_of
from relayd.config.secret_files import Unusable, read_line
from relayd.config.server_tables import ServerRule
from relayd.errors import UplinkError
from relayd.network.credential_rules import CredentialRule
from relayd.network.host_rules import HostRule
from relayd.policy import rules
from relayd.wire.messages import Secret

_YEAR = 366 * DAY

SERVER = Section("Main server")
HOSTS = Section("SSH hosts")
POLICY = Section("Site policy")
LIMITS = Section("Limits")
RELAY = Section("This relay")

#: When a new value takes effect: the first argument of every declaration.
COMMANDS, RECHECK, CONNECTION, RESTART = Effect.COMMANDS, Effect.HOSTS, Effect.CONNECTION, Effect.RESTART


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """
    The settings of one relay. Times are in seconds, sizes in bytes, paths absolute.

    Its fields are the table of options; code that shows or reads options goes through `OPTIONS`.
    """

    server: tuple[str, ...] = SERVER.option(
        RESTART,
        "URL of the main server: wss://HOST, https://HOST, ws://HOST or http://HOST; path and query are kept; may be "
        "given several times: the next one is used while those before it are away",
        values.server_urls,
        "URL",
        example="wss://main.example.com",
        required=True,
        several=True,
    )
    proxy_id: str = SERVER.option(
        RESTART, "name of this relay at the main server", values.text, "NAME", example="site-1", required=True
    )
    api_key_file: str = SERVER.path(
        CONNECTION,
        "file that holds the API key; read at each connection",
        default_help="$CREDENTIALS_DIRECTORY/api-key",
        example="/etc/relayd/api-key",
        required=True,
        hidden=True,  # some will put the key itself there
    )
    dialect: Literal["auto", "socketio", "native"] = SERVER.choice(
        RESTART, "NAME", "auto socketio native", "auto", "how events are framed: auto, socketio or native"
    )
    native_path: str = SERVER.option(
        RESTART,
        "path of the WebSocket in the native dialect, appended to the path of --server",
        values.url_path,
        "PATH",
        default="/proxy",
    )
    reconnect_delay: float = SERVER.time(
        CONNECTION, "5s", "delay before reconnecting, randomly varied by up to 40 %", most=3600
    )
    failover_delay: float = SERVER.time(
        CONNECTION,
        "30s",
        "how long a main server may be away before the next of several is tried, randomly shortened by up to 40 %; "
        "also the time between two attempts to return to the first",
        least=1.0,
        most=DAY,
    )
    results_to: Literal["origin", "connected"] = SERVER.choice(
        RESTART,
        "WHICH",
        "origin connected",
        "origin",
        "which of several main servers gets a result: the one that ordered the command (origin), or whichever is "
        "connected",
    )
    tls_ca: str | None = SERVER.path(
        CONNECTION, "PEM file of the CA certificates to trust instead of the system's", example="/etc/relayd/ca.pem"
    )
    tls_cert: str | None = SERVER.path(
        CONNECTION, "PEM file of this relay's client certificate and its chain", example="/etc/relayd/client.pem"
    )
    tls_key: str | None = SERVER.path(
        CONNECTION, "PEM file of the client certificate's private key", example="/etc/relayd/client-key.pem"
    )
    http_proxy: str | None = SERVER.option(
        CONNECTION,
        "HTTP proxy to connect through (CONNECT): http://[USER@]HOST:PORT",
        values.proxy_url,
        "URL",
        example="http://relay@proxy.example.com:3128",
        hidden=True,
    )
    http_proxy_password_file: str | None = SERVER.path(
        CONNECTION,
        "file that holds the password of the proxy's user; read at each connection",
        example="/etc/relayd/proxy-password",
        hidden=True,  # some will put the password itself there
    )
    header_file: str | None = SERVER.path(
        CONNECTION,
        "file of extra HTTP headers for the main server, one 'Name: value' per line; read at each connection",
        example="/etc/relayd/headers",
    )
    allow_plaintext: bool = SERVER.flag(
        CONNECTION,
        "allow ws:// and http://, which send the API key and all passwords unencrypted",
        danger="the API key and all passwords are sent unencrypted: use wss://",
    )
    allow_weak_key: bool = SERVER.flag(
        CONNECTION,
        f"accept an API key of fewer than {LEAST_LENGTH} characters",
        danger="a short API key can be guessed: use a longer one",
    )
    host_keys: Literal["accept-new", "strict", "ignore"] = HOSTS.choice(
        RECHECK,
        "MODE",
        "accept-new strict ignore",
        "accept-new",
        "keys of unknown hosts: accept-new records them, strict refuses them; ignore checks no host's key at all",
        weakness=Weakness("ignore", "anybody on the path can read all passwords: use accept-new or strict"),
    )
    known_hosts: str = HOSTS.path(
        RESTART,
        "file of known host keys, in OpenSSH's format",
        default_help="STATE_DIR/known_hosts",
        example="/etc/ssh/ssh_known_hosts",
    )
    ssh_algorithms: Literal["modern", "compatible", "legacy"] = HOSTS.choice(
        RECHECK,
        "POLICY",
        "modern compatible legacy",
        "modern",
        "algorithms to offer: modern; compatible adds NIST curves and 2048-bit groups for older servers, legacy "
        "adds SHA-1 and CBC for old appliances",
        weakness=Weakness("legacy", "SHA-1 and CBC are broken: use it for old appliances only"),
    )
    max_sessions: int = HOSTS.count(
        RESTART, "10", "commands that may run at the same time on one SSH connection", most=1000
    )
    max_connections: int = HOSTS.count(
        RESTART, "4", "SSH connections to one target (host, port, user and credential)", most=1000
    )
    max_total_connections: int = HOSTS.count(RESTART, "1000", "SSH connections in total; each takes a file descriptor")
    connect_timeout: float = HOSTS.time(
        COMMANDS, "15s", "time limit for each of TCP, key exchange and login", most=3600
    )
    idle_timeout: float = HOSTS.time(COMMANDS, "5m", "time after which an unused SSH connection is closed")
    keepalive_interval: float = HOSTS.time(
        RECHECK,
        "15s",
        "time between two probes of a silent SSH server; two without an answer end the connection, unless the server "
        "never answers any",
        least=1.0,
        most=3600,
    )
    working_directory: str = HOSTS.option(
        COMMANDS,
        "directory in which commands run; empty for the login directory",
        values.any_text,
        "DIRECTORY",
        default="/",
    )
    output_encoding: str = HOSTS.option(
        COMMANDS,
        "character set of hosts, for output and commands: utf-8, gbk, big5, shift_jis, latin-1 and others",
        values.charset,
        "NAME",
        default="utf-8",
    )
    no_exit_status_hosts: tuple[str, ...] | None = HOSTS.patterns(
        COMMANDS,
        "hosts that never report an exit status: a session that they close in good order is a success; patterns as in "
        "--allow-hosts, exceptions begin with !",
        rules.host_patterns_with_exceptions,
        "switch-*,!switch-9",
        "none",
    )
    allow_hosts: tuple[str, ...] | None = POLICY.patterns(
        RECHECK,
        "allow only these hosts: networks, addresses, names with * and ?, each also as [PATTERN]:PORT, separated by "
        "commas",
        rules.host_patterns,
        "10.1.0.0/16,db-*.internal",
        "all",
    )
    deny_hosts: tuple[str, ...] | None = POLICY.patterns(
        RECHECK,
        "refuse these hosts, even if allowed; patterns as in --allow-hosts",
        rules.host_patterns,
        "10.1.9.*",
        "none",
    )
    allow_users: tuple[str, ...] | None = POLICY.patterns(
        COMMANDS,
        "run commands only as these users: names with * and ?, exceptions begin with !, separated by commas",
        rules.user_patterns,
        "deploy,app-*",
        "all",
    )
    allow_commands: str | None = POLICY.option(
        COMMANDS,
        "allow only commands whose whole text matches",
        rules.command_pattern,
        "REGEX",
        example="uptime|systemctl (status|restart) [a-z-]+",
        default_help="all",
        public=True,
    )
    deny_commands: str | None = POLICY.option(
        COMMANDS,
        "refuse commands if any part of their text matches, even if allowed",
        rules.command_pattern,
        "REGEX",
        example="shutdown|reboot",
        default_help="none",
        public=True,
    )
    allow_files: str | None = POLICY.option(
        COMMANDS,
        "allow files in commands only where their whole path matches",
        rules.command_pattern,
        "REGEX",
        example="/opt/app/.*",
        default_help="all, or none with --allow-commands",
        public=True,
    )
    deny_files: str | None = POLICY.option(
        COMMANDS,
        "refuse files in commands if any part of their path matches, even if allowed",
        rules.command_pattern,
        "REGEX",
        example="^/etc/|/[.]ssh/",
        default_help="none",
        public=True,
    )
    relay_info: Literal["full", "basic", "none"] = POLICY.choice(
        COMMANDS,
        "WHAT",
        "full basic none",
        "full",
        "what the main server learns when it asks (relay_info): all (full), all but the hosts of [[hosts]] tables "
        "(basic), or nothing (none)",
    )
    max_commands: int = LIMITS.count(COMMANDS, "64", "commands that may run at the same time")
    max_queue: int = LIMITS.count(COMMANDS, "10000", "commands that may wait in the queue; more are refused", least=0)
    default_timeout: float = LIMITS.time(COMMANDS, "5m", "timeout of commands that do not set one", most=_YEAR)
    max_timeout: float = LIMITS.time(COMMANDS, "1d", "longest timeout; longer ones are reduced to it", most=_YEAR)
    timeout_margin: float = LIMITS.time(
        COMMANDS,
        "500ms",
        "how long before its timeout a command is ended, so that its result arrives in time; at most a tenth of the "
        "timeout",
        least=0,
        most=3600,
    )
    max_output: int = LIMITS.size(COMMANDS, "8M", "bytes kept of stdout and of stderr", 1024, 1024**3)
    drain_timeout: float = LIMITS.time(
        COMMANDS, "30s", "time that running commands have to finish when relayd stops", least=0
    )
    journal: Literal["full", "normal", "memory"] = RELAY.choice(
        RESTART,
        "MODE",
        "full normal memory",
        "full",
        "what commands and results survive: loss of power (full), the end of the process (normal), neither (memory)",
    )
    journal_max_size: int = RELAY.size(
        RESTART,
        "1G",
        "size of the results waiting for confirmation; beyond it, commands are refused",
        1024**2,
        1024**4,
    )
    journal_retention: float = RELAY.time(
        RESTART,
        "7d",
        "how long to keep the ids of confirmed commands, and results that nobody confirms",
        least=60,
        most=_YEAR,
    )
    config: str | None = RELAY.path(RESTART, "TOML file of options, with lines such as: max-commands = 64")
    state_dir: str = RELAY.path(
        RESTART,
        "directory of what relayd has to remember, such as its journal",
        default_help="$STATE_DIRECTORY; /var/lib/relayd as root, else ~/.local/state/relayd",
        example="/var/lib/relayd",
    )
    label: tuple[str, ...] | None = RELAY.option(
        COMMANDS,
        "label that the main server learns when it asks (relay_info); may be given several times",
        values.labels,
        "KEY=VALUE",
        example="site=berlin",
        default_help="none",
        public=True,
        several=True,
    )
    language: Literal["en", "zh"] = RELAY.choice(
        RESTART,
        "NAME",
        "en zh",
        "en",
        "language of what the main server's users read: English (en) or Chinese (zh); the log is always English",
    )
    audit_log: str | None = RELAY.path(
        RESTART,
        "file that records who ordered which command and how it ended, in a hash chain",
        example="/var/log/relayd/audit.log",
        default_help="off",
    )
    audit_commands: Literal["digest", "text", "none"] = RELAY.choice(
        COMMANDS,
        "HOW",
        "digest text none",
        "digest",
        "how the audit log records commands: as a keyed digest, as text, or not at all (none)",
    )
    audit_max_size: int = RELAY.size(RESTART, "64M", "size at which the audit log rotates; 0: never", 0, 1024**4)
    audit_keep: int = RELAY.count(RESTART, "10", "rotated audit logs that are always kept; 0: all", least=0)
    audit_keep_for: float = RELAY.time(
        RESTART, "14d", "how long rotated audit logs beyond that number are kept", least=0, most=_YEAR
    )
    audit_max_total: int = RELAY.size(
        RESTART, "4G", "total size of the rotated audit logs beyond that number; 0: no limit but the disk", 0, 1024**4
    )
    status: ListenAddress | None = RELAY.option(  # noqa: RUF009
        RESTART,
        "address at which to serve status and metrics over HTTP: tcp:127.0.0.1:PORT or unix:PATH",
        listen_address,
        "ENDPOINT",
        example="tcp:127.0.0.1:9180",
        default_help="off",
    )
    log_level: Literal["debug", "info", "warn", "error"] = RELAY.choice(
        RESTART,
        "LEVEL",
        "debug info warn error",
        "info",
        "lowest level that is logged: debug (every step of each command), info, warn or error",
    )
    log_format: Literal["text", "json"] = RELAY.choice(
        RESTART, "HOW", "text json", "text", "lines for people (text), or one JSON object per line (json)"
    )
    #: The site's own credentials: the ``[[credentials]]`` tables of the file, in their order.
    credentials: tuple[CredentialRule, ...] = ()
    #: What is said of single hosts: the ``[[hosts]]`` tables of the file, in their order.
    hosts: tuple[HostRule, ...] = ()
    #: Several main servers, each with settings of its own: the ``[[servers]]`` tables of the file, in their order.
    servers: tuple[ServerRule, ...] = ()
    _key_file: ApiKeyFile = dataclasses.field(repr=False, compare=False)

    @property
    def url(self) -> str:
        """The URL of the main server, of the first one where there are several; ``None``: it is not set."""
        urls = [each.url for each in self.servers] or self.server
        return urls[0] if urls else None  # type: ignore[return-value]  # as for all required options

    @cached_property
    def each_server(self) -> tuple[Config, ...]:
        """The main servers, in the order of preference: for each the settings of a relay that has no other."""
        if self.servers:
            return tuple(self._with(rule) for rule in self.servers)
        if self.server is None or len(self.server) == 1:
            return (self,)
        return tuple(dataclasses.replace(self, server=(url,)) for url in self.server)

    def _with(self, rule: ServerRule) -> Config:
        said = rule.instead()
        if rule.api_key_file is not None:
            said["_key_file"] = ApiKeyFile(rule.api_key_file, allow_weak=self.allow_weak_key, private=False)
        return dataclasses.replace(self, server=(rule.url,), servers=(), **said)

    @property
    def logins(self) -> tuple[tuple[str, int, CredentialRule], ...]:
        """
        What the tables say of logins, in the order in which they are asked: what is said of single hosts comes first.
        For each, the kind of its table, the number of that, from 1, and the rule.
        """
        of_hosts = [("hosts", number, each.credential) for number, each in enumerate(self.hosts, 1)]
        others = [("credentials", number, each) for number, each in enumerate(self.credentials, 1)]
        return tuple((kind, number, rule) for kind, number, rule in of_hosts + others if rule is not None)

    def read_api_key(self) -> Secret:
        """
        The API key, read anew from its file so that it can be changed while relayd runs.

        :raises KeyUnusable: when the file holds no key, or a weak one that was not allowed.
        """
        return self._key_file.read()

    def read_proxy_password(self) -> Secret | None:
        """
        The proxy password, read anew from its file; ``None`` without such a file.

        :raises UplinkError: when the file holds no password.
        """
        if self.http_proxy_password_file is None:
            return None
        try:
            return read_line(self.http_proxy_password_file)
        except Unusable as error:
            reasons = filter(None, (str(error), error.cure))
            raise UplinkError(reason=f"the proxy's password cannot be used: {'; '.join(reasons)}") from None


OPTIONS: tuple[Option, ...] = options_of(Config)
BY_NAME = {option.name: option for option in OPTIONS}
