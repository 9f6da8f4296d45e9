"""
Reads the hub's options into one `HubConfig`, and says what is wrong with them together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from relayd.config.gathering import HERE, ReadOptions, gather
from relayd.config.option import GivenOptions
from relayd.config.paths import Elsewhere, Paths, state_directory
from relayd.config.secret_files import open_to_others
from relayd.config.sources import Given, where_set
from relayd.config.state_directory import directory_hindrance
from relayd.errors import ConfigError
from relayd.hub.config.options import HUB_TABLE, HubConfig
from relayd.hub.config.values import password_in

#: The name of the credential of systemd that holds the sealing keys.
_CREDENTIAL = "secrets"


class HubReading(ReadOptions[HubConfig], frozen=True):
    """The settings of a hub as `read` found them."""


def read(
    argv_options: GivenOptions,
    environ: Mapping[str, str],
    *,
    complete: bool = True,
    directory: str | None = None,
    elsewhere: Elsewhere = HERE,
) -> HubReading:
    """
    Read the options: the command line overrides the environment, that the file, and that the default.

    :param complete: whether a hub is to run with them; if not, no other file is looked at.
    :param directory: what relative paths on the command line and in the environment are relative to; by default the
        working directory.
    :param elsewhere: what is different when another process than the hub reads them.
    """
    found = gather(HUB_TABLE, argv_options, environ, directory=directory, elsewhere=elsewhere)
    values, mistakes = found.values, found.mistakes
    if values["state_dir"] is None:
        values["state_dir"] = state_directory(environ, "relayd-hub")
    if values["secrets_file"] is None:
        credential = os.path.join(found.paths.credentials, _CREDENTIAL) if found.paths.credentials else ""
        usable = bool(credential) and os.path.exists(credential)
        values["secrets_file"] = credential if usable else os.path.join(values["state_dir"], "secrets")
    config = None
    if not mistakes:  # a value that could not be read is not known, and neither is what depends on it
        config = HubConfig(**values)
        mistakes += _contradictions(config, found.given)
        if complete:
            mistakes += _on_disk(config, found.given, found.paths)
    return HubReading(config, tuple(mistakes), found.given, found.unknown)


def load(argv_options: GivenOptions, environ: Mapping[str, str], *, complete: bool = True) -> HubConfig:
    """
    The settings alone; for the parameters see `read`.

    :raises ConfigError: for the first mistake.
    """
    reading = read(argv_options, environ, complete=complete)
    if reading.config is None or reading.mistakes:
        raise reading.mistakes[0]
    return reading.config


def exposures(reading: ReadOptions[HubConfig], environ: Mapping[str, str]) -> list[str]:
    """One line for each thing that the settings expose to other users of the machine, with what to do about it."""
    config = reading.config
    if config is None:
        return []
    files = (
        ("the private key of --tls-key", config.tls_key),
        ("the database's URL of --database-file", config.database_file),
    )
    found = [
        f"other users can read {whose} in {path}: chmod 600 it"
        for whose, path in files
        if path is not None and open_to_others(path, environ)
    ]
    given = reading.given.get("database")
    if config.database is not None and given is not None and password_in(config.database):
        if given.in_environment:
            found.append(
                f"{given.where} holds the database's password, which others can see with systemctl show, docker "
                "inspect or in /proc: put the URL into a file, and give that to --database-file"
            )
        elif config.config is not None and open_to_others(config.config, environ):
            found.append(f"others can read {config.config}, which holds the database's password: chmod 600 it")
    return found


def _contradictions(config: HubConfig, given: Mapping[str, Given]) -> Iterator[ConfigError]:
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if getattr(config, name) and not getattr(config, other):
            yield _mistake(given, name, f"needs {HUB_TABLE.by_name[other.replace('_', '-')].flag_name} too")
    if config.tls_cert is None and not config.allow_plaintext:
        for name in ("listen", "api_listen"):
            address = getattr(config, name)
            if address is not None and not address.is_local:
                reason = (
                    f"{address} is reached from other machines, and nothing encrypts what they send: give --tls-cert "
                    "and --tls-key, or listen on 127.0.0.1 behind a reverse proxy, or give --allow-plaintext"
                )
                yield _mistake(given, name, reason)
    if config.api_listen is not None and config.api_listen != config.listen:
        first, second = config.listen, config.api_listen
        if first.path == second.path and (first.host, first.port) == (second.host, second.port):
            yield _mistake(given, "api_listen", f"is the address of --listen with another mode: {first}")
    if config.database is not None and config.database_file is not None:
        yield _mistake(given, "database_file", "the database is given by --database already; remove one of the two")
    database = given.get("database")
    if database is not None and database.on_command_line and config.database and password_in(config.database):
        yield _mistake(given, "database", "everybody can read a command line: put the URL into --database-file")


def _on_disk(config: HubConfig, given: Mapping[str, Given], paths: Paths) -> Iterator[ConfigError]:
    for name in ("tls_cert", "tls_key"):
        path = getattr(config, name)
        if path and not paths.is_unseen(path) and not os.path.isfile(path):
            reasons = f"there is no file {path}", paths.origin(path) or "name one that is there"
            yield _mistake(given, name, "; ".join(filter(None, reasons)))
    if config.database_file is not None and not paths.is_unseen(config.database_file):
        try:
            config.database_of()
        except ConfigError as error:
            yield _mistake(given, "database_file", str(error.fields["reason"]))
    if not paths.is_unseen(config.state_dir) and (hindrance := directory_hindrance(config.state_dir, "hub")):
        yield _mistake(given, "state_dir", hindrance)


def _mistake(given: Mapping[str, Given], name: str, reason: str) -> ConfigError:
    return ConfigError(option=where_set(given, HUB_TABLE.by_name[name.replace("_", "-")]), reason=reason)
