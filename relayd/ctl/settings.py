"""
Reads the relay's settings for the subcommands of ``relayctl``: as the relay of a systemd unit does, or from this
environment and a file, as ``twistd relayd`` does.
"""

from __future__ import annotations

import argparse
import os
from typing import Final

from msgspec import Struct

from relayd.config.option import GivenOptions, OptionTable
from relayd.config.options import OPTIONS, RELAY_TABLE, Config
from relayd.config.paths import CREDENTIALS, CREDENTIALS_ROOT, Elsewhere
from relayd.config.reading import Reading, load, read
from relayd.config.values import near
from relayd.ctl.unit_settings import UnitSettings, is_closed, read_unit_settings
from relayd.ctl.units import NoUnit, Unit, UnusableUnit, full_name, read_unit, running_units
from relayd.errors import ConfigError
from relayd.language.texts import printable
from relayd.process.unit_files import loaded_credentials

#: The unit and the file that are meant where nothing else is said.
UNIT: Final = "relayd.service"
FILE: Final = "/etc/relayd/relayd.toml"
#: Where the relay of that unit has its state.
STATE: Final = "/var/lib/relayd"
_HELP: Final = "systemd unit whose settings are meant [relayd, if nothing else says where they are]"
#: Variables, besides those of options, by which the settings depend on the process that reads them.
_OWN: Final = ("XDG_STATE_HOME", "STATE_DIRECTORY", CREDENTIALS, "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR")

#: Options whose paths are relative to where relayctl was called, and not to where the unit runs.
_PATHS: Final = {option.name for option in OPTIONS if option.is_path}

#: The most characters of a note.
_MOST_NOTED: Final = 2000


class Place(Struct, frozen=True):
    """
    Where the settings are read.

    :ivar note: says so to a person, if that is not plain from what was given; may be empty.
    :ivar of_unit: what the unit says, if the settings are those of a unit.
    """

    options: GivenOptions
    directory: str | None = None
    elsewhere: Elsewhere = Elsewhere()
    note: str = ""
    of_unit: UnitSettings | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that lead to the settings of a relay."""
    parser.add_argument("--unit", metavar="NAME", help=_HELP)
    parser.add_argument("--config", metavar="PATH", help="TOML file of options [$RELAYD_CONFIG]")
    parser.add_argument("--state-dir", metavar="PATH", help="directory of what relayd has to remember")


def add_all_options(parser: argparse.ArgumentParser) -> None:
    """Add all options of relayd, as on its own command line, and the unit."""
    parser.add_argument("--unit", metavar="NAME", help=_HELP)
    add_table_options(parser, RELAY_TABLE)


def add_table_options(parser: argparse.ArgumentParser, table: OptionTable) -> None:
    """Add all options of a program, as on its own command line."""
    for section in dict.fromkeys(option.section for option in table.options):
        group = parser.add_argument_group(section)
        for option in table.options:
            if option.section != section:
                continue
            help = option.help.replace("%", "%%")
            if option.is_flag:
                group.add_argument(option.flag_name, action="store_true", help=help)
            else:
                action = "append" if option.several else "store"
                group.add_argument(option.flag_name, action=action, metavar=option.metavar, help=help)


def read_settings(arguments: argparse.Namespace, **more: str | bool | None) -> Config:
    """
    The settings. They need not be complete: ``server``, ``proxy_id`` and ``api_key_file`` may be ``None``.

    :param more: further options by their names in Python, as on the command line.
    :raises ConfigError: for the first mistake.
    """
    return read_settings_and_note(arguments, **more)[0]


def read_settings_and_note(arguments: argparse.Namespace, **more: str | bool | None) -> tuple[Config, str]:
    """The same, and `Place.note`."""
    given = {"config": arguments.config, "state-dir": arguments.state_dir}
    given |= {name.replace("_", "-"): value for name, value in more.items()}
    place = find_place(arguments.unit, given)
    config = load(place.options, os.environ, complete=False, directory=place.directory, elsewhere=place.elsewhere)
    return config, place.note


def read_all(arguments: argparse.Namespace) -> tuple[Reading, Place]:
    """
    The settings that a relay would run with, given the options of `add_all_options`, and all mistakes in them.

    :raises ConfigError: when systemd cannot say what the unit does.
    """
    place = find_place(arguments.unit, {option.name: getattr(arguments, option.attribute) for option in OPTIONS})
    return read(place.options, os.environ, directory=place.directory, elsewhere=place.elsewhere), place


def find_place(unit: str | None, given: GivenOptions) -> Place:
    """
    Where to read the settings. If that is a unit, this process takes over the environment of its relay.

    :param unit: the name of a unit, if one was given.
    :param given: options that were given to relayctl, which override those of the unit.
    :raises ConfigError: when systemd cannot say what the unit does.
    """
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    if unit is not None:
        try:
            return _place_of(read_unit(unit), given, "")
        except NoUnit as error:
            meant = near(unit, ("relayd", *_others()))
            hint = f"; did you mean {meant}?" if meant and full_name(meant) != full_name(unit) else ""
            raise ConfigError(option="--unit", reason=f"{error}{hint}") from None
    variables = {option.environment_name for option in OPTIONS} | {"STATE_DIRECTORY", CREDENTIALS}
    if given or variables & os.environ.keys():
        return Place(given, elsewhere=_without_credentials())
    try:
        return _usual_unit()
    except UnusableUnit as error:
        raise ConfigError(option="unit", reason=str(error)) from None
    except NoUnit as error:
        return _usual_file(str(error))


def _usual_file(why: str) -> Place:
    """The file that is meant where systemd says nothing, and the key that the unit's own files name."""
    if not os.path.exists(FILE) and not is_closed(FILE):
        return Place({})
    folder, loaded = f"{CREDENTIALS_ROOT}/{UNIT}", loaded_credentials(UNIT)
    if loaded:
        os.environ |= {CREDENTIALS: folder, "STATE_DIRECTORY": STATE}
    sources = {f"{folder}/{name}": source for name, source in loaded.items()}
    note = f"{FILE}; of {UNIT} nothing is known but its LoadCredential: {why}"
    unseen = tuple(filter(is_closed, (*sources.values(), STATE)))
    return Place({"config": FILE}, elsewhere=Elsewhere(sources=sources, unseen=unseen), note=note)


def _usual_unit() -> Place:
    """The unit that is meant where nothing is said: the usual one, or the only one that runs."""
    others = _others()
    try:
        unit = read_unit(UNIT)
    except NoUnit:
        if len(others) != 1:
            raise
        return _place_of(read_unit(others[0]), {}, "")
    if unit.active == "inactive" and len(others) == 1:
        return _place_of(read_unit(others[0]), {}, f"; --unit for others: {UNIT}")
    more = f"; --unit for others: {', '.join(others)}" if others else ""
    return _place_of(unit, {}, more)


def _others() -> list[str]:
    """The relays of this machine that have units of their own."""
    try:
        return running_units("relayd@*.service")
    except NoUnit:
        return []


def _place_of(unit: Unit, given: GivenOptions, more: str) -> Place:
    settings = read_unit_settings(unit)
    given = {name: _absolute(str(text)) if name in _PATHS else text for name, text in given.items()}
    for name in {option.environment_name for option in OPTIONS} | set(_OWN):
        os.environ.pop(name, None)
    os.environ.update(settings.environ)
    unknown = "".join(f", without {path}, which this user cannot read" for path in settings.unknown)
    places = {name: where for name, where in settings.elsewhere.places.items() if name.removeprefix("--") not in given}
    return Place(
        {**settings.options, **given},
        settings.directory,
        Elsewhere(sources=settings.elsewhere.sources, unseen=settings.elsewhere.unseen, places=places),
        printable(f"{unit.name}: {', '.join(unit.files)}{unknown}{more}", _MOST_NOTED),
        settings,
    )


def _absolute(text: str) -> str:
    """A path that was given to relayctl, for reading it where the unit runs. Credentials are those of the unit."""
    is_credential = text.strip().partition("/")[0] in (f"${CREDENTIALS}", f"${{{CREDENTIALS}}}")
    return text if is_credential else os.path.abspath(os.path.expanduser(text))


def _without_credentials() -> Elsewhere:
    """systemd shows credentials to the relay alone, and not to what it runs on a reload of the same unit."""
    folder = os.environ.get(CREDENTIALS)
    if folder and os.path.dirname(folder) == CREDENTIALS_ROOT and not os.access(folder, os.X_OK):
        return Elsewhere(unseen=(os.path.normpath(folder),))
    return Elsewhere()
