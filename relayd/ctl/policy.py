"""
``relayctl policy``: the site's rules, and what a host, a user and a command would get by them, and why.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterator
from itertools import takewhile

from relayd.config.options import Config
from relayd.ctl.settings import add_options, read_settings
from relayd.language.texts import printable
from relayd.network.patterns import covers_host, covers_user
from relayd.network.spelling import Address, canonical_host, read_address, read_host
from relayd.policy.rules import SPECIAL, Policy, Verdict
from relayd.wire import fields

NAME = "policy"
HELP = "show which hosts, users and commands the site allows, and why"

_MOST = 60  # characters shown of a command's text


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    add_options(parser)
    parser.add_argument("--host", help="what about this name or address? A name is looked up")
    parser.add_argument("--port", type=_port, default=22, help="and this port [22]")
    parser.add_argument("--user", help="and this user?")
    parser.add_argument("--command", metavar="TEXT", help="and this command?")


def run(arguments: argparse.Namespace) -> int:
    """Explain; 0: all that was asked about is allowed."""
    from relayd.settings import policy_of  # which brings in a good part of a relay, and --help need not wait for that

    config = read_settings(arguments)
    policy = policy_of(config)
    if arguments.host is None and arguments.user is None and arguments.command is None:
        print("\n".join(_rules(config)))
        return 0
    allowed = []
    if arguments.host is not None:
        allowed.append(_explain_host(config, policy, arguments.host, arguments.port, arguments.user))
    if arguments.user is not None:
        allowed.append(_show("user", printable(arguments.user, _MOST), _judge_user(policy, arguments.user)))
    if arguments.command is not None:
        allowed.append(_show("command", printable(arguments.command, _MOST), policy.judge_command(arguments.command)))
    return 0 if all(allowed) else 1


def _rules(config: Config) -> Iterator[str]:
    """All that is in force, one option a line."""
    for option, rule, otherwise in (
        ("--allow-hosts", config.allow_hosts, "all hosts but special addresses"),
        ("--deny-hosts", config.deny_hosts, "none"),
        ("--allow-users", config.allow_users, "all users"),
        ("--allow-commands", config.allow_commands, "all commands"),
        ("--deny-commands", config.deny_commands, "none"),
    ):
        text = rule if isinstance(rule, str) else ", ".join(rule or ())
        yield f"{option:<17} {text or f'not set: {otherwise}'}"
    yield ""
    yield "Special addresses, refused unless --allow-hosts names them within their range:"
    for kind, networks in SPECIAL:
        yield f"{kind:<17} {', '.join(map(str, networks))}"


def _explain_host(config: Config, policy: Policy, host: str, port: int, user: str | None) -> bool:
    """Show what becomes of a host, and of each address that its name leads to."""
    try:
        host = fields.host("--host", host)
    except fields.Invalid as fault:
        return _show("host", printable(host, _MOST), Verdict(False, f"no order with it is taken: it {fault.text}"))
    way = _way(config, host, port, user)
    place = f"{host}:{port}" + (f", reached through {way} ([[credentials]])" if way else "")
    verdict = policy.judge_host(host, port, behind=bool(way))
    if way or not verdict.allowed or read_address(host) is not None:
        return _show("host", place, verdict)
    try:
        addresses = _look_up(read_host(host).dialled, port)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a proper name"
        return _show("host", place, Verdict(False, f"it cannot be looked up here ({reason})"))
    verdicts = [policy.judge_host(host, port, address) for address in addresses]
    allowed = any(verdict.allowed for verdict in verdicts)
    print(f"{'host':<8} {_word(allowed)}  {place}")
    for address, verdict in zip(addresses, verdicts, strict=True):
        _show("", str(address), verdict)
    return allowed


def _look_up(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = (read_address(str(entry[4][0])) for entry in found)
    return list(dict.fromkeys(address for address in addresses if address is not None))


def _judge_user(policy: Policy, user: str) -> Verdict:
    try:
        return policy.judge_user(fields.username("--user", user))
    except fields.Invalid as fault:
        return Verdict(False, f"no order with it is taken: it {fault.text}")


def _way(config: Config, host: str, port: int, user: str | None) -> str:
    """The jump hosts of the site's own table through which a host is reached; empty: none."""
    from relayd.ssh.login.site_credentials import parse_via

    rows = (row for row in config.credentials if row.via is not None)
    found = next(
        (row for row in rows if covers_host(row.hosts, host, port) and covers_user(row.users, user or "")), None
    )
    hops = (found.via or "").split(",") if found is not None else []
    itself = (canonical_host(host), port)
    # A row for a whole network often covers its jump host too, which is not reached through itself.
    return ",".join(takewhile(lambda text: [(hop.host, hop.port) for hop in parse_via(text)] != [itself], hops))


def _show(what: str, subject: str, verdict: Verdict) -> bool:
    why = verdict.rule or verdict.reason or "no rule is against it"
    print(f"{what:<8} {_word(verdict.allowed)}  {subject}: {why}")
    return verdict.allowed


def _word(allowed: bool) -> str:
    return "allowed" if allowed else "refused"


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError("expected a whole number from 1 to 65535")
    return int(text)
