"""
``relayctl audit``: whether the audit log is as the relay wrote it, and which digest a command has in it.
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
import zlib
from collections.abc import Mapping

from relayd.audit.heads import Head, head_path, own_head_path, parse_head, read_heads
from relayd.audit.key import command_digest, key_file, read_key
from relayd.audit.seal import Seal, read_seal, seal_file
from relayd.audit.verify import AuditFault, Checked, Verifier, in_order
from relayd.ctl.settings import add_options, read_settings


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its own subcommands."""
    below = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    text = "check the audit log for lines that were changed, removed or reordered"
    verify = below.add_parser("verify", help=text, description=text, allow_abbrev=False)
    verify.add_argument(
        "files", metavar="FILE", nargs="*", help="files of one log, in any order [those that the settings name]"
    )
    verify.add_argument("--head", metavar="HASH", help="hash of a line noted earlier, which must be in the log")
    verify.add_argument(
        "--seal",
        metavar="PATH",
        help="file of the relay's seal, for copies [STATE_DIR/audit-seal if no FILE is given]",
    )
    verify.add_argument("--audit-log", metavar="PATH", help="path of the audit log, if the settings do not name it")
    add_options(verify)
    verify.set_defaults(act=_verify)
    text = "print the digest by which the audit log records the command on standard input"
    digest = below.add_parser("digest", help=text, description=text, allow_abbrev=False)
    add_options(digest)
    digest.set_defaults(act=_digest)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen subcommand; 2 when it could not."""
    try:
        return int(arguments.act(arguments))
    except BrokenPipeError:  # the reader of our output has gone
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        print(f"relayctl audit: {error}", file=sys.stderr)
        return 2


def _verify(arguments: argparse.Namespace) -> int:
    files = arguments.files
    # The heads are read before the log: lines that a running relay adds meanwhile are not faults.
    if files:  # copies may come without a head
        beside = next(filter(os.path.exists, map(head_path, files)), None)
        heads = {} if beside is None else {beside: _read_head(beside)}
        seal = None if arguments.seal is None else _read_seal(arguments.seal)
    else:
        settings = read_settings(arguments, audit_log=arguments.audit_log)
        path, state_dir = settings.audit_log, settings.state_dir
        if path is None:
            raise ValueError("the settings name no audit log: give --audit-log, or its files")
        heads = _heads(path, state_dir)
        seal = _read_seal(arguments.seal or seal_file(state_dir))
        files = _files_of(path)
    if seal is None:
        print("no seal: lines that were forged together with all their hashes cannot be detected")
    verifier = Verifier({arguments.head or "", *(head.hash for head in heads.values() if head is not None)}, seal)
    faults = 0
    for path in in_order(files):
        for each in verifier.check_file(path):
            _show(each)
            faults += isinstance(each, AuditFault) and not each.harmless
    for text in _wrong_heads(verifier, heads, arguments.head):
        print(text)
        faults += 1
    if verifier.last is not None:
        print(f"head: line {verifier.last.seq}, {verifier.last.hash}")
    print(f"{faults} {'fault' if faults == 1 else 'faults'}" if faults else "no fault")
    return 1 if faults else 0


def _heads(path: str, state_dir: str) -> dict[str, Head | None]:
    """The recorded heads of a log, by their files; that of the state directory only if it can be read."""
    try:
        beside, own = read_heads(path, state_dir)
    except PermissionError as error:
        print(f"{error.filename}: {error.strerror}, so it is not checked")
        return {head_path(path): _read_head(head_path(path))}
    return {head_path(path): beside} | ({} if own is None else {own_head_path(state_dir): own})


def _read_seal(path: str) -> Seal | None:
    try:
        return read_seal(path)
    except PermissionError as error:  # this user may read the log only
        print(f"{path}: {error.strerror}")
        return None


def _files_of(path: str) -> list[str]:
    """The log and its rotated files, whether relayd or logrotate rotated them."""
    name = glob.escape(path)
    return [*(glob.glob(name)), *(set(glob.glob(f"{name}.*") + glob.glob(f"{name}-*")) - {head_path(path)})] or [path]


def _read_head(path: str) -> Head | None:
    try:
        with open(path, "rb") as file:
            return parse_head(file.read(100))
    except FileNotFoundError:
        return None


def _wrong_heads(verifier: Verifier, heads: Mapping[str, Head | None], expected: str | None) -> list[str]:
    """What does not match the heads recorded in files, and *expected*, one that was noted elsewhere."""
    wrong = []
    last = 0 if verifier.last is None else verifier.last.seq
    for path, noted in heads.items():
        if noted is None:
            text = "is missing or unreadable, so lines removed from the end cannot be detected"
            wrong.append(f"{path}: {text}")
        elif noted.hash not in verifier.found:
            missing = f"lines {last + 1}–{noted.seq} were removed from the end"
            wrong.append(
                f"{path}: {missing if noted.seq > last else f'line {noted.seq} is not the one that was written'}"
            )
    if expected is not None:
        if (place := verifier.found.get(expected)) is None:
            wrong.append("--head: no line has this hash: it was changed or removed, or its file was not given")
        else:
            print(f"{place[0]}:{place[1]}: is the line with the hash of --head")
    return wrong


def _show(each: AuditFault | Checked) -> None:
    if isinstance(each, AuditFault):
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
