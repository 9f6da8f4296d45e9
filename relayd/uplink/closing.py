"""
The codes in a WebSocket's close frame (RFC 6455, section 7.4, and the IANA registry), and what each of them means.
"""

from __future__ import annotations

from typing import Final

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
TOO_BIG: Final = 1009

#: With these the main server leaves, or has no room for now: nothing that was sent is to blame.
LEAVING: Final = frozenset({GOING_AWAY, 1012, 1013})

#: These say nothing about the key, whenever they come.
_FAILURES: Final = {
    GOING_AWAY: "it goes away",
    PROTOCOL_ERROR: "it saw a protocol error",
    1003: "it does not take data of this kind",
    1007: "it could not read a message",
    TOO_BIG: "a message is too large for it",
    1010: "it requires an extension",
    1011: "something failed there",
    1012: "it restarts",
    1013: "it has no room for now",
    1014: "a gateway in front of it got no valid answer",
    3008: "something took too long for it",
}


def refuses(code: int | None) -> bool:
    """Whether a close frame with *code* can mean that the main server turns the relay away."""
    return code not in _FAILURES


def words_of(code: int | None, reason: str) -> str:
    """
    How the main server closed the WebSocket, for an error.

    :param reason: from the close frame, fit to be shown.
    """
    words = "it closed the WebSocket"
    if code:
        words += f" with code {code}"
        if meaning := _FAILURES.get(code):
            words += f" ({meaning})"
    return words + (f": {reason}" if reason else "")
