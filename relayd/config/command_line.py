"""
The command line of a program whose options are a table, as twistd and twist read it.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from twisted.python import usage

from relayd import __version__
from relayd.config.gathering import ReadOptions
from relayd.config.option import Option, OptionTable
from relayd.config.paths import CREDENTIALS, CREDENTIALS_ROOT, Elsewhere
from relayd.config.values import near
from relayd.errors import MISTAKES, ConfigError
from relayd.process.journald import is_journal, with_priority
from relayd.process.unit_files import loaded_credentials

#: Options of twistd that people write after the name of the service.
_OF_TWISTD = {"--nodaemon", "--pidfile", "--logfile", "--rundir", "--uid", "--gid", "--umask", "--syslog", "--chroot"}
_OF_TWISTD |= {"-n", "-l", "-d", "-u", "-g"}


def _completer(option: Option) -> usage.Completer:
    """What zsh offers as the option's value, by Twisted's own completion."""
    if option.choices:
        return usage.CompleteList(list(option.choices))
    if option.metavar == "PATH":
        return usage.CompleteDirs() if option.name.endswith("-dir") else usage.CompleteFiles()
    return usage.Completer(option.help.replace("[", "(").replace("]", ")").replace(":", ","))


class TableOptions(usage.Options):
    """
    The command line of a program, and the settings made from it, the environment and the TOML file. A class for one
    program names its `table`, and says how its settings are read.

    Mistakes end the process with one line each on standard error, and with exit status `MISTAKES`; twistd would print
    all of ``--help`` before them.

    :cvar table: the options.
    :cvar about: what ``--help`` says first.
    :ivar config: the settings.
    :ivar exposed: what the settings expose to other users of the machine, for the log.
    """

    table: ClassVar[OptionTable]
    about: ClassVar[str]
    longdesc: str
    optFlags: Sequence[Any]
    optParameters: Sequence[Any]
    compData: usage.Completions
    config: Any
    exposed: Sequence[str] = ()

    def __init_subclass__(cls) -> None:
        options = cls.table.options
        cls.longdesc = cls.about
        cls.optFlags = tuple([option.name, None, option.help] for option in options if option.is_flag)
        cls.optParameters = tuple(
            [option.name, None, None, option.help] for option in options if not (option.is_flag or option.several)
        )
        cls.compData = usage.Completions(
            optActions={option.name: _completer(option) for option in options if not option.is_flag},
            multiUse=[option.name for option in options if option.several],
        )
        for option in options:
            if option.several:
                setattr(cls, f"opt_{option.attribute}", _gather(option.name))

    def __init__(self) -> None:
        super().__init__()
        self.update({option.name: None for option in self.table.options if option.several})

    def read_given(self, given: Mapping[str, Any], *, directory: str, elsewhere: Elsewhere) -> ReadOptions[Any]:
        """Read the settings from *given*, which the command line holds, the environment and the file."""
        raise NotImplementedError

    def exposures(self, reading: ReadOptions[Any]) -> Sequence[str]:
        """What goes into `exposed`."""
        raise NotImplementedError

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read *options*, by default the process's own arguments.

        :raises SystemExit: with `MISTAKES`, for any mistake.
        """
        arguments = list(sys.argv[1:] if options is None else options)
        try:
            self._check_names(arguments)
            super().parseOptions(arguments)
        except (ConfigError, usage.UsageError) as error:  # Twisted's texts name options and never show a value
            self._refuse(str(error))
        self._directory = os.getcwd()
        reading = self.read(_sources_of_credentials(os.environ))
        if reading.config is None or reading.mistakes:
            self._refuse(*map(str, reading.mistakes))
        self.config = reading.config
        self.exposed = self.exposures(reading)

    def read(self, elsewhere: Elsewhere = Elsewhere()) -> ReadOptions[Any]:  # noqa: B008  # frozen
        """
        Read the settings now. Paths on the command line stay relative to the directory it was given in: twistd changes
        its working directory.

        :param elsewhere: more that messages can say.
        """
        given = {
            option.name: bool(self[option.name]) if option.is_flag else self[option.name]
            for option in self.table.options
        }
        return self.read_given(given, directory=self._directory, elsewhere=elsewhere)

    def parseArgs(self, *rest: str) -> None:
        """
        Refuse arguments that are not options.

        :raises twisted.python.usage.UsageError: when there are any.
        """
        if rest:
            raise usage.UsageError("expected options only; see --help")

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(f"{self.table.program} {__version__}")
        raise SystemExit(0)

    def getUsage(self, width: int | None = None) -> str:
        columns = min(max(width or int(os.environ.get("COLUMNS", "100")), 60), 120)
        lines = ["", *textwrap.wrap(self.about, columns)]
        for section in dict.fromkeys(option.section for option in self.table.options):
            lines += ["", f"{section}:"]
            for option in self.table.options:
                if option.section == section:
                    lines += _describe(option, columns)
        lines += ["", "Other:", *_row("  --help", "show this and exit", columns)]
        lines += [*_row("  --version", f"show {self.table.program}'s version and exit", columns), ""]
        return "\n".join(lines)

    def _check_names(self, arguments: Iterable[str]) -> None:
        """
        Refuse abbreviated option names.

        getopt accepts any unambiguous beginning: ``--api-key SECRET`` would be read as ``--api-key-file``.

        :raises ConfigError: for the first unknown name.
        """
        flags = {option.flag_name for option in self.table.options if option.is_flag} | {"--help", "--version"}
        parameters = {option.flag_name for option in self.table.options if not option.is_flag}
        rest = iter(arguments)
        for argument in rest:
            name, equals, _ = argument.partition("=")
            if name in ("-", "--") or not name.startswith("-"):
                return  # getopt stops here as well
            if name not in flags | parameters:
                self._refuse_name(name, near(name, flags | parameters))
            if name in parameters and not equals:
                next(rest, None)

    def _refuse_name(self, name: str, meant: str | None) -> NoReturn:
        hint = f"did you mean {meant}?" if meant else "see --help"
        reason = f"no such option; {hint}"
        # A word with one hyphen that is similar to no name may be a value, so it is not shown.
        shown = name if name.startswith("--") or meant else name[:2]
        if shown in _OF_TWISTD:
            program = self.table.program
            alone = os.path.basename(sys.argv[0]) == program  # rather than twistd (`relayd.__main__`)
            where = f"the command {program} has none of those" if alone else f"put it before the word {program}"
            reason = f"is an option of twistd; {where}"
        raise ConfigError(option=shown, reason=reason)

    def _refuse(self, *lines: str) -> NoReturn:
        """End with one line for each mistake in the settings. No log has begun yet."""
        text = "".join(f"{self.table.program}: {line}\n" for line in lines)
        sys.stderr.write(with_priority(text, "error") if is_journal(sys.stderr, os.environ) else text)
        raise SystemExit(MISTAKES) from None


def _gather(name: str) -> Callable[[TableOptions, str], None]:
    """What Twisted calls for each text of an option that may be given several times: it would keep the last one."""

    def gather(options: TableOptions, text: str) -> None:
        options[name] = [*(options[name] or ()), text]

    return gather


def _sources_of_credentials(environ: Mapping[str, str]) -> Elsewhere:
    """What messages about systemd's credentials can say more: the files that they are made from."""
    folder = os.path.normpath(environ.get(CREDENTIALS, ""))
    root, unit = os.path.split(folder)
    loaded = loaded_credentials(unit) if root == CREDENTIALS_ROOT else {}
    return Elsewhere(sources={f"{folder}/{name}": source for name, source in loaded.items()}, in_unit=True)


def _describe(option: Option, columns: int) -> list[str]:
    left = f"  {option.flag_name} {option.metavar}".rstrip()
    text = f"{option.help} [{option.shown_default}]" if option.shown_default else option.help
    return _row(left, text, columns)


def _row(left: str, text: str, columns: int) -> list[str]:
    first, *more = textwrap.wrap(text, columns - 32)
    lines = [f"{left:<31} {first}"] if len(left) < 31 else [left, f"{'':<31} {first}"]
    return lines + [f"{'':<31} {line}" for line in more]
