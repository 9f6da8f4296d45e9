"""
Learns how large a message the main server takes, where it names no limit or a wrong one, from what it does with large
ones.

Some servers say that a message was too large (RFC 6455, section 7.4.1: close code 1009), and often how large one may
be.  Others just drop the connection, which may have another cause: that has to happen twice.  A limit that was learned
expires, and is learned again: servers are configured anew, and a guess may be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relayd.uplink.closing import TOO_BIG
from relayd.wire.dialects.codec import NO_LIMIT

_log = Logger("relayd.uplink")

#: Bytes of a message from which on a ping asks whether it was read.
LARGE: Final = 2_000
#: Limits to try, one after the other, in bytes: a little less than the usual limits of servers.
RUNGS: Final = (1_000_000, 125_000, 64_000, 16_000, 4_000, 2_000, 1_000)
#: The smallest of them to try when the main server did not say that a message was too large: no server is known to
#: have a default limit below 8 KiB.
LEAST_GUESS: Final = 4_000
#: Connections that have to be lost with a large message under way before its size is suspected.
GUESS_AFTER: Final = 2
#: Seconds for which a large message can be the cause of a loss, while it is not known to be read.
BLAME_FOR: Final = 30.0
#: Seconds for which a guess counts, doubled each time that it is made again; and for which the server's word counts.
GUESS_FOR: Final = 3600.0
BELIEVE_FOR: Final = 86_400.0

#: A number, with or without a unit, in what a main server says when it closes a connection. Some languages have no
#: spaces around numbers, and some group digits with other characters.
_NUMBER: Final = re.compile(
    r"(?<![0-9A-Za-z_.])(?P<number>\d{1,3}(?:[,_'.\u00a0\u202f]\d{3})+|\d{1,12}(?:\.\d{1,2})?)"
    r"\s?(?P<unit>(?:[KM]i?|kilo|mega)?(?:B|bytes?|octets?)|[KM]i?)?(?![0-9A-Za-z_])",
    re.IGNORECASE,
)
#: Words that make a number the limit, shortly before it and without another number between.
_LIMIT: Final = re.compile(
    r"(?:limit|max|exceed|larger|greater|more than|longer|over|at most|up to|allow|>|最大|上限|限制|超过|超過)"
    r"\D{0,40}\Z",
    re.IGNORECASE,
)
#: Words after a number that make it a number of something else.
_OF_OTHERS: Final = re.compile(
    r"\s?(?:m?s\b|sec|min|hour|day|messages|frames|requests|connections|%|:\d)", re.IGNORECASE
)
_UNITS: Final = {"": 1, "k": 1000, "m": 1_000_000, "ki": 1024, "mi": 1 << 20}
#: The smallest number that can be a limit: not even a result without output fits into less.
_LEAST_NAMED: Final = 512
#: What servers say with other codes than 1009.
_TOO_BIG_WORDS: Final = re.compile(
    r"(?<![a-z])too[ _-]?(?:big|large|long)(?![a-z])"
    r"|\b(?:size|length)\b.{0,40}\bexceed|\bexceed.{0,40}\b(?:size|length)\b",
    re.IGNORECASE,
)


def says_too_big(code: int | None, reason: str, size: int) -> bool:
    """
    Whether the main server closes the connection because a message was too large.

    :param code: of its close frame. Where that is another one, the words of *reason* may say it.
    :param size: bytes in the largest message that it can mean; then a small one is not meant.
    """
    return code == TOO_BIG or (size > LARGE and _TOO_BIG_WORDS.search(reason) is not None)


def named_limit(reason: str, size: int, read: int = 0) -> int | None:
    """
    The limit in *reason*, given when a message of *size* bytes was too large; a little less, to be safe.

    Words differ from server to server. The numbers in them are the limit, the size, how much was read, and others, such
    as a port or a date. A number that nothing ties to the limit is not believed: it would cost much of the results.

    :param read: bytes of a message that the main server has read recently: the limit is not below that.
    """
    limits, with_unit = [], []
    for found in _NUMBER.finditer(reason):
        number = _bytes(found["number"], found["unit"] or "")
        if not max(_LEAST_NAMED, read) <= number <= size or number == TOO_BIG or _OF_OTHERS.match(reason, found.end()):
            continue
        if _LIMIT.search(reason, 0, found.start()):
            limits.append(number)
        elif found["unit"]:
            with_unit.append(number)
    numbers = limits or with_unit
    return None if not numbers else min(numbers) - max(16, min(numbers) // 100)


def _bytes(number: str, unit: str) -> int:
    factor = _UNITS[re.sub(r"(?:b|bytes?|octets?)$", "", unit.lower()).replace("kilo", "k").replace("mega", "m")]
    if re.fullmatch(r"\d+\.\d{1,2}", number):
        return int(float(number) * factor)
    return int(re.sub(r"\D", "", number)) * factor


class MessageLimit:
    """
    What is known of the largest message of one main server in one dialect, from all connections to it.

    :param server: the main server's name in the log.
    """

    def __init__(self, clock: IReactorTime, server: str) -> None:
        self._clock = clock
        self._server = server
        self._limit: int | None = None
        self._said = False
        self._until = 0.0
        self._guess_for = GUESS_FOR
        self._losses = 0
        #: Bytes of the largest message that it has read, and until when that counts; and until when not to guess.
        self._read = 0
        self._read_until = 0.0
        self._no_guess_until = 0.0

    @property
    def bytes(self) -> int:
        """The bytes that a message may have; a huge number where no limit is known."""
        if self._limit is None:
            return NO_LIMIT
        if self._clock.seconds() >= self._until:
            _log.info("Trying messages of more than {limit} bytes again", limit=self._limit)
            self._limit = None
            return NO_LIMIT
        return self._limit

    def too_big(self, size: int, reason: str) -> bool:
        """
        The main server closed the connection because a message was too large.

        :param size: bytes in the largest message that it can mean.
        :param reason: its words.
        :return: whether messages are smaller from now on.
        """
        # If the message itself counts as read, a library answered the ping before the application looked at it.
        read = self._read if self._clock.seconds() < self._read_until and self._read < size else 0
        limit = named_limit(reason, size, read) or _rung_below(size)
        self._read = 0
        if limit is None:
            return False
        self._learn(limit, said=True)
        return True

    def connection_lost(self, size: int) -> bool:
        """
        The connection was lost, and the main server did not say that a message was too large.

        :param size: as in `too_big`; 0 where no message can be the cause.
        :return: whether messages are smaller from now on.
        """
        now = self._clock.seconds()
        if 0 < size <= LEAST_GUESS and self._limit is not None and not self._said and self._losses:
            # A small message has not helped: the size was not the cause.
            _log.info("Smaller messages did not help: dropping the limit of {limit} bytes", limit=self._limit)
            self._limit, self._losses = None, 0
            self._no_guess_until = now + self._guess_for
        if size <= LEAST_GUESS or now < self._no_guess_until or (size <= self._read and now < self._read_until):
            return False
        self._losses += 1
        limit = _rung_below(size)
        if self._losses < GUESS_AFTER or limit is None:
            return False
        self._learn(limit, said=False)
        return True

    def was_read(self, size: int) -> None:
        """The main server has read a message of *size* bytes."""
        now = self._clock.seconds()
        self._losses = 0
        self._read = size if now >= self._read_until else max(self._read, size)
        self._read_until = now + GUESS_FOR

    def _learn(self, limit: int, *, said: bool) -> None:
        now = self._clock.seconds()
        if said:
            self._until = now + BELIEVE_FOR
        else:
            self._until = now + self._guess_for
            if self._losses <= GUESS_AFTER:  # the first guess, and not one more step down
                self._guess_for = min(BELIEVE_FOR, 2 * self._guess_for)
        self._limit, self._said = limit, said
        _log.warn(
            "The main server {server} {what}: messages are cut to {limit} bytes for the next {hours:g} hours. Results "
            "lose the middle of their output then: raise the limit there, or see --max-output",
            server=self._server,
            what="says that a message was too large" if said else "drops the connection when a large message comes",
            limit=limit,
            hours=round((self._until - now) / 3600, 1),
        )


class UnderWay:
    """
    The sizes of the messages of one connection that the main server is not known to have read.

    :param ping: sends a ping behind everything so far; its Deferred fires when the answer comes, which may be never.
    """

    def __init__(self, clock: IReactorTime, limit: MessageLimit, ping: Callable[[], Deferred[None]]) -> None:
        self._clock = clock
        self._limit = limit
        self._ping = ping
        #: Bytes of the largest message before the ping that is under way, and of the largest one after it.
        self._asked = 0
        self._later = 0
        #: Bytes of the largest message that was sent recently, read or not, and when the latest large one was sent.
        self._recent = 0
        self._sent = -inf

    def message_sent(self, size: int) -> None:
        """A message of *size* bytes was sent."""
        if size > self._later:
            self._later = size
        if size > LARGE:
            now = self._clock.seconds()
            self._recent = max(size, self._recent) if now < self._sent + BLAME_FOR else size
            self._sent = now
            if not self._asked:
                self._ask()

    def largest(self) -> int:
        """Bytes of the largest of them."""
        return max(self._asked, self._later)

    def largest_meant(self) -> int:
        """
        Bytes of the largest message that the main server can mean when it says that one was too large. That includes
        recent ones that seem to have been read: libraries answer pings before the application looks at messages.
        """
        return max(self.largest(), self._recent if self._clock.seconds() < self._sent + BLAME_FOR else 0)

    def suspect(self, *, unsent: bool) -> int:
        """
        Bytes of the largest message that can be the cause of a loss; 0 where none can.

        :param unsent: whether some of what was sent has not left yet.
        """
        return self.largest() if unsent or self._clock.seconds() < self._sent + BLAME_FOR else 0

    def _ask(self) -> None:
        self._asked, self._later = self._later, 0
        self._ping().addCallback(self._answered)

    def _answered(self, _: None) -> None:
        size, self._asked = self._asked, 0
        self._limit.was_read(size)
        if self._later > LARGE:
            self._ask()


def _rung_below(size: int) -> int | None:
    return next((rung for rung in RUNGS if rung < size), None)
