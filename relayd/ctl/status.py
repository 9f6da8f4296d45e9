"""
``relayctl status``: the status of a running relay, in a terminal, once or repeatedly.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from relayd.config.listen_address import ListenAddress
from relayd.ctl.settings import add_options, read_settings
from relayd.errors import NoStatus
from relayd.language.texts import printable, span

NAME = "status"
HELP = "show the status of a running relay"

#: Seconds that a relay has to answer, and the most bytes of an answer.
PATIENCE: Final = 5.0
MOST: Final = 4 << 20
#: The most rows of each table.
_ROWS: Final = 20

_CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add_options(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--status", metavar="ENDPOINT", help="the relay's own --status [$RELAYD_STATUS, or the file]")
    where.add_argument("--url", type=_url, help="address to ask instead: http://HOST:PORT or unix:/PATH")
    parser.add_argument(
        "--watch", nargs="?", type=_seconds, const=2.0, metavar="SECONDS", help="repeat until interrupted [every 2 s]"
    )


def run(arguments: argparse.Namespace) -> int:
    """
    Show the status; 0: the relay is ready.

    :raises NoStatus: when the relay does not answer.
    """
    connect = arguments.url
    if connect is None:
        address = read_settings(arguments, status=arguments.status).status
        if address is None:
            print("relayctl: where is the relay? Give --url, --status or --config", file=sys.stderr)
            return 2
        connect = _connector(address)
    if arguments.watch is None:
        return _show(_fetch(connect))
    return _watch(connect, arguments.watch)


def _watch(connect: Callable[[], http.client.HTTPConnection], seconds: float) -> int:
    code = 1
    try:
        while True:
            clear = _CLEAR if sys.stdout.isatty() else ""
            try:
                status = _fetch(connect)
                print(end=clear)
                code = _show(status)
            except NoStatus as error:
                print(f"{clear}relayctl: {error}")
                code = 1
            sys.stdout.flush()
            time.sleep(seconds)
    except KeyboardInterrupt:
        return code


# Asking --------------------------------------------------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """See `http.client.HTTPConnection`."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)

    def __str__(self) -> str:
        return f"unix:{self._path}"


class _TCPConnection(http.client.HTTPConnection):
    """An HTTP connection over TCP."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _connector(address: ListenAddress) -> Callable[[], http.client.HTTPConnection]:
    if address.path:
        return lambda: _UnixConnection(address.path)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return lambda: _TCPConnection(host, address.port, timeout=PATIENCE)


def _url(text: str) -> Callable[[], http.client.HTTPConnection]:
    if text.startswith("unix:/"):
        return lambda: _UnixConnection(text.removeprefix("unix:"))
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if host is None or parts.scheme != "http" or parts.username is not None:
        raise argparse.ArgumentTypeError("expected http://HOST:PORT or unix:/PATH")
    return lambda: _TCPConnection(str(host), port, timeout=PATIENCE)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("expected seconds, from 0.1 to 3600")
    return seconds


def read_status(address: ListenAddress) -> dict[str, Any]:
    """
    The status document of the relay whose ``--status`` is *address*.

    :raises NoStatus: when the relay does not answer.
    """
    return _fetch(_connector(address))


def _fetch(connect: Callable[[], http.client.HTTPConnection]) -> dict[str, Any]:
    connection = connect()
    try:
        connection.request("GET", "/status.json", headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(MOST + 1)
        document = json.loads(body) if response.status == 200 and len(body) <= MOST else None
    except OSError as error:
        raise NoStatus(where=str(connection), reason=error.strerror or str(error) or type(error).__name__) from None
    except (http.client.HTTPException, ValueError):
        document = None
    finally:
        connection.close()
    if not isinstance(document, dict) or "obstacles" not in document:
        raise NoStatus(where=str(connection), reason="the answer is not a relay's status")
    return document


# Showing -------------------------------------------------------------------------------------------------------------


def _show(status: Mapping[str, Any]) -> int:
    width = shutil.get_terminal_size((100, 24)).columns
    for line in lines(status, width):
        print(line)
    return 0 if status["ready"] else 1


def lines(status: Mapping[str, Any], width: int) -> list[str]:
    """*status*, the document of a relay, as lines of at most *width* characters."""
    uplink, commands, results, journal = (status[name] for name in ("uplink", "commands", "results", "journal"))
    state = "ready" if status["ready"] else "NOT READY"
    shown = [f"{status['proxyId']}  {state}  relayd {status['version']}, up for {span(status['uptime'])}"]
    shown += [f"  {obstacle}" for obstacle in status["obstacles"]]
    accepted = f"accepted ({uplink['dialect']})" if uplink["accepted"] else "not accepted"
    oldest = f" (the oldest for {span(journal['oldest'])})" if journal["unconfirmed"] else ""
    ended = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(commands["finished"].items()))
    shown += [
        f"server    {status['server']}, {accepted} for {span(uplink['since'])}, {uplink['losses']:,} losses",
        f"commands  {commands['running']:,} of {commands['maxRunning']:,} run, {commands['queued']:,} wait, "
        f"{sum(commands['refused'].values()):,} refused; ended: {ended or 'none'}",
        f"results   {results['confirmed']:,} confirmed, {journal['unconfirmed']:,} not{oldest}, "
        f"{results['givenUp']:,} given up",
        f"journal   {journal['bytes'] / 1e6:,.1f} of {journal['maxBytes'] / 1e6:,.0f} MB"
        f"{'' if journal['dead'] == 0 else ', {:,} dead letters'.format(journal['dead'])}",
    ]
    shown += _table(
        ("HOST", "CONNECTIONS", "COMMANDS", "WAITING", "LIMIT"),
        [(row["host"], row["connections"], row["sessions"], row["waiting"], _limit(row)) for row in status["hosts"]],
        width,
    )
    shown += _table(
        ("ACTIVE", "USER@HOST", "STATE", "FOR"),
        [(row["id"], _where(row), row["state"], span(row["duration"])) for row in status["active"]],
        width,
    )
    shown += _table(
        ("ENDED", "USER@HOST", "OUTCOME", "EXIT", "TOOK", "AGO"),
        [
            (row["id"], _where(row), row["outcome"], row["exit"], span(row["duration"]), span(row["ago"]))
            for row in status["recent"]
        ],
        width,
    )
    return [_cut(printable(line, 10_000), width) for line in shown]


def _where(row: Mapping[str, Any]) -> str:
    return f"{row['user']}@{row['host']}:{row['port']}"


def _limit(row: Mapping[str, Any]) -> str:
    return f"{row['limit']}{' (learned)' if row['learned'] else ''}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> list[str]:
    """Rows in columns. Where they are too wide, the first two columns are cut; the others hold short words."""
    if not rows:
        return []
    cells = [[printable(str(cell), 256) for cell in row] for row in rows[:_ROWS]]
    widths = [max(len(row[column]) for row in [list(heads), *cells]) for column in range(len(heads))]
    for column in (1, 0):
        excess = sum(widths) + 2 * (len(widths) - 1) - width
        if excess > 0 and isinstance(rows[0][column], str):
            widths[column] = max(12, widths[column] - excess)
    table = ["", *("  ".join(_cut(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
                   for row in [heads, *cells])]  # fmt: skip
    if len(rows) > _ROWS:
        table.append(f"… and {len(rows) - _ROWS:,} more")
    return table


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"
