"""
The console script ``relayctl``: its subcommands, what they share, and their exit codes.

A subcommand is a module beside this one with ``configure(parser)`` and ``run(arguments)``, which returns an exit code:
0 if all is well, 1 if a fault was found. Mistakes on the command line exit with 2. Only the module of the subcommand
that is run is imported: each needs others that are slow to import.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from typing import Any, Final, NoReturn

from relayd import __version__
from relayd.process.standard_streams import open_standard_streams

#: All subcommands, in the order in which ``--help`` shows them, with what it says of each.
SUBCOMMANDS: Final = {
    "status": "show the status of a running relay",
    "check": "check settings, files and the connection to the main server; say what is wrong and how to fix it",
    "enroll": "fetch this relay's key from a hub for a one-time token, and write key file and settings",
    "config": "show the settings in effect, and where each one comes from",
    "policy": "show which hosts, users and commands the site allows, and why",
    "hosts": "list the hub's hosts, or show what a relay's settings come to for one host",
    "journal": "list the commands without a confirmed result, or show a stored result",
    "audit": "verify the audit log, or compute the digest of a command in it",
    "login": "log in to a hub",
    "run": "run a command on hosts of the hub, and show its output as it comes",
    "runs": "list the hub's runs",
    "show": "show one run, or follow it",
    "output": "print the output of a run",
    "cancel": "cancel a run, or pause and resume it",
    "rerun": "run once more what did not succeed",
    "relays": "list the hub's relays",
    "inventory": "import hosts into the hub's inventory, or export them",
    "hub": "make, check and administer a hub",
    "try-server": "play a relay against a main server, and tell what that does with results and lost connections",
}
_EXIT_CODES = "exit status: 0 all is well, 1 something is wrong or refused, 2 a mistake on the command line"


class _Parser(argparse.ArgumentParser):
    """
    An argument parser that reports a mistake in one line, without the usage before it.

    :param configure: adds its arguments when they are needed; ``None``: its maker adds them.
    """

    def __init__(self, *args: Any, configure: Callable[[_Parser], None] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._configure = configure

    def complete(self) -> None:
        """Add its arguments now, if they are not there yet."""
        if self._configure is not None:
            self._configure(self)
            self._configure = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Guess what an unknown option was meant to be; only this parser knows the options there are."""
        self.complete()
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            from relayd.config.values import near

            name = rest[0].partition("=")[0]
            meant = near(name, self._option_string_actions) if name.startswith("-") else None
            self.error(f"no such option: {name} (did you mean {meant}?)" if meant else "unknown arguments")
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Guess what an unknown subcommand was meant to be; argparse would list them all."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            from relayd.config.values import near
            from relayd.language.texts import printable

            meant = near(value, action.choices)
            hint = f"did you mean {meant}?" if meant else f"there are {', '.join(action.choices)}"
            self.error(f"no such subcommand: {printable(value, 40)} ({hint})")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser(*, whole: bool = True) -> argparse.ArgumentParser:
    """
    The parser of ``relayctl``.

    :param whole: whether the arguments of all subcommands are there; else, a subcommand's are added when it is parsed.
    """
    about = "Shows and checks a relay; runs commands on the hosts of a hub, and administers that."
    parser = _Parser(prog="relayctl", description=about, epilog=_EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"relayctl {__version__}")
    below = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    for name, help in SUBCOMMANDS.items():
        subparser = below.add_parser(
            name,
            help=help,
            description=help,
            epilog=_EXIT_CODES,
            allow_abbrev=False,
            configure=partial(_configure, name),
        )
        if whole:
            subparser.complete()
    return parser


def _configure(name: str, parser: argparse.ArgumentParser) -> None:
    module: Any = import_module(f"relayd.ctl.{name.replace('-', '_')}")
    module.configure(parser)
    parser.set_defaults(run=module.run)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run ``relayctl``.

    :param argv: by default the process's own.
    :return: the exit code.
    """
    open_standard_streams()
    if isinstance(sys.stdout, TextIOWrapper):  # not every character set has what others write
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has seen enough, as with | head
        _discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _discard_output()
        print(f"relayctl: {error}", file=sys.stderr)
        return 1


def _run(argv: Sequence[str] | None) -> int:
    arguments = make_parser(whole=False).parse_args(argv)
    from relayd.language.errors import DescribedError

    try:
        return int(arguments.run(arguments))
    except DescribedError as error:
        print(f"relayctl: {error}", file=sys.stderr)
        return 1


def _discard_output() -> None:
    """Let what is still to be written go nowhere: at the end of the process, Python would fail with it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
