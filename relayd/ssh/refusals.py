"""
Logins that were refused lately, and for how long not to try them again.

Servers lock out whoever keeps failing: OpenSSH the source address, which here is everybody's, PAM often the account. So
a credential that was refused rests, for longer each time; other credentials are not held up, unless a host refuses so
many of them that it is those it never accepted which have to wait. No I/O, no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from msgspec import Struct
from msgspec.structs import replace

from relayd.ssh.errors import HostResting, LoginResting, SSHError
from relayd.ssh.target import Target

#: Seconds of rest after the first refusal in a row; each further one doubles it.
FIRST_REST = 5.0
#: Seconds that no rest exceeds: the longest penalty of OpenSSH 9.8 and later.
LONGEST_REST = 600.0
#: Seconds after the end of a rest until a refusal counts as the first one again.
FORGIVEN_AFTER = 3600.0
#: Targets remembered, and hosts; the one refused longest ago is forgotten first.
MOST = 4096
#: Logins that one host may refuse within so many seconds until only those that it accepted before are tried there.
HOST_REFUSALS = 10
HOST_WINDOW = 60.0


class _Refusal(Struct, frozen=True):
    times: int
    rest_until: float
    reason: str


class Refusals:
    """Remembers by target, so by credential too."""

    def __init__(self) -> None:
        self._refusals: OrderedDict[Target, _Refusal] = OrderedDict()
        self._accepted: OrderedDict[Target, None] = OrderedDict()
        # When each host refused a login, lately
        self._hosts: OrderedDict[tuple[str, int], deque[float]] = OrderedDict()

    def refused(self, target: Target, error: SSHError, now: float) -> None:
        """The server refused the login, with *error*."""
        target = _by_one_spelling(target)
        before = self._refusals.pop(target, None)
        times = 1 if before is None or now > before.rest_until + FORGIVEN_AFTER else before.times + 1
        rest = min(FIRST_REST * 2.0 ** (times - 1), LONGEST_REST)
        self._refusals[target] = _Refusal(times, now + rest, error.text)
        self._accepted.pop(target, None)
        host = (target.host, target.port)
        recent = self._hosts.pop(host, None) or deque(maxlen=HOST_REFUSALS)
        recent.append(now)
        self._hosts[host] = recent
        for table in (self._refusals, self._hosts):
            if len(table) > MOST:
                table.popitem(last=False)

    def accepted(self, target: Target) -> None:
        """The server let it in."""
        target = _by_one_spelling(target)
        self._refusals.pop(target, None)
        self._accepted[target] = None
        self._accepted.move_to_end(target)
        if len(self._accepted) > MOST:
            self._accepted.popitem(last=False)

    def check(self, target: Target, now: float) -> SSHError | None:
        """What to answer instead of trying: an error while the credential rests, or the host."""
        target = _by_one_spelling(target)
        refusal = self._refusals.get(target)
        if refusal is None or now >= refusal.rest_until:
            return self._check_host(target, now)
        return LoginResting(
            host=target.host,
            port=target.port,
            username=target.username,
            reason=refusal.reason,
            seconds=max(1, round(refusal.rest_until - now)),
        )

    def _check_host(self, target: Target, now: float) -> SSHError | None:
        recent = self._hosts.get((target.host, target.port))
        if recent is None or len(recent) < HOST_REFUSALS or now >= recent[0] + HOST_WINDOW or target in self._accepted:
            return None
        return HostResting(
            host=target.host,
            port=target.port,
            times=HOST_REFUSALS,
            seconds=max(1, round(recent[0] + HOST_WINDOW - now)),
        )


def _by_one_spelling(target: Target) -> Target:
    """With another spelling the login is still the same, for a server that counts."""
    return target if target.looked_up is None else replace(target, looked_up=None)
