"""
``relayctl status``: the status of a running relay, in a terminal, once or repeatedly.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeGuard
from urllib.parse import urlsplit

from relayd.config.listen_address import ListenAddress
from relayd.ctl.screen import alternate_screen
from relayd.ctl.settings import add_options, read_settings
from relayd.ctl.status_lines import lines
from relayd.ctl.terminal import Mood, Piece, has_colours, is_terminal, render, size_of, wrap
from relayd.errors import NoStatus
from relayd.language.texts import printable

_Connect = Callable[[], http.client.HTTPConnection]

#: Seconds that a relay has to answer, from the connection to the last byte, and the most bytes of an answer.
PATIENCE: Final = 5.0
MOST: Final = 4 << 20
#: The most characters that are shown of why there is no answer.
MOST_SAID: Final = 2000


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
        config = read_settings(arguments, status=arguments.status)
        if config.status is None:
            print(f"relayctl: {_no_address(config.config)}", file=sys.stderr)
            return 2
        connect = _connector(config.status)
    coloured = has_colours(sys.stdout, os.environ)
    if arguments.watch is None:
        return _print(_fetch(connect), coloured)
    if is_terminal(sys.stdout, os.environ):
        return _watch(connect, arguments.watch, coloured)
    return _repeat(connect, arguments.watch)


def _no_address(file: str | None) -> str:
    if file is None:
        return "where is the relay? Give --unit, --config, --status or --url"
    return (
        f"{printable(file, 256)} does not set status, so it does not say where to ask. Add a line such as "
        'status = "tcp:127.0.0.1:9180" to it and restart relayd, or give --status or --url'
    )


def _print(status: Mapping[str, Any], coloured: bool) -> int:
    width = size_of(sys.stdout).columns
    for line in lines(status, width):
        print(render(line, width, coloured=coloured))
    return 0 if status["ready"] else 1


def _watch(connect: _Connect, seconds: float, coloured: bool) -> int:
    """Keep the status on a terminal, in a screen of its own, until Ctrl-C."""
    code = 1
    try:
        with alternate_screen(sys.stdout.fileno(), sys.stdout.encoding) as screen:
            while True:
                size = size_of(sys.stdout)
                try:
                    status = _fetch(connect)
                    shown, code = lines(status, size.columns, size.lines), 0 if status["ready"] else 1
                except NoStatus as error:
                    said = wrap(printable(f"relayctl: {error}", MOST_SAID), size.columns)
                    shown, code = [[Piece(line, Mood.BAD)] for line in said[: size.lines]], 1
                screen.show([render(line, size.columns, coloured=coloured) for line in shown])
                screen.wait(seconds)
    except KeyboardInterrupt:
        return code


def _repeat(connect: _Connect, seconds: float) -> int:
    """Print the status again and again: to a file or a program."""
    code = 1
    try:
        while True:
            try:
                code = _print(_fetch(connect), coloured=False)
            except NoStatus as error:
                print(f"relayctl: {error}")
                code = 1
            sys.stdout.flush()
            time.sleep(seconds)
    except KeyboardInterrupt:
        return code


# Asking --------------------------------------------------------------------------------------------------------------


class _BoundedSocket(socket.socket):
    """A socket whose answer has to be complete within `PATIENCE`: a peer may send one byte after the other."""

    until: float

    def recv_into(self, *args: Any) -> int:
        """See `socket.socket`."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)
        return super().recv_into(*args)


def _bounded(connected: socket.socket) -> socket.socket:
    bounded = _BoundedSocket(fileno=connected.detach())
    bounded.until = time.monotonic() + PATIENCE
    bounded.settimeout(PATIENCE)
    return bounded


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """See `http.client.HTTPConnection`."""
        connecting = socket.socket(socket.AF_UNIX)
        self.sock = connecting  # `close` closes it, also where it cannot connect
        connecting.settimeout(PATIENCE)
        connecting.connect(self._path)
        self.sock = _bounded(connecting)

    def __str__(self) -> str:
        return f"unix:{self._path}"


class _TCPConnection(http.client.HTTPConnection):
    """An HTTP connection over TCP."""

    def connect(self) -> None:
        """See `http.client.HTTPConnection`."""
        super().connect()
        self.sock = _bounded(self.sock)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _connector(address: ListenAddress) -> _Connect:
    if address.path:
        return lambda: _UnixConnection(address.path)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return lambda: _TCPConnection(host, address.port, timeout=PATIENCE)


def _url(text: str) -> _Connect:
    if text.startswith("unix:/"):
        return lambda: _UnixConnection(text.removeprefix("unix:"))
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if host is None or parts.scheme != "http" or "@" in text:
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


def _fetch(connect: _Connect) -> dict[str, Any]:
    connection = connect()
    try:
        connection.request("GET", "/status.json", headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(MOST + 1)
        document = json.loads(body) if response.status == 200 and len(body) <= MOST else None
    except OSError as error:
        raise NoStatus(where=str(connection), reason=error.strerror or str(error) or type(error).__name__) from None
    except (http.client.HTTPException, ValueError, RecursionError) as error:
        if isinstance(error, UnicodeError) and not isinstance(error, UnicodeDecodeError):
            raise NoStatus(where=str(connection), reason="the host is not a valid name") from None
        document = None
    finally:
        connection.close()
    if not _is_status(document):
        raise NoStatus(where=str(connection), reason="the answer is not a relay's status")
    return document


def _is_status(document: Any) -> TypeGuard[dict[str, Any]]:
    """Whether *document* is one that can be shown: anything may answer at that address."""
    try:
        lines(document, 80)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return False
    return True
