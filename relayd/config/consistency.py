"""
Checks whether options fit together and match what is on the disk: mistakes that no option shows alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from relayd.config import values
from relayd.config.options import BY_NAME, OPTIONS, Config
from relayd.config.paths import Paths
from relayd.config.server_tables import SERVERS, given_in
from relayd.config.sources import Given, where_set
from relayd.config.state_directory import directory_hindrance
from relayd.config.tables import place
from relayd.errors import ConfigError


def missing(config: Config) -> Iterator[ConfigError]:
    """One mistake that names all required options that were not set."""
    each = config.each_server
    required = [option for option in OPTIONS if option.required]
    options = [option for option in required if any(getattr(view, option.attribute) is None for view in each)]
    if not options:
        return
    *others, last = (option.flag_name for option in options)
    usage = " ".join(f"{option.flag_name} {option.metavar}" for option in options)
    yield ConfigError(
        option=f"{', '.join(others)} and {last}" if others else last,
        reason=f"missing; give {usage}, or {options[0].environment_name} in the environment, or {options[0].name} in "
        f"{config.config or 'the file of --config'}",
    )


def contradictions(config: Config, given: Mapping[str, Given], paths: Paths) -> Iterator[ConfigError]:
    """
    Mistakes between two options, or between an option and the disk.

    :param given: what was set, to name the place of a mistake.
    :param paths: knows which files cannot be seen here.
    """
    yield from _main_servers(config, given)
    for number, each in enumerate(config.each_server, 1):
        said = given_for(config, number, given)
        yield from _unencrypted(each, said)
        yield from _proxy(each, said)
        yield from _tls_files(each, said, paths)
    if config.default_timeout > config.max_timeout:
        limit = values.spell_duration(config.max_timeout)
        culprit = "default-timeout" if "default-timeout" in given else "max-timeout"
        reason = f"--default-timeout must not be longer than --max-timeout, which is {limit}"
        yield ConfigError(option=_where(given, culprit), reason=reason)
    if not paths.is_unseen(config.state_dir) and (hindrance := directory_hindrance(config.state_dir)):
        yield ConfigError(option=_where(given, "state-dir"), reason=hindrance)


def given_for(config: Config, number: int, given: Mapping[str, Given]) -> Mapping[str, Given]:
    """What was set for the main server with this *number*, from 1: a table of its own comes first."""
    if not config.servers:
        return given
    return {**given, **dict(given_in(number, config.servers[number - 1], config.config or ""))}


def _main_servers(config: Config, given: Mapping[str, Given]) -> Iterator[ConfigError]:
    if not config.servers:
        return
    if config.server is not None:
        reason = f"the main servers are given as [[servers]] tables in {config.config}; remove those, or this"
        yield ConfigError(option=_where(given, "server"), reason=reason)
    urls = [values.without_query(each.url) for each in config.servers]
    for number, url in enumerate(urls, 1):
        if number > values.MAX_SERVERS:
            reason = f"there may be at most {values.MAX_SERVERS} main servers"
            yield ConfigError(option=place(SERVERS, number, config.config or ""), reason=reason)
        elif (first := urls.index(url) + 1) < number:
            reason = f"is the main server of number {first} again: the URLs have to differ in more than the query"
            yield ConfigError(option=f"url of {place(SERVERS, number, config.config or '')}", reason=reason)


def _unencrypted(config: Config, given: Mapping[str, Given]) -> Iterator[ConfigError]:
    server = config.url
    if server is None or config.allow_plaintext or values.is_private(server, config.http_proxy):
        return
    whom = " to the proxy" if values.is_private(server, None) else ""
    reason = f"would send the API key and all passwords unencrypted{whom}; use wss:// or https://, or --allow-plaintext"
    shown = given["server"].show(BY_NAME["server"])
    yield ConfigError(option=_where(given, "server"), reason=f"{shown} {reason}")


def _proxy(config: Config, given: Mapping[str, Given]) -> Iterator[ConfigError]:
    proxy = given.get("http-proxy")
    user, password = values.user_of(config.http_proxy or "")
    password_file = config.http_proxy_password_file
    if proxy is not None and proxy.on_command_line and (password or (user and not password_file)):
        reason = "everybody can read a command line: put the password into the file of --http-proxy-password-file"
        yield ConfigError(option=proxy.where, reason=reason)
    if password_file and (password or not user):
        reason = "needs --http-proxy with a user and no password: http://USER@HOST:PORT"
        yield ConfigError(option=_where(given, "http-proxy-password-file"), reason=reason)


def _tls_files(config: Config, given: Mapping[str, Given], paths: Paths) -> Iterator[ConfigError]:
    files = {"tls-ca": config.tls_ca, "tls-cert": config.tls_cert, "tls-key": config.tls_key}
    for name, other in (("tls-cert", "tls-key"), ("tls-key", "tls-cert")):
        if files[name] and not files[other]:
            yield ConfigError(option=_where(given, name), reason=f"needs --{other} too")
    for name, path in files.items():
        if path and not paths.is_unseen(path) and not os.path.isfile(path):
            reasons = f"there is no file {path}", paths.origin(path) or "name one that is there"
            yield ConfigError(option=_where(given, name), reason="; ".join(filter(None, reasons)))


def _where(given: Mapping[str, Given], name: str) -> str:
    return where_set(given, BY_NAME[name])
