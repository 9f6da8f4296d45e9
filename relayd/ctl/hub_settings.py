"""
Reads the hub's settings for the subcommands of ``relayctl hub``: from this environment and a file, as the hub does.
"""

from __future__ import annotations

import argparse
import os
from typing import Final

from relayd.ctl.settings import add_table_options
from relayd.hub.config.options import HUB_TABLE, HubConfig
from relayd.hub.config.reading import HubReading, read

#: The file that is meant where nothing else is said.
FILE: Final = "/etc/relayd-hub/hub.toml"


def add_all_options(parser: argparse.ArgumentParser) -> None:
    """Add all options of the hub, as on its own command line."""
    add_table_options(parser, HUB_TABLE)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that lead to the state of a hub."""
    for name in ("config", "state-dir", "database-file", "secrets-file"):
        option = HUB_TABLE.by_name[name]
        parser.add_argument(option.flag_name, metavar=option.metavar, help=option.help.replace("%", "%%"))


def read_hub(arguments: argparse.Namespace, *, complete: bool = True) -> tuple[HubReading, str]:
    """
    The settings, and where they are read if that is not plain from what was given.

    :param complete: whether a hub is to run with them.
    """
    given = {option.name: getattr(arguments, option.attribute, None) for option in HUB_TABLE.options}
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    variables = {option.environment_name for option in HUB_TABLE.options} | {"STATE_DIRECTORY"}
    note = ""
    if not given and not variables & os.environ.keys() and os.path.exists(FILE):
        given, note = {"config": FILE}, FILE
    return read(given, os.environ, complete=complete), note


def load_hub(arguments: argparse.Namespace) -> HubConfig:
    """
    The settings alone, of which no other file is looked at.

    :raises ConfigError: for the first mistake.
    """
    reading, _ = read_hub(arguments, complete=False)
    if reading.config is None or reading.mistakes:
        raise reading.mistakes[0]
    return reading.config
