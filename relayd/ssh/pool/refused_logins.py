"""
Logins that were refused lately, and for how long they are not tried again.

Servers lock out clients that keep failing: OpenSSH the source address, which all commands of this relay share, PAM
often the account. So a credential that was refused rests, for longer each time. Other credentials are not held up,
unless a host refuses many of them: then all those rest that it never accepted. No I/O, no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from msgspec import Struct

from relayd.language.texts import span
from relayd.ssh.errors import HostResting, LoginResting, SSHError
from relayd.ssh.target import Target

#: Seconds of rest after the first refusal in a row; each further one doubles it.
FIRST_REST = 5.0
#: The longest rest, in seconds: the longest penalty of OpenSSH 9.8 and later.
LONGEST_REST = 600.0
#: Seconds after the end of a rest until a refusal counts as the first one again.
FORGIVEN_AFTER = 3600.0
#: Targets remembered, and hosts; the one refused longest ago is forgotten first.
MOST = 4096
#: How many logins one host may refuse, within how many seconds, before only those are tried that it accepted before.
HOST_REFUSALS = 10
HOST_WINDOW = 60.0


class _Refusal(Struct, frozen=True):
    """A refused login: how often in a row, until when it rests, and the words of the error."""

    times: int
    rest_until: float
    reason: str


class RefusedLogins:
    """
    The refused logins, by target, which includes the credential. It keeps digests only, as it outlives all connections.
    """

    def __init__(self) -> None:
        self._refusals: OrderedDict[bytes, _Refusal] = OrderedDict()
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        # When each host refused a login, lately
        self._hosts: OrderedDict[tuple[str, int], deque[float]] = OrderedDict()

    def refused(self, target: Target, error: SSHError, now: float) -> None:
        """The server refused the login, with *error*."""
        digest = target.digest()
        before = self._refusals.pop(digest, None)
        times = 1 if before is None or now > before.rest_until + FORGIVEN_AFTER else before.times + 1
        rest = min(FIRST_REST * 2.0 ** (times - 1), LONGEST_REST)
        self._refusals[digest] = _Refusal(times, now + rest, error.text)
        self._accepted.pop(digest, None)
        if len(self._refusals) > MOST:
            self._refusals.popitem(last=False)
        self.host_refused(target, now)

    def host_refused(self, target: Target, now: float) -> None:
        """The host refused one more login, which by itself is no reason for the credential to rest."""
        host = (target.host, target.port)
        recent = self._hosts.pop(host, None) or deque(maxlen=HOST_REFUSALS)
        recent.append(now)
        self._hosts[host] = recent
        if len(self._hosts) > MOST:
            self._hosts.popitem(last=False)

    def accepted(self, target: Target) -> None:
        """The server accepted the login."""
        digest = target.digest()
        self._refusals.pop(digest, None)
        self._accepted[digest] = None
        self._accepted.move_to_end(digest)
        if len(self._accepted) > MOST:
            self._accepted.popitem(last=False)

    def check(self, target: Target, now: float) -> SSHError | None:
        """The error to give instead of trying, while the credential or the host rests."""
        if not self._refusals and not self._hosts:
            return None
        digest = target.digest()
        refusal = self._refusals.get(digest)
        if refusal is None or now >= refusal.rest_until:
            return self._check_host(target, digest, now)
        return LoginResting(
            host=target.host,
            port=target.port,
            username=target.username,
            reason=refusal.reason,
            time=span(max(1, round(refusal.rest_until - now))),
        )

    def _check_host(self, target: Target, digest: bytes, now: float) -> SSHError | None:
        recent = self._hosts.get((target.host, target.port))
        if recent is None or len(recent) < HOST_REFUSALS or now >= recent[0] + HOST_WINDOW or digest in self._accepted:
            return None
        return HostResting(
            host=target.host,
            port=target.port,
            times=HOST_REFUSALS,
            time=span(max(1, round(recent[0] + HOST_WINDOW - now))),
        )
