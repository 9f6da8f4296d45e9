"""
``relayctl runs``: lists runs, the newest first.
"""

from __future__ import annotations

import argparse
import json

from relayd.ctl.client.options import add_hub_options, hub_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--state", metavar="STATE", help="those in one state, such as running, failed or succeeded")
    parser.add_argument("--last", metavar="N", type=int, default=20, help="how many [%(default)s]; 0: all")
    parser.add_argument("--json", action="store_true", help="print JSON, one run a line")
    add_hub_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    from relayd.ctl.client.tables import print_runs

    found = hub_of(arguments).items("/runs", {"state": arguments.state}, arguments.last or None)
    if not arguments.json:
        print_runs(found)
        return 0
    for each in found:
        print(json.dumps(each, ensure_ascii=False))
    return 0
