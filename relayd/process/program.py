"""
What the process of a program of ours needs beside its service: notifications of the service manager, and an orderly
exit.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred

from relayd.errors import ConfigError
from relayd.process.hardening import forbid_dumps

if TYPE_CHECKING:  # a program imports it when it makes its notifier
    from relayd.process.systemd import Notifier

T = TypeVar("T")


class ProcessService(MultiService):
    """
    The service that twistd starts. A mistake in the settings ends the process with one line, as a mistyped option does.

    :param program: its name, for that line.
    :param notifier: makes the notifier of the service manager; ``None`` if there is no service manager.
    """

    def __init__(self, program: str, notifier: Callable[[], Notifier | None]) -> None:
        super().__init__()
        self._program = program
        self._make_notifier = notifier
        self._notifier: Notifier | None = None

    def startService(self) -> None:
        """Start the services. By now twistd is a daemon and has changed its user."""
        forbid_dumps()
        try:
            super().startService()
        except ConfigError as error:
            # Not MISTAKES: another process may let go of the directory, and a disk may have room again.
            raise SystemExit(f"{self._program}: {error}") from None
        self._notifier = self._make_notifier()
        if self._notifier is not None:
            self._notifier.startService()

    def stopService(self) -> Deferred[Any]:
        """Stop the services, and keep the service manager informed until they have stopped."""
        stopped: Deferred[Any] = maybeDeferred(super().stopService)
        if self._notifier is not None:
            self._notifier.stopping()
            stopped.addBoth(self._stopped, self._notifier)
        return stopped

    def reloading(self) -> AbstractContextManager[None]:
        """A context for reloading settings, which tells the service manager about it."""
        return nullcontext() if self._notifier is None else self._notifier.reloading()

    def _stopped(self, result: T, notifier: Notifier) -> T:
        notifier.stopService()
        return result


class OrderlyExit(Service):
    """
    Stops the reactor on SIGTERM and SIGINT, so that work is finished and the process then exits with 0.

    With the reactor's own handlers, twistd would kill itself with the same signal after an orderly stop. A second
    signal ends the process at once, finished or not.

    :param announce: called with the name of the signal, to log what happens now.
    """

    _signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, reactor: Any, announce: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._announce = announce
        self._replaced: dict[signal.Signals, Any] = {}

    def startService(self) -> None:
        """Replace the handlers once the reactor, which sets its own when it starts, runs."""
        super().startService()
        self._reactor.callWhenRunning(self._install)

    def stopService(self) -> None:
        """Restore the handlers."""
        for number, handler in self._replaced.items():
            if signal.getsignal(number) == self._stop:
                signal.signal(number, handler)
        self._replaced.clear()
        super().stopService()

    def _install(self) -> None:
        if not self.running:
            return
        for number, own in zip(self._signals, (self._reactor.sigTerm, self._reactor.sigInt), strict=True):
            if signal.getsignal(number) == own:  # a handler that replaced the reactor's stays
                self._replaced[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for each in self._replaced:
            signal.signal(each, signal.SIG_DFL)
        self._reactor.callFromThread(self._stop_reactor, signal.Signals(number).name)

    def _stop_reactor(self, name: str) -> None:
        self._announce(name)
        self._reactor.stop()
