"""
Tells the service manager how the relay is, by systemd's protocol (sd_notify(3)): ready, what it does, stopping; and
that its event loop turns.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from msgspec import Struct
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

#: Seconds between two looks at how things stand.
INTERVAL: Final = 1.0
#: Seconds that a stop may take beyond the drain timeout: the uplink takes its leave, connections and journal close.
CLOSING: Final = 30.0


class Standing(Struct, frozen=True, kw_only=True):
    """
    How things stand with a relay.

    :ivar server: the main server, as people call it.
    :ivar accepted: whether the main server has accepted the relay, and their connection lives.
    :ivar since: when that came to be so, in seconds of the reactor's clock.
    :ivar last_error: why there is no connection, if one was tried.
    :ivar running: commands that run now.
    """

    server: str
    accepted: bool
    since: float
    last_error: str | None
    running: int


class Notifier(Service):
    """
    Follows how things stand with a relay, and tells the service manager what has changed.

    It is *ready* when the main server accepts it for the first time, and stays so; the status, which people read, tells
    of every loss.  What could not be sent is sent with the next look.

    :param clock: the reactor's: the watchdog is fed from the event loop, so that it bites when that hangs.
    :param send: sends one message; raises ``OSError`` when it cannot.
    :param standing: how things stand now.
    :param drain_timeout: seconds that commands have to finish when the relay stops.
    :param watchdog: seconds within which the service manager wants a sign of life, if it does.
    :param time_of_day: seconds since 1970, for people.
    """

    _log = Logger("relayd.process")

    def __init__(
        self,
        clock: IReactorTime,
        send: Callable[[str], None],
        standing: Callable[[], Standing],
        drain_timeout: Callable[[], float],
        watchdog: float | None = None,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._send = send
        self._standing = standing
        self._drain_timeout = drain_timeout
        self._time_of_day = time_of_day
        self._ready = False
        self._stopping = False
        self._failed = False
        #: What was told last.
        self._status: str | None = None
        #: Since when the relay is accepted: by the reactor's clock, and for people.
        self._since = (0.0, "")
        self._beats = [(LoopingCall(self._look), INTERVAL)]
        if watchdog is not None:
            self._beats.append((LoopingCall(self._tell, "WATCHDOG=1"), watchdog / 2))

    def startService(self) -> None:
        """Begin."""
        super().startService()
        for beat, seconds in self._beats:
            beat.clock = self._clock
            beat.start(seconds)

    def stopService(self) -> None:
        """End: the process is about to."""
        super().stopService()
        for beat, _ in self._beats:
            if beat.running:
                beat.stop()

    def stopping(self) -> None:
        """The relay begins to drain; the service manager is asked for the time that this may take."""
        self._stopping = True
        microseconds = round((self._drain_timeout() + CLOSING) * 1_000_000)
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={microseconds}")
        self._look()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """The relay reads its settings anew meanwhile.  Before it was ready, this would make it look so."""
        if not self._ready:
            yield
            return
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._tell("READY=1")

    def _look(self) -> None:
        standing = self._standing()
        if standing.accepted and not self._ready and not self._stopping:
            self._ready = self._tell("READY=1")
        status = self._describe(standing)
        if status != self._status and self._tell(f"STATUS={_one_line(status)}"):
            self._status = status

    def _describe(self, standing: Standing) -> str:
        count = standing.running
        running = f"{count} {'command runs' if count == 1 else 'commands run'}"
        if self._stopping:
            return f"stopping: {running}"
        if standing.accepted:
            if self._since[0] != standing.since:
                began = self._time_of_day() - (self._clock.seconds() - standing.since)
                self._since = (standing.since, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)))
            return f"accepted by {standing.server} since {self._since[1]}; {running}"
        if standing.last_error is None:
            return f"connecting to {standing.server}; {running}"
        return f"not connected to {standing.server}, will try again; {running}; {standing.last_error}"

    def _tell(self, message: str) -> bool:
        try:
            self._send(message)
        except OSError as error:
            if not self._failed:
                self._log.warn("The service manager cannot be told how things stand: {error}", error=error.strerror)
            self._failed = True
            return False
        self._failed = False
        return True


def make_notifier(
    environ: Mapping[str, str],
    clock: IReactorTime,
    standing: Callable[[], Standing],
    drain_timeout: Callable[[], float],
) -> Notifier | None:
    """
    The notifier that the service manager asks for in *environ*, if it does.

    To be called in the process that will run: a daemon's is another than that which was started.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    watchdog = None
    if environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
        text = environ.get("WATCHDOG_USEC", "")
        watchdog = int(text) / 1_000_000 if text.isascii() and text.isdigit() and int(text) else None
    return Notifier(clock, sender(address), standing, drain_timeout, watchdog)


def sender(address: str) -> Callable[[str], None]:
    """
    What sends messages to a service manager, and never waits.

    :param address: of its datagram socket; ``@`` begins the name of an abstract one.
    """
    to = b"\0" + os.fsencode(address[1:]) if address.startswith("@") else os.fsencode(address)
    # Open from now on: when the process has no more descriptors, the watchdog is fed all the same.
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.setblocking(False)

    def send(message: str) -> None:
        channel.sendto(message.encode(), to)

    return send


def _one_line(text: str) -> str:
    """Fit for a message, in which each line is a word of command: a main server's text must not bring any."""
    return "".join(char if char.isprintable() else " " for char in text)[:400]
