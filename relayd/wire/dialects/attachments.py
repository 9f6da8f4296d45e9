"""
Binary events of Socket.IO: the packet names places, and the binary messages after it bring the bytes for them.

Source: the Socket.IO protocol document, "Sending binary data"; a place is ``{"_placeholder": true, "num": 0}``.
"""

from __future__ import annotations

from typing import Any, Final

from relayd.errors import ProtocolError
from relayd.language.texts import Text
from relayd.wire.unsent import Unsent

#: Attachments that one event may have.
MAX_ATTACHMENTS: Final = 64
#: Bytes that all of them together may have: as many as one message.
MAX_BYTES: Final = 8 * 2**20
#: The most attachments that are waited for, to be dropped.
_MOST_ANNOUNCED: Final = 10**9

_TOO_MANY: Final = Text("came with an event of more than {most} binary attachments", most=MAX_ATTACHMENTS)
_TOO_LARGE: Final = Text("came with an event whose binary attachments have more than {most} MiB", most=MAX_BYTES >> 20)
_MISSING: Final = Text("came without the binary attachment that it names")


class Attachments:
    """
    The attachments of one event.

    :param packet: the event's packet, whose data is completed in place.
    :param count: how many attachments it announces.
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
        """Whether the event breaks a limit: nothing that is still to come can complete it."""
        return self._fault is not None

    @property
    def size(self) -> int:
        """Bytes that have come so far."""
        return MAX_BYTES - self._room

    def add_part(self, data: bytes) -> None:
        """Take the next attachment, in the order of their numbers."""
        self.missing -= 1
        self._room -= len(data)
        if self._room < 0:
            self._fault = _TOO_LARGE
            self._parts.clear()
        if self._fault is None:
            self._parts.append(data)

    def fill_places(self) -> None:
        """
        Put each attachment into its place in the packet, and `Unsent` into the places of those that did not come.

        It does not recurse: the sender chooses how deep the places are.
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


class BinaryEvents:
    """
    The binary events of one session: the one whose attachments are still to come, and attachments that are dropped.

    :ivar incomplete: that event; ``None`` while there is none.
    :ivar number: its number, see `relayd.interfaces.AttachmentsDue`.
    """

    def __init__(self) -> None:
        self.incomplete: Attachments | None = None
        self.number = -1
        #: How many of the binary messages to come are dropped.
        self._unwanted = 0

    def announce(self, count: int) -> bool:
        """
        A packet announces *count* attachments. They are dropped, unless `begin` follows.

        :return: whether attachments of an earlier packet are still to come: those of two packets look the same.
        """
        late, self._unwanted = self._unwanted, min(self._unwanted + count, _MOST_ANNOUNCED)
        return late > 0

    def begin(self, attachments: Attachments) -> None:
        """Wait for *attachments*, which have just been announced."""
        self._unwanted = 0
        self.incomplete = attachments
        self.number += 1

    def drop_part(self) -> None:
        """
        Drop a binary message that belongs to no event.

        :raises ProtocolError: when no packet has announced it.
        """
        if not self._unwanted:
            raise ProtocolError(reason="a binary message that no packet announced")
        self._unwanted -= 1

    def finish(self, attachments: Attachments) -> Any:
        """
        Complete *attachments* with what has come; what is still to come is dropped.

        :return: the event's packet.
        """
        self.incomplete = None
        self._unwanted = attachments.missing
        attachments.fill_places()
        return attachments.packet
