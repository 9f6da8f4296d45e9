"""
The relay's settings as the subcommands of ``relayctl`` see them: environment and file, as ``twistd relayd`` would.
"""

from __future__ import annotations

import argparse
import os

from relayd.config import Config, load


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that lead to the settings of a relay."""
    parser.add_argument("--config", metavar="PATH", help="TOML file of options [$RELAYD_CONFIG]")
    parser.add_argument("--state-dir", metavar="PATH", help="directory of what the relay remembers")


def read_settings(arguments: argparse.Namespace, **more: str | bool | None) -> Config:
    """
    The settings, of a relay that need not be complete: ``server``, ``proxy_id`` and ``api_key_file`` may be ``None``.

    :param more: further options by their name in Python, as on the command line.
    :raises ConfigError: for the first mistake found.
    """
    given = {"config": arguments.config, "state-dir": arguments.state_dir}
    given |= {name.replace("_", "-"): value for name, value in more.items()}
    return load(given, os.environ, complete=False)
