"""
What an option is: its names, how its text is read, when a new value takes effect; and how options are declared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple

from relayd.config import values

DAY = 86400.0

#: What a command line holds, by the names of options: texts, whether a flag was given, or each text of several.
GivenOptions = Mapping[str, str | bool | list[str] | None]


class Effect(Enum):
    """When a new value takes effect after a program has read its settings again (SIGHUP)."""

    NOW = "at once"
    COMMANDS = "at once, for new commands"
    HOSTS = "at once, for new commands; open connections to hosts get no more of them"
    CONNECTION = "at the next connection to the main server"
    RESTART = "after a restart"


class Weakness(NamedTuple):
    """
    A value that takes a defence away.

    :ivar value: the text that a person would write.
    :ivar advice: what can happen, and what to do instead.
    """

    value: str
    advice: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """
    One option; its name on the command line, in the environment and in the TOML file follow from `name`.

    :ivar parse: turns its text into its value; a ValueError says what was expected.
    :ivar default: the text that a person would write; ``None``: the option may be absent.
    :ivar default_help: the default in words, where it depends on the machine or is the absence of a value.
    :ivar example: a text for the example file, where there is no default.
    :ivar required: whether the program needs it to run.
    :ivar weakness: the value that weakens the program, if there is one; ``relayctl check`` warns of it.
    :ivar hidden: whether its value may hold a secret and is therefore not shown.
    :ivar public: whether its value can never hold a secret and is always shown.
    :ivar several: whether it holds several values, and may be given several times on the command line. In the
        environment, commas separate them; in the TOML file it may be a list, or a table of names and values.
    :ivar is_path: whether it is a path; paths are made absolute, as twistd changes its working directory.
    :ivar prefix: how its name in the environment begins.
    """

    name: str = ""
    prefix: str = "RELAYD_"
    section: str
    effect: Effect
    help: str
    parse: Callable[[str], object]
    default: str | None = None
    metavar: str = ""
    default_help: str = ""
    example: str = ""
    required: bool = False
    weakness: Weakness | None = None
    hidden: bool = False
    public: bool = False
    several: bool = False
    is_path: bool = False

    @property
    def is_flag(self) -> bool:
        """Whether it stands alone on the command line."""
        return self.parse is values.flag

    @property
    def flag_name(self) -> str:
        """Its name on the command line."""
        return f"--{self.name}"

    @property
    def environment_name(self) -> str:
        """Its name in the environment."""
        return self.prefix + self.attribute.upper()

    @property
    def attribute(self) -> str:
        """Its name in Python."""
        return self.name.replace("-", "_")

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it can be; empty for options that take other values."""
        return self.parse.words if isinstance(self.parse, values.Choice) else ()

    @property
    def shown_default(self) -> str:
        """The default as people see it; empty for flags, and where there is no default."""
        return self.default_help or ("" if self.is_flag else self.default or "")

    def spell(self, value: object) -> str:
        """A value as a person would write it: `parse` reads the same value from that text. Empty for ``None``."""
        if value is None:
            return ""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, tuple):
            return ",".join(value)
        if isinstance(value, float):
            return values.spell_duration(value)
        return values.spell_size(value) if isinstance(value, int) and self.metavar == "SIZE" else str(value)


@dataclasses.dataclass(frozen=True)
class Section:
    """
    One section of the table of options. Its methods declare options as fields of a dataclass; the name of a field
    becomes that of the option, see `OptionTable`.

    :ivar title: the heading in ``--help``.
    """

    title: str

    def option(self, effect: Effect, help: str, parse: Callable[[str], object], metavar: str = "", **more: Any) -> Any:
        """
        An option of any kind.

        :param more: further attributes of `Option`.
        """
        option = Option(section=self.title, effect=effect, help=help, parse=parse, metavar=metavar, **more)
        return dataclasses.field(metadata={"option": option}, repr=not option.hidden)

    def flag(self, effect: Effect, help: str, danger: str) -> Any:
        """An option that is off by default; *danger* is what can happen when it is on."""
        return self.option(effect, help, values.flag, default="no", weakness=Weakness("yes", danger))

    def path(self, effect: Effect, help: str, **more: Any) -> Any:
        """The path of a file or directory."""
        return self.option(effect, help, values.text, "PATH", is_path=True, **more)

    def time(self, effect: Effect, default: str, help: str, least: float = 0.1, most: float = DAY) -> Any:
        """A span of time, from *least* to *most* seconds."""
        return self.option(effect, help, values.duration(least, most), "TIME", default=default)

    def count(self, effect: Effect, default: str, help: str, least: int = 1, most: int = 1_000_000) -> Any:
        """A whole number."""
        return self.option(effect, help, values.whole_number(least, most), "N", default=default)

    def size(self, effect: Effect, default: str, help: str, least: int, most: int) -> Any:
        """A number of bytes."""
        return self.option(effect, help, values.size(least, most), "SIZE", default=default)

    def choice(self, effect: Effect, metavar: str, words: str, default: str, help: str, **more: Any) -> Any:
        """One of *words*, which are separated by blanks."""
        return self.option(effect, help, values.Choice(*words.split()), metavar, default=default, **more)

    def patterns(self, effect: Effect, help: str, parse: Callable[[str], object], example: str, default: str) -> Any:
        """Patterns of hosts or users, which hold no secret; *default* says in a word what applies without them."""
        return self.option(effect, help, parse, "PATTERNS", example=example, default_help=default, public=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptionTable:
    """
    The options of one program, and what messages about them say of it.

    :ivar program: the command that runs it.
    :ivar check: the command that checks its settings.
    :ivar config: a dataclass, whose fields are the options (`Section`).
    :ivar prefix: how the names of its variables in the environment begin.
    :ivar not_its: beginnings of other programs' variables, which begin with *prefix* too.
    :ivar examples: lines of its file.
    """

    program: str
    check: str
    config: type[Any]
    prefix: str
    not_its: tuple[str, ...] = ()
    examples: str

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """The options, in the order of the fields."""
        return tuple(
            dataclasses.replace(field.metadata["option"], name=field.name.replace("_", "-"), prefix=self.prefix)
            for field in dataclasses.fields(self.config)
            if "option" in field.metadata
        )

    @cached_property
    def by_name(self) -> dict[str, Option]:
        """The options by their names."""
        return {option.name: option for option in self.options}
