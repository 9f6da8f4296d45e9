"""
``relayctl relays``: lists the hub's relays, whether they are connected, and what they are.
"""

from __future__ import annotations

import argparse
import json

from relayd.ctl.client.options import add_hub_options, hub_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="all that is known of this one")
    parser.add_argument("--json", action="store_true", help="print JSON, one relay a line")
    add_hub_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    from relayd.ctl.client.http import segment
    from relayd.ctl.client.tables import moment, print_fields, print_table

    hub = hub_of(arguments)
    if arguments.name is not None:
        found = hub.get(f"/relays/{segment(arguments.name)}")
        if arguments.json:
            print(json.dumps(found, ensure_ascii=False))
        else:
            print_fields(found.items())
        return 0
    relays = hub.items("/relays")
    if arguments.json:
        for each in relays:
            print(json.dumps(each, ensure_ascii=False))
        return 0
    rows = (
        (
            each.get("name"),
            "online" if each.get("online") else "offline",
            each.get("enabled"),
            each.get("relaydVersion"),
            each.get("lastAddress"),
            moment(each["lastSeenAt"]) if each.get("lastSeenAt") else None,
        )
        for each in relays
    )
    print_table(("RELAY", "NOW", "ENABLED", "VERSION", "ADDRESS", "LAST SEEN"), rows)
    return 0
