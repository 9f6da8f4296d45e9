"""
``relayctl rerun``: orders a run once more, on the hosts where it did not succeed.
"""

from __future__ import annotations

import argparse
import json
import sys

from relayd.ctl.client.options import MISTAKE, add_hub_options, hub_of
from relayd.ctl.client.outcome import EXIT_CODES


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.epilog = EXIT_CODES
    parser.add_argument("run_id", metavar="RUN", help="id of the run")
    parser.add_argument(
        "--which",
        choices=("certainly-not-run", "failed", "unknown", "all"),
        default="certainly-not-run",
        help="hosts on which it certainly did not run; all on which it did not succeed, without those where that is "
        "not known (failed); those where it is not known, so that it may run twice (unknown); or all [%(default)s]",
    )
    parser.add_argument("--detach", action="store_true", help="print the new run's id, and do not wait for it")
    parser.add_argument("--json", action="store_true", help="print events as JSON, one a line")
    parser.add_argument("--raw", action="store_true", help="leave control characters in the output of hosts")
    add_hub_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Order it, and watch it."""
    import secrets

    from relayd.ctl.client.errors import Refused
    from relayd.ctl.client.http import segment
    from relayd.ctl.client.watching import Watcher

    hub = hub_of(arguments)
    headers = {"Idempotency-Key": secrets.token_urlsafe(16)}
    path = f"/runs/{segment(arguments.run_id)}/rerun"
    try:
        made = hub.call("POST", path, {"which": arguments.which}, headers=headers, again=True)
    except Refused as error:
        print(f"relayctl: {error}", file=sys.stderr)
        return MISTAKE
    if arguments.detach:
        print(json.dumps(made) if arguments.json else made["id"])
        return 0
    return Watcher(hub, made["id"], as_json=arguments.json, raw=arguments.raw).watch()
