"""
Reads the options from the command line, the environment and a file into one `Config`.
Each mistake becomes one `ConfigError` that names the option, where it was set, and what was expected there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from relayd.config.api_key import ApiKeyFile
from relayd.config.consistency import contradictions, given_for, missing
from relayd.config.credentials import CREDENTIALS, read_credential
from relayd.config.host_tables import HOST_KEYS, HOSTS, between_hosts, read_host
from relayd.config.option import GivenOptions, Option
from relayd.config.options import BY_NAME, OPTIONS, Config
from relayd.config.paths import Elsewhere, Paths
from relayd.config.server_tables import SERVERS, read_server
from relayd.config.sources import Given, OptionSources, where_set
from relayd.config.tables import Surroundings, Table, read_tables
from relayd.errors import ConfigError, KeyUnusable, UplinkError

#: The relay itself reads its settings.
_HERE: Final = Elsewhere()


class Reading(Struct, frozen=True):
    """
    The result of `read`.

    :ivar config: the settings; ``None`` where mistakes leave them unknown.
    :ivar mistakes: all mistakes, in the order of command line, environment and file.
    :ivar given: what was set, by the names of options; all other options have their defaults.
    :ivar unknown: environment variables that begin with ``RELAYD_`` and name no option.
    """

    config: Config | None
    mistakes: tuple[ConfigError, ...]
    given: Mapping[str, Given]
    unknown: tuple[str, ...]


def load(
    argv_options: GivenOptions,
    environ: Mapping[str, str],
    *,
    complete: bool = True,
    directory: str | None = None,
    elsewhere: Elsewhere = _HERE,
) -> Config:
    """
    The settings alone; for the parameters see `read`.

    :raises ConfigError: for the first mistake.
    """
    reading = read(argv_options, environ, complete=complete, directory=directory, elsewhere=elsewhere)
    if reading.config is None or reading.mistakes:
        raise reading.mistakes[0]
    return reading.config


def read(
    argv_options: GivenOptions,
    environ: Mapping[str, str],
    *,
    complete: bool = True,
    directory: str | None = None,
    elsewhere: Elsewhere = _HERE,
) -> Reading:
    """
    Read the options: the command line overrides the environment, that the file, and that the default.

    :param argv_options: what the command line holds.
    :param complete: whether a relay is to run with them; if not, those without a default may be missing, and no other
        file is looked at.
    :param directory: what relative paths on the command line and in the environment are relative to; by default the
        working directory.
    :param elsewhere: what is different when another process than the relay reads them.
    """
    mistakes: list[ConfigError] = []
    paths = Paths(environ, elsewhere)
    directory = os.getcwd() if directory is None else directory
    sources = OptionSources(OPTIONS, directory, paths, mistakes.append)
    sources.read_argv(argv_options)
    sources.read_environment(environ)
    path, tables = _read_file(sources, environ, paths, mistakes)
    given = sources.given
    chosen = {option.attribute: _value(sources, option) for option in OPTIONS if option.name != "config"}
    chosen["config"] = path
    private = _derive(chosen, environ, paths)
    config = None
    if not mistakes:  # a value that could not be read is not known, and neither is what depends on it
        key_file = ApiKeyFile(chosen["api_key_file"], allow_weak=chosen["allow_weak_key"], private=private)
        config = Config(**chosen, **tables, _key_file=key_file)
        if complete:
            mistakes += [*missing(config), *contradictions(config, given, paths)]
            for number, each in enumerate(config.each_server, 1):
                said = given_for(config, number, given)
                known = set(map(str, mistakes))
                mistakes += [mistake for mistake in _unusable_secrets(each, said, paths) if str(mistake) not in known]
    return Reading(config, tuple(mistakes), given, tuple(sources.unknown))


def _read_file(
    sources: OptionSources, environ: Mapping[str, str], paths: Paths, mistakes: list[ConfigError]
) -> tuple[str | None, dict[str, Any]]:
    """The path of the file that ``config`` names, if any, and what its tables say, by their kinds."""
    given = sources.given.get("config")
    path: str | None = None if given is None else sources.value(BY_NAME["config"], given)
    if given is None or path is None:
        return None, {}
    content = sources.read_toml(path, given.where)
    surroundings = Surroundings(path, environ, paths, BY_NAME, HOST_KEYS)
    readers: dict[str, Callable[[Table], Any]] = {CREDENTIALS: read_credential, HOSTS: read_host, SERVERS: read_server}
    tables = {
        kind: read_tables(kind, content.pop(kind, []), surroundings, read, mistakes.append)
        for kind, read in readers.items()
    }
    if not mistakes:
        mistakes.extend(between_hosts(tables[HOSTS], path))
    sources.read_file(content, path)
    return path, tables


def _value(sources: OptionSources, option: Option) -> Any:
    given = sources.given.get(option.name)
    if given is not None:
        return sources.value(option, given)
    return None if option.default is None else option.parse(option.default)


def _derive(chosen: dict[str, Any], environ: Mapping[str, str], paths: Paths) -> bool:
    """
    Fill in the defaults that depend on the machine.

    :return: whether the API key comes from systemd.
    """
    private = chosen["api_key_file"] is None and bool(paths.credentials)
    if private:
        chosen["api_key_file"] = paths.resolve("api-key", paths.credentials)
    if chosen["state_dir"] is None:
        # Never below the working directory: relayd started from another one would have forgotten all host keys.
        personal = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        fallback = "/var/lib/relayd" if os.geteuid() == 0 else os.path.join(personal, "relayd")
        chosen["state_dir"] = os.path.abspath(environ.get("STATE_DIRECTORY", "").split(":")[0] or fallback)
    if chosen["known_hosts"] is None:
        chosen["known_hosts"] = os.path.join(chosen["state_dir"], "known_hosts")
    return private


def _unusable_secrets(config: Config, given: Mapping[str, Given], paths: Paths) -> Iterator[ConfigError]:
    """What is wrong with the files that hold secrets for the main server and the proxy."""
    path = config.api_key_file
    if path is not None and not paths.is_unseen(path):
        try:
            config.read_api_key()
        except KeyUnusable as error:
            where = where_set(given, BY_NAME["api-key-file"], "$CREDENTIALS_DIRECTORY/api-key")
            reasons = f"the API key cannot be used: {error.why}", paths.origin(path) or error.cure
            yield ConfigError(option=where, reason="; ".join(filter(None, reasons)))
    if config.http_proxy_password_file is None or paths.is_unseen(config.http_proxy_password_file):
        return
    try:
        config.read_proxy_password()
    except UplinkError as error:
        where = where_set(given, BY_NAME["http-proxy-password-file"])
        reasons = str(error.fields["reason"]), paths.origin(config.http_proxy_password_file)
        yield ConfigError(option=where, reason="; ".join(filter(None, reasons)))
