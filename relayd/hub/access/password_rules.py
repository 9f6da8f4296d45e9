"""
Which passwords are accepted: long ones that are not easily guessed, without rules about kinds of characters
(NIST SP 800-63B, section 5.1.1; OWASP ASVS 4.0.3, V2.1).  No I/O, but that the list of common ones is read once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Final

from relayd.hub.access.errors import WeakPassword
from relayd.language.texts import Text
from relayd.wire.secret import Secret

#: Characters of a password. More than the most would only cost memory; a shorter beginning is never taken instead.
LEAST: Final = 12
MOST: Final = 128
#: Characters that a password has besides a word that is easily guessed, and different ones among all its characters.
LEAST_OTHERS: Final = 8
LEAST_DIFFERENT: Final = 5
#: Words that are easily guessed here, besides the name of the user.
_OUR_WORDS: Final = ("relayd", "relay", "hub")
#: Rows of keys, and the alphabet, that fingers run along.
_ROWS: Final = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertz", "azerty")
#: Characters of the shortest such run, and of what is left when only the first of each run stays.
_LEAST_RUN: Final = 4
_LEAST_WITHOUT_RUNS: Final = 5
#: Characters of the shortest name that is looked for in a password.
_LEAST_NAME: Final = 3


def normalized(password: Secret) -> str:
    """The password as it is hashed: in Unicode's form NFKC, so that it is the same from every keyboard."""
    return unicodedata.normalize("NFKC", password.reveal())


def is_possible(password: Secret) -> bool:
    """Whether it can be anybody's password at all, by its length: the others need not be hashed to be wrong."""
    return 0 < len(password) <= MOST and len(normalized(password)) <= MOST


def check_password(password: Secret, user: str) -> None:
    """
    Check a new password of *user*.

    :raises WeakPassword: it says what is wrong, and quotes nothing of it.
    """
    text = normalized(password)
    reason = _wrong_length(len(password), text) or _easily_guessed(text.casefold(), user.casefold())
    if reason is not None:
        raise WeakPassword(reason=reason)


def _wrong_length(typed: int, text: str) -> Text | None:
    if max(typed, len(text)) > MOST:
        return Text("it has more than {most} characters", most=MOST)
    if any(not char.isprintable() for char in text):
        return Text("it has characters that cannot be printed, such as a line break")
    if len(re.sub(r"\s+", " ", text.strip())) < LEAST:
        return Text("it has fewer than {least} characters; several words together are easily remembered", least=LEAST)
    return None


def _easily_guessed(text: str, user: str) -> Text | None:
    if len(set(text)) < LEAST_DIFFERENT:
        return Text("it has fewer than {least} different characters", least=LEAST_DIFFERENT)
    common = _common()
    if text in common:
        return Text("it is one of the most common passwords")
    if len(_without(text, _names(user))) < LEAST_OTHERS:
        return Text("it is little more than the name of the user")
    if len(_without(text, _OUR_WORDS)) < LEAST_OTHERS:
        return Text("it is little more than the name of this program")
    if len(_without_runs(text)) < _LEAST_WITHOUT_RUNS:
        return Text("it is little more than keys in a row")
    words = {word for word in re.findall(r"[a-z]{5,}", text) if _unit(word) in common}
    if words and len(_without(text, [_unit(word) for word in words])) < LEAST_OTHERS:
        return Text("it is little more than a common password")
    return None


def _names(user: str) -> list[str]:
    """What stands for a user: ``alice.smith`` and its parts ``alice`` and ``smith``."""
    return [part for part in (user, *re.split(r"[._@-]", user)) if len(part) >= _LEAST_NAME]


def _without(text: str, words: Iterable[str]) -> str:
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "")
    return text


def _unit(word: str) -> str:
    """``pass`` of ``passpass``: what a word repeats."""
    return word[: (word + word).find(word, 1)]


def _without_runs(text: str) -> str:
    """*text* without parts that run along a row of keys, in either direction; the first character of each stays."""
    kept, at = "", 0
    while at < len(text):
        length = max(_run(text, at, row) for row in (*_ROWS, *(row[::-1] for row in _ROWS)))
        kept += text[at]
        at += length if length >= _LEAST_RUN else 1
    return kept


def _run(text: str, at: int, row: str) -> int:
    length = 1
    while at + length < len(text) and text[at : at + length + 1] in row:
        length += 1
    return length


@cache
def _common() -> frozenset[str]:
    text = (files("relayd.hub.access") / "common-passwords.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))
