"""
``relayctl hub``: makes and checks a hub on its own machine, and administers its relays through the API.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

#: The subcommands, what ``--help`` says of each, and the module that has it.
_SUBCOMMANDS: Final = {
    "init": ("make the state of a new hub, and its first administrator", "hub_state"),
    "check": ("check settings, files, database and ports of the hub; say what is wrong and how to fix it", "hub_check"),
    "config": ("show the hub's settings in effect, and where each one comes from", "hub_config"),
    "backup": ("copy the hub's SQLite database, also while the hub runs", "hub_state"),
    "rotate-secrets": ("seal all stored secrets anew with a new key; with SQLite, stop the hub first", "hub_state"),
    "relay": ("add, list and change the relays of a hub", "hub_relay"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its own subcommands."""
    below = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    for name, (text, module) in _SUBCOMMANDS.items():
        subparser = below.add_parser(name, help=text, description=text, allow_abbrev=False)
        made: Any = import_module(f"relayd.ctl.{module}")
        configure_one: Callable[[argparse.ArgumentParser], None] = getattr(made, f"configure_{name.replace('-', '_')}")
        configure_one(subparser)


def run(arguments: argparse.Namespace) -> int:
    """Do what the subcommand says."""
    return int(arguments.act(arguments))
