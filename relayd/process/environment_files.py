"""
Files of variables in the format of systemd's ``EnvironmentFile`` (systemd.exec(5)).
"""

from __future__ import annotations

import re
from typing import Final

#: A comment, or an assignment: quoted parts, and then one without quotes. A backslash takes a line break with it, and
#: quotes hold some.
_STATEMENT: Final = re.compile(
    r"""^[^\S\n]* (?: [\#;] (?:\\.|[^\\\n])*
      | (?P<name>[^=\s\#;][^=\n]*) = (?P<quoted> (?: \s*? (?: '[^']*(?:'|\Z) | "(?:\\.|[^"\\])*(?:"|\Z) ) )* )
        [^\S\n]* (?P<bare> (?:\\.|[^\\\n])* ) )""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_QUOTED: Final = re.compile(r"""'([^']*)(?:'|\Z)|"((?:\\.|[^"\\])*)(?:"|\Z)""", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def variables_in(text: str) -> dict[str, str]:
    """The variables that a file sets. Lines that set none, and all after a NUL, are left out, as systemd does."""
    found = {}
    for statement in _STATEMENT.finditer(text.partition("\0")[0]):
        name = (statement["name"] or "").rstrip()
        if not _NAME.fullmatch(name):
            continue
        parts = [
            single if single is not None else _unescape(double, r'["\\`$]', keep=True)
            for single, double in (match.groups() for match in _QUOTED.finditer(statement["quoted"]))
        ]
        found[name] = "".join(parts) + _unescape(statement["bare"].rstrip(), ".", keep=False)
    return found


def _unescape(text: str, escaped: str, *, keep: bool) -> str:
    """*text* without the backslashes before *escaped*, and without escaped line breaks; others are kept or go, too."""

    def plain(match: re.Match[str]) -> str:
        char = match[1]
        if char == "\n":
            return ""
        return f"\\{char}" if keep and not re.fullmatch(escaped, char) else char

    return re.sub(r"\\(.)", plain, text, flags=re.DOTALL)
