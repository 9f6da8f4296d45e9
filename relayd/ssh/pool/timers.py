"""
When the pool has something to do though nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Timers:
    """
    An alarm, and a sweep that is repeated.

    :param on_alarm: called at the time of the alarm.
    :param on_sweep: called after each pause; what it returns is the next pause, and ``None`` ends the sweeps.
    """

    def __init__(self, clock: IReactorTime, on_alarm: Callable[[], None], on_sweep: Callable[[], float | None]) -> None:
        self._clock = clock
        self._on_alarm = on_alarm
        self._on_sweep = on_sweep
        self._alarm_call: IDelayedCall | None = None
        self._sweep_call: IDelayedCall | None = None

    def set_alarm(self, at: float | None) -> None:
        """Set the alarm to this time, unless it is set to an earlier one."""
        call = self._alarm_call
        if at is None or (call is not None and call.getTime() <= at):
            return
        if call is not None:
            call.cancel()
        self._alarm_call = self._clock.callLater(max(0.0, at - self._clock.seconds()), self._alarm)

    def start_sweeps(self, pause: float) -> None:
        """Sweep after so many seconds, unless that is arranged already."""
        if self._sweep_call is None:
            self._sweep_call = self._clock.callLater(pause, self._sweep)

    def stop(self) -> None:
        """Cancel both."""
        for call in (self._alarm_call, self._sweep_call):
            if call is not None:
                call.cancel()
        self._alarm_call = self._sweep_call = None

    def _alarm(self) -> None:
        self._alarm_call = None
        self._on_alarm()

    def _sweep(self) -> None:
        self._sweep_call = None
        pause = self._on_sweep()
        if pause is not None:
            self.start_sweeps(pause)
