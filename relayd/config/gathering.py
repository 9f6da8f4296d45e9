"""
Gathers the options of any program from the command line, the environment and a file. What the values mean together is
up to that program.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from relayd.config.option import GivenOptions, Option, OptionTable
from relayd.config.paths import Elsewhere, Paths
from relayd.config.sources import Given, OptionSources
from relayd.config.tables import Surroundings, Table, read_tables
from relayd.errors import ConfigError

ConfigT = TypeVar("ConfigT")

#: The program itself reads its settings.
HERE: Final = Elsewhere()


class ReadOptions(Struct, Generic[ConfigT], frozen=True):
    """
    The settings of a program as they were read.

    :ivar config: the settings; ``None`` where mistakes leave them unknown.
    :ivar mistakes: all mistakes, in the order of command line, environment and file.
    :ivar given: what was set, by the names of options; all other options have their defaults.
    :ivar unknown: environment variables that begin as the program's do and name no option.
    """

    config: ConfigT | None
    mistakes: tuple[ConfigError, ...]
    given: Mapping[str, Given]
    unknown: tuple[str, ...]


class Gathered(Struct, frozen=True):
    """
    What was set.

    :ivar values: the value of each option, by its name in Python; ``None`` where it has none, or a mistake.
    :ivar tables: what the tables of the file say, by their kinds.
    :ivar mistakes: those in single options and tables.
    """

    values: dict[str, Any]
    tables: dict[str, Any]
    mistakes: list[ConfigError]
    given: Mapping[str, Given]
    unknown: tuple[str, ...]
    paths: Paths


def gather(
    table: OptionTable,
    argv_options: GivenOptions,
    environ: Mapping[str, str],
    *,
    directory: str | None = None,
    elsewhere: Elsewhere = HERE,
    readers: Mapping[str, Callable[[Table], Any]] | None = None,
    between: Callable[[dict[str, Any], str], Iterable[ConfigError]] = lambda tables, path: (),
    settings: Collection[str] = (),
) -> Gathered:
    """
    Read the options: the command line overrides the environment, that the file, and that the default.

    :param argv_options: what the command line holds.
    :param directory: what relative paths on the command line and in the environment are relative to; by default the
        working directory.
    :param elsewhere: what is different when another process than the program reads them.
    :param readers: by their kinds, what reads the tables of the file of which there may be several.
    :param between: the mistakes that no table makes alone, in the tables of the file at a path.
    :param settings: see `Surroundings`.
    """
    mistakes: list[ConfigError] = []
    paths = Paths(environ, elsewhere)
    sources = OptionSources(table, os.getcwd() if directory is None else directory, paths, mistakes.append)
    sources.read_argv(argv_options)
    sources.read_environment(environ)
    given = sources.given.get("config")
    path: str | None = None if given is None else sources.value(table.by_name["config"], given)
    tables: dict[str, Any] = {}
    if given is not None and path is not None:
        content = sources.read_toml(path, given.where)
        surroundings = Surroundings(path, environ, paths, table.by_name, settings)
        readers = readers or {}
        tables = {
            kind: read_tables(kind, content.pop(kind, []), surroundings, read, mistakes.append)
            for kind, read in readers.items()
        }
        if not mistakes:
            mistakes.extend(between(tables, path))
        sources.read_file(content, path, readers)
    values = {option.attribute: _value(sources, option) for option in table.options if option.name != "config"}
    values["config"] = path
    return Gathered(values, tables, mistakes, sources.given, tuple(sources.unknown), paths)


def _value(sources: OptionSources, option: Option) -> Any:
    given = sources.given.get(option.name)
    if given is not None:
        return sources.value(option, given)
    return None if option.default is None else option.parse(option.default)
