"""
Reads the relay's settings for the subcommands of ``relayctl``: from environment and file, as ``twistd relayd`` does.
"""

from __future__ import annotations

import argparse
import os

from relayd.config.options import OPTIONS, Config
from relayd.config.reading import Reading, load, read


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that lead to the settings of a relay."""
    parser.add_argument("--config", metavar="PATH", help="TOML file of options [$RELAYD_CONFIG]")
    parser.add_argument("--state-dir", metavar="PATH", help="directory of what relayd has to remember")


def add_all_options(parser: argparse.ArgumentParser) -> None:
    """Add all options of relayd, as on its own command line."""
    for section in dict.fromkeys(option.section for option in OPTIONS):
        group = parser.add_argument_group(section)
        for option in OPTIONS:
            if option.section != section:
                continue
            help = option.help.replace("%", "%%")
            if option.is_flag:
                group.add_argument(option.flag_name, action="store_true", help=help)
            else:
                group.add_argument(option.flag_name, metavar=option.metavar, help=help)


def read_settings(arguments: argparse.Namespace, **more: str | bool | None) -> Config:
    """
    The settings. They need not be complete: ``server``, ``proxy_id`` and ``api_key_file`` may be ``None``.

    :param more: further options by their names in Python, as on the command line.
    :raises ConfigError: for the first mistake.
    """
    given = {"config": arguments.config, "state-dir": arguments.state_dir}
    given |= {name.replace("_", "-"): value for name, value in more.items()}
    return load(given, os.environ, complete=False)


def read_all(arguments: argparse.Namespace) -> Reading:
    """The settings that a relay would run with, given the options of `add_all_options`, and all mistakes in them."""
    return read({option.name: getattr(arguments, option.attribute) for option in OPTIONS}, os.environ)
