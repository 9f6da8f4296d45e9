"""
The one table of the hub's options. Everything that reads, shows or describes them is made from it.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

from relayd.config.listen_address import ListenAddress, listen_address
from relayd.config.option import DAY, Effect, OptionTable, Section
from relayd.config.secret_files import Unusable, read_line
from relayd.errors import ConfigError
from relayd.hub.config.values import database_url, networks, public_url
from relayd.network.patterns import Network, read_network
from relayd.wire.messages import Secret

_CENTURY: Final = 36500 * DAY

PORTS = Section("Ports")
STATE = Section("State")
HISTORY = Section("History")
PROCESS = Section("This hub")

NOW, RESTART = Effect.NOW, Effect.RESTART


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubConfig:
    """
    The settings of one hub. Times are in seconds, sizes in bytes, paths absolute.

    Its fields are the table of options; code that shows or reads options goes through `HUB_TABLE`.
    """

    listen: ListenAddress = PORTS.option(  # noqa: RUF009
        RESTART,
        "address at which relays connect: tcp:ADDRESS:PORT, or unix:PATH behind a reverse proxy",
        listen_address,
        "ENDPOINT",
        default="tcp:127.0.0.1:8765",
    )
    api_listen: ListenAddress | None = PORTS.option(  # noqa: RUF009
        RESTART,
        "address of the API, for people and programs; without it, the address of --listen serves both",
        listen_address,
        "ENDPOINT",
        example="tcp:127.0.0.1:8766",
        default_help="as --listen",
    )
    tls_cert: str | None = PORTS.path(
        RESTART,
        "PEM file of the certificate and its chain; read again when it changes",
        example="/etc/relayd-hub/cert.pem",
    )
    tls_key: str | None = PORTS.path(
        RESTART,
        "PEM file of the certificate's private key; read again when it changes",
        example="/etc/relayd-hub/key.pem",
    )
    allow_plaintext: bool = PORTS.flag(
        RESTART,
        "listen without TLS on addresses that other machines reach",
        danger="keys, tokens and passwords arrive unencrypted: use --tls-cert and --tls-key, or listen on 127.0.0.1 "
        "behind a reverse proxy",
    )
    trusted_proxy: tuple[str, ...] | None = PORTS.option(
        RESTART,
        "address or network of a reverse proxy, whose X-Forwarded-For and X-Forwarded-Proto are believed; may be given "
        "several times",
        networks,
        "CIDR",
        example="127.0.0.1,10.0.0.0/24",
        default_help="none",
        public=True,
        several=True,
    )
    public_url: str | None = PORTS.option(
        RESTART,
        "URL by which relays and people reach the hub; requests for other hosts are refused",
        public_url,
        "URL",
        example="https://hub.example.com",
        default_help="any",
        public=True,
    )
    config: str | None = STATE.path(RESTART, 'TOML file of options, with lines such as: keep-runs = "90d"')
    state_dir: str = STATE.path(
        RESTART,
        "directory of the hub's state: its database, its sealing keys, its audit log",
        default_help="$STATE_DIRECTORY; /var/lib/relayd-hub as root, else ~/.local/state/relayd-hub",
        example="/var/lib/relayd-hub",
    )
    database: str | None = STATE.option(
        RESTART,
        "PostgreSQL database, as postgresql://[USER@]HOST/NAME",
        database_url,
        "URL",
        example="postgresql://relayd@db.example.com/relayd",
        default_help="SQLite in the state directory",
        hidden=True,  # it may hold a password
    )
    database_file: str | None = STATE.path(
        RESTART,
        "file that holds the URL of the PostgreSQL database, with its password",
        example="/etc/relayd-hub/database",
        hidden=True,  # some will put the URL itself there
    )
    secrets_file: str = STATE.path(
        RESTART,
        "file of the keys that seal credentials in the database, the newest first; made at the first start",
        default_help="$CREDENTIALS_DIRECTORY/secrets, or STATE_DIR/secrets",
        example="/etc/relayd-hub/secrets",
    )
    keep_runs: float = HISTORY.time(
        NOW, "365d", "how long runs are kept after they have ended", least=3600, most=_CENTURY
    )
    keep_output: float = HISTORY.time(
        NOW, "90d", "how long the output of ended runs is kept", least=3600, most=_CENTURY
    )
    max_output_size: int = HISTORY.size(
        NOW, "10G", "size of all output that is kept; the oldest goes first", 1024**2, 1024**5
    )
    drain_timeout: float = PROCESS.time(
        NOW, "10s", "time that requests to the API have to finish when the hub stops", least=0, most=3600
    )
    log_level: Literal["debug", "info", "warn", "error"] = PROCESS.choice(
        RESTART, "LEVEL", "debug info warn error", "info", "lowest level that is logged: debug, info, warn or error"
    )
    log_format: Literal["text", "json"] = PROCESS.choice(
        RESTART, "HOW", "text json", "text", "lines for people (text), or one JSON object per line (json)"
    )

    @property
    def trusted_proxies(self) -> tuple[Network, ...]:
        """The networks of ``--trusted-proxy``."""
        return tuple(map(read_network, self.trusted_proxy or ()))

    @property
    def addresses(self) -> tuple[ListenAddress, ...]:
        """Where the hub listens: one address, or that of relays and that of the API."""
        return (self.listen,) if self.api_listen in (None, self.listen) else (self.listen, self.api_listen)

    def database_of(self) -> Secret | None:
        """
        The URL of the PostgreSQL database; ``None``: SQLite is used.

        :raises ConfigError: when ``--database-file`` holds none.
        """
        if self.database is not None:
            return Secret(self.database)
        if self.database_file is None:
            return None
        try:
            return Secret(database_url(read_line(self.database_file).reveal()))
        except ValueError as error:
            reason = f"its file must hold {error.args[0]}"
        except Unusable as error:
            reason = "; ".join(filter(None, (str(error), error.cure)))
        raise ConfigError(option="--database-file", reason=f"the URL cannot be used: {reason}") from None


#: The table of the hub.
HUB_TABLE = OptionTable(
    program="relayd-hub",
    check="relayctl hub check",
    config=HubConfig,
    prefix="RELAYD_HUB_",
    examples='keep-runs = "90d" or log-format = "json"',
)
