"""
All of access, put together for the hub's service and API.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from relayd.hub.access.accounts import Accounts
from relayd.hub.access.audit import HubAudit
from relayd.hub.access.logins import Logins
from relayd.hub.access.password_hashes import HashingCost, PasswordHashes
from relayd.hub.access.sessions import Doorkeeper, Now
from relayd.hub.access.throttle import LoginThrottle
from relayd.hub.access.tokens import Tokens
from relayd.hub.store.store import Store

_log = Logger("relayd.hub")

#: Seconds between two times when sessions that have expired are forgotten.
SWEEP: Final = 60.0


def time_of_day() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


class Access:
    """
    Who may do what; while it is started, sessions that have expired are forgotten.

    :param audit: one that is started, and closed, by the caller.
    :param read_selector: reads a selector, and raises `relayd.language.texts.Fault` when it cannot.
    :param now: the time of day.
    :param cost: what a password costs; ``None``: `HashingCost`.
    :ivar doorkeeper: who asks, for each request.
    """

    def __init__(
        self,
        reactor: Any,
        store: Store,
        audit: HubAudit,
        read_selector: Callable[[str], object],
        *,
        now: Now = time_of_day,
        cost: HashingCost | None = None,
    ) -> None:
        self.audit = audit
        self.hashes = PasswordHashes(reactor, cost)
        self.doorkeeper = Doorkeeper(store, now)
        self.logins = Logins(reactor, store, self.hashes, LoginThrottle(), audit, now)
        self.accounts = Accounts(store, self.hashes, self.logins, audit, read_selector, now)
        self.tokens = Tokens(store, audit, now)
        self._sweeping = LoopingCall(self._sweep)
        self._sweeping.clock = reactor

    def start(self) -> None:
        """Take passwords from now on."""
        self.hashes.start()
        self._sweeping.start(SWEEP, now=False)

    async def _sweep(self) -> None:
        try:
            await self.logins.sweep()
        except Exception:
            _log.failure("Forgetting sessions that have expired failed")

    def stop(self) -> None:
        """Take no more."""
        if self._sweeping.running:
            self._sweeping.stop()
        self.hashes.stop()
