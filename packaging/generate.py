"""
Writes what is made from the code. From the options of relayd and the parser of relayctl: manual pages, completion for
shells, the tables of the documents, and the example file. From the types of messages: their schemas. From the routes
of the hub: its OpenAPI document.

    generate.py man|completion|options|schemas|openapi [DIRECTORY]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import message_schemas
import option_pages
import shtab

from relayd import __version__
from relayd.config.option import OptionTable
from relayd.config.options import RELAY_TABLE
from relayd.ctl.client.outcome import EXIT_CODES
from relayd.ctl.main import make_parser
from relayd.hub.api.all_routes import openapi_document
from relayd.hub.config.options import HUB_TABLE
from relayd.hub_tap import ABOUT as HUB_ABOUT
from relayd.tap import ABOUT

ROOT = Path(__file__).resolve().parent.parent

_NEEDED = r""".B \-\-server
.I URL
.B \-\-proxy\-id
.I NAME
.B \-\-api\-key\-file
.I PATH
.RI [ options ]"""

_RELAYD = rf"""
.SH NAME
relayd \- runs a main server's commands on SSH hosts of a private network
.SH SYNOPSIS
.B relayd
{_NEEDED}
.br
.B twistd
.RI [ twistd-options ]
.B relayd
{_NEEDED}
"""

_TWO_WAYS = r"""The command
.B relayd
runs in the foreground, logs to standard output, and writes no pid file. It is the same as
.BR "twistd \-\-nodaemon \-\-pidfile= relayd" ;
.B twistd
has options for everything else."""

_RELAYD_END = r"""
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
No more commands are accepted; running commands have
.B \-\-drain\-timeout
to finish, and their results are delivered. A second signal ends relayd at once.
.TP
.B SIGHUP
The settings are read again; the log says what changed and what takes effect after a restart.
.TP
.B SIGUSR1
The log file of
.B "twistd \-\-logfile"
rotates. The signal does nothing to any other log.
.SH EXIT STATUS
0 after SIGTERM or SIGINT; 78 when an option is wrong, or names something that cannot be used: to start again would
not help. 1 when the relay cannot start for another reason, such as a full disk, or a state directory that another relay
uses.
.SH ENVIRONMENT
.TP
.BI RELAYD_ OPTION
any option, in capitals and with
.B _
instead of
.BR \- .
.TP
.BR NOTIFY_SOCKET ", " WATCHDOG_USEC ", " WATCHDOG_PID
set by systemd, to which relayd reports that the main server has accepted it, its status, and that it is alive.
.TP
.BR CREDENTIALS_DIRECTORY ", " STATE_DIRECTORY
where systemd keeps the file
.B api\-key
and the state of the relay.
.SH FILES
These are the files of the packaged service; those with
.I NAME
belong to relayd@NAME.
.TP
.IR /etc/relayd/relayd.toml ", " /etc/relayd/NAME.toml
options. The service's user must be able to read it, so put no secret into it.
.TP
.IR /etc/default/relayd ", " /etc/default/relayd\-NAME
options as environment variables, which systemd reads as root.
.TP
.IR /etc/relayd/api\-key ", " /etc/relayd/NAME.api\-key
the API key; only root needs to be able to read it.
.TP
.IR /var/lib/relayd ", " /var/lib/relayd\-NAME
the journal and the keys of hosts.
.SH SEE ALSO
.BR relayctl (1),
.BR twistd (1),
.BR systemd.service (5)
"""


_HUB = r"""
.SH NAME
relayd\-hub \- the main server of relays: takes orders of people and programs, and keeps results
.SH SYNOPSIS
.B relayd\-hub
.RI [ options ]
.br
.B twistd
.RI [ twistd-options ]
.B relayd\-hub
.RI [ options ]
"""

_HUB_END = r"""
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
No more connections are accepted, requests to the API have
.B \-\-drain\-timeout
to finish, results that have arrived are stored, and relays are told to come back (close code 1012). A second signal
ends the process at once; nothing that was taken is lost.
.TP
.B SIGHUP
The settings are read again; the log says what changed and what takes effect after a restart.
.SH EXIT STATUS
0 after SIGTERM or SIGINT; 78 when an option is wrong, or a library of the extra
.B relayd[hub]
is missing; 1 when the hub cannot start for another reason.
.SH ENVIRONMENT
.TP
.BI RELAYD_HUB_ OPTION
any option, in capitals and with
.B _
instead of
.BR \- .
.SH SEE ALSO
.BR relayctl (1),
.BR relayd (8),
.BR twistd (1)
"""


def roff(text: str) -> str:
    """Plain text as roff."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return r"\&" + text if text.startswith((".", "'")) else text


def title(name: str, section: int) -> str:
    """The first lines of a page; without a date, so that they change only with the content."""
    return (
        f'.\\" Made by "make man" from the source: do not edit.\n.TH {name.upper()} {section} "" "relayd {__version__}"'
    )


def entry(name: str, value: str, text: str) -> str:
    """The entry of one option."""
    shown = f'.BI "{roff(name)} " "{roff(value)}"' if value else f'.B "{roff(name)}"'
    return f".TP\n{shown}\n{roff(text)}"


def relayd_page() -> str:
    """relayd(8)."""
    lines = [title("relayd", 8), _RELAYD.strip(), ".SH DESCRIPTION", roff(ABOUT), ".PP", _TWO_WAYS, ".SH OPTIONS"]
    for section, options in option_pages.sections():
        lines.append(f".SS {section}")
        for option in options:
            default = f" [{option.shown_default}]" if option.shown_default else ""
            lines.append(entry(option.flag_name, option.metavar, f"{option.help}{default}"))
    return "\n".join([*lines, _RELAYD_END.strip(), ""])


def hub_page() -> str:
    """relayd-hub(8)."""
    lines = [title("relayd-hub", 8), _HUB.strip(), ".SH DESCRIPTION", roff(HUB_ABOUT), ".SH OPTIONS"]
    for section, options in option_pages.sections(HUB_TABLE):
        lines.append(f".SS {section}")
        for option in options:
            default = f" [{option.shown_default}]" if option.shown_default else ""
            lines.append(entry(option.flag_name, option.metavar, f"{option.help}{default}"))
    return "\n".join([*lines, _HUB_END.strip(), ""])


def relayctl_page() -> str:
    """relayctl(1)."""
    parser = make_parser()
    described = f"relayctl \\- {roff(str(parser.description).rstrip('.').lower())}"
    lines = [title("relayctl", 1), ".SH NAME", described, ".SH SYNOPSIS"]
    for name, each in commands(parser):
        usage = " ".join(each.format_usage().removeprefix("usage: ").removeprefix(name).split())
        lines.append(f".B {roff(name)}\n{roff(usage)}\n.br")
    lines[-1] = lines[-1].removesuffix("\n.br")
    lines += [".SH SUBCOMMANDS"]
    for name, each in commands(parser):
        lines += [f".SS {roff(name)}", roff(f"{str(each.description)[:1].upper()}{str(each.description)[1:]}.")]
        for action in each._actions:
            if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
                continue
            names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            value = "" if action.nargs == 0 or not action.option_strings else str(action.metavar or action.dest.upper())
            lines.append(entry(names, value, each._get_formatter()._expand_help(action) if action.help else ""))
    lines += [
        ".SH EXIT STATUS",
        "0 if all is well, 1 if something is wrong or refused, 2 for a mistake on the command line. Those of",
        '.BR run ", " rerun',
        "and",
        ".B show \\-\\-follow",
        roff(f"tell how the run ended: {EXIT_CODES.removeprefix('exit status: ')}."),
    ]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR relayd (8)", ""])


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All subcommands that run, each with its full name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from commands(below)
            return
    yield parser.prog, parser


def relayd_parser(table: OptionTable = RELAY_TABLE, about: str = ABOUT) -> argparse.ArgumentParser:
    """The options of ``relayd``, or of the hub, as argparse has them, which shtab reads."""
    parser = argparse.ArgumentParser(prog=table.program, description=about)
    parser.add_argument("--version", action="store_true", help=f"show {table.program}'s version and exit")
    for option in table.options:
        text = option.help.replace("%", "%%")
        if option.is_flag:
            parser.add_argument(option.flag_name, action="store_true", help=text)
        else:
            action = "append" if option.several else "store"
            parser.add_argument(
                option.flag_name, action=action, metavar=option.metavar, choices=option.choices or None, help=text
            )
    return parser


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Completion of a command; zsh completes ``twistd relayd`` by its own function for Twisted's programs."""
    for _, each in commands(parser):
        for action in each._actions:
            if action.metavar in ("PATH", "FILE"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _whole(text: str, _present: str) -> str:
    """A file that has nothing else in it."""
    return text


#: By kind, from the path of a file to a function from its present text to the new one.
MADE: dict[str, dict[str, Callable[[str], str]]] = {
    "man": {
        "packaging/man/relayd.8": lambda _: relayd_page(),
        "packaging/man/relayd-hub.8": lambda _: hub_page(),
        "packaging/man/relayctl.1": lambda _: relayctl_page(),
    },
    "completion": {
        "packaging/completion/relayd": lambda _: completion(relayd_parser(), "bash"),
        "packaging/completion/_relayd": lambda _: completion(relayd_parser(), "zsh"),
        "packaging/completion/relayd-hub": lambda _: completion(relayd_parser(HUB_TABLE, HUB_ABOUT), "bash"),
        "packaging/completion/_relayd-hub": lambda _: completion(relayd_parser(HUB_TABLE, HUB_ABOUT), "zsh"),
        "packaging/completion/relayctl": lambda _: completion(make_parser(), "bash"),
        "packaging/completion/_relayctl": lambda _: completion(make_parser(), "zsh"),
    },
    "options": {
        "docs/options.rst": lambda page: option_pages.with_tables(page, option_pages.english),
        "docs/options.zh.rst": lambda page: option_pages.with_tables(page, option_pages.chinese()),
        "docs/hub-options.rst": option_pages.with_hub_tables,
        "docs/reload.rst": option_pages.with_effects,
        "packaging/debian/relayd.toml": lambda _: option_pages.example(),
        "packaging/debian/hub.toml": lambda _: option_pages.hub_example(),
    },
    "openapi": {"docs/openapi.json": lambda _: openapi_document().decode()},
    "schemas": {path: partial(_whole, text) for path, text in message_schemas.files().items()},
}


def main(kind: str, directory: str | None = None) -> None:
    """
    Write the files of one kind.

    :param directory: put them there instead.
    """
    for path, make in MADE[kind].items():
        present, to = ROOT / path, Path(directory or ROOT) / path
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(make(present.read_text("utf-8") if present.exists() else ""), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
