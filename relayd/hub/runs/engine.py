"""
The engine: it holds the runs that have not ended, and does what their machines decide.  This module is long as both
sides of a run meet in it.

What is promised is stored before it is said: an order before its run is told of, ``sent`` before a command is written
to a link, a result before its receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Struct
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.hub.decisions.budget import Budget
from relayd.hub.decisions.effects import Ask, AskCancel, Effects, Store, Write
from relayd.hub.decisions.ends import Rerun, end_of
from relayd.hub.decisions.places import Places
from relayd.hub.decisions.queues import Aim
from relayd.hub.decisions.rollout import Rollout
from relayd.hub.decisions.run_machine import Plan, RunMachine, Sent
from relayd.hub.decisions.slots import UNDER_WAY
from relayd.hub.decisions.states import ENDS
from relayd.hub.decisions.under_way import SECOND, Patience
from relayd.hub.runs.changes import MOST_LIVE, MOST_RESULTS, Changes, Progress
from relayd.hub.runs.dry_run import Planned, plan_run
from relayd.hub.runs.errors import NotNow, RunError, TooManyOpen
from relayd.hub.runs.interfaces import Inventory, Login, RelayLink, RelayLinks, Sealing
from relayd.hub.runs.late import Late, record_late
from relayd.hub.runs.open_run import OpenRun, say_late
from relayd.hub.runs.ordering import (
    MAX_SIZE,
    Allowed,
    Loaded,
    Placed,
    Request,
    context_of,
    load_run,
    place_order,
    place_rerun,
)
from relayd.hub.runs.orders import DEFAULT_TIMEOUT, Order, check_order, command_for, digest_of, stored_template
from relayd.hub.store.errors import NotFound, StoreBusy
from relayd.hub.store.ids import new_id
from relayd.hub.store.invocations import Due, due, get_invocation
from relayd.hub.store.output import NewChunk
from relayd.hub.store.runs import Run, get_run, open_runs
from relayd.hub.store.store import Store as HubStore
from relayd.language.texts import Text, printable
from relayd.wire.messages import CommandOutput, CommandResult, CommandState, CommandStatus, ExecuteCommand

_log = Logger("relayd.hub")

#: Seconds between two looks at deadlines, and between two at runs that should be here and are not.
SWEEP: Final = 1.0
RECONCILE: Final = 60.0
#: Invocations that one sweep ends.
_SWEPT: Final = 1000


class EngineSettings(Struct, frozen=True, kw_only=True):
    """
    How long the engine waits, in seconds.

    :ivar grace: for what a connected relay says after a command's timeout.
    :ivar away: after that, for a relay that is not connected and may have run it.
    :ivar resend: after an order was sent, in which it may be sent again.
    :ivar reconnect: after a start, for relays to come back, also for runs that are sent at once or never.
    :ivar longest: what was not sent by then ends as ``expired``.
    """

    grace: float = 60.0
    away: float = 86400.0
    resend: float = 60.0
    reconnect: float = 60.0
    longest: float = 30 * 86400.0


class Engine:
    """
    The runs of a hub.  More than 25 methods, as it is what persons order and what relays tell.

    :param reactor: with a clock that nobody sets (`relayd.process.hardening.use_steady_clock`): deadlines go by it.
    :param now: the time of day when the engine is made, in microseconds since 1970, UTC.
    :ivar links: the relays; set before `start`.
    """

    links: RelayLinks

    def __init__(
        self,
        reactor: IReactorTime,
        store: HubStore,
        inventory: Inventory,
        sealing: Sealing,
        now: Callable[[], int],
        settings: EngineSettings | None = None,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._inventory = inventory
        self._sealing = sealing
        self._now = _steady(reactor, now())
        self._settings = settings or EngineSettings()
        self._changes = Changes(reactor, store, inventory, self._progress, self._tell)
        self._places: Places[str] = Places()
        self._online: dict[str, str] = {}
        self._since: dict[str, int] = {}
        self._links: dict[str, RelayLink] = {}
        self._runs: dict[str, OpenRun] = {}
        self._slots: dict[str, tuple[OpenRun, int]] = {}
        #: Runs that are stored, or being stored, and not here yet.
        self._coming: set[str] = set()
        self._watchers: dict[str, dict[object, Callable[[], None]]] = {}
        self._timers: list[IDelayedCall] = []

    # The beginning and the end

    async def start(self) -> None:
        """Go on with all runs that have not ended; before relays are accepted."""
        await self._reconcile()
        self._timers = [
            self._reactor.callLater(SWEEP, self._sweep),
            self._reactor.callLater(RECONCILE, self._look_for_lost),
        ]

    async def stop(self) -> None:
        """Store what waits, and do nothing more."""
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._timers.clear()
        await self._changes.stop()

    # What persons do

    def create(
        self, order: Order, created_by: str, *, key: str | None = None, allowed: Allowed = None
    ) -> Deferred[Run]:
        """
        Order a run.

        :param created_by: ``user:NAME`` or ``token:NAME``.
        :param key: the same order with the same key is one run.
        :param allowed: says whether that person may order runs on a host.
        :return: fires once it is stored; fails with `RunError`, or a `StoreError` such as `Conflict` for a key that
            another order has used.
        """

        async def make() -> Run:
            checked = check_order(order)
            request = Request(created_by=created_by, key=key, digest=digest_of(order), allowed=allowed)
            return await self._place(place_order, checked, request, checked.template)

        return _detached(make())

    def rerun(
        self, run_id: str, which: Rerun, created_by: str, *, key: str | None = None, allowed: Allowed = None
    ) -> Deferred[Run]:
        """Order invocations of a run that has ended once more; as `create`."""

        async def make() -> Run:
            former = await self._store.read(get_run, run_id)
            digest = f"rerun {run_id} {which}".encode()
            request = Request(created_by=created_by, key=key, digest=digest, allowed=allowed)
            template = stored_template(former.command, None)
            return await self._place(place_rerun, run_id, which, request, template)

        return _detached(make())

    def dry_run(self, order: Order, *, allowed: Allowed = None) -> Deferred[list[Planned]]:
        """
        What an order would do; nothing is ordered.

        :return: fires with one for each host; fails with `RunError`.
        """
        try:
            checked = check_order(order)
        except RunError:
            return fail()
        return plan_run(self._store, self._inventory, self.links, self._online, checked, allowed, self._now())

    def pause(self, run_id: str) -> Deferred[None]:
        """Send nothing new; fires when that is stored, fails with `NotNow` or `NotFound`."""
        return self._control(run_id, RunMachine.pause)

    def resume(self, run_id: str) -> Deferred[None]:
        """Go on; as `pause`."""
        return self._control(run_id, RunMachine.resume)

    def cancel(self, run_id: str) -> Deferred[None]:
        """Send nothing new, and have relays end what is under way; as `pause`."""
        return self._control(run_id, RunMachine.cancel)

    def cancel_invocation(self, invocation_id: str) -> Deferred[None]:
        """Have one invocation end; as `pause`."""
        entry = self._slots.get(invocation_id)
        if entry is None or entry[0].machine.slots[entry[1]] in ENDS:
            return self._store.read(get_invocation, invocation_id).addCallback(
                lambda known: _not_now(Text("invocation"), known.id, str(known.state))
            )
        run, slot = entry
        self._do(run, run.machine.cancel_one(slot, self._now()))
        return self._changes.when_stored(run.id)

    def watch(self, run_id: str, changed: Callable[[], None]) -> Callable[[], None]:
        """
        Have a function called each time that changes of a run are stored.

        :return: ends that.
        """
        mark = object()
        self._watchers.setdefault(run_id, {})[mark] = changed

        def end() -> None:
            watchers = self._watchers.get(run_id, {})
            watchers.pop(mark, None)
            if not watchers:
                self._watchers.pop(run_id, None)

        return end

    @property
    def open(self) -> Mapping[str, OpenRun]:
        """The runs that have not ended, by id."""
        return self._runs

    # What relays tell (`relayd.hub.links.links.LinkObserver`)

    def relay_connected(self, link: RelayLink) -> None:
        """A relay can be sent commands, or says late what it is."""
        name = link.proxy_id
        if self._links.get(name) not in (None, link):
            self._offline(name)
        self._links[name] = link
        self._online[name] = link.program.journal_id
        self._since.setdefault(name, self._now())
        for run in list(self._runs.values()):
            self._do(run, run.machine.relay_online(name, self._now()))

    def relay_lost(self, link: RelayLink) -> None:
        """A link is gone."""
        if self._links.get(link.proxy_id) is link:
            self._offline(link.proxy_id)

    def accepted(self, proxy_id: str, command_id: str) -> None:
        """A relay has a command."""
        if (entry := self._entry(proxy_id, command_id)) is not None:
            run, slot = entry
            self._do(run, run.machine.accepted(slot, self._now()))

    def refused(self, proxy_id: str, command_id: str, error: str) -> None:
        """A relay acknowledges a command with an error."""
        if (entry := self._entry(proxy_id, command_id)) is not None:
            run, slot = entry
            words = Text("The relay {relay} answered: {words}", relay=proxy_id, words=printable(error, 500))
            self._do(run, run.machine.refused(slot, self._now(), words))

    def output(self, proxy_id: str, output: CommandOutput) -> None:
        """A piece of the output of a running command."""
        entry = self._entry(proxy_id, output.command_id)
        if entry is None:
            return
        run, slot = entry
        if run.machine.slots[slot] not in UNDER_WAY:
            return
        self._do(run, run.machine.accepted(slot, self._now()))
        outputs = run.outputs_of(slot)
        piece = outputs.came(output)
        if piece is None:
            return
        if self._changes.bytes_waiting > MOST_LIVE:
            outputs.dropped(piece)
            return
        chunk = NewChunk(output.command_id, run.id, piece.sequence, piece.stream, piece.offset, piece.data)
        self._changes.chunk(chunk)

    def result(self, proxy_id: str, result: CommandResult) -> Deferred[Any] | None:
        """A command has ended; fires once that is stored."""
        if self._changes.bytes_waiting > MOST_RESULTS:
            return fail(StoreBusy(waiting=self._changes.bytes_waiting))
        entry = self._slots.get(result.command_id)
        if entry is None:
            return self._store.run(record_late, proxy_id, result).addCallback(self._was_late, proxy_id, result)
        run, slot = entry
        if run.relays[slot] != proxy_id:
            _say_foreign(proxy_id, result.command_id)
            return None
        run.result = result
        self._do(run, run.machine.result(slot, end_of(result), self._now()))
        run.result = None
        return self._changes.when_stored(run.id, result.command_id)

    # Ours: effects

    def _do(self, run: OpenRun, effects: Effects, login: Login | Text | None = None) -> None:
        """
        Do what a run's machine decided.

        :param login: for what is written for the first time.
        """
        run.do(effects)
        while run.to_send or run.to_write or run.to_ask:
            self._carry_out(run, login)
        if run.over and not run.leaving:
            run.leaving = True
            self._changes.after(partial(self._forget, run))
        for where, waiting in self._places.take_freed():
            for name in waiting:
                if (other := self._runs.get(name)) is not None:
                    self._do(other, other.machine.freed(where, self._now()))

    def _carry_out(self, run: OpenRun, login: Login | Text | None) -> None:
        to_send, run.to_send = run.to_send, []
        for store in to_send:
            self._changes.login(run.snapshots[store.slot], partial(self._is_stored, run, store))
        to_write, run.to_write = run.to_write, []
        for write in to_write:
            if login is not None and not write.again:
                self._write(run, write, login)
            else:
                found = self._store.read(self._inventory.logins, [run.snapshots[write.slot]])
                found.addCallbacks(partial(self._write_again, run, write), partial(self._no_login, run, write))
        to_ask, run.to_ask = run.to_ask, []
        for ask in to_ask:
            self._ask(run, ask)

    def _is_stored(self, run: OpenRun, store: Store, login: Login | Text) -> None:
        self._do(run, run.machine.stored(store.slot, store.number, self._now()), login)

    def _write_again(self, run: OpenRun, write: Write, logins: Sequence[Login | Text]) -> None:
        if run.machine.wants(write.slot):
            self._write(run, write, logins[0])
        else:
            self._do(run, run.machine.not_written(write.slot, self._now()))

    def _no_login(self, run: OpenRun, write: Write, failure: Failure) -> None:
        _log.error("A command is not sent again, as its login cannot be read: {error}", error=str(failure.value))
        self._do(run, run.machine.not_written(write.slot, self._now()))

    def _write(self, run: OpenRun, write: Write, login: Login | Text) -> None:
        command_id = run.ids[write.slot]
        why: Text | None = None
        try:
            if isinstance(login, Text):
                why = login
            elif run.template is None:
                why = Text("What is secret of the order cannot be opened: its key is missing.")
            elif self.links.send(write.relay, command_for(run.template, command_id, login)):
                return
        except Exception as error:
            _log.failure("Command {id} cannot be written", id=command_id)
            why = Text("The order cannot be written ({error}).", error=type(error).__name__)
        if why is None:
            self._offline(write.relay)
        self._do(run, run.machine.not_written(write.slot, self._now(), why))

    def _ask(self, run: OpenRun, ask: Ask | AskCancel) -> None:
        question = self.links.cancel if isinstance(ask, AskCancel) else self.links.status
        answer: Deferred[Any] = question(ask.relay, run.ids[ask.slot])

        def answered(status: CommandStatus | None) -> None:
            if status is not None and isinstance(status.state, CommandState):
                self._do(run, run.machine.status(ask.slot, status.state, self._now()))

        def failed(failure: Failure) -> None:
            _log.info(
                "Relay {relay} did not say how far {id} is: {error}",
                relay=ask.relay,
                id=run.ids[ask.slot],
                error=str(failure.value),
            )

        answer.addCallbacks(answered, failed)
        answer.addErrback(lambda failure: _log.failure("An answer could not be taken in", failure=failure))

    def _offline(self, name: str) -> None:
        if self._links.pop(name, None) is None:
            return
        del self._online[name], self._since[name]
        for run in list(self._runs.values()):
            self._do(run, run.machine.relay_offline(name, self._now()))

    def _entry(self, proxy_id: str, command_id: str) -> tuple[OpenRun, int] | None:
        """The invocation that a relay speaks of, if it was sent to that relay."""
        entry = self._slots.get(command_id)
        if entry is None or entry[0].relays[entry[1]] != proxy_id:
            return None
        return entry

    def _was_late(self, late: Late, proxy_id: str, result: CommandResult) -> None:
        if not late.known:
            _say_foreign(proxy_id, result.command_id)
        elif late.former is not None and late.end is not None:
            say_late(result.command_id, proxy_id, late.former, late.end)
            self._tell(late.run_id)

    # Ours: runs

    async def _place(self, place: Callable[..., Placed], what: Any, *rest: Any) -> Run:
        *arguments, template = rest
        room = MAX_SIZE - len(self._slots)
        if room <= 0:
            raise TooManyOpen(open=len(self._slots), most=MAX_SIZE)
        now = self._now()
        run_id = new_id(now)
        times = {"now": now, "over_at": now + round(self._settings.longest * SECOND)}
        before = (self._inventory, self._sealing) if place is place_order else (self._inventory,)
        self._coming.add(run_id)
        try:
            placed = await self._store.run(place, *before, run_id, what, *arguments, times, room)
            if placed.members is not None:
                members = placed.members
                run = self._open(placed.run, template, placed.aims, [each.id for each in members],
                                 [each.host for each in members], times["over_at"], placed.run.created_at)  # fmt: skip
                self._do(run, run.machine.start(self._now()))
        finally:
            self._coming.discard(run_id)
        return placed.run

    def _open(
        self,
        run: Run,
        template: ExecuteCommand | None,
        aims: Sequence[Aim],
        ids: Sequence[str],
        snapshots: Sequence[str],
        over_at: int,
        wait_until: int,
        loaded: Loaded | None = None,
    ) -> OpenRun:
        seconds = float(run.command.get("timeout", DEFAULT_TIMEOUT))
        settings = self._settings
        plan = Plan(
            run=run.id,
            aims=aims,
            rollout=Rollout.from_builtins(run.rollout),
            budget=Budget.from_builtins(run.rollout),
            patience=Patience(
                timeout=round(seconds * SECOND),
                grace=round(settings.grace * SECOND),
                away=round(settings.away * SECOND),
                resend=round(settings.resend * SECOND),
            ),
            now_or_never=run.deliver_until is None,
            wait_until=max(run.deliver_until or 0, wait_until),
            over_at=over_at,
        )
        states = None if loaded is None else [member.state for member in loaded.members]
        machine = RunMachine(plan, self._online, self._since, self._places, run.state, states)
        relays = [None] * len(ids) if loaded is None else [member.relay for member in loaded.members]
        opened = OpenRun(run, template, ids, snapshots, list(relays), machine, self._changes, self._now)
        self._runs[run.id] = opened
        for slot, invocation_id in enumerate(ids):
            self._slots[invocation_id] = (opened, slot)
        return opened

    def _go_on(self, loaded: Loaded) -> None:
        """Go on with a run that another process of the hub began."""
        run, members, now = loaded.run, loaded.members, self._now()
        over_at = run.created_at + round(self._settings.longest * SECOND)
        aims = [Aim(member.host_id, self._inventory.relays_of(member.host)) for member in members]
        opened = self._open(
            run, self._template_of(loaded), aims, [member.id for member in members],
            [member.host for member in members], over_at, now + round(self._settings.reconnect * SECOND), loaded,
        )  # fmt: skip
        sent = {
            slot: Sent(
                relay=member.relay or "",
                journal=member.journal_id or "",
                sent_at=member.sent_at or now,
                accepted_at=member.accepted_at,
                cancelled=member.cancel_asked_at is not None,
            )
            for slot, member in enumerate(members)
            if member.state in UNDER_WAY
        }
        for slot in sent:
            opened.resumed(slot)
        ever = sum(member.sent_at is not None for member in members)
        with_result = [slot for slot, member in enumerate(members) if member.with_result]
        self._do(opened, opened.machine.go_on(now, sent, ever, with_result))

    def _template_of(self, loaded: Loaded) -> ExecuteCommand | None:
        try:
            secret = None
            if loaded.sealed is not None:
                secret = self._sealing.open(loaded.sealed, context_of(loaded.run.id)).reveal()
            return stored_template(loaded.run.command, secret)
        except Exception as error:
            _log.error("The order of run {id} cannot be read: {error}", id=loaded.run.id, error=type(error).__name__)
            return None

    def _control(self, run_id: str, event: Callable[[RunMachine, int], Effects]) -> Deferred[None]:
        run = self._runs.get(run_id)
        if run is None:
            return self._store.read(get_run, run_id).addCallback(
                lambda known: _not_now(Text("run"), known.id, str(known.state))
            )
        try:
            effects = event(run.machine, self._now())
        except ValueError:
            return fail(NotNow(what=Text("run"), name=run_id, state=str(run.machine.state)))
        self._do(run, effects)
        return self._changes.when_stored(run_id)

    def _progress(self, run_id: str, change: int) -> Progress:
        return self._runs[run_id].progress(change)

    def _tell(self, run_id: str) -> None:
        for changed in list(self._watchers.get(run_id, {}).values()):
            changed()

    def _forget(self, run: OpenRun) -> None:
        if self._changes.is_waiting(run.id):
            self._changes.after(partial(self._forget, run))
            return
        if self._runs.pop(run.id, None) is not None:
            for invocation_id in run.ids:
                self._slots.pop(invocation_id, None)
            self._places.forget(run.id)

    # Ours: time

    def _sweep(self) -> None:
        def swept(found: list[Due]) -> None:
            for each in found:
                run = self._runs.get(each.run_id)
                if run is not None:
                    self._do(run, run.machine.due(each.position, self._now()))

        self._every(0, SWEEP, self._sweep, self._store.read(due, self._now(), _SWEPT).addCallback(swept))

    def _look_for_lost(self) -> None:
        self._every(1, RECONCILE, self._look_for_lost, Deferred.fromCoroutine(self._reconcile()))

    def _every(self, timer: int, pause: float, function: Callable[[], None], done: Deferred[Any]) -> None:
        """Call a function again some time after it is done."""

        def again(_: object) -> None:
            if self._timers:
                self._timers[timer] = self._reactor.callLater(pause, function)

        done.addErrback(lambda failure: _log.error("Runs cannot be looked after: {error}", error=str(failure.value)))
        done.addCallback(again)

    async def _reconcile(self) -> None:
        """Load the runs that have not ended and are not here: all of them, when the hub starts."""
        for run in await self._store.read(open_runs):
            if run.id not in self._runs and run.id not in self._coming:
                try:
                    loaded = await self._store.read(load_run, run)
                except NotFound:
                    continue
                if run.id not in self._runs and run.id not in self._coming:
                    self._go_on(loaded)


def _steady(reactor: IReactorTime, begun: int) -> Callable[[], int]:
    """The time of day that does not jump: a clock that is set must not end what is under way."""
    since = reactor.seconds()
    return lambda: begun + round((reactor.seconds() - since) * SECOND)


def _not_now(what: Text, name: str, state: str) -> None:
    raise NotNow(what=what, name=name, state=state)


def _say_foreign(proxy_id: str, command_id: str) -> None:
    _log.warn(
        "Relay {relay} sent a result for {id}, which it was not sent; it changes nothing",
        relay=printable(proxy_id, 200),
        id=printable(command_id, 256),
    )


def _detached(coroutine: Any) -> Deferred[Any]:
    """Of a coroutine that goes on to its end also if nobody waits any more: what it stores, it also takes up."""
    waiting: Deferred[Any] = Deferred()
    Deferred.fromCoroutine(coroutine).addBoth(waiting.callback)
    return waiting
