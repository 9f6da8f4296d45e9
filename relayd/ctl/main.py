"""
The console script ``relayctl``: its subcommands, what they share, and their exit codes.

A subcommand is a module with ``NAME``, ``HELP``, ``configure(parser)`` and ``run(arguments)``, which returns an exit
code: 0 if all is well, 1 if a fault was found. Mistakes on the command line exit with 2.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any, NoReturn, Protocol

from relayd import __version__
from relayd.config.values import near
from relayd.ctl import audit, check, config, journal, policy, status
from relayd.errors import RelayError
from relayd.language.texts import printable
from relayd.process.standard_streams import open_standard_streams


class Subcommand(Protocol):
    """A module with a subcommand."""

    NAME: str
    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the subcommand and return the exit code."""


_EXIT_CODES = "exit status: 0 all is well, 1 something is wrong or refused, 2 a mistake on the command line"


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one line, without the usage before it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Guess what an unknown option was meant to be; only this parser knows the options there are."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            name = rest[0].partition("=")[0]
            meant = near(name, self._option_string_actions) if name.startswith("-") else None
            self.error(f"no such option: {name} (did you mean {meant}?)" if meant else "unknown arguments")
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Guess what an unknown subcommand was meant to be; argparse would list them all."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            meant = near(value, action.choices)
            hint = f"did you mean {meant}?" if meant else f"there are {', '.join(action.choices)}"
            self.error(f"no such subcommand: {printable(value, 40)} ({hint})")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def subcommands() -> Sequence[Subcommand]:
    """All subcommands, in the order in which ``--help`` shows them."""
    return (status, check, config, policy, journal, audit)


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``relayctl``."""
    about = "Shows a relay's status, settings and records, and checks them."
    parser = _Parser(prog="relayctl", description=about, epilog=_EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"relayctl {__version__}")
    below = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    for module in subcommands():
        subparser = below.add_parser(
            module.NAME, help=module.HELP, description=module.HELP, epilog=_EXIT_CODES, allow_abbrev=False
        )
        module.configure(subparser)
        subparser.set_defaults(run=module.run)
    return parser


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
    arguments = make_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except RelayError as error:
        print(f"relayctl: {error}", file=sys.stderr)
        return 1


def _discard_output() -> None:
    """Let what is still to be written go nowhere: at the end of the process, Python would fail with it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
