"""
Keeps one connection to a main server: dials, stays, waits, dials again; the next of several where one is away.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.errors import RelayError, UplinkUnreachable
from relayd.interfaces import Claims, ICommandReceiver
from relayd.language.texts import span
from relayd.uplink.connection import UplinkConnection
from relayd.uplink.endpoint import end_of_own_certificate
from relayd.uplink.main_server import MainServer
from relayd.uplink.retry import is_refusal
from relayd.uplink.servers import LOOK_EVERY, Failover, ServerChoice
from relayd.uplink.settings import LiveUplinkSettings, UplinkSettings
from relayd.uplink.stages import Timing

_log = Logger("relayd.uplink")

#: Seconds for which a round of attempts may hold up those at other main servers, at least.
LEAST_ROUND: Final = 60.0


class UplinkStatus(Struct, frozen=True, kw_only=True):
    """
    Whether the relay is connected to a main server, and why not.

    :ivar accepted: whether a main server has really accepted this relay, and the connection lives.
    :ivar dialect: the dialect of that connection; ``None`` without one.
    :ivar since: when *accepted* changed, or the service started, in seconds of the reactor's clock.
    :ivar losses: attempts that failed and connections that were lost, so far.
    :ivar last_error: why the last attempt or connection failed, since one was accepted.
    """

    accepted: bool = False
    dialect: str | None = None
    since: float = 0.0
    losses: int = 0
    last_error: str | None = None


class UplinkService(Service):
    """
    The connection to a main server, kept for as long as the service runs.

    With several main servers there is a second connection only while the relay changes from one to another: it is made
    beside the first, and once it is accepted, the first is closed.

    :param reactor: clock and network.
    :param receiver: hears what the main server orders.
    :param settings: of the main server, or of the first of several.
    :param on_accepted: is called when the main server has accepted the relay, before the receiver hears of any command:
        a connection that is closed in it takes none.
    :param timing: deadlines that differ from the usual ones.
    :param others: the settings of the other main servers, in the order of preference.
    :param failover: how several are used.
    :ivar status: whether there is a connection now.
    :ivar ignored: messages of main servers, so far, that relayd did not use.
    :ivar servers: the main servers, in the order of preference.
    """

    def __init__(
        self,
        reactor: Any,
        receiver: ICommandReceiver,
        settings: UplinkSettings,
        on_accepted: Callable[[UplinkConnection], None] | None = None,
        timing: Timing | None = None,
        others: Sequence[UplinkSettings] = (),
        failover: Failover | None = None,
    ) -> None:
        self.setName("uplink")
        self._on_accepted = on_accepted
        self._reactor = reactor
        self._failover = failover or Failover()
        source = random.Random()
        self.servers = [
            MainServer(reactor, receiver, each, self, timing or Timing(), source, several=bool(others))
            for each in (settings, *others)
        ]
        self._choice = ServerChoice(len(self.servers), self._failover.delay, source, visits=self._failover.visits)
        self.status = UplinkStatus()
        self.ignored = 0
        #: The rounds that are under way: the one of the main server in use, and one beside it.
        self._rounds: set[MainServer] = set()
        #: The next attempt, or the next look at whether there is a reason to leave.
        self._call: IDelayedCall | None = None
        #: Ends a round that takes too long.
        self._limits: dict[MainServer, IDelayedCall] = {}
        #: Why a round is ended that takes too long.
        self._late: dict[MainServer, RelayError] = {}
        #: Main servers whose round this relay ends, to be with another one; and seconds until they are dialled again.
        self._left: dict[MainServer, float] = {}
        self._stopped: Deferred[None] | None = None

    @property
    def current(self) -> MainServer:
        """The main server in use; without a connection, the one that was last in use, or the first."""
        return self.servers[self._choice.current]

    def startService(self) -> None:
        """Dial the main server, now and each time that the connection ends."""
        super().startService()
        now = self._reactor.seconds()
        self.status = replace(self.status, since=now)
        for server in self.servers:
            server.note_unused_proxy()
        self._choice.begin(now)
        self._dial_next()

    def configure(
        self, settings: LiveUplinkSettings, *others: LiveUplinkSettings, failover_delay: float | None = None
    ) -> None:
        """Use other settings from the next connection on, for each main server its own."""
        for server, each in zip(self.servers, (settings, *others), strict=True):
            server.configure(each)
        if failover_delay is not None:
            self._choice.delay = failover_delay

    def stopService(self) -> Deferred[None]:
        """
        Close the connection.

        :return: fires when the connection is gone, after 5 s at most.
        """
        super().stopService()
        self._cancel_call()
        if not self._rounds:
            return succeed(None)
        stopped = self._stopped = Deferred()
        for server in list(self._rounds):
            server.leave()
        return stopped

    def certificate_ends(self) -> dict[str, float]:
        """
        When TLS certificates end, in seconds since 1970: that of the ``main_server`` as it was last seen, with those
        that it depends on, and the ``relay``'s own file, as it is now. The first end counts where there are several.
        """
        seen = [each.end_seen for each in self.servers if each.end_seen is not None]
        own = [end for each in self.servers if (end := end_of_own_certificate(each.settings)) is not None]
        return {name: min(ends) for name, ends in (("main_server", seen), ("relay", own)) if ends}

    # Rounds of attempts

    def _dial_next(self) -> None:
        now = self._reactor.seconds()
        index, at = self._choice.next(now)
        if at > now:
            self._call = self._reactor.callLater(at - now, self._dial, index)
        else:
            self._dial(index)

    def _dial(self, index: int, *, aside: bool = False) -> None:
        self._call = None
        server = self.servers[index]
        self._choice.dialled(index)
        self._rounds.add(server)
        if len(self.servers) > 1:
            limit = max(LEAST_ROUND, self._choice.delay)
            late = UplinkUnreachable(
                server=str(server.address), reason=f"no connection came about within {span(limit)}"
            )
            self._limits[server] = self._reactor.callLater(limit, self._end_round, server, late)
        server.dial(aside=aside).addBoth(self._ended, server, index)

    def _ended(self, outcome: RelayError | Failure, server: MainServer, index: int) -> None:
        """A round is over."""
        self._rounds.discard(server)
        self._stop_limit(server)
        if isinstance(outcome, Failure):
            outcome.trap(CancelledError)
            outcome = self._late.pop(server, UplinkUnreachable(server=str(server.address), reason="relayd gave up"))
        if not self.running:
            if not self._rounds and self._stopped is not None:
                self._stopped.callback(None)
            return
        self._note_end(outcome, server, index)
        if self.status.accepted:
            self._look_later()
        elif not self._rounds:
            self._dial_next()

    def _note_end(self, error: RelayError, server: MainServer, index: int) -> None:
        now = self._reactor.seconds()
        if server in self._left:
            self._choice.left(index, now, self._left.pop(server))
            return
        delay = server.retry.delay_after(error, server.lived)
        self._choice.failed(index, now, delay, refused=is_refusal(error))
        self.status = replace(self.status, losses=self.status.losses + 1)
        reason = _sentence(error)
        if self.status.accepted:
            _log.info("{reason} This relay stays with {server}.", reason=reason, server=str(self.current.address))
            return
        self.status = replace(self.status, last_error=str(error))
        if self._rounds:
            _log.warn("{reason}", reason=reason)
            return
        where = ""
        if len(self.servers) > 1:
            following, at = self._choice.next(now)
            where, delay = f", at {self.servers[following].address}", at - now
        _log.warn("{reason} Next attempt in {span}{where}.", reason=reason, span=span(delay), where=where, delay=delay)

    def _end_round(self, server: MainServer, late: RelayError) -> None:
        """The others wait for their turn."""
        self._late[server] = late
        server.leave(late)
        self._late.pop(server, None)

    def _stop_limit(self, server: MainServer) -> None:
        if (call := self._limits.pop(server, None)) is not None and call.active():
            call.cancel()

    def _cancel_call(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    # From one main server to another

    def _look_later(self) -> None:
        if len(self.servers) > 1 and self._call is None and len(self._rounds) == 1:
            self._call = self._reactor.callLater(LOOK_EVERY, self._look)

    def _look(self) -> None:
        """Find out whether there is a reason to leave the main server in use."""
        self._call = None
        index = self._choice.destination(self._reactor.seconds(), self._claims)
        if index is None:
            self._look_later()
        else:
            self._dial(index, aside=True)

    def _claims(self, index: int) -> Claims:
        return self._failover.claims(str(self.servers[index].address))

    # From main servers (relayd.uplink.main_server.Caller)

    def on_accepted(self, server: MainServer, connection: UplinkConnection) -> None:
        now, index, before = self._reactor.seconds(), self.servers.index(server), self.current
        self._stop_limit(server)
        if self.status.accepted and before is not server:
            if not self._choice.is_worth(index, now, self._claims):
                # A command came meanwhile: it is to be answered first.
                self._leave(server, self._choice.delay)
                return
            _log.info(
                "This relay leaves {before} for {server}.", before=str(before.address), server=str(server.address)
            )
            self._leave(before, 0.0)
        self._choice.accepted(index, now, self._claims)
        self.status = replace(self.status, accepted=True, dialect=connection.dialect.name, since=now, last_error=None)
        if self._on_accepted is not None:
            self._on_accepted(connection)
        self._look_later()

    def _leave(self, server: MainServer, delay: float) -> None:
        self._left[server] = delay
        server.leave()

    def on_lost(self, server: MainServer) -> None:
        if server is self.current and self.status.accepted:
            self._cancel_call()
            self.status = replace(self.status, accepted=False, dialect=None, since=self._reactor.seconds())

    def on_message_ignored(self) -> None:
        self.ignored += 1


def _sentence(error: RelayError) -> str:
    text = str(error)
    return text if text.endswith(".") else text + "."
