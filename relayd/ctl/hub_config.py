"""
``relayctl hub config``: the hub's settings in effect, and where each one comes from.
"""

from __future__ import annotations

import argparse
import sys

from relayd.ctl.config import option_rows, option_toml
from relayd.ctl.hub_settings import add_all_options, read_hub
from relayd.hub.config.options import HUB_TABLE


def configure_config(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--toml", action="store_true", help="print what is set as a TOML file for --config")
    add_all_options(parser)
    parser.set_defaults(act=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Show the settings; 1 when there are mistakes, which are shown too."""
    reading, note = read_hub(arguments)
    for mistake in reading.mistakes:
        print(f"relayctl: {mistake}", file=sys.stderr)
    if reading.config is None:
        return 1
    if note:
        print(f"# {note}")
    show = option_toml if arguments.toml else option_rows
    print("\n".join(show(HUB_TABLE, reading.config, reading.given, {})))
    return 1 if reading.mistakes else 0
