"""
``relayctl show``: what is known of one run and of its hosts; or follows it.
"""

from __future__ import annotations

import argparse
import json

from relayd.ctl.client.options import add_hub_options, hub_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("run_id", metavar="RUN", help="id of the run")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--follow", action="store_true", help="show its output as it comes, from its beginning; the exit "
                     "status is then that of relayctl run")  # fmt: skip
    how.add_argument("--groups", action="store_true", help="hosts with the same output together, the odd ones first")
    parser.add_argument("--state", metavar="STATE", help="hosts in one state, such as failed or unknown")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--raw", action="store_true", help="leave control characters in the output of hosts")
    add_hub_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show it."""
    from relayd.ctl.client.http import segment
    from relayd.ctl.client.tables import print_invocations, print_run, print_table

    hub, path = hub_of(arguments), f"/runs/{segment(arguments.run_id)}"
    if arguments.follow:
        from relayd.ctl.client.watching import Watcher

        hub.get(path)  # which says when there is no such run
        return Watcher(hub, arguments.run_id, as_json=arguments.json, raw=arguments.raw).watch()
    found = hub.get(path)
    if arguments.groups:
        groups = list(hub.items(f"{path}/groups"))
        if arguments.json:
            print(json.dumps({**found, "groups": groups}, ensure_ascii=False, indent=2))
            return 0
        rows = [
            (each.get("count") or each.get("size"), each.get("state"), each.get("exitCode"), each.get("hosts"))
            for each in groups
        ]
        print_table(("HOSTS", "STATE", "EXIT", "NAMES"), rows)
        return 0
    invocations = hub.items(f"{path}/invocations", {"state": arguments.state})
    if arguments.json:
        print(json.dumps({**found, "invocations": list(invocations)}, ensure_ascii=False, indent=2))
        return 0
    print_run(found)
    print()
    print_invocations(invocations)
    return 0
