"""
The places where people set options: command line, environment, TOML file.
Each mistake there becomes one `ConfigError`, and reading goes on, so that all mistakes are known at once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from relayd.config import values
from relayd.config.option import GivenOptions, Option, OptionTable
from relayd.config.paths import Paths
from relayd.errors import ConfigError

#: Characters of a wrong value that is shown: longer ones are more likely keys than words, numbers or times.
_LONGEST_SHOWN: Final = 24
#: How similar an unknown variable must be to one of ours to be a mistake: others may belong to another program.
_ALIKE: Final = 0.8
#: What to do about a TOML file that cannot be read.
_CURES: Final = {
    PermissionError: "; {program}'s user has to read it: chmod 644 it",
    FileNotFoundError: "; write it, or name another",
    IsADirectoryError: "; name the file in it",
}


@dataclasses.dataclass(frozen=True)
class Given:
    """
    A text that was set for an option.

    :ivar where: the place, in words by which an operator finds it.
    :ivar directory: what a relative path is relative to.
    """

    text: str
    where: str
    directory: str
    on_command_line: bool = False
    in_environment: bool = False

    def show(self, option: Option, part: str | None = None) -> str:
        """
        The text, or *part* of it, for a message; without it where it may hold a secret, as URLs with a user or a query
        and long words do.
        """
        text = self.text if part is None else part
        private = not option.public and (set(text) & set("@?") or len(text) > _LONGEST_SHOWN)
        return "the given value" if option.hidden or private or not text.isprintable() else f'"{text}"'


def where_set(given: Mapping[str, Given], option: Option, otherwise: str = "") -> str:
    """Where an option was set; if it was not, *otherwise* or its name on the command line."""
    return given[option.name].where if option.name in given else otherwise or option.flag_name


class OptionSources:
    """
    Collects what was set; call its methods in the order of precedence.

    :param table: the options.
    :param directory: what relative paths on the command line and in the environment are relative to.
    :param paths: says where paths lead, and where variables were set.
    :param refuse: called with each mistake.
    :ivar given: what was set, by the names of options.
    :ivar unknown: environment variables that begin as the program's do and name no option.
    """

    def __init__(
        self,
        table: OptionTable,
        directory: str,
        paths: Paths,
        refuse: Callable[[ConfigError], object],
    ) -> None:
        self._table = table
        self._by_name = table.by_name
        self._by_variable = {option.environment_name: option for option in table.options}
        self._directory = directory
        self._paths = paths
        self._tell = refuse
        self.given: dict[str, Given] = {}
        self.unknown: list[str] = []

    def read_argv(self, argv_options: GivenOptions) -> None:
        """Take what the command line holds."""
        for name, value in argv_options.items():
            if name in self._by_name and value is not None and value is not False:
                text = "yes" if value is True else ",".join(value) if isinstance(value, list) else value
                where = self._paths.place(self._by_name[name].flag_name)
                self._give(name, Given(text, where, self._directory, on_command_line=True))

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take what the environment holds."""
        for variable, text in environ.items():
            option = self._by_variable.get(variable)
            where = self._paths.place(variable, f"{variable} in the environment")
            if option is not None:
                if text or option.parse is values.any_text:  # an empty variable is the usual way to say "not set"
                    self._give(option.name, Given(text, where, self._directory, in_environment=True))
            elif variable.startswith(self._table.prefix) and not variable.startswith(self._table.not_its):
                if values.near(variable, self._by_variable, _ALIKE):
                    self._refuse_unknown(variable, where, self._by_variable)
                else:
                    self.unknown.append(variable)

    def read_toml(self, path: str, where: str) -> dict[str, Any]:
        """
        The content of a TOML file; empty if it cannot be read.

        :param where: where the file was named.
        """
        import tomllib  # here, since a relay may have no such file

        try:
            with open(path, "rb") as file:
                return tomllib.loads(file.read().decode("utf-8-sig"))  # some editors begin files with a byte order mark
        except OSError as error:
            advice = _CURES.get(type(error), "").format(program=self._table.program)
            self._refuse(where, f"{path} cannot be read: {error.strerror}{advice}")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            said = str(error)
            hint = "; put texts in quotes" if said.startswith("Invalid value") else "; correct that line"
            hint = "; it is set twice: remove one of the two" if said.startswith("Cannot overwrite a value") else hint
            self._refuse(path, f"is not valid TOML: {error}{hint}")
        except ValueError:  # tomllib lets Python's own limit through
            self._refuse(path, "is not valid TOML: a number has thousands of digits")
        except RecursionError:
            self._refuse(path, "is not valid TOML: it nests too deeply")
        return {}

    def read_file(self, content: Mapping[str, Any], path: str, kinds: Collection[str] = ()) -> None:
        """
        Take what a TOML file holds, without the tables of which there may be several.

        :param kinds: the kinds of those.
        """
        known = set(self._by_name) - {"config"}
        for name, value in content.items():
            where = f"{name if name in known else values.key(name)} in {path}"
            if name not in known:
                if isinstance(value, dict):
                    self._refuse(where, "no such table; options belong at the top of the file, outside of tables")
                else:
                    self._refuse_unknown(name, where, known | set(kinds))
                continue
            try:
                option = self._by_name[name]
                found = _listed(value) if option.several else value
                text = text_of_toml(found, several=_may_be_list(option), examples=self._table.examples)
            except ValueError as reason:
                self._refuse(where, str(reason))
            else:
                self._give(name, Given(text, where, os.path.dirname(path)))

    def value(self, option: Option, given: Given) -> Any:
        """The value of an option; ``None`` if its text is a mistake."""
        try:
            value = option.parse(given.text)
        except ValueError as error:
            expected, *part = error.args  # of a list, the part that is wrong
            self._refuse(given.where, f"expected {expected}, not {given.show(option, *part)}")
            return None
        if option.is_path:
            try:
                return self._paths.resolve(str(value), given.directory)
            except ValueError as error:
                self._refuse(given.where, str(error))
                return None
        return value

    def _give(self, name: str, given: Given) -> None:
        self.given.setdefault(name, given)

    def _refuse(self, where: str, reason: str) -> None:
        self._tell(ConfigError(option=where, reason=reason))

    def _refuse_unknown(self, name: str, where: str, known: Collection[str]) -> None:
        meant = values.near(name, known)
        self._refuse(where, "no such option" + (f"; did you mean {meant}?" if meant else ""))


def text_of_toml(value: object, *, several: bool = False, examples: str = "") -> str:
    """
    A value of a TOML file as people write it on the command line.

    :param several: whether it may be a list of texts.
    :param examples: what would be right, for the message.
    :raises ValueError: when it is of another kind; says what was expected.
    """
    if several and isinstance(value, list) and all(map(_is_item, value)):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 64:  # which str may refuse to spell
        raise ValueError("the number is too large")
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"expected one value, like {examples}")


def _listed(value: object) -> object:
    """The names and values of a table as a list of texts."""
    return [f"{key}={text_of_toml(each)}" for key, each in value.items()] if isinstance(value, dict) else value


def _may_be_list(option: Option) -> bool:
    return option.several or option.metavar == "PATTERNS"


def _is_item(value: object) -> bool:
    return isinstance(value, str) and "," not in value
