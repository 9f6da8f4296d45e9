"""
Notifies the service manager by systemd's protocol (sd_notify(3)): ready, status, stopping; and, for its watchdog, that
the event loop runs.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from msgspec import Struct
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

_log = Logger("relayd.process")

#: Seconds between two looks at the status.
INTERVAL: Final = 1.0
#: Seconds that a stop may take beyond the drain timeout: the uplink says goodbye, connections and journal close.
CLOSING: Final = 30.0


class Standing(Struct, frozen=True, kw_only=True):
    """
    The status of a relay, as far as it is reported to the service manager.

    :ivar server: host and port of the main server.
    :ivar accepted: whether the relay is connected and accepted.
    :ivar since: since when that is so, in seconds of the reactor's clock.
    :ivar last_error: why the last attempt to connect failed; ``None``: none failed yet.
    :ivar running: the number of commands that run.
    :ivar undelivered: the number of results that the main server has not confirmed.
    """

    server: str
    accepted: bool
    since: float
    last_error: str | None
    running: int
    undelivered: int = 0


class Condition(NamedTuple):
    """
    What is reported of any service.

    :ivar ready: whether it does its work now.
    :ivar status: one line for people.
    """

    ready: bool
    status: str


class RelayCondition:
    """
    The `Condition` of a relay; called with whether it is stopping.

    :param clock: the reactor's.
    :param standing: returns the status.
    :param time_of_day: returns seconds since 1970, for times that people read.
    """

    def __init__(
        self, clock: IReactorTime, standing: Callable[[], Standing], time_of_day: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._standing = standing
        self._time_of_day = time_of_day
        #: Since when the relay is accepted: by the reactor's clock, and as text for people.
        self._since = (0.0, "")

    def __call__(self, stopping: bool) -> Condition:
        standing = self._standing()
        return Condition(standing.accepted, self._describe(standing, stopping))

    def _describe(self, standing: Standing, stopping: bool) -> str:
        count = standing.running
        running = f"{count} {'command runs' if count == 1 else 'commands run'}"
        if stopping:
            left = standing.undelivered
            waits = f", {left} {'result is' if left == 1 else 'results are'} not confirmed" if left else ""
            away = "" if standing.accepted or not waits else f"; not connected to {standing.server}"
            return f"stopping: {running}{waits}{away}"
        if standing.accepted:
            if self._since[0] != standing.since:
                began = self._time_of_day() - (self._clock.seconds() - standing.since)
                self._since = (standing.since, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)))
            return f"accepted by {standing.server} since {self._since[1]}; {running}"
        if standing.last_error is None:
            return f"connecting to {standing.server}; {running}"
        return f"not connected to {standing.server}, will try again; {running}; {standing.last_error}"


class Notifier(Service):
    """
    Follows the condition of a service and reports changes to the service manager.

    The service is *ready* once it does its work for the first time (a relay: the main server accepts it), and stays so;
    the status line, which people read, shows every loss. A message that could not be sent is sent with the next look.

    :param clock: the reactor's clock: the watchdog is fed from the event loop, so that it bites when that hangs.
    :param send: sends one message; raises ``OSError`` when it cannot.
    :param condition: returns the condition; its argument is whether the service is stopping.
    :param drain_timeout: returns the seconds that the service has to finish its work when it stops.
    :param watchdog: seconds within which the service manager expects a sign of life; ``None``: it expects none.
    """

    def __init__(
        self,
        clock: IReactorTime,
        send: Callable[[str], None],
        condition: Callable[[bool], Condition],
        drain_timeout: Callable[[], float],
        watchdog: float | None = None,
    ) -> None:
        self._clock = clock
        self._send = send
        self._condition = condition
        self._drain_timeout = drain_timeout
        self._ready = False
        self._stopping = False
        self._failed = False
        #: The status line that was sent last.
        self._status: str | None = None
        self._beats = [(LoopingCall(self._look), INTERVAL)]
        if watchdog is not None:
            self._beats.append((LoopingCall(self._tell, "WATCHDOG=1"), watchdog / 2))

    def startService(self) -> None:
        """Start looking at the status, and feeding the watchdog."""
        super().startService()
        for beat, seconds in self._beats:
            beat.clock = self._clock
            beat.start(seconds)

    def stopService(self) -> None:
        """Stop both; the process is about to end."""
        super().stopService()
        for beat, _ in self._beats:
            if beat.running:
                beat.stop()

    def stopping(self) -> None:
        """Report that the service begins to stop, and ask for the time that this may take."""
        self._stopping = True
        microseconds = round((self._drain_timeout() + CLOSING) * 1_000_000)
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={microseconds}")
        self._look()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Report that the service reloads its settings meanwhile. Before it is ready, this would make it look ready."""
        if not self._ready:
            yield
            return
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._tell("READY=1")

    def _look(self) -> None:
        ready, status = self._condition(self._stopping)
        if ready and not self._ready and not self._stopping:
            self._ready = self._tell("READY=1")
        if status != self._status and self._tell(f"STATUS={_one_line(status)}"):
            self._status = status

    def _tell(self, message: str) -> bool:
        try:
            self._send(message)
        except OSError as error:
            if not self._failed:
                _log.warn("Cannot notify the service manager: {error}", error=error.strerror)
            self._failed = True
            return False
        self._failed = False
        return True


def make_notifier(
    environ: Mapping[str, str],
    clock: IReactorTime,
    condition: Callable[[bool], Condition],
    drain_timeout: Callable[[], float],
) -> Notifier | None:
    """
    The notifier that the service manager asks for in *environ*; ``None``: it asks for none.

    Call it in the process that will run: a daemon runs in another process than the one that was started.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    watchdog = None
    if environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
        text = environ.get("WATCHDOG_USEC", "")
        watchdog = int(text) / 1_000_000 if text.isascii() and text.isdigit() and int(text) else None
    return Notifier(clock, sender(address), condition, drain_timeout, watchdog)


def sender(address: str) -> Callable[[str], None]:
    """
    A function that sends messages to a service manager and never waits.

    :param address: the address of its datagram socket; that of an abstract one begins with ``@``.
    """
    to = b"\0" + os.fsencode(address[1:]) if address.startswith("@") else os.fsencode(address)
    # Kept open, so that the watchdog is fed even when the process runs out of descriptors.
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.setblocking(False)

    def send(message: str) -> None:
        channel.sendto(message.encode(), to)

    return send


def _one_line(text: str) -> str:
    """The text as one line: in a message each line is an assignment, and a main server's text must not bring one."""
    return "".join(char if char.isprintable() else " " for char in text)[:400]
