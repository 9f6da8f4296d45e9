"""
What tests of the hub's runs share: an inventory in memory, relays that do what a test says, and an engine on a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater

from relayd.hub.runs.engine import Engine, EngineSettings
from relayd.hub.runs.interfaces import InventoryHost, Login
from relayd.hub.runs.orders import Order
from relayd.hub.store.invocations import Invocation, list_invocations
from relayd.hub.store.runs import Run, get_run
from relayd.hub.store.store import Store
from relayd.language.texts import Text
from relayd.wire.messages import (
    CommandResult,
    CommandState,
    CommandStatus,
    Details,
    ExecuteCommand,
    Secret,
)

#: When tests begin, in microseconds since 1970.
BEGIN = 1_800_000_000_000_000


class MemoryInventory:
    """
    Hosts in memory.

    :ivar reasons: why there is no login, by a host's name.
    """

    def __init__(self) -> None:
        self._hosts: list[InventoryHost] = []
        self.reasons: dict[str, Text] = {}

    def add(self, name: str, *relays: str, **labels: str) -> None:
        snapshot = msgspec.json.encode({"name": name, "relays": relays}).decode()
        self._hosts.append(InventoryHost(id=f"id-{name}", name=name, labels=labels, relays=relays, snapshot=snapshot))

    def remove(self, name: str) -> None:
        self._hosts = [host for host in self._hosts if host.name != name]

    def hosts(self, connection: Connection) -> Sequence[InventoryHost]:
        return self._hosts

    def logins(self, connection: Connection, snapshots: Sequence[str]) -> Sequence[Login | Text]:
        names = [msgspec.json.decode(snapshot)["name"] for snapshot in snapshots]
        return [
            self.reasons.get(name) or Login(host=name, port=22, username="root", password=Secret("swordfish"))
            for name in names
        ]

    def relays_of(self, snapshot: str) -> tuple[str, ...]:
        return tuple(msgspec.json.decode(snapshot)["relays"])


class NoSealing:
    """Seals nothing, but notes for what: `relayd.hub.inventory.sealing` has tests of its own."""

    class Content:
        def __init__(self, content: bytes) -> None:
            self._content = content

        def reveal(self) -> bytes:
            return self._content

    def seal(self, content: bytes, context: str) -> bytes:
        return context.encode() + b"|" + content[::-1]

    def open(self, sealed: bytes, context: str) -> Content:
        found, _, content = sealed.partition(b"|")
        if found != context.encode():
            raise ValueError("sealed for something else")
        return self.Content(content[::-1])


class Program:
    def __init__(self, journal_id: str) -> None:
        self.journal_id = journal_id


class Link:
    """A link of a relay; an empty journal: another program than relayd."""

    def __init__(self, proxy_id: str, journal_id: str = "journal") -> None:
        self.proxy_id = proxy_id
        self.program = Program(journal_id)


class MemoryLinks:
    """
    Relays that note what they are sent.

    :ivar sent: each command that was written, with its relay.
    :ivar asked: each question, with its relay and ``commandId``.
    :ivar states: what relays answer, by ``commandId``; otherwise they do not know the command.
    :ivar deaf: relays that are gone, and of which the engine has not heard yet.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[str, ExecuteCommand]] = []
        self.asked: list[tuple[str, str, str]] = []
        self.states: dict[str, CommandState] = {}
        self.deaf: set[str] = set()

    def send(self, proxy_id: str, command: ExecuteCommand) -> bool:
        if proxy_id in self.deaf:
            return False
        self.sent.append((proxy_id, command))
        return True

    def cancel(self, proxy_id: str, command_id: str) -> Deferred[CommandStatus | None]:
        return self._answer("cancel", proxy_id, command_id)

    def status(self, proxy_id: str, command_id: str) -> Deferred[CommandStatus]:
        return self._answer("status", proxy_id, command_id)

    def check(self, proxy_id: str, command: ExecuteCommand) -> Deferred[Any]:
        raise NotImplementedError

    def _answer(self, what: str, proxy_id: str, command_id: str) -> Deferred[Any]:
        self.asked.append((what, proxy_id, command_id))
        state = self.states.get(command_id, CommandState.UNKNOWN)
        return succeed(CommandStatus(command_id=command_id, state=state))


def result_of(
    command_id: str, exit_code: int = 0, stdout: str = "", error: dict[str, Any] | None = None
) -> CommandResult:
    """A result as relayd sends it."""
    details = Details(error=error, stdout_bytes=len(stdout.encode(errors="replace")))
    return CommandResult(
        command_id=command_id, stdout=stdout, stderr="", exit_code=exit_code, details=details, extended=True
    )


class EngineCase:
    """
    An engine on a store, with a clock of its own.

    :param store: an open one.
    """

    def __init__(self, store: Store, settings: EngineSettings | None = None) -> None:
        self.store = store
        self.settings = settings
        self.clock = Clock()
        #: Microseconds by which somebody has set the clock of the machine.
        self.set_ahead = 0
        self.inventory = MemoryInventory()
        self.links = MemoryLinks()
        self.engine = self.new_engine()

    def now(self) -> int:
        return BEGIN + self.set_ahead + round(self.clock.seconds() * 1e6)

    def new_engine(self) -> Engine:
        engine = Engine(self.clock, self.store, self.inventory, NoSealing(), self.now, self.settings)
        engine.links = self.links
        return engine

    async def restart(self) -> None:
        """As after ``kill -9``: what the old one had in memory is gone; of its transactions none is under way."""
        await self.settle()
        self.clock = Clock()
        self.clock.advance(self.engine._now() / 1e6 - BEGIN / 1e6)
        self.engine = self.new_engine()
        await self.engine.start()
        await self.settle()

    async def settle(self) -> None:
        """Until all is stored, and what follows from that is done."""
        from twisted.internet import reactor

        idle = 0
        while idle < 3:
            self.clock.advance(0)
            await deferLater(reactor, 0.002, lambda: None)  # the store's threads
            readers = self.store._readers
            reads = len(readers._idle) < len(readers._workers)
            idle = 0 if self.engine._changes._busy or self.store._writer._busy or reads else idle + 1

    async def wait(self, seconds: float) -> None:
        """Time passes, in steps that the sweeper sees."""
        self.clock.advance(seconds)
        for _ in range(3):
            await self.settle()
            self.clock.advance(1)
        await self.settle()

    async def order(self, selector: str = "all", key: str | None = None, **fields: Any) -> Run:
        fields.setdefault("command", "uptime")
        waiting = self.engine.create(Order(selector=selector, **fields), "user:ann", key=key)
        await self.settle()
        return await waiting

    async def connect(self, name: str, journal: str = "journal") -> Link:
        link = Link(name, journal)
        self.links.deaf.discard(name)
        self.engine.relay_connected(link)
        await self.settle()
        return link

    async def lose(self, link: Link) -> None:
        self.engine.relay_lost(link)
        await self.settle()

    async def give(self, relay: str, result: CommandResult) -> None:
        """A relay brings a result, and gets its receipt."""
        stored = self.engine.result(relay, result)
        await self.settle()
        if stored is not None:
            await stored

    async def run(self, run_id: str) -> Run:
        return await self.store.read(get_run, run_id)

    async def invocations(self, run_id: str) -> list[Invocation]:
        return (await self.store.read(list_invocations, run_id)).items

    async def states(self, run_id: str) -> list[str]:
        return [str(each.state) for each in await self.invocations(run_id)]

    def ids(self) -> list[str]:
        """The ids of the commands that were written, in order."""
        return [command.command_id for _, command in self.links.sent]
