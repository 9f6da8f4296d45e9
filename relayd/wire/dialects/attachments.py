"""
A binary event of Socket.IO: its packet names places, and binary messages that follow bring the bytes that belong there.

Source: the Socket.IO protocol document, "Sending binary data"; a place is ``{"_placeholder": true, "num": 0}``.
"""

from __future__ import annotations

from typing import Any, Final

from relayd.language.texts import Text
from relayd.wire.messages import Unsent

#: Attachments of one event that are taken; python-socketio would wait for 999,999,999.
MAX_ATTACHMENTS: Final = 64
#: Bytes of all of them together that are taken: as much as one message may have.
MAX_BYTES: Final = 8 * 2**20

_TOO_MANY: Final = Text("came with an event of more than {most} binary attachments", most=MAX_ATTACHMENTS)
_TOO_LARGE: Final = Text("came with an event whose binary attachments have more than {most} MiB", most=MAX_BYTES >> 20)
_MISSING: Final = Text("came without the binary attachment that it names")


class Attachments:
    """
    Those of one event.

    :param packet: the event's packet, whose data is completed in place.
    :param count: how many it announces.
    :ivar missing: how many have not come yet.
    """

    def __init__(self, packet: Any, count: int) -> None:
        self.packet = packet
        self.missing = count
        self._parts: list[bytes] = []
        self._room = MAX_BYTES
        self._fault: Text | None = _TOO_MANY if count > MAX_ATTACHMENTS else None

    @property
    def hopeless(self) -> bool:
        """Whether nothing that may come can complete it."""
        return self._fault is not None

    @property
    def size(self) -> int:
        """Bytes that have come for it."""
        return MAX_BYTES - self._room

    def add(self, data: bytes) -> None:
        """The next one has come."""
        self.missing -= 1
        self._room -= len(data)
        if self._room < 0:
            self._fault = _TOO_LARGE
            self._parts.clear()
        if self._fault is None:
            self._parts.append(data)

    def complete(self) -> None:
        """
        Put what came into its places, and into those for which nothing came what says so.

        Without recursion: how deep they are is for the sender to choose.
        """
        waiting: list[Any] = [self.packet.data]
        while waiting:
            within = waiting.pop()
            for key, value in within.items() if isinstance(within, dict) else enumerate(within):
                if isinstance(value, dict) and value.get("_placeholder") is True:
                    within[key] = self._part(value.get("num"))
                elif isinstance(value, (dict, list)):
                    waiting.append(value)
        self._parts.clear()

    def _part(self, number: object) -> bytes | Unsent:
        if self._fault is not None:
            return Unsent(self._fault)
        if type(number) is int and 0 <= number < len(self._parts):
            return self._parts[number]
        return Unsent(_MISSING)
