"""
The command line of the demonstration.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from relayd.demo.steps import DemoTarget
from relayd.errors import ConfigError
from relayd.network.spelling import read_address, read_destination
from relayd.wire.messages import Secret


def make_parser() -> argparse.ArgumentParser:
    """A parser of its options."""
    parser = argparse.ArgumentParser(
        prog="python -m relayd.demo",
        description="Runs a main server, an SSH server and a relay on loopback, sends some commands through them, and "
        "shows the results.",
        allow_abbrev=False,
    )
    parser.add_argument("--ssh", metavar="HOST[:PORT]", help="send the commands to this host instead")
    parser.add_argument("--user", metavar="NAME", help="user on that host")
    credential = parser.add_mutually_exclusive_group()
    credential.add_argument("--key", metavar="FILE", type=Path, help="private key of that user")
    credential.add_argument("--password-file", metavar="FILE", type=Path, help="file with the password of that user")
    parser.add_argument(
        "--dialect",
        choices=("auto", "socketio", "native"),
        default="auto",
        help="how relay and main server frame events [%(default)s]",
    )
    parser.add_argument("--verbose", action="store_true", help="log to standard error")
    return parser


def chosen_target(options: argparse.Namespace) -> DemoTarget | None:
    """
    The host that the options name; ``None`` when they name none.

    :raises ConfigError: when options do not fit together, or a file cannot be read.
    """
    if options.ssh is None:
        for name in ("user", "key", "password_file"):
            if getattr(options, name) is not None:
                raise ConfigError(option="--" + name.replace("_", "-"), reason="needs --ssh HOST beside it")
        return None
    if not options.user:
        raise ConfigError(option="--user", reason="is missing: who logs in on that host?")
    if options.key is None and options.password_file is None:
        raise ConfigError(option="--key or --password-file", reason="is missing: how does that user log in?")
    host, port = _host_and_port(options.ssh)
    if options.key is not None:
        private_key = Secret(_read("--key", options.key))
        return DemoTarget(host=host, port=port, username=options.user, private_key=private_key)
    password = _read("--password-file", options.password_file).rstrip("\r\n")
    return DemoTarget(host=host, port=port, username=options.user, password=Secret(password))


def _host_and_port(text: str) -> tuple[str, int]:
    """Host and port of ``host``, ``host:2222``, ``[::1]:2222`` or ``::1``."""
    if read_address(text) is not None:
        return text, 22
    try:
        read = read_destination(text)
    except ValueError:
        read = None
    if read is None or read.username is not None:
        raise ConfigError(option="--ssh", reason="expected HOST or HOST:PORT")
    return read.host, read.port


def _read(option: str, path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(option=option, reason=f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(option=option, reason=f"{path} is not text") from None
    if not text.strip():
        raise ConfigError(option=option, reason=f"{path} is empty")
    return text
