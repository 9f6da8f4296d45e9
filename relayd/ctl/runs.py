"""
``relayctl runs``: lists runs, the newest first.
"""

from __future__ import annotations

import argparse
import json

from relayd.ctl.client.options import add_hub_options, hub_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--by", metavar="NAME", help="those of one user or token, as user:NAME or token:USER/NAME")
    parser.add_argument("--last", metavar="N", type=int, default=20, help="how many [%(default)s]; 0: all")
    parser.add_argument("--json", action="store_true", help="print JSON, one run a line")
    add_hub_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    from relayd.ctl.client.tables import print_runs

    found = hub_of(arguments).items("/runs", {"createdBy": arguments.by}, arguments.last or None)
    if not arguments.json:
        print_runs(found)
        return 0
    for each in found:
        print(json.dumps(each, ensure_ascii=False))
    return 0
