"""
Sums up refusals that are alike, so that nobody can push their traces out of the audit log with orders that are refused.
No I/O and no clock.
"""

from __future__ import annotations

from typing import Any, Final

from relayd.audit.events import clip

#: Refusals for one reason that get a line each, at once; and how many more each second brings.
BURST: Final = 100
RATE: Final = 3 / 60
#: Seconds between two sums.
INTERVAL: Final = 60.0
#: Hosts that a sum names, and bytes of each.
MAX_TARGETS: Final = 10
_TARGET_SIZE: Final = 100


class _Reason:
    """Refusals for one reason."""

    def __init__(self, now: float) -> None:
        self.tokens = float(BURST)
        self.at = now
        self.count = 0
        self.first = self.last = ""
        self.targets: dict[str, None] = {}


class RefusalLimiter:
    """
    Decides which refusals get a line of their own, and counts the others.

    What was accepted does not come here: it has its lines.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, _Reason] = {}  # by codes, of which there are not many

    def admits(self, code: str, identity: str, target: str, now: float) -> bool:
        """
        Whether this refusal gets a line of its own; otherwise it is counted.

        :param code: the reason.  There are few: none is chosen by others.
        :param identity: what was refused; the first and the last are named in the sum.
        :param target: for what it was; some are named in the sum.
        :param now: seconds of a clock that never goes backwards.
        """
        reason = self._reasons.get(code)
        if reason is None:
            reason = self._reasons[code] = _Reason(now)
        reason.tokens = min(BURST, reason.tokens + (now - reason.at) * RATE)
        reason.at = now
        if reason.tokens >= 1.0:
            reason.tokens -= 1.0
            return True
        reason.count += 1
        reason.last = identity
        if reason.count == 1:
            reason.first = identity
        if len(reason.targets) < MAX_TARGETS:
            reason.targets[clip(target, _TARGET_SIZE)] = None
        return False

    def take_sums(self) -> list[dict[str, Any]]:
        """The sums since the last call, each as the fields of a line."""
        sums = []
        for code, reason in self._reasons.items():
            if reason.count:
                names = {"firstId": clip(reason.first), "lastId": clip(reason.last)}
                sums.append({"outcome": code, "count": reason.count, **names, "targets": list(reason.targets)})
                reason.count = 0
                reason.targets = {}
        return sums
