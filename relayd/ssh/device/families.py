"""
What tells the command lines of network devices apart: prompts, pages, privileges, and what a refused line looks like.

Only data, and what a prompt becomes once it is known. Source: the vendors' command references.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from relayd.network.host_rules import Family as FamilyName

#: A question that a device asks in place of its prompt: ``[confirm]``, ``[Y/N]:``, ``(yes/no)?``.
QUESTION: Final = re.compile(
    rb"(?i)(\[confirm\]|[\[(](y(es)?|n(o)?)[/|](y(es)?|n(o)?)([/|][a-z?]+)*[\])]( ?\(default \S+\))?)\s*[:?]?\s*$"
)
#: Any other line that waits for an answer. It is only taken for one when nothing follows for a while.
OPEN_LINE: Final = re.compile(rb"[:?]\s*$")
#: A prompt for a password.
PASSWORD: Final = re.compile(rb"(?i)pass(word|code|phrase)[^:]{0,40}:\s*$")
#: What stands below a page of output while the device waits for a key: ``--More--``, ``---- More ----``.
PAGE: Final = re.compile(
    rb"(?i)^\s*(<?-{2,}\s*\(?more\b[^\r\n]*|-- \[Q quit.*|\(q\)uit.*|press any key to continue.*)\s*$"
)
#: The last character of a prompt.
_MARKS: Final = b">#$%]"


class Family(Struct, frozen=True, kw_only=True):
    """
    How one family of devices talks.

    :ivar first: lines that switch pages off and make lines long; what is said to them does not matter.
    :ivar privilege: the line that asks for the privileged mode; empty: there is none.
    :ivar privileged: the last character of the prompt in that mode; empty: the prompt does not show it.
    :ivar refused: begins a line by which the device says that it did not do what it was told.
    :ivar prompt: the form of the prompt, with the part that stays the same in each mode as its group ``name``.
    """

    first: tuple[bytes, ...] = ()
    privilege: bytes = b""
    privileged: bytes = b""
    refused: re.Pattern[bytes]
    prompt: re.Pattern[bytes]


def _lines(*starts: str) -> re.Pattern[bytes]:
    return re.compile(rf"^(?:{'|'.join(starts)})".encode())


_CISCO_REFUSED: Final = (
    r"% ?(?:Invalid|Incomplete|Ambiguous|Unrecognized|Unknown|Wrong|Too many|Bad|Error|Permission|Access|"
    r"Authorization|Not authorized|Cannot|Command)",
)
_HUAWEI_REFUSED: Final = (r"\s*Error ?:",)
_PLAIN_PROMPT: Final = re.compile(rb"^(?P<name>[^\s()<>\[\]#$%]{1,80})(?:\([^()\r\n]{1,60}\))?[>#]\s?$")
_BRACKETS: Final = re.compile(rb"^[<\[][~*]?(?P<name>[^\s<>\[\]]{1,80}?)(?:-[^<>\[\]\r\n]{1,80})?[>\]]\s?$")

FAMILIES: Final[dict[FamilyName, Family]] = {
    "cisco": Family(
        first=(b"terminal length 0", b"terminal width 511"),
        privilege=b"enable",
        privileged=b"#",
        refused=_lines(*_CISCO_REFUSED, r"% ?[A-Z][^\r\n]{0,80}(?:invalid|not allowed|failed)"),
        prompt=_PLAIN_PROMPT,
    ),
    "huawei": Family(
        first=(b"screen-length 0 temporary",),
        privilege=b"super",
        refused=_lines(*_HUAWEI_REFUSED),
        prompt=_BRACKETS,
    ),
    "h3c": Family(
        first=(b"screen-length disable",),
        privilege=b"super",
        refused=_lines(*_CISCO_REFUSED, *_HUAWEI_REFUSED),
        prompt=_BRACKETS,
    ),
    "juniper": Family(
        first=(b"set cli screen-length 0", b"set cli screen-width 511"),
        refused=_lines(r"error:", r"\s*syntax error\b", r"unknown command\b", r"\s*\^?\s*missing argument\b"),
        prompt=re.compile(rb"^(?P<name>[^\s@<>#$%]{1,64}@[^\s<>#$%]{1,80})[>#%]\s?$"),
    ),
    "mikrotik": Family(
        refused=_lines(
            r"bad command name\b", r"syntax error\b", r"expected \S", r"no such (?:item|command)\b", r"failure:",
            r"input does not match\b", r"ambiguous (?:value|command)\b", r"invalid (?:value|internal)\b",
            r"not enough permissions\b",
        ),
        prompt=re.compile(rb"^\[(?P<name>[^\s@\]]{1,64}@[^\]\r\n]{1,80})\] (?:/[^>\r\n]{0,80})?(?:<SAFE>)?> ?$"),
    ),
    "generic": Family(
        refused=_lines(*_CISCO_REFUSED, *_HUAWEI_REFUSED, r"(?i:error|syntax error|unknown command|invalid command)\b"),
        prompt=re.compile(rb"^(?P<name>[^\r\n]{1,120}?)[>#$%\]]\s?$"),
    ),
}  # fmt: skip


def could_be_prompt(line: bytes, family: Family) -> bool:
    """Whether the last line of the output, without an end of line, has the form of a prompt."""
    line = line.rstrip()
    return line[-1:] in _MARKS and QUESTION.search(line) is None and _read(line, family) is not None


def _read(line: bytes, family: Family) -> re.Match[bytes] | None:
    """A prompt of the family, or of the plain form that most others have."""
    return family.prompt.match(line) or _PLAIN_PROMPT.match(line)


class Prompt:
    """
    The prompt of one device, as it was learned.

    :param line: what stood there, twice.
    """

    def __init__(self, line: bytes, family: Family) -> None:
        found = _read(line.rstrip(), family)
        assert found is not None  # `could_be_prompt`
        self.line = line.rstrip()
        self._name = found["name"]
        self._family = family

    def matches(self, line: bytes) -> bool:
        """Whether a line is this prompt, in whatever mode the device is."""
        line = line.rstrip()
        if line == self.line:
            return True
        found = _read(line, self._family)
        return found is not None and found["name"] == self._name and QUESTION.search(line) is None

    def is_base(self, line: bytes) -> bool:
        """Whether the device is in the mode that it began with."""
        return line.rstrip() == self.line
