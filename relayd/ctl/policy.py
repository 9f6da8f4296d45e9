"""
``relayctl policy``: the site's rules, and how they judge a host, a user, a command and a file, and why.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterator

from relayd.config.options import Config
from relayd.config.site_policy import policy_of
from relayd.ctl.settings import add_options, read_settings_and_note
from relayd.language.texts import printable
from relayd.network.spelling import Address, read_address, read_host
from relayd.policy.rules import SPECIAL, Policy, Verdict
from relayd.wire import fields, file_fields

_MOST = 60  # characters shown of a command's text


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    add_options(parser)
    parser.add_argument("--host", help="name or address to judge; a name is looked up")
    parser.add_argument("--port", type=_port, default=22, help="its port [22]")
    parser.add_argument("--user", help="user to judge")
    parser.add_argument("--command", metavar="TEXT", help="text of a command to judge")
    parser.add_argument("--file", metavar="PATH", help="path of a file to judge")


def run(arguments: argparse.Namespace) -> int:
    """Show the rules, or judge by them; 0: everything that was asked about is allowed."""
    config, note = read_settings_and_note(arguments)
    if note:
        print(f"# {note}")
    policy = policy_of(config)
    asked = (arguments.host, arguments.user, arguments.command, arguments.file)
    if all(each is None for each in asked):
        print("\n".join(_rules(config)))
        return 0
    allowed = []
    if arguments.host is not None:
        allowed.append(_explain_host(config, policy, arguments.host, arguments.port, arguments.user))
    if arguments.user is not None:
        allowed.append(_show("user", printable(arguments.user, _MOST), _judge_user(policy, arguments.user)))
    if arguments.command is not None:
        allowed.append(_show("command", printable(arguments.command, _MOST), policy.judge_command(arguments.command)))
    if arguments.file is not None:
        allowed.append(_show("file", printable(arguments.file, _MOST), _judge_file(policy, arguments.file)))
    return 0 if all(allowed) else 1


def _rules(config: Config) -> Iterator[str]:
    """All rules in force, one option per line."""
    for option, rule, otherwise in (
        ("--allow-hosts", config.allow_hosts, "all hosts except special addresses"),
        ("--deny-hosts", config.deny_hosts, "none"),
        ("--allow-users", config.allow_users, "all users"),
        ("--allow-commands", config.allow_commands, "all commands"),
        ("--deny-commands", config.deny_commands, "none"),
        ("--allow-files", config.allow_files, "all files" if config.allow_commands is None else "none"),
        ("--deny-files", config.deny_files, "none"),
    ):
        text = rule if isinstance(rule, str) else ", ".join(rule or ())
        yield f"{option:<17} {text or f'not set: {otherwise}'}"
    yield ""
    yield "Special addresses, refused unless --allow-hosts names them within their range:"
    for kind, networks in SPECIAL:
        yield f"{kind:<17} {', '.join(map(str, networks))}"


def _explain_host(config: Config, policy: Policy, host: str, port: int, user: str | None) -> bool:
    """Show the verdict on a host, and on each address that its name resolves to."""
    try:
        host = fields.host("--host", host)
    except fields.Invalid as fault:
        return _show("host", printable(host, _MOST), Verdict(False, f"commands with it are refused: it {fault.text}"))
    way = _way(config, host, port, user)
    place = f"{host}:{port}" + (f", reached through {way} (by the site's tables)" if way else "")
    verdict = policy.judge_host(host, port, behind=bool(way))
    if way or not verdict.allowed or read_address(host) is not None:
        return _show("host", place, verdict)
    try:
        addresses = _look_up(read_host(host).dialled, port)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a valid name"
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
        return Verdict(False, f"commands with it are refused: it {fault.text}")


def _judge_file(policy: Policy, path: str) -> Verdict:
    try:
        return policy.judge_file(file_fields.path("--file", path))
    except fields.Invalid as fault:
        return Verdict(False, f"commands with it are refused: it {fault.text}")


def _way(config: Config, host: str, port: int, user: str | None) -> str:
    """The jump hosts of ``[[credentials]]`` through which a host is reached; empty: none."""
    if not config.logins:
        return ""
    from relayd.settings import credentials_of  # here, since it takes half a second

    return ",".join(map(str, credentials_of(config).hops(host, port, user or "")))


def _show(what: str, subject: str, verdict: Verdict) -> bool:
    why = verdict.rule or verdict.reason or "no rule forbids it"
    print(f"{what:<8} {_word(verdict.allowed)}  {subject}: {why}")
    return verdict.allowed


def _word(allowed: bool) -> str:
    return "allowed" if allowed else "refused"


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError("expected a whole number from 1 to 65535")
    return int(text)
