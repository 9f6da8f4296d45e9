"""
``relayctl audit``: is the audit log as the relay wrote it, and which digest does a command have in it.
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
import zlib

from relayd.audit.chain import head_path, parse_head
from relayd.audit.lines import command_digest, key_file, read_key
from relayd.audit.verify import Checked, Fault, Verifier, in_order
from relayd.ctl.settings import add_options, read_settings

NAME = "audit"
HELP = "look at the audit log"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its own subcommands."""
    below = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    text = "find what was changed, removed or reordered in the audit log"
    verify = below.add_parser("verify", help=text, description=text, allow_abbrev=False)
    verify.add_argument(
        "files", metavar="FILE", nargs="*", help="files of one log, in any order [those of the settings]"
    )
    verify.add_argument("--head", metavar="HASH", help="a head that was noted earlier and must be in it")
    verify.add_argument("--audit-log", metavar="PATH", help="the log, where the settings do not say")
    add_options(verify)
    verify.set_defaults(act=_verify)
    text = "print the digest that the audit log has of the command on standard input"
    digest = below.add_parser("digest", help=text, description=text, allow_abbrev=False)
    add_options(digest)
    digest.set_defaults(act=_digest)


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    try:
        return int(arguments.act(arguments))
    except BrokenPipeError:  # of the caller's, who reads no more
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        print(f"relayctl audit: {error}", file=sys.stderr)
        return 2


def _verify(arguments: argparse.Namespace) -> int:
    files = arguments.files
    if files:  # copies may come without it
        head = next(filter(os.path.exists, map(head_path, files)), None)
    else:
        path = read_settings(arguments, audit_log=arguments.audit_log).audit_log
        if path is None:
            raise ValueError("the settings have no audit-log: name it with --audit-log, or its files")
        files, head = _files_of(path), head_path(path)
    # Before the log: what a running relay adds meanwhile is no fault.
    noted = None if head is None else _read_head(head)
    verifier = Verifier({arguments.head or "", noted[1] if noted else ""})
    faults = 0
    for path in in_order(files):
        for each in verifier.read(path):
            _show(each)
            faults += isinstance(each, Fault) and not each.harmless
    for text in _wrong_heads(verifier, head, noted, arguments.head):
        print(text)
        faults += 1
    if verifier.last is not None:
        print(f"head: line {verifier.last.seq}, {verifier.last.hash}")
    print(f"{faults} {'fault' if faults == 1 else 'faults'}" if faults else "no fault")
    return 1 if faults else 0


def _files_of(path: str) -> list[str]:
    """The log and what was moved aside, by relayd or by logrotate."""
    name = glob.escape(path)
    return [*(glob.glob(name)), *(set(glob.glob(f"{name}.*") + glob.glob(f"{name}-*")) - {head_path(path)})] or [path]


def _read_head(path: str) -> tuple[int, str] | None:
    try:
        with open(path, "rb") as file:
            return parse_head(file.read(100))
    except FileNotFoundError:
        return None


def _wrong_heads(
    verifier: Verifier, head: str | None, noted: tuple[int, str] | None, expected: str | None
) -> list[str]:
    """What is wrong by the head that is *noted* in the file *head*, and by the one that was noted elsewhere."""
    wrong = []
    last = 0 if verifier.last is None else verifier.last.seq
    if head is not None and noted is None:
        wrong.append(f"{head}: is missing or unreadable, so lines that were removed from the end would not be missed")
    elif noted is not None and noted[1] not in verifier.found:
        seq = noted[0]
        missing = f"lines {last + 1}–{seq} were removed from the end"
        wrong.append(f"{head}: {missing if seq > last else f'line {seq} is not the one that was written'}")
    if expected is not None:
        if (place := verifier.found.get(expected)) is None:
            wrong.append("--head: no line has this hash: it was changed, removed, or its file is not among these")
        else:
            print(f"{place[0]}:{place[1]}: is the line whose hash --head gives")
    return wrong


def _show(each: Fault | Checked) -> None:
    if isinstance(each, Fault):
        print(f"{each.path}:{each.number}: {each.text}")
    elif each.first is None or each.last is None:
        print(f"{each.path}: {each.count} lines")
    else:
        first, last = each.first, each.last
        print(f"{each.path}: {each.count} lines, {first.seq}–{last.seq}, {first.time} to {last.time}")


def _digest(arguments: argparse.Namespace) -> int:
    key = read_key(key_file(read_settings(arguments).state_dir), make=False)
    print(command_digest(key, sys.stdin.read()))
    return 0
