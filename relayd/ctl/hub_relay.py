"""
``relayctl hub relay``: the relays of a hub, through its API.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from relayd.ctl import relays
from relayd.ctl.client.http import Hub
from relayd.ctl.client.options import add_hub_options, hub_of


def configure_relay(parser: argparse.ArgumentParser) -> None:
    """Add its own subcommands."""
    below = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)

    def add(name: str, text: str, act: Any, *, named: bool = True) -> argparse.ArgumentParser:
        subparser = below.add_parser(name, help=text, description=text, allow_abbrev=False)
        if named:
            subparser.add_argument("name", metavar="NAME", help="the relay's name, its proxyId")
        subparser.set_defaults(act=act)
        return subparser

    adding = add("add", "add a relay, and print a token by which it gets its key", _add)
    _add_limits(adding)
    adding.add_argument("--no-token", action="store_true", help="make no token")
    listing = add("list", "list the relays", relays.run, named=False)
    listing.add_argument("name", metavar="NAME", nargs="?", help="all that is known of this one")
    tokens = add("token", "print a new token, by which a relay gets a key; an earlier one is good no more", _token)
    rotating = add("rotate", "print a new key; older ones are good for a while", _rotate)
    revoking = add("revoke", "revoke a key, and end the connection that uses it", _revoke)
    revoking.add_argument("key", metavar="KEY", help="id of the key, as relayctl hub relay list NAME shows it")
    enabling = add("enable", "let a relay connect again", _enable)
    disabling = add("disable", "end a relay's connection, and refuse it", _disable)
    changing = add("set", "change where a relay may come from, or its note", _set)
    _add_limits(changing)
    removing = add("remove", "delete a relay with its keys", _remove)
    for each in (adding, listing, tokens, rotating, revoking, enabling, disabling, changing, removing):
        each.add_argument("--json", action="store_true", help="print JSON")
        add_hub_options(each)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-from", metavar="CIDR", action="append", help="where it may come from; may be given several times"
    )
    parser.add_argument("--note", metavar="TEXT", help="what people should know of it")


def _path(name: str) -> str:
    from relayd.ctl.client.http import segment

    return f"/relays/{segment(name)}"


def _limits(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {"allowedNetworks": arguments.allow_from, "note": arguments.note}
    return {name: value for name, value in given.items() if value is not None}


def _add(arguments: argparse.Namespace) -> int:
    hub = hub_of(arguments)
    made = hub.call("POST", "/relays", {"name": arguments.name, **_limits(arguments)})
    if arguments.no_token:
        if arguments.json:
            print(json.dumps(made, ensure_ascii=False))
        return 0
    return _print_token(hub, arguments)


def _token(arguments: argparse.Namespace) -> int:
    return _print_token(hub_of(arguments), arguments)


def _print_token(hub: Hub, arguments: argparse.Namespace) -> int:
    """Have a relay invited, and say how it joins."""
    from relayd.ctl.client.tables import moment

    made = hub.call("POST", f"{_path(arguments.name)}/enrolment", {})
    if arguments.json:
        print(json.dumps(made))
        return 0
    print(f"on the relay's machine: relayctl enroll {hub.login.url} {made['token']}")
    print(f"the token is good once, until {moment(made.get('expiresAt'))}")
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    made = hub_of(arguments).call("POST", f"{_path(arguments.name)}/keys", {})
    print(json.dumps(made) if arguments.json else made["key"])
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    from relayd.ctl.client.http import segment

    hub_of(arguments).call("DELETE", f"{_path(arguments.name)}/keys/{segment(arguments.key)}", again=True)
    return 0


def _enable(arguments: argparse.Namespace) -> int:
    return _change(arguments, {"enabled": True})


def _disable(arguments: argparse.Namespace) -> int:
    return _change(arguments, {"enabled": False})


def _set(arguments: argparse.Namespace) -> int:
    return _change(arguments, _limits(arguments))


def _change(arguments: argparse.Namespace, change: dict[str, Any]) -> int:
    changed = hub_of(arguments).call("PATCH", _path(arguments.name), change, headers={"If-Match": "*"})
    if arguments.json:
        print(json.dumps(changed, ensure_ascii=False))
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    hub_of(arguments).call("DELETE", _path(arguments.name), headers={"If-Match": "*"})
    return 0
