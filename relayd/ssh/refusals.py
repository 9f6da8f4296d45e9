"""
Logins that were refused lately, and for how long not to try them again.

Servers lock out whoever keeps failing: OpenSSH the source address, which here is everybody's, PAM often the account. So
a credential that was refused rests, for longer each time; other credentials are not held up. No I/O, no clock.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from relayd.ssh.errors import LoginResting, SSHError
from relayd.ssh.target import Target

#: Seconds of rest after the first refusal in a row; each further one doubles it.
FIRST_REST = 5.0
#: Seconds that no rest exceeds: the longest penalty of OpenSSH 9.8 and later.
LONGEST_REST = 600.0
#: Seconds after the end of a rest until a refusal counts as the first one again.
FORGIVEN_AFTER = 3600.0
#: Targets remembered; the one refused longest ago is forgotten first.
MOST = 4096


class _Refusal(Struct, frozen=True):
    times: int
    rest_until: float
    reason: str


class Refusals:
    """Remembers by target, so by credential too."""

    def __init__(self) -> None:
        self._refusals: OrderedDict[Target, _Refusal] = OrderedDict()

    def refused(self, target: Target, error: SSHError, now: float) -> None:
        """The server refused the login, with *error*."""
        before = self._refusals.pop(target, None)
        times = 1 if before is None or now > before.rest_until + FORGIVEN_AFTER else before.times + 1
        rest = min(FIRST_REST * 2.0 ** (times - 1), LONGEST_REST)
        self._refusals[target] = _Refusal(times, now + rest, str(error))
        if len(self._refusals) > MOST:
            self._refusals.popitem(last=False)

    def accepted(self, target: Target) -> None:
        """The server let it in."""
        self._refusals.pop(target, None)

    def check(self, target: Target, now: float) -> SSHError | None:
        """What to answer instead of trying: an error while the credential rests."""
        refusal = self._refusals.get(target)
        if refusal is None or now >= refusal.rest_until:
            return None
        return LoginResting(
            host=target.host,
            port=target.port,
            username=target.username,
            reason=refusal.reason,
            seconds=max(1, round(refusal.rest_until - now)),
        )
