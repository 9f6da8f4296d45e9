"""
``relayctl run``: orders a run of the hub, and shows its output as it comes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from relayd.ctl.client.options import MISTAKE, add_hub_options, hub_of
from relayd.ctl.client.outcome import EXIT_CODES, HUB_AWAY
from relayd.errors import ConfigError

#: Bytes of a script.
_LARGEST: Final = 4 * 1024 * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.epilog = EXIT_CODES
    which = parser.add_argument_group("which hosts")
    which.add_argument("-l", "--selector", metavar="SELECTOR", help='hosts by their labels, such as env=prod; "all"')
    which.add_argument("--host", metavar="NAME", action="append", help="a host by its name; may be given several times")
    how = parser.add_argument_group("how")
    how.add_argument("--max", metavar="N", help="hosts at a time, as a number or per cent of all [no limit]")
    how.add_argument("--ramp", metavar="N,N,…", help="sizes of the first steps, such as 1,5,20")
    how.add_argument("--errors", metavar="N", help="after so many errors, as a number or per cent, nothing more starts")
    how.add_argument("--timeout", metavar="TIME", help="time that the command has on each host, such as 30s or 2h")
    how.add_argument("--wait", metavar="TIME", help="how long to wait for relays that are away [not at all]")
    how.add_argument("--note", metavar="TEXT", help="why this is run; it is kept with the run")
    what = parser.add_argument_group("what")
    what.add_argument("--script", metavar="FILE", help="run this script instead of a command; - reads standard input")
    what.add_argument("--interpreter", metavar="PATH", help="the program that runs the script [/bin/sh]")
    what.add_argument("--cwd", metavar="DIRECTORY", help="directory in which the command runs")
    text = "after --; its words are joined by blanks, as by ssh"
    what.add_argument("command", nargs="*", metavar="COMMAND", help=text)
    parser.add_argument("--dry-run", action="store_true", help="show which hosts are meant, and what would forbid it")
    parser.add_argument("--detach", action="store_true", help="print the run's id, and do not wait for it")
    parser.add_argument("--key", metavar="TEXT", help="idempotency key: with the same one nothing runs a second time")
    parser.add_argument("--json", action="store_true", help="print events as JSON, one a line")
    parser.add_argument("--raw", action="store_true", help="leave control characters in the output of hosts")
    add_hub_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """
    Order the run, and watch it.

    :raises ConfigError: for a mistake on the command line.
    """
    import secrets

    from relayd.ctl.client.errors import NoLogin, Refused, Unreachable
    from relayd.ctl.client.watching import Watcher

    try:
        order = order_of(arguments)
        hub = hub_of(arguments)
        if arguments.dry_run:
            return _dry_run(hub.call("POST", "/runs/dry-run", order, again=True), arguments.json)
        key = arguments.key or secrets.token_urlsafe(16)
        made = hub.call("POST", "/runs", order, headers={"Idempotency-Key": key}, again=True)
    except (ConfigError, NoLogin, Refused) as error:
        print(f"relayctl: {error}", file=sys.stderr)
        return MISTAKE
    except Unreachable as error:
        print(f"relayctl: {error}", file=sys.stderr)
        print(f"whether the hub has the run is not known: give the same order with --key {key}", file=sys.stderr)
        return HUB_AWAY
    if arguments.detach:
        print(json.dumps(made) if arguments.json else made["id"])
        return 0
    if sys.stderr.isatty() and not arguments.json:
        print(f"run {made['id']} on {made.get('size', '?')} hosts", file=sys.stderr)
    return Watcher(hub, made["id"], as_json=arguments.json, raw=arguments.raw).watch()


def order_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    The order as the API takes it.

    :raises ConfigError: for a mistake.
    """
    order: dict[str, Any] = {**_hosts(arguments), **_what(arguments)}
    for name, text in (("concurrency", arguments.max), ("maxErrors", arguments.errors)):
        if text is not None:
            option = "--max" if name == "concurrency" else "--errors"
            order[name] = _share(option, text)
    if arguments.ramp is not None:
        if not re.fullmatch(r"\d{1,6}(,\d{1,6}){0,63}", arguments.ramp):
            raise ConfigError(option="--ramp", reason="expected numbers with commas between, such as 1,5,20")
        order["ramp"] = [int(part) for part in arguments.ramp.split(",")]
    for name, option, text in (
        ("timeout", "--timeout", arguments.timeout),
        ("deliverWithin", "--wait", arguments.wait),
    ):
        if text is not None:
            order[name] = _seconds(option, text)
    order |= {name: text for name in ("note", "cwd") if (text := getattr(arguments, name)) is not None}
    return order


def _hosts(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.selector is not None and arguments.host:
        raise ConfigError(option="--host", reason="give either hosts or --selector, and not both")
    if arguments.host:
        return {"hosts": arguments.host}
    if arguments.selector is None or not arguments.selector.strip():
        reason = "say which hosts: -l env=prod, --host NAME, or -l all for every host"
        raise ConfigError(option="--selector", reason=reason)
    return {"selector": arguments.selector}


def _what(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.script is None:
        if not arguments.command:
            raise ConfigError(option="COMMAND", reason="give it after --, such as -- uptime")
        if arguments.interpreter is not None:
            raise ConfigError(option="--interpreter", reason="is for --script")
        return {"command": " ".join(arguments.command)}
    try:
        with open(0 if arguments.script == "-" else arguments.script, "rb", closefd=arguments.script != "-") as file:
            text = file.read(_LARGEST + 1).decode()
    except OSError as error:
        raise ConfigError(option="--script", reason=f"{arguments.script} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(option="--script", reason=f"{arguments.script} is not UTF-8 text") from None
    if len(text) > _LARGEST:
        raise ConfigError(option="--script", reason=f"{Path(arguments.script).name} is larger than 4 MB")
    script: dict[str, Any] = {"text": text, "args": arguments.command}
    if arguments.interpreter is not None:
        script["interpreter"] = arguments.interpreter
    return {"script": script}


def _share(option: str, text: str) -> int | str:
    if not re.fullmatch(r"\d{1,6}%?", text):
        raise ConfigError(option=option, reason="expected a number or per cent of all, such as 5 or 20%")
    return text if text.endswith("%") else int(text)


def _seconds(option: str, text: str) -> float:
    from relayd.config.values import duration

    try:
        return duration(0.1, 30 * 86400.0)(text)
    except ValueError as error:
        raise ConfigError(option=option, reason=f"expected {error}") from None


def _dry_run(found: Any, as_json: bool) -> int:
    from relayd.ctl.client.tables import show_dry_run

    if as_json:
        json.dump(found, sys.stdout, ensure_ascii=False, indent=2)
        print()
        return 0
    return show_dry_run(found)
