"""
``relayctl output``: the stored output of a run, of all its hosts or of one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any, Final

from relayd.ctl.client.options import add_hub_options, hub_of
from relayd.errors import ConfigError

#: Bytes that are read at a time.
_PIECE: Final = 256 * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("run_id", metavar="RUN", help="id of the run")
    parser.add_argument("--host", metavar="NAME", help="of this host alone, without its name before each line")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--stdout", action="store_true", help="standard output alone")
    which.add_argument("--stderr", action="store_true", help="standard error alone")
    parser.add_argument("--raw", action="store_true", help="the bytes that the host wrote; needs --host")
    add_hub_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """
    Print it.

    :raises ConfigError: for ``--raw`` without a host, and for a host that the run does not have.
    """
    from relayd.ctl.client.http import segment

    if arguments.raw and arguments.host is None:
        raise ConfigError(option="--raw", reason="needs --host NAME: the outputs of several hosts would be mixed")
    hub = hub_of(arguments)
    streams = [stream for stream in ("stdout", "stderr") if getattr(arguments, stream)] or ["stdout", "stderr"]
    found = False
    for each in hub.items(f"/runs/{segment(arguments.run_id)}/invocations"):
        if arguments.host is not None and each.get("host") != arguments.host:
            continue
        found = True
        for stream in streams:
            _print(hub, each, stream, raw=arguments.raw, named=arguments.host is None)
        if arguments.host is not None:
            break
    if not found and arguments.host is not None:
        raise ConfigError(option="--host", reason="the run has no such host; relayctl show lists them")
    return 0


def _print(hub: Any, invocation: dict[str, Any], stream: str, *, raw: bool, named: bool) -> None:
    from relayd.ctl.client.http import segment
    from relayd.ctl.client.lines import HostLines

    file: Any = sys.stdout if stream == "stdout" else sys.stderr
    response = hub.open("GET", f"/invocations/{segment(str(invocation['id']))}/{stream}")
    if raw:
        file.flush()
        shutil.copyfileobj(response, file.buffer)
        return
    host = str(invocation.get("host"))

    def write(_: str, line: str) -> None:
        print(line if named else line.removeprefix(f"{host}: "), file=file)

    lines = HostLines(write)
    while piece := response.read(_PIECE):
        lines.add("", host, stream, piece)
    lines.end("", host)
