"""
What a server says, made fit for a message or a log line.
"""

from __future__ import annotations


def printable(text: bytes, limit: int = 200) -> str:
    """At most *limit* bytes of *text*, with ``?`` for what does not print."""
    return "".join(char if char.isprintable() else "?" for char in text[:limit].decode("utf-8", "replace"))


def last_lines(text: bytes, lines: int = 4, limit: int = 300) -> str:
    """The last *lines* lines of *text* that show something, as one of at most *limit* characters, fit to be shown."""
    shown = [printable(b" ".join(line.split()), len(line)) for line in text.splitlines()]
    words = " / ".join([line for line in shown if line][-lines:])
    return words if len(words) <= limit else f"…{words[1 - limit :]}"
