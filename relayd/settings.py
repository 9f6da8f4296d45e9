"""
Makes the settings of each part of a relay from its one `Config`.
"""

from __future__ import annotations

from functools import partial

from msgspec.structs import asdict

from relayd import __version__
from relayd.commands.dispatcher import Limits
from relayd.config.options import Config
from relayd.language.catalogues import translator
from relayd.network.descriptors import connections_within
from relayd.network.host_rules import HostTable
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.settings import LiveSettings, SSHSettings
from relayd.ssh_texts import RunnerSettings
from relayd.uplink.headers import read_headers
from relayd.uplink.settings import LiveUplinkSettings, UplinkSettings
from relayd.wire.parsing import FEATURES
from relayd.wire.relay_info import KnownHosts, MainServers, RelayInfo, RelayLimits


def limits_of(config: Config) -> Limits:
    """The limits of the dispatcher."""
    return Limits(
        max_commands=config.max_commands,
        max_queue=config.max_queue,
        default_timeout=config.default_timeout,
        max_timeout=config.max_timeout,
        output_encoding=config.output_encoding,
        hosts=HostTable(config.hosts),
        timeout_margin=config.timeout_margin,
    )


def credentials_of(config: Config) -> CredentialTable:
    """The site's own credentials."""
    return CredentialTable(rule for _, _, rule in config.logins)


def live_ssh_settings_of(config: Config) -> LiveSettings:
    """How hosts are reached, as far as that may change while relayd runs."""
    return LiveSettings(
        host_keys=config.host_keys,
        algorithms=config.ssh_algorithms,
        connect_timeout=config.connect_timeout,
        idle_timeout=config.idle_timeout,
        keepalive_interval=config.keepalive_interval,
        max_output=config.max_output,
        no_exit_status_hosts=config.no_exit_status_hosts or (),
        hosts=HostTable(config.hosts),
    )


def ssh_settings_of(config: Config) -> SSHSettings:
    """How hosts are reached."""
    return SSHSettings(
        **asdict(live_ssh_settings_of(config)),
        known_hosts=config.known_hosts,
        max_sessions=config.max_sessions,
        max_connections=config.max_connections,
        max_total_connections=connections_within(config.max_total_connections),
    )


def runner_settings_of(config: Config) -> RunnerSettings:
    """What hosts are told."""
    return RunnerSettings(
        working_directory=config.working_directory,
        output_encoding=config.output_encoding,
        hosts=HostTable(config.hosts),
        exact_text=config.allow_commands is not None or config.deny_commands is not None,
    )


def relay_info_of(config: Config, uptime: float, journal_id: str = "") -> RelayInfo | None:
    """
    What the relay tells of itself when the main server asks; ``None``: nothing. It holds no user and no credential.

    :param uptime: seconds since it started.
    :param journal_id: names its journal.
    """
    if config.relay_info == "none":
        return None
    known = config.hosts if config.relay_info == "full" else ()
    number = len(config.each_server)
    return RelayInfo(
        version=__version__,
        uptime=round(uptime, 3),
        limits=RelayLimits(
            max_commands=config.max_commands,
            max_queue=config.max_queue,
            max_sessions=config.max_sessions,
            max_connections=config.max_connections,
            max_output=config.max_output,
            default_timeout=round(config.default_timeout * 1000),
            max_timeout=round(config.max_timeout * 1000),
        ),
        features=FEATURES,
        labels=dict(label.split("=", 1) for label in config.label or ()),
        hosts=tuple(KnownHosts(patterns=rule.hosts, name=rule.name or None) for rule in known),
        journal_id=journal_id,
        main_servers=None if number == 1 else MainServers(number=number, results_to=config.results_to),
    )


def live_uplink_settings_of(config: Config) -> LiveUplinkSettings:
    """How the main server is reached, as far as that may change while relayd runs."""
    return LiveUplinkSettings(
        read_api_key=config.read_api_key,
        reconnect_delay=config.reconnect_delay,
        tls_ca=config.tls_ca,
        tls_cert=config.tls_cert,
        tls_key=config.tls_key,
        http_proxy=config.http_proxy,
        read_proxy_password=config.read_proxy_password,
        read_headers=partial(read_headers, config.header_file),
    )


def uplink_settings_of(config: Config) -> UplinkSettings:
    """How the main server is reached; the first one where there are several (`Config.each_server`)."""
    return UplinkSettings(
        **asdict(live_uplink_settings_of(config)),
        server=config.url,
        proxy_id=config.proxy_id,
        dialect=config.dialect,
        native_path=config.native_path,
        translate=translator(config.language),
    )
