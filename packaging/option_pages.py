"""
The options of relayd as people read them outside of ``--help``: tables in the documents, the page about SIGHUP, and the
example file.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from babel.messages.pofile import read_po

from relayd.config.option import Effect, Option, OptionTable
from relayd.config.options import OPTIONS, RELAY_TABLE
from relayd.ctl.config import toml_literal
from relayd.hub.config.options import HUB_TABLE

ROOT = Path(__file__).resolve().parent.parent
#: What stands around the generated part of a page that people write otherwise.
BEGIN, END = '.. begin: made by "make options" from {source}\n', '.. end: made by "make options"\n'

#: When a new value takes effect, in the few characters that a column has.
_EFFECTS = {
    Effect.NOW: "at once",
    Effect.COMMANDS: "at once",
    Effect.HOSTS: "at once",
    Effect.CONNECTION: "reconnect",
    Effect.RESTART: "restart",
}
_HEADS = ("option", "meaning", "default", "change")
#: Columns of the text of a meaning, and of a default.
_MEANING, _DEFAULT = 46, 35
#: What is typed, or stands for what is typed.
_LITERAL = (
    r"(?<![\w-])(?:--[a-z][a-z-]*|\[PATTERN\]:PORT|[a-z]+://[^\s,;，；、。]*|(?:tcp|unix):[^\s,;，；、。]+|\$[A-Z_]+[^\s,;；]*"
    r"|/var/lib/relayd(?:-hub)?|~/[^\s;]+|STATE_DIR/\w+|max-commands = 64|Name: value|[*?!](?![\w*]))"
)

Translate = Callable[[str], str]


def english(text: str) -> str:
    """The text itself."""
    return text


def chinese() -> Translate:
    """
    From an English text to the Chinese one of docs/options.zh.po.

    :return: a function that raises `LookupError` for a text without a translation: the English one has changed, or is
        new.
    """
    path = ROOT / "docs" / "options.zh.po"
    with path.open("rb") as file:
        texts = {message.id: message.string for message in read_po(file, locale="zh") if message.id}

    def translate(text: str) -> str:
        if not texts.get(text):
            raise LookupError(f"{path.name} has no translation of: {text}")
        return str(texts[text])

    return translate


# Tables --------------------------------------------------------------------------------------------------------------


def tables(translate: Translate, table: OptionTable = RELAY_TABLE) -> Iterator[str]:
    """One table for each section, as reST."""
    # A line break within a cell shows as a blank, which Chinese does not have between words.
    wrapped = _wrapped if translate is english else _whole
    for section, options in sections(table):
        yield from (f"**{translate(section)}**", "")
        rows = [_row(option, translate, wrapped) for option in options]
        yield from _table([[translate(head)] for head in _HEADS], rows)
        yield ""


def sections(table: OptionTable = RELAY_TABLE) -> Iterator[tuple[str, list[Option]]]:
    """The options by section."""
    for section in dict.fromkeys(option.section for option in table.options):
        yield section, [option for option in table.options if option.section == section]


def _row(option: Option, translate: Translate, wrapped: Callable[[str, int], list[str]]) -> list[list[str]]:
    """The lines of each cell."""
    name = f"``{option.flag_name} {option.metavar}``" if option.metavar else f"``{option.flag_name}``"
    return [
        [name],  # whole: a second line with text in the first cell would be a row of its own
        wrapped(_marked(translate(option.help), option.choices), _MEANING),
        wrapped(_default(option, translate), _DEFAULT),
        [translate(_EFFECTS[option.effect])],
    ]


def _default(option: Option, translate: Translate) -> str:
    if option.is_flag:
        return translate("off")
    if option.default_help:
        marked = _marked(option.default_help)
        return marked if marked == f"``{option.default_help}``" else _marked(translate(option.default_help))
    return f"``{option.default}``" if option.default else translate("required" if option.required else "none")


def _marked(text: str, words: Sequence[str] = ()) -> str:
    """A text of ours as reST: what is typed is a literal, and so are *words*."""
    literals = "|".join([_LITERAL, *(rf"(?<![\w-]){word}(?![\w-])" for word in words)])
    pieces, at = [], 0
    for found in re.finditer(literals, text, re.ASCII):
        literal = found[0].rstrip(".:")
        pieces += [_escaped(text[at : found.start()]), f"``{literal}``"]
        at = found.start() + len(literal)
        if text[at : at + 1] and unicodedata.east_asian_width(text[at]) in "WF" and text[at] not in "，；：、。）":
            pieces.append(" ")
    return "".join([*pieces, _escaped(text[at:])])


def _escaped(text: str) -> str:
    return re.sub(r"([\\*`|])", r"\\\1", text)


def _table(heads: list[list[str]], rows: Iterable[list[list[str]]]) -> Iterator[str]:
    """A simple table of docutils; the first cell of each row has its text on the row's first line."""
    cells = [heads, *rows]
    widths = [max(_width(line) for row in cells for line in row[column]) for column in range(len(heads))]
    rule = "  ".join("=" * width for width in widths)
    yield rule
    for number, row in enumerate(cells):
        for line in range(max(map(len, row))):
            shown = [cell[line] if line < len(cell) else "" for cell in row]
            padded = [text + " " * (width - _width(text)) for text, width in zip(shown, widths, strict=True)]
            yield "  ".join(padded).rstrip()
        if number == 0:
            yield rule
    yield rule


def _width(text: str) -> int:
    """Columns on a screen, which docutils goes by: signs of Chinese take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most *width* columns, broken at blanks but not within literals."""
    lines, line = [], ""
    for piece in re.findall(r"\(?``[^`]+``\S*|[^ `(]+|\(| +", text):
        if line and _width(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        if line or piece.strip():
            line += piece
    return [*lines, line.rstrip()]


def _whole(text: str, _width: int) -> list[str]:
    return [text]


# Pages ---------------------------------------------------------------------------------------------------------------


def with_tables(page: str, translate: Translate) -> str:
    """A page with the tables as they are now."""
    return _put(page, tables(translate))


def with_hub_tables(page: str) -> str:
    """The page of the hub's options with the tables as they are now."""
    return _put(page, tables(english, HUB_TABLE), "relayd/hub/config/options.py")


def with_effects(page: str) -> str:
    """The page about SIGHUP with the options by when they take effect."""
    return _put(page, _effects())


def _effects() -> Iterator[str]:
    for effect in Effect:
        names = [f"``--{option.name}``" for option in OPTIONS if option.effect is effect]
        if not names:
            continue
        yield from (f"{effect.value[0].upper()}{effect.value[1:]}:", "")
        if effect is Effect.COMMANDS:
            names += ["``[[credentials]]``", "``[[hosts]]``"]
        yield from textwrap.wrap(
            ", ".join(names), 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
        yield ""


def _put(page: str, lines: Iterable[str], source: str = "relayd/config/options.py") -> str:
    head, begin, rest = page.partition(BEGIN.format(source=source))
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"a page has no lines {BEGIN.format(source=source)!r} and {END!r}")
    return head + begin + "\n" + "\n".join(lines) + "\n" + end + tail


# Example file --------------------------------------------------------------------------------------------------------

_EXAMPLE_HEAD = """\
# The options of relayd.service: see relayd(8), or "/opt/relayd/bin/twistd relayd --help". Each is shown with its
# default, or with an example where it has none.
#
# The service's user must be able to read this file, so put no secret into it. The API key is in /etc/relayd/api-key:
#
#   (umask 077; cat > /etc/relayd/api-key)
#
# and then: relayctl check, and systemctl enable --now relayd. With a line status (below, under This relay),
# relayctl status shows how the relay is doing.
"""
_HUB_EXAMPLE_HEAD = """\
# The options of the hub: see relayd-hub(8), or "relayd-hub --help". Each is shown with its default, or with an example
# where it has none.
#
# The hub's user must be able to read this file. Put no password into it: --database-file names a file for that.
"""
_EXAMPLE_END = """

# Credentials of this site ---------------------------------------------------------------------------

# They are for commands that bring none. Tables stand below all options; only relayd may be able to read their files.

# A key, with what decrypts it and its certificate, for one user of these hosts, and the jump host that leads to them.
#[[credentials]]
#hosts = ["10.1.0.0/16", "db-*.internal"]
#users = ["deploy"]
#key-file = "/etc/relayd/deploy"
#passphrase-file = "/etc/relayd/deploy.passphrase"
#certificate-file = "/etc/relayd/deploy-cert.pub"
#via = "jump@bastion.example.com:2222"

# A password, for every user of a host.
#[[credentials]]
#hosts = ["legacy.internal"]
#password-file = "/etc/relayd/legacy.password"

# The keys of an ssh-agent.
#[[credentials]]
#hosts = ["192.168.7.0/24"]
#agent = "/run/relayd-agent.socket"

# Single hosts --------------------------------------------------------------------------------------

# What is different with some hosts. For each setting, the first table that covers the host and the user and says
# something wins; where none does, the option above applies. relayctl hosts explain HOST --user USER shows what applies.

# Old switches: they know SHA-1 alone, have no shell, allow one command per connection and never report an exit status.
#[[hosts]]
#name = "old switches"
#hosts = ["sw-*.internal", "10.7.0.0/16"]
#ssh-algorithms = "legacy"
#shell = "none"
#pty = true
#max-sessions = 1
#max-connections = 2
#commands-per-connection = 1
#no-exit-status = 0
#connect-timeout = "30s"
#keepalive-interval = "1m"

# Network devices: a command's lines are typed at their command line, in its privileged mode.
#[[hosts]]
#hosts = ["router-*.internal"]
#shell = "device"
#family = "cisco"
#become = "enable"
#become-password-file = "/etc/relayd/enable-secret"

# Hosts on which one user's commands run as another one, in its own directory.
#[[hosts]]
#hosts = ["app-*.internal"]
#users = ["deploy"]
#become = "sudo"
#become-user = "app"
#become-password-file = "/etc/relayd/deploy.sudo"
#working-directory = "/srv/app"
#output-encoding = "gbk"

# The way to some hosts, and how to log in there, as in [[credentials]]; these come first. Their keys must be known.
#[[hosts]]
#hosts = ["*.lab"]
#host-keys = "strict"
#key-file = "/etc/relayd/lab"
#via = "jump@bastion.lab"
"""


def example() -> str:
    """The file of options that the package installs: nothing is set in it."""
    return "\n".join(_example_lines(_EXAMPLE_HEAD, RELAY_TABLE)) + _EXAMPLE_END


def hub_example() -> str:
    """The same for the hub."""
    return "\n".join(_example_lines(_HUB_EXAMPLE_HEAD, HUB_TABLE)) + "\n"


def _example_lines(head: str, table: OptionTable) -> list[str]:
    lines = [head]
    for section, options in sections(table):
        lines += ["", f"# {section} ".ljust(100, "-")]
        for option in options:
            if option.name == "config":
                continue
            text = option.help + (f" [{option.default_help}]" if option.default_help else "")
            value = option.parse(option.example or option.default or "")
            lines += ["", *textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)]
            lines.append(f"#{option.name} = {toml_literal(option, value)}")
    return lines
