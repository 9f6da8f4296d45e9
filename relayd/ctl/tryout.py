"""
What ``relayctl try-server`` tries on a main server, one probe after the other.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.task import deferLater

from relayd.ctl.check_server import PROBATION
from relayd.ctl.findings import Report
from relayd.ctl.played_relay import Order, PlayedRelay
from relayd.errors import Overloaded
from relayd.interfaces import no_acknowledgement
from relayd.language.texts import printable, span
from relayd.uplink.settings import UplinkSettings
from relayd.uplink.stages import Timing
from relayd.wire.messages import CommandResult, Receipt, Secret

#: Seconds for a receipt.
RECEIPT_PATIENCE: Final = 10.0
#: Seconds in which a main server may do something that it should not do, or need not do.
WATCH: Final = 5.0
#: Seconds that the known main server waits for a result where the command names no timeout.
USUAL_TIMEOUT: Final = 30.0
#: Bytes of output in the large result.
LARGE: Final = 1_000_000
#: What every answer says: an operator must not take it for the answer of a host.
_NOT_RUN: Final = "relayctl try-server took this command. It was not run on any host."


class Tryout:
    """
    Plays a relay against a main server, and reports what that does.

    :param settings: where to connect, and as whom.
    :param report: takes each finding.
    :param ask: tells a person what to do now.
    :param patience: seconds to wait for a command that a person orders.
    :param longest: seconds of the longest timeout of a command that is waited for.
    """

    def __init__(
        self,
        reactor: Any,
        settings: UplinkSettings,
        report: Report,
        ask: Callable[[str], None],
        *,
        patience: float,
        longest: float,
        timing: Timing | None = None,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._report = report
        self._ask = ask
        self._patience = patience
        self._longest = longest
        self._timing = timing or Timing(probation=PROBATION)
        #: Ids of all commands that came, to notice one that comes again.
        self._seen: list[str] = []
        self._gave_up = False

    async def run(self) -> None:
        """Try everything. A wrong key comes last: some main servers shut out who comes with one."""
        relay = await self._connect("connection")
        if relay is None:
            self._report("skipped", "everything else", "the relay must be accepted first")
            return
        try:
            await self._try_receipts(relay)
            await self._try_late_result(relay)
            await self._try_refusal(relay)
            relay = await self._try_large_result(relay)
            if relay is not None:
                relay = await self._try_older_connection(relay)
            if relay is not None:
                relay = await self._try_lost_connection(relay)
            self._report_duplicates()
        finally:
            if relay is not None:
                await relay.leave()
        await self._try_wrong_key()

    async def _connect(self, what: str) -> PlayedRelay | None:
        """A new connection; ``None``: it was reported why there is none."""
        relay = PlayedRelay(self._reactor, self._settings, self._timing)
        if await relay.connect():
            if what == "connection":
                self._report("ok", what, f"accepted ({relay.dialect})")
            return relay
        self._report("fault", what, relay.why_lost or "the main server does not answer")
        return None

    async def _order(self, relay: PlayedRelay, what: str) -> Order | None:
        """The next command, which a person orders; ``None``: it was reported that none came."""
        if self._gave_up:
            self._report("skipped", what, "no command came for an earlier probe")
            return None
        name = self._settings.proxy_id
        self._ask(f"Now have the main server send one command to {name}, such as `true`. It is not run on any host.")
        order = await relay.orders.next(self._patience)
        while order is not None and order.command.command_id in self._seen:
            self._seen.append(order.command.command_id)
            order = await relay.orders.next(self._patience)
        if order is not None:
            self._seen.append(order.command.command_id)
            return order
        if relay.invalid:
            self._report("fault", what, f"the command was not valid: {relay.invalid[-1]}")
        elif relay.link is None:
            self._report("fault", what, f"the connection was lost: {relay.why_lost}")
        else:
            self._gave_up = True
            self._report("skipped", what, f"no command came within {span(self._patience)}")
        return None

    async def _receipt(self, relay: PlayedRelay) -> Receipt | None:
        return await relay.receipts.next(RECEIPT_PATIENCE)

    def _judge(self, what: str, receipt: Receipt | None, relay: PlayedRelay, good: str, without: str) -> bool:
        """Report on a receipt; gives whether it confirms the result."""
        if receipt is not None and receipt.success:
            self._report("ok", what, good)
            return True
        if receipt is not None:
            reason = printable(receipt.error or "it gives no reason", 200)
            self._report("fault", what, f"the receipt refuses the result: {reason}")
        elif relay.link is None:
            self._report("fault", what, f"the main server closed the connection: {relay.why_lost}")
        else:
            self._report("fault", what, without)
        return False

    # The probes

    async def _try_receipts(self, relay: PlayedRelay) -> None:
        """One result, the same once more, and one of a command that was never ordered."""
        order = await self._order(relay, "receipt")
        if order is None:
            return
        order.acknowledge(None)
        result = _answer(order)
        relay.send(result)
        receipt = await self._receipt(relay)
        without = (
            f"none within {span(RECEIPT_PATIENCE)}: a relay cannot know whether a result has arrived, and after a lost "
            "connection it may send it again or not at all"
        )
        named = receipt is not None and receipt.command_id is not None
        good = "comes, and names its command" if named else "comes, and does not name its command: order must tell"
        if not self._judge("receipt", receipt, relay, good, without):
            return
        relay.send(result)
        without = "none for a result that it had before: a relay that lost the first receipt sends the result for ever"
        self._judge("duplicate", await self._receipt(relay), relay, "a result that comes twice is confirmed", without)
        relay.send(replace(result, command_id=f"try-server-{secrets.token_hex(8)}", numeric_id=False))
        receipt = await self._receipt(relay)
        if receipt is None and relay.link is not None:
            text = "none for a command that it does not know: after its restart, relays send such results for ever"
            self._report("fault", "unknown command", text)
        else:
            good = "the result of a command that it does not know is confirmed"
            self._judge("unknown command", receipt, relay, good, "")

    async def _try_late_result(self, relay: PlayedRelay) -> None:
        order = await self._order(relay, "late result")
        if order is None:
            return
        order.acknowledge(None)
        timeout = order.command.timeout or USUAL_TIMEOUT
        if timeout > self._longest:
            text = f"the command's timeout is {span(timeout)}; with --longest {timeout:.0f}s it would be waited for"
            self._report("skipped", "late result", text)
        else:
            wait = order.time + timeout + 2.0 - self._reactor.seconds()
            self._ask(f"Waiting {span(wait)} for the command's timeout to pass.")
            await deferLater(self._reactor, max(0.0, wait))
        relay.send(_answer(order))
        receipt = await self._receipt(relay)
        if timeout <= self._longest:
            without = "none for a result that comes after the command's timeout: a relay sends it for ever"
            self._judge("late result", receipt, relay, "a result after the command's timeout is confirmed", without)

    async def _try_refusal(self, relay: PlayedRelay) -> None:
        order = await self._order(relay, "refusal")
        if order is None:
            return
        if order.acknowledge is no_acknowledgement:
            self._report("skipped", "refusal", "it asks for no acknowledgement; a relay refuses by a result then")
            relay.send(_answer(order))
            await self._receipt(relay)
            return
        order.acknowledge(Overloaded(running=0, queued=0))
        again = await relay.orders.next(WATCH)
        if relay.link is None:
            text = f"an acknowledgement with an error ends the connection: {relay.why_lost}"
            self._report("fault", "refusal", text)
        elif again is not None:
            self._seen.append(again.command.command_id)
            self._report("warning", "refusal", "a refused command is sent again at once")
            again.acknowledge(None)
            relay.send(_answer(again))
            await self._receipt(relay)
        else:
            self._report("ok", "refusal", "it takes an acknowledgement with an error; the command is not sent again")

    async def _try_large_result(self, relay: PlayedRelay) -> PlayedRelay | None:
        """A result of 1 MB; gives the connection, or a new one where it was lost."""
        order = await self._order(relay, "large result")
        if order is None or relay.link is None:
            return relay
        order.acknowledge(None)
        limit = relay.link.max_payload
        relay.send(replace(_answer(order), stdout=("x" * 99 + "\n") * (LARGE // 100)))
        receipt = await self._receipt(relay)
        if relay.link is not None:
            cut = (
                f"; it takes messages of {limit} bytes at most, so relays cut the output"
                if limit < LARGE * 1.01
                else ""
            )
            good = f"a result of 1 MB is confirmed{cut}"
            self._judge("large result", receipt, relay, good, "no receipt for a result of 1 MB")
            return relay
        text = f"a result of 1 MB ends the connection: {relay.why_lost}. Let it take larger messages"
        self._report("fault", "large result", text)
        return await self._connect("new connection")

    async def _try_older_connection(self, older: PlayedRelay) -> PlayedRelay | None:
        """A second connection while the first lives, as after a cable was pulled; gives the newer one."""
        what = "older connection"
        newer = await self._connect(what)
        if newer is None:
            return older if older.link is not None else None
        replaced = await older.lost(WATCH)
        if newer.link is None:
            text = f"it turns the newer connection away while the older one lives: {newer.why_lost}"
            self._report("fault", what, text)
            return older if older.link is not None else None
        await older.leave()
        order = await self._order(newer, what)
        if newer.link is None:
            return await self._connect("new connection")
        how = "closes the older connection at once" if replaced else "lets the older connection live"
        if order is not None:
            self._report("ok", what, f"{how}; commands come over the newer one")
            order.acknowledge(None)
            newer.send(_answer(order))
            await self._receipt(newer)
        return newer

    async def _try_lost_connection(self, relay: PlayedRelay) -> PlayedRelay | None:
        """The connection ends before the result; gives the next connection."""
        what = "lost connection"
        order = await self._order(relay, what)
        if order is None:
            return relay
        order.acknowledge(None)
        await relay.leave()
        following = await self._connect(what)
        if following is None:
            return None
        again = await following.orders.next(WATCH)
        if again is not None and again.command.command_id == order.command.command_id:
            how = "the command is sent again"
            again.acknowledge(None)
            self._seen.append(again.command.command_id)
        elif following.asked:
            how = "it asks for the state of the command"
        else:
            how = "the command is not sent again, and it does not ask for its state"
        following.send(_answer(order))
        without = f"{how}; no receipt for a result that comes over the next connection: it is lost"
        good = f"{how}; a result over the next connection is confirmed"
        self._judge(what, await self._receipt(following), following, good, without)
        return following

    def _report_duplicates(self) -> None:
        twice = len(self._seen) - len(set(self._seen))
        text = f"{twice} commands came again" if twice else "no command came twice"
        self._report("ok", "repetitions", f"{text} ({len(self._seen)} commands)")

    async def _try_wrong_key(self) -> None:
        key = Secret(secrets.token_hex(20))
        relay = PlayedRelay(self._reactor, replace(self._settings, read_api_key=lambda: key), self._timing)
        if await relay.connect():
            await relay.leave()
            self._report("fault", "wrong key", "a relay with a key that is not right is accepted")
        else:
            self._report("ok", "wrong key", f"is refused: {relay.why_lost}")


def _answer(order: Order) -> CommandResult:
    """The result of a command: that it was not run."""
    command = order.command
    return CommandResult(
        command_id=command.command_id, numeric_id=command.numeric_id, stdout="", stderr=_NOT_RUN, exit_code=1
    )
